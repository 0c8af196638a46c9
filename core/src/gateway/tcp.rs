//! The TCP connections of a gateway: found by their addresses, opened only once the world has answered.
//!
//! Owns: connections, their deadlines, what remains of those that are over. Driven by: the machine.
//! Drain: [`Tcp::flush`] after every batch of inputs.
//! Bounds: the configured number of connections, in all and per tenant; of those that are not yet open; of bytes in all
//! buffers; [`time_wait::MAX`] remembered ones; the work of each call (`sending`).

mod adrift;
mod budget;
pub(super) mod device;
mod flow;
mod initial;
mod key;
mod opening;
mod rejected;
mod sending;
mod starts;
mod stray;
mod time_wait;

use super::{
    arena::{Arena, Id},
    config::Allocate,
    counters::Counters,
    output::{Closed, FlowId, Output, Outputs, Target},
    port::{ANONYMOUS, PortId, Ports},
    source_ports::{SourcePorts, SourcePortsConfig},
    tenant::{Origin, Refusal, Tenants},
    timers::{EXPIRIES, Scheduled, Timers},
    wire::{self, ACK, ETHERNET, RST, SYN, Segment, TCP, Unreachable},
};
use crate::time::Instant;
use adrift::{Claim, Drift, Drifting};
use budget::Budget;
use core::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use device::Emit;
use flow::{Buffers, Flow, Progress, TURN};
use foldhash::fast::FixedState;
use smoltcp::socket::tcp::State;
use starts::Starts;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use time_wait::{Last, TimeWait};

pub(super) use adrift::Owners;
pub(super) use budget::SMALLEST;
pub(super) use key::{FlowKey, hash_pair, same};
pub use sending::FLUSH_WORK_LIMIT;

/// What the table is told once.
#[derive(Clone, Copy, Debug)]
pub(super) struct TcpConfig {
    pub(super) mac: [u8; 6],
    pub(super) mtu: usize,
    pub(super) max_flows: usize,
    pub(super) memory: usize,
    pub(super) largest_buffer: usize,
    pub(super) seed: u64,
    pub(super) allocate: Allocate,
    pub(super) source_ports: SourcePortsConfig,
}

/// Longest wait of a guest for the world's answer, and of the world for a guest's.
const OPENING: Duration = Duration::from_secs(30);
/// Longest wait for the guest's part in a handshake that we began or answered (gvproxy waits as long).
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Longest life of a connection after the world has closed its half: peers that never close theirs would stay for ever.
const LINGER: Duration = Duration::from_secs(3600);
/// Silence after which a guest is given up that was asked and does not answer, be it for a link that is being redialled.
const SILENCE: Duration = Duration::from_secs(300);
/// How often a SYN that meets an earlier connection of the guest is followed by another one with a higher number.
const ATTEMPTS: u8 = 2;
/// How late the earliest deadline is looked at if nobody was there to look: stopped, or its machine was.
const ABSENCE: Duration = Duration::from_secs(1);

/// What the rest of the gateway lends for one call.
pub(super) struct Context<'a> {
    pub(super) ports: &'a mut Ports,
    pub(super) tenants: &'a mut Tenants,
    pub(super) out: &'a mut Outputs,
    pub(super) counters: &'a mut Counters,
}

#[derive(Debug)]
enum Phase {
    /// The guest's SYN waits for the world, without its payload: a peer that listens takes none of it.
    Held(Box<[u8]>),
    /// We have yet to learn where the guest is.
    Resolving(Box<Flow>),
    Open(Box<Flow>),
}

