//! Datagrams: sessions of UDP and pings, questions about names, DHCP.

use super::*;

impl Gateway {
    /// Opens a session towards a guest, for datagrams that the world begins; what the guest answers goes to `to`.
    ///
    /// # Errors
    /// [`OpenError`] if there is no such guest or no room.
    pub fn open_session(&mut self, now: Instant, guest: SocketAddr, to: SocketAddr) -> Result<SessionId, OpenError> {
        let address = guest.ip();
        if !self.is_guest(address) {
            return Err(OpenError::NotAGuest(address));
        }
        let place = self.neighbours.find(address);
        let tenant = place.and_then(|place| self.ports.get(place.port)).map_or(NOBODY, |port| port.tenant);
        let gateway = self.gateway_for(address);
        let key = self.sessions.free_key(tenant, gateway, (address, guest.port())).ok_or(OpenError::Limit)?;
        let place = place.map(|place| (place.port, place.mac));
        self.sessions.open(now, &mut self.tenants, &mut self.out, key, Origin::World, to, place).map_err(|refusal| {
            self.counters.refuse(refusal);
            OpenError::Limit
        })
    }

    /// Ends a session that the driver cannot serve.
    pub fn close_session(&mut self, session: SessionId) {
        self.sessions.close(&mut self.tenants, &mut self.out, session);
    }

    /// A datagram has arrived for a session: UDP payload, or an ICMP echo reply from its type on.
    pub fn handle_datagram(&mut self, now: Instant, session: SessionId, payload: &[u8]) {
        let Some(found) = self.sessions.heard(now, session) else { return };
        let (key, place) = (found.key, found.place);
        let place = place.filter(|(port, _)| self.ports.get(*port).is_some());
        // No number tells whether the next one with its address is still the guest that began it: it says so by speaking.
        if place.is_none() && !self.is_gateway(key.remote.0) {
            self.counters.unheard += 1;
            return;
        }
        let place = place.or_else(|| self.guest_of(session, &key));
        let Some(place) = place else {
            match self.neighbours.wait(now, key.guest.0, Waiter::Datagram(session, payload.to_vec())) {
                Ok(true) => self.ask(key.guest.0),
                Ok(false) => {}
                Err(_) => self.counters.link_full += 1,
            }
            return;
        };
        self.answer(place, &key, payload);
    }

    /// A session's datagram goes to its guest.
    pub(super) fn answer(&mut self, to: (PortId, [u8; 6]), key: &SessionKey, payload: &[u8]) {
        // However much the world sends, the gateway can still say where it is.
        if self.ports.get(to.0).is_some_and(|port| port.queue.room() < LAST + payload.len()) {
            self.counters.link_full += 1;
            return;
        }
        match key.kind {
            Kind::Udp => self.send_udp(to, key.remote, key.guest, payload),
            Kind::Ping => {
                let mut message = payload.to_vec();
                if message.len() < ICMP {
                    self.counters.malformed += 1;
                    return;
                }
                message[4..6].copy_from_slice(&key.guest.1.to_be_bytes());
                self.send_echo_reply(to, key.remote.0, key.guest.0, message);
            }
        }
        self.counters.datagrams_out += 1;
    }

    /// Where the guest of a session is that the world began: it is for whoever has the guest's address.
    pub(super) fn guest_of(&mut self, session: SessionId, key: &SessionKey) -> Option<(PortId, [u8; 6])> {
        let found = self.neighbours.find(key.guest.0)?;
        let tenant = self.ports.get(found.port)?.tenant;
        let place = (found.port, found.mac);
        let worlds = self.is_gateway(key.remote.0);
        (worlds && self.sessions.resolved(&mut self.tenants, session, tenant, place)).then_some(place)
    }

