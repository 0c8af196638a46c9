//! Sockets of datagram sessions.

use super::Kernel;
use crate::sys::errno;
use crate::sys::errqueue;
use nitrotap_core::{
    drive::{
        Errno,
        host::{Complaint, Datagrams, Source},
    },
    gateway::Kind,
};
use rustix::{
    io,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, getsockname, ipproto, recv, send,
        socket_with, sockopt,
    },
};
use std::{
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};

impl Datagrams for Kernel {
    type Datagrams = OwnedFd;

    fn talk(&mut self, kind: Kind, to: SocketAddr) -> Result<OwnedFd, Errno> {
        connected(kind, to).map_err(errno)
    }

    fn watch_datagrams(&mut self, socket: &mut OwnedFd, source: Source) -> Result<(), Errno> {
        self.poller.watch(socket, source).map_err(errno)
    }

    fn receive(&mut self, socket: &mut OwnedFd, space: &mut [u8]) -> Result<usize, Errno> {
        recv(socket, space, RecvFlags::empty()).map(|(len, _)| len).map_err(errno)
    }

    fn send(&mut self, socket: &mut OwnedFd, payload: &[u8]) -> Result<(), Errno> {
        send(socket, payload, SendFlags::NOSIGNAL).map(drop).map_err(errno)
    }

    fn source_address(&mut self, socket: &mut OwnedFd) -> Option<IpAddr> {
        getsockname(socket).ok().and_then(|any| SocketAddr::try_from(any).ok()).map(|address| address.ip())
    }

    fn path_mtu(&mut self, socket: &mut OwnedFd, to: SocketAddr) -> Option<u32> {
        if to.is_ipv4() { sockopt::ip_mtu(socket) } else { sockopt::ipv6_mtu(socket) }.ok()
    }

    fn set_hop_limit(&mut self, socket: &mut OwnedFd, to: SocketAddr, hop_limit: u8) {
        // What the kernel does not take changes nothing.
        let _ = match to.is_ipv6() {
            true => sockopt::set_ipv6_unicast_hops(socket, Some(hop_limit)),
            false => sockopt::set_ip_ttl(socket, hop_limit.into()),
        };
    }

    fn hear_complaints(&mut self, socket: &mut OwnedFd, to: SocketAddr) -> bool {
        errqueue::enable(socket, to.is_ipv6()).is_ok()
    }

    fn complaint(&mut self, socket: &mut OwnedFd) -> Result<Option<Complaint>, Errno> {
        errqueue::take(socket).map_err(errno)
    }
}

fn connected(kind: Kind, to: SocketAddr) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let protocol = match kind {
        Kind::Udp => None,
        // Without privileges where `net.ipv4.ping_group_range` allows it, which is for both families.
        Kind::Ping if to.is_ipv6() => Some(ipproto::ICMPV6),
        Kind::Ping => Some(ipproto::ICMP),
    };
    let fd = socket_with(family, SocketType::DGRAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, protocol)?;
    connect(&fd, &to)?;
    Ok(fd)
}
