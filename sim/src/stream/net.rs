//! The streams of one machine: who listens, who is connected, where packets go.
//!
//! Owns: connections and listeners by port, and one [`Wire`] towards each other machine. Packets within the machine are
//! handed over at once; what they cost is charged where the system call would be.
//! Bounds: [`NetLimits::backlog`] connections wait in a listener, one more is refused; buffers are each stream's own.

use super::{
    carrier::Wire,
    credit::Limits,
    packet::{Addr, Op, Packet},
    socket::{Conn, Fragment, SimStream},
};
use crate::{
    check::{Audit, Invariant},
    cpu::lock,
    time::Clock,
    trace::{Actor, Event, Trace},
};
use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    io,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

/// Which machine a [`Net`] belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role {
    /// Context identifier; see [`Addr::cid`].
    pub cid: u32,
    /// Name in traces.
    pub actor: Actor,
}

/// Sizes of a machine's streams.
#[derive(Clone, Copy, Debug)]
pub struct NetLimits {
    /// Receive buffer of each stream, in bytes.
    pub buf_alloc: u32,
    /// Connections that may wait in a listener.
    pub backlog: usize,
    /// Let reads and writes move fewer bytes than they could, at random under this seed.
    pub fragment: Option<u64>,
}

/// A machine's streams; clones are handles.
#[derive(Clone, Debug)]
pub struct Net(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    role: Role,
    clock: Clock,
    trace: Trace,
    audit: Audit,
    limits: NetLimits,
    conns: BTreeMap<(u32, Addr), Arc<Conn>>,
    listeners: BTreeMap<u32, Waiting>,
    wires: BTreeMap<u32, Wire>,
    next_port: u32,
    next_id: u32,
    /// The machine has lost its power: nothing leaves it any more.
    unplugged: bool,
}

#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<SimStream>,
    waker: Option<Waker>,
}

