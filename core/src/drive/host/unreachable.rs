//! Tells askers of published UDP ports that their guest has nobody there: only a whole packet can say that for one of many.
//!
//! Without the right to send such (`CAP_NET_RAW`) they hear nothing. Bounds: [`RATE`] errors a second, as Linux itself has it
//! (`net.ipv4.icmp_msgs_per_sec`), one for each datagram at most; it never waits.

use super::{Host, World, session::End};
use crate::{
    gateway::{SessionId, limits::TokenBucket, port_unreachable},
    time::Instant,
};
use core::net::SocketAddr;

/// Errors per second and at once.
const RATE: (u64, u64) = (1000, 50);

/// What all askers together are told.
pub(super) fn rate() -> TokenBucket {
    TokenBucket::new(RATE.0, RATE.1)
}

impl<W: World> Host<W> {
    /// The guest of a session says that nobody is there.
    pub(super) fn session_refused(&mut self, now: Instant, session: SessionId) {
        let Some(&End::Published(forward, client)) = self.end_of(session) else { return };
        let Some(local) = self.forwards.address(forward) else { return };
        let ip = client.asked.unwrap_or_else(|| local.ip());
        if ip.is_unspecified() {
            return;
        }
        let told = self.tell_asker(now, (ip, local.port()).into(), client.address);
        self.counters.askers_refused += u64::from(told);
    }

    /// True if it was sent.
    fn tell_asker(&mut self, now: Instant, asked: SocketAddr, asker: SocketAddr) -> bool {
        let Some(packet) = port_unreachable(asked, asker) else { return false };
        let to = asker.ip().to_canonical();
        // A link-local address is nothing without its interface.
        let scope = if let SocketAddr::V6(asker) = asker { asker.scope_id() } else { 0 };
        let mut to = SocketAddr::new(to, 0);
        if let SocketAddr::V6(to) = &mut to {
            to.set_scope_id(scope);
        }
        self.world.may_send_packets(to.is_ipv6()) && self.refusals.take(now, 1) && self.world.send_packet(&packet, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_askers_is_told_a_few_times_at_once() {
        let mut rate = rate();
        let told = (0..1000).filter(|_| rate.take(Instant::ZERO, 1)).count() as u64;
        assert!(told > 0 && told <= RATE.1, "{told}");
    }
}
