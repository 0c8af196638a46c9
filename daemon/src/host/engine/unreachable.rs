//! Tells askers of published UDP ports that their guest has nobody there: only a raw socket can say that for one of many.
//!
//! Without the right to have one (`CAP_NET_RAW`) they hear nothing, as before. Bounds: [`RATE`] errors a second, as Linux itself
//! has it (`net.ipv4.icmp_msgs_per_sec`), one for each datagram at most; it never waits.

use super::{SessionId, Worker, session::End};
use nitrotap_core::{
    gateway::{limits::TokenBucket, port_unreachable},
    time::Instant,
};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};
use std::{net::SocketAddr, os::fd::OwnedFd};

/// Errors per second and at once.
const RATE: (u64, u64) = (1000, 50);

/// The sockets, which only send.
#[derive(Debug)]
pub(super) struct Unreachables {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
    rate: TokenBucket,
}

impl Unreachables {
    /// Nobody need have the right.
    pub(super) fn open() -> Self {
        let raw = |family| {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            socket_with(family, SocketType::RAW, flags, Some(ipproto::RAW)).ok()
        };
        Self { v4: raw(AddressFamily::INET), v6: raw(AddressFamily::INET6), rate: TokenBucket::new(RATE.0, RATE.1) }
    }

    /// True if it was sent.
    fn tell(&mut self, now: Instant, asked: SocketAddr, asker: SocketAddr) -> bool {
        let Some(packet) = port_unreachable(asked, asker) else { return false };
        let to = asker.ip().to_canonical();
        let Some(fd) = (if to.is_ipv4() { &self.v4 } else { &self.v6 }) else { return false };
        // A link-local address is nothing without its interface.
        let scope = if let SocketAddr::V6(asker) = asker { asker.scope_id() } else { 0 };
        let mut to = SocketAddr::new(to, 0);
        if let SocketAddr::V6(to) = &mut to {
            to.set_scope_id(scope);
        }
        self.rate.take(now, 1) && sendto(fd, &packet, SendFlags::NOSIGNAL, &to).is_ok()
    }
}

impl Worker {
    /// The guest of a session says that nobody is there.
    pub(super) fn session_refused(&mut self, now: Instant, session: SessionId) {
        let Some(&End::Published(forward, client)) = self.end_of(session) else { return };
        let Some(local) = self.forwards.address(forward) else { return };
        let ip = client.asked.unwrap_or_else(|| local.ip());
        if ip.is_unspecified() {
            return;
        }
        let told = self.unreachables.tell(now, (ip, local.port()).into(), client.address);
        self.counters.askers_refused += u64::from(told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::ErrorKind, net::UdpSocket, time::Duration};

    #[test]
    fn an_asker_hears_that_nobody_is_there() {
        let mut unreachables = Unreachables::open();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (Ok(port), Ok(asker)) = (UdpSocket::bind(address), UdpSocket::bind(address)) else { continue };
            let may = if address.starts_with('[') { &unreachables.v6 } else { &unreachables.v4 };
            if may.is_none() {
                continue;
            }
            asker.connect(port.local_addr().unwrap()).unwrap();
            asker.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            asker.send(b"anybody").unwrap();
            assert!(unreachables.tell(Instant::ZERO, port.local_addr().unwrap(), asker.local_addr().unwrap()));
            let heard = asker.recv(&mut [0; 9]).unwrap_err();
            assert_eq!(heard.kind(), ErrorKind::ConnectionRefused, "{address}");
        }
        let left = (0..1000).filter(|_| unreachables.rate.take(Instant::ZERO, 1)).count() as u64;
        assert!(left <= RATE.1);
    }
}
