//! The faults there are: what each does when it begins and when it ends.

use crate::{
    gvproxy::Foul,
    rng,
    trace::Event,
    world::{CLIENT, ENCLAVE, ENCLAVE_CID, HOST, HOST_CID, HostOrder, World},
};
use serde::{Deserialize, Serialize};

/// A fault of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When it begins, in milliseconds from the start.
    pub at_ms: u64,
    /// How long it lasts; for those that are over at once, how long what they broke stays down.
    pub for_ms: u64,
    /// What it is.
    pub kind: FaultKind,
}

/// What a fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum FaultKind {
    /// Host and enclave lose what they send each other, and the streams between them are dead for good without a word.
    Partition,
    /// Host and enclave get nothing from each other, and everything at once when it is over.
    Hold,
    /// The same between client and host.
    HoldLan,
    /// Packets take this much longer.
    Latency {
        /// How much, in milliseconds.
        extra_ms: u32,
    },
    /// A stream between host and enclave is reset, in the middle of whatever it carries.
    Reset,
    /// gvproxy ends the frame stream inside a frame.
    Truncate,
    /// gvproxy sends frames that make no sense: runts, empty ones, the longest there are, random contents.
    GarbageFrames,
    /// gvproxy sends bytes that are no frames: the stream has lost its place.
    GarbageBytes,
    /// gvproxy is killed, and started when the fault is over.
    GvproxyRestart,
    /// The enclave loses its power, and boots when the fault is over.
    EnclaveRestart,
    /// The EC2 host loses its power and the enclave with it; both boot when the fault is over.
    HostRestart,
    /// The clock of the enclave's programs jumps by this much, forwards or backwards.
    ClockJump {
        /// How far, in milliseconds.
        by_ms: i32,
    },
}

impl FaultKind {
    /// The names of all kinds, of the faults that are part of a load or a topology, and of what datagrams meet.
    pub const REGISTERED: [&'static str; 32] = [
        "partition",
        "hold",
        "hold-lan",
        "latency",
        "reset",
        "truncate",
        "garbage-frames",
        "garbage-bytes",
        "gvproxy-restart",
        "enclave-restart",
        "host-restart",
        "clock-jump",
        "slow-reader",
        "full-buffers",
        "fragmented-io",
        "app-stalls",
        "app-resets",
        "app-half-closes",
        "app-closes-idle",
        "dial-refused",
        "dial-unanswered",
        "rogue-link",
        "rogue-tcp",
        "datagram-echo",
        "datagram-refused",
        "datagram-unanswered",
        "datagram-expired",
        "datagram-too-long",
        "ping",
        "name-udp",
        "name-tcp",
        "peer-resets",
    ];

    /// Its name in counts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Partition => "partition",
            Self::Hold => "hold",
            Self::HoldLan => "hold-lan",
            Self::Latency { .. } => "latency",
            Self::Reset => "reset",
            Self::Truncate => "truncate",
            Self::GarbageFrames => "garbage-frames",
            Self::GarbageBytes => "garbage-bytes",
            Self::GvproxyRestart => "gvproxy-restart",
            Self::EnclaveRestart => "enclave-restart",
            Self::HostRestart => "host-restart",
            Self::ClockJump { .. } => "clock-jump",
        }
    }
}

/// Lets fault number `index` begin; false if there was nothing it could break.
pub(super) fn begin(world: &mut World, index: u32, fault: &Fault) -> bool {
    world.note(Event::FaultBegan, index, 0, 0);
    match fault.kind {
        FaultKind::Partition => {
            let (host, enclave) = (world.host_net(), world.enclave_net());
            for (net, peer) in [(&host, ENCLAVE_CID), (&enclave, HOST_CID)] {
                if let Some(net) = net {
                    net.blackhole(peer);
                }
            }
            world.sim().partition(HOST, ENCLAVE);
            host.is_some() && enclave.is_some()
        }
        FaultKind::Hold => {
            world.sim().hold(HOST, ENCLAVE);
            true
        }
        FaultKind::HoldLan => {
            world.sim().hold(CLIENT, HOST);
            true
        }
        FaultKind::Latency { extra_ms } => slow_down(world, u64::from(extra_ms) * 1_000_000),
        FaultKind::Reset => {
            let any = world.host_net().is_some_and(|net| net.is_connected_to(ENCLAVE_CID));
            order(world, HostOrder::Reset(index as usize)) && any
        }
        FaultKind::Truncate => on_streams(world, HostOrder::Cut),
        FaultKind::GarbageFrames => {
            let bytes = garbage_frames(world.seed() ^ u64::from(index));
            on_streams(world, HostOrder::Inject(bytes, Foul::Frames))
        }
        FaultKind::GarbageBytes => {
            let mut rng = rng::stream(world.seed(), &format!("garbage {index}"));
            let bytes = (0..rng.usize(1..3000)).map(|_| rng.u8(..)).collect();
            on_streams(world, HostOrder::Inject(bytes, Foul::Bytes))
        }
        FaultKind::GvproxyRestart => order(world, HostOrder::Kill),
        FaultKind::EnclaveRestart => world.power_off(ENCLAVE),
        FaultKind::HostRestart => {
            // The enclave goes with its parent.
            let enclave = world.power_off(ENCLAVE);
            world.power_off(HOST) || enclave
        }
        FaultKind::ClockJump { by_ms } => world.jump_enclave_clock(i64::from(by_ms) * 1_000_000),
    }
}

