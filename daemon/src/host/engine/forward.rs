//! Published ports: what the world sends there reaches a guest.
//!
//! Bounds: as many as [`super::EngineConfig`] says, of which each has a descriptor and about a kilobyte.

use super::{RETRY, Source, Worker, flow::tune, is_shortage};
use crate::{
    host::{
        control::{ExposeError, Forward, Local, Who},
        socket::{SocketFile, clear_stale},
    },
    sys::pktinfo,
};
use nitrotap_core::{
    gateway::{
        FlowId,
        publishing::{Asker, Holder, NotForGuests, Publishing},
        turns,
    },
    proxy_protocol,
    time::Instant,
};
use rustix::{
    io::{self, Errno},
    net::{AddressFamily, SocketFlags, SocketType, acceptfrom_with, socket_with, sockopt},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
    time::Duration,
};

/// No tenant's number: under it the operator's ports are logged.
const OPERATOR: u32 = u32::MAX;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// Connections of one published port whose guest has yet to answer; more of them wait in its backlog, and cost nothing. A guest
/// that answers within a millisecond can open a quarter of a million per second.
const MAX_OPENING: usize = 256;

/// Connections accepted, or datagrams read, before others get their turn.
const TURN: usize = 64;

/// Who has asked a published port, and at which of the host's addresses, if that must be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    pub(super) asked: Option<IpAddr>,
}

#[derive(Debug)]
struct Listening {
    forward: Forward,
    socket: OwnedFd,
    /// With the port that was given for port 0.
    address: SocketAddr,
    /// Connections whose guest has yet to answer.
    opening: usize,
    /// No more are accepted before some of them are open, or over.
    crowded: bool,
    /// Removed with it.
    _file: Option<SocketFile>,
}

