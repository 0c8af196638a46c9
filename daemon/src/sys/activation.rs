//! Sockets that systemd opened for us (`sd_listen_fds_with_names(3)`).
#![expect(unsafe_code, reason = "a descriptor that came through exec has an owner only by agreement")]

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

/// The sockets that were passed to this process, with their names; none on a second call.
///
/// `InvalidInput`: the environment names descriptors in a way that makes no sense. `EBADF`: it names one that is not
/// open.
pub(crate) fn take() -> io::Result<Vec<(OwnedFd, String)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let named = sd_notify::listen_fds_with_names()?;
    // SAFETY: LISTEN_PID says that these descriptors were passed to this process for it to own, each is open (or setting
    // its close-on-exec flag had failed), and the flag above lets nobody own them twice.
    Ok(named.map(|(fd, name)| (unsafe { OwnedFd::from_raw_fd(fd) }, name)).collect())
}
