//! What the front did.

crate::counters! {
    /// What the front did. Each query is dropped, answered here, or forwarded; each forwarded one is answered, or fails.
    pub struct DnsCounters {
        /// DNS queries of enclaves.
        queries: Counter "nitrotap_dns_queries" {},
        /// DNS queries by what came of them.
        local: Counter "nitrotap_dns_outcomes" { outcome = "local" },
        /// DNS queries by what came of them.
        upstream: Counter "nitrotap_dns_outcomes" { outcome = "upstream" },
        /// DNS queries by what came of them.
        blocked: Counter "nitrotap_dns_outcomes" { outcome = "blocked" },
        /// DNS queries by what came of them.
        malformed: Counter "nitrotap_dns_outcomes" { outcome = "malformed" },
        /// DNS queries by what came of them.
        unsupported: Counter "nitrotap_dns_outcomes" { outcome = "unsupported" },
        /// DNS queries by what came of them.
        overload: Counter "nitrotap_dns_outcomes" { outcome = "overload" },
        /// DNS queries by what came of them.
        timeout: Counter "nitrotap_dns_outcomes" { outcome = "timeout" },
        /// DNS queries by what came of them.
        unreachable: Counter "nitrotap_dns_outcomes" { outcome = "unreachable" },
        /// DNS queries by what came of them.
        dropped_short: Counter "nitrotap_dns_outcomes" { outcome = "dropped_short" },
        /// DNS queries by what came of them.
        dropped_response: Counter "nitrotap_dns_outcomes" { outcome = "dropped_response" },
        /// DNS queries dropped because too many of the same tenant waited.
        shed: Counter "nitrotap_dns_shed" { cause = "queries" },
        /// DNS streams that were closed because there were too many, or refused.
        shed_streams: Counter "nitrotap_dns_shed" { cause = "streams" },
        /// Answers that were cut because the client takes no longer ones over UDP.
        truncated: Counter "nitrotap_dns_truncated" {},
        /// Upstream answers that did not match their query, or came too late.
        strays: Counter "nitrotap_dns_strays" {},
        /// DNS queries that wait for upstream.
        in_flight: Gauge "nitrotap_dns_in_flight" {},
        /// DNS queries that wait to be looked at.
        waiting: Gauge "nitrotap_dns_waiting" {},
        /// DNS streams of enclaves.
        streams: Gauge "nitrotap_dns_streams" {},
    }
}
