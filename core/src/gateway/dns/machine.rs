//! The front itself; see the [module](crate::gateway::dns).

use super::{
    Action, ClientId, DnsConfig, DnsCounters, DnsDrop, NameFilter, Token, Transport, UpstreamFailure, Zone, ZoneError,
    addresses::text,
    query::{Asked, HEADER, Parsed, Question},
    reply::{self, Why},
    zones::{Local, Zones},
};
use crate::time::Instant;
use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use hickory_proto::{
    op::ResponseCode,
    rr::{DNSClass, RecordType},
};
use std::collections::BTreeMap;

/// Names of the host's own table that are taken, at most.
pub const HOSTS_MAX: usize = 4096;
/// Addresses of one of those names, at most.
const HOST_ADDRESSES_MAX: usize = 64;
/// What a client takes over UDP without EDNS (RFC 1035 section 4.2.1).
const UDP_MIN: u16 = 512;

/// What a resolver says that cannot say whether there is such a name.
const CANNOT_SAY: [ResponseCode; 5] =
    [ResponseCode::ServFail, ResponseCode::NotImp, ResponseCode::Refused, ResponseCode::FormErr, ResponseCode::NotAuth];

/// See the [module](crate::gateway::dns).
pub struct Dns {
    config: DnsConfig,
    zones: Zones,
    hosts: BTreeMap<String, Vec<IpAddr>>,
    filter: Option<Box<dyn NameFilter>>,
    /// Tokens grow and all wait equally long: the first is the first to time out.
    pending: BTreeMap<Token, Pending>,
    /// How many of those each tenant has.
    shares: BTreeMap<u32, usize>,
    /// The answer of a query that made room for another one.
    shed: Option<(Token, ClientId, Vec<u8>)>,
    next: u64,
    rng: fastrand::Rng,
    counters: DnsCounters,
}

/// A query that was passed on.
#[derive(Debug)]
struct Pending {
    asked: Asked,
    client: ClientId,
    tenant: u32,
    transport: Transport,
    /// Its id upstream.
    id: u16,
    deadline: Instant,
    /// What a resolver said that cannot answer, for when no other one does.
    deferred: Option<Vec<u8>>,
}

