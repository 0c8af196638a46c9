//! The buffer and the peer of a vsock connection (`linux/vm_sockets.h`).
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

/// The CID at the other end of a vsock connection; `None` for a socket of another family, or one that is not connected.
pub(crate) fn peer_cid(fd: &OwnedFd) -> Option<u32> {
    // SAFETY: all of its fields are integers, for which zeroes are a value.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `address`, which is that long, and both live until the call returns.
    let done = unsafe { libc::getpeername(fd.as_raw_fd(), std::ptr::from_mut(&mut address).cast(), &raw mut length) };
    (done == 0 && i32::from(address.svm_family) == libc::AF_VSOCK).then_some(address.svm_cid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_another_family_has_no_cid() {
        let (one, _two) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(peer_cid(&one.into()), None);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(peer_cid(&stream.into()), None);
        assert_eq!(peer_cid(&listener.into()), None);
    }
}
