//! Connections that are over but whose last acknowledgement may have to be repeated (RFC 9293 section 3.6.1).
//!
//! Owns: two sequence numbers per connection. Driven by: the flow table.
//! Bounds: [`MAX`] connections of [`DURATION`] each; one more displaces the oldest, whose peer would then see a reset if
//! its last segment was lost.

use super::{EXPIRIES, FlowKey};
use crate::time::Instant;
use core::time::Duration;
use foldhash::fast::FixedState;
use std::collections::{HashMap, VecDeque};

/// Connections remembered.
pub(crate) const MAX: usize = 16_384;

/// How long: twice the longest life of a segment on a link that is one stream within one machine.
pub(crate) const DURATION: Duration = Duration::from_secs(10);

/// What is known of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Last {
    /// Our next sequence number.
    pub(crate) sequence: u32,
    /// The peer's next one.
    pub(crate) acknowledgement: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct TimeWait {
    last: HashMap<FlowKey, (Last, Instant), FixedState>,
    order: VecDeque<(Instant, FlowKey)>,
}

impl TimeWait {
    pub(crate) fn new(seed: u64) -> Self {
        Self { last: HashMap::with_hasher(FixedState::with_seed(seed)), order: VecDeque::new() }
    }

    pub(crate) fn insert(&mut self, now: Instant, key: FlowKey, last: Last) {
        self.expire(now);
        while self.order.len() >= MAX {
            self.forget_oldest();
        }
        let until = now + DURATION;
        self.last.insert(key, (last, until));
        self.order.push_back((until, key));
    }

    pub(crate) fn get(&self, now: Instant, key: &FlowKey) -> Option<Last> {
        self.last.get(key).filter(|(_, until)| *until > now).map(|(last, _)| *last)
    }

    /// A new connection between the two takes its place (RFC 6191).
    pub(crate) fn remove(&mut self, key: &FlowKey) {
        self.last.remove(key);
    }

    /// Forgets what is too old, a part of it if that is much.
    pub(crate) fn expire(&mut self, now: Instant) {
        for _ in 0..EXPIRIES {
            if self.order.front().is_none_or(|(until, _)| *until > now) {
                break;
            }
            self.forget_oldest();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.last.len()
    }

    fn forget_oldest(&mut self) {
        if let Some((until, key)) = self.order.pop_front()
            && self.last.get(&key).is_some_and(|(_, current)| *current == until)
        {
            self.last.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> FlowKey {
        FlowKey { tenant: 0, guest: ([1, 1, 1, 1].into(), port), remote: ([2, 2, 2, 2].into(), 80) }
    }

    #[test]
    fn it_is_remembered_for_its_time() {
        let mut waiting = TimeWait::new(1);
        let last = Last { sequence: 7, acknowledgement: 8 };
        waiting.insert(Instant::ZERO, key(1), last);
        assert_eq!(waiting.get(Instant::from_millis(9_999), &key(1)), Some(last));
        assert_eq!(waiting.get(Instant::from_millis(10_000), &key(1)), None);
        waiting.expire(Instant::from_millis(10_000));
        assert_eq!(waiting.len(), 0);
    }

    #[test]
    fn a_crowd_displaces_the_oldest_and_reuse_does_not_shorten_a_later_one() {
        let mut waiting = TimeWait::new(1);
        let last = |n| Last { sequence: n, acknowledgement: n };
        waiting.insert(Instant::ZERO, key(1), last(1));
        waiting.remove(&key(1));
        waiting.insert(Instant::from_millis(5_000), key(1), last(2));
        assert_eq!(waiting.get(Instant::from_millis(12_000), &key(1)), Some(last(2)));
        waiting.expire(Instant::from_millis(12_000));
        assert_eq!(waiting.len(), 1);
        for port in 2..60_000 {
            waiting.insert(Instant::from_millis(6_000), key(port), last(3));
        }
        assert!(waiting.len() <= MAX && waiting.order.len() <= MAX);
        assert_eq!(waiting.get(Instant::from_millis(6_001), &key(1)), None);
    }
}
