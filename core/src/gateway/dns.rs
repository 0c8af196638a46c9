//! Names for enclaves: a DNS front that answers for its own zones and passes everything else on, byte for byte.
//!
//! Owns: the zones, and the queries that wait for an upstream answer. No socket: messages in, messages out, without the
//! length that TCP puts before them. Driven by: the daemon's DNS task, fuzz.
//! Drain: after each query [`Dns::poll_shed`] until `None`. Arm a timer from [`Dns::poll_timeout`], then
//! [`Dns::handle_timeout`] until `None`.
//! Bounds: [`ZONES_MAX`], [`RECORDS_MAX`], [`DnsConfig::in_flight`] and [`DnsConfig::in_flight_per_tenant`]. A query above the
//! last is answered with SERVFAIL; above the other one, the oldest query of the tenant that has the most is. What waits before
//! that, and streams of queries, have shares per tenant too: [`Intake`] and [`Streams`].
//!
//! A query of any type passes, as does its answer: only the id differs upstream, so that a stray or forged answer does not
//! match. Failures stay apart: what a resolver says (NXDOMAIN, SERVFAIL, REFUSED) reaches the client untouched; where none
//! answered, the client gets SERVFAIL, and why as an Extended DNS Error (RFC 8914) if it speaks EDNS.

mod addresses;
mod counters;
mod intake;
mod machine;
mod query;
mod reply;
mod streams;
mod zones;

pub use addresses::{addresses, asked_name};
pub use counters::DnsCounters;
pub use intake::{Intake, IntakeLimits, Shed};
pub use machine::{Dns, HOSTS_MAX};
pub(super) use query::wire_len;
pub use streams::{NoRoom, StreamId, StreamLimits, Streams};
pub use zones::{Record, Zone, ZoneError, default_zones};

use core::{net::IpAddr, time::Duration};

/// Zones at most.
pub const ZONES_MAX: usize = 256;
/// Records of all zones together, at most.
pub const RECORDS_MAX: usize = 4096;
/// Bytes of a regular expression, at most; at most [`PATTERNS_MAX`] of them.
pub const PATTERN_LEN_MAX: usize = 1024;
/// Records with a regular expression, at most: each is tried for each name of its zone.
pub const PATTERNS_MAX: usize = 256;
/// What we say we can take over UDP, in bytes: it passes everywhere unfragmented (DNS flag day 2020).
pub const UDP_SIZE: u16 = 1232;

/// How the front behaves.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Zones answered here; the first whose name fits is the one.
    pub zones: Vec<Zone>,
    /// Queries that may wait for upstream at a time.
    pub in_flight: usize,
    /// Those of one tenant.
    pub in_flight_per_tenant: usize,
    /// How long a query waits for upstream, all tries together: clients give up after 5 s themselves (resolv.conf(5)).
    pub timeout: Duration,
    /// The longest answer over UDP, in bytes, whatever the client says; at least 512. What is longer is cut, and the client
    /// comes again over TCP. Above the link's MTU less 28 answers are fragmented.
    pub udp_limit: u16,
    /// Seed of the ids of upstream queries.
    pub seed: u64,
}

impl DnsConfig {
    /// Of `zones`, with 512 queries in flight for 5 s at most, 128 of one tenant, and no answer above 1232 bytes over UDP.
    #[must_use]
    pub const fn new(zones: Vec<Zone>, seed: u64) -> Self {
        Self {
            zones,
            in_flight: 512,
            in_flight_per_tenant: 128,
            timeout: Duration::from_secs(5),
            udp_limit: UDP_SIZE,
            seed,
        }
    }
}

/// Who asked, in the driver's terms: it comes back with the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientId(pub u64);

/// One query that waits for upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub(super) u64);

/// What carries a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram; the answer may have to be cut.
    Udp,
    /// A stream; an answer has up to 65535 bytes.
    Tcp,
}

/// What to do with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this to the client.
    Answer(Vec<u8>),
    /// Ask a resolver, and tell what came of it with [`Dns::handle_upstream`].
    Forward {
        /// Which one it is.
        token: Token,
        /// The message to send.
        query: Vec<u8>,
        /// How the client asked, and the resolver is to be asked.
        transport: Transport,
    },
    /// Nothing.
    Drop(DnsDrop),
}

/// Why a message was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsDrop {
    /// Shorter than a header: there is no id to answer with.
    #[error("DNS message shorter than its header")]
    Short,
    /// An answer, where only questions are taken: answering it could go on for ever.
    #[error("DNS answer sent to the server")]
    Response,
}

/// Why there is no upstream answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamFailure {
    /// Resolvers were asked and did not answer in time.
    Timeout,
    /// No resolver could be reached.
    Unreachable,
    /// The host has no resolvers.
    NoResolvers,
}

/// Says which names may be asked for.
pub trait NameFilter: Send {
    /// Whether `name` (lower case, no dot at the end, `.` for the root) may be resolved.
    fn allowed(&mut self, name: &str) -> bool;
}

impl<F: FnMut(&str) -> bool + Send> NameFilter for F {
    fn allowed(&mut self, name: &str) -> bool {
        self(name)
    }
}

/// An address of a name, and for how many seconds that holds.
pub type NameAddress = (String, IpAddr, u32);
