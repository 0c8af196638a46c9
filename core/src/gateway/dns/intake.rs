//! Questions that wait to be looked at: each tenant has a line of its own, and the lines take turns.
//!
//! Owns: the lines, and how fast each tenant may ask. Driven by: whoever receives questions ([`Intake::push`]) and the name
//! server's task ([`Intake::pop`]). Drain: arm a timer from [`Intake::poll_timeout`] while [`Intake::pop`] gives nothing.
//! Bounds: [`IntakeLimits`]. When all lines together are full, the longest one loses its last question, which may be the new one;
//! lines without questions are forgotten beyond [`LINES`].

use crate::{gateway::limits::TokenBucket, time::Instant};
use core::ops::Bound;
use std::collections::{BTreeMap, VecDeque};

/// Tenants that are remembered although they ask nothing.
const LINES: usize = 256;

/// How much may wait, and how fast it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntakeLimits {
    /// Questions of one tenant that may wait.
    pub waiting: usize,
    /// Questions of all that may wait.
    pub waiting_total: usize,
    /// Questions of one tenant that are taken in a second; as many may come at once.
    pub rate: u32,
}

/// A question that was not kept, and whose it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shed<T> {
    /// The tenant.
    pub tenant: u32,
    /// The question.
    pub item: T,
}

/// See the module.
#[derive(Debug)]
pub struct Intake<T> {
    limits: IntakeLimits,
    lines: BTreeMap<u32, Line<T>>,
    waiting: usize,
    /// Whose turn it was last.
    last: u32,
}

#[derive(Debug)]
struct Line<T> {
    items: VecDeque<T>,
    bucket: TokenBucket,
}

impl<T> Intake<T> {
    /// Without a question.
    #[must_use]
    pub const fn new(limits: IntakeLimits) -> Self {
        Self { limits, lines: BTreeMap::new(), waiting: 0, last: 0 }
    }