    /// The world refuses a session's datagrams.
    pub fn session_failed(&mut self, session: SessionId, error: SessionError) {
        let Some((to, key)) = self.session_place(session) else { return };
        let gateway = self.gateway_for(key.guest.0);
        let (from, why) = match error {
            SessionError::Refused => (key.remote.0, Unreachable::Port),
            SessionError::HostUnreachable => (gateway, Unreachable::Host),
            SessionError::NetworkUnreachable => (gateway, Unreachable::Network),
            SessionError::Prohibited => (gateway, Unreachable::Prohibited),
            SessionError::TooLong(mtu) => (gateway, Unreachable::FragmentationNeeded(mtu)),
        };
        self.send_error(to, from, key.guest.0, &quoted(&key, &[]), why);
    }

    /// A router on the way has dropped a session's datagram, which had passed as many links as it may. `message` is what it
    /// quoted: of a ping, the head of the echo request. Its address is told to the guest as it is, unless it could be taken for
    /// somebody's inside.
    pub fn session_expired(&mut self, session: SessionId, router: IpAddr, message: &[u8]) {
        let Some((to, key)) = self.session_place(session) else { return };
        let router = router.to_canonical();
        let foreign = router.is_ipv4() == key.guest.0.is_ipv4() && !self.is_inside(router) && !router.is_unspecified();
        let from = if foreign { router } else { self.gateway_for(key.guest.0) };
        self.send_error(to, from, key.guest.0, &quoted(&key, message), Unreachable::HopLimit);
    }

    fn session_place(&self, session: SessionId) -> Option<((PortId, [u8; 6]), SessionKey)> {
        let found = self.sessions.get(session)?;
        Some((found.place?, found.key))
    }

    /// The answer to a question of [`Handled::Dns`].
    pub fn handle_dns_answer(&mut self, client: u64, answer: &[u8]) {
        if let Some(DnsClient { port, mac, address, server, .. }) = self.dns_clients.remove(&client) {
            self.send_udp((port, mac), (server, 53), address, answer);
        }
    }

    /// A question of [`Handled::Dns`] that nobody answers: its place is free.
    pub fn forget_dns(&mut self, client: u64) {
        self.dns_clients.remove(&client);
    }

