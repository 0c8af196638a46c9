//! Whole packets, for which only a raw socket will do, and the right to have one (`CAP_NET_RAW`).

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};
use std::{net::SocketAddr, os::fd::OwnedFd};

/// The sockets, which only send.
#[derive(Debug)]
pub(super) struct RawSockets {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
}

impl RawSockets {
    /// Nobody need have the right.
    pub(super) fn open() -> Self {
        let raw = |family| {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            socket_with(family, SocketType::RAW, flags, Some(ipproto::RAW)).ok()
        };
        Self { v4: raw(AddressFamily::INET), v6: raw(AddressFamily::INET6) }
    }

    /// Whether there is one for this family.
    pub(super) const fn has(&self, ipv6: bool) -> bool {
        if ipv6 { self.v6.is_some() } else { self.v4.is_some() }
    }

    /// True if it was sent.
    pub(super) fn send(&self, packet: &[u8], to: SocketAddr) -> bool {
        let fd = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        fd.as_ref().is_some_and(|fd| sendto(fd, packet, SendFlags::NOSIGNAL, &to).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nitrotap_core::gateway::port_unreachable;
    use std::{io::ErrorKind, net::UdpSocket, time::Duration};

    #[test]
    fn an_asker_hears_that_nobody_is_there() {
        let raw = RawSockets::open();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (Ok(port), Ok(asker)) = (UdpSocket::bind(address), UdpSocket::bind(address)) else { continue };
            if !raw.has(address.starts_with('[')) {
                continue;
            }
            asker.connect(port.local_addr().unwrap()).unwrap();
            asker.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            asker.send(b"anybody").unwrap();
            let from = asker.local_addr().unwrap();
            let packet = port_unreachable(port.local_addr().unwrap(), from).unwrap();
            assert!(raw.send(&packet, (from.ip(), 0).into()));
            let heard = asker.recv(&mut [0; 9]).unwrap_err();
            assert_eq!(heard.kind(), ErrorKind::ConnectionRefused, "{address}");
        }
    }
}
