//! Published ports: sockets that listen, and what comes to them.

use super::Kernel;
use crate::sys::errno;
use crate::{
    host::socket::{SocketFile, clear_stale},
    sys::pktinfo,
};
use nitrotap_core::drive::{
    Errno,
    host::{Local, Ports, Received, Source},
};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, acceptfrom_with, getsockname, sendto, socket_with, sockopt,
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// The socket of a published port.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: OwnedFd,
    /// Removed with it.
    _file: Option<SocketFile>,
}

impl Ports for Kernel {
    type Listener = Listener;

    fn listen(&mut self, local: &Local, source: Source) -> io::Result<(Listener, SocketAddr)> {
        let (fd, address, file) = open(local)?;
        self.poller.watch(&fd, source)?;
        Ok((Listener { fd, _file: file }, address))
    }

    fn accept(&mut self, listener: &mut Listener) -> Result<(OwnedFd, Option<SocketAddr>), Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (fd, client) = acceptfrom_with(&listener.fd, flags).map_err(errno)?;
        Ok((fd, client.and_then(|client| SocketAddr::try_from(client).ok())))
    }

    fn receive_from(&mut self, listener: &mut Listener, space: &mut [u8]) -> Result<Received, Errno> {
        let (len, client, asked) = pktinfo::receive(&listener.fd, space).map_err(errno)?;
        Ok(Received { len, client, asked })
    }

    fn send_to(
        &mut self,
        listener: &mut Listener,
        payload: &[u8],
        client: SocketAddr,
        asked: Option<IpAddr>,
    ) -> Result<(), Errno> {
        let sent = match asked {
            Some(asked) => pktinfo::send(&listener.fd, payload, client, asked),
            None => sendto(&listener.fd, payload, SendFlags::NOSIGNAL, &client).map(drop),
        };
        sent.map_err(errno)
    }

    fn may_send_packets(&self, ipv6: bool) -> bool {
        self.raw.has(ipv6)
    }

    fn send_packet(&mut self, packet: &[u8], to: SocketAddr) -> bool {
        self.raw.send(packet, to)
    }
}

fn open(local: &Local) -> io::Result<(OwnedFd, SocketAddr, Option<SocketFile>)> {
    match local {
        Local::Tcp(address) => bind(*address, SocketType::STREAM).map(|(socket, address)| (socket, address, None)),
        Local::Udp(address) => bind(*address, SocketType::DGRAM).map(|(socket, address)| (socket, address, None)),
        Local::Unix(path) => {
            let (listener, file) = bind_unix(path)?;
            let socket = OwnedFd::from(listener);
            rustix::io::ioctl_fionbio(&socket, true)?;
            Ok((socket, (Ipv4Addr::UNSPECIFIED, 0).into(), Some(file)))
        }
    }
}

/// An unspecified address of either family is all addresses of both, as in Go (`net.Listen`); of IPv4 alone, where the
/// kernel has no IPv6.
fn bind(address: SocketAddr, kind: SocketType) -> io::Result<(OwnedFd, SocketAddr)> {
    if !address.ip().is_unspecified() {
        return bind_one(address, kind);
    }
    match bind_one((Ipv6Addr::UNSPECIFIED, address.port()).into(), kind) {
        Err(error) if is_for_want_of_ipv6(&error) => bind_one((Ipv4Addr::UNSPECIFIED, address.port()).into(), kind),
        done => done,
    }
}

fn is_for_want_of_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::PROTONOSUPPORT))
}

fn bind_one(address: SocketAddr, kind: SocketType) -> io::Result<(OwnedFd, SocketAddr)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    let everywhere = address.ip().is_unspecified();
    if everywhere && address.is_ipv6() {
        // Whatever `net.ipv6.bindv6only` says.
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    if kind == SocketType::STREAM {
        // A restart must not wait for the old connections' TIME_WAIT.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    } else if everywhere {
        // A host has several addresses, and an answer from another one than was asked is nobody's.
        pktinfo::request(&socket, address.is_ipv6())?;
    }
    rustix::net::bind(&socket, &address)?;
    if kind == SocketType::STREAM {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    let bound = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((socket, bound))
}

/// Unlike gvproxy, which removes whatever has that name, takes only the place of a socket on which nobody listens.
fn bind_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    clear_stale(path).map_err(|e| io::Error::new(io::ErrorKind::AddrInUse, e.to_string()))?;
    let listener = UnixListener::bind(path)?;
    Ok((listener, SocketFile::of(path)?))
}
