//! The switch and what surrounds it: who is connected, which frame goes where, and the one lock on the way out.

use super::{
    connect,
    relay::{self, Exposed, Resolve},
};
use crate::{
    check::{Audit, Invariant},
    cpu::{Process, lock},
    group::Group,
    ledger::{FrameLedger, Way},
    params::GvproxyCosts,
    stack::{FrameSink, HostConfig, Mac, Packet, Stack},
    stream::{Net, SimStream},
    time::Clock,
    trace::{Actor, Event, Trace},
};
use nitrotap_core::time::Instant;
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::Notify;

/// Behaviour of stock gvproxy that a peer must live with, each switchable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quirks {
    /// Bytes that reach the HTTP reader together with `/connect`, and one that comes before the connection is taken over,
    /// are lost (`pkg/virtualnetwork/mux.go`).
    pub loses_early_bytes: bool,
    /// A frame of 0 to 11 bytes wedges the whole switch (`pkg/tap/switch.go`).
    pub runt_wedges: bool,
    /// The first direction of a relayed connection to finish closes both (0.8.1 to 0.8.7).
    pub half_close_broken: bool,
    /// Dials in flight for the whole gateway; further SYNs are dropped silently.
    pub max_in_flight: usize,
}

impl Quirks {
    /// Version 0.8.1, which Debian packages.
    pub const V0_8_1: Self =
        Self { loses_early_bytes: true, runt_wedges: true, half_close_broken: true, max_in_flight: 10 };
    /// Version 0.8.8 and later: half-close is kept.
    pub const V0_8_8: Self = Self { half_close_broken: false, ..Self::V0_8_1 };
}

/// The gateway's hardware address.
pub(crate) const GATEWAY_MAC: Mac = smoltcp::wire::EthernetAddress([0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd]);
/// The gateway's address.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);
/// The address that stands for the host's loopback.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 254);
/// The enclave's address.
pub(crate) const ENCLAVE: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 2);

/// A running gvproxy; clones are handles.
#[derive(Clone)]
pub(crate) struct Gvproxy(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) net: Net,
    pub(super) clock: Clock,
    pub(super) trace: Trace,
    pub(super) audit: Audit,
    pub(super) ledger: FrameLedger,
    pub(super) costs: GvproxyCosts,
    pub(super) process: Process,
    pub(super) quirks: Quirks,
    pub(super) stack: Stack,
    switch: Arc<Switch>,
}

/// What a gvproxy is started with.
pub(crate) struct Config {
    pub(crate) net: Net,
    pub(crate) clock: Clock,
    pub(crate) trace: Trace,
    pub(crate) audit: Audit,
    pub(crate) ledger: FrameLedger,
    pub(crate) costs: GvproxyCosts,
    pub(crate) process: Process,
    pub(crate) quirks: Quirks,
    pub(crate) mtu: usize,
    pub(crate) tcp_buffer: usize,
    pub(crate) seed: u64,
    pub(crate) exposed: Vec<Exposed>,
    pub(crate) resolve: Resolve,
}

struct Switch {
    state: Mutex<State>,
    news: Notify,
    room: Notify,
}

#[derive(Default)]
struct State {
    /// Source address to connection (the CAM table).
    learned: BTreeMap<Mac, u64>,
    conns: BTreeMap<u64, SimStream>,
    out: VecDeque<Outgoing>,
    next: u64,
    wedged: bool,
    /// Frames for an address that nobody has: dropped, as the real one does.
    unknown: u64,
}

/// What waits for the write lock.
enum Outgoing {
    Frame(Vec<u8>),
    /// Bytes for every stream that are no frame of the stack's, and what they are.
    Fault(Vec<u8>, Foul),
}

/// What a fault writes to the frame streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foul {
    /// Frames of any contents and length.
    Frames,
    /// Bytes that are no frames.
    Bytes,
    /// The beginning of a frame, behind which the streams end.
    Cut,
}

/// Frames that wait for the write lock before reading stops: the goroutines that would wait there.
const MAX_WAITING: usize = 256;