/// All published ports, by number.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    listening: BTreeMap<u32, Listening>,
    /// By protocol and name.
    by_name: BTreeMap<(&'static str, String), u32>,
    /// Port numbers of the operator's, by protocol, and how often.
    operators: BTreeMap<(&'static str, u16), usize>,
    next: u32,
    /// Which of them guests have published.
    pub(super) publishing: Publishing,
}

impl Forwards {
    /// The socket of a published port.
    pub(super) fn socket(&self, number: u32) -> Option<&OwnedFd> {
        self.listening.get(&number).map(|listening| &listening.socket)
    }

    /// Where it listens.
    pub(super) fn address(&self, number: u32) -> Option<SocketAddr> {
        self.listening.get(&number).map(|listening| listening.address)
    }

    fn find(&self, protocol: &'static str, name: &str) -> Option<u32> {
        self.by_name.get(&(protocol, name.to_owned())).copied()
    }

    /// All of them that somebody may see, by name and then protocol.
    pub(super) fn all(&self, who: Who) -> Vec<Forward> {
        let seen = self.listening.iter().filter(|(number, _)| self.is_of(who, **number));
        let mut all: Vec<Forward> = seen.map(|(_, listening)| listening.forward.clone()).collect();
        all.sort_by(|a, b| (&a.name, a.local.protocol()).cmp(&(&b.name, b.local.protocol())));
        all
    }
}

impl Forwards {
    /// Whether somebody may see a forward, and end it.
    fn is_of(&self, who: Who, number: u32) -> bool {
        match who {
            Who::Operator => true,
            Who::Guest(asker) => self.publishing.tenant(number) == Some(asker.tenant),
        }
    }

    fn add(&mut self, number: u32, listening: Listening) {
        let (protocol, port) = (listening.forward.local.protocol(), listening.address.port());
        self.by_name.insert((protocol, listening.forward.name.clone()), number);
        if self.publishing.tenant(number).is_none() {
            *self.operators.entry((protocol, port)).or_default() += 1;
        }
        self.listening.insert(number, listening);
    }

    fn remove(&mut self, number: u32) -> Option<Listening> {
        let listening = self.listening.remove(&number)?;
        let (protocol, port) = (listening.forward.local.protocol(), listening.address.port());
        self.by_name.remove(&(protocol, listening.forward.name.clone()));
        if self.publishing.tenant(number).is_none()
            && let Some(count) = self.operators.get_mut(&(protocol, port))
        {
            *count -= 1;
            if *count == 0 {
                self.operators.remove(&(protocol, port));
            }
        }
        self.publishing.remove(number);
        Some(listening)
    }

    /// Whether the operator uses a port number, at whatever address.
    fn is_operators(&self, protocol: &'static str, port: u16) -> bool {
        self.operators.contains_key(&(protocol, port))
    }
}

impl Worker {
    pub(super) fn expose(&mut self, now: Instant, who: Who, forward: Forward) -> Result<SocketAddr, ExposeError> {
        if let Who::Guest(asker) = who {
            self.may_publish(asker, &forward)?;
        }
        let protocol = forward.local.protocol();
        if self.forwards.find(protocol, &forward.name).is_some() {
            return Err(ExposeError::Exists { protocol, name: forward.name });
        }
        if self.forwards.listening.len() >= self.max_forwards {
            return Err(ExposeError::TooMany(self.max_forwards));
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
        let publisher = match who {
            Who::Operator => OPERATOR,
            Who::Guest(asker) => {
                self.forwards.publishing.add(now, number, asker, forward.to);
                asker.tenant
            }
        };
        seldom!(INFO, publisher, "a port is published", %protocol, local = %forward.name, to = %forward.to);
        self.forwards.add(number, Listening { forward, socket, address, opening: 0, crowded: false, _file: file });
        Ok(address)
    }

    fn may_publish(&self, asker: Asker, forward: &Forward) -> Result<(), NotForGuests> {
        let (protocol, port) = match forward.local {
            Local::Tcp(address) | Local::Udp(address) => (forward.local.protocol(), address.port()),
            Local::Unix(_) => return Err(NotForGuests::Protocol),
        };
        let control = protocol == "tcp" && self.control.iter().any(|socket| socket.port() == port);
        let taken = port != 0 && (control || self.forwards.is_operators(protocol, port));
        let owns = self.gateway.owns(asker, forward.to.ip());
        self.forwards.publishing.check(asker, port, forward.to, owns, taken)
    }

    /// Connections that stand go on.
    pub(super) fn unexpose(&mut self, who: Who, protocol: &'static str, name: &str) -> bool {
        let found = self.forwards.find(protocol, name);
        let Some(number) = found.filter(|number| self.forwards.is_of(who, *number)) else { return false };
        self.close_forward(number);
        true
    }

    fn close_forward(&mut self, number: u32) {
        let publisher = self.forwards.publishing.tenant(number).unwrap_or(OPERATOR);
        if let Some(Listening { forward, .. }) = self.forwards.remove(number) {
            let protocol = forward.local.protocol();
            seldom!(INFO, publisher, "a port is no longer published", %protocol, local = %forward.name);
        }
    }

    /// Ends what guests have published that are gone for good.
    pub(super) fn end_forwards(&mut self, now: Instant) {
        let Self { forwards, gateway, .. } = self;
        for number in forwards.publishing.handle_timeout(now, |tenant, address| gateway.holder(tenant, address)) {
            self.close_forward(number);
        }
    }

    /// Whether what comes to a forward may go on: of what a guest has published, to that guest and nobody else.
    fn leads_to_its_guest(&self, number: u32, to: SocketAddr) -> bool {
        let publisher = self.forwards.publishing.tenant(number);
        publisher.is_none_or(|tenant| self.gateway.holder(tenant, to.ip()) == Holder::Same)
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
            let Some(listening) = self.forwards.listening.get_mut(&number) else { return false };
            if listening.opening >= MAX_OPENING {
                listening.crowded = true;
                self.counters.accepts_held += 1;
                return false;
            }
            let Listening { forward, socket, .. } = &*listening;
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
            if !self.leads_to_its_guest(number, to) {
                self.counters.accept_refused += 1;
                let _ = sockopt::set_socket_linger(&fd, Some(Duration::ZERO));
                continue;
            }
            if let Some(flow) = self.join(now, fd, to, prologue) {
                self.set_opening(flow, number);
                if let Some(listening) = self.forwards.listening.get_mut(&number) {
                    listening.opening += 1;
                }
            }
        }
        true
    }

    /// The guest has answered a connection of a published port, or will not.
    pub(super) fn guest_answered(&mut self, number: Option<u32>) {
        let Some(number) = number else { return };
        let Some(listening) = self.forwards.listening.get_mut(&number) else { return };
        listening.opening = listening.opening.saturating_sub(1);
        if listening.crowded && listening.opening <= MAX_OPENING / 2 {
            listening.crowded = false;
            let tenant = self.gateway.tenant_of_guest(listening.forward.to.ip());
            self.turns.wait(tenant, Source::Forward(number));
        }
    }

    /// Joins a connection to a guest's port; `None` if it is over already.
    pub(super) fn join(&mut self, now: Instant, fd: OwnedFd, to: SocketAddr, prologue: Vec<u8>) -> Option<FlowId> {
        // What is over must be closed as it ended before its number is given to another.
        while let Some(output) = self.gateway.poll_output() {
            self.obey(now, output);
        }
        match self.gateway.connect(now, to) {
            Ok(flow) => match self.poller.watch(&fd, Source::Flow(flow)) {
                Ok(()) => {
                    self.add_flow(flow, fd, false, prologue);
                    return Some(flow);
                }
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
        None
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
            let (n, client) = match pktinfo::receive(socket, &mut buffer) {
                Ok((n, Some(client), asked)) => {
                    // Nothing is sent from the address of a group.
                    let asked = asked.filter(|asked| !asked.to_canonical().is_multicast() && !is_broadcast(*asked));
                    (n, Client { address: client, asked })
                }
                Ok((_, None, _)) => continue,
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
            if !self.leads_to_its_guest(number, to) {
                self.counters.accept_refused += 1;
                self.turns.spend(tenant, turns::DATAGRAM);
                continue;
            }
            // One that was evicted a moment ago may still be noted, and its number be another's.
            let known = self.inbound.get(&(number, client)).copied().filter(|session| self.has_session(*session));
            let session = match known {
                Some(session) => Ok(session),
                None => {
                    let opened = self.gateway.open_session(now, to, canonical(client.address));
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
                    tracing::debug!(client = %client.address, %error, "a datagram is dropped");
                }
            }
            self.turns.spend(tenant, turns::DATAGRAM + (self.gateway.changes() - changes) * turns::OPENING);
        }
        self.buffer = buffer;
        more
    }
}

/// 255.255.255.255, which a socket for both families sees as mapped; that of a network is not told from an address, and
/// cannot be sent from.
fn is_broadcast(address: IpAddr) -> bool {
    address.to_canonical() == IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn open(local: &Local) -> std::io::Result<(OwnedFd, SocketAddr, Option<SocketFile>)> {
    match local {
        Local::Tcp(address) => bind(*address, SocketType::STREAM).map(|(socket, address)| (socket, address, None)),
        Local::Udp(address) => bind(*address, SocketType::DGRAM).map(|(socket, address)| (socket, address, None)),
        Local::Unix(path) => {
            let (listener, file) = bind_unix(path)?;
            let socket = OwnedFd::from(listener);
            io::ioctl_fionbio(&socket, true)?;
            Ok((socket, (Ipv4Addr::UNSPECIFIED, 0).into(), Some(file)))
        }
    }
}

/// An unspecified address of either family is all addresses of both, as in Go (`net.Listen`); of IPv4 alone, where the
/// kernel has no IPv6.
fn bind(address: SocketAddr, kind: SocketType) -> std::io::Result<(OwnedFd, SocketAddr)> {
    if !address.ip().is_unspecified() {
        return bind_one(address, kind);
    }
    match bind_one((Ipv6Addr::UNSPECIFIED, address.port()).into(), kind) {
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::PROTONOSUPPORT)
            ) =>
        {
            bind_one((Ipv4Addr::UNSPECIFIED, address.port()).into(), kind)
        }
        done => done,
    }
}

fn bind_one(address: SocketAddr, kind: SocketType) -> std::io::Result<(OwnedFd, SocketAddr)> {
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
    let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    Ok((socket, bound))
}

/// Unlike gvproxy, which removes whatever has that name, takes only the place of a socket on which nobody listens.
fn bind_unix(path: &Path) -> std::io::Result<(UnixListener, SocketFile)> {
    clear_stale(path).map_err(|e| std::io::Error::new(std::io::ErrorKind::AddrInUse, e.to_string()))?;
    let listener = UnixListener::bind(path)?;
    Ok((listener, SocketFile::of(path)?))
}
