//! Datagrams: sessions of UDP and pings, and questions about names that wait for their answers.
//!
//! Owns: the sessions, and who has asked what. Driven by: the machine, with what guests send and what the world answers.
//! Bounds: those of [`Sessions`] and of [`Questions`].

mod questions;
mod quote;

use super::{
    counters::Counters,
    handled::{OpenError, SessionError},
    lan::{Lan, NOBODY, Place},
    neighbour::{Spoofed, Waiter},
    network::Network,
    output::{Output, Outputs, SessionId},
    port::PortId,
    session::{Kind, SessionKey, Sessions},
    tenant::{Origin, Tenants},
    wire::{self, ICMP, Unreachable},
};
use crate::time::Instant;
use core::net::{IpAddr, SocketAddr};
use questions::Questions;
use quote::{Echo, echo, quoted};

/// What the rest of the gateway lends for one call.
pub(super) struct Lent<'a> {
    pub(super) lan: &'a mut Lan,
    pub(super) tenants: &'a mut Tenants,
    pub(super) out: &'a mut Outputs,
    pub(super) counters: &'a mut Counters,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Datagrams {
    network: Network,
    sessions: Sessions,
    questions: Questions,
}

impl Datagrams {
    /// At most `max` sessions.
    pub(super) fn new(network: Network, max: usize, seed: u64) -> Self {
        Self { network, sessions: Sessions::new(max, seed), questions: Questions::default() }
    }

    /// A link is gone.
    pub(super) fn detach(&mut self, port: PortId) {
        self.questions.detach(port);
    }

    /// Sessions now.
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whose a session is; `None` once it is over.
    pub(super) fn tenant(&self, session: SessionId) -> Option<u32> {
        self.sessions.get(session).map(|session| session.key.tenant)
    }

    /// Where a session leads; `None` once it is over.
    pub(super) fn destination(&self, session: SessionId) -> Option<SocketAddr> {
        self.sessions.get(session).map(|session| session.to)
    }

    /// Ends sessions that are idle; gives how many.
    pub(super) fn handle_timeout(&mut self, now: Instant, tenants: &mut Tenants, out: &mut Outputs) -> u64 {
        self.sessions.handle_timeout(now, tenants, out)
    }

