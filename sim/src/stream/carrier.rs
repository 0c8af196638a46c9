//! The way from one machine to another: delay, rate and faults of a wire, and the turmoil connection that carries it.
//!
//! turmoil's own latency is quantised to ticks and counted from the start of the sender's tick. So each packet carries
//! the model time at which it is to be delivered, the carrier is always faster than that, and the receiver holds the
//! packet until then ("stamp and hold"): throughput does not depend on the tick.

use super::{net::Net, packet::Packet};
use crate::{
    check::{Audit, Invariant},
    cpu::lock,
    rng,
    time::ns,
};
use bytes::BytesMut;
use nitrotap_core::time::Instant;
use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Notify,
};
use turmoil::net::{TcpListener, TcpStream};

/// Properties of one direction of a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireParams {
    /// One-way delay of a packet after its last byte was sent, in nanoseconds.
    pub latency_ns: u64,
    /// Up to this much more, evenly spread, in nanoseconds; order is kept.
    pub jitter_ns: u64,
    /// Time to serialise 1,024 bytes, in nanoseconds: 819 is 10 Gbit/s.
    pub ns_per_kib: u64,
    /// Time of a packet whatever its size, in nanoseconds.
    pub packet_ns: u64,
    /// Longest payload of a packet in this direction, in bytes.
    pub max_packet: u32,
}

/// One direction of the way between two machines; clones are handles.
#[derive(Clone, Debug)]
pub struct Wire(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    news: Notify,
    /// The carrier was cut: both ends make a new one.
    cut: Notify,
}

#[derive(Debug)]
struct State {
    params: WireParams,
    jitter: fastrand::Rng,
    busy_until: Instant,
    last_delivery: Instant,
    extra_ns: u64,
    queue: VecDeque<(Instant, Packet)>,
}

impl Wire {
    /// A wire without a carrier yet: packets wait for one.
    #[must_use]
    pub fn new(params: WireParams, seed: u64, name: &str) -> Self {
        let state = State {
            params,
            jitter: rng::stream(seed, name),
            busy_until: Instant::ZERO,
            last_delivery: Instant::ZERO,
            extra_ns: 0,
            queue: VecDeque::new(),
        };
        Self(Arc::new(Shared { state: Mutex::new(state), news: Notify::new(), cut: Notify::new() }))
    }

    /// Longest payload of a packet.
    #[must_use]
    pub fn max_packet(&self) -> u32 {
        lock(&self.0.state).params.max_packet
    }

    /// Adds this much to the latency of packets sent from now on.
    pub fn slow_down(&self, extra_ns: u64) {
        lock(&self.0.state).extra_ns = extra_ns;
    }

    /// Drops the carrier and what it holds; a new one is made as soon as the machines can reach each other.
    pub fn cut(&self) {
        lock(&self.0.state).queue.clear();
        self.0.cut.notify_one();
    }

    pub(super) fn send(&self, now: Instant, packet: Packet) {
        let mut state = lock(&self.0.state);
        let bytes = packet.payload.len() as u64 + 44;
        let params = state.params;
        let took = params.packet_ns + bytes * params.ns_per_kib / 1024;
        state.busy_until = now.max(state.busy_until) + ns(took);
        let jitter = if params.jitter_ns == 0 { 0 } else { state.jitter.u64(0..=params.jitter_ns) };
        let at = state.busy_until + ns(params.latency_ns + jitter + state.extra_ns);
        // A stream keeps its order, and so does the queue that carries it.
        state.last_delivery = at.max(state.last_delivery);
        let at = state.last_delivery;
        state.queue.push_back((at, packet));
        drop(state);
        self.0.news.notify_one();
    }

