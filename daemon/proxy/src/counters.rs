//! What the proxy counts beside its pool.

use crate::reply::BadRequest;

nitrotap_core::counters! {
    /// Counters of one shard.
    pub struct ProxyCounters {
        /// Client connections open.
        clients: Gauge "nitrotap_proxy_clients" {},
        /// Client connections accepted.
        accepted: Counter "nitrotap_proxy_clients_accepted" {},
        /// Client connections turned away at the limit.
        shed: Counter "nitrotap_proxy_clients_shed" {},
        /// Client connections closed because a request head did not arrive in time.
        header_timeouts: Counter "nitrotap_proxy_clients_timed_out" { waiting_for = "head" },
        /// Client connections closed because no further request arrived in time.
        keep_alive_timeouts: Counter "nitrotap_proxy_clients_timed_out" { waiting_for = "request" },
        /// Requests whose head was read.
        requests: Counter "nitrotap_proxy_requests" {},
        /// Responses begun, by class.
        responses_1xx: Counter "nitrotap_proxy_responses" { class = "1xx" },
        /// Responses begun, by class.
        responses_2xx: Counter "nitrotap_proxy_responses" { class = "2xx" },
        /// Responses begun, by class.
        responses_3xx: Counter "nitrotap_proxy_responses" { class = "3xx" },
        /// Responses begun, by class.
        responses_4xx: Counter "nitrotap_proxy_responses" { class = "4xx" },
        /// Responses begun, by class.
        responses_5xx: Counter "nitrotap_proxy_responses" { class = "5xx" },
        /// Requests the proxy answered itself, by cause.
        refused_request: Counter "nitrotap_proxy_errors" { cause = "bad_request" },
        /// Requests the proxy answered itself, by cause.
        body_timeout: Counter "nitrotap_proxy_errors" { cause = "request_body_timeout" },
        /// Requests the proxy answered itself, by cause.
        overloaded: Counter "nitrotap_proxy_errors" { cause = "overloaded" },
        /// Requests the proxy answered itself, by cause.
        unreachable: Counter "nitrotap_proxy_errors" { cause = "upstream_unreachable" },
        /// Requests the proxy answered itself, by cause.
        broken: Counter "nitrotap_proxy_errors" { cause = "upstream_broken" },
        /// Requests the proxy answered itself, by cause.
        late: Counter "nitrotap_proxy_errors" { cause = "upstream_timeout" },
        /// Requests sent a second time because a kept-open connection turned out to be dead.
        retries: Counter "nitrotap_proxy_retries" {},
        /// Requests whose client left before the response had ended.
        client_aborts: Counter "nitrotap_proxy_aborts" { by = "client" },
        /// Responses the upstream broke off after their head.
        upstream_aborts: Counter "nitrotap_proxy_aborts" { by = "upstream" },
        /// Upgraded connections (such as WebSocket) open.
        tunnels: Gauge "nitrotap_proxy_tunnels" {},
        /// Connections upgraded.
        upgrades: Counter "nitrotap_proxy_upgrades" {},
        /// Requests the proxy answered itself, by cause.
        misframed: Counter "nitrotap_proxy_errors" { cause = "upstream_bad_framing" },
        /// Requests refused for what they say, by what is wrong with them.
        refused_connect: Counter "nitrotap_proxy_refused_requests" { why = "connect" },
        /// Requests refused for what they say, by what is wrong with them.
        refused_host: Counter "nitrotap_proxy_refused_requests" { why = "host" },
        /// Requests refused for what they say, by what is wrong with them.
        refused_target: Counter "nitrotap_proxy_refused_requests" { why = "target" },
        /// Requests refused for what they say, by what is wrong with them.
        refused_path: Counter "nitrotap_proxy_refused_requests" { why = "path_outside_base" },
        /// Requests refused for what they say, by what is wrong with them.
        refused_framing: Counter "nitrotap_proxy_refused_requests" { why = "framing" },
        /// Requests refused for what they say, by what is wrong with them.
        refused_body: Counter "nitrotap_proxy_refused_requests" { why = "body" },
        /// Client connections being turned away: answered, not closed by the client yet.
        lingering: Gauge "nitrotap_proxy_clients_lingering" {},
        /// Client connections turned away without an answer, because too many were being turned away already.
        shed_unanswered: Counter "nitrotap_proxy_clients_shed_unanswered" {},
        /// Requests answered 503 for want of memory for their heads.
        heads_refused: Counter "nitrotap_proxy_heads_without_memory" {},
        /// Names of request fields dropped because an app could believe them wrongly.
        dropped_fields: Counter "nitrotap_proxy_fields_dropped" {},
        /// Requests refused for what they say, by what is wrong with them.
        refused_tls: Counter "nitrotap_proxy_refused_requests" { why = "tls" },
        /// Requests refused for what they say, by what is wrong with them.
        refused_http2: Counter "nitrotap_proxy_refused_requests" { why = "http2" },
        /// Requests refused for what they say, by what is wrong with them.
        refused_version: Counter "nitrotap_proxy_refused_requests" { why = "version" },
        /// Requests refused for what they say, by what is wrong with them.
        refused_malformed: Counter "nitrotap_proxy_refused_requests" { why = "malformed" },
        /// Requests refused for what they say, by what is wrong with them.
        refused_size: Counter "nitrotap_proxy_refused_requests" { why = "size" },
        /// Interim responses (100 Continue excepted) passed on to clients.
        interim: Counter "nitrotap_proxy_interim_responses" {},
        /// Trailer fields that were not passed on, because they may only be in a head.
        dropped_trailers: Counter "nitrotap_proxy_trailers_dropped" {},
        /// Requests whose body the upstream did not read to its end, and answered all the same.
        early_answers: Counter "nitrotap_proxy_early_answers" {},
        /// Transfers ended because a side was too slow, by side.
        slow_uploads: Counter "nitrotap_proxy_slow_transfers_ended" { side = "client_sending" },
        /// Transfers ended because a side was too slow, by side.
        slow_downloads: Counter "nitrotap_proxy_slow_transfers_ended" { side = "client_reading" },
        /// Transfers ended because a side was too slow, by side.
        stalled_upstreams: Counter "nitrotap_proxy_slow_transfers_ended" { side = "upstream" },
        /// Slow transfers ended because requests waited for their upstream connections.
        evicted: Counter "nitrotap_proxy_slow_transfers_evicted" {},
        /// Upgraded connections ended because no byte moved for too long.
        tunnel_timeouts: Counter "nitrotap_proxy_tunnels_timed_out" {},
        /// Upgrades refused at the limit of tunnels.
        tunnels_refused: Counter "nitrotap_proxy_tunnels_refused" {},
        /// Client connections turned away because their address has too many.
        crowded: Counter "nitrotap_proxy_clients_shed_by_address" {},
        /// Bytes of requests and responses kept for slow clients.
        buffered: Gauge "nitrotap_proxy_buffered_bytes" {},
        /// Times a message was not kept for want of room.
        buffer_full: Counter "nitrotap_proxy_buffer_full" {},
    }
}

impl ProxyCounters {
    pub(crate) const fn count_refusal(&mut self, why: BadRequest) {
        let counter = match why {
            BadRequest::Connect => &mut self.refused_connect,
            BadRequest::Host | BadRequest::HostSyntax => &mut self.refused_host,
            BadRequest::Target => &mut self.refused_target,
            BadRequest::Path => &mut self.refused_path,
            BadRequest::Framing(_) => &mut self.refused_framing,
            BadRequest::Body => &mut self.refused_body,
            BadRequest::Tls => &mut self.refused_tls,
            BadRequest::Http2 => &mut self.refused_http2,
            BadRequest::Version => &mut self.refused_version,
            BadRequest::Malformed(_) | BadRequest::Stray => &mut self.refused_malformed,
            BadRequest::HeadTooLarge | BadRequest::TargetTooLong => &mut self.refused_size,
        };
        *counter += 1;
    }

    pub(crate) fn count_response(&mut self, status: http::StatusCode) {
        let class = match status.as_u16() / 100 {
            1 => &mut self.responses_1xx,
            2 => &mut self.responses_2xx,
            3 => &mut self.responses_3xx,
            4 => &mut self.responses_4xx,
            _ => &mut self.responses_5xx,
        };
        *class += 1;
    }
}