impl Dns {
    /// A front that knows the configured zones and lets every name pass.
    ///
    /// # Errors
    /// [`ZoneError`] of the first zone that cannot be taken.
    pub fn new(config: DnsConfig) -> Result<Self, ZoneError> {
        let mut zones = Zones::default();
        for zone in &config.zones {
            zones.add(zone.clone())?;
        }
        Ok(Self {
            zones,
            hosts: BTreeMap::new(),
            filter: None,
            pending: BTreeMap::new(),
            shares: BTreeMap::new(),
            shed: None,
            next: 0,
            rng: fastrand::Rng::with_seed(config.seed),
            counters: DnsCounters::default(),
            config,
        })
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> DnsCounters {
        DnsCounters { in_flight: self.pending.len() as u64, ..self.counters }
    }

    /// The zones, in the order in which they are tried.
    pub fn zones(&self) -> impl Iterator<Item = &Zone> {
        self.zones.iter()
    }

    /// Adds a zone behind the others. If there is one of that name, adds its records before the ones it has, and replaces
    /// its default address, also by none.
    ///
    /// # Errors
    /// [`ZoneError`]; nothing was changed then.
    pub fn add_zone(&mut self, zone: Zone) -> Result<(), ZoneError> {
        self.zones.add(zone)
    }

    /// From now on `filter` says which names may pass. It is not asked about names of our own zones.
    pub fn set_filter(&mut self, filter: Box<dyn NameFilter>) {
        self.filter = Some(filter);
    }

    /// Replaces the host's own table of names (lower case, no dot at the end); of those beyond [`HOSTS_MAX`], and of
    /// more than 64 addresses of one, nothing is kept. It answers for addresses of names that it has, and passes everything else on.
    pub fn set_hosts(&mut self, hosts: BTreeMap<String, Vec<IpAddr>>) {
        let cut = |(name, mut addresses): (String, Vec<IpAddr>)| {
            addresses.truncate(HOST_ADDRESSES_MAX);
            (name, addresses)
        };
        self.hosts = hosts.into_iter().take(HOSTS_MAX).map(cut).collect();
    }

    /// Takes the message of a client of `tenant`; then [`Dns::poll_shed`] may have something.
    pub fn handle_query(
        &mut self,
        now: Instant,
        client: ClientId,
        tenant: u32,
        transport: Transport,
        bytes: &[u8],
    ) -> Action {
        self.counters.queries += 1;
        let (metadata, question, edns) = match Parsed::of(bytes) {
            Parsed::Short => {
                self.counters.dropped_short += 1;
                return Action::Drop(DnsDrop::Short);
            }
            Parsed::Response => {
                self.counters.dropped_response += 1;
                return Action::Drop(DnsDrop::Response);
            }
            Parsed::Unsupported(asked) => {
                self.counters.unsupported += 1;
                return Action::Answer(reply::code(&asked, ResponseCode::NotImp, None));
            }
            Parsed::Malformed(asked) => {
                self.counters.malformed += 1;
                return Action::Answer(reply::code(&asked, ResponseCode::FormErr, None));
            }
            Parsed::Query(metadata, question, edns) => (metadata, question, edns),
        };
        let asked = Asked { metadata, question: Some(question.clone()), edns };
        // An upstream resolver would say the same of an EDNS it does not know (RFC 6891 section 6.1.3).
        if edns.is_some_and(|edns| edns.version > 0) {
            self.counters.unsupported += 1;
            return Action::Answer(reply::code(&asked, ResponseCode::BADVERS, None));
        }
        match self.decide(&question) {
            Verdict::Local(code, addresses) => {
                self.counters.local += 1;
                Action::Answer(self.fit(transport, &asked, reply::local(&asked, code, addresses.into_iter())))
            }
            Verdict::Blocked => {
                self.counters.blocked += 1;
                Action::Answer(reply::code(&asked, ResponseCode::Refused, Some(Why::Blocked)))
            }
            Verdict::Pass if !self.make_room(tenant) => {
                self.counters.overload += 1;
                Action::Answer(reply::code(&asked, ResponseCode::ServFail, Some(Why::Overload)))
            }
            Verdict::Pass => {
                let token = Token(self.next);
                self.next += 1;
                let id = self.rng.u16(..);
                let mut query = bytes.to_vec();
                query[..2].copy_from_slice(&id.to_be_bytes());
                let deadline = now + self.config.timeout;
                self.pending.insert(token, Pending { asked, client, tenant, transport, id, deadline, deferred: None });
                *self.shares.entry(tenant).or_insert(0) += 1;
                Action::Forward { token, query, transport }
            }
        }
    }

    /// A resolver answered query `token`, or none did: what to send to whom.
    ///
    /// `None` is an answer to something else, which is counted; the query goes on waiting, so listen on.
    pub fn handle_upstream(
        &mut self,
        token: Token,
        answer: Result<&[u8], UpstreamFailure>,
    ) -> Option<(ClientId, Vec<u8>)> {
        let deferred = self.pending.get_mut(&token).and_then(|pending| pending.deferred.take_if(|_| answer.is_err()));
        let said = deferred.is_some();
        let reply = match (self.pending.get(&token), answer) {
            (Some(pending), Ok(bytes)) => pending.accept(bytes),
            (Some(pending), Err(failure)) => Some(deferred.unwrap_or_else(|| pending.fail(failure))),
            (None, _) => None,
        };
        let (Some(reply), Some(pending)) = (reply, self.pending.get(&token)) else {
            self.counters.strays += u64::from(answer.is_ok());
            return None;
        };
        let client = pending.client;
        let transport = pending.transport;
        let asked = self.remove(token)?.asked;
        *match answer {
            Ok(_) => &mut self.counters.upstream,
            Err(_) if said => &mut self.counters.upstream,
            Err(UpstreamFailure::Timeout) => &mut self.counters.timeout,
            Err(UpstreamFailure::Unreachable | UpstreamFailure::NoResolvers) => &mut self.counters.unreachable,
        } += 1;
        Some((client, self.fit(transport, &asked, reply)))
    }

    /// Whether another resolver should be asked, since this one has told query `token` that it cannot say: SERVFAIL, NOTIMP or
    /// REFUSED, as libcs do, or that it does not understand (FORMERR, as old ones do about EDNS) or is not to be asked
    /// (NOTAUTH). What it said is kept: the client gets it if no other one answers.
    pub fn defer(&mut self, token: Token, answer: &[u8]) -> bool {
        let Some(pending) = self.pending.get_mut(&token) else { return false };
        let code = ResponseCode::from_low(answer.get(3).copied().unwrap_or(0) & 0x0f);
        if !CANNOT_SAY.contains(&code) {
            return false;
        }
        let Some(answer) = pending.accept(answer) else { return false };
        pending.deferred.get_or_insert(answer);
        true
    }

    /// When [`Dns::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.pending.first_key_value().map(|(_, pending)| pending.deadline)
    }

