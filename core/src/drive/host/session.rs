//! The world's end of datagram sessions: one socket for each, or the published port's for those that the world began.

use super::{Complaint, Host, Notice, Source, World, forward::Client};
use crate::{
    drive::Errno,
    gateway::{Kind, SessionError, SessionId, turns},
    time::Instant,
};
use core::{net::SocketAddr, time::Duration};

/// The world's end of one session.
pub(super) struct SessionSocket<W: World> {
    session: SessionId,
    end: End<W>,
    /// The host's addresses and routes ([`Host::uplink`]) that the socket is known to fit.
    uplink: u64,
    /// When another socket was last tried because of an error.
    tried: Option<Instant>,
    hop_limit: HopLimit,
}

/// What a socket was told of how far its datagrams may go.
#[derive(Clone, Copy, Debug, Default)]
struct HopLimit {
    /// 0 for the kernel's own.
    set: u8,
    /// Routers on the way are heard.
    heard: bool,
}

pub(super) enum End<W: World> {
    /// A socket that is connected to the peer.
    Own(W::Datagrams),
    /// The published port with this number, where this client is.
    Published(u32, Client),
}

/// How soon another socket is tried again after an error.
const RETRY: Duration = Duration::from_secs(1);

/// From here down, a datagram may well be meant to end on the way: `traceroute` goes up to 30.
const SHORT: u8 = 32;
/// Entries of an error queue that are looked at in one turn.
const COMPLAINTS: usize = 16;
/// Datagrams read from one socket before others get their turn.
const TURN: usize = 64;

impl<W: World> Host<W> {
    /// Sends what a guest has for the world.
    pub(super) fn send_datagram(
        &mut self,
        session: SessionId,
        kind: Kind,
        to: SocketAddr,
        payload: &[u8],
        hop_limit: u8,
    ) {
        if !self.has_session(session) {
            match self.open_socket(session, kind, to) {
                Ok(socket) => self.add_session(session, End::Own(socket)),
                Err(errno) => {
                    self.world.tell(Notice::NoDatagrams { to, kind, error: errno });
                    self.counters.no_socket += 1;
                    self.ping_refused(kind, errno);
                    if let Some(error) = session_error(errno) {
                        self.gateway.handle_session_error(session, error);
                    }
                    return self.gateway.close_session(session);
                }
            }
        }
        self.follow_uplink(session, kind, to);
        self.reach(session, to, hop_limit);
        let mut sent = self.send_once(session, to, payload);
        if let Err(errno) = sent
            && is_about_the_way_out(errno)
            && self.try_another(session, kind, to)
        {
            self.reach(session, to, hop_limit);
            sent = self.send_once(session, to, payload);
        }
        if let Err(errno) = sent {
            self.counters.datagrams_refused += 1;
            if let Some(error) = session_error(errno) {
                self.gateway.handle_session_error(session, error);
            }
        }
    }

    /// Tells a session's own socket how far its datagrams may go.
    fn reach(&mut self, session: SessionId, to: SocketAddr, hop_limit: u8) {
        if let Some(SessionSocket { end: End::Own(socket), hop_limit: far, .. }) =
            self.sessions.get_mut(session.index()).and_then(Option::as_mut)
            && far.set != hop_limit
        {
            self.world.set_hop_limit(socket, to, hop_limit);
            far.set = hop_limit;
            if hop_limit <= SHORT && !far.heard {
                far.heard = self.world.hear_complaints(socket, to);
            }
        }
    }

    /// The kernel lets nobody of our groups send pings: said once, because somebody has to change that.
    fn ping_refused(&mut self, kind: Kind, errno: Errno) {
        if kind != Kind::Ping || !matches!(errno, Errno::ACCESS | Errno::PERM) {
            return;
        }
        self.counters.pings_refused += 1;
        if self.counters.pings_refused == 1 {
            self.world.tell(Notice::PingsRefused);
        }
    }

