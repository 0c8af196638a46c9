//! What happened, as fixed-size records: hashed as they come, the latest kept, all of them on request.
//!
//! A record holds no text, pointer, float or payload, so that two runs of one plan give the same bytes in any build.
//! Bounds: the ring keeps [`RING`] records; [`Trace::keep_all`] is for short runs and files.

use crate::{cpu::lock, rng::mix};
use nitrotap_core::time::Instant;
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex},
};

/// Records kept for the report of a failure.
pub const RING: usize = 4096;

/// Records between two checkpoints, which tell where two runs part ways.
pub const CHECKPOINT: u64 = 65_536;

macro_rules! events {
    ($( $(#[$doc:meta])* $name:ident = $code:literal $text:literal ),+ $(,)?) => {
        /// What a record is about; `a` and `b` mean what its text says.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Event { $( $(#[$doc])* $name = $code, )+ }

        impl Event {
            /// Every event there is.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            const fn text(self) -> &'static str {
                match self { $( Self::$name => $text, )+ }
            }
        }
    };
}

events! {
    /// A stream's packet left: `a` is its operation, `b` its payload's length.
    PacketSent = 1 "packet sent, op {a}, {b} bytes",
    /// A stream's packet arrived.
    PacketArrived = 2 "packet arrived, op {a}, {b} bytes",
    /// A stream was reset.
    StreamReset = 3 "stream reset",
    /// A frame went from a kernel or stack towards the link.
    FrameOut = 4 "frame out, {a} bytes, hash {b:x}",
    /// A frame reached a kernel or stack.
    FrameIn = 5 "frame in, {a} bytes, hash {b:x}",
    /// A frame was dropped: `a` is the cause.
    FrameDropped = 6 "frame dropped, cause {a}, {b} bytes",
    /// The link changed its state to `a`.
    LinkState = 7 "link state {a}",
    /// A client sent request `a` of `b` bytes.
    Request = 8 "request {a:x}, {b} bytes",
    /// A client got the answer to request `a`, with status `b`.
    Answer = 9 "answer to {a:x}, status {b}",
    /// A client's request `a` failed; `b` is how.
    Failure = 10 "request {a:x} failed, cause {b}",
    /// A bulk transfer moved: `a` bytes, running hash `b`.
    Bulk = 11 "bulk at {a} bytes, hash {b:x}",
    /// Fault number `a` of the plan began.
    FaultBegan = 12 "fault {a} began",
    /// Fault number `a` of the plan ended.
    FaultEnded = 13 "fault {a} ended",
    /// A process or machine started.
    Started = 14 "started",
    /// A process or machine was ended.
    Killed = 15 "killed",
    /// gvproxy's model met quirk `a`.
    Quirk = 16 "quirk {a}",
    /// A connection of the modelled TCP opened: `a` is the local port, `b` the peer's.
    TcpOpen = 17 "tcp open, port {a} to {b}",
    /// A connection of the modelled TCP is over.
    TcpGone = 18 "tcp gone, port {a} to {b}",
    /// The reverse proxy dialled its upstream.
    UpstreamDial = 19 "upstream dial {a}",
}

/// Who a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Actor {
    /// The load generator.
    Client = 1,
    /// The network of the client's machine.
    ClientNet = 2,
    /// The network of the EC2 host.
    HostNet = 3,
    /// gvproxy.
    Gvproxy = 4,
    /// gvproxy's TCP stack.
    Netstack = 5,
    /// The network of the enclave: vsock and loopback.
    EnclaveNet = 6,
    /// The frame forwarder in the enclave.
    Forwarder = 7,
    /// The enclave's kernel behind the TAP.
    Kernel = 8,
    /// The reverse proxy.
    Proxy = 9,
    /// The app.
    App = 10,
    /// The plan itself.
    World = 11,
    /// nitrotap's gateway on the host.
    Gateway = 12,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Client => "client",
            Self::ClientNet => "client.net",
            Self::HostNet => "host.net",
            Self::Gvproxy => "gvproxy",
            Self::Netstack => "gvproxy.tcp",
            Self::EnclaveNet => "enclave.net",
            Self::Forwarder => "forwarder",
            Self::Kernel => "kernel",
            Self::Proxy => "proxy",
            Self::App => "app",
            Self::World => "world",
            Self::Gateway => "gateway",
        })
    }
}

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When.
    pub at: Instant,
    /// To whom.
    pub actor: Actor,
    /// What.
    pub event: Event,
    /// Which connection, client or fault of that actor.
    pub id: u32,
    /// See [`Event`].
    pub a: u64,
    /// See [`Event`].
    pub b: u64,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.event.text();
        let micros = self.at.as_nanos() / 1000;
        let (ms, us) = (micros / 1000, micros % 1000);
        let text = text
            .replace("{a:x}", &format!("{:x}", self.a))
            .replace("{b:x}", &format!("{:x}", self.b))
            .replace("{a}", &self.a.to_string())
            .replace("{b}", &self.b.to_string());
        write!(f, "{ms:>7}.{us:03} {:<12} #{:<5} {text}", self.actor, self.id)
    }
}