    /// The next query whose time is over, with what to send to whom; what is still being asked for it can stop.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<(Token, ClientId, Vec<u8>)> {
        let (token, _) = self.pending.first_key_value().filter(|(_, pending)| pending.deadline <= now)?;
        let token = *token;
        let (client, answer) = self.handle_upstream(token, Err(UpstreamFailure::Timeout))?;
        Some((token, client, answer))
    }

    /// A query that had to make room for another tenant's: what to send to whom. What is still being asked for it can stop.
    pub fn poll_shed(&mut self) -> Option<(Token, ClientId, Vec<u8>)> {
        self.shed.take()
    }

    /// Whether one more query of `tenant` may be passed on, perhaps in the place of one of whoever has the most.
    fn make_room(&mut self, tenant: u32) -> bool {
        let own = self.shares.get(&tenant).copied().unwrap_or(0);
        if own >= self.config.in_flight_per_tenant {
            return false;
        }
        if self.pending.len() < self.config.in_flight {
            return true;
        }
        let most = self.shares.iter().max_by_key(|(_, count)| **count).filter(|(_, count)| **count > own + 1);
        let Some((&most, _)) = most else { return false };
        let oldest = self.pending.iter().find(|(_, pending)| pending.tenant == most).map(|(token, _)| *token);
        let Some((token, pending)) = oldest.and_then(|token| Some((token, self.remove(token)?))) else { return false };
        self.counters.overload += 1;
        let answer = reply::code(&pending.asked, ResponseCode::ServFail, Some(Why::Overload));
        self.shed = Some((token, pending.client, answer));
        true
    }

    fn remove(&mut self, token: Token) -> Option<Pending> {
        let pending = self.pending.remove(&token)?;
        if let Some(count) = self.shares.get_mut(&pending.tenant) {
            *count -= 1;
            if *count == 0 {
                self.shares.remove(&pending.tenant);
            }
        }
        Some(pending)
    }

    fn decide(&mut self, question: &Question) -> Verdict {
        let kind = question.query.query_type();
        let name = text(question.query.name());
        // A class other than the Internet has other names.
        if matches!(question.query.query_class(), DNSClass::IN | DNSClass::ANY) {
            match self.zones.lookup(&name) {
                Local::Foreign => {}
                Local::Missing => return Verdict::Local(ResponseCode::NXDomain, Vec::new()),
                Local::Known(v4, v6) => return Verdict::of_kind(kind, v4, v6),
            }
            match special(&name) {
                Some(Special::Loopback) => {
                    return Verdict::of_kind(kind, Some(Ipv4Addr::LOCALHOST), Some(Ipv6Addr::LOCALHOST));
                }
                Some(Special::Never) => return Verdict::Local(ResponseCode::NXDomain, Vec::new()),
                None => {}
            }
        }
        if let Some(filter) = &mut self.filter
            && !filter.allowed(&name)
        {
            return Verdict::Blocked;
        }
        match self.hosts.get(&name) {
            Some(addresses) if matches!(kind, RecordType::A | RecordType::AAAA) => {
                let fits = |address: &&IpAddr| address.is_ipv4() == (kind == RecordType::A);
                Verdict::Local(ResponseCode::NoError, addresses.iter().filter(fits).copied().collect())
            }
            _ => Verdict::Pass,
        }
    }

    /// Cuts `answer` if the client does not take it whole.
    fn fit(&mut self, transport: Transport, asked: &Asked, answer: Vec<u8>) -> Vec<u8> {
        let taken = asked.edns.map_or(UDP_MIN, |edns| edns.size.max(UDP_MIN)).min(self.config.udp_limit.max(UDP_MIN));
        match &asked.question {
            Some(question) if transport == Transport::Udp && answer.len() > usize::from(taken) => {
                self.counters.truncated += 1;
                reply::cut(&answer, &question.bytes)
            }
            _ => answer,
        }
    }
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns")
            .field("pending", &self.pending.len())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// What is to be done with a question.
