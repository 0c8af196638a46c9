//! Exchanges of datagrams between guests and the world: UDP by address and port, pings by address and identifier.
//!
//! Owns: who talks to whom, and when they last did. Driven by: the machine.
//! Bounds: the configured number in all and per tenant; [`IDLE`] of silence ends one. When a tenant has too many, the
//! one that was silent the longest, of some looked at, makes room: datagrams are for those who use them. What strangers begin
//! takes the place of nothing but what strangers have begun, and never that of an exchange in which both sides speak.
//!
//! A session belongs to one guest address and one peer address, so only the peer that the guest has written to can
//! answer (address and port-dependent filtering, RFC 4787 section 5; gvproxy does the same).

use super::{
    arena::{Arena, Id},
    neighbour::Spoofed,
    output::{Output, Outputs, SessionId},
    port::{PortId, Ports},
    tcp::{Owners, hash_pair, same},
    tenant::{Origin, Refusal, Tenants},
    timers::{EXPIRIES, Scheduled, Timers},
};
use crate::time::Instant;
use core::{
    hash::{Hash, Hasher},
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use foldhash::fast::FixedState;
use std::collections::{BTreeSet, HashMap};

/// Silence after which a session ends; RFC 4787 requirement 5 asks for two minutes at least.
pub(super) const IDLE: Duration = Duration::from_secs(120);
/// The same for questions to name servers, which are answered once (RFC 4787 requirement 5b allows it).
pub(super) const IDLE_DNS: Duration = Duration::from_secs(20);
/// The same for pings.
pub(super) const IDLE_PING: Duration = Duration::from_secs(30);

/// An exchange in which both sides have spoken is not ended for a stranger before it was silent for so long.
const QUIET: Duration = Duration::from_secs(10);
/// Sessions looked at to find one that makes room.
const LOOKED_AT: usize = 16;
/// First and last port of sessions that the world begins.
const EPHEMERAL: (u16, u16) = (32_768, 60_999);

/// What a session carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// UDP datagrams.
    Udp,
    /// ICMP echo; the guest's identifier is its port.
    Ping,
}

/// The addresses of a session, and whose it is.
#[derive(Clone, Copy, Debug, Eq)]
pub(super) struct SessionKey {
    pub(super) tenant: u32,
    pub(super) kind: Kind,
    pub(super) guest: (IpAddr, u16),
    pub(super) remote: (IpAddr, u16),
}

impl PartialEq for SessionKey {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.tenant == other.tenant
            && self.kind == other.kind
            && same(self.guest, other.guest)
            && same(self.remote, other.remote)
    }
}

impl Hash for SessionKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_pair(state, self.tenant, self.guest, self.remote);
        self.kind.hash(state);
    }
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) key: SessionKey,
    /// Where the driver sends what the guest sends.
    pub(super) to: SocketAddr,
    /// Where the guest is; the last link it was heard on.
    pub(super) place: Option<(PortId, [u8; 6])>,
    origin: Origin,
    /// Who spoke last.
    speaker: Origin,
    /// How often the other side took its turn: from two on, both are known to be there.
    turns: u8,
    idle: Duration,
    last: Instant,
    scheduled: Scheduled,
}

impl Session {
    fn spoke(&mut self, now: Instant, who: Origin) {
        self.last = now;
        if self.speaker != who {
            self.speaker = who;
            self.turns = self.turns.saturating_add(1);
        }
    }

