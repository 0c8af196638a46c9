//! Everything that can be tuned, with its unit, default and reason. Read once, immutable after.

use crate::upgrades::Upgrades;
use nitrotap_core::pool::Limits;
use std::time::Duration;

/// Settings of one [`Shard`](crate::Shard); every bound counts for this shard alone.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bounds and timeouts of the upstream connection pool.
    pub limits: Limits,
    /// Client connections served at once; one more is answered 503 and closed. Default 8192.
    pub max_clients: usize,
    /// Longest time from a client connection's opening, or from the first byte of its next request, to the end of
    /// the request head. It is checked four times per period, so up to a quarter longer. Default 30 s.
    pub header_timeout: Duration,
    /// Longest time a client connection stays open between two requests. Default 75 s, as common servers have it.
    pub keep_alive_timeout: Duration,
    /// Longest request or response head, and the size of a connection's buffers, in bytes. At least 8192, default
    /// 64 KiB.
    pub max_head: usize,
    /// Keep `X-Forwarded-Proto` and `X-Forwarded-Host` of the request, because a proxy we trust set them; otherwise
    /// they are overwritten. Default false.
    pub trust_forwarded: bool,
    /// Add a `Date` to responses that lack it (RFC 9110 section 6.6.1). It reads the system's clock, so a simulated
    /// proxy leaves it off. Default false.
    pub date_header: bool,
    /// How often idle upstream connections are checked for having been closed by the peer. Default 1 s. A connection
    /// is checked anyway before it is used again.
    pub sweep_every: Duration,
    /// Protocols that a request may switch to. Default WebSocket.
    pub upgrades: Upgrades,
    /// Connections being turned away at once; one more is closed without an answer. Default 256.
    pub max_lingering: usize,
    /// Most fields in a head and in a trailer section, of requests and responses. At least 100, default 256.
    pub max_fields: usize,
    /// How long a request with `Expect: 100-continue` waits for the upstream's word before its body is sent all the
    /// same: not every app knows the field (RFC 9110 section 10.1.1). Default 1 s.
    pub continue_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            max_clients: 8192,
            header_timeout: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(75),
            max_head: 64 * 1024,
            trust_forwarded: false,
            date_header: false,
            sweep_every: Duration::from_secs(1),
            upgrades: Upgrades::default(),
            max_lingering: 256,
            max_fields: 256,
            continue_timeout: Duration::from_secs(1),
        }
    }
}
