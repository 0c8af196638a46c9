//! Published ports: what the world sends there reaches a guest.

use super::{RETRY, Source, Worker, flow::tune, is_shortage};
use crate::host::{
    control::{ExposeError, Forward, Local},
    socket::{SocketFile, clear_stale},
};
use nitrotap_core::{gateway::turns, proxy_protocol, time::Instant};
use rustix::{
    io::{self, Errno},
    net::{RecvFlags, SocketFlags, acceptfrom_with, recvfrom, sockopt},
};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
    time::Duration,
};

/// Published ports at a time.
pub(super) const MAX_FORWARDS: usize = 1024;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// Connections accepted, or datagrams read, before others get their turn.
const TURN: usize = 64;

#[derive(Debug)]
struct Listening {
    forward: Forward,
    socket: OwnedFd,
    /// Removed with it.
    _file: Option<SocketFile>,
}

/// All published ports, by number.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    listening: BTreeMap<u32, Listening>,
    next: u32,
}

impl Forwards {
    /// The socket of a published port.
    pub(super) fn socket(&self, number: u32) -> Option<&OwnedFd> {
        self.listening.get(&number).map(|listening| &listening.socket)
    }

    fn find(&self, protocol: &str, name: &str) -> Option<u32> {
        let same =
            |listening: &Listening| listening.forward.local.protocol() == protocol && listening.forward.name == name;
        self.listening.iter().find(|(_, listening)| same(listening)).map(|(number, _)| *number)
    }

    /// All of them, by name and then protocol.
    pub(super) fn all(&self) -> Vec<Forward> {
        let mut all: Vec<Forward> = self.listening.values().map(|listening| listening.forward.clone()).collect();
        all.sort_by(|a, b| (&a.name, a.local.protocol()).cmp(&(&b.name, b.local.protocol())));
        all
    }
}

impl Worker {
    pub(super) fn expose(&mut self, forward: Forward) -> Result<SocketAddr, ExposeError> {
        let protocol = forward.local.protocol();
        if self.forwards.find(protocol, &forward.name).is_some() {
            return Err(ExposeError::Exists { protocol, name: forward.name });
        }
        if self.forwards.listening.len() >= MAX_FORWARDS {
            return Err(ExposeError::TooMany(MAX_FORWARDS));
        }
        if !self.gateway.is_guest(forward.to.ip()) {
            return Err(ExposeError::NotAGuest(forward.to));
        }
        let number = self.forwards.next;
        let opened = open(&forward.local).and_then(|opened| {
            self.poller.watch(&opened.0, Source::Forward(number))?;
            Ok(opened)
        });
        let (socket, address, file) =
            opened.map_err(|error| ExposeError::Bind { protocol, name: forward.name.clone(), error })?;
        self.forwards.next += 1;
        seldom!(INFO, 0_u32, "a port is published", %protocol, local = %forward.name, to = %forward.to);
        self.forwards.listening.insert(number, Listening { forward, socket, _file: file });
        Ok(address)
    }

    /// Connections that stand go on.
    pub(super) fn unexpose(&mut self, protocol: &str, name: &str) -> bool {
        let Some(number) = self.forwards.find(protocol, name) else { return false };
        self.forwards.listening.remove(&number);
        seldom!(INFO, 0_u32, "a port is no longer published", %protocol, local = %name);
        true
    }

    pub(super) fn forward_ready(&mut self, now: Instant, number: u32) {
        let Some(listening) = self.forwards.listening.get(&number) else { return };
        let (local, to) = (&listening.forward.local, listening.forward.to);
        let udp = matches!(local, Local::Udp(_));
        // What strangers do is the work of the guest that they come to.
        let tenant = self.gateway.tenant_of_guest(to.ip());
        let more = if self.turns.left(tenant) == 0 {
            self.counters.turns_over += 1;
            true
        } else if udp {
            self.receive(now, number, tenant)
        } else {
            self.accept(now, number, tenant)
        };
        if more {
            self.turns.wait(tenant, Source::Forward(number));
        }
    }

