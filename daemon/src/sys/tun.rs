//! Attaching to a TAP device (`linux/if_tun.h`, kernel `Documentation/networking/tuntap.rst`).
#![expect(unsafe_code, reason = "the ioctls of TUN/TAP have no typed wrappers")]

use rustix::{
    fs::{Mode, OFlags},
    io::{self, Errno},
    ioctl::{IntegerSetter, Setter, ioctl, opcode},
};
use std::{
    ffi::{c_int, c_uint},
    os::fd::OwnedFd,
};

/// Where the kernel's universal TUN/TAP driver lives.
pub(crate) const DEVICE: &str = "/dev/net/tun";

/// Longest interface name: `IFNAMSIZ` less its NUL (`linux/if.h`).
pub(crate) const NAME_MAX: usize = 15;

const IFF_TAP: i16 = 0x0002;
/// No packet information: frames begin with the Ethernet header.
const IFF_NO_PI: i16 = 0x1000;

/// Frames are read and written behind a virtio-net header.
const IFF_VNET_HDR: i16 = 0x4000;

/// What the kernel may leave to us (`TUN_F_*`); it uses it only as far as its own stack can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features(u32);

impl Features {
    /// Unfinished checksums; everything else needs it.
    pub(crate) const CSUM: Self = Self(0x01);
    /// TCP super-frames over IPv4 and IPv6, with ECN too.
    pub(crate) const TSO: Self = Self(0x02 | 0x04 | 0x08);
    /// UDP super-frames over IPv4 and IPv6 (Linux 6.2).
    pub(crate) const USO: Self = Self(0x20 | 0x40);

    pub(crate) const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

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
/// One frame per read and write, without packet information; with `header` behind a virtio-net header. `EBUSY`: another
/// process holds the interface. `EINVAL`: an interface of that name is no TAP, or the kernel knows no such header.
/// `EPERM`: no `CAP_NET_ADMIN` in this network namespace.
pub(crate) fn attach(fd: &OwnedFd, name: &str, header: bool) -> io::Result<()> {
    const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<c_int>(b'T', 202);
    let flags = IFF_TAP | IFF_NO_PI | if header { IFF_VNET_HDR } else { 0 };
    let mut request = IfReq { name: [0; NAME_MAX + 1], flags, rest: [0; 22] };
    let bytes = name.as_bytes();
    if bytes.len() > NAME_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    request.name[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: TUNSETIFF takes a pointer to a `struct ifreq`, whose layout `IfReq` has; it lives until the call returns.
    unsafe { ioctl(fd, Setter::<TUNSETIFF, IfReq>::new(request)) }
}

/// Sets the header's form on an attached TAP: this many bytes, little-endian.
pub(crate) fn set_header(fd: &OwnedFd, len: c_int) -> io::Result<()> {
    const TUNSETVNETHDRSZ: rustix::ioctl::Opcode = opcode::write::<c_int>(b'T', 216);
    const TUNSETVNETLE: rustix::ioctl::Opcode = opcode::write::<c_int>(b'T', 220);
    // SAFETY: both take a pointer to an `int`, which lives until the call returns.
    unsafe {
        ioctl(fd, Setter::<TUNSETVNETHDRSZ, c_int>::new(len))?;
        ioctl(fd, Setter::<TUNSETVNETLE, c_int>::new(1))
    }
}

/// Asks for as many of the wanted features as the kernel has, and gives those.
pub(crate) fn offload(fd: &OwnedFd, wanted: Features) -> Features {
    let mut features = wanted;
    for unknown in [Features::default(), Features::USO, Features::TSO, Features::CSUM] {
        features = features.without(unknown);
        if set_offload(fd, features).is_ok() {
            return features;
        }
    }
    Features::default()
}

fn set_offload(fd: &OwnedFd, features: Features) -> io::Result<()> {
    const TUNSETOFFLOAD: rustix::ioctl::Opcode = opcode::write::<c_uint>(b'T', 208);
    // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
    unsafe { ioctl(fd, IntegerSetter::<TUNSETOFFLOAD>::new_usize(features.0 as usize)) }
}
