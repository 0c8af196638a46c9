//! The proxy's part of the command line, shared by every role that runs one.

use super::{listen::ListenAddr, server::ProxyOptions};
use crate::errors::Error;
use nitrotap_core::pool::Limits;
use nitrotap_proxy::{Config, Upgrades, UpstreamUrl};
use std::{num::NonZeroUsize, str::FromStr, thread, time::Duration};

/// Flags of the reverse proxy. Flatten it last: its heading is also that of the flags after it.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Reverse proxy")]
pub(crate) struct ProxyFlags {
    /// Serve HTTP on this address, or on vsock://:PORT; repeatable
    #[arg(long, value_name = "ADDR:PORT|vsock://:PORT", requires = "upstream")]
    listen: Vec<ListenAddr>,

    /// Where requests go: the app, as http://HOST:PORT with an optional base path
    #[arg(long, value_name = "URL", requires = "listen")]
    upstream: Option<UpstreamUrl>,

    /// Threads that serve requests [default: one per core]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,

    /// Client connections served at once; one more is answered 503
    #[arg(long, value_name = "N", default_value = "16384")]
    max_clients: NonZeroUsize,

    /// Upstream connections open at once; more requests wait
    #[arg(long, value_name = "N", default_value = "2048")]
    max_upstream_connections: NonZeroUsize,

    /// Requests that may wait for an upstream connection; one more is answered 503
    #[arg(long, value_name = "N", default_value = "2048")]
    max_queue: NonZeroUsize,

    /// Longest wait in that queue before a 503
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    queue_timeout: Seconds,

    /// Longest wait for an upstream that refuses connections, because the app restarts, before a 502; 0 is none
    #[arg(long, value_name = "SECONDS", default_value = "2")]
    connect_retry: SecondsOrNone,

    /// Longest wait for a connection to the upstream before a 504
    #[arg(long, value_name = "SECONDS", default_value = "5")]
    connect_timeout: Seconds,

    /// Longest wait for the upstream's answer to begin before a 504
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    response_timeout: Seconds,

    /// Longest time a client may take over a request's head
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    header_timeout: Seconds,

    /// Longest time a client connection stays open between two requests
    #[arg(long, value_name = "SECONDS", default_value = "75")]
    keep_alive_timeout: Seconds,

    /// Longest time an upstream connection stays open unused; keep it below the upstream's own
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    idle_timeout: Seconds,

    /// Keep what requests say about their origin (X-Forwarded-*, Forwarded, X-Real-IP and the like), because a trusted
    /// proxy in front sets it; otherwise it is dropped, but for X-Forwarded-For, which the client's address is added to
    #[arg(long)]
    trust_forwarded: bool,

    /// Demand a PROXY protocol header (version 2) first on every connection, and take the client's address from it;
    /// only behind a proxy that sends one, since it is believed
    #[arg(long, requires = "listen")]
    accept_proxy_protocol: bool,

    /// Let requests switch to this protocol too, beside websocket; repeatable
    #[arg(long, value_name = "PROTOCOL", requires = "listen")]
    allow_upgrade: Vec<String>,

    /// Most fields in the head of a request or response, and in a request's trailers; a request with more is answered 431.
    /// A response may have 100 trailers
    #[arg(long, value_name = "N", default_value = "256")]
    max_fields: NonZeroUsize,

    /// Longest time a client is waited for while it sends a request's body; its bytes earn it more at --min-rate
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    body_timeout: Seconds,

    /// Longest time a client is waited for while it reads a response; its bytes earn it more at --min-rate
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    send_timeout: Seconds,

    /// Bytes per second that a client must keep up on average, in either direction; 0: any byte counts. The slowest are
    /// ended early while requests wait for an upstream connection
    #[arg(long, value_name = "BYTES", default_value = "256", value_parser = byte_size)]
    min_rate: u64,

    /// Longest pause of the upstream in the middle of a response
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    upstream_timeout: Seconds,

    /// Longest time without a byte in either direction of an upgraded connection, such as a WebSocket
    #[arg(long, value_name = "SECONDS", default_value = "3600")]
    tunnel_idle_timeout: Seconds,

    /// Upgraded connections at once; one more is answered 503 [default: three quarters of --max-upstream-connections]
    #[arg(long, value_name = "N")]
    max_tunnels: Option<NonZeroUsize>,

    /// Client connections from one address (IPv6: one /64; vsock: one CID); one more is answered 429 [default: a quarter of
    /// --max-clients for public addresses, no limit for CIDs and private ones, which gateways and relays have]
    #[arg(long, value_name = "N")]
    max_clients_per_address: Option<NonZeroUsize>,

    /// Read a request's body up to this size before taking an upstream connection; 0: pass it on as it comes
    #[arg(long, value_name = "BYTES", default_value = "64K", value_parser = byte_size)]
    request_buffer: u64,

    /// Read up to this much of a response ahead of a slow client, so that its upstream connection is free earlier; 0:
    /// nothing
    #[arg(long, value_name = "BYTES", default_value = "1M", value_parser = byte_size)]
    response_buffer: u64,

    /// Memory for all such requests and responses
    #[arg(long, value_name = "BYTES", default_value = "128M", value_parser = byte_size)]
    buffer_memory: u64,
}