    pub(super) fn handle_udp<'p>(&mut self, now: Instant, from: (PortId, [u8; 6]), ip: &Ip<'p>) -> Handled<'p> {
        let payload = ip.payload;
        let (Some(head), Some(tenant)) = (payload.first_chunk::<UDP>(), self.ports.get(from.0).map(|port| port.tenant))
        else {
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
        if self.is_gateway(ip.destination) && destination == 53 {
            self.counters.dns_queries += 1;
            let Some(client) = self.dns_client(now, from, (ip.source, source), ip.destination) else {
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

    pub(super) fn handle_icmp<'p>(&mut self, now: Instant, from: (PortId, [u8; 6]), ip: &Ip<'p>) -> Handled<'p> {
        let payload = ip.payload;
        // Unlike TCP's and UDP's, gvproxy verifies this checksum too.
        if payload.len() < ICMP || !checksum::is_valid(checksum::add(0, payload)) {
            self.counters.malformed += 1;
            return Handled::Done;
        }
        if payload[..2] != [8, 0] {
            self.counters.unsupported += u64::from(!self.handle_error(now, from, ip));
            return Handled::Done;
        }
        self.handle_echo(now, from, ip)
    }

    /// An echo request: to the gateway, or to the world.
    pub(super) fn handle_echo<'p>(&mut self, now: Instant, from: (PortId, [u8; 6]), ip: &Ip<'p>) -> Handled<'p> {
        let payload = ip.payload;
        if self.is_own(ip.destination) {
            self.send_echo_reply(from, ip.destination, ip.source, payload.to_vec());
            return Handled::Done;
        }
        let Some(tenant) = self.ports.get(from.0).map(|port| port.tenant) else { return Handled::Done };
        let identifier = wire::be16(payload, 4);
        let key = SessionKey { tenant, kind: Kind::Ping, guest: (ip.source, identifier), remote: (ip.destination, 0) };
        let Some((session, to)) = self.session(now, from, key, Proto::Icmp, ip) else { return Handled::Done };
        let hop_limit = ip.hop_limit().saturating_sub(1).max(1);
        Handled::Datagram { session, kind: Kind::Ping, to, payload: Cow::Borrowed(payload), hop_limit }
    }

    /// Makes the answer of an echo request, or of what has come back for one.
    fn send_echo_reply(&mut self, to: (PortId, [u8; 6]), source: IpAddr, destination: IpAddr, mut message: Vec<u8>) {
        let Echo { protocol, reply, .. } = echo(destination);
        message[0] = reply;
        match destination {
            IpAddr::V4(_) => wire::icmp(&mut message),
            IpAddr::V6(_) => wire::icmpv6(&mut message, source, destination),
        }
        self.send_ip(to, source, destination, protocol, &message);
    }

    /// The session of a guest's datagram, an old one or a new one.
    pub(super) fn session(
        &mut self,
        now: Instant,
        from: (PortId, [u8; 6]),
        key: SessionKey,
        proto: Proto,
        ip: &Ip<'_>,
    ) -> Option<(SessionId, SocketAddr)> {
        let owners = Owners { switch: &self.switch, neighbours: &self.neighbours };
        let Ok(known) = self.sessions.find(now, &self.ports, owners, &key, from) else {
            self.counters.spoofed += 1;
            return None;
        };
        let session = match known {
            Some(session) => session,
            None => {
                let to = match self.target(now, proto, key.remote.0, key.remote.1) {
                    Ok(Target::Address(to)) => to,
                    Ok(Target::Dns | Target::Services) | Err(NoTarget::Nobody) => {
                        // Broadcast and multicast get no errors (RFC 1122 section 3.2.2).
                        if self.is_inside(key.remote.0) && key.remote.0 != self.config.subnet.broadcast() {
                            self.send_error(from, key.remote.0, ip.source, ip.packet, Unreachable::Port);
                        }
                        return None;
                    }
                    Err(NoTarget::Denied) => {
                        if !key.remote.0.is_multicast() && key.remote.0 != Ipv4Addr::BROADCAST {
                            let gateway = self.gateway_for(ip.source);
                            self.send_error(from, gateway, ip.source, ip.packet, Unreachable::Prohibited);
                        }
                        return None;
                    }
                };
                self.found(now, from, ip.source, false);
                match self.sessions.open(now, &mut self.tenants, &mut self.out, key, Origin::Guest, to, Some(from)) {
                    Ok(session) => {
                        self.held.tick(now);
                        self.hold(held::User::Session(session), proto, to);
                        session
                    }
                    Err(refusal) => {
                        self.counters.refuse(refusal);
                        return None;
                    }
                }
            }
        };
        let to = self.sessions.get(session)?.to;
        let mtu = self.config.world_mtu;
        if ip.dont_fragment && ip.packet.len() > mtu.into() && !to.ip().is_loopback() {
            let gateway = self.gateway_for(ip.source);
            self.send_error(from, gateway, ip.source, ip.packet, Unreachable::FragmentationNeeded(mtu));
            return None;
        }
        self.counters.datagrams_in += 1;
        Some((session, to))
    }

    pub(super) fn handle_dhcp(&mut self, now: Instant, (port, mac): (PortId, [u8; 6]), data: &[u8]) {
        if !self.may_ask_for_lease(now, (port, mac), data) {
            self.counters.spoofed += 1;
            return;
        }
        // A twin asks for what its double has, and changes nothing.
        let home = self.switch.find(mac).unwrap_or(port);
        if let Some(address) = Dhcp::asked_for(data).filter(|address| self.is_former(now, home, (*address).into())) {
            self.dhcp.give_way(address);
        }
        let Self { pins, neighbours, ports, dhcp, .. } = self;
        let may_have = |address: Ipv4Addr| packets::may_have(pins, neighbours, ports, now, (home, mac), address.into());
        let pinned = ports.get(home).and_then(|home| {
            // One that another station of the tenant has is that one's.
            let free = |address: &Ipv4Addr| neighbours.find((*address).into()).is_none_or(|there| there.mac == mac);
            pins.of(home.tenant, mac).find(free)
        });
        let reply = dhcp.handle(now, &packets::client(ports, home, pinned, &may_have), data);
        // What is dropped is counted there.
        let Ok(Some(reply)) = reply else { return };
        if let Some(address) = Dhcp::asked_for(data).filter(|_| reply.refused)
            && self.is_guest(address.into())
            && !self.may_have(now, (port, mac), address.into())
        {
            self.duplicate(now, port, Station::Ip(address.into()));
        }
        // Only the link that asked: an answer to all would tell other enclaves, which may well use the same number.
        let to = if reply.broadcast { BROADCAST } else { reply.mac };
        if reply.lease && self.is_guest(reply.yiaddr.into()) && self.switch.find(mac) == Some(port) {
            self.found(now, (port, mac), reply.yiaddr.into(), true);
        }
        let gateway = self.config.gateway.into();
        self.send_udp((port, to), (gateway, 67), (reply.to.into(), 68), &reply.payload);
    }

    /// Whether a DHCP message is its sender's own affair: about the hardware address it comes from, which is known to be on
    /// this link. Of an address that is on another link, such as that of a twin, only what changes nothing is heard.
    fn may_ask_for_lease(&self, now: Instant, (port, mac): (PortId, [u8; 6]), data: &[u8]) -> bool {
        if data.get(28..34) != Some(&mac[..]) {
            return false;
        }
        match self.switch.find(mac) {
            Some(home) if home == port => true,
            Some(_) => self.dhcp.changes_nothing(now, mac, data),
            None => false,
        }
    }

    /// The number of a question; `None` if the link has too many that wait.
    pub(super) fn dns_client(
        &mut self,
        now: Instant,
        (port, mac): (PortId, [u8; 6]),
        address: (IpAddr, u16),
        server: IpAddr,
    ) -> Option<u64> {
        let clients = &mut self.dns_clients;
        let questions = &mut self.ports.get_mut(port)?.questions;
        while let Some(oldest) = questions.front() {
            match clients.get(oldest) {
                Some(client) if now.since(client.asked) < UNANSWERED => break,
                Some(_) | None => {
                    clients.remove(oldest);
                    questions.pop_front();
                }
            }
        }
        if questions.len() >= QUESTIONS {
            // Answers come in any order: those in the middle may be there.
            questions.retain(|number| clients.contains_key(number));
        }
        if questions.len() >= QUESTIONS {
            return None;
        }
        let number = self.dns_number;
        self.dns_number += 1;
        questions.push_back(number);
        clients.insert(number, DnsClient { asked: now, port, mac, address, server });
        Some(number)
    }
}

