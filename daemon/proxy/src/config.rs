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
    /// Most fields in a head of a request or response, and in a request's trailer section (a response's may have 100). At
    /// least 100, default 256.
    pub max_fields: usize,
    /// How long a request with `Expect: 100-continue` waits for the upstream's word before its body is sent all the
    /// same: not every app knows the field (RFC 9110 section 10.1.1). Default 1 s.
    pub continue_timeout: Duration,
    /// Longest time a client is waited for while it sends a request's body, beyond what its bytes earn
    /// ([`nitrotap_core::pace`]). Default 30 s.
    pub body_timeout: Duration,
    /// The same while it reads a response. Default 60 s, as common servers have it: a kernel's buffers hide for long how
    /// a client reads.
    pub send_timeout: Duration,
    /// Bytes per second that a client keeps up in either direction, on average; 0: any byte counts. Default 256: less
    /// than the slowest line in use carries.
    pub min_rate: u64,
    /// Longest pause of the upstream in the middle of a response. Default 300 s: events that come as they happen are
    /// worth waiting for.
    pub upstream_timeout: Duration,
    /// Longest time without a byte in either direction of an upgraded connection. Default 1 h.
    pub tunnel_idle: Duration,
    /// Upgraded connections at once. Default three quarters of [`Limits::max_conns`], but always one and never all
    /// of several: what needs an answer soon must find a connection.
    pub max_tunnels: Option<usize>,
    /// A request's body up to this many bytes is read before an upstream connection is taken. 0: none is. Default
    /// 64 KiB.
    pub request_buffer: usize,
    /// Bytes of a response that are read ahead of a slow client. 0: none are. Default 1 MiB.
    pub response_buffer: usize,
    /// Bytes that all requests and responses may keep in the shard. Default 64 MiB.
    pub buffer_memory: usize,
    /// Connections from one client address (IPv6: from one /64). Default no limit.
    pub max_per_address: usize,
    /// The same for addresses that are not of private networks, where gateways and relays are. Default no limit.
    pub max_per_public_address: usize,
    /// Whether the process has memory for anything new. Where it has not, clients and requests are answered 503: what is
    /// in progress must find what it needs. Default: always.
    pub has_memory: fn() -> bool,
}

impl Config {
    /// How many upgraded connections there may be.
    pub(crate) fn tunnels(&self) -> usize {
        let conns = self.limits.max_conns;
        self.max_tunnels.unwrap_or_else(|| conns - conns.div_ceil(4)).clamp(1, conns.saturating_sub(1).max(1))
    }
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
            body_timeout: Duration::from_secs(30),
            send_timeout: Duration::from_secs(60),
            min_rate: 256,
            upstream_timeout: Duration::from_secs(300),
            tunnel_idle: Duration::from_secs(3600),
            max_tunnels: None,
            request_buffer: 64 * 1024,
            response_buffer: 1024 * 1024,
            buffer_memory: 64 * 1024 * 1024,
            max_per_address: usize::MAX,
            max_per_public_address: usize::MAX,
            has_memory: || true,
        }
    }
}