impl ProxyFlags {
    /// What to run, or `None` if no proxy was asked for.
    pub(crate) fn options(&self) -> Result<Option<ProxyOptions>, Error> {
        let Some(upstream) = &self.upstream else { return Ok(None) };
        let workers = self.workers.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
        if workers.get() > MAX_WORKERS {
            return Err(Error::usage(format!(
                "--workers {workers} is more than {MAX_WORKERS}; one per core is enough"
            )));
        }
        // Every worker gets its share of a limit, rounded up: a small limit may be exceeded by one per worker.
        let share = |n: NonZeroUsize| n.get().div_ceil(workers.get());
        let max_conns = share(self.max_upstream_connections);
        let limits = Limits {
            max_conns,
            // What is open may stay open while demand lasts.
            max_idle: max_conns,
            max_waiters: share(self.max_queue),
            wait_timeout: self.queue_timeout.0,
            dial_timeout: self.connect_timeout.0,
            head_timeout: self.response_timeout.0,
            idle_timeout: self.idle_timeout.0,
            connect_retry: self.connect_retry.0,
            ..Limits::default()
        };
        let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut upgrades = Upgrades::default();
        for name in &self.allow_upgrade {
            upgrades.allow(name).map_err(|why| Error::usage(format!("--allow-upgrade {name}: {why}")))?;
        }
        let config = Config {
            limits,
            upgrades,
            max_clients: share(self.max_clients),
            header_timeout: self.header_timeout.0,
            keep_alive_timeout: self.keep_alive_timeout.0,
            trust_forwarded: self.trust_forwarded,
            date_header: true,
            max_fields: self.max_fields.get().clamp(100, 10_000),
            body_timeout: self.body_timeout.0,
            send_timeout: self.send_timeout.0,
            min_rate: self.min_rate,
            upstream_timeout: self.upstream_timeout.0,
            tunnel_idle: self.tunnel_idle_timeout.0,
            max_tunnels: self.max_tunnels.map(share),
            max_per_address: self.max_clients_per_address.map_or(usize::MAX, share),
            max_per_public_address: share(self.max_clients).div_ceil(4),
            request_buffer: size(self.request_buffer),
            response_buffer: size(self.response_buffer),
            buffer_memory: size(self.buffer_memory).div_ceil(workers.get()),
            has_memory: crate::sys::alloc::has_reserve,
            ..Config::default()
        };
        Ok(Some(ProxyOptions {
            listen: self.listen.clone(),
            upstream: upstream.clone(),
            workers,
            config,
            accept_proxy_protocol: self.accept_proxy_protocol,
        }))
    }
}

/// No machine with an enclave has more cores.
const MAX_WORKERS: usize = 256;

/// A positive time in seconds, fractions allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) Duration);

impl FromStr for Seconds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds = text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
        seconds
            .filter(|s| *s >= Duration::from_millis(1) && *s <= Duration::from_secs(86_400))
            .map(Self)
            .ok_or("expected seconds from 0.001 to 86400, such as 10 or 0.5")
    }
}

/// A time in seconds that may be nothing at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SecondsOrNone(pub(crate) Duration);

impl FromStr for SecondsOrNone {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.parse() == Ok(0.0) { Ok(Self(Duration::ZERO)) } else { text.parse::<Seconds>().map(|s| Self(s.0)) }
    }
}

/// A number of bytes, with K, M or G for powers of 1024.
fn byte_size(text: &str) -> Result<u64, &'static str> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        Some(_) | None => (text, 0),
    };
    let size = digits.parse::<u64>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
    size.filter(|n| *n <= 1 << 34).map(|n| n << shift).ok_or("expected a number of bytes, such as 0, 65536, 64K or 1M")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        proxy: ProxyFlags,
    }

    fn parse(args: &[&str]) -> Result<Option<ProxyOptions>, String> {
        let cli = Cli::try_parse_from([&["x"], args].concat()).map_err(|e| e.to_string())?;
        cli.proxy.options().map_err(|e| e.to_string())
    }

    #[test]
    fn limits_are_shared_out_among_the_workers() {
        let args = ["--listen", "127.0.0.1:0", "--upstream", "http://a", "--workers", "3", "--max-clients", "10"];
        let options = parse(&args).unwrap().unwrap();
        assert_eq!((options.workers.get(), options.config.max_clients), (3, 4));
        assert_eq!(options.config.limits.max_conns, 683);
        assert!(!options.accept_proxy_protocol);
    }

    #[test]
    fn listener_and_upstream_need_each_other_and_neither_is_no_proxy() {
        assert!(parse(&[]).unwrap().is_none());
        assert!(parse(&["--listen", "127.0.0.1:0"]).unwrap_err().contains("--upstream"));
        assert!(parse(&["--upstream", "http://a"]).unwrap_err().contains("--listen"));
        assert!(parse(&["--accept-proxy-protocol"]).unwrap_err().contains("--listen"));
    }

    #[test]
    fn only_protocols_that_the_proxy_understands_less_than_http_can_be_allowed() {
        let args = ["--listen", "127.0.0.1:0", "--upstream", "http://a", "--allow-upgrade"];
        assert!(parse(&[&args[..], &["foo"]].concat()).is_ok());
        assert!(parse(&[&args[..], &["h2c"]].concat()).unwrap_err().contains("--allow-upgrade h2c"));
    }

    #[test]
    fn sizes_are_bytes_with_powers_of_1024() {
        for (text, bytes) in [("0", 0), ("1500", 1500), ("64K", 65_536), ("1M", 1 << 20), ("2G", 2 << 30)] {
            assert_eq!(byte_size(text), Ok(bytes));
        }
        for bad in ["", "K", "-1", "1.5M", "1k", "+1", "99999999999999999999", "1T"] {
            assert!(byte_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_positive_seconds() {
        assert_eq!("0.5".parse(), Ok(Seconds(Duration::from_millis(500))));
        for bad in ["0", "-1", "x", "1s", "inf", "1e9"] {
            assert!(bad.parse::<Seconds>().is_err(), "{bad}");
            assert_eq!(bad.parse::<SecondsOrNone>().is_ok(), bad == "0", "{bad}");
        }
    }
}