    /// Carries this wire over `stream`, and what comes back into `net`, until the peer is gone or the wire is cut.
    async fn carry(&self, stream: TcpStream, net: &Net, peer: u32, audit: &Audit, held: &Held) {
        let begun = net.clock().now();
        {
            let mut state = lock(&self.0.state);
            // What had to wait for a carrier leaves now.
            let earliest = begun + ns(state.params.latency_ns);
            for (at, _) in &mut state.queue {
                *at = earliest.max(*at);
            }
            state.last_delivery = earliest.max(state.last_delivery);
        }
        let (mut reader, mut writer) = stream.into_split();
        let outbound = async {
            let mut buf = Vec::new();
            loop {
                {
                    let mut state = lock(&self.0.state);
                    while let Some((at, packet)) = state.queue.pop_front() {
                        packet.encode(at, &mut buf);
                    }
                }
                if buf.is_empty() {
                    self.0.news.notified().await;
                    continue;
                }
                if writer.write_all(&buf).await.is_err() {
                    // The reader notices too, and says so.
                    std::future::pending::<()>().await;
                }
                buf.clear();
            }
        };
        let clock = net.clock();
        let inbound = async {
            let mut buf = BytesMut::with_capacity(64 << 10);
            loop {
                while let Some((at, packet)) = Packet::decode(&mut buf) {
                    let now = clock.now();
                    // A sleep ends on the nearest grain, which may be just after the packet before this one was due.
                    if now > at + clock.grain() && !held.is_late(now, at) {
                        audit.fail(now, Invariant::Causality, format!("a packet due at {at} came at {now}"));
                    }
                    clock.sleep_until(at).await;
                    net.dispatch(packet);
                }
                if !matches!(reader.read_buf(&mut buf).await, Ok(1..)) {
                    break;
                }
            }
        };
        tokio::select! {
            biased;
            () = inbound => net.peer_gone(peer),
            () = outbound => {}
            () = self.0.cut.notified() => {}
        }
    }
}

/// Whether the harness holds packets back, so that late ones are no fault of the model.
#[derive(Clone, Debug, Default)]
pub struct Held(Arc<Mutex<Option<Instant>>>);

impl Held {
    /// Packets sent until now may come late, whenever they come.
    pub fn until(&self, now: Instant) {
        *lock(&self.0) = Some(now);
    }

    fn is_late(&self, now: Instant, at: Instant) -> bool {
        // Nothing that was due before the last release can be blamed on the model, nor what queued up behind it.
        lock(&self.0).is_some_and(|until| at <= until + Duration::from_secs(1) || now <= until + Duration::from_secs(1))
    }
}

/// The port that carriers connect to; the number says which machine comes.
const CARRIER_PORT: u16 = 9000;

/// Makes carriers to machine `peer` at `ip` for ever: dials, and dials again when one ends.
#[expect(clippy::disallowed_methods, reason = "a carrier is no part of the model, nor is its time")]
pub(crate) async fn dial(ip: IpAddr, net: Net, peer: u32, audit: Audit, held: Held) {
    let Some(wire) = net.wire(peer) else { return };
    let port = CARRIER_PORT + u16::try_from(net.cid()).unwrap_or(0);
    loop {
        match TcpStream::connect((ip, port)).await {
            Ok(stream) => wire.carry(stream, &net, peer, &audit, &held).await,
            Err(_) => tokio::time::sleep(REDIAL).await,
        }
    }
}

/// Takes carriers from machine `peer` for ever; a new one replaces the one before.
pub(crate) async fn accept(net: Net, peer: u32, audit: Audit, held: Held) -> std::io::Result<()> {
    let Some(wire) = net.wire(peer) else { return Ok(()) };
    let port = CARRIER_PORT + u16::try_from(peer).unwrap_or(0);
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    let mut next = Some(listener.accept().await?.0);
    while let Some(stream) = next.take() {
        tokio::select! {
            biased;
            accepted = listener.accept() => {
                // The peer has booted, or what it had was cut: nothing of the old carrier will ever arrive.
                net.peer_gone(peer);
                next = Some(accepted?.0);
            }
            () = wire.carry(stream, &net, peer, &audit, &held) => next = Some(listener.accept().await?.0),
        }
    }
    Ok(())
}

/// Wait before the next try, in simulated time: machines that cannot reach each other cost next to nothing.
const REDIAL: Duration = Duration::from_millis(100);