impl FrameSink for Switch {
    fn push(&self, _: Instant, packet: Packet) {
        lock(&self.state).out.push_back(Outgoing::Frame(packet.bytes));
        self.news.notify_one();
    }
}

/// Lets the switch be the sink of the stack that it holds.
struct Sink(Arc<Switch>);

impl FrameSink for Sink {
    fn push(&self, now: Instant, packet: Packet) {
        self.0.push(now, packet);
    }
}

impl Gvproxy {
    /// Starts it in `group`.
    pub(crate) fn start(config: Config, group: &Group) -> io::Result<Self> {
        let switch = Arc::new(Switch { state: Mutex::default(), news: Notify::new(), room: Notify::new() });
        let stack = Stack::new(
            HostConfig {
                mac: GATEWAY_MAC,
                address: GATEWAY,
                also: vec![HOST],
                gateway: None,
                mtu: config.mtu,
                buffer: config.tcp_buffer,
                ack_delay: None,
                user_timeout: Duration::from_secs(120),
                fin_timeout: Duration::from_secs(60),
                max_flows: 16_384,
                backlog: 0,
                gateway_mode: true,
                max_held: config.quirks.max_in_flight,
                offload: false,
                seed: config.seed,
            },
            config.clock,
            config.trace.clone(),
            Actor::Netstack,
            Box::new(Sink(switch.clone())),
        );
        let this = Self(Arc::new(Inner {
            net: config.net,
            clock: config.clock,
            trace: config.trace,
            audit: config.audit,
            ledger: config.ledger,
            costs: config.costs,
            process: config.process,
            quirks: config.quirks,
            stack: stack.clone(),
            switch,
        }));
        let listener = this.0.net.listen(CONNECT_PORT)?;
        group.spawn(async move { stack.keep_time().await });
        group.spawn(this.clone().send_frames());
        group.spawn(connect::serve(this.clone(), listener, group.clone()));
        for exposed in config.exposed {
            let listener = this.0.net.listen(exposed.port)?;
            group.spawn(relay::inbound(this.clone(), listener, exposed, group.clone()));
        }
        group.spawn(relay::outbound(this.clone(), config.resolve, group.clone()));
        Ok(this)
    }

    /// Its stack, for invariants.
    pub(crate) fn stack(&self) -> &Stack {
        &self.0.stack
    }