    fn accept(&mut self, now: Instant, number: u32, tenant: u32) -> bool {
        for _ in 0..TURN {
            if self.turns.left(tenant) == 0 {
                break;
            }
            let Some(Listening { forward, socket, .. }) = self.forwards.listening.get(&number) else { return false };
            let (fd, client) = match acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((fd, client)) => (fd, client.and_then(|client| SocketAddr::try_from(client).ok())),
                Err(Errno::AGAIN) => return false,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(errno) => {
                    // Descriptors or memory are used up; trying at once again would keep everybody from giving some back.
                    self.counters.no_socket += 1;
                    if !self.retries.iter().any(|(_, waiting)| *waiting == Source::Forward(number)) {
                        seldom!(WARN, number, "cannot accept connections for now", local = %forward.name, error = %errno);
                        self.retries.insert((now + RETRY, Source::Forward(number)));
                    }
                    return false;
                }
            };
            self.turns.spend(tenant, turns::OPENING + turns::ACCEPT);
            self.counters.accepted += 1;
            let prologue = match (forward.proxy_protocol, client, rustix::net::getsockname(&fd)) {
                // A socket for both families sees IPv4 as mapped IPv6.
                (true, Some(client), Ok(local)) => SocketAddr::try_from(local)
                    .map_or_else(|_| Vec::new(), |local| proxy_protocol::encode(canonical(client), canonical(local))),
                _ => Vec::new(),
            };
            let to = forward.to;
            if let Local::Tcp(_) = forward.local {
                tune(&fd);
            }
            self.join(now, fd, to, prologue);
        }
        true
    }

    /// Joins a connection to a guest's port.
    pub(super) fn join(&mut self, now: Instant, fd: OwnedFd, to: SocketAddr, prologue: Vec<u8>) {
        // What is over must be closed as it ended before its number is given to another.
        while let Some(output) = self.gateway.poll_output() {
            self.obey(now, output);
        }
        match self.gateway.connect(now, to) {
            Ok(flow) => match self.poller.watch(&fd, Source::Flow(flow)) {
                Ok(()) => self.add_flow(flow, fd, false, prologue),
                Err(errno) => {
                    seldom!(WARN, 0_u32, "cannot watch a connection", error = %errno);
                    self.gateway.abort(now, flow);
                }
            },
            Err(error) => {
                self.counters.accept_refused += 1;
                tracing::debug!(%to, %error, "a connection is closed again");
                // The client sees a reset, as from a port where nobody listens.
                let _ = sockopt::set_socket_linger(&fd, Some(Duration::ZERO));
            }
        }
    }

    fn receive(&mut self, now: Instant, number: u32, tenant: u32) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut more = true;
        for _ in 0..TURN {
            if self.turns.left(tenant) == 0 {
                break;
            }
            let changes = self.gateway.changes();
            let Some(Listening { forward, socket, .. }) = self.forwards.listening.get(&number) else { break };
            let (n, client) = match recvfrom(socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((n, _, client)) => match client.and_then(|client| SocketAddr::try_from(client).ok()) {
                    Some(client) => (n, client),
                    None => continue,
                },
                Err(Errno::AGAIN) => {
                    more = false;
                    break;
                }
                Err(errno) if is_shortage(errno) => {
                    self.retry(now, Source::Forward(number));
                    more = false;
                    break;
                }
                // What the world said about an answer; nobody waits for it.
                Err(_) => continue,
            };
            let to = forward.to;
            // One that was evicted a moment ago may still be noted, and its number be another's.
            let known = self.inbound.get(&(number, client)).copied().filter(|session| self.has_session(*session));
            let session = match known {
                Some(session) => Ok(session),
                None => {
                    let opened = self.gateway.open_session(now, to, client);
                    // Whoever made room for it is closed before its number is taken.
                    while let Some(output) = self.gateway.poll_output() {
                        self.obey(now, output);
                    }
                    opened.inspect(|session| self.add_inbound(*session, number, client))
                }
            };
            match session {
                Ok(session) => self.gateway.handle_datagram(now, session, &buffer[..n]),
                Err(error) => {
                    self.counters.accept_refused += 1;
                    tracing::debug!(%client, %error, "a datagram is dropped");
                }
            }
            self.turns.spend(tenant, turns::DATAGRAM + (self.gateway.changes() - changes) * turns::OPENING);
        }
        self.buffer = buffer;
        more
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn open(local: &Local) -> std::io::Result<(OwnedFd, SocketAddr, Option<SocketFile>)> {
    let (socket, address, file): (OwnedFd, SocketAddr, _) = match local {
        Local::Tcp(address) => {
            let listener = TcpListener::bind(address)?;
            rustix::net::listen(&listener, BACKLOG)?;
            let address = listener.local_addr()?;
            (listener.into(), address, None)
        }
        Local::Udp(address) => {
            let socket = UdpSocket::bind(address)?;
            let address = socket.local_addr()?;
            (socket.into(), address, None)
        }
        Local::Unix(path) => {
            let (listener, file) = bind_unix(path)?;
            (listener.into(), (Ipv4Addr::UNSPECIFIED, 0).into(), Some(file))
        }
    };
    io::ioctl_fionbio(&socket, true)?;
    Ok((socket, address, file))
}

/// Unlike gvproxy, which removes whatever has that name, takes only the place of a socket on which nobody listens.
fn bind_unix(path: &Path) -> std::io::Result<(UnixListener, SocketFile)> {
    clear_stale(path).map_err(|e| std::io::Error::new(std::io::ErrorKind::AddrInUse, e.to_string()))?;
    let listener = UnixListener::bind(path)?;
    Ok((listener, SocketFile::of(path)?))
}
