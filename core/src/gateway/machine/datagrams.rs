//! Datagrams: what the driver says about sessions, and what guests send.

use super::{
    BROADCAST, Gateway, Handled, Instant, IpAddr, Ipv4Addr, Place, Proto, SessionId, Target, Unreachable, User,
};
use crate::gateway::{
    datagrams,
    handled::{OpenError, SessionError},
    rules::NoTarget,
    session::{Kind, SessionKey},
    wire::{self, Ip, UDP},
};
use core::net::SocketAddr;
use std::borrow::Cow;

impl Gateway {
    /// Opens a session towards a guest, for datagrams that the world begins; what the guest answers goes to `to`.
    ///
    /// # Errors
    /// [`OpenError`] if there is no such guest or no room.
    pub fn open_session(&mut self, now: Instant, guest: SocketAddr, to: SocketAddr) -> Result<SessionId, OpenError> {
        let (datagrams, lent) = self.datagrams();
        datagrams.open(now, lent, guest, to)
    }

    /// Ends a session that the driver cannot serve.
    pub fn close_session(&mut self, session: SessionId) {
        self.datagrams.close(&mut self.tenants, &mut self.out, session);
    }

    /// A datagram has arrived for a session: UDP payload, or an ICMP echo reply from its type on.
    pub fn handle_datagram(&mut self, now: Instant, session: SessionId, payload: &[u8]) {
        let (datagrams, lent) = self.datagrams();
        datagrams.handle(now, lent, session, payload);
    }

    /// The world refuses a session's datagrams.
    pub fn handle_session_error(&mut self, session: SessionId, error: SessionError) {
        let (datagrams, lent) = self.datagrams();
        datagrams.handle_error(lent, session, error);
    }

    /// A router on the way has dropped a session's datagram, which had passed as many links as it may. `message` is what it
    /// quoted: of a ping, the head of the echo request. Its address is told to the guest as it is, unless it could be taken for
    /// somebody's inside.
    pub fn handle_session_expired(&mut self, session: SessionId, router: IpAddr, message: &[u8]) {
        let (datagrams, lent) = self.datagrams();
        datagrams.handle_expired(lent, session, router, message);
    }

    /// The answer to a question of [`Handled::Dns`].
    pub fn handle_dns_answer(&mut self, client: u64, answer: &[u8]) {
        self.datagrams.handle_answer(&mut self.lan, &mut self.counters, client, answer);
    }

    /// A question of [`Handled::Dns`] that nobody answers: its place is free.
    pub fn forget_dns(&mut self, client: u64) {
        self.datagrams.forget(client);
    }

