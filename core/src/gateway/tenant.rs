//! What each tenant may have, and has.
//!
//! Owns: a few numbers per tenant. Driven by: connections and sessions.
//! Bounds: a tenant that has nothing is forgotten.
//!
//! What strangers begin towards a guest and what the guest begins are counted apart: strangers may have three quarters of
//! what the tenant may have, so that a crowd at a published port leaves the guest's own ways open. And what all tenants share
//! is never used up by some of them: a tenant may have more only as long as it has at most [`SHARE`] times what is free, so
//! each one leaves a part to the next (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet
//! switches", 1998).

use super::limits::TokenBucket;
use crate::time::Instant;
use std::collections::BTreeMap;

/// How many times what is free a tenant may have of what all share: alone, it gets three quarters.
const SHARE: usize = 3;

/// The part of what a tenant may have that is kept from strangers.
const RESERVE: usize = 4;

/// What one tenant may have at a time.
#[derive(Clone, Copy, Debug)]
pub struct TenantLimits {
    /// TCP connections; strangers may have three quarters of them.
    pub flows: usize,
    /// Those of them whose handshake is not over, what a SYN flood fills: so many from inside, and so many from outside.
    pub half_open: usize,
    /// UDP and ICMP sessions; strangers may have three quarters of them.
    pub sessions: usize,
    /// New connections and sessions per second, from inside and from outside each; `None` for no limit.
    pub rate: Option<u32>,
}

/// Who begins something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// The guest itself.
    Guest,
    /// A stranger, through a published port.
    World,
}

/// Why something new was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The tenant has too many connections, or all have together.
    Flows,
    /// Strangers have too many connections with the tenant.
    Inbound,
    /// Too many handshakes are under way.
    HalfOpen,
    /// Too many sessions.
    Sessions,
    /// Too many in this second.
    Rate,
    /// The buffers of all connections are as large as they may be, or memory is used up.
    Memory,
    /// The tenant has too many of the host's ports for one destination.
    SourcePorts,
}

/// By [`Origin`].
#[derive(Debug, Default)]
struct Usage {
    flows: [usize; 2],
    half_open: [usize; 2],
    sessions: [usize; 2],
    bucket: [Option<TokenBucket>; 2],
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tenants {
    limits: TenantLimits,
    flows: Pool,
    sessions: Pool,
    usage: BTreeMap<u32, Usage>,
    changes: u64,
}

/// What all tenants share.
#[derive(Clone, Copy, Debug)]
struct Pool {
    max: usize,
    used: usize,
}

impl Pool {
    /// Whether a tenant that has `own`, and may have `limit`, leaves enough for others. Who may have all may have all.
    const fn lets(self, own: usize, limit: usize) -> bool {
        limit >= self.max || own <= SHARE * self.max.saturating_sub(self.used)
    }
}

impl Tenants {
    /// With so many connections and sessions for all together.
    pub(super) const fn new(limits: TenantLimits, max_flows: usize, max_sessions: usize) -> Self {
        Self {
            limits,
            flows: Pool { max: max_flows, used: 0 },
            sessions: Pool { max: max_sessions, used: 0 },
            usage: BTreeMap::new(),
            changes: 0,
        }
    }

    /// How often a connection or a session has begun or ended.
    pub(super) const fn changes(&self) -> u64 {
        self.changes
    }

    /// A connection begins.
    pub(super) fn open(&mut self, now: Instant, tenant: u32, origin: Origin) -> Result<(), Refusal> {
        let limits = self.limits;
        let usage = self.usage.entry(tenant).or_default();
        let own = usage.flows.iter().sum();
        if own >= limits.flows || !self.flows.lets(own, limits.flows) {
            return Err(Refusal::Flows);
        }
        if origin == Origin::World && usage.flows[origin as usize] >= for_strangers(limits.flows) {
            return Err(Refusal::Inbound);
        }
        if usage.half_open[origin as usize] >= limits.half_open {
            return Err(Refusal::HalfOpen);
        }
        usage.spend(now, limits.rate, origin)?;
        usage.flows[origin as usize] += 1;
        usage.half_open[origin as usize] += 1;
        self.flows.used += 1;
        self.changes += 1;
        Ok(())
    }

    /// Its handshake is over.
    pub(super) fn opened(&mut self, tenant: u32, origin: Origin) {
        if let Some(usage) = self.usage.get_mut(&tenant) {
            usage.half_open[origin as usize] -= 1;
        }
    }

    /// It is over.
    pub(super) fn closed(&mut self, tenant: u32, origin: Origin, half_open: bool) {
        if let Some(usage) = self.usage.get_mut(&tenant) {
            usage.flows[origin as usize] -= 1;
            usage.half_open[origin as usize] -= usize::from(half_open);
            self.flows.used -= 1;
            self.changes += 1;
        }
        self.forget(tenant);
    }

    /// A stranger's connection that was opened before its guest was known has found it. Limits are not looked at: it was let
    /// in.
    pub(super) fn move_flow(&mut self, from: u32, to: u32) {
        self.closed(from, Origin::World, true);
        let usage = self.usage.entry(to).or_default();
        usage.flows[Origin::World as usize] += 1;
        usage.half_open[Origin::World as usize] += 1;
        self.flows.used += 1;
    }

    /// A session begins.
    pub(super) fn open_session(&mut self, now: Instant, tenant: u32, origin: Origin) -> Result<(), Refusal> {
        let limits = self.limits;
        let usage = self.usage.entry(tenant).or_default();
        let own = usage.sessions.iter().sum();
        let strangers = origin == Origin::World && usage.sessions[origin as usize] >= for_strangers(limits.sessions);
        if strangers || own >= limits.sessions || !self.sessions.lets(own, limits.sessions) {
            return Err(Refusal::Sessions);
        }
        usage.spend(now, limits.rate, origin)?;
        usage.sessions[origin as usize] += 1;
        self.sessions.used += 1;
        self.changes += 1;
        Ok(())
    }

