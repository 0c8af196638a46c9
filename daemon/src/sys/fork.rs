//! Two processes out of one, and the signals that one of them waits for.
#![expect(unsafe_code, reason = "fork and signal masks are unsafe by nature")]

use rustix::{
    io::{Errno, Result},
    process::Pid,
};
use std::{ffi::c_int, mem::zeroed, ptr};

/// Which of the two this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forked {
    /// The new process.
    Child,
    /// The old one; this is the new one.
    Parent(Pid),
}

/// Blocks all signals, then forks; the child gets the old mask back. For a process with one thread: with more, the child
/// would have only this one of them, and the locks of all.
pub(crate) fn fork_with_signals_blocked() -> Result<Forked> {
    // SAFETY: both sets are plain memory that these calls fill in, and a process with one thread may do anything after fork.
    unsafe {
        let (mut all, mut old): (libc::sigset_t, libc::sigset_t) = (zeroed(), zeroed());
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const all, &raw mut old);
        match libc::fork() {
            0 => {
                libc::sigprocmask(libc::SIG_SETMASK, &raw const old, ptr::null_mut());
                Ok(Forked::Child)
            }
            pid => Pid::from_raw(pid).filter(|_| pid > 0).map(Forked::Parent).ok_or_else(last_error),
        }
    }
}

/// Waits for one of the blocked signals.
pub(crate) fn wait_for_signal() -> Option<c_int> {
    // SAFETY: the set is plain memory that is filled in, and nothing is asked about the signal beyond its number.
    let signal = unsafe {
        let mut all: libc::sigset_t = zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigwaitinfo(&raw const all, ptr::null_mut())
    };
    (signal > 0).then_some(signal)
}

fn last_error() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or_default())
}
