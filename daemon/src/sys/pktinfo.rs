//! Datagrams with the local address they came to, and from which they are answered (`ip(7)`, `ipv6(7)`, RFC 3542 section 6).
#![expect(unsafe_code, reason = "rustix has no control messages of this kind")]

use rustix::{io, net::SocketAddrAny};
use std::{
    ffi::c_int,
    mem::zeroed,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    ptr,
};

/// Room for one control message of either family, aligned as its header wants it.
type Control = [u64; 8];

/// Asks that every datagram comes with the address it was sent to.
pub(crate) fn request(fd: &OwnedFd, v6: bool) -> io::Result<()> {
    let (level, option) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) } else { (libc::IPPROTO_IP, libc::IP_PKTINFO) };
    let on: c_int = 1;
    // SAFETY: both options are read from a `c_int`, which lives until the call returns.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            ptr::from_ref(&on).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    check(done as isize).map(drop)
}

/// One datagram: its length, who sent it, and the address it was sent to.
pub(crate) fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, Option<SocketAddr>, Option<IpAddr>)> {
    // SAFETY: all three are plain C structures, for which zeroes are a value.
    let (mut from, mut message): (libc::sockaddr_storage, libc::msghdr) = unsafe { (zeroed(), zeroed()) };
    let mut control: Control = [0; 8];
    let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    message.msg_name = ptr::from_mut(&mut from).cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: every pointer in the message is to memory of the stated length that is ours and outlives the call.
    let n = check(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, 0) })?;
    let named = message.msg_namelen as usize >= size_of::<libc::sa_family_t>();
    // SAFETY: the kernel has written an address of this length, which fits the storage.
    let from = named.then(|| unsafe { SocketAddrAny::read(ptr::from_ref(&from).cast(), message.msg_namelen) });
    let from = from.and_then(|from| SocketAddr::try_from(from).ok());
    Ok((n, from, local(&message)))
}

fn local(message: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the kernel has filled in the message, and its control buffer is still there.
    let mut head = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !head.is_null() {
        // SAFETY: a header that these macros give lies within the control buffer.
        let (level, kind, data) = unsafe { ((*head).cmsg_level, (*head).cmsg_type, libc::CMSG_DATA(head)) };
        if (level, kind) == (libc::IPPROTO_IP, libc::IP_PKTINFO) {
            // SAFETY: a control message of this kind has this structure, maybe not aligned.
            let info = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
            // Not where it was sent to, which may be a broadcast, but the address of ours that hears it.
            return Some(Ipv4Addr::from_bits(u32::from_be(info.ipi_spec_dst.s_addr)).into());
        }
        if (level, kind) == (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) {
            // SAFETY: as above.
            let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
            return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
        }
        // SAFETY: both pointers are into the message and its control buffer.
        head = unsafe { libc::CMSG_NXTHDR(message, head) };
    }
    None
}

/// Sends a datagram from a local address of the socket's family.
pub(crate) fn send(fd: &OwnedFd, payload: &[u8], to: SocketAddr, from: IpAddr) -> io::Result<()> {
    match from {
        IpAddr::V4(from) => {
            // SAFETY: a plain C structure, for which zeroes are a value.
            let mut info: libc::in_pktinfo = unsafe { zeroed() };
            info.ipi_spec_dst.s_addr = from.to_bits().to_be();
            send_with(fd, payload, to, (libc::IPPROTO_IP, libc::IP_PKTINFO), info)
        }
        IpAddr::V6(from) => {
            // SAFETY: as above.
            let mut info: libc::in6_pktinfo = unsafe { zeroed() };
            info.ipi6_addr.s6_addr = from.octets();
            send_with(fd, payload, to, (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO), info)
        }
    }
}

fn send_with<I: Copy>(
    fd: &OwnedFd,
    payload: &[u8],
    to: SocketAddr,
    (level, kind): (c_int, c_int),
    info: I,
) -> io::Result<()> {
    const { assert!(size_of::<I>() <= size_of::<libc::in6_pktinfo>()) };
    let to = SocketAddrAny::from(to);
    // SAFETY: a plain C structure, for which zeroes are a value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    let mut control: Control = [0; 8];
    let mut piece = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    message.msg_name = to.as_ptr().cast_mut().cast();
    message.msg_namelen = to.addr_len();
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: the macro only computes.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<I>() as u32) } as _;
    // SAFETY: the control buffer has room for one such message and is aligned for its header; the header is the first one in
    // it, and its data has room for the structure.
    unsafe {
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        (*head).cmsg_level = level;
        (*head).cmsg_type = kind;
        (*head).cmsg_len = libc::CMSG_LEN(size_of::<I>() as u32) as _;
        libc::CMSG_DATA(head).cast::<I>().write_unaligned(info);
    }
    // SAFETY: every pointer in the message is to memory of the stated length that outlives the call, and is only read.
    check(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) }).map(drop)
}

fn check(done: isize) -> io::Result<usize> {
    usize::try_from(done)
        .map_err(|_| io::Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    /// A question to one of the loopback's addresses, on a socket that listens on all, and where its answer comes from.
    fn ask(bound: &str, v6: bool, asked: &str) -> (Option<IpAddr>, SocketAddr) {
        let server = UdpSocket::bind(bound).unwrap();
        let asked = SocketAddr::new(asked.parse().unwrap(), server.local_addr().unwrap().port());
        let server = OwnedFd::from(server);
        request(&server, v6).unwrap();
        let client = UdpSocket::bind(if asked.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
        client.send_to(b"?", asked).unwrap();
        let mut buffer = [0; 16];
        let (n, from, to) = receive(&server, &mut buffer).unwrap();
        assert_eq!((n, buffer[0]), (1, b'?'));
        let from = from.unwrap();
        assert_eq!(from.port(), client.local_addr().unwrap().port());
        send(&server, b"!", from, to.unwrap()).unwrap();
        let (n, answerer) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((n, buffer[0], answerer.port()), (1, b'!', asked.port()));
        (to, answerer)
    }

    #[test]
    fn an_answer_comes_from_the_address_that_was_asked() {
        for asked in ["127.0.0.1", "127.8.8.8"] {
            let (to, answerer) = ask("0.0.0.0:0", false, asked);
            assert_eq!((to, answerer.ip()), (asked.parse().ok(), asked.parse().unwrap()));
        }
        if UdpSocket::bind("[::1]:0").is_err() {
            return;
        }
        let (to, answerer) = ask("[::]:0", true, "::1");
        assert_eq!((to, answerer.ip()), ("::1".parse().ok(), "::1".parse::<IpAddr>().unwrap()));
        // A socket for both families sees IPv4 as mapped.
        let (to, answerer) = ask("[::]:0", true, "127.8.8.8");
        assert_eq!((to, answerer.ip()), ("::ffff:127.8.8.8".parse().ok(), "127.8.8.8".parse::<IpAddr>().unwrap()));
    }
}
