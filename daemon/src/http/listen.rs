//! Listening sockets: `ADDR:PORT` and `vsock://:PORT`, and what to do when one cannot be had.

use super::stream::{Socket, VSOCK_MAX_WRITE};
use crate::{
    errors::Error,
    sys::{readiness, vsock},
};
use nitrotap_proxy::Peer;
use rustix::{
    io::Errno,
    net::{self, AddressFamily, SocketFlags, SocketType},
};
use std::{
    fmt, io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    str::FromStr,
    time::Duration,
};
use tokio::io::{Interest, unix::AsyncFd};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenAddr {
    Tcp(SocketAddr),
    Vsock { port: u32 },
}

impl FromStr for ListenAddr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(rest) = text.strip_prefix("vsock://") {
            let port = rest.strip_prefix(':').and_then(|port| port.parse().ok());
            return port.map(|port| Self::Vsock { port }).ok_or("expected vsock://:PORT, such as vsock://:8080");
        }
        text.parse()
            .map(Self::Tcp)
            .map_err(|_| "expected an IP address and a port, such as 0.0.0.0:8080 or [::]:8080, or vsock://:PORT")
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Vsock { port } => write!(f, "vsock://:{port}"),
        }
    }
}

/// A bound socket, registered nowhere yet.
#[derive(Debug)]
pub(super) struct Listener {
    fd: OwnedFd,
    address: ListenAddr,
}

impl Listener {
    /// Binds and listens. A vsock listener needs a tokio runtime around this call.
    pub(super) fn bind(address: ListenAddr) -> Result<Self, Error> {
        let bound = match address {
            ListenAddr::Tcp(address) => bind_tcp(address).map(|(fd, bound)| (fd, ListenAddr::Tcp(bound))),
            ListenAddr::Vsock { port } => {
                VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port)).map(|l| (OwnedFd::from(l), address))
            }
        };
        let (fd, address) = bound.map_err(|error| refused(address, &error))?;
        Ok(Self { fd, address })
    }

    /// The address with the port that was given for port 0.
    pub(super) const fn address(&self) -> ListenAddr {
        self.address
    }

    /// Starts accepting, on the runtime around this call.
    pub(super) fn register(self) -> io::Result<Acceptor> {
        let fd = readiness::register(self.fd)?;
        Ok(Acceptor { fd, address: self.address })
    }
}

/// A listening socket on a runtime.
pub(super) struct Acceptor {
    fd: AsyncFd<OwnedFd>,
    pub(super) address: ListenAddr,
}

impl Acceptor {
    /// The next client.
    pub(super) async fn accept(&self) -> io::Result<(Socket, Peer)> {
        self.fd.async_io(Interest::READABLE, |fd| self.try_accept(fd)).await
    }

    /// A client that has connected already, if there is one.
    pub(super) fn accept_now(&self) -> Option<(Socket, Peer)> {
        self.try_accept(self.fd.get_ref()).ok()
    }

    fn try_accept(&self, fd: &OwnedFd) -> io::Result<(Socket, Peer)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match self.address {
            ListenAddr::Tcp(_) => {
                let (fd, peer) = net::acceptfrom_with(fd, flags)?;
                let peer = peer.and_then(|any| SocketAddr::try_from(any).ok());
                Ok((Socket::Tcp(fd.into()), peer.map_or(Peer::Unknown, |address| Peer::Ip(address.ip()))))
            }
            ListenAddr::Vsock { .. } => {
                let fd = net::accept_with(fd, flags)?;
                let peer = vsock::peer_cid(&fd).map_or(Peer::Unknown, Peer::Vsock);
                Ok((Socket::Other(fd, VSOCK_MAX_WRITE), peer))
            }
        }
    }
}

/// Connections the kernel completes before we accept them; it caps this at `net.core.somaxconn`, 4096 by default.
pub(super) const BACKLOG: i32 = 4096;

/// Silence after which the kernel asks a client whether it is still there, and the pause between its 9 questions.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);

/// A listening TCP socket and its address, with the port that was given for port 0. A wildcard IPv6 address takes IPv4 too.
pub(crate) fn bind_tcp(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = net::socket_with(family, SocketType::STREAM, flags, None)?;
    // A restart must not wait for the old connections' TIME_WAIT.
    net::sockopt::set_socket_reuseaddr(&fd, true)?;
    // Accepted sockets inherit these (tcp(7)). A head and its body leave in one write, so waiting for more only delays;
    // and a client that vanished in the middle of a response or a tunnel must not hold its connections for ever.
    net::sockopt::set_tcp_nodelay(&fd, true)?;
    net::sockopt::set_socket_keepalive(&fd, true)?;
    net::sockopt::set_tcp_keepidle(&fd, KEEPALIVE_AFTER)?;
    net::sockopt::set_tcp_keepintvl(&fd, KEEPALIVE_EVERY)?;
    net::bind(&fd, &address)?;
    net::listen(&fd, BACKLOG)?;
    let bound = SocketAddr::try_from(net::getsockname(fd.as_fd())?)?;
    Ok((fd, bound))
}

fn refused(address: ListenAddr, error: &io::Error) -> Error {
    Error::runtime(format!("cannot listen on {address}: {error}; {}", remedy(error)))
}

/// What to do about an address that cannot be listened on.
pub(crate) fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ADDRINUSE) => "stop what listens there, or choose another port",
        Some(Errno::ACCESS | Errno::PERM) => "choose a port from 1024 on, or run with CAP_NET_BIND_SERVICE",
        Some(Errno::ADDRNOTAVAIL) => "no interface has this address; 0.0.0.0 means all of them",
        Some(Errno::AFNOSUPPORT | Errno::NODEV) => "this kernel has no such sockets; is the vsock module loaded?",
        Some(_) | None => "choose another address",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_written() {
        for good in ["127.0.0.1:80", "[::]:8080", "vsock://:443"] {
            assert_eq!(good.parse::<ListenAddr>().unwrap().to_string(), good);
        }
        for bad in ["", ":80", "80", "localhost:80", "vsock://80", "vsock://3:80", "vsock://:x", "http://1.2.3.4:80"] {
            assert!(bad.parse::<ListenAddr>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn accepted_sockets_inherit_the_listeners_options() {
        let acceptor = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap().register().unwrap();
        let ListenAddr::Tcp(address) = acceptor.address else { panic!("TCP was asked for") };
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (Socket::Tcp(stream), peer) = acceptor.accept().await.unwrap() else { panic!("TCP was asked for") };
        assert_eq!(peer, Peer::Ip(address.ip()));
        assert!(stream.nodelay().unwrap() && net::sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(net::sockopt::tcp_keepidle(&stream).unwrap(), KEEPALIVE_AFTER);
    }

    #[test]
    fn a_busy_address_is_named_with_its_remedy() {
        let first = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = Listener::bind(first.address()).unwrap_err().to_string();
        assert!(error.contains(&first.address().to_string()) && error.contains("another port"), "{error}");
    }
}
