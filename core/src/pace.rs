//! How long one side of a transfer is waited for: sans-IO, one [`Pace`] for each side and direction.
//!
//! A side that is waited for runs up a debt of time; its bytes pay it off, one second for each [`Patience::min_rate`] of
//! them. So a side that is silent is given up after [`Patience::timeout`], and one that sends a byte now and then is too,
//! while one that moves at the lowest rate or faster never is, in whatever bursts. Time in which the other side is waited
//! for costs nothing.
//!
//! Driven by the proxy's housekeeper, which looks at every transfer about once a second, and by tests.

use crate::time::Instant;
use core::time::Duration;

/// What one side is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Longest debt.
    pub timeout: Duration,
    /// Bytes that pay off a second. 0: any byte pays off everything.
    pub min_rate: u64,
}

/// How one side has kept up so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// When it was last looked at, and the bytes it had moved until then.
    last: Option<(Instant, u64)>,
    debt: Duration,
    silence: Duration,
}

impl Pace {
    /// Looks at a side that has moved `moved` bytes until `now`, and has been `waited` for since the last look or not.
    /// The first look only remembers.
    pub fn look(&mut self, now: Instant, moved: u64, waited: bool, min_rate: u64) {
        let Some((since, before)) = self.last.replace((now, moved)) else { return };
        let new = moved.wrapping_sub(before);
        if new > 0 {
            self.silence = Duration::ZERO;
        }
        if waited {
            let elapsed = now.since(since);
            self.debt += elapsed;
            if new == 0 {
                self.silence += elapsed;
            }
        }
        let paid = match (new, min_rate) {
            (0, _) => Duration::ZERO,
            (_, 0) => Duration::MAX,
            // In microseconds, because bytes in nanoseconds overflow after 18 GB.
            (new, rate) => Duration::from_micros(new.saturating_mul(1_000_000) / rate),
        };
        self.debt = self.debt.saturating_sub(paid);
    }

    /// Time waited for that no byte has paid off.
    #[must_use]
    pub const fn debt(&self) -> Duration {
        self.debt
    }

    /// Time waited for since the last byte.
    #[must_use]
    pub const fn silence(&self) -> Duration {
        self.silence
    }

    /// Whether the side is given up.
    #[must_use]
    pub fn is_overdue(&self, patience: &Patience) -> bool {
        self.debt >= patience.timeout
    }
}

/// A transfer that holds what a waiting request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder<T> {
    /// Which one.
    pub who: T,
    /// Whether the client is waited for, and not the upstream.
    pub client: bool,
    /// That side's [`Pace::debt`].
    pub debt: Duration,
}

/// Whom to end so that `needed` waiting requests get their turn: of those whose debt is `least` or more, slow clients
/// before slow answers, the slowest first; nobody who keeps up.
pub fn victims<T>(holders: impl Iterator<Item = Holder<T>>, needed: usize, least: Duration) -> Vec<T> {
    let mut slow: Vec<Holder<T>> = holders.filter(|holder| holder.debt >= least && !least.is_zero()).collect();
    slow.sort_by_key(|holder| (!holder.client, core::cmp::Reverse(holder.debt)));
    slow.truncate(needed);
    slow.into_iter().map(|holder| holder.who).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { timeout: Duration::from_secs(30), min_rate: 256 };

    /// Seconds until a side that moves what `bytes` says in each second is given up, if within ten minutes.
    fn patience_for(bytes: impl Fn(u64) -> u64, waited: impl Fn(u64) -> bool, patience: Patience) -> Option<u64> {
        let (mut pace, mut moved) = (Pace::default(), 0);
        (0..600).find(|&second| {
            moved += bytes(second);
            pace.look(Instant::from_millis(second * 1000), moved, waited(second), patience.min_rate);
            pace.is_overdue(&patience)
        })
    }

    #[test]
    fn silence_is_given_up_after_the_timeout_and_a_byte_now_and_then_is_no_progress() {
        assert_eq!(patience_for(|_| 0, |_| true, PATIENCE), Some(30));
        assert_eq!(patience_for(|s| u64::from(s % 9 == 0), |_| true, PATIENCE), Some(31));
        // Half the rate: twice the time.
        assert_eq!(patience_for(|_| 128, |_| true, PATIENCE), Some(60));
    }

    #[test]
    fn whoever_keeps_the_lowest_rate_is_never_given_up_in_whatever_bursts() {
        assert_eq!(patience_for(|_| 256, |_| true, PATIENCE), None);
        assert_eq!(patience_for(|s| if s % 29 == 0 { 29 * 256 } else { 0 }, |_| true, PATIENCE), None);
        assert_eq!(patience_for(|s| if s % 31 == 30 { 31 * 256 } else { 0 }, |_| true, PATIENCE), Some(60));
    }

    #[test]
    fn a_burst_is_no_credit_for_later() {
        assert_eq!(patience_for(|s| if s == 5 { 1 << 40 } else { 0 }, |_| true, PATIENCE), Some(35));
    }

    #[test]
    fn time_that_the_other_side_takes_is_free() {
        assert_eq!(patience_for(|_| 0, |_| false, PATIENCE), None);
        assert_eq!(patience_for(|_| 0, |s| s % 2 == 0, PATIENCE), Some(60));
    }

    #[test]
    fn without_a_lowest_rate_any_byte_counts() {
        let any = Patience { min_rate: 0, ..PATIENCE };
        assert_eq!(patience_for(|s| u64::from(s % 29 == 0), |_| true, any), None);
        assert_eq!(patience_for(|s| u64::from(s % 40 == 0), |_| true, any), Some(30));
    }

    #[test]
    fn silence_is_told_apart_from_slowness() {
        let mut pace = Pace::default();
        for second in 0..20 {
            pace.look(Instant::from_millis(second * 1000), second / 10, true, 256);
        }
        assert!(pace.silence() == Duration::from_secs(9) && pace.debt() > Duration::from_secs(18));
    }

    #[test]
    fn the_slowest_clients_go_first_and_nobody_who_keeps_up() {
        let holder = |who, client, debt| Holder { who, client, debt: Duration::from_secs(debt) };
        let all = [holder('a', true, 4), holder('b', false, 60), holder('c', true, 9), holder('d', true, 2)];
        let least = Duration::from_secs(3);
        assert_eq!(victims(all.into_iter(), 2, least), ['c', 'a']);
        assert_eq!(victims(all.into_iter(), 9, least), ['c', 'a', 'b']);
        assert!(victims(all.into_iter(), 0, least).is_empty());
    }
}
