//! What the pool counts.
//!
//! Laws (see `core/tests/law_pool.rs`): requests = assigned + rejected + cancelled + waiting, and
//! dials = connected + failed + dialling, and connected = idle + active + closed.

crate::counters! {
    /// The pool's counters; gauges are right after every call.
    pub struct PoolCounters {
        /// Upstream connections by state.
        idle: Gauge "nitrotap_pool_connections" { state = "idle" },
        /// Upstream connections by state.
        active: Gauge "nitrotap_pool_connections" { state = "active" },
        /// Upstream connections by state.
        dialing: Gauge "nitrotap_pool_connections" { state = "dialing" },
        /// Requests waiting for an upstream connection.
        waiting: Gauge "nitrotap_pool_waiting" {},
        /// Requests that asked for an upstream connection, retries included.
        requests: Counter "nitrotap_pool_requests" {},
        /// Requests given an upstream connection.
        assigned: Counter "nitrotap_pool_assigned" {},
        /// Requests given a connection that was open already.
        reuses: Counter "nitrotap_pool_reuses" {},
        /// Requests that had to wait for a dial or for a connection to become free.
        queued: Counter "nitrotap_pool_queued" {},
        /// Requests whose client left while they waited.
        cancelled: Counter "nitrotap_pool_cancelled" {},
        /// Upstream connections dialled.
        dials: Counter "nitrotap_pool_dials" {},
        /// Dials that succeeded.
        connected: Counter "nitrotap_pool_connected" {},
        /// Dials that ended with nobody waiting for them any more.
        dials_spare: Counter "nitrotap_pool_dials_spare" {},
        /// Dials that failed, by cause.
        dial_refused: Counter "nitrotap_pool_dial_failures" { cause = "refused" },
        /// Dials that failed, by cause.
        dial_unreachable: Counter "nitrotap_pool_dial_failures" { cause = "unreachable" },
        /// Dials that failed, by cause.
        dial_timeout: Counter "nitrotap_pool_dial_failures" { cause = "timeout" },
        /// Dials that failed, by cause.
        dial_unresolved: Counter "nitrotap_pool_dial_failures" { cause = "unresolved" },
        /// Dials that failed, by cause.
        dial_other: Counter "nitrotap_pool_dial_failures" { cause = "other" },
        /// Requests that got no connection, by cause.
        reject_queue_full: Counter "nitrotap_pool_rejects" { cause = "queue_full" },
        /// Requests that got no connection, by cause.
        reject_wait_timeout: Counter "nitrotap_pool_rejects" { cause = "wait_timeout" },
        /// Requests that got no connection, by cause.
        reject_dial_failed: Counter "nitrotap_pool_rejects" { cause = "dial_failed" },
        /// Upstream connections closed, by cause.
        close_not_reusable: Counter "nitrotap_pool_closes" { cause = "not_reusable" },
        /// Upstream connections closed, by cause.
        close_by_peer: Counter "nitrotap_pool_closes" { cause = "peer" },
        /// Upstream connections closed, by cause.
        close_idle_timeout: Counter "nitrotap_pool_closes" { cause = "idle_timeout" },
        /// Upstream connections closed, by cause.
        close_surplus: Counter "nitrotap_pool_closes" { cause = "surplus" },
        /// Upstream connections closed, by cause.
        close_max_idle: Counter "nitrotap_pool_closes" { cause = "max_idle" },
        /// Upstream connections closed, by cause.
        close_replaced: Counter "nitrotap_pool_closes" { cause = "replaced" },
        /// Upstream connections closed, by cause.
        close_drained: Counter "nitrotap_pool_closes" { cause = "drained" },
        /// Upstream connections closed, by cause.
        close_head_timeout: Counter "nitrotap_pool_closes" { cause = "head_timeout" },
        /// Dials that asked once more whether an upstream that refused connections takes them again.
        redials: Counter "nitrotap_pool_redials" {},
        /// Times the driver's clock went backwards; such a time is taken as the last one seen.
        clock_backwards: Counter "nitrotap_pool_clock_backwards" {},
    }
}
