//! Readiness of a descriptor as a future.
#![expect(unsafe_code, reason = "tokio wants a promise that the descriptor stays open")]

use std::{io, os::fd::OwnedFd};
use tokio::io::unix::AsyncFd;

/// Registers `fd` with the current runtime.
pub(crate) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, so it stays open and is not replaced as long as the `AsyncFd` holds it.
    unsafe { AsyncFd::register(fd) }.map_err(Into::into)
}