#[derive(Debug)]
struct Entry {
    key: FlowKey,
    port: Option<PortId>,
    mac: [u8; 6],
    phase: Phase,
    /// The last state seen, to tell how it came to an end.
    state: State,
    half_open: bool,
    origin: Origin,
    /// Where it leads, if that takes a port of the host.
    destination: Option<SocketAddr>,
    /// The guest has closed before the world has: the host's kernel keeps the port.
    keeps_port: bool,
    established: bool,
    scheduled: Scheduled,
    /// When its timer may next expire.
    not_before: Instant,
    /// When it is given up, whatever smoltcp says.
    deadline: Option<Instant>,
    /// When the guest last said something.
    heard: Instant,
    dirty: bool,
    /// The link on which it waits for room.
    blocked: Option<PortId>,
    notified: bool,
    /// Its link is gone: what is known of that.
    drift: Option<Drift>,
    /// How often a SYN to the guest has met an earlier connection there.
    attempts: u8,
}

/// What a driver may know of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowStatus {
    /// The guest has taken part in the handshake.
    pub established: bool,
    /// Bytes from the guest that wait for the world.
    pub received: usize,
    /// The guest has closed its half, and all its bytes were taken.
    pub received_all: bool,
    /// Bytes from the world that may be given.
    pub room: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tcp {
    config: TcpConfig,
    flows: Arena<Box<Entry>>,
    by_key: HashMap<FlowKey, Id, FixedState>,
    timers: Timers,
    time_wait: TimeWait,
    budget: Budget,
    source_ports: SourcePorts,
    dirty: VecDeque<Id>,
    /// When a flush last had to leave connections for the next one, if the last one did.
    left_over: Option<Instant>,
    /// Connections whose link is gone, by whose they are and their guest.
    adrift: BTreeMap<(u32, IpAddr), Drifting>,
    starts: Starts,
    /// When deadlines were last looked at.
    looked: Instant,
    scratch: Box<[u8]>,
    rng: fastrand::Rng,
}

