//! Messages that others can cause: a few at once, then one per second and kind, with a count of those left out.
//!
//! A kind is a place in our code, and whoever causes it: nobody can hide what another one does. Bounds: [`KINDS`]; the one
//! that was silent the longest makes room.

use nitrotap_core::{gateway::limits::TokenBucket, time::Instant};
use std::collections::BTreeMap;

/// Kinds that are remembered.
const KINDS: usize = 256;
/// Messages of one kind at once, as of a link that comes and goes.
const BURST: u64 = 5;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    kinds: BTreeMap<(&'static str, u64), Seen>,
}

#[derive(Debug)]
struct Seen {
    bucket: TokenBucket,
    left_out: u64,
    last: Instant,
}

impl Seldom {
    /// Whether to log a message of kind `what` that `who` causes now: with how many were left out since the last one.
    pub(super) fn admit(&mut self, now: Instant, what: &'static str, who: u64) -> Option<u64> {
        if self.kinds.len() >= KINDS
            && !self.kinds.contains_key(&(what, who))
            && let Some(key) = self.kinds.iter().min_by_key(|(_, seen)| seen.last).map(|(key, _)| *key)
        {
            self.kinds.remove(&key);
        }
        let fresh = || Seen { bucket: TokenBucket::new(1, BURST), left_out: 0, last: now };
        let seen = self.kinds.entry((what, who)).or_insert_with(fresh);
        seen.last = now;
        if seen.bucket.take(now, 1) {
            return Some(std::mem::take(&mut seen.left_out));
        }
        seen.left_out += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn a_flood_of_one_kind_becomes_one_message_a_second_and_hides_no_other() {
        let mut seldom = Seldom::default();
        let told: Vec<_> = (0..10_000).filter_map(|n| seldom.admit(at(n), "up", 1)).collect();
        assert_eq!(told.len(), 5 + 9);
        assert_eq!(told.iter().sum::<u64>() + told.len() as u64, 9001, "all but those since the last are told of");
        assert_eq!(seldom.admit(at(9999), "up", 2), Some(0));
        assert_eq!(seldom.admit(at(9999), "down", 1), Some(0));
    }

    #[test]
    fn kinds_are_bounded_and_the_most_silent_is_forgotten() {
        let mut seldom = Seldom::default();
        for n in 0..5 {
            assert_eq!(seldom.admit(at(n), "up", 0), Some(0));
        }
        for who in 1..10_000 {
            // It stays, because it is heard of.
            assert_eq!(seldom.admit(at(10), "up", who), Some(0));
            assert_eq!(seldom.admit(at(11), "up", 0), None);
            assert!(seldom.kinds.len() <= KINDS);
        }
    }
}
