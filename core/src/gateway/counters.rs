//! What the gateway counts.

use super::tenant::Refusal;

crate::counters! {
    /// Counters and gauges of the switch, of TCP and of sessions.
    pub struct Counters {
        /// Links of enclaves now.
        links: Gauge "nitrotap_gateway_links" {},
        /// Frames between enclaves and the gateway.
        frames_in: Counter "nitrotap_gateway_frames" { direction = "from_enclave" },
        /// Frames between enclaves and the gateway.
        frames_out: Counter "nitrotap_gateway_frames" { direction = "to_enclave" },
        /// Bytes of frames between enclaves and the gateway.
        bytes_in: Counter "nitrotap_gateway_bytes" { direction = "from_enclave" },
        /// Bytes of frames between enclaves and the gateway.
        bytes_out: Counter "nitrotap_gateway_bytes" { direction = "to_enclave" },
        /// Frames passed on from one enclave to others.
        switched: Counter "nitrotap_gateway_frames_switched" {},
        /// Frames and packets dropped, by cause.
        malformed: Counter "nitrotap_gateway_drops" { cause = "malformed" },
        /// Frames and packets dropped, by cause.
        spoofed: Counter "nitrotap_gateway_drops" { cause = "spoofed" },
        /// Frames and packets dropped, by cause.
        unknown_destination: Counter "nitrotap_gateway_drops" { cause = "unknown_destination" },
        /// Frames and packets dropped, by cause.
        link_full: Counter "nitrotap_gateway_drops" { cause = "link_full" },
        /// Frames and packets dropped, by cause.
        unsupported: Counter "nitrotap_gateway_drops" { cause = "unsupported" },
        /// Frames and packets dropped, by cause.
        addresses_full: Counter "nitrotap_gateway_drops" { cause = "addresses_full" },
        /// Frames and packets dropped, by cause.
        hop_limit: Counter "nitrotap_gateway_drops" { cause = "hop_limit" },
        /// Frames and packets dropped, by cause: for a guest whose link was lost, and that has not spoken since.
        unheard: Counter "nitrotap_gateway_drops" { cause = "unheard" },
        /// Connections and sessions refused for want of room, by limit.
        refused_flows: Counter "nitrotap_gateway_refused" { limit = "flows" },
        /// Connections and sessions refused for want of room, by limit.
        refused_half_open: Counter "nitrotap_gateway_refused" { limit = "half_open" },
        /// Connections and sessions refused for want of room, by limit.
        refused_sessions: Counter "nitrotap_gateway_refused" { limit = "sessions" },
        /// Connections and sessions refused for want of room, by limit.
        refused_rate: Counter "nitrotap_gateway_refused" { limit = "rate" },
        /// Connections and sessions refused for want of room, by limit.
        refused_memory: Counter "nitrotap_gateway_refused" { limit = "memory" },
        /// TCP connections whose handshake was completed.
        tcp_opened: Counter "nitrotap_gateway_tcp_opened" {},
        /// TCP connections given up because somebody was silent for too long.
        tcp_timeouts: Counter "nitrotap_gateway_tcp_timeouts" {},
        /// TCP segments, long ones counted once for each part.
        tcp_segments_in: Counter "nitrotap_gateway_tcp_segments" { direction = "from_enclave" },
        /// TCP segments, long ones counted once for each part.
        tcp_segments_out: Counter "nitrotap_gateway_tcp_segments" { direction = "to_enclave" },
        /// TCP resets.
        tcp_resets_in: Counter "nitrotap_gateway_tcp_resets" { direction = "from_enclave" },
        /// TCP resets.
        tcp_resets_out: Counter "nitrotap_gateway_tcp_resets" { direction = "to_enclave" },
        /// TCP connections now, those being opened included.
        tcp_flows: Gauge "nitrotap_gateway_tcp_flows" {},
        /// TCP connections that are over and remembered for their last acknowledgement.
        tcp_time_wait: Gauge "nitrotap_gateway_tcp_time_wait" {},
        /// Bytes of TCP buffers promised; memory is taken as they are used.
        tcp_buffer_bytes: Gauge "nitrotap_gateway_tcp_buffer_bytes" {},
        /// UDP and ICMP datagrams between enclaves and the world.
        datagrams_in: Counter "nitrotap_gateway_datagrams" { direction = "from_enclave" },
        /// UDP and ICMP datagrams between enclaves and the world.
        datagrams_out: Counter "nitrotap_gateway_datagrams" { direction = "to_enclave" },
        /// UDP and ICMP sessions now.
        sessions: Gauge "nitrotap_gateway_sessions" {},
        /// UDP and ICMP sessions that were silent for too long.
        sessions_expired: Counter "nitrotap_gateway_sessions_expired" {},
        /// ICMP errors sent to enclaves.
        icmp_errors_out: Counter "nitrotap_gateway_icmp_errors" {},
        /// Router advertisements of IPv6 sent to links.
        router_advertisements: Counter "nitrotap_gateway_router_advertisements" {},
        /// Questions to the gateway's name server over UDP.
        dns_queries: Counter "nitrotap_gateway_dns_queries" {},
        /// Questions that were dropped because too many of the same link waited.
        dns_refused: Counter "nitrotap_gateway_dns_refused" {},
        /// TCP connections reset because they would have sent the same segment for ever: a mistake in the TCP of the gateway.
        tcp_stuck: Counter "nitrotap_gateway_tcp_stuck" {},
        /// Times that more was due to guests than one turn may send; the rest followed in the next one.
        flushes_cut: Counter "nitrotap_gateway_flushes_cut" {},
        /// Most work that was done for connections in one go, in bare segments or 512 bytes; it stays below 17,000.
        flush_work_max: Gauge "nitrotap_gateway_flush_work_max" {},
        /// Connections and sessions refused for want of room, by limit.
        refused_inbound: Counter "nitrotap_gateway_refused" { limit = "inbound" },
        /// Connections and sessions refused for want of room, by limit.
        refused_source_ports: Counter "nitrotap_gateway_refused" { limit = "source_ports" },
        /// Frames and packets dropped, by cause.
        share_full: Counter "nitrotap_gateway_drops" { cause = "share_full" },
        /// Frames and packets dropped, by cause.
        flood: Counter "nitrotap_gateway_drops" { cause = "flood" },
        /// Links ended by the gateway, by cause.
        links_mute: Counter "nitrotap_gateway_links_ended" { cause = "mute" },
        /// Links ended by the gateway, by cause.
        links_crowded: Counter "nitrotap_gateway_links_ended" { cause = "crowded" },
        /// Addresses that an enclave would like to have and another one has, each pair of them once.
        duplicates: Counter "nitrotap_gateway_duplicate_addresses" {},
        /// Frames from one enclave to another, or to all, that rules do not let pass.
        between_denied: Counter "nitrotap_gateway_between_denied" {},
        /// Questions to guests whether they have a TCP connection still whose link was lost.
        tcp_probes: Counter "nitrotap_gateway_tcp_probes" {},
        /// TCP connections that guests refused with an ICMP error.
        tcp_rejected: Counter "nitrotap_gateway_tcp_rejected" {},
        /// ICMP errors received from enclaves.
        icmp_errors_in: Counter "nitrotap_gateway_icmp_errors_received" {},
        /// Times that a link was not read for a moment: its enclave sent others too much, or too much that came to nothing.
        rests: Counter "nitrotap_gateway_link_rests" {},
    }
}

impl Counters {
    /// How many frames have come to nothing: what was dropped, refused, or answered with a reset.
    pub(super) const fn useless(&self) -> u64 {
        self.malformed
            + self.spoofed
            + self.unknown_destination
            + self.unsupported
            + self.addresses_full
            + self.hop_limit
            + self.share_full
            + self.flood
            + self.between_denied
            + self.dns_refused
            + self.tcp_resets_out
            + self.icmp_errors_out
            + self.refused_flows
            + self.refused_half_open
            + self.refused_sessions
            + self.refused_rate
            + self.refused_memory
            + self.refused_source_ports
    }

    pub(super) const fn refuse(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::Flows => self.refused_flows += 1,
            Refusal::HalfOpen => self.refused_half_open += 1,
            Refusal::Sessions => self.refused_sessions += 1,
            Refusal::SourcePorts => self.refused_source_ports += 1,
            Refusal::Inbound => self.refused_inbound += 1,
            Refusal::Rate => self.refused_rate += 1,
            Refusal::Memory => self.refused_memory += 1,
        }
    }
}