impl Tcp {
    pub(super) fn new(config: TcpConfig) -> Self {
        let mut rng = fastrand::Rng::with_seed(config.seed);
        Self {
            config,
            flows: Arena::default(),
            by_key: HashMap::with_hasher(FixedState::with_seed(rng.u64(..))),
            timers: Timers::default(),
            time_wait: TimeWait::new(rng.u64(..)),
            budget: Budget::new(config.memory, config.largest_buffer, config.max_flows),
            source_ports: SourcePorts::new(config.source_ports),
            dirty: VecDeque::new(),
            left_over: None,
            adrift: BTreeMap::new(),
            starts: Starts::new(&mut rng),
            looked: Instant::ZERO,
            scratch: vec![0; device::LONGEST].into(),
            rng,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(super) fn remembered(&self) -> usize {
        self.time_wait.len()
    }

    pub(super) const fn memory(&self) -> usize {
        self.budget.used()
    }

    /// Whether a segment belongs to a connection that is there.
    pub(super) fn find(&self, key: &FlowKey) -> Option<FlowId> {
        self.by_key.get(key).map(|id| FlowId(*id))
    }

    /// A segment of a connection that is there. False if it asks for a new one instead: the old one is gone.
    pub(super) fn handle_segment(
        &mut self,
        now: Instant,
        ctx: &mut Context<'_>,
        (port, mac): (PortId, [u8; 6]),
        FlowId(id): FlowId,
        owners: Owners<'_>,
        (segment, packet): (&Segment, &[u8]),
    ) -> bool {
        let Some(entry) = self.flows.get(id) else { return true };
        if entry.port != Some(port) {
            match self.claim(now, ctx.ports, owners, (port, mac), id, segment) {
                Claim::Moved => {}
                Claim::Forgotten => {
                    self.give_way(ctx, id);
                    return false;
                }
                Claim::Reset => {
                    ctx.counters.tcp_resets_in += 1;
                    self.remove(ctx, id, Closed::Reset);
                    return true;
                }
                Claim::Nothing => {
                    ctx.counters.spoofed += 1;
                    return true;
                }
            }
        }
        let Some(entry) = self.flows.get_mut(id) else { return true };
        entry.mac = mac;
        let (opening, reset) = (!is_open(entry.state), segment.flags & RST != 0);
        match &mut entry.phase {
            // The guest asks again; it will be answered when the world has. Or it has given up.
            Phase::Held(_) if reset => self.remove(ctx, id, Closed::Reset),
            Phase::Held(_) | Phase::Resolving(_) => {}
            Phase::Open(flow) if segment.flags & (SYN | RST) != 0 && flow.is_over() => {
                if reset || segment.flags & ACK != 0 {
                    // What came may still wait for the world; nothing cuts it short now (RFC 1337).
                    return true;
                }
                self.give_way(ctx, id);
                return false;
            }
            Phase::Open(_) if segment.flags & (SYN | ACK | RST) == SYN && !opening => {
                // The guest has forgotten the connection. Linux answers with a challenge, the peer with a reset, and the next
                // SYN opens a new one (RFC 5961 section 4.2); here that is one step.
                self.remove(ctx, id, Closed::Reset);
                return false;
            }
            Phase::Open(flow) => {
                entry.heard = now;
                let place = Place { port: entry.port, mac };
                ctx.counters.tcp_segments_in += 1;
                let challenged = opening && flow.is_challenged(segment);
                with_emit(&self.config, &mut self.scratch, ctx, place, (entry.key.guest.0, flow.mtu), |emit| {
                    flow.receive(now, (packet, segment.window), emit)
                });
                if challenged && entry.attempts < ATTEMPTS {
                    self.begin_again(now, id, segment.acknowledgement);
                } else if reset && matches!(flow.socket().state(), State::Closed | State::Listen) {
                    ctx.counters.tcp_resets_in += 1;
                    self.remove(ctx, id, Closed::Reset);
                } else {
                    // An open connection has a deadline only when the world has closed its half; it moves with the traffic.
                    if entry.established && entry.deadline.is_some() {
                        entry.deadline = Some(now + LINGER);
                    }
                    self.mark(id);
                    self.notify(ctx, id);
                }
            }
        }
        true
    }

    /// Whose it is; `None` once it is over.
    pub(super) fn tenant(&self, FlowId(id): FlowId) -> Option<u32> {
        self.flows.get(id).map(|entry| entry.key.tenant)
    }

    /// Whose a connection is, and the link on which its guest was last heard.
    pub(super) fn place(&self, FlowId(id): FlowId) -> Option<(FlowKey, Option<PortId>)> {
        self.flows.get(id).map(|entry| (entry.key, entry.port))
    }

    /// What a driver may know; `None` once it is over.
    pub(super) fn status(&self, FlowId(id): FlowId) -> Option<FlowStatus> {
        let entry = self.flows.get(id)?;
        let Phase::Open(flow) = &entry.phase else {
            return Some(FlowStatus { established: false, received: 0, received_all: false, room: 0 });
        };
        let socket = flow.socket();
        let received = socket.recv_queue();
        let guest_open = matches!(
            socket.state(),
            State::Listen
                | State::SynSent
                | State::SynReceived
                | State::Established
                | State::FinWait1
                | State::FinWait2
        );
        Some(FlowStatus {
            established: entry.established,
            received,
            received_all: entry.established && received == 0 && !guest_open,
            room: if entry.established && socket.may_send() { flow.room() } else { 0 },
        })
    }

    /// Lets `take` have bytes from the guest; it says how many it took.
    pub(super) fn read(&mut self, id: FlowId, take: impl FnOnce(&[u8]) -> usize) -> usize {
        let Some(flow) = self.open(id) else { return 0 };
        let mut taken = 0;
        // An error says that there is nothing and never will be.
        let _ = flow.socket_mut().recv(|bytes| {
            taken = take(bytes).min(bytes.len());
            (taken, ())
        });
        if taken > 0 {
            self.mark(id.0);
        }
        taken
    }

    /// Lets `give` write bytes for the guest; it says how many it wrote.
    pub(super) fn write(&mut self, id: FlowId, give: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let Some(flow) = self.open(id) else { return 0 };
        let given = flow.write(give);
        if given > 0 {
            self.mark(id.0);
        }
        given
    }

    /// The world has closed its half.
    pub(super) fn finish(&mut self, now: Instant, id: FlowId) {
        let Some(entry) = self.flows.get_mut(id.0) else { return };
        entry.deadline = Some(now + LINGER);
        self.source_ports.at(now);
        if let Phase::Open(flow) = &mut entry.phase {
            entry.keeps_port = flow.socket().state() == State::CloseWait;
            flow.finish();
        }
        self.reschedule(now, id.0);
        self.mark(id.0);
    }

    /// The world has reset the connection, or the driver gives it up.
    pub(super) fn abort(&mut self, now: Instant, ctx: &mut Context<'_>, FlowId(id): FlowId) {
        let Some(entry) = self.flows.get_mut(id) else { return };
        match &mut entry.phase {
            Phase::Held(_) => return self.refuse(ctx, FlowId(id), Refused::Reset),
            Phase::Resolving(_) => {}
            Phase::Open(flow) => {
                flow.socket_mut().abort();
                let place = Place { port: entry.port, mac: entry.mac };
                // Where there is no room for the reset, the guest gets one for its next segment.
                with_emit(&self.config, &mut self.scratch, ctx, place, (entry.key.guest.0, flow.mtu), |emit| {
                    flow.send(now, emit)
                });
                ctx.counters.tcp_resets_out += 1;
            }
        }
        self.remove(ctx, id, Closed::Reset);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.left_over.into_iter().chain(self.timers.next()).min()
    }

    /// The driver has been told of a connection.
    pub(super) fn told(&mut self, FlowId(id): FlowId) {
        if let Some(entry) = self.flows.get_mut(id) {
            entry.notified = false;
        }
    }

    fn insert(&mut self, entry: Entry) -> Id {
        let key = entry.key;
        let id = self.flows.insert(Box::new(entry));
        self.by_key.insert(key, id);
        id
    }

    fn open(&mut self, FlowId(id): FlowId) -> Option<&mut Flow> {
        match &mut self.flows.get_mut(id)?.phase {
            Phase::Open(flow) => Some(flow),
            Phase::Held(_) | Phase::Resolving(_) => None,
        }
    }

    /// Something may have become due.
    fn mark(&mut self, id: Id) {
        if let Some(entry) = self.flows.get_mut(id)
            && !entry.dirty
        {
            entry.dirty = true;
            self.dirty.push_back(id);
        }
    }

    /// The driver is to be told that something changed.
    fn notify(&mut self, ctx: &mut Context<'_>, id: Id) {
        if let Some(entry) = self.flows.get_mut(id)
            && !entry.notified
        {
            entry.notified = true;
            ctx.out.push_back(Output::Flow(FlowId(id)));
        }
    }

    /// The guest wants a new connection with the same addresses: the old one ends, or only what came by it waits for the
    /// world a while longer.
    fn give_way(&mut self, ctx: &mut Context<'_>, id: Id) {
        match self.flows.get(id).map(|entry| (entry.key, &entry.phase)) {
            Some((key, Phase::Open(flow))) if flow.is_over() => {
                self.by_key.remove(&key);
            }
            Some(_) | None => self.remove(ctx, id, Closed::Reset),
        }
    }

    fn remove(&mut self, ctx: &mut Context<'_>, id: Id, how: Closed) {
        self.forget_drift(id);
        let Some(mut entry) = self.flows.remove(id) else { return };
        self.timers.cancel(&mut entry.scheduled, id);
        if self.by_key.get(&entry.key) == Some(&id) {
            self.by_key.remove(&entry.key);
        }
        if let Some(port) = entry.blocked {
            ctx.ports.forget(port, id);
        }
        if let Some(to) = entry.destination {
            self.source_ports.release(to, entry.key.tenant, entry.keeps_port);
        }
        ctx.tenants.closed(entry.key.tenant, entry.origin, entry.half_open);
        match &entry.phase {
            Phase::Open(flow) | Phase::Resolving(flow) => self.budget.give_back(flow.buffer),
            Phase::Held(_) => {}
        }
        ctx.out.push_back(Output::Closed { flow: FlowId(id), how });
    }

    /// Room for a packet to `guest` with a segment that has neither options nor payload.
    fn bare(&self, ctx: &mut Context<'_>, port: PortId, mac: [u8; 6], guest: IpAddr, fill: impl FnOnce(&mut [u8])) {
        if let Some(slot) = ctx.ports.slot(port, ETHERNET + wire::head(guest) + TCP) {
            wire::ethernet(slot, mac, self.config.mac, wire::ethertype(guest));
            fill(&mut slot[ETHERNET..]);
        }
    }
}

/// How a guest learns that its connection cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Nobody listens there, or nobody may know.
    Reset,
    /// An ICMP error.
    Unreachable(Unreachable),
}

impl Entry {
    const fn new(key: FlowKey, phase: Phase) -> Self {
        Self {
            key,
            port: None,
            mac: [0; 6],
            phase,
            state: State::SynSent,
            half_open: false,
            origin: Origin::Guest,
            destination: None,
            keeps_port: false,
            established: false,
            scheduled: Scheduled::NEVER,
            not_before: Instant::ZERO,
            deadline: None,
            heard: Instant::ZERO,
            dirty: false,
            blocked: None,
            notified: false,
            drift: None,
            attempts: 0,
        }
    }

