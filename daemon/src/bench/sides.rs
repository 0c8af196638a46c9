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
}

impl Split {
    /// Of the processors that we may use.
    pub(crate) fn here() -> Result<Self, Error> {
        let may = sched_getaffinity(None)
            .map_err(|e| Error::runtime(format!("cannot tell which processors may be used: {e}")))?;
        let may: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|number| may.is_set(*number)).collect();
        Self::of(&may)
    }

    fn of(processors: &[usize]) -> Result<Self, Error> {
        let (host, enclave) = processors.split_at(processors.len() / 2);
        if host.is_empty() {
            return Err(Error::usage(format!(
                "--split-cores needs at least 2 processors, and {} may be used here; leave it out",
                processors.len()
            )));
        }
        Ok(Self { host_side: host.to_vec(), enclave_side: enclave.to_vec() })
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
        format!(
            "host side on processors {}, enclave side on {}, as two machines",
            list(Side::Host),
            list(Side::Enclave)
        )
    }
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
        let split = Split::of(&[0, 1]).unwrap();
        assert_eq!(split.note(), "host side on processors 0, enclave side on 1, as two machines");
        let split = Split::of(&[0, 1, 2, 3, 8, 9, 11]).unwrap();
        assert_eq!(split.note(), "host side on processors 0-2, enclave side on 3,8-9,11, as two machines");
        for few in [&[][..], &[5]] {
            let error = Split::of(few).unwrap_err();
            let text = format!("--split-cores needs at least 2 processors, and {} may be used here", few.len());
            assert!(error.to_string().contains(&text), "{error}");
        }
    }

    #[test]
    fn children_run_on_the_processors_of_their_side() {
        let may = sched_getaffinity(None).unwrap();
        let may: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|number| may.is_set(*number)).collect();
        let (first, last) = (may[0], may[may.len() - 1]);
        let split = Split { host_side: vec![first], enclave_side: vec![last] };
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
