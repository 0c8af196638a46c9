//! The error queue of a socket (ip(7), `IP_RECVERR`): which router has dropped a datagram.
#![expect(unsafe_code, reason = "recvmsg with this kind of control message has no typed wrapper")]

use nitrotap_core::drive::host::Complaint;
use rustix::io;
use std::{
    ffi::c_int,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
};

/// Bytes of a quote that matter.
const QUOTED: usize = 64;
/// Room for the control messages of one entry.
const CONTROL: usize = 256;
/// Bytes of `struct cmsghdr` (a length of 8 bytes, two numbers of 4), and what its length is rounded up to.
const CMSG_HEAD: usize = 16;
/// Bytes of `struct sock_extended_err` (`linux/errqueue.h`); the address of who complained follows.
const EXTENDED: usize = 16;

/// Wants complaints about what a datagram socket sends, of this family.
pub(crate) fn enable(fd: &OwnedFd, ipv6: bool) -> io::Result<()> {
    let (level, option) =
        if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) } else { (libc::IPPROTO_IP, libc::IP_RECVERR) };
    let on: c_int = 1;
    // SAFETY: both options are read from an `int`, which lives until the call returns.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&on).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(last_error()) }
}

/// Takes one entry from the queue; `None` if it is no complaint of a stranger. Never waits.
pub(crate) fn take(fd: &OwnedFd) -> io::Result<Option<Complaint>> {
    #[repr(align(8))]
    struct Aligned([u8; CONTROL]);
    let mut quoted = [0_u8; QUOTED];
    let mut control = Aligned([0; CONTROL]);
    let mut piece = libc::iovec { iov_base: quoted.as_mut_ptr().cast(), iov_len: quoted.len() };
    // SAFETY: all fields are numbers or pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL as _;
    // SAFETY: the message points to one piece and one control buffer with their true lengths, all of which outlive the call.
    let read = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
    let Ok(read) = usize::try_from(read) else { return Err(last_error()) };
    let used = CONTROL.min(message.msg_controllen as _);
    Ok(parse(&control.0[..used]).map(|(kind, from)| Complaint {
        kind,
        from,
        quoted: quoted[..read.min(QUOTED)].to_vec(),
    }))
}

/// The complaint among the control messages.
fn parse(mut control: &[u8]) -> Option<(u8, IpAddr)> {
    while control.len() >= CMSG_HEAD {
        let len = usize::try_from(u64::from_ne_bytes(control[..8].try_into().ok()?)).ok()?;
        let number = |at: usize| c_int::from_ne_bytes([control[at], control[at + 1], control[at + 2], control[at + 3]]);
        let (level, kind) = (number(8), number(12));
        let data = control.get(CMSG_HEAD..len)?;
        let known = [(libc::IPPROTO_IP, libc::IP_RECVERR), (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)];
        if known.contains(&(level, kind)) && data.len() >= EXTENDED {
            // Two numbers: origin and type, behind an errno of 4 bytes.
            let (origin, kind) = (data[4], data[5]);
            let from = offender(&data[EXTENDED..])?;
            return [libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6].contains(&origin).then_some((kind, from));
        }
        control = control.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    None
}

/// A `struct sockaddr_in`, or `_in6`: a family, a port, and in the latter a flow label before the address.
fn offender(address: &[u8]) -> Option<IpAddr> {
    let family = u16::from_ne_bytes(address.get(..2)?.try_into().ok()?);
    match c_int::from(family) {
        libc::AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(address.get(4..8)?).ok()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(address.get(8..24)?).ok()?).into()),
        _ => None,
    }
}

fn last_error() -> io::Errno {
    io::Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn who_complains_about_a_datagram_is_known() {
        // Nobody listens there once the socket is gone; the host itself says so.
        for (local, ipv6) in [("127.0.0.1:0", false), ("[::1]:0", true)] {
            let Ok(gone) = UdpSocket::bind(local) else { continue };
            let to = gone.local_addr().unwrap();
            drop(gone);
            let socket = UdpSocket::bind(local).unwrap();
            socket.connect(to).unwrap();
            let fd: OwnedFd = socket.into();
            enable(&fd, ipv6).unwrap();
            assert_eq!(take(&fd), Err(io::Errno::AGAIN));
            rustix::net::send(&fd, b"payload", rustix::net::SendFlags::empty()).unwrap();
            let complaint = take(&fd).unwrap().unwrap();
            assert_eq!((complaint.from, &complaint.quoted[..]), (to.ip(), &b"payload"[..]));
            assert_eq!(complaint.kind, if ipv6 { 1 } else { 3 });
        }
    }

    #[test]
    fn what_is_no_complaint_is_none() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[0; 64]), None);
        assert_eq!(parse(&[0xff; 64]), None);
    }
}