    /// Both sides have closed: what the guest sent may still wait for the world.
    const fn is_over(&self) -> bool {
        matches!(self.state, State::TimeWait | State::Closed)
    }

    /// When it is given up.
    fn ends_at(&self) -> Option<Instant> {
        let silent = match self.phase {
            // Those that are not there yet, and those whose link is gone, have deadlines of their own; of a guest that has
            // said all, nothing more is expected.
            Phase::Open(_) if self.established && self.drift.is_none() && !self.is_over() => Some(self.heard + SILENCE),
            Phase::Open(_) | Phase::Held(_) | Phase::Resolving(_) => None,
        };
        let unheard = self.drift.filter(|_| !self.is_over()).and_then(|drift| drift.until);
        self.deadline.into_iter().chain(silent).chain(unheard).min()
    }

    /// Nobody looked for this long.
    fn forgive(&mut self, late: Duration) {
        self.heard = self.heard + late;
        self.deadline = self.deadline.map(|at| at + late);
        if let Some(drift) = &mut self.drift {
            drift.until = drift.until.map(|at| at + late);
        }
    }
}

/// Where a guest is.
#[derive(Clone, Copy)]
struct Place {
    port: Option<PortId>,
    mac: [u8; 6],
}

/// Lets `f` send to a guest.
fn with_emit<R>(
    config: &TcpConfig,
    scratch: &mut [u8],
    ctx: &mut Context<'_>,
    place: Place,
    (guest, mtu): (IpAddr, usize),
    f: impl FnOnce(&mut Emit<'_>) -> R,
) -> R {
    let queue = place.port.and_then(|port| ctx.ports.get_mut(port)).map(|port| &mut port.queue);
    let (destination, source) = (place.mac, config.mac);
    let ethertype = wire::ethertype(guest);
    let mut emit = Emit {
        queue,
        destination,
        source,
        ethertype,
        mtu,
        path: mtu,
        narrows: false,
        scratch,
        last: (0, 0),
        sent: 0,
        exhausted: false,
        work: 0,
        packets: 0,
        bytes: 0,
    };
    let result = f(&mut emit);
    let (packets, bytes) = (emit.packets, emit.bytes);
    if packets > 0
        && let Some(port) = place.port
    {
        ctx.counters.tcp_segments_out += packets;
        ctx.ports.sent(port, packets, bytes);
    }
    result
}

const fn is_open(state: State) -> bool {
    !matches!(state, State::Listen | State::SynSent | State::SynReceived)
}