    /// Questions that wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.waiting
    }

    /// Whether none waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// A tenant asks.
    ///
    /// # Errors
    /// [`Shed`] is the question that has no room: this one, or the last one of the longest line.
    pub fn push(&mut self, tenant: u32, item: T) -> Result<(), Shed<T>> {
        if self.lines.len() >= LINES && !self.lines.contains_key(&tenant) {
            self.lines.retain(|_, line| !line.items.is_empty());
        }
        let IntakeLimits { waiting, waiting_total, rate } = self.limits;
        let line = || Line { items: VecDeque::new(), bucket: TokenBucket::new(rate.into(), rate.into()) };
        let line = self.lines.entry(tenant).or_insert_with(line);
        if line.items.len() >= waiting {
            return Err(Shed { tenant, item });
        }
        line.items.push_back(item);
        self.waiting += 1;
        if self.waiting <= waiting_total {
            return Ok(());
        }
        let own = self.lines.get(&tenant).map_or(0, |line| line.items.len());
        let longest = self.lines.iter().max_by_key(|(_, line)| line.items.len());
        // Of lines that are equally long, the one that grows pays.
        let victim = longest.filter(|(_, line)| line.items.len() > own).map_or(tenant, |(tenant, _)| *tenant);
        let shed = self.lines.get_mut(&victim).and_then(|line| line.items.pop_back());
        self.waiting -= usize::from(shed.is_some());
        shed.map_or(Ok(()), |item| Err(Shed { tenant: victim, item }))
    }

    /// The next question of the tenant whose turn it is, and who may ask now.
    pub fn pop(&mut self, now: Instant) -> Option<(u32, T)> {
        if self.waiting == 0 {
            return None;
        }
        let after = self.lines.range((Bound::Excluded(self.last), Bound::Unbounded)).map(|(tenant, _)| *tenant);
        let before = self.lines.range(..=self.last).map(|(tenant, _)| *tenant);
        let turns: Vec<u32> = after.chain(before).collect();
        for tenant in turns {
            let Some(line) = self.lines.get_mut(&tenant).filter(|line| !line.items.is_empty()) else { continue };
            if line.bucket.take(now, 1)
                && let Some(item) = line.items.pop_front()
            {
                self.waiting -= 1;
                self.last = tenant;
                return Some((tenant, item));
            }
        }
        None
    }

    /// When a question that waits may be taken; it may be now.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.lines.values().filter(|line| !line.items.is_empty()).filter_map(|line| line.bucket.ready_at(1)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    const LIMITS: IntakeLimits = IntakeLimits { waiting: 8, waiting_total: 20, rate: 10 };

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn a_tenant_that_floods_waits_for_itself_alone() {
        let mut intake = Intake::new(LIMITS);
        for n in 0..100 {
            assert_eq!(intake.push(1, n).is_ok(), n < 8);
        }
        intake.push(2, 1000).unwrap();
        let first: Vec<_> = (0..2).filter_map(|_| intake.pop(at(0))).map(|(tenant, _)| tenant).collect();
        assert!(first.contains(&2), "{first:?}");
    }

    #[test]
    fn lines_take_turns() {
        let mut intake = Intake::new(LIMITS);
        for n in 0..4 {
            for tenant in [7, 0, u32::MAX] {
                intake.push(tenant, n).unwrap();
            }
        }
        let order: Vec<_> = std::iter::from_fn(|| intake.pop(at(0))).map(|(tenant, n)| (n, tenant)).collect();
        let mut sorted = order.clone();
        sorted.sort_by_key(|(n, _)| *n);
        assert_eq!(order, sorted, "nobody is asked twice before all were asked once");
    }

    #[test]
    fn a_tenant_above_its_rate_is_taken_later_and_holds_up_nobody() {
        let mut intake = Intake::new(LIMITS);
        let mut taken = 0;
        for n in 0..8 {
            intake.push(1, n).unwrap();
        }
        while intake.pop(at(0)).is_some() {
            taken += 1;
            let _ = intake.push(1, 0);
        }
        assert_eq!(taken, 10, "what may come at once");
        assert_eq!(intake.poll_timeout(), Some(at(100)));
        intake.push(2, 0).unwrap();
        assert_eq!(intake.pop(at(0)), Some((2, 0)));
        assert_eq!(intake.pop(at(99)), None);
        assert!(intake.pop(at(100)).is_some());
    }

    #[test]
    fn when_all_is_full_the_longest_line_pays() {
        let mut intake = Intake::new(LIMITS);
        for (tenant, count) in [(1, 8), (2, 6), (3, 6)] {
            (0..count).for_each(|n| intake.push(tenant, n).unwrap());
        }
        assert_eq!(intake.push(4, 0), Err(Shed { tenant: 1, item: 7 }));
        assert_eq!(intake.push(1, 9), Err(Shed { tenant: 1, item: 9 }), "it is the longest again");
        assert_eq!(intake.len(), 20);
    }

    quickcheck! {
        /// Whatever happens, no bound is passed, nothing is lost but what is told, and lines keep their order.
        fn nothing_is_lost_but_what_is_told(script: Vec<(u8, bool)>) -> bool {
            let mut intake = Intake::new(LIMITS);
            let mut expected: BTreeMap<u32, VecDeque<usize>> = BTreeMap::new();
            for (n, (tenant, push)) in script.into_iter().enumerate() {
                let tenant = u32::from(tenant % 5);
                if push {
                    expected.entry(tenant).or_default().push_back(n);
                    if let Err(Shed { tenant, item }) = intake.push(tenant, n)
                        && expected.get_mut(&tenant).and_then(VecDeque::pop_back) != Some(item)
                    {
                        return false;
                    }
                } else if let Some((tenant, item)) = intake.pop(at(n as u64 * 50))
                    && expected.get_mut(&tenant).and_then(VecDeque::pop_front) != Some(item)
                {
                    return false;
                }
                let all = expected.values().map(VecDeque::len);
                if intake.len() != all.clone().sum::<usize>() || intake.len() > 20 || all.max() > Some(8) {
                    return false;
                }
            }
            true
        }
    }

    #[test]
    fn tenants_that_ask_nothing_are_forgotten() {
        let mut intake = Intake::new(LIMITS);
        for tenant in 0..100_000 {
            intake.push(tenant, ()).unwrap();
            assert!(intake.pop(at(u64::from(tenant))).is_some());
            assert!(intake.lines.len() <= LINES);
        }
    }
}
