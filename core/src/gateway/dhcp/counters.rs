//! What the server did.

use super::DhcpDrop;

crate::counters! {
    /// What the server did.
    pub struct DhcpCounters {
        /// DHCP messages sent, by kind.
        offers: Counter "nitrotap_dhcp_replies" { kind = "offer" },
        /// DHCP messages sent, by kind.
        acks: Counter "nitrotap_dhcp_replies" { kind = "ack" },
        /// DHCP messages sent, by kind.
        naks: Counter "nitrotap_dhcp_replies" { kind = "nak" },
        /// Addresses given back before their lease ended.
        releases: Counter "nitrotap_dhcp_releases" {},
        /// Addresses that a client found in use by somebody else.
        declines: Counter "nitrotap_dhcp_declines" {},
        /// DHCP messages dropped, by cause.
        dropped_malformed: Counter "nitrotap_dhcp_drops" { cause = "malformed" },
        /// DHCP messages dropped, by cause.
        dropped_hardware: Counter "nitrotap_dhcp_drops" { cause = "hardware" },
        /// DHCP messages dropped, by cause.
        dropped_relayed: Counter "nitrotap_dhcp_drops" { cause = "relayed" },
        /// DHCP messages dropped, by cause.
        dropped_kind: Counter "nitrotap_dhcp_drops" { cause = "kind" },
        /// DHCP messages dropped, by cause.
        dropped_exhausted: Counter "nitrotap_dhcp_drops" { cause = "exhausted" },
        /// DHCP messages dropped, by cause.
        dropped_share: Counter "nitrotap_dhcp_drops" { cause = "share" },
    }
}

impl DhcpCounters {
    pub(super) fn count(&mut self, drop: DhcpDrop) {
        *match drop {
            DhcpDrop::Malformed => &mut self.dropped_malformed,
            DhcpDrop::Hardware => &mut self.dropped_hardware,
            DhcpDrop::Relayed => &mut self.dropped_relayed,
            DhcpDrop::Kind => &mut self.dropped_kind,
            DhcpDrop::Exhausted => &mut self.dropped_exhausted,
            DhcpDrop::Share => &mut self.dropped_share,
        } += 1;
    }
}