    fn send_once(&mut self, session: SessionId, to: SocketAddr, payload: &[u8]) -> Result<(), Errno> {
        let Some(SessionSocket { end, .. }) = self.sessions.get_mut(session.index()).and_then(Option::as_mut) else {
            return Ok(());
        };
        match end {
            End::Own(socket) => self.world.send(socket, payload).inspect_err(|errno| {
                if *errno == Errno::MSGSIZE
                    && let Some(mtu) = self.world.path_mtu(socket, to)
                {
                    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
                    self.gateway.handle_session_error(session, SessionError::TooLong(mtu));
                }
            }),
            End::Published(forward, Client { address, asked }) => match self.forwards.socket(*forward) {
                Some(listener) => self.world.send_to(listener, payload, *address, *asked),
                // It was unexposed; its sessions end with their silence.
                None => Ok(()),
            },
        }
    }

    /// A connected socket keeps the address that it began with. After the host's addresses or routes have changed, one that
    /// would begin with another takes its place: as with the kernel's own NAT, whose mapping would be gone too.
    fn follow_uplink(&mut self, session: SessionId, kind: Kind, to: SocketAddr) {
        let uplink = self.uplink;
        let Some(socket) = self.sessions.get_mut(session.index()).and_then(Option::as_mut) else { return };
        if socket.uplink == uplink {
            return;
        }
        socket.uplink = uplink;
        let End::Own(old) = &mut socket.end else { return };
        let before = self.world.source_address(old);
        // Where there is no way at all now, the next change is waited for.
        if let Ok(mut new) = self.world.talk(kind, to)
            && self.world.source_address(&mut new) != before
        {
            self.replace_socket(session, new);
        }
    }

    /// After an error that another socket may not have; true if there is one now.
    fn try_another(&mut self, session: SessionId, kind: Kind, to: SocketAddr) -> bool {
        let now = self.world.now();
        let Some(socket) = self.sessions.get_mut(session.index()).and_then(Option::as_mut) else { return false };
        if !matches!(socket.end, End::Own(_)) || socket.tried.is_some_and(|tried| now.since(tried) < RETRY) {
            return false;
        }
        socket.tried = Some(now);
        self.world.talk(kind, to).is_ok_and(|new| self.replace_socket(session, new))
    }

    fn replace_socket(&mut self, session: SessionId, mut new: W::Datagrams) -> bool {
        if self.world.watch_datagrams(&mut new, Source::Session(session)).is_err() {
            return false;
        }
        if let Some(socket) = self.sessions.get_mut(session.index()).and_then(Option::as_mut) {
            socket.end = End::Own(new);
            socket.hop_limit = HopLimit::default();
            self.counters.sockets_replaced += 1;
        }
        true
    }

    fn open_socket(&mut self, session: SessionId, kind: Kind, to: SocketAddr) -> Result<W::Datagrams, Errno> {
        let mut socket = self.world.talk(kind, to)?;
        self.world.watch_datagrams(&mut socket, Source::Session(session))?;
        Ok(socket)
    }
}

/// Whether an error may come of an address or a way out that are no longer there.
fn is_about_the_way_out(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::INVAL | Errno::ADDRNOTAVAIL | Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN | Errno::NODEV
    )
}

impl<W: World> Host<W> {
    /// Whether a session is known here.
    pub(super) fn has_session(&self, session: SessionId) -> bool {
        self.sessions.get(session.index()).and_then(Option::as_ref).is_some_and(|socket| socket.session == session)
    }

    /// The world's end of a session.
    pub(super) fn end_of(&self, session: SessionId) -> Option<&End<W>> {
        let socket = self.sessions.get(session.index())?.as_ref()?;
        (socket.session == session).then_some(&socket.end)
    }

