//! What the policy counts; its driver counts the verdicts, which are asked for without changing anything.

use super::{Policy, Reason, Verdict};

crate::counters! {
    /// Flows by verdict, and the table of learned addresses.
    pub struct PolicyCounters {
        /// Flows that the policy let pass.
        allowed: Counter "nitrotap_gateway_policy_allowed" {},
        /// Flows denied by the policy, by reason.
        unspecified: Counter "nitrotap_gateway_policy_denied" { reason = "unspecified" },
        /// Flows denied by the policy, by reason.
        loopback: Counter "nitrotap_gateway_policy_denied" { reason = "loopback" },
        /// Flows denied by the policy, by reason.
        multicast: Counter "nitrotap_gateway_policy_denied" { reason = "multicast" },
        /// Flows denied by the policy, by reason.
        broadcast: Counter "nitrotap_gateway_policy_denied" { reason = "broadcast" },
        /// Flows denied by the policy, by reason.
        link_local: Counter "nitrotap_gateway_policy_denied" { reason = "link_local" },
        /// Flows denied by the policy, by reason.
        host_loopback: Counter "nitrotap_gateway_policy_denied" { reason = "host_loopback" },
        /// Flows denied by the policy, by reason.
        host: Counter "nitrotap_gateway_policy_denied" { reason = "host" },
        /// Flows denied by the policy, by reason.
        control: Counter "nitrotap_gateway_policy_denied" { reason = "control" },
        /// Flows denied by the policy, by reason.
        rule: Counter "nitrotap_gateway_policy_denied" { reason = "rule" },
        /// Flows denied by the policy, by reason.
        default: Counter "nitrotap_gateway_policy_denied" { reason = "default" },
        /// Addresses open because a name was resolved to them.
        learned: Gauge "nitrotap_gateway_policy_learned" {},
        /// Learned addresses forgotten before their time for want of room.
        learned_evicted: Counter "nitrotap_gateway_policy_learned_evicted" {},
    }
}

impl PolicyCounters {
    /// Counts one verdict.
    pub const fn count(&mut self, verdict: Verdict) {
        let counter = match verdict {
            Verdict::Allow => &mut self.allowed,
            Verdict::Deny(Reason::Unspecified) => &mut self.unspecified,
            Verdict::Deny(Reason::Loopback) => &mut self.loopback,
            Verdict::Deny(Reason::Multicast) => &mut self.multicast,
            Verdict::Deny(Reason::Broadcast) => &mut self.broadcast,
            Verdict::Deny(Reason::LinkLocal) => &mut self.link_local,
            Verdict::Deny(Reason::HostLoopback) => &mut self.host_loopback,
            Verdict::Deny(Reason::Host) => &mut self.host,
            Verdict::Deny(Reason::Control) => &mut self.control,
            Verdict::Deny(Reason::Rule) => &mut self.rule,
            Verdict::Deny(Reason::Default) => &mut self.default,
        };
        *counter += 1;
    }

    /// Takes over what the policy knows of its learned addresses.
    pub fn observe(&mut self, policy: &Policy) {
        self.learned = policy.learned() as u64;
        self.learned_evicted = policy.evicted();
    }
}