    pub(super) fn handle_udp<'p>(&mut self, now: Instant, from: Place, ip: &Ip<'p>) -> Handled<'p> {
        let payload = ip.payload;
        let (Some(head), Some(tenant)) = (payload.first_chunk::<UDP>(), self.lan.tenant(from.0)) else {
            self.counters.malformed += 1;
            return Handled::Done;
        };
        let (source, destination) = (wire::be16(head, 0), wire::be16(head, 2));
        let len = usize::from(wire::be16(head, 4));
        // Without a checksum, nothing would tell that the addresses are the right ones (RFC 8200 section 8.1).
        let unchecked = ip.source.is_ipv6() && head[6..8] == [0, 0];
        let Some(data) = payload.get(UDP..len).filter(|_| destination != 0 && !unchecked) else {
            self.counters.malformed += 1;
            return Handled::Done;
        };
        if destination == 67 && (ip.destination == self.config.gateway || ip.destination == Ipv4Addr::BROADCAST) {
            self.handle_dhcp(now, from, data);
            return Handled::Done;
        }
        if ip.source.is_unspecified() {
            self.counters.spoofed += 1;
            return Handled::Done;
        }
        if self.network.is_gateway(ip.destination) && destination == 53 {
            self.counters.dns_queries += 1;
            let client = self.datagrams.ask(now, &mut self.lan, from, (ip.source, source), ip.destination);
            let Some(client) = client else {
                self.counters.dns_refused += 1;
                return Handled::Done;
            };
            return Handled::Dns { client, query: Cow::Borrowed(data) };
        }
        let key =
            SessionKey { tenant, kind: Kind::Udp, guest: (ip.source, source), remote: (ip.destination, destination) };
        let Some((session, to)) = self.session(now, from, key, Proto::Udp, ip) else { return Handled::Done };
        let hop_limit = ip.hop_limit().saturating_sub(1).max(1);
        Handled::Datagram { session, kind: Kind::Udp, to, payload: Cow::Borrowed(data), hop_limit }
    }

    /// An echo request: to the gateway, or to the world.
    pub(super) fn handle_echo<'p>(&mut self, now: Instant, from: Place, ip: &Ip<'p>) -> Handled<'p> {
        let payload = ip.payload;
        if self.network.is_own(ip.destination) {
            let Self { lan, counters, .. } = self;
            datagrams::send_echo_reply(lan, counters, from, ip.destination, ip.source, payload.to_vec());
            return Handled::Done;
        }
        let Some(tenant) = self.lan.tenant(from.0) else { return Handled::Done };
        let identifier = wire::be16(payload, 4);
        let key = SessionKey { tenant, kind: Kind::Ping, guest: (ip.source, identifier), remote: (ip.destination, 0) };
        let Some((session, to)) = self.session(now, from, key, Proto::Icmp, ip) else { return Handled::Done };
        let hop_limit = ip.hop_limit().saturating_sub(1).max(1);
        Handled::Datagram { session, kind: Kind::Ping, to, payload: Cow::Borrowed(payload), hop_limit }
    }

    /// The session of a guest's datagram, an old one or a new one, and where it leads.
    fn session(
        &mut self,
        now: Instant,
        from: Place,
        key: SessionKey,
        proto: Proto,
        ip: &Ip<'_>,
    ) -> Option<(SessionId, SocketAddr)> {
        let Ok(known) = self.datagrams.find(now, &mut self.lan, &key, from) else {
            self.counters.spoofed += 1;
            return None;
        };
        let session = match known {
            Some(session) => session,
            None => self.begin_session(now, from, key, proto, ip)?,
        };
        let to = self.datagrams.destination(session)?;
        let mtu = self.config.world_mtu;
        if ip.dont_fragment && ip.packet.len() > mtu.into() && !to.ip().is_loopback() {
            self.tell(from, ip, Unreachable::FragmentationNeeded(mtu));
            return None;
        }
        self.counters.datagrams_in += 1;
        Some((session, to))
    }

    fn begin_session(
        &mut self,
        now: Instant,
        from: Place,
        key: SessionKey,
        proto: Proto,
        ip: &Ip<'_>,
    ) -> Option<SessionId> {
        let (address, port) = key.remote;
        let to = match self.rules.target(now, &mut self.counters, proto, address, port) {
            Ok(Target::Address(to)) => to,
            Ok(Target::Dns | Target::Services) | Err(NoTarget::Nobody) => {
                // Broadcast and multicast get no errors (RFC 1122 section 3.2.2).
                if self.network.is_inside(address) && !self.network.is_broadcast(address) {
                    let Self { lan, counters, .. } = self;
                    lan.send_error(counters, from, address, ip.source, ip.packet, Unreachable::Port);
                }
                return None;
            }
            Err(NoTarget::Denied) => {
                if !address.is_multicast() && address != Ipv4Addr::BROADCAST {
                    self.tell(from, ip, Unreachable::Prohibited);
                }
                return None;
            }
        };
        self.found(now, from, ip.source, false);
        let (datagrams, lent) = self.datagrams();
        let session = datagrams.begin(now, lent, key, to, from)?;
        self.rules.tick(now);
        self.rules.hold(User::Session(session), proto, to);
        Some(session)
    }

    fn handle_dhcp(&mut self, now: Instant, from: Place, data: &[u8]) {
        let Some(reply) = self.lan.handle_dhcp(now, &mut self.counters, from, data) else { return };
        if reply.lease && self.network.is_guest(reply.yiaddr.into()) && self.lan.is_at_home(from) {
            self.found(now, from, reply.yiaddr.into(), true);
        }
        // Only the link that asked: an answer to all would tell other enclaves, which may well use the same number.
        let to = if reply.broadcast { BROADCAST } else { reply.mac };
        let source = (self.network.gateway().into(), 67);
        self.lan.send_udp(&mut self.counters, (from.0, to), source, (reply.to.into(), 68), &reply.payload);
    }
}