    /// When to call [`Datagrams::handle_timeout`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.sessions.poll_timeout()
    }

    /// The session of a guest's datagram, which counts as a sign of life.
    pub(super) fn find(
        &mut self,
        now: Instant,
        lan: &mut Lan,
        key: &SessionKey,
        from: Place,
    ) -> Result<Option<SessionId>, Spoofed> {
        let (ports, owners) = lan.owners();
        self.sessions.find(now, ports, owners, key, from)
    }

    /// A guest begins a session that leads to `to`. `None` if it may not; why is counted.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        Lent { tenants, out, counters, .. }: Lent<'_>,
        key: SessionKey,
        to: SocketAddr,
        from: Place,
    ) -> Option<SessionId> {
        self.sessions
            .open(now, tenants, out, key, Origin::Guest, to, Some(from))
            .map_err(|refusal| counters.refuse(refusal))
            .ok()
    }

    /// The world begins a session with a guest; what the guest answers goes to `to`.
    pub(super) fn open(
        &mut self,
        now: Instant,
        Lent { lan, tenants, out, counters }: Lent<'_>,
        guest: SocketAddr,
        to: SocketAddr,
    ) -> Result<SessionId, OpenError> {
        let address = guest.ip();
        if !self.network.is_guest(address) {
            return Err(OpenError::NotAGuest(address));
        }
        let place = lan.guest(address);
        let tenant = lan.tenant_of_guest(address).unwrap_or(NOBODY);
        let gateway = self.network.gateway_for(address);
        let key = self.sessions.free_key(tenant, gateway, (address, guest.port())).ok_or(OpenError::Limit)?;
        self.sessions.open(now, tenants, out, key, Origin::World, to, place).map_err(|refusal| {
            counters.refuse(refusal);
            OpenError::Limit
        })
    }

    /// Ends a session.
    pub(super) fn close(&mut self, tenants: &mut Tenants, out: &mut Outputs, session: SessionId) {
        self.sessions.close(tenants, out, session);
    }

    /// A guest has nobody where a session of UDP leads: with it goes the way of the world to the guest.
    pub(super) fn refuse(
        &mut self,
        now: Instant,
        Lent { lan, tenants, out, .. }: Lent<'_>,
        key: &SessionKey,
        from: Place,
    ) {
        // A published port's client can be told, and begins another session.
        if let Ok(Some(session)) = self.find(now, lan, key, from) {
            if self.sessions.is_of_the_world(session) {
                out.push_back(Output::SessionRefused(session));
            }
            self.sessions.close(tenants, out, session);
        }
    }

    /// A datagram has arrived for a session: UDP payload, or an ICMP echo reply from its type on.
    pub(super) fn handle(
        &mut self,
        now: Instant,
        Lent { lan, tenants, counters, .. }: Lent<'_>,
        session: SessionId,
        payload: &[u8],
    ) {
        let Some(found) = self.sessions.heard(now, session) else { return };
        let (key, place) = (found.key, found.place);
        let place = place.filter(|(port, _)| lan.tenant(*port).is_some());
        // No number tells whether the next one with its address is still the guest that began it: it says so by speaking.
        if place.is_none() && !self.network.is_gateway(key.remote.0) {
            counters.unheard += 1;
            return;
        }
        match place.or_else(|| self.guest_of(lan, tenants, session, &key)) {
            Some(place) => answer(lan, counters, place, &key, payload),
            None => {
                let waits = lan.wait(now, counters, key.guest.0, Waiter::Datagram(session, payload.to_vec()));
                counters.link_full += u64::from(!waits);
            }
        }
    }

    /// A datagram has waited until it was known where its guest is: there.
    pub(super) fn handle_found(
        &mut self,
        Lent { lan, tenants, counters, .. }: Lent<'_>,
        session: SessionId,
        place: Place,
        payload: &[u8],
    ) {
        let key = self.sessions.get(session).map(|session| session.key);
        if let Some(key) = key.filter(|key| self.guest_of(lan, tenants, session, key).is_some()) {
            answer(lan, counters, place, &key, payload);
        }
    }

    /// Where the guest of a session is that the world began: it is for whoever has the guest's address.
    fn guest_of(&mut self, lan: &Lan, tenants: &mut Tenants, session: SessionId, key: &SessionKey) -> Option<Place> {
        let place = lan.guest(key.guest.0)?;
        let tenant = lan.tenant(place.0)?;
        let worlds = self.network.is_gateway(key.remote.0);
        (worlds && self.sessions.resolved(tenants, session, tenant, place)).then_some(place)
    }

    /// The world refuses a session's datagrams.
    pub(super) fn handle_error(&self, Lent { lan, counters, .. }: Lent<'_>, session: SessionId, error: SessionError) {
        let Some((to, key)) = self.place(session) else { return };
        let gateway = self.network.gateway_for(key.guest.0);
        let (from, why) = match error {
            SessionError::Refused => (key.remote.0, Unreachable::Port),
            SessionError::HostUnreachable => (gateway, Unreachable::Host),
            SessionError::NetworkUnreachable => (gateway, Unreachable::Network),
            SessionError::Prohibited => (gateway, Unreachable::Prohibited),
            SessionError::TooLong(mtu) => (gateway, Unreachable::FragmentationNeeded(mtu)),
        };
        lan.send_error(counters, to, from, key.guest.0, &quoted(&key, &[]), why);
    }

    /// A router on the way has dropped a session's datagram, which had passed as many links as it may.
    pub(super) fn handle_expired(
        &self,
        Lent { lan, counters, .. }: Lent<'_>,
        session: SessionId,
        router: IpAddr,
        message: &[u8],
    ) {
        let Some((to, key)) = self.place(session) else { return };
        let router = router.to_canonical();
        let foreign =
            router.is_ipv4() == key.guest.0.is_ipv4() && !self.network.is_inside(router) && !router.is_unspecified();
        let from = if foreign { router } else { self.network.gateway_for(key.guest.0) };
        lan.send_error(counters, to, from, key.guest.0, &quoted(&key, message), Unreachable::HopLimit);
    }

    fn place(&self, session: SessionId) -> Option<(Place, SessionKey)> {
        let found = self.sessions.get(session)?;
        Some((found.place?, found.key))
    }

    /// A guest asks about a name. Gives the number of its question; `None` if its link has too many that wait.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        lan: &mut Lan,
        from: Place,
        address: (IpAddr, u16),
        server: IpAddr,
    ) -> Option<u64> {
        self.questions.ask(now, lan, from, address, server)
    }

    /// The answer to a question, if it still waits.
    pub(super) fn handle_answer(&mut self, lan: &mut Lan, counters: &mut Counters, client: u64, answer: &[u8]) {
        if let Some((place, server, address)) = self.questions.take(client) {
            lan.send_udp(counters, place, (server, 53), address, answer);
        }
    }

    /// A question that nobody answers: its place is free.
    pub(super) fn forget(&mut self, client: u64) {
        self.questions.take(client);
    }
}

/// A session's datagram goes to its guest.
fn answer(lan: &mut Lan, counters: &mut Counters, to: Place, key: &SessionKey, payload: &[u8]) {
    // However much the world sends, the gateway can still say where it is.
    if !lan.has_room(to, payload.len()) {
        counters.link_full += 1;
        return;
    }
    match key.kind {
        Kind::Udp => lan.send_udp(counters, to, key.remote, key.guest, payload),
        Kind::Ping => {
            let mut message = payload.to_vec();
            if message.len() < ICMP {
                counters.malformed += 1;
                return;
            }
            message[4..6].copy_from_slice(&key.guest.1.to_be_bytes());
            send_echo_reply(lan, counters, to, key.remote.0, key.guest.0, message);
        }
    }
    counters.datagrams_out += 1;
}

/// Makes the answer of an echo request, or of what has come back for one.
pub(super) fn send_echo_reply(
    lan: &mut Lan,
    counters: &mut Counters,
    to: Place,
    source: IpAddr,
    destination: IpAddr,
    mut message: Vec<u8>,
) {
    let Echo { protocol, reply, .. } = echo(destination);
    message[0] = reply;
    match destination {
        IpAddr::V4(_) => wire::icmp(&mut message),
        IpAddr::V6(_) => wire::icmpv6(&mut message, source, destination),
    }
    lan.send_ip(counters, to, source, destination, protocol, &message);
}
