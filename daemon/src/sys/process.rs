//! Processes and their namespaces.
#![expect(unsafe_code, reason = "code between fork and exec, and unshare, are unsafe by nature")]

use rustix::{
    process::{Signal, set_parent_process_death_signal},
    thread::{CpuSet, UnshareFlags, sched_setaffinity, unshare_unsafe},
};
use std::{os::unix::process::CommandExt, process::Command};

/// The child gets `signal` when the thread that spawns it ends, however that happens.
pub(crate) fn die_with_parent(command: &mut Command, signal: Signal) {
    // SAFETY: the closure runs between fork and exec and only makes one prctl call, which is async-signal-safe and
    // allocates nothing.
    unsafe { command.pre_exec(move || Ok(set_parent_process_death_signal(Some(signal))?)) };
}

/// The child runs on `processors` only, and so does what it starts.
pub(crate) fn keep_on(command: &mut Command, processors: CpuSet) {
    // SAFETY: the closure runs between fork and exec and only makes one system call, with memory that it owns; it
    // allocates nothing.
    unsafe { command.pre_exec(move || Ok(sched_setaffinity(None, &processors)?)) };
}

/// Moves the calling thread, which must be the only one, into new namespaces.
pub(crate) fn unshare(namespaces: UnshareFlags) -> rustix::io::Result<()> {
    debug_assert!(!namespaces.contains(UnshareFlags::FILES), "descriptors stay shared");
    // SAFETY: only FILES can make a thread lose sight of descriptors, and no caller passes it.
    unsafe { unshare_unsafe(namespaces) }
}
