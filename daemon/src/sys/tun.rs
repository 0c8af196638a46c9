//! Attaching to a TAP device (`linux/if_tun.h`, kernel `Documentation/networking/tuntap.rst`).
#![expect(unsafe_code, reason = "TUNSETIFF has no typed wrapper")]

use rustix::{
    fs::{Mode, OFlags},
    io,
    ioctl::{Setter, ioctl, opcode},
};
use std::{ffi::c_int, os::fd::OwnedFd};

/// Where the kernel's universal TUN/TAP driver lives.
pub(crate) const DEVICE: &str = "/dev/net/tun";

/// Longest interface name: `IFNAMSIZ` less its NUL (`linux/if.h`).
pub(crate) const NAME_MAX: usize = 15;

const IFF_TAP: i16 = 0x0002;
/// No packet information: frames begin with the Ethernet header.
const IFF_NO_PI: i16 = 0x1000;

/// `struct ifreq` as `TUNSETIFF` reads it: a name, and flags at the start of a 24-byte union.
#[repr(C)]
struct IfReq {
    name: [u8; NAME_MAX + 1],
    flags: i16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<IfReq>() == 40, "struct ifreq is 40 bytes on 64-bit Linux");

/// Opens the TUN/TAP driver, non-blocking.
pub(crate) fn open() -> io::Result<OwnedFd> {
    rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
}

/// Attaches `fd` to the TAP interface `name`, creating it if need be; it goes when the descriptor is closed.
///
/// One frame per read and write, without packet information. `EBUSY`: another process holds the interface. `EINVAL`: an
/// interface of that name is no TAP. `EPERM`: no `CAP_NET_ADMIN` in this network namespace.
pub(crate) fn attach(fd: &OwnedFd, name: &str) -> io::Result<()> {
    const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<c_int>(b'T', 202);
    let mut request = IfReq { name: [0; NAME_MAX + 1], flags: IFF_TAP | IFF_NO_PI, rest: [0; 22] };
    let bytes = name.as_bytes();
    if bytes.len() > NAME_MAX {
        return Err(io::Errno::NAMETOOLONG);
    }
    request.name[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: TUNSETIFF takes a pointer to a `struct ifreq`, whose layout `IfReq` has; it lives until the call returns.
    unsafe { ioctl(fd, Setter::<TUNSETIFF, IfReq>::new(request)) }
}