enum Verdict {
    Local(ResponseCode, Vec<IpAddr>),
    Blocked,
    Pass,
}

impl Verdict {
    /// The addresses of a name that are asked for.
    fn of_kind(kind: RecordType, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Self {
        let v4 = v4.filter(|_| matches!(kind, RecordType::A | RecordType::ANY)).map(IpAddr::V4);
        let v6 = v6.filter(|_| matches!(kind, RecordType::AAAA | RecordType::ANY)).map(IpAddr::V6);
        Self::Local(ResponseCode::NoError, v4.into_iter().chain(v6).collect())
    }
}

/// What a name means to everybody.
enum Special {
    /// The guest itself (RFC 6761 section 6.3).
    Loopback,
    /// Nothing that a resolver could know: `invalid` (RFC 6761 section 6.4) and `onion` (RFC 7686 section 2).
    Never,
}

/// Names that are never asked of a resolver. `local` is not among them: many a company's own names end in it.
fn special(name: &str) -> Option<Special> {
    match name.rsplit('.').next() {
        Some("localhost") => Some(Special::Loopback),
        Some("invalid" | "onion") => Some(Special::Never),
        _ => None,
    }
}

impl Pending {
    /// The answer with the client's id and question, if it is one to this query.
    fn accept(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let question = &self.asked.question.as_ref()?.bytes;
        let head = bytes.get(..HEADER)?;
        // QR set, opcode QUERY, and our id (RFC 5452 section 9.1).
        if head[..2] != self.id.to_be_bytes() || head[2] & 0xf8 != 0x80 {
            return None;
        }
        // A server that could not read the query may not repeat it.
        if head[4..6] == [0, 0] && head[3] & 0x0f != 0 {
            return Some(reply::code(&self.asked, ResponseCode::from_low(head[3] & 0x0f), None));
        }
        let echoed = bytes.get(HEADER..HEADER + question.len())?;
        let (name, kind) = question.split_at(question.len() - 4);
        // Without compression a name's length bytes are below any letter: only letters are compared without regard to case.
        if head[4..6] != [0, 1] || !echoed[..name.len()].eq_ignore_ascii_case(name) || &echoed[name.len()..] != kind {
            return None;
        }
        let mut answer = bytes.to_vec();
        answer[..2].copy_from_slice(&self.asked.metadata.id.to_be_bytes());
        // The client may have mixed the case as a nonce, and a resolver may have lost it.
        answer[HEADER..HEADER + question.len()].copy_from_slice(question);
        Some(answer)
    }

    fn fail(&self, failure: UpstreamFailure) -> Vec<u8> {
        let why = match failure {
            UpstreamFailure::Timeout => Why::NoAnswer,
            UpstreamFailure::Unreachable => Why::Unreachable,
            UpstreamFailure::NoResolvers => Why::NoResolvers,
        };
        reply::code(&self.asked, ResponseCode::ServFail, Some(why))
    }
}

#[cfg(test)]
mod tests;
