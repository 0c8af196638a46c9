//! Reassembly of IPv4 fragments: its bounds whatever comes, and what it gives against what it was given.

use nitrotap_core::{
    gateway::fragments::{MAX_DATAGRAMS, Reassembler, TIMEOUT},
    time::Instant,
};
use std::time::Duration;

/// A script of steps: a byte that says the tenant (2 bits) and how much later it is (6 bits, in units of a quarter of the
/// time that a datagram has, cubed), a byte for the length of the packet, then the packet.
pub fn ipv4_reassembly(data: &[u8]) {
    let mut reassembler = Reassembler::new();
    let mut now = Instant::ZERO;
    let mut rest = data;
    while let [step, len, tail @ ..] = rest {
        let (packet, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = tail;
        let wait = u32::from(step >> 2).saturating_sub(60);
        now = now + TIMEOUT / 4 * wait.pow(3) + Duration::from_millis(1);
        if let Some(whole) = reassembler.handle(now, u32::from(step & 3), packet) {
            let total = usize::from(u16::from_be_bytes([whole[2], whole[3]]));
            assert_eq!(whole.len(), total, "the length is right");
            assert_eq!(whole[0] >> 4, 4);
            assert_eq!([whole[6] & 0x3f, whole[7]], [0, 0], "no fragment comes out");
        }
        let counters = reassembler.counters();
        assert!(counters.waiting <= MAX_DATAGRAMS as u64);
        assert!(
            counters.invalid + counters.repeated + counters.given_up + 2 * counters.reassembled <= counters.fragments,
            "{counters:?}"
        );
        assert!(reassembler.poll_timeout().is_none_or(|at| now < at && at <= now + TIMEOUT));
    }
}
