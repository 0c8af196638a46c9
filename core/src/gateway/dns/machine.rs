//! The front itself; see the [module](crate::gateway::dns).

use super::{
    Action, ClientId, DnsConfig, DnsCounters, DnsDrop, NameFilter, Token, Transport, UpstreamFailure, Zone, ZoneError,
    addresses::text,
    query::{Asked, HEADER, Parsed, Question},
    reply::{self, Why},
    zones::{Local, Zones},
};
use crate::time::Instant;
use core::{fmt, net::IpAddr};
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

/// See the [module](crate::gateway::dns).
pub struct Dns {
    config: DnsConfig,
    zones: Zones,
    hosts: BTreeMap<String, Vec<IpAddr>>,
    filter: Option<Box<dyn NameFilter>>,
    /// Tokens grow and all wait equally long: the first is the first to time out.
    pending: BTreeMap<Token, Pending>,
    next: u64,
    rng: fastrand::Rng,
    counters: DnsCounters,
}

/// A query that was passed on.
#[derive(Debug)]
struct Pending {
    asked: Asked,
    client: ClientId,
    transport: Transport,
    /// Its id upstream.
    id: u16,
    deadline: Instant,
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

    /// Takes a client's message.
    pub fn handle_query(&mut self, now: Instant, client: ClientId, transport: Transport, bytes: &[u8]) -> Action {
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
            Verdict::Pass if self.pending.len() >= self.config.in_flight => {
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
                self.pending.insert(token, Pending { asked, client, transport, id, deadline });
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
        let reply = match (self.pending.get(&token), answer) {
            (Some(pending), Ok(bytes)) => pending.accept(bytes),
            (Some(pending), Err(failure)) => Some(pending.fail(failure)),
            (None, _) => None,
        };
        let (Some(reply), Some(pending)) = (reply, self.pending.get(&token)) else {
            self.counters.strays += u64::from(answer.is_ok());
            return None;
        };
        let client = pending.client;
        let transport = pending.transport;
        let asked = self.pending.remove(&token)?.asked;
        *match answer {
            Ok(_) => &mut self.counters.upstream,
            Err(UpstreamFailure::Timeout) => &mut self.counters.timeout,
            Err(UpstreamFailure::Unreachable | UpstreamFailure::NoResolvers) => &mut self.counters.unreachable,
        } += 1;
        Some((client, self.fit(transport, &asked, reply)))
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

    fn decide(&mut self, question: &Question) -> Verdict {
        let kind = question.query.query_type();
        let name = text(question.query.name());
        // A class other than the Internet has other names.
        if matches!(question.query.query_class(), DNSClass::IN | DNSClass::ANY) {
            match self.zones.lookup(&name) {
                Local::Foreign => {}
                Local::Missing => return Verdict::Local(ResponseCode::NXDomain, Vec::new()),
                Local::Address(address) => {
                    let fits = matches!(kind, RecordType::A | RecordType::ANY);
                    let addresses = if fits { vec![IpAddr::V4(address)] } else { Vec::new() };
                    return Verdict::Local(ResponseCode::NoError, addresses);
                }
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
