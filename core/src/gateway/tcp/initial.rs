//! Initial sequence numbers (RFC 6528): a clock of 4 us, and for each pair of ends its own offset, which nobody guesses.
//!
//! Owns: the key. Driven by: connections that begin.
//! A guest that has closed first remembers a connection for a minute and takes a new one between the same ends only with a
//! higher number (RFC 9293 section 3.6.1, RFC 6191): a clock gives one, chance only every other time.

use super::FlowKey;
use crate::time::Instant;
#[expect(
    deprecated,
    reason = "SipHash 2-4 with a key, and the same in every release, which `DefaultHasher` does not promise"
)]
use core::hash::SipHasher;
use core::hash::{Hash, Hasher};

/// What the clock counts (RFC 6528 section 3).
const TICK_NANOS: u64 = 4_000;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Initial {
    key: (u64, u64),
}

impl Initial {
    pub(super) const fn new(key: (u64, u64)) -> Self {
        Self { key }
    }

    /// The number of a connection that begins now.
    pub(super) fn number(&self, now: Instant, key: &FlowKey) -> u32 {
        self.hash(&(key.guest, key.remote)).wrapping_add((now.as_nanos() / TICK_NANOS) as u32)
    }

    /// A number below 2^32 that says nothing about that of any other value.
    pub(super) fn hash(&self, value: &impl Hash) -> u32 {
        #[expect(deprecated, reason = "as above")]
        let mut hasher = SipHasher::new_with_keys(self.key.0, self.key.1);
        value.hash(&mut hasher);
        hasher.finish() as u32
    }
}

/// Multiplier and increment of smoltcp's random numbers (PCG with 64 bits of state), and the multiplier's inverse.
const MULTIPLIER: u64 = 0xbb2e_fcec_3c39_611d;
const INCREMENT: u64 = 0x7590_ef39;
const INVERSE: u64 = inverse(MULTIPLIER);

/// The state before `state`.
const fn before(state: u64) -> u64 {
    state.wrapping_sub(INCREMENT).wrapping_mul(INVERSE)
}

/// What is drawn on reaching a state.
const fn drawn(state: u64) -> u32 {
    (state >> (29 - (state >> 61))) as u32
}

/// Newton's iteration doubles the bits that are right; an odd number is its own inverse in the lowest three.
const fn inverse(odd: u64) -> u64 {
    let (mut inverse, mut n) = (odd, 0);
    while n < 5 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)));
        n += 1;
    }
    inverse
}

/// The seed of an interface whose first socket begins with `number`.
///
/// smoltcp 0.14 asks nobody for this number: it draws it, after one for IPv4 identifications, which is not 0. Both are
/// outputs of a generator that runs backwards as well. A test of `flow` sees it if another version draws in another way.
pub(super) const fn seed(number: u32) -> u64 {
    let mut low = 0;
    loop {
        let last = (number as u64) << 29 | low;
        let first = before(last);
        let identification = drawn(first);
        if (identification ^ (identification >> 16)) as u16 != 0 {
            return before(first);
        }
        low += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    fn key(port: u16) -> FlowKey {
        FlowKey { tenant: 0, guest: ([10, 0, 0, 2].into(), 80), remote: ([10, 0, 0, 1].into(), port) }
    }

    quickcheck! {
        fn the_same_ends_get_a_higher_number_later(port: u16, start: u32, wait: u32) -> bool {
            let initial = Initial::new((1, 2));
            let at = |us: u64| Instant::from_nanos(us * 1000);
            // Within half of the number space, which the clock takes two hours for.
            let (first, wait) = (u64::from(start), 4 + u64::from(wait));
            let later = initial.number(at(first + wait), &key(port)).wrapping_sub(initial.number(at(first), &key(port)));
            (1..1 << 31).contains(&later) && u64::from(later).abs_diff(wait / 4) <= 1
        }

        fn a_seed_leads_to_its_number(number: u32) -> bool {
            let next = |state: u64| state.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
            drawn(next(next(seed(number)))) == number
        }
    }

    #[test]
    fn the_number_of_other_ends_and_of_another_gateway_is_another() {
        let (one, other) = (Initial::new((1, 2)), Initial::new((1, 3)));
        let number = one.number(Instant::ZERO, &key(1));
        assert_ne!(number, one.number(Instant::ZERO, &key(2)));
        assert_ne!(number, other.number(Instant::ZERO, &key(1)));
        let tenant = FlowKey { tenant: 9, ..key(1) };
        assert_eq!(number, one.number(Instant::ZERO, &tenant), "a guest that is found late keeps its number");
    }
}
