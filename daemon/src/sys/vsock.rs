//! The buffer of a vsock connection (`linux/vm_sockets.h`).
#![expect(unsafe_code, reason = "the options of AF_VSOCK have no typed wrapper")]

use rustix::io;
use std::{
    ffi::c_int,
    os::fd::{AsRawFd, OwnedFd},
};

const SO_VM_SOCKETS_BUFFER_SIZE: c_int = 0;
const SO_VM_SOCKETS_BUFFER_MAX_SIZE: c_int = 2;

/// Lets the peer send `bytes` ahead of what was read here: the credit that vsock grants (virtio 1.2 section 5.10.6.3).
pub(crate) fn set_buffer(fd: &OwnedFd, bytes: u64) -> io::Result<()> {
    // The size is cut to the maximum, so that this one comes first.
    for option in [SO_VM_SOCKETS_BUFFER_MAX_SIZE, SO_VM_SOCKETS_BUFFER_SIZE] {
        // SAFETY: both options are read from a `u64` of 8 bytes, which lives until the call returns.
        let done = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::AF_VSOCK,
                option,
                std::ptr::from_ref(&bytes).cast(),
                size_of::<u64>() as libc::socklen_t,
            )
        };
        if done != 0 {
            return Err(io::Errno::from_raw_os_error(
                std::io::Error::last_os_error().raw_os_error().unwrap_or_default(),
            ));
        }
    }
    Ok(())
}
