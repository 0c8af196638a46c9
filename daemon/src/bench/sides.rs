//! Which processors the two sides run on: all of them together, or half of them each, as the two machines that an enclave
//! and its host are.
//!
//! A child gets its processors before it becomes a program, and what it starts inherits them (`sched_setaffinity(2)`).
//! Work that the kernel does for a process stays with it, but for what interrupts bring.

use crate::errors::Error;
use rustix::thread::{CpuSet, sched_getaffinity};
use serde::Serialize;

/// Where a process belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Gateways, clients of requests, servers of bulk transfers.
    Host,
    /// TAP handlers, apps, clients of bulk transfers.
    Enclave,
}

/// Processors by their numbers, in order; none is on both sides, and each side has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Split {
    host_side: Vec<usize>,
    enclave_side: Vec<usize>,
    /// There is one core, and each side has threads of it.
    shares_a_core: bool,
}

impl Split {
    /// Of the processors that we may use.
    pub(crate) fn here() -> Result<Self, Error> {
        let may = sched_getaffinity(None)
            .map_err(|e| Error::runtime(format!("cannot tell which processors may be used: {e}")))?;
        let may: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|number| may.is_set(*number)).collect();
        Self::of(&may, core)
    }

    /// `core` tells which core a processor is a thread of.
    fn of(processors: &[usize], core: impl Fn(usize) -> usize) -> Result<Self, Error> {
        // Threads of a core belong on one side.
        let mut processors = processors.to_vec();
        processors.sort_by_key(|number| (core(*number), *number));
        let half = processors.len() / 2;
        let whole = |at: &usize| core(processors[*at - 1]) != core(processors[*at]);
        let near = (1..processors.len()).filter(whole).min_by_key(|at| at.abs_diff(half));
        let (host, enclave) = processors.split_at(near.unwrap_or(half));
        if host.is_empty() {
            return Err(Error::usage(format!(
                "--split-cores needs at least 2 processors, and {} may be used here; leave it out",
                processors.len()
            )));
        }
        let shares_a_core = near.is_none();
        let sorted = |side: &[usize]| {
            let mut side = side.to_vec();
            side.sort_unstable();
            side
        };
        Ok(Self { host_side: sorted(host), enclave_side: sorted(enclave), shares_a_core })
    }

    pub(crate) fn processors(&self, side: Side) -> CpuSet {
        let mut set = CpuSet::new();
        for number in self.numbers(side) {
            set.set(*number);
        }
        set
    }

    fn numbers(&self, side: Side) -> &[usize] {
        match side {
            Side::Host => &self.host_side,
            Side::Enclave => &self.enclave_side,
        }
    }

    /// For the report.
    pub(crate) fn note(&self) -> String {
        let list = |side| list(self.numbers(side));
        let how = if self.shares_a_core { "which are threads of one core" } else { "as two machines" };
        format!("host side on processors {}, enclave side on {}, {how}", list(Side::Host), list(Side::Enclave))
    }
}

/// The core of a processor, by the first of its threads (`/sys/devices/system/cpu/cpuN/topology/thread_siblings_list`);
/// a core of its own where the kernel does not tell.
fn core(processor: usize) -> usize {
    let path = format!("/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split(|c: char| !c.is_ascii_digit()).next().and_then(|first| first.parse().ok()).unwrap_or(processor)
}

/// As the kernel writes it (`Cpus_allowed_list`): `0-3,8`.
fn list(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|one, next| one + 1 == *next);
    let text = |run: &[usize]| match run {
        [first, .., last] => format!("{first}-{last}"),
        [one] => one.to_string(),
        [] => String::new(),
    };
    runs.map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{children::PATIENCE, lab::Lab};
    use std::process::Command;

    #[test]
    fn each_side_has_half_of_the_processors() {
        let note = |processors: &[usize], core: fn(usize) -> usize| Split::of(processors, core).unwrap().note();
        let alone: fn(usize) -> usize = |number| number;
        assert_eq!(note(&[0, 1], alone), "host side on processors 0, enclave side on 1, as two machines");
        assert_eq!(
            note(&[0, 1, 2, 3, 8, 9, 11], alone),
            "host side on processors 0-2, enclave side on 3,8-9,11, as two machines"
        );
        // Two threads each, numbered as Linux does on most x86 machines.
        let threads: fn(usize) -> usize = |number| number % 2;
        assert_eq!(note(&[0, 1, 2, 3], threads), "host side on processors 0,2, enclave side on 1,3, as two machines");
        let one: fn(usize) -> usize = |_| 0;
        assert_eq!(note(&[0, 1], one), "host side on processors 0, enclave side on 1, which are threads of one core");
        for few in [&[][..], &[5]] {
            let error = Split::of(few, alone).unwrap_err();
            let text = format!("--split-cores needs at least 2 processors, and {} may be used here", few.len());
            assert!(error.to_string().contains(&text), "{error}");
        }
    }

    #[test]
    fn children_run_on_the_processors_of_their_side() {
        let may = sched_getaffinity(None).unwrap();
        let may: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|number| may.is_set(*number)).collect();
        let (first, last) = (may[0], may[may.len() - 1]);
        let split = Split { host_side: vec![first], enclave_side: vec![last], shares_a_core: false };
        let lab = Lab::split(Some(split)).unwrap();
        for (side, processor) in [(Side::Host, first), (Side::Enclave, last)] {
            let mut command = Command::new("sh");
            // The shell's own child.
            command.args(["-c", "cat /proc/self/status; exit"]);
            let mut child = lab.start(side, "shell", command).unwrap();
            assert_eq!(child.expect("Cpus_allowed_list:", PATIENCE).unwrap(), processor.to_string());
        }
    }
}