    /// Frames that wait for the write lock.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.0.switch.state).out.len()
    }

    /// Whether a runt has wedged it.
    pub(crate) fn is_wedged(&self) -> bool {
        lock(&self.0.switch.state).wedged
    }

    /// Whether there is a frame stream.
    pub(crate) fn has_streams(&self) -> bool {
        !lock(&self.0.switch.state).conns.is_empty()
    }

    /// Puts bytes on every frame stream that are no frames of the stack's: what a broken host might send.
    pub(crate) fn inject(&self, bytes: Vec<u8>, foul: Foul) {
        lock(&self.0.switch.state).out.push_back(Outgoing::Fault(bytes, foul));
        self.0.switch.news.notify_one();
    }

    /// Ends every frame stream inside a frame.
    pub(crate) fn cut_inside_frame(&self) {
        self.inject(vec![200, 0, 1, 2, 3], Foul::Cut);
    }

    pub(super) fn join(&self, stream: SimStream) -> u64 {
        let mut state = lock(&self.0.switch.state);
        let id = state.next;
        state.next += 1;
        state.conns.insert(id, stream);
        id
    }

    pub(super) fn leave(&self, id: u64) {
        let mut state = lock(&self.0.switch.state);
        state.conns.remove(&id);
        state.learned.retain(|_, conn| *conn != id);
    }

    /// What the switch does with a frame of connection `id`; false when the connection must be closed.
    pub(super) async fn handle_frame(&self, id: u64, stream: &SimStream, frame: &[u8]) -> bool {
        let inner = &*self.0;
        inner.process.run(&inner.clock, inner.costs.frame_in.cost(frame.len()), 0).await;
        if frame.len() < 14 {
            // Every sender of ours promises never to do that.
            inner.audit.fail(
                inner.clock.now(),
                Invariant::Frames,
                format!("a runt of {} bytes was sent to the host", frame.len()),
            );
            inner.trace.note(inner.clock.now(), Actor::Gvproxy, Event::Quirk, 1, frame.len() as u64, 0);
            lock(&inner.switch.state).wedged |= inner.quirks.runt_wedges && frame.len() < 12;
            return false;
        }
        inner.ledger.received(inner.clock.now(), stream.peer(), Way::Out, frame);
        let mac = |at: usize| Mac::from_bytes(&frame[at..at + 6]);
        let (dst, src) = (mac(0), mac(6));
        let for_stack = {
            let mut state = lock(&inner.switch.state);
            if state.wedged {
                return true;
            }
            state.learned.insert(src, id);
            if dst != GATEWAY_MAC && !dst.is_broadcast() {
                // To another enclave, or to nobody.
                match state.learned.get(&dst) {
                    Some(_) => state.out.push_back(Outgoing::Frame(frame.to_vec())),
                    None => state.unknown += 1,
                }
            }
            dst == GATEWAY_MAC || dst.is_broadcast()
        };
        inner.switch.news.notify_one();
        if for_stack {
            inner.stack.handle_frame(frame);
        }
        // What the stack answers waits for the lock in this very goroutine.
        while lock(&inner.switch.state).out.len() > MAX_WAITING {
            inner.switch.room.notified().await;
        }
        true
    }

    /// Writes frames one by one under the lock, whoever they are for: one that does not read stops all.
    async fn send_frames(self) {
        let inner = &*self.0;
        loop {
            let next = lock(&inner.switch.state).out.pop_front();
            match next {
                None => {
                    inner.switch.news.notified().await;
                    continue;
                }
                Some(Outgoing::Frame(frame)) => {
                    for (id, stream) in self.targets(&frame) {
                        inner.process.run(&inner.clock, inner.costs.frame_out.cost(frame.len()), 0).await;
                        inner.ledger.sent(stream.peer(), Way::In, &frame);
                        let prefixed = [&(frame.len() as u16).to_le_bytes()[..], &frame].concat();
                        if stream.send_all(&prefixed).await.is_err() {
                            self.leave(id);
                        }
                    }
                }
                Some(Outgoing::Fault(bytes, foul)) => {
                    let streams: Vec<SimStream> = lock(&inner.switch.state).conns.values().cloned().collect();
                    for stream in streams {
                        if foul == Foul::Frames {
                            // Runts are skipped by the peer; everything else arrives like a frame of the stack's.
                            for frame in frames(&bytes).filter(|frame| frame.len() >= 14) {
                                inner.ledger.sent(stream.peer(), Way::In, frame);
                            }
                        } else {
                            inner.ledger.spoil(stream.peer(), Way::In);
                        }
                        // Whoever has closed does not care.
                        let _ = stream.send_all(&bytes).await;
                        if foul == Foul::Cut {
                            stream.finish();
                        }
                    }
                }
            }
            inner.switch.room.notify_one();
        }
    }

    /// Who gets a frame.
    fn targets(&self, frame: &[u8]) -> Vec<(u64, SimStream)> {
        let mut state = lock(&self.0.switch.state);
        let dst = Mac::from_bytes(&frame[..6]);
        let targets: Vec<(u64, SimStream)> = if dst.is_broadcast() {
            state.conns.iter().map(|(id, stream)| (*id, stream.clone())).collect()
        } else {
            let id = state.learned.get(&dst).copied();
            id.and_then(|id| state.conns.get(&id).map(|stream| (id, stream.clone()))).into_iter().collect()
        };
        state.unknown += u64::from(targets.is_empty());
        targets
    }
}

/// The frames in bytes that are whole frames, each behind its length.
pub(crate) fn frames(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (prefix, rest) = bytes.split_first_chunk::<2>()?;
        let (frame, rest) = rest.split_at_checked(u16::from_le_bytes(*prefix).into())?;
        bytes = rest;
        Some(frame)
    })
}

/// The port of its listener.
pub(crate) const CONNECT_PORT: u32 = 1024;
