//! Deadlines that move often and expire rarely.
//!
//! Owns: one deadline per thing, of those that have any. Driven by: flows, sessions.
//! Every packet moves a connection's deadline further away. Such a move is not written down: the old deadline stays, and
//! when it comes, the owner looks again. So a packet costs nothing here, however many things there are.

use super::arena::Id;
use crate::time::Instant;
use std::collections::BTreeSet;

/// Things whose time has come that are looked at in one go; the others are due at once.
pub(crate) const EXPIRIES: usize = 256;

/// When something is looked at again; kept with the thing itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scheduled(Option<Instant>);

impl Scheduled {
    /// Not at all.
    pub(crate) const NEVER: Self = Self(None);
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Timers(BTreeSet<(Instant, Id)>);

impl Timers {
    /// Looks at `id` at `at` or earlier.
    pub(crate) fn schedule(&mut self, scheduled: &mut Scheduled, id: Id, at: Instant) {
        if let Some(old) = scheduled.0 {
            if old <= at {
                return;
            }
            self.0.remove(&(old, id));
        }
        scheduled.0 = Some(at);
        self.0.insert((at, id));
    }

    /// Looks at `id` no more.
    pub(crate) fn cancel(&mut self, scheduled: &mut Scheduled, id: Id) {
        if let Some(at) = scheduled.0.take() {
            self.0.remove(&(at, id));
        }
    }

    /// Something whose time has come; its owner clears what it kept with [`Scheduled::default`].
    pub(crate) fn expired(&mut self, now: Instant) -> Option<Id> {
        let first = *self.0.first()?;
        (first.0 <= now).then(|| {
            self.0.remove(&first);
            first.1
        })
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_deadlines_are_not_written_down_and_earlier_ones_replace() {
        let (mut timers, mut scheduled) = (Timers::default(), Scheduled::default());
        let id = Id::from_u64(1);
        let at = Instant::from_millis;
        timers.schedule(&mut scheduled, id, at(5));
        timers.schedule(&mut scheduled, id, at(9));
        assert_eq!((timers.next(), timers.0.len()), (Some(at(5)), 1));
        timers.schedule(&mut scheduled, id, at(3));
        assert_eq!((timers.next(), timers.0.len()), (Some(at(3)), 1));
        assert_eq!(timers.expired(at(2)), None);
        assert_eq!(timers.expired(at(3)), Some(id));
        assert_eq!(timers.next(), None);
        scheduled = Scheduled::default();
        timers.schedule(&mut scheduled, id, at(9));
        timers.cancel(&mut scheduled, id);
        assert_eq!(timers.next(), None);
    }
}
