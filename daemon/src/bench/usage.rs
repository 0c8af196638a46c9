//! Processor time, from `/proc` (`proc_pid_stat(5)`, `proc_stat(5)`).

use std::fs;

/// Seconds that a process has used, with all its threads; `None` once it is gone.
pub(crate) fn seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticked = ticks(&stat)? as f64 / rustix::param::clock_ticks_per_second() as f64;
    // Ticks count threads that have ended, too; a tick is 10 ms, though, and the other count has nanoseconds.
    Some(ticked.max(running_nanoseconds(pid).unwrap_or(0) as f64 / 1e9))
}

/// Of the threads that are there (kernel `Documentation/scheduler/sched-stats.rst`: first field); `None` where the kernel
/// does not tell.
fn running_nanoseconds(pid: u32) -> Option<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        sum += stat.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(sum)
}

/// User and system time, in ticks: fields 14 and 15. The name before them may hold anything, also parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

/// Ticks of all processors since boot: all of them, and those that the hypervisor gave to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    total: u64,
    steal: u64,
}

impl Machine {
    pub(crate) fn now() -> Self {
        fs::read_to_string("/proc/stat").ok().and_then(|stat| Self::read(&stat)).unwrap_or_default()
    }

    fn read(stat: &str) -> Option<Self> {
        // user nice system idle iowait irq softirq steal; guest time is in user time already.
        let fields: Vec<u64> =
            stat.lines().next()?.split_whitespace().skip(1).take(8).map_while(|field| field.parse().ok()).collect();
        Some(Self { total: fields.iter().sum(), steal: *fields.get(7)? })
    }

    /// Share of the processors' time that was stolen since `earlier`, from 0 to 1.
    pub(crate) fn steal_since(self, earlier: Self) -> f64 {
        let total = self.total.saturating_sub(earlier.total);
        if total == 0 { 0.0 } else { self.steal.saturating_sub(earlier.steal) as f64 / total as f64 }
    }
}

/// Packets that interface `name` has moved in the network namespace of `pid`, both ways.
pub(crate) fn packets(pid: u32, name: &str) -> Option<u64> {
    let dev = fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    moved(&dev, name)
}

/// The second number of each half (`net/core/net-procfs.c`).
fn moved(dev: &str, name: &str) -> Option<u64> {
    let counts = dev.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    let counts: Vec<u64> = counts.split_whitespace().map_while(|count| count.parse().ok()).collect();
    Some(counts.get(1)? + counts.get(9)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_found_behind_any_name() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 70 8 0 0 20 0 1 0 5 6";
        assert_eq!(ticks(stat), Some(78));
        assert!(seconds(std::process::id()).is_some());
        assert_eq!(seconds(u32::MAX), None);
    }

    #[test]
    fn steal_is_a_share() {
        let earlier = Machine::read("cpu  0 0 0 0 0 0 0 0 0 0\n").unwrap();
        let later = Machine::read("cpu  10 0 10 70 0 0 0 10 5 0\n").unwrap();
        assert!((later.steal_since(earlier) - 0.1).abs() < 1e-9);
        assert!(later.steal_since(later).abs() < 1e-9);
    }

    #[test]
    fn packets_of_both_ways_are_added() {
        let dev = "h\nh\n  lo: 1 2 3 4 5 6 7 8 9 10 11 12\n tap0: 100 20 0 0 0 0 0 0 300 40 0 0\n";
        assert_eq!(moved(dev, "tap0"), Some(60));
        assert_eq!(moved(dev, "tap"), None);
    }
}
