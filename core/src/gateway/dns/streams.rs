//! Streams of questions (DNS over TCP), and who has to give one up.
//!
//! Owns: whose each stream is, and when it was last heard of. Driven by: whoever accepts streams and reads them.
//! Drain: nothing. Bounds: [`StreamLimits`]; a tenant that has all of its own loses the one that is silent the longest, and when
//! there are too many in all, so does the tenant that has the most.

use crate::time::Instant;
use std::collections::BTreeMap;

/// How many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Of one tenant.
    pub per_tenant: usize,
    /// Of all.
    pub total: usize,
}

/// One stream; no other one ever has this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(u64);

/// There is no room, and nobody who has more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are too many streams of questions")]
pub struct NoRoom;

/// See the module.
#[derive(Debug)]
pub struct Streams {
    limits: StreamLimits,
    streams: BTreeMap<StreamId, Stream>,
    counts: BTreeMap<u32, usize>,
    next: u64,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    tenant: u32,
    heard: Instant,
}

impl Streams {
    /// Without a stream.
    #[must_use]
    pub const fn new(limits: StreamLimits) -> Self {
        Self { limits, streams: BTreeMap::new(), counts: BTreeMap::new(), next: 0 }
    }

    /// Streams now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// A tenant opens one: its number, and the one that is closed for it.
    ///
    /// # Errors
    /// [`NoRoom`] if there are too many and nobody has more of them than the tenant would have.
    pub fn open(&mut self, now: Instant, tenant: u32) -> Result<(StreamId, Option<StreamId>), NoRoom> {
        let own = self.counts.get(&tenant).copied().unwrap_or(0);
        let victim = if own >= self.limits.per_tenant {
            Some(tenant)
        } else if self.streams.len() >= self.limits.total {
            let (most, count) = self.counts.iter().max_by_key(|(_, count)| **count).ok_or(NoRoom)?;
            match *count {
                count if count > own + 1 => Some(*most),
                // One more would make it the one that has the most.
                _ if own > 0 => Some(tenant),
                _ => return Err(NoRoom),
            }
        } else {
            None
        };
        let closed = match victim {
            None => None,
            Some(victim) => {
                let of_victim = self.streams.iter().filter(|(_, stream)| stream.tenant == victim);
                let id = of_victim.min_by_key(|(_, stream)| stream.heard).map(|(id, _)| *id).ok_or(NoRoom)?;
                self.close(id);
                Some(id)
            }
        };
        let id = StreamId(self.next);
        self.next += 1;
        self.streams.insert(id, Stream { tenant, heard: now });
        *self.counts.entry(tenant).or_insert(0) += 1;
        Ok((id, closed))
    }

    /// A question came on it, or an answer was taken.
    pub fn heard(&mut self, now: Instant, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.heard = now;
        }
    }

    /// It has ended; nothing happens if it was closed for another one.
    pub fn close(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        if let Some(count) = self.counts.get_mut(&stream.tenant) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&stream.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    const LIMITS: StreamLimits = StreamLimits { per_tenant: 4, total: 6 };

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn a_tenant_pays_with_the_stream_that_is_silent_the_longest() {
        let mut streams = Streams::new(LIMITS);
        let ids: Vec<_> = (0..4).map(|n| streams.open(at(n), 1).unwrap().0).collect();
        streams.heard(at(10), ids[0]);
        let (new, closed) = streams.open(at(11), 1).unwrap();
        assert_eq!(closed, Some(ids[1]));
        // Its end, which comes later, changes nothing.
        streams.close(ids[1]);
        assert_eq!(streams.len(), 4);
        streams.close(new);
        assert_eq!(streams.open(at(12), 1).unwrap().1, None);
    }

    #[test]
    fn one_tenant_never_keeps_another_from_its_stream() {
        let mut streams = Streams::new(LIMITS);
        for n in 0..100 {
            streams.open(at(n), 1).unwrap();
        }
        let closed: Vec<_> = (2..5).map(|tenant| streams.open(at(200), tenant).unwrap().1).collect();
        assert_eq!((closed[0], closed[1], closed[2].is_some()), (None, None, true), "the one with the most pays");
        // All have about as much: nobody loses to somebody who would have more.
        let mut streams = Streams::new(LIMITS);
        for tenant in 0..6 {
            streams.open(at(0), tenant).unwrap();
        }
        assert_eq!(streams.open(at(1), 9), Err(NoRoom));
        assert!(streams.open(at(1), 3).unwrap().1.is_some(), "it pays itself");
    }

    quickcheck! {
        fn bounds_hold_and_a_victim_never_has_less_than_who_comes(script: Vec<(u8, bool)>) -> bool {
            let mut streams = Streams::new(LIMITS);
            let mut open: BTreeMap<StreamId, u32> = BTreeMap::new();
            for (n, (tenant, comes)) in script.into_iter().enumerate() {
                let tenant = u32::from(tenant % 8);
                let count = |open: &BTreeMap<StreamId, u32>, who| open.values().filter(|tenant| **tenant == who).count();
                if comes {
                    let before = open.clone();
                    if let Ok((id, closed)) = streams.open(at(n as u64), tenant) {
                        if let Some(victim) = closed.and_then(|closed| open.remove(&closed))
                            && victim != tenant
                            && count(&before, victim) < count(&before, tenant) + 2
                        {
                            return false;
                        }
                        open.insert(id, tenant);
                    }
                } else if let Some(id) = open.keys().nth(usize::try_from(tenant).unwrap_or(0)).copied() {
                    open.remove(&id);
                    streams.close(id);
                }
                if streams.len() != open.len() || open.len() > 6 || (0..8).any(|who| count(&open, who) > 4) {
                    return false;
                }
            }
            true
        }
    }
}