/// The head of a session's datagram, which is gone: what an error quotes of it is its addresses (RFC 792), which say whose it
/// was, and of a ping its sequence number, by which programs know which one it was.
fn quoted(key: &SessionKey, message: &[u8]) -> Vec<u8> {
    let head = wire::head(key.guest.0);
    let mut quoted = vec![0; head + UDP];
    let echo = echo(key.guest.0);
    match key.kind {
        Kind::Udp => wire::udp(&mut quoted[head..], key.guest, key.remote),
        Kind::Ping => {
            quoted[head] = echo.request;
            quoted[head + 4..head + 6].copy_from_slice(&key.guest.1.to_be_bytes());
            if let Some(sequence) = message.get(6..8) {
                quoted[head + 6..head + 8].copy_from_slice(sequence);
            }
        }
    }
    let protocol = if key.kind == Kind::Udp { wire::PROTO_UDP } else { echo.protocol };
    wire::ip(&mut quoted, key.guest.0, key.remote.0, protocol);
    quoted
}

/// What an echo is called in the family of an address.
struct Echo {
    protocol: u8,
    request: u8,
    reply: u8,
}

/// RFC 792, RFC 4443 section 4.
const fn echo(address: IpAddr) -> Echo {
    match address {
        IpAddr::V4(_) => Echo { protocol: wire::PROTO_ICMP, request: 8, reply: 0 },
        IpAddr::V6(_) => Echo { protocol: wire::PROTO_ICMPV6, request: 128, reply: 129 },
    }
}