    fn add_session(&mut self, session: SessionId, end: End<W>) {
        let index = session.index();
        // Another one that was evicted for it, and of which the gateway has yet to tell.
        if let Some(old) = self.sessions.get(index).and_then(Option::as_ref).map(|socket| socket.session)
            && old != session
        {
            self.session_closed(old);
        }
        if self.sessions.len() <= index {
            self.sessions.resize_with(index + 1, || None);
        }
        self.sessions[index] =
            Some(SessionSocket { session, end, uplink: self.uplink, tried: None, hop_limit: HopLimit::default() });
    }

    /// A client of a published port begins a session.
    pub(super) fn add_inbound(&mut self, session: SessionId, forward: u32, client: Client) {
        self.add_session(session, End::Published(forward, client));
        self.inbound.insert((forward, client), session);
    }

    pub(super) fn session_ready(&mut self, now: Instant, session: SessionId) {
        let Some(tenant) = self.gateway.tenant_of_session(session) else { return };
        let may = self.turns.left(tenant);
        let (mut more, mut work) = (true, 0);
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..TURN {
            if work >= may {
                self.counters.turns_over += 1;
                break;
            }
            work += turns::DATAGRAM;
            let socket = self.sessions.get_mut(session.index()).and_then(Option::as_mut);
            let Some(SessionSocket { end: End::Own(socket), hop_limit, .. }) =
                socket.filter(|socket| socket.session == session)
            else {
                more = false;
                break;
            };
            match self.world.receive(socket, &mut buffer) {
                Ok(n) => self.gateway.handle_datagram(now, session, &buffer[..n]),
                Err(Errno::AGAIN) => {
                    more = false;
                    break;
                }
                Err(Errno::INTR) => {}
                Err(errno) if errno.is_shortage() => {
                    self.retry(now, Source::Session(session));
                    more = false;
                    break;
                }
                // What the world said about an earlier datagram; it is said once.
                Err(errno) => {
                    let on_the_way = hop_limit.heard && errno == Errno::HOSTUNREACH;
                    let routers = if hop_limit.heard { routers(&mut self.world, socket) } else { Vec::new() };
                    let expired = !routers.is_empty();
                    for complaint in routers {
                        self.gateway.handle_session_expired(session, complaint.from, &complaint.quoted);
                    }
                    if on_the_way && expired {
                        continue;
                    }
                    if let Some(error) = session_error(errno) {
                        self.gateway.handle_session_error(session, error);
                    }
                }
            }
        }
        self.buffer = buffer;
        self.turns.spend(tenant, work);
        if more {
            self.turns.wait(tenant, Source::Session(session));
        }
    }

    pub(super) fn session_closed(&mut self, session: SessionId) {
        let Some(slot) = self.sessions.get_mut(session.index()) else { return };
        let socket = slot.take_if(|socket| socket.session == session);
        if let Some(SessionSocket { end: End::Published(forward, client), .. }) = socket
            && self.inbound.get(&(forward, client)) == Some(&session)
        {
            self.inbound.remove(&(forward, client));
        }
    }
}

/// The routers that have dropped datagrams of a socket because these had passed as many links as they may: those whose ICMP message
/// is `Time Exceeded`.
fn routers<W: World>(world: &mut W, socket: &mut W::Datagrams) -> Vec<Complaint> {
    let mut routers = Vec::new();
    for _ in 0..COMPLAINTS {
        match world.complaint(socket) {
            Ok(Some(complaint)) if complaint.kind == if complaint.from.is_ipv4() { 11 } else { 3 } => {
                routers.push(complaint)
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    routers
}

/// What a guest should learn of an error; `None` if it says nothing about the way to the peer.
fn session_error(errno: Errno) -> Option<SessionError> {
    match errno {
        Errno::CONNREFUSED => Some(SessionError::Refused),
        Errno::HOSTUNREACH | Errno::HOSTDOWN => Some(SessionError::HostUnreachable),
        Errno::NETUNREACH | Errno::NETDOWN => Some(SessionError::NetworkUnreachable),
        Errno::ACCESS | Errno::PERM => Some(SessionError::Prohibited),
        _ => None,
    }
}