/// The trace of one run; clones write to the same one.
#[derive(Clone, Debug)]
pub struct Trace(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    hash: u64,
    count: u64,
    ring: VecDeque<Record>,
    all: Option<Vec<Record>>,
    checkpoints: Vec<u64>,
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

impl Trace {
    /// An empty trace that keeps the latest [`RING`] records.
    #[must_use]
    pub fn new() -> Self {
        let inner = Inner { hash: 0, count: 0, ring: VecDeque::new(), all: None, checkpoints: Vec::new() };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Keeps every record from now on.
    pub fn keep_all(&self) {
        lock(&self.0).all = Some(Vec::new());
    }

    /// Adds a record.
    pub fn note(&self, at: Instant, actor: Actor, event: Event, id: u32, a: u64, b: u64) {
        let mut inner = lock(&self.0);
        let head = (actor as u64) << 48 | (event as u64) << 32 | u64::from(id);
        for word in [at.as_nanos(), head, a, b] {
            inner.hash = mix(inner.hash ^ word).rotate_left(5);
        }
        inner.count += 1;
        if inner.count.is_multiple_of(CHECKPOINT) {
            let hash = inner.hash;
            inner.checkpoints.push(hash);
        }
        let record = Record { at, actor, event, id, a, b };
        if let Some(all) = &mut inner.all {
            all.push(record);
        }
        if inner.ring.len() == RING {
            inner.ring.pop_front();
        }
        inner.ring.push_back(record);
    }

    /// Hash of everything so far, and how many records that is.
    #[must_use]
    pub fn hash(&self) -> (u64, u64) {
        let inner = lock(&self.0);
        (inner.hash, inner.count)
    }

    /// The hash after every [`CHECKPOINT`] records.
    #[must_use]
    pub fn checkpoints(&self) -> Vec<u64> {
        lock(&self.0).checkpoints.clone()
    }

    /// The latest `n` records, oldest first; all of them if all were kept and `n` is large enough.
    #[must_use]
    pub fn tail(&self, n: usize) -> Vec<Record> {
        let inner = lock(&self.0);
        match &inner.all {
            Some(all) => all[all.len().saturating_sub(n)..].to_vec(),
            None => inner.ring.iter().skip(inner.ring.len().saturating_sub(n)).copied().collect(),
        }
    }
}

/// A hash of bytes for traces and integrity checks: order and content count, speed matters, adversaries do not.
#[must_use]
pub fn hash_bytes(seed: u64, bytes: &[u8]) -> u64 {
    let mut hash = seed ^ bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = chunk.try_into().map_or(0, u64::from_le_bytes);
        hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    for byte in chunks.remainder() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    mix(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_every_field_and_on_order() {
        let base = [(1, Actor::Client, Event::Request, 1, 2, 3), (2, Actor::App, Event::Answer, 1, 2, 3)];
        let hash = |records: &[(u64, Actor, Event, u32, u64, u64)]| {
            let trace = Trace::new();
            for (at, actor, event, id, a, b) in records {
                trace.note(Instant::from_nanos(*at), *actor, *event, *id, *a, *b);
            }
            trace.hash().0
        };
        let original = hash(&base);
        assert_eq!(original, hash(&base));
        assert_ne!(original, hash(&[base[1], base[0]]));
        for field in 0..6 {
            let mut changed = base;
            let record = &mut changed[0];
            match field {
                0 => record.0 += 1,
                1 => record.1 = Actor::App,
                2 => record.2 = Event::Answer,
                3 => record.3 += 1,
                4 => record.4 += 1,
                _ => record.5 += 1,
            }
            assert_ne!(original, hash(&changed), "field {field}");
        }
    }

    #[test]
    fn a_record_reads_as_a_line() {
        let at = Instant::from_nanos(12_345_678);
        let record = Record { at, actor: Actor::Client, event: Event::Answer, id: 7, a: 0xbeef, b: 200 };
        assert_eq!(record.to_string(), "     12.345 client       #7     answer to beef, status 200");
    }

    #[test]
    fn the_ring_is_bounded() {
        let trace = Trace::new();
        for i in 0..RING as u64 + 10 {
            trace.note(Instant::from_nanos(i), Actor::App, Event::Started, 0, 0, 0);
        }
        assert_eq!(trace.tail(usize::MAX).len(), RING);
        assert_eq!(trace.tail(1)[0].at, Instant::from_nanos(RING as u64 + 9));
    }
}
