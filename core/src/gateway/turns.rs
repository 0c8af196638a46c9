//! Whose turn it is: how much of the data thread's time each tenant gets before others are seen to.
//!
//! Owns: what waits for its tenant's next turn, and what each tenant has used of this one. Driven by: the data thread, which
//! counts what it does. Drain: [`Turns::begin`] at the beginning of each turn of the loop, then [`Turns::next`] until `None`.
//! Bounds: a turn's work is [`TURN`] and what each tenant does beyond its share at its last step; each source waits once.
//!
//! Work is counted and not measured: a frame is one unit (some 0.4 us), and what costs more than a frame costs as many units as it takes
//! frames' time. So a guest that sends what is cheap for it and dear for us, such as datagrams from ever new ports, which cost
//! a socket each, has fewer frames looked at and slows down nobody but itself. What a tenant used beyond its share it has less
//! of in the next turn (M. Shreedhar and G. Varghese, "Efficient fair queuing using deficit round robin", 1995).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Units of work in one turn of the loop, for all tenants together: some half a millisecond. A guest's TCP moves at most a
/// window per turn, so that long turns cost throughput, and not only time.
pub const TURN: u64 = 1024;
/// The least that a tenant gets of it, however many there are.
pub const LEAST: u64 = 64;

/// A frame that is looked at.
pub const FRAME: u64 = 1;
/// A system call that moves a datagram.
pub const DATAGRAM: u64 = 6;
/// A question for the name server.
pub const QUESTION: u64 = 16;
/// A connection or a session that begins, or ends: the system calls for its socket.
pub const OPENING: u64 = 96;
/// A connection that is accepted, or answered by the world: its buffers.
pub const ACCEPT: u64 = 160;
/// A look at a connection's two ends.
pub const LOOK: u64 = 8;
/// A link that begins, or ends: the system calls for its stream, its buffers, and what the tables have of it.
pub const LINK: u64 = 128;
/// Bytes of a connection that are moved by the work of one unit.
pub const BYTES: u64 = 1024;
/// Bytes of frames that are read, or written, by the work of one unit.
pub const STREAM: u64 = 4096;

#[derive(Debug)]
struct Share<S> {
    spent: u64,
    waiting: VecDeque<S>,
    /// Those of `waiting` that are this turn's.
    left: usize,
}

/// See the module. `S` is what can be looked at: a link, a connection.
#[derive(Debug)]
pub struct Turns<S> {
    tenants: BTreeMap<u32, Share<S>>,
    /// All that waits.
    known: BTreeSet<S>,
    /// What each tenant may use of this turn.
    share: u64,
    /// The next tenant to be asked; `None` at the end of the round.
    next: Option<u32>,
    spent: u64,
    most: u64,
}

impl<S: Copy + Ord> Default for Turns<S> {
    fn default() -> Self {
        Self { tenants: BTreeMap::new(), known: BTreeSet::new(), share: TURN, next: None, spent: 0, most: 0 }
    }
}

impl<S: Copy + Ord> Turns<S> {
    /// A turn begins.
    pub fn begin(&mut self) {
        let share = self.share;
        self.tenants.retain(|_, tenant| {
            tenant.spent = tenant.spent.saturating_sub(share);
            tenant.left = tenant.waiting.len();
            tenant.left > 0 || tenant.spent > 0
        });
        let busy = self.tenants.values().filter(|tenant| tenant.left > 0).count() as u64;
        self.share = (TURN / busy.max(1)).max(LEAST);
        self.next = Some(0);
        self.spent = 0;
    }

    /// What waited before this turn and may be looked at in it, tenant by tenant, in the order in which it came.
    #[expect(clippy::should_implement_trait, reason = "what it gives may wait again, so it is no iterator")]
    pub fn next(&mut self) -> Option<S> {
        let share = self.share;
        loop {
            let (&tenant, found) = self.tenants.range_mut(self.next?..).next()?;
            if found.left > 0 && found.spent < share {
                self.next = Some(tenant);
                found.left -= 1;
                let source = found.waiting.pop_front()?;
                self.known.remove(&source);
                return Some(source);
            }
            self.next = tenant.checked_add(1);
        }
    }

    /// Work that a tenant may still cause in this turn; 0 if others are to be seen to first.
    #[must_use]
    pub fn left(&self, tenant: u32) -> u64 {
        self.share.saturating_sub(self.tenants.get(&tenant).map_or(0, |tenant| tenant.spent))
    }

