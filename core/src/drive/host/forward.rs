//! Published ports: what the world sends there reaches a guest.
//!
//! Bounds: as many as [`super::Config`] says, of which each has a descriptor and about a kilobyte.

use super::{ExposeError, Forward, Host, Local, Notice, RETRY, Received, Source, Who, World};
use crate::{
    drive::Errno,
    gateway::{
        FlowId,
        publishing::{Asker, Holder, NotForGuests, Publishing},
        turns,
    },
    proxy_protocol,
    time::Instant,
};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::collections::BTreeMap;

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

struct Listening<W: World> {
    forward: Forward,
    socket: W::Listener,
    /// With the port that was given for port 0.
    address: SocketAddr,
    /// Connections whose guest has yet to answer.
    opening: usize,
    /// No more are accepted before some of them are open, or over.
    crowded: bool,
}

/// All published ports, by number.
pub(super) struct Forwards<W: World> {
    listening: BTreeMap<u32, Listening<W>>,
    /// By protocol and name.
    by_name: BTreeMap<(&'static str, String), u32>,
    /// Port numbers of the operator's, by protocol, and how often.
    operators: BTreeMap<(&'static str, u16), usize>,
    next: u32,
    /// Which of them guests have published.
    pub(super) publishing: Publishing,
}

impl<W: World> Default for Forwards<W> {
    fn default() -> Self {
        Self {
            listening: BTreeMap::new(),
            by_name: BTreeMap::new(),
            operators: BTreeMap::new(),
            next: 0,
            publishing: Publishing::default(),
        }
    }
}

impl<W: World> Forwards<W> {
    /// The socket of a published port.
    pub(super) fn socket(&mut self, number: u32) -> Option<&mut W::Listener> {
        self.listening.get_mut(&number).map(|listening| &mut listening.socket)
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

impl<W: World> Forwards<W> {
    /// Whether somebody may see a forward, and end it.
    fn is_of(&self, who: Who, number: u32) -> bool {
        match who {
            Who::Operator => true,
            Who::Guest(asker) => self.publishing.tenant(number) == Some(asker.tenant),
        }
    }

    fn add(&mut self, number: u32, listening: Listening<W>) {
        let (protocol, port) = (listening.forward.local.protocol(), listening.address.port());
        self.by_name.insert((protocol, listening.forward.name.clone()), number);
        if self.publishing.tenant(number).is_none() {
            *self.operators.entry((protocol, port)).or_default() += 1;
        }
        self.listening.insert(number, listening);
    }

    fn remove(&mut self, number: u32) -> Option<Listening<W>> {
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

impl<W: World> Host<W> {
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
        let opened = self.world.listen(&forward.local, Source::Forward(number));
        let (socket, address) =
            opened.map_err(|error| ExposeError::Bind { protocol, name: forward.name.clone(), error })?;
        self.forwards.next += 1;
        if let Who::Guest(asker) = who {
            self.forwards.publishing.add(now, number, asker, forward.to);
        }
        let publisher = self.forwards.publishing.tenant(number);
        self.world.tell(Notice::Published { publisher, protocol, local: &forward.name, to: forward.to });
        self.forwards.add(number, Listening { forward, socket, address, opening: 0, crowded: false });
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
        let publisher = self.forwards.publishing.tenant(number);
        if let Some(Listening { forward, .. }) = self.forwards.remove(number) {
            let protocol = forward.local.protocol();
            self.world.tell(Notice::Unpublished { publisher, protocol, local: &forward.name });
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
            let Listening { forward, socket, .. } = listening;
            let (mut stream, client) = match self.world.accept(socket) {
                Ok(accepted) => accepted,
                Err(Errno::AGAIN) => return false,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(errno) => {
                    // Descriptors or memory are used up; trying at once again would keep everybody from giving some back.
                    self.counters.no_socket += 1;
                    if !self.retries.iter().any(|(_, waiting)| *waiting == Source::Forward(number)) {
                        let local = &forward.name;
                        self.world.tell(Notice::CannotAccept { forward: number, local, error: errno });
                        self.retries.insert((now + RETRY, Source::Forward(number)));
                    }
                    return false;
                }
            };
            self.turns.spend(tenant, turns::OPENING + turns::ACCEPT);
            self.counters.accepted += 1;
            let local = if forward.proxy_protocol { self.world.local_address(&mut stream) } else { None };
            let prologue = match (client, local) {
                // A socket for both families sees IPv4 as mapped IPv6.
                (Some(client), Some(local)) => proxy_protocol::encode(canonical(client), canonical(local)),
                _ => Vec::new(),
            };
            let to = forward.to;
            if let Local::Tcp(_) = forward.local {
                self.world.tune(&mut stream);
            }
            if !self.leads_to_its_guest(number, to) {
                self.counters.accept_refused += 1;
                self.world.reset(&mut stream);
                continue;
            }
            if let Some(flow) = self.join(now, stream, to, prologue) {
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
    pub(super) fn join(
        &mut self,
        now: Instant,
        mut stream: W::Stream,
        to: SocketAddr,
        prologue: Vec<u8>,
    ) -> Option<FlowId> {
        // What is over must be closed as it ended before its number is given to another.
        while let Some(output) = self.gateway.poll_output() {
            self.obey(now, output);
        }
        match self.gateway.connect(now, to) {
            Ok(flow) => match self.world.watch(&mut stream, Source::Flow(flow)) {
                Ok(()) => {
                    self.add_flow(flow, stream, false, prologue);
                    return Some(flow);
                }
                Err(error) => {
                    self.world.tell(Notice::FlowUnwatched { error });
                    self.gateway.abort(now, flow);
                }
            },
            Err(error) => {
                self.counters.accept_refused += 1;
                self.world.tell(Notice::NotOpened { to, error });
                // The client sees a reset, as from a port where nobody listens.
                self.world.reset(&mut stream);
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
            let Some(Listening { forward, socket, .. }) = self.forwards.listening.get_mut(&number) else { break };
            let (n, client) = match self.world.receive_from(socket, &mut buffer) {
                Ok(Received { len, client: Some(address), asked }) => {
                    // Nothing is sent from the address of a group.
                    let asked = asked.filter(|asked| !asked.to_canonical().is_multicast() && !is_broadcast(*asked));
                    (len, Client { address, asked })
                }
                Ok(Received { client: None, .. }) => continue,
                Err(Errno::AGAIN) => {
                    more = false;
                    break;
                }
                Err(errno) if errno.is_shortage() => {
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
                    self.world.tell(Notice::DatagramDropped { client: client.address, error });
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
