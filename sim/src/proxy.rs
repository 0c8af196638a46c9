//! The shipped reverse proxy inside the world: the same shard, pool and hyper, on virtual time and modelled sockets.

use crate::{
    charged::{Charged, Price, Readable},
    check::{Audit, Invariant},
    cpu::{Cpu, Process},
    group::Group,
    params::{Op, ProxyCosts},
    stream::{Addr, Net, SimStream},
    time::{Clock, SkewedClock},
    trace::{Actor, Event, Trace},
    trap,
};
use nitrotap_core::{
    pool::{Limits, PoolCounters},
    time::Instant,
};
use nitrotap_proxy::{Config, DialFailure, Dialer, Peer, ProxyCounters, Runtime, Shard, UpstreamUrl};
use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A running reverse proxy.
pub(crate) struct Proxy {
    shards: Vec<(Shard<SimRuntime, SimDialer>, Process)>,
    next: Cell<usize>,
    clock: Clock,
    costs: ProxyCosts,
}

/// What it is started with.
pub(crate) struct ProxyConfig {
    pub(crate) net: Net,
    pub(crate) upstream: Addr,
    pub(crate) clock: Clock,
    pub(crate) skewed: SkewedClock,
    pub(crate) costs: ProxyCosts,
    pub(crate) trace: Trace,
    pub(crate) audit: Audit,
    pub(crate) limits: Limits,
}

impl Proxy {
    /// Starts its workers in `group`.
    pub(crate) fn start(config: ProxyConfig, cpu: &Cpu, group: &Group) -> Self {
        let ProxyConfig { net, upstream, clock, skewed, costs, trace, audit, limits } = config;
        let (shards, threads) = if costs.shared { (1, costs.workers) } else { (costs.workers, 1) };
        let url: UpstreamUrl = "http://127.0.0.1:8080".parse().expect("a literal that is a URL");
        let make = |_| {
            let process = if costs.shared { cpu.go_process(threads) } else { cpu.process(threads) };
            let dialer = SimDialer {
                net: net.clone(),
                upstream,
                clock,
                process: process.clone(),
                costs,
                trace: trace.clone(),
                audit: audit.clone(),
                skewed: skewed.clone(),
            };
            let share = |n: usize| n.div_ceil(shards as usize);
            let limits = Limits {
                max_conns: share(limits.max_conns),
                max_idle: share(limits.max_idle),
                max_waiters: share(limits.max_waiters),
                ..limits
            };
            let config = Config { limits, header_timeout: Duration::from_secs(10), ..Config::default() };
            let runtime = SimRuntime { clock: skewed.clone(), group: group.clone() };
            (Shard::new(runtime, dialer, url.clone(), config), process)
        };
        Self { shards: (0..shards).map(make).collect(), next: Cell::new(0), clock, costs }
    }

    /// Serves a client.
    pub(crate) fn serve<S: Readable + Send + 'static>(&self, stream: S) {
        let index = self.next.get();
        self.next.set((index + 1) % self.shards.len());
        let (shard, process) = &self.shards[index];
        let price = Price { read: self.costs.client_read, write: self.costs.client_write, wake_ns: self.costs.wake_ns };
        shard.serve(Charged::new(stream, process.clone(), self.clock, price), Peer::Ip([192, 168, 127, 1].into()));
    }

    /// Work done so far, in nanoseconds.
    pub(crate) fn busy_ns(&self) -> u64 {
        self.shards.iter().map(|(_, process)| process.busy_ns()).sum()
    }

    /// Counters of every worker.
    pub(crate) fn counters(&self) -> Vec<(ProxyCounters, PoolCounters)> {
        self.shards.iter().map(|(shard, _)| shard.counters()).collect()
    }
}

/// Virtual time and tasks for a shard.
#[derive(Clone, Debug)]
pub(crate) struct SimRuntime {
    clock: SkewedClock,
    group: Group,
}

impl Runtime for SimRuntime {
    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + 'static {
        self.clock.sleep_until(at)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut task = Box::pin(task);
        // hyper asks for the date at every turn, for a header that is off.
        self.group.spawn(poll_fn(move |cx| trap::with_wall_clock_at_zero(|| task.as_mut().poll(cx))));
    }
}

/// Dials the app over the enclave's loopback.
pub(crate) struct SimDialer {
    net: Net,
    upstream: Addr,
    clock: Clock,
    skewed: SkewedClock,
    process: Process,
    costs: ProxyCosts,
    trace: Trace,
    audit: Audit,
}

impl Dialer for SimDialer {
    type Stream = Upstream;

    fn dial(&self) -> impl Future<Output = Result<Upstream, DialFailure>> + 'static {
        let price =
            Price { read: self.costs.upstream_read, write: self.costs.upstream_write, wake_ns: self.costs.wake_ns };
        let (net, upstream, clock) = (self.net.clone(), self.upstream, self.clock);
        let (process, dial_ns) = (self.process.clone(), self.costs.dial_ns);
        let (trace, audit, skewed) = (self.trace.clone(), self.audit.clone(), self.skewed.clone());
        async move {
            process.run(&clock, Op { ns: dial_ns, ps_per_byte: 0 }.ns, 0).await;
            let stream = net.connect(upstream).await?;
            trace.note(clock.now(), Actor::Proxy, Event::UpstreamDial, 0, u64::from(stream.local().port), 0);
            Ok(Upstream {
                stream: Charged::new(stream, process, clock, price),
                audit,
                clock,
                skewed,
                upgraded: false,
                answer: Vec::new(),
                ended_since: None,
            })
        }
    }
}

/// An upstream connection that notices when the proxy writes a request to a connection whose end it was told of.
#[derive(Debug)]
pub(crate) struct Upstream {
    stream: Charged<SimStream>,
    audit: Audit,
    clock: Clock,
    skewed: SkewedClock,
    upgraded: bool,
    /// How the answer to what was written last begins.
    answer: Vec<u8>,
    /// Since when the end has been there to be read, by the clock of the proxy's own timers.
    ended_since: Option<Instant>,
}

/// What turns a connection into a tunnel.
const SWITCHING: &[u8] = b"HTTP/1.1 101";

/// The proxy looks at its idle connections once a second; a dead one that is still used after several looks was handed
/// out knowingly.
const SWEEPS: Duration = Duration::from_secs(5);

impl Upstream {
    fn check_write(&self) {
        if self.upgraded || !self.stream.inner().peer_ended() {
            return;
        }
        if let Some(since) = self.ended_since {
            let known_for = self.skewed.now().since(since);
            self.audit.check(self.clock.now(), Invariant::LiveConnections, known_for < SWEEPS, || {
                format!(
                    "a request was written to upstream {} that had ended {known_for:?} ago",
                    self.stream.inner().local()
                )
            });
        }
    }
}

impl AsyncRead for Upstream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        let new = &buf.filled()[before..];
        // It may come in pieces.
        let missing = SWITCHING.len() - self.answer.len();
        self.answer.extend_from_slice(&new[..new.len().min(missing)]);
        self.upgraded |= self.answer == SWITCHING;
        if result.is_ready() && new.is_empty() && self.ended_since.is_none() {
            self.ended_since = Some(self.skewed.now());
        }
        result
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_write();
        self.answer.clear();
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