    /// A tenant has caused so much work.
    pub fn spend(&mut self, tenant: u32, work: u64) {
        self.of(tenant).spent += work;
        self.spent += work;
        self.most = self.most.max(self.spent);
    }

    /// Something is to be looked at in its tenant's next turn; once, however often this is said.
    pub fn wait(&mut self, tenant: u32, source: S) {
        if self.known.insert(source) {
            self.of(tenant).waiting.push_back(source);
        }
    }

    /// How much waits.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.tenants.values().map(|tenant| tenant.waiting.len()).sum()
    }

    /// How many different things wait.
    #[must_use]
    pub fn sources(&self) -> usize {
        self.known.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.known.is_empty()
    }

    /// Work of this turn so far.
    #[must_use]
    pub const fn spent(&self) -> u64 {
        self.spent
    }

    /// The most work that a turn ever was.
    #[must_use]
    pub const fn most(&self) -> u64 {
        self.most
    }

    fn of(&mut self, tenant: u32) -> &mut Share<S> {
        self.tenants.entry(tenant).or_insert_with(|| Share { spent: 0, waiting: VecDeque::new(), left: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    type Source = (u32, u32);

    /// A turn in which each source that is looked at causes `work`, and has more if it says so; what was looked at.
    fn turn(turns: &mut Turns<Source>, work: impl Fn(Source) -> (u64, bool)) -> Vec<Source> {
        turns.begin();
        let mut seen = Vec::new();
        while let Some(source) = turns.next() {
            seen.push(source);
            let (work, more) = work(source);
            turns.spend(source.0, work);
            if more {
                turns.wait(source.0, source);
            }
        }
        seen
    }

    #[test]
    fn a_tenant_that_has_used_its_share_waits_and_others_do_not() {
        let mut turns = Turns::default();
        turns.begin();
        turns.spend(1, TURN);
        assert_eq!((turns.left(1), turns.left(2)), (0, TURN));
        for source in [(1, 1), (1, 2), (1, 3), (1, 2)] {
            turns.wait(1, source);
        }
        turns.wait(2, (2, 1));
        // Each source of tenant 1 takes all that it has; they take turns, and the one of tenant 2 never waits for them.
        let seen: Vec<_> =
            (0..6).map(|_| turn(&mut turns, |source| (if source.0 == 1 { TURN / 2 } else { 1 }, true))).collect();
        let of_one: Vec<_> = seen.iter().flatten().filter(|source| source.0 == 1).map(|source| source.1).collect();
        assert_eq!(of_one, [1, 2, 3, 1, 2, 3]);
        assert!(seen.iter().all(|turn| turn.contains(&(2, 1)) && turn.len() == 2));
        assert!(!turns.is_idle());
    }

    #[test]
    fn what_was_used_too_much_is_missing_in_the_next_turns() {
        let mut turns = Turns::default();
        turns.wait(1, (1, 1));
        assert_eq!(turn(&mut turns, |_| (3 * TURN, true)).len(), 1);
        assert_eq!(turn(&mut turns, |_| (1, true)).len(), 0);
        assert_eq!(turn(&mut turns, |_| (1, true)).len(), 0);
        assert_eq!(turn(&mut turns, |_| (1, false)).len(), 1);
        assert!(turns.is_idle());
        assert_eq!(turns.most(), 3 * TURN);
        turn(&mut turns, |_| (0, false));
        turn(&mut turns, |_| (0, false));
        assert!(turns.tenants.is_empty(), "who has nothing to do is forgotten");
    }

    quickcheck! {
        /// Over many turns everybody who always has work gets as much as any other, whatever a step of it costs; and no turn
        /// is longer than it may be, by more than the last step of each.
        fn who_always_has_work_gets_an_even_share(prices: Vec<u8>) -> bool {
            let prices: Vec<u64> = prices.into_iter().take(20).map(|price| u64::from(price) + 1).collect();
            let mut turns = Turns::default();
            for (tenant, _) in prices.iter().enumerate() {
                for source in 0..=4096 {
                    turns.wait(tenant as u32, (tenant as u32, source));
                }
            }
            let mut got = vec![0_u64; prices.len()];
            for _ in 0..20 {
                for (tenant, _) in turn(&mut turns, |(tenant, _)| (prices[tenant as usize], true)) {
                    got[tenant as usize] += prices[tenant as usize];
                }
            }
            let spread = got.iter().max().unwrap_or(&0) - got.iter().min().unwrap_or(&0);
            spread <= 2 * 256 && turns.most() <= TURN.max(LEAST * prices.len() as u64) + 256 * prices.len() as u64
        }
    }
}