    /// A stranger's session that began before its guest was known has found it. Limits are not looked at: it was let in.
    pub(super) fn move_session(&mut self, from: u32, to: u32) {
        self.close_session(from, Origin::World);
        self.usage.entry(to).or_default().sessions[Origin::World as usize] += 1;
        self.sessions.used += 1;
    }

    /// A session is over.
    pub(super) fn close_session(&mut self, tenant: u32, origin: Origin) {
        if let Some(usage) = self.usage.get_mut(&tenant) {
            usage.sessions[origin as usize] -= 1;
            self.sessions.used -= 1;
            self.changes += 1;
        }
        self.forget(tenant);
    }

    fn forget(&mut self, tenant: u32) {
        // With a rate, the bucket must outlive its connections: otherwise every new one would find it full.
        let empty = |usage: &Usage| {
            usage.flows == [0; 2] && usage.sessions == [0; 2] && usage.bucket.iter().all(Option::is_none)
        };
        if self.usage.get(&tenant).is_some_and(empty) {
            self.usage.remove(&tenant);
        }
    }
}

/// What strangers may have of `limit`.
const fn for_strangers(limit: usize) -> usize {
    limit - limit / RESERVE
}

impl Usage {
    fn spend(&mut self, now: Instant, rate: Option<u32>, origin: Origin) -> Result<(), Refusal> {
        let Some(rate) = rate else { return Ok(()) };
        let bucket = self.bucket[origin as usize].get_or_insert_with(|| TokenBucket::new(rate.into(), rate.into()));
        if bucket.take(now, 1) { Ok(()) } else { Err(Refusal::Rate) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    const NOW: Instant = Instant::ZERO;

    fn tenants(flows: usize, half_open: usize, max: usize) -> Tenants {
        Tenants::new(TenantLimits { flows, half_open, sessions: flows, rate: None }, max, max)
    }

    #[test]
    fn strangers_leave_a_guest_its_own_connections() {
        let mut tenants = tenants(100, 1000, 1000);
        let opened = (0..200).take_while(|_| tenants.open(NOW, 1, Origin::World).is_ok()).count();
        assert_eq!(opened, 75);
        assert_eq!(tenants.open(NOW, 1, Origin::World), Err(Refusal::Inbound));
        let own = (0..200).take_while(|_| tenants.open(NOW, 1, Origin::Guest).is_ok()).count();
        assert_eq!(own, 25);
        assert_eq!(tenants.open(NOW, 1, Origin::Guest), Err(Refusal::Flows));
        tenants.closed(1, Origin::World, true);
        assert_eq!(tenants.open(NOW, 1, Origin::Guest), Ok(()));
        // The same of sessions.
        let opened = (0..200).take_while(|_| tenants.open_session(NOW, 1, Origin::World).is_ok()).count();
        let own = (0..200).take_while(|_| tenants.open_session(NOW, 1, Origin::Guest).is_ok()).count();
        assert_eq!((opened, own), (75, 25));
    }

    #[test]
    fn handshakes_and_rates_of_strangers_are_not_the_guests() {
        let mut tenants = tenants(100, 5, 1000);
        tenants.limits.rate = Some(8);
        for (one, other) in [(Origin::World, Origin::Guest), (Origin::Guest, Origin::World)] {
            let tenant = one as u32;
            for _ in 0..5 {
                tenants.open(NOW, tenant, one).unwrap();
            }
            assert_eq!(tenants.open(NOW, tenant, one), Err(Refusal::HalfOpen));
            for _ in 0..3 {
                tenants.opened(tenant, one);
                tenants.open(NOW, tenant, one).unwrap();
            }
            tenants.opened(tenant, one);
            assert_eq!(tenants.open(NOW, tenant, one), Err(Refusal::Rate));
            assert_eq!(tenants.open_session(NOW, tenant, one), Err(Refusal::Rate));
            assert_eq!(tenants.open(NOW, tenant, other), Ok(()));
            assert_eq!(tenants.open_session(NOW, tenant, other), Ok(()));
        }
    }

    #[test]
    fn who_may_have_all_may_have_all() {
        let mut tenants = tenants(8, 8, 8);
        assert_eq!((0..20).take_while(|_| tenants.open(NOW, 1, Origin::Guest).is_ok()).count(), 8);
    }

    quickcheck! {
        /// However many take what they can get, one after the other or all at once, there is something left for one more.
        fn tenants_that_take_all_they_can_leave_room(script: Vec<(u8, bool)>, greedy: u8) -> bool {
            let mut tenants = tenants(750, 1000, 1000);
            let mut held = BTreeMap::<u32, usize>::new();
            for (who, take) in script {
                let who = u32::from(who % 3);
                if take {
                    for _ in 0..100 {
                        *held.entry(who).or_default() += usize::from(tenants.open(NOW, who, Origin::Guest).is_ok());
                    }
                } else if held.get(&who).is_some_and(|n| *n > 0) {
                    tenants.closed(who, Origin::Guest, true);
                    *held.get_mut(&who).unwrap() -= 1;
                }
            }
            for who in 3..3 + u32::from(greedy % 2) {
                while tenants.open(NOW, who, Origin::Guest).is_ok() {}
            }
            tenants.flows.used < tenants.flows.max && tenants.open(NOW, 99, Origin::Guest).is_ok()
        }
    }
}