impl Net {
    /// A machine without connections.
    #[must_use]
    pub fn new(role: Role, clock: Clock, trace: Trace, audit: Audit, limits: NetLimits) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            role,
            clock,
            trace,
            audit,
            limits,
            conns: BTreeMap::new(),
            listeners: BTreeMap::new(),
            wires: BTreeMap::new(),
            // A machine that boots again does not reuse the ports of its last life, which others may still know.
            next_port: 49_152 + u32::try_from(clock.now().as_nanos() / 1_000_000 % 1_000_000_000).unwrap_or(0),
            next_id: 1,
            unplugged: false,
        })))
    }

    /// Leads packets for machine `cid` to `wire`.
    pub fn attach(&self, cid: u32, wire: Wire) {
        lock(&self.0).wires.insert(cid, wire);
    }

    /// The wire towards machine `cid`.
    #[must_use]
    pub fn wire(&self, cid: u32) -> Option<Wire> {
        lock(&self.0).wires.get(&cid).cloned()
    }

    /// This machine's context identifier.
    #[must_use]
    pub fn cid(&self) -> u32 {
        lock(&self.0).role.cid
    }

    pub(super) fn clock(&self) -> Clock {
        lock(&self.0).clock
    }

    /// Begins to listen.
    ///
    /// # Errors
    /// `AddrInUse`, as `bind` has it.
    pub fn listen(&self, port: u32) -> io::Result<Listener> {
        let mut inner = lock(&self.0);
        if inner.listeners.contains_key(&port) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("port {port} is in use")));
        }
        inner.listeners.insert(port, Waiting::default());
        Ok(Listener { net: self.clone(), port })
    }

    /// Connects to `peer`; completes when it answered. Nobody answers a request that was lost: bound the wait.
    pub fn connect(&self, peer: Addr) -> Connect {
        let stream = {
            let mut inner = lock(&self.0);
            let port = inner.free_port(peer);
            let local = Addr { cid: inner.role.cid, port };
            let conn = inner.admit(local, peer);
            lock(&conn.state).endpoint.open(Op::Request);
            SimStream::new(self.clone(), conn)
        };
        stream.flush();
        Connect { stream: Some(stream) }
    }

    /// Sends packets of this machine.
    pub(super) fn send(&self, packets: impl IntoIterator<Item = Packet>) {
        let mut arriving = VecDeque::new();
        for packet in packets {
            let inner = lock(&self.0);
            if inner.unplugged {
                return;
            }
            let now = inner.clock.now();
            inner.trace.note(
                now,
                inner.role.actor,
                Event::PacketSent,
                packet.src.port,
                packet.op as u64,
                packet.payload.len() as u64,
            );
            if packet.dst.cid == inner.role.cid {
                arriving.push_back(packet);
            } else if let Some(wire) = inner.wires.get(&packet.dst.cid) {
                wire.send(now, packet);
            }
        }
        while let Some(packet) = arriving.pop_front() {
            self.dispatch(packet);
        }
    }

    /// A packet has arrived at this machine.
    pub(super) fn dispatch(&self, packet: Packet) {
        let (reply, conn) = {
            let mut inner = lock(&self.0);
            let now = inner.clock.now();
            let role = inner.role;
            inner.trace.note(
                now,
                role.actor,
                Event::PacketArrived,
                packet.dst.port,
                packet.op as u64,
                packet.payload.len() as u64,
            );
            let key = (packet.dst.port, packet.src);
            match inner.conns.get(&key) {
                Some(conn) => (None, Some(conn.clone())),
                None => match packet.op {
                    Op::Request => (inner.accept(self, &packet), None),
                    Op::Rst => (None, None),
                    // A closed stream's last words need no answer; payload does.
                    Op::Response | Op::Shutdown | Op::CreditUpdate => (None, None),
                    Op::Rw => (Some(refusal(&packet)), None),
                },
            }
        };
        if let Some(conn) = conn {
            let (src, dst) = (packet.src, packet.dst);
            let reset_before = lock(&conn.state).endpoint.is_reset();
            if let Err(violation) = conn.handle(packet) {
                let inner = lock(&self.0);
                let detail = format!("stream {src} -> {dst}: {violation}");
                inner.audit.fail(inner.clock.now(), Invariant::Credit, detail);
            }
            if !reset_before && lock(&conn.state).endpoint.is_reset() {
                let inner = lock(&self.0);
                inner.trace.note(inner.clock.now(), inner.role.actor, Event::StreamReset, dst.port, 0, 0);
            }
            let out = conn.take_packets();
            if !out.is_empty() {
                self.send(out);
            }
        }
        if let Some(reply) = reply {
            self.send([reply]);
        }
    }

    /// Machine `cid` is gone: every stream to it is reset.
    pub fn peer_gone(&self, cid: u32) {
        for conn in self.conns_with(cid) {
            conn.vanish();
        }
    }

    /// Every stream to machine `cid` falls silent for good, and neither end is told.
    pub fn blackhole(&self, cid: u32) {
        for conn in self.conns_with(cid) {
            lock(&conn.state).blackholed = true;
        }
    }

    /// The machine loses its power: what its programs say while they end is not heard.
    pub fn unplug(&self) {
        lock(&self.0).unplugged = true;
    }

    /// Resets stream number `n` (modulo how many there are) to machine `cid`, both ends; false if there is none.
    pub fn reset_one(&self, cid: u32, n: usize) -> bool {
        let conns = self.conns_with(cid);
        let Some(conn) = conns.get(n.checked_rem(conns.len()).unwrap_or(0)) else { return false };
        lock(&conn.state).endpoint.abort();
        let packets = conn.take_packets();
        conn.wake();
        self.send(packets);
        true
    }

    /// Whether there is a stream to machine `cid`.
    #[must_use]
    pub fn is_connected_to(&self, cid: u32) -> bool {
        !self.conns_with(cid).is_empty()
    }

    /// The streams that are open, and the bytes they hold; for invariants.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let inner = lock(&self.0);
        let fullest = inner.conns.values().map(|conn| lock(&conn.state).endpoint.held()).max().unwrap_or(0);
        Usage { streams: inner.conns.len(), fullest, limit: inner.limits.buf_alloc }
    }

    fn conns_with(&self, cid: u32) -> Vec<Arc<Conn>> {
        let inner = lock(&self.0);
        inner.conns.iter().filter(|((_, peer), _)| peer.cid == cid).map(|(_, conn)| conn.clone()).collect()
    }

    pub(super) fn forget(&self, local: Addr, peer: Addr) {
        lock(&self.0).conns.remove(&(local.port, peer));
    }
}

