//! Names for enclaves: the task that drives [`nitrotap_core::gateway::dns`], with the host's resolvers behind it.
//!
//! Queries come from the data plane ([`DnsHandle::try_query`]), and as streams ([`DnsHandle::admit`]). Each one that is passed on
//! has a task and a socket of its own, hence a source port of its own, and both end with it.
//! Bounds, all of them with a share for each tenant: [`INTAKE`] for queries that wait to be looked at,
//! [`DnsConfig::in_flight`] for those that wait for an answer, [`STREAM_LIMITS`] for streams. A stream has [`PIPELINE`] queries
//! under way, all streams of a tenant have [`PIPELINE_TENANT`]; further ones are not read.
//!
//! [`DnsConfig::in_flight`]: nitrotap_core::gateway::dns::DnsConfig::in_flight

mod files;
mod hosts;
mod intake;
mod json;
mod resolvers;
mod service;
mod stream;
mod upstream;

pub(crate) use json::{ZoneJson, ZoneJsonError};
pub(crate) use resolvers::search_domains;
pub(crate) use service::{DnsHandle, DnsService, Hooks, Settings};

use nitrotap_core::gateway::dns::{IntakeLimits, StreamLimits};

/// Queries that wait to be looked at: as many of one tenant over UDP as over TCP. The resolver of a VPC takes 1024 packets a second
/// of an instance, whoever on it asks.
pub(crate) const INTAKE: IntakeLimits = IntakeLimits { waiting: 2 * PIPELINE_TENANT, waiting_total: 2048, rate: 1000 };
/// Streams served at a time.
pub(crate) const STREAM_LIMITS: StreamLimits = StreamLimits { per_tenant: 64, total: 256 };
/// Queries of one stream that are being answered.
pub(crate) const PIPELINE: usize = 16;
/// Queries of all streams of one tenant that are being answered.
pub(crate) const PIPELINE_TENANT: usize = 64;
/// Bytes of the longest query: a name, a question and an OPT record with cookies have less than 600.
pub(crate) const QUERY_MAX: usize = 4096;