/// Lets fault number `index` end.
pub(super) fn end(world: &mut World, index: u32, fault: &Fault) {
    world.note(Event::FaultEnded, index, 0, 0);
    let now = world.now();
    match fault.kind {
        FaultKind::Partition => {
            world.sim().repair(HOST, ENCLAVE);
            for (net, peer) in [(world.host_net(), ENCLAVE_CID), (world.enclave_net(), HOST_CID)] {
                // What a program opened meanwhile is as dead as the rest. The host's device is told that its transport was
                // reset (virtio specification 5.10.6.7); the enclave has to find out by itself.
                if let Some(net) = net {
                    net.blackhole(peer);
                    if peer == ENCLAVE_CID {
                        net.peer_gone(peer);
                    }
                    if let Some(wire) = net.wire(peer) {
                        wire.cut();
                    }
                }
            }
        }
        FaultKind::Hold => {
            world.shared().held.until(now);
            world.sim().release(HOST, ENCLAVE);
        }
        FaultKind::HoldLan => {
            world.shared().held.until(now);
            world.sim().release(CLIENT, HOST);
        }
        FaultKind::Latency { .. } => {
            slow_down(world, 0);
        }
        FaultKind::Reset
        | FaultKind::Truncate
        | FaultKind::GarbageFrames
        | FaultKind::GarbageBytes
        | FaultKind::ClockJump { .. } => {}
        FaultKind::GvproxyRestart => {
            order(world, HostOrder::Start);
        }
        FaultKind::EnclaveRestart => world.power_on(ENCLAVE),
        FaultKind::HostRestart => {
            world.power_on(HOST);
            world.power_on(ENCLAVE);
        }
    }
}

fn order(world: &World, order: HostOrder) -> bool {
    let running = world.shared().sites.borrow().has_gateway();
    world.shared().host_orders.send(order);
    running
}

/// An order that is about frame streams; false if there is none.
fn on_streams(world: &World, what: HostOrder) -> bool {
    let any = world.shared().sites.borrow().has_frame_stream();
    order(world, what) && any
}

/// False if there is no wire.
fn slow_down(world: &World, extra_ns: u64) -> bool {
    let mut any = false;
    for (net, peer) in [(world.host_net(), ENCLAVE_CID), (world.enclave_net(), HOST_CID)] {
        if let Some(wire) = net.and_then(|net| net.wire(peer)) {
            wire.slow_down(extra_ns);
            any = true;
        }
    }
    any
}

/// Well-formed lengths around contents that no decoder and no kernel may choke on.
fn garbage_frames(seed: u64) -> Vec<u8> {
    let mut rng = rng::stream(seed, "garbage frames");
    let mut bytes = Vec::new();
    for _ in 0..rng.usize(1..20) {
        let len = match rng.u8(0..6) {
            0 => 0,
            1 => rng.usize(1..14),
            2 => 14,
            3 => rng.usize(15..1514),
            4 => rng.usize(1515..9000),
            _ => 65_535,
        };
        bytes.extend((len as u16).to_le_bytes());
        let at = bytes.len();
        bytes.extend((0..len).map(|_| rng.u8(..)));
        if len >= 14 && rng.bool() {
            // To the enclave, of a kind that it looks into.
            bytes[at..at + 6].copy_from_slice(&[0xba, 0xaa, 0xad, 0xc0, 0xff, 0xee]);
            let kind: [u8; 2] = if rng.bool() { [8, 0] } else { [8, 6] };
            bytes[at + 12..at + 14].copy_from_slice(&kind);
        }
    }
    bytes
}
