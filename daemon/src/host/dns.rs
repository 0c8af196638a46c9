//! Names for enclaves: the task that drives [`nitrotap_core::gateway::dns`], with the host's resolvers behind it.
//!
//! Queries come over a bounded queue from the data plane ([`DnsHandle::try_query`]), and as streams ([`DnsHandle::serve_tcp`]).
//! Each one that is passed on has a task and a socket of its own, hence a source port of its own, and both end with it.
//! Bounds: [`QUEUE`] queries wait to be looked at, [`DnsConfig::in_flight`] to be answered; [`STREAMS`] streams with
//! [`PIPELINE`] queries each. What is above the first is refused, what is above the last waits.
//!
//! [`DnsConfig::in_flight`]: nitrotap_core::gateway::dns::DnsConfig::in_flight

mod files;
mod hosts;
mod json;
mod resolvers;
mod service;
mod stream;
mod upstream;

pub(crate) use json::{ZoneJson, ZoneJsonError};
pub(crate) use resolvers::search_domains;
pub(crate) use service::{DnsHandle, DnsService, Hooks, Settings};

/// Queries that wait to be looked at.
pub(crate) const QUEUE: usize = 256;
/// Streams served at a time.
pub(crate) const STREAMS: usize = 256;
/// Queries of one stream that are being answered; further ones are not read.
pub(crate) const PIPELINE: usize = 16;
