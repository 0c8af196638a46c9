//! What each tenant may have, and has.
//!
//! Owns: a few numbers per tenant. Driven by: connections and sessions.
//! Bounds: a tenant that has nothing is forgotten.

use super::limits::TokenBucket;
use crate::time::Instant;
use std::collections::BTreeMap;

/// What one tenant may have at a time.
#[derive(Clone, Copy, Debug)]
pub struct TenantLimits {
    /// TCP connections.
    pub flows: usize,
    /// Those of them whose handshake is not over: what a SYN flood fills.
    pub half_open: usize,
    /// UDP and ICMP sessions.
    pub sessions: usize,
    /// New connections and sessions per second; `None` for no limit.
    pub rate: Option<u32>,
}

/// Why something new was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The tenant has too many connections, or all have together.
    Flows,
    /// Too many handshakes are under way.
    HalfOpen,
    /// Too many sessions.
    Sessions,
    /// Too many in this second.
    Rate,
    /// The buffers of all connections are as large as they may be.
    Memory,
}

#[derive(Debug, Default)]
struct Usage {
    flows: usize,
    half_open: usize,
    sessions: usize,
    bucket: Option<TokenBucket>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tenants {
    limits: TenantLimits,
    usage: BTreeMap<u32, Usage>,
}

impl Tenants {
    pub(super) const fn new(limits: TenantLimits) -> Self {
        Self { limits, usage: BTreeMap::new() }
    }

    /// A connection begins.
    pub(super) fn open(&mut self, now: Instant, tenant: u32) -> Result<(), Refusal> {
        let limits = self.limits;
        let usage = self.usage.entry(tenant).or_default();
        if usage.flows >= limits.flows {
            return Err(Refusal::Flows);
        }
        if usage.half_open >= limits.half_open {
            return Err(Refusal::HalfOpen);
        }
        usage.spend(now, limits.rate)?;
        usage.flows += 1;
        usage.half_open += 1;
        Ok(())
    }

    /// Its handshake is over.
    pub(super) fn opened(&mut self, tenant: u32) {
        if let Some(usage) = self.usage.get_mut(&tenant) {
            usage.half_open -= 1;
        }
    }

    /// It is over.
    pub(super) fn closed(&mut self, tenant: u32, half_open: bool) {
        if let Some(usage) = self.usage.get_mut(&tenant) {
            usage.flows -= 1;
            usage.half_open -= usize::from(half_open);
        }
        self.forget(tenant);
    }

    /// A connection that was opened before its guest was known has found it. Limits are not looked at: it was let in.
    pub(super) fn move_flow(&mut self, from: u32, to: u32) {
        self.closed(from, true);
        let usage = self.usage.entry(to).or_default();
        usage.flows += 1;
        usage.half_open += 1;
    }

    /// A session begins.
    pub(super) fn open_session(&mut self, now: Instant, tenant: u32) -> Result<(), Refusal> {
        let limits = self.limits;
        let usage = self.usage.entry(tenant).or_default();
        if usage.sessions >= limits.sessions {
            return Err(Refusal::Sessions);
        }
        usage.spend(now, limits.rate)?;
        usage.sessions += 1;
        Ok(())
    }

    /// A session that began before its guest was known has found it. Limits are not looked at: it was let in.
    pub(super) fn move_session(&mut self, from: u32, to: u32) {
        self.close_session(from);
        self.usage.entry(to).or_default().sessions += 1;
    }

    /// A session is over.
    pub(super) fn close_session(&mut self, tenant: u32) {
        if let Some(usage) = self.usage.get_mut(&tenant) {
            usage.sessions -= 1;
        }
        self.forget(tenant);
    }

    fn forget(&mut self, tenant: u32) {
        // With a rate, the bucket must outlive its connections: otherwise every new one would find it full.
        if self.usage.get(&tenant).is_some_and(|u| u.flows == 0 && u.sessions == 0 && u.bucket.is_none()) {
            self.usage.remove(&tenant);
        }
    }
}

impl Usage {
    fn spend(&mut self, now: Instant, rate: Option<u32>) -> Result<(), Refusal> {
        let Some(rate) = rate else { return Ok(()) };
        let bucket = self.bucket.get_or_insert_with(|| TokenBucket::new(rate.into(), rate.into()));
        if bucket.take(now, 1) { Ok(()) } else { Err(Refusal::Rate) }
    }
}