/// What a machine's streams hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Streams that are open.
    pub streams: usize,
    /// Bytes received and not yet read of the stream that holds most.
    pub fullest: u32,
    /// What it may hold at most.
    pub limit: u32,
}

impl Inner {
    fn free_port(&mut self, peer: Addr) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = if port == u32::MAX { 49_152 } else { port + 1 };
            if !self.conns.contains_key(&(port, peer)) {
                return port;
            }
        }
    }

    fn admit(&mut self, local: Addr, peer: Addr) -> Arc<Conn> {
        let max_packet = self.wires.get(&peer.cid).map_or(64 << 10, Wire::max_packet);
        let limits = Limits { buf_alloc: self.limits.buf_alloc, max_packet };
        let id = self.next_id;
        self.next_id += 1;
        let fragment = self.limits.fragment.map(|seed| Fragment::new(seed, local, peer, id));
        let conn = Arc::new(Conn::new(local, peer, limits, fragment));
        self.conns.insert((local.port, peer), conn.clone());
        conn
    }

    /// Queues a new connection, or gives the packet that refuses it.
    fn accept(&mut self, net: &Net, request: &Packet) -> Option<Packet> {
        let full = match self.listeners.get(&request.dst.port) {
            Some(waiting) => waiting.queue.len() >= self.limits.backlog,
            None => true,
        };
        if full {
            return Some(refusal(request));
        }
        let conn = self.admit(request.dst, request.src);
        // The request carries the peer's credit; it cannot break a rule that starts with it.
        let opened = conn.handle(request.clone());
        debug_assert!(opened.is_ok(), "a request carries no payload");
        lock(&conn.state).endpoint.open(Op::Response);
        let response = conn.take_packets().pop();
        if let Some(waiting) = self.listeners.get_mut(&request.dst.port) {
            waiting.queue.push_back(SimStream::new(net.clone(), conn));
            if let Some(waker) = waiting.waker.take() {
                waker.wake();
            }
        }
        response
    }
}

fn refusal(packet: &Packet) -> Packet {
    Packet {
        src: packet.dst,
        dst: packet.src,
        op: Op::Rst,
        flags: 0,
        buf_alloc: 0,
        fwd_cnt: 0,
        payload: bytes::Bytes::new(),
    }
}

/// A connection on its way; a future.
#[derive(Debug)]
#[must_use = "a connection that is not awaited is given up"]
pub struct Connect {
    stream: Option<SimStream>,
}

impl Connect {
    /// The stream that is being made.
    pub(crate) const fn stream(&self) -> Option<&SimStream> {
        self.stream.as_ref()
    }
}

impl Future for Connect {
    type Output = io::Result<SimStream>;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(stream) = &self.stream else { return Poll::Pending };
        match stream.poll_connected(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => match self.stream.take() {
                Some(stream) => Poll::Ready(Ok(stream)),
                None => Poll::Pending,
            },
            Poll::Ready(Err(error)) => {
                self.stream = None;
                Poll::Ready(Err(error))
            }
        }
    }
}

/// A port that takes connections, until it is dropped.
#[derive(Debug)]
pub struct Listener {
    net: Net,
    port: u32,
}

impl Listener {
    /// The next connection.
    pub async fn accept(&self) -> SimStream {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// [`Listener::accept`] for whoever polls many.
    pub(crate) fn poll_accept(&self, cx: &Context<'_>) -> Poll<SimStream> {
        let mut inner = lock(&self.net.0);
        let Some(waiting) = inner.listeners.get_mut(&self.port) else { return Poll::Pending };
        match waiting.queue.pop_front() {
            Some(stream) => Poll::Ready(stream),
            None => {
                waiting.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let waiting = lock(&self.net.0).listeners.remove(&self.port);
        if let Some(waiting) = waiting {
            // Nobody will ever read them: a reset, as the kernel does it.
            for stream in &waiting.queue {
                stream.abort();
            }
        }
    }
}