    /// Whether both sides are known to be there: whoever asked has had an answer, and has spoken again.
    const fn is_assured(&self) -> bool {
        self.turns >= 2
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Sessions {
    max: usize,
    sessions: Arena<Session>,
    by_key: HashMap<SessionKey, Id, FixedState>,
    timers: Timers,
    /// Whose they are and who has begun them.
    owned: BTreeSet<(u32, Origin, Id)>,
    /// Where the search for one that makes room goes on.
    hand: Id,
    next_port: u16,
}

impl Sessions {
    pub(super) fn new(max: usize, seed: u64) -> Self {
        Self {
            max,
            sessions: Arena::default(),
            by_key: HashMap::with_hasher(FixedState::with_seed(seed)),
            timers: Timers::default(),
            owned: BTreeSet::new(),
            hand: Id::FIRST,
            next_port: EPHEMERAL.0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(id.0)
    }

    /// Whether the world has begun it.
    pub(super) fn is_of_the_world(&self, id: SessionId) -> bool {
        self.get(id).is_some_and(|session| session.origin == Origin::World)
    }

    /// The session of a guest's datagram, which counts as a sign of life.
    ///
    /// `Err` if it is the session of another link, which this one may not take over.
    pub(super) fn find(
        &mut self,
        now: Instant,
        ports: &Ports,
        owners: Owners<'_>,
        key: &SessionKey,
        place: (PortId, [u8; 6]),
    ) -> Result<Option<SessionId>, Spoofed> {
        let Some((&id, session)) = self.by_key.get(key).and_then(|id| Some((id, self.sessions.get_mut(*id)?))) else {
            return Ok(None);
        };
        if let Some((old, mac)) = session.place
            && old != place.0
            && !owners.may_move(now, ports, (key.tenant, key.guest.0), (Some(old), mac), place)
        {
            return Err(Spoofed);
        }
        session.spoke(now, Origin::Guest);
        session.place = Some(place);
        Ok(Some(SessionId(id)))
    }

    /// The guest of a session that the world began is found: from now on it is its tenant's. False if it cannot be.
    pub(super) fn resolved(
        &mut self,
        tenants: &mut Tenants,
        id: SessionId,
        tenant: u32,
        place: (PortId, [u8; 6]),
    ) -> bool {
        let Some(session) = self.sessions.get_mut(id.0) else { return false };
        let (old, new) = (session.key, SessionKey { tenant, ..session.key });
        if old.tenant != tenant {
            if self.by_key.contains_key(&new) {
                return false;
            }
            session.key = new;
            self.by_key.remove(&old);
            self.by_key.insert(new, id.0);
            self.owned.remove(&(old.tenant, session.origin, id.0));
            self.owned.insert((tenant, session.origin, id.0));
            tenants.move_session(old.tenant, tenant);
        }
        session.place = Some(place);
        true
    }

    /// A datagram from the world, as a sign of life.
    pub(super) fn heard(&mut self, now: Instant, id: SessionId) -> Option<&Session> {
        let session = self.sessions.get_mut(id.0)?;
        session.spoke(now, Origin::World);
        Some(session)
    }

    /// Begins a session.
    #[expect(clippy::too_many_arguments, reason = "the tables of the gateway, and what a session is")]
    pub(super) fn open(
        &mut self,
        now: Instant,
        tenants: &mut Tenants,
        out: &mut Outputs,
        key: SessionKey,
        origin: Origin,
        to: SocketAddr,
        place: Option<(PortId, [u8; 6])>,
    ) -> Result<SessionId, Refusal> {
        if self.sessions.len() >= self.max {
            self.evict(now, tenants, out, key.tenant, origin)?;
        }
        if let Err(refusal) = tenants.open_session(now, key.tenant, origin) {
            if refusal != Refusal::Sessions {
                return Err(refusal);
            }
            self.evict(now, tenants, out, key.tenant, origin)?;
            tenants.open_session(now, key.tenant, origin)?;
        }
        let idle = match (key.kind, key.remote.1) {
            (Kind::Ping, _) => IDLE_PING,
            (Kind::Udp, 53) => IDLE_DNS,
            (Kind::Udp, _) => IDLE,
        };
        let id = self.sessions.insert(Session {
            key,
            to,
            place,
            origin,
            speaker: origin,
            turns: 0,
            idle,
            last: now,
            scheduled: Scheduled::NEVER,
        });
        self.by_key.insert(key, id);
        self.owned.insert((key.tenant, origin, id));
        if let Some(session) = self.sessions.get_mut(id) {
            self.timers.schedule(&mut session.scheduled, id, now + idle);
        }
        Ok(SessionId(id))
    }

    /// A key that no session has, for one that the world begins at `from`.
    pub(super) fn free_key(&mut self, tenant: u32, from: IpAddr, guest: (IpAddr, u16)) -> Option<SessionKey> {
        for _ in EPHEMERAL.0..=EPHEMERAL.1 {
            let port = self.next_port;
            self.next_port = if port >= EPHEMERAL.1 { EPHEMERAL.0 } else { port + 1 };
            let key = SessionKey { tenant, kind: Kind::Udp, guest, remote: (from, port) };
            if !self.by_key.contains_key(&key) {
                return Some(key);
            }
        }
        None
    }

    /// Ends a session.
    pub(super) fn close(&mut self, tenants: &mut Tenants, out: &mut Outputs, id: SessionId) {
        let Some(mut session) = self.sessions.remove(id.0) else { return };
        self.timers.cancel(&mut session.scheduled, id.0);
        if self.by_key.get(&session.key) == Some(&id.0) {
            self.by_key.remove(&session.key);
        }
        self.owned.remove(&(session.key.tenant, session.origin, id.0));
        tenants.close_session(session.key.tenant, session.origin);
        out.push_back(Output::SessionClosed(id));
    }

    /// The sessions whose time has come end; gives their number.
    pub(super) fn handle_timeout(&mut self, now: Instant, tenants: &mut Tenants, out: &mut Outputs) -> u64 {
        let mut ended = 0;
        for _ in 0..EXPIRIES {
            let Some(id) = self.timers.expired(now) else { break };
            let Some(session) = self.sessions.get_mut(id) else { continue };
            session.scheduled = Scheduled::NEVER;
            let until = session.last + session.idle;
            if until > now {
                self.timers.schedule(&mut session.scheduled, id, until);
            } else {
                ended += 1;
                self.close(tenants, out, SessionId(id));
            }
        }
        ended
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Makes room at the cost of the tenant that wants it; `Err` if it has none to give among those looked at.
    fn evict(
        &mut self,
        now: Instant,
        tenants: &mut Tenants,
        out: &mut Outputs,
        tenant: u32,
        origin: Origin,
    ) -> Result<(), Refusal> {
        let mut victim = self.victim(tenant, origin);
        if origin == Origin::Guest && victim.is_none() {
            victim = self.victim(tenant, Origin::World);
        }
        let (assured, last, id) = victim.ok_or(Refusal::Sessions)?;
        if origin == Origin::World && assured && now.since(last) < QUIET {
            return Err(Refusal::Sessions);
        }
        self.close(tenants, out, SessionId(id));
        Ok(())
    }

    /// The one that is missed the least, of some that are looked at: others each time.
    fn victim(&mut self, tenant: u32, origin: Origin) -> Option<(bool, Instant, Id)> {
        let of = |id| (tenant, origin, id);
        let behind = self.owned.range(of(self.hand)..=of(Id::LAST));
        let round = behind.chain(self.owned.range(of(Id::FIRST)..of(self.hand)));
        let mut found: Option<(bool, Instant, Id)> = None;
        let mut hand = self.hand;
        for (_, _, id) in round.take(LOOKED_AT) {
            hand = *id;
            let Some(session) = self.sessions.get(*id) else { continue };
            let missed = (session.is_assured(), session.last, *id);
            if found.is_none_or(|least| missed < least) {
                found = Some(missed);
            }
        }
        self.hand = hand;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::tenant::TenantLimits;
    use super::*;
    use crate::gateway::{neighbour::Neighbours, switch::Switch};
    use std::collections::BTreeMap;

    fn world(max: usize, per_tenant: usize) -> (Sessions, Tenants, Outputs) {
        let limits = TenantLimits { flows: 1, half_open: 1, sessions: per_tenant, rate: None };
        (Sessions::new(max, 1), Tenants::new(limits, 1, max), Outputs::new())
    }

    fn key(tenant: u32, port: u16, remote_port: u16) -> SessionKey {
        let guest = IpAddr::from([192, 168, 127, 2]);
        SessionKey { tenant, kind: Kind::Udp, guest: (guest, port), remote: ([9, 9, 9, 9].into(), remote_port) }
    }

    fn to() -> SocketAddr {
        ([9, 9, 9, 9], 1).into()
    }

    #[test]
    fn silence_ends_a_session_and_traffic_keeps_it() {
        let (mut sessions, mut tenants, mut out) = world(10, 10);
        let at = |s: u64| Instant::from_millis(s * 1000);
        let a = sessions.open(at(0), &mut tenants, &mut out, key(1, 1, 1), Origin::Guest, to(), None).unwrap();
        let dns = sessions.open(at(0), &mut tenants, &mut out, key(1, 2, 53), Origin::Guest, to(), None).unwrap();
        assert_eq!(sessions.poll_timeout(), Some(at(20)));
        assert_eq!(sessions.handle_timeout(at(20), &mut tenants, &mut out), 1);
        assert_eq!(out.pop_front(), Some(Output::SessionClosed(dns)));
        assert!(sessions.heard(at(100), a).is_some());
        assert_eq!(sessions.handle_timeout(at(120), &mut tenants, &mut out), 0);
        assert_eq!(sessions.handle_timeout(at(220), &mut tenants, &mut out), 1);
        assert_eq!(out.pop_front(), Some(Output::SessionClosed(a)));
        assert_eq!((sessions.len(), sessions.poll_timeout()), (0, None));
    }

    #[test]
    fn a_flood_of_one_tenant_costs_only_its_own() {
        let (mut sessions, mut tenants, mut out) = world(100, 50);
        let other =
            sessions.open(Instant::ZERO, &mut tenants, &mut out, key(2, 1, 1), Origin::Guest, to(), None).unwrap();
        for port in 1..5000 {
            let now = Instant::from_millis(port.into());
            sessions.open(now, &mut tenants, &mut out, key(1, port, 1), Origin::Guest, to(), None).unwrap();
            assert!(sessions.len() <= 51);
        }
        assert!(sessions.get(other).is_some());
        assert_eq!(sessions.len(), 51);
    }

    #[test]
    fn a_full_table_refuses_a_tenant_that_has_nothing_to_give() {
        let (mut sessions, mut tenants, mut out) = world(10, 10);
        for port in 1..=10 {
            sessions.open(Instant::ZERO, &mut tenants, &mut out, key(1, port, 1), Origin::Guest, to(), None).unwrap();
        }
        let refused = sessions.open(Instant::ZERO, &mut tenants, &mut out, key(2, 1, 1), Origin::Guest, to(), None);
        assert_eq!(refused, Err(Refusal::Sessions));
        assert_eq!(sessions.len(), 10);
    }

    #[test]
    fn strangers_end_neither_what_a_guest_began_nor_what_it_takes_part_in() {
        let (mut sessions, mut tenants, mut out) = world(1000, 64);
        let (mut ports, guest) = (Ports::default(), key(1, 1, 1));
        let (switch, neighbours) = (Switch::new([9; 6], 1, QUIET, BTreeMap::new()), Neighbours::new(9, QUIET));
        let place = (ports.attach(1, None).unwrap(), [2; 6]);
        let at = Instant::from_millis;
        let own: Vec<_> = (1..=16)
            .map(|port| {
                sessions.open(at(0), &mut tenants, &mut out, key(1, port, 9), Origin::Guest, to(), Some(place)).unwrap()
            })
            .collect();
        // A client that the guest talks to, and one that it has answered once: whose address may be another's.
        let client = sessions.open(at(0), &mut tenants, &mut out, guest, Origin::World, to(), Some(place)).unwrap();
        let lure = key(1, 1, 2);
        let once = sessions.open(at(0), &mut tenants, &mut out, lure, Origin::World, to(), Some(place)).unwrap();
        for (key, session, again) in [(guest, client, true), (lure, once, false)] {
            assert_eq!(
                sessions.find(at(1), &ports, Owners { switch: &switch, neighbours: &neighbours }, &key, place),
                Ok(Some(session))
            );
            if again {
                sessions.heard(at(2), session).unwrap();
            }
        }
        for n in 0..5000 {
            let stranger = key(1, 2, 1000 + n);
            sessions.open(at(3 + u64::from(n)), &mut tenants, &mut out, stranger, Origin::World, to(), None).unwrap();
        }
        assert_eq!(sessions.len(), 16 + 48, "strangers have three quarters of what the tenant may have");
        assert!(own.iter().all(|session| sessions.get(*session).is_some()));
        assert!(sessions.get(client).is_some());
        assert!(sessions.get(once).is_none(), "a single answer proves nothing");
        // It is theirs once it was silent for long; and where there is nothing else, a stranger has to wait until then.
        let late = at(3) + QUIET;
        for n in 0..200 {
            let stranger = key(1, 3, 1000 + n);
            sessions.open(late, &mut tenants, &mut out, stranger, Origin::World, to(), None).unwrap();
        }
        assert!(sessions.get(client).is_some(), "others are missed less");
    }

    #[test]
    fn a_stranger_waits_where_all_others_are_in_use() {
        let (mut sessions, mut tenants, mut out) = world(1000, 4);
        let mut ports = Ports::default();
        let (switch, neighbours) = (Switch::new([9; 6], 1, QUIET, BTreeMap::new()), Neighbours::new(9, QUIET));
        let place = (ports.attach(1, None).unwrap(), [2; 6]);
        let at = Instant::from_millis;
        for n in 1..=3 {
            let key = key(1, 1, n);
            let id = sessions.open(at(0), &mut tenants, &mut out, key, Origin::World, to(), Some(place)).unwrap();
            sessions.find(at(1), &ports, Owners { switch: &switch, neighbours: &neighbours }, &key, place).unwrap();
            sessions.heard(at(2), id).unwrap();
        }
        let mut open = |at, n| sessions.open(at, &mut tenants, &mut out, key(1, 1, n), Origin::World, to(), None);
        assert_eq!(open(at(3), 9), Err(Refusal::Sessions));
        assert!(open(at(2) + QUIET, 9).is_ok());
        // The guest itself need not: with nothing of its own to give, it takes what a stranger has.
        let mut open = |n| sessions.open(at(3), &mut tenants, &mut out, key(1, 7, n), Origin::Guest, to(), None);
        assert!((1..20).all(|n| open(n).is_ok()));
    }
}
