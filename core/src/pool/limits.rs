//! Every bound and timeout of the pool, with its unit, default and reason.

use core::time::Duration;

/// Bounds of one [`Pool`](super::Pool); read once.
///
/// Worst case: `max_conns` open sockets and `max_waiters` queued requests, each a fixed-size entry of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all: dialling, idle and busy. At least 1. Default 1024: above what one app instance serves
    /// well, below the default limit of open files of most apps.
    pub max_conns: usize,
    /// Idle connections kept at most, whatever demand says. Default 512.
    pub max_idle: usize,
    /// Idle connections that a quiet [`Self::demand_window`] leaves open until [`Self::idle_timeout`]. Default 1: a
    /// client that polls every minute should not pay for a dial each time.
    pub min_idle: usize,
    /// Requests waiting for a connection at most. At least 1. Default 1024; more are rejected at once, since a
    /// longer queue only turns overload into latency.
    pub max_waiters: usize,
    /// Longest wait for a connection. Default 10 s.
    pub wait_timeout: Duration,
    /// Longest dial. Default 5 s: covers one lost SYN (1 s) and its second retransmission (3 s).
    pub dial_timeout: Duration,
    /// Longest time from the last byte of a request (or its last progress) to the response head. Default 60 s, as
    /// common proxies have it.
    pub head_timeout: Duration,
    /// Longest time a connection stays idle. Default 60 s: shorter than the 75 s after which common servers close.
    pub idle_timeout: Duration,
    /// How far back demand is remembered. Default 30 s: longer than the pause between two bursts of a page load,
    /// short enough that a spike's connections go soon after it.
    pub demand_window: Duration,
    /// How long a request waits for an upstream that refuses connections, because its app restarts, before it is told
    /// so; nothing of it has been sent, so nothing is sent twice. Default 2 s. Zero: not at all.
    pub connect_retry: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_conns: 1024,
            max_idle: 512,
            min_idle: 1,
            max_waiters: 1024,
            wait_timeout: Duration::from_secs(10),
            dial_timeout: Duration::from_secs(5),
            head_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            demand_window: Duration::from_secs(30),
            connect_retry: Duration::from_secs(2),
        }
    }
}
