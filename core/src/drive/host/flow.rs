//! The world's end of TCP connections: bytes pass between the kernel and the gateway's buffers without another copy.

use super::{Host, Notice, Source, World};
use crate::{
    drive::Errno,
    gateway::{Closed, DialError, FlowId, Target, limits::TokenBucket, turns},
    time::Instant,
};
use core::net::SocketAddr;

/// The world's end of one connection.
pub(super) struct FlowSocket<W: World> {
    flow: FlowId,
    /// `None` once both halves are closed.
    stream: Option<W::Stream>,
    connecting: bool,
    /// The world has answered while it was connecting.
    answered: bool,
    readable: bool,
    writable: bool,
    /// The other side has closed or failed: reading goes on until that has shown.
    hangup: bool,
    read_closed: bool,
    write_closed: bool,
    /// The other side takes no more: what the guest still sends is for nobody, what came is still the guest's.
    refused: bool,
    /// What the guest gets before anything that the socket gives.
    prologue: Vec<u8>,
    queued: bool,
    /// The published port that it came by, until its guest has answered.
    opening: Option<u32>,
    /// What it may move out of the virtual network, and into it; `None` without a limit.
    rates: Option<Box<[TokenBucket; 2]>>,
    /// When it may go on, if it has used up its rate.
    throttled: Option<Instant>,
}

/// Bytes moved for one connection and direction before others get their turn.
const TURN: usize = 256 << 10;

impl<W: World> FlowSocket<W> {
    /// Whether a half of it is open still.
    pub(super) const fn is_open(&self) -> bool {
        self.stream.is_some()
    }
}

impl<W: World> Host<W> {
    /// A guest wants a connection.
    pub(super) fn dial(&mut self, now: Instant, flow: FlowId, target: Target, guest: SocketAddr) {
        let dialed = match target {
            Target::Address(to) => self.dial_address(flow, to),
            Target::Dns | Target::Services => self.dial_service(flow, target),
        };
        match dialed {
            Ok(connected) => {
                if connected {
                    self.connected(now, flow, Ok(()));
                }
            }
            Err(errno) => {
                self.world.tell(Notice::CannotConnect { target, guest, error: errno });
                self.connected(now, flow, Err(errno));
            }
        }
    }

    /// True if the connection stands already.
    fn dial_address(&mut self, flow: FlowId, to: SocketAddr) -> Result<bool, Errno> {
        let Self { world, counters, .. } = self;
        let mut stream = world.open(to).inspect_err(|_| counters.no_socket += 1)?;
        world.tune(&mut stream);
        let connected = match world.connect(&mut stream, to) {
            Ok(()) => true,
            Err(Errno::INPROGRESS) => false,
            Err(errno) => return Err(errno),
        };
        world.watch(&mut stream, Source::Flow(flow)).inspect_err(|_| counters.no_socket += 1)?;
        self.add_flow(flow, stream, !connected, Vec::new());
        Ok(connected)
    }

    fn dial_service(&mut self, flow: FlowId, target: Target) -> Result<bool, Errno> {
        let asker = self.gateway.asker(flow).ok_or(Errno::CONNREFUSED)?;
        let served = self.world.serve(target, asker).inspect_err(|_| self.counters.no_socket += 1)?;
        let mut stream = served.ok_or(Errno::CONNREFUSED)?;
        self.world.watch(&mut stream, Source::Flow(flow))?;
        self.add_flow(flow, stream, false, Vec::new());
        Ok(true)
    }

    /// A connection's socket, new or accepted.
    pub(super) fn add_flow(&mut self, flow: FlowId, stream: W::Stream, connecting: bool, prologue: Vec<u8>) {
        let index = flow.index();
        if self.flows.len() <= index {
            self.flows.resize_with(index + 1, || None);
        }
        self.flows[index] = Some(FlowSocket {
            flow,
            stream: Some(stream),
            connecting,
            answered: false,
            readable: false,
            writable: true,
            hangup: false,
            read_closed: false,
            write_closed: false,
            refused: false,
            prologue,
            queued: false,
            opening: None,
            throttled: None,
            rates: self.flow_rate.map(|rate| {
                // A second's worth at once, and never less than a turn's share.
                let bucket = TokenBucket::new(rate, rate.max(TURN as u64));
                Box::new([bucket.clone(), bucket])
            }),
        });
    }

    pub(super) fn flow_ready(&mut self, now: Instant, flow: FlowId, readable: bool, writable: bool, hangup: bool) {
        let Some(socket) = self.socket(flow) else { return };
        socket.readable |= readable || hangup;
        socket.writable |= writable;
        socket.hangup |= hangup;
        if !socket.connecting {
            return self.activate(flow);
        }
        socket.answered |= writable || hangup;
        if socket.answered {
            self.answered(now, flow);
        }
    }

    /// A connection whose tenant had used its share of a turn gets another one.
    pub(super) fn look_again(&mut self, now: Instant, flow: FlowId) {
        match self.socket(flow) {
            Some(socket) if socket.connecting => self.answered(now, flow),
            Some(socket) if !socket.queued => self.serve_flow(now, flow),
            Some(_) | None => {}
        }
    }

    /// The world has answered a connection: it stands, or it does not.
    fn answered(&mut self, now: Instant, flow: FlowId) {
        if let Some(tenant) = self.gateway.tenant_of_flow(flow) {
            if self.turns.left(tenant) == 0 {
                self.counters.turns_over += 1;
                return self.turns.wait(tenant, Source::Flow(flow));
            }
            self.turns.spend(tenant, turns::ACCEPT);
        }
        let Self { world, flows, .. } = self;
        let Some(socket) = socket(flows, flow) else { return };
        let Some(stream) = socket.stream.as_mut() else { return };
        let result = world.answer(stream);
        socket.connecting = false;
        self.connected(now, flow, result);
    }

    fn connected(&mut self, now: Instant, flow: FlowId, result: Result<(), Errno>) {
        self.counters.dial_no_port += u64::from(result == Err(Errno::ADDRNOTAVAIL));
        let result = result.map_err(|errno| match errno {
            Errno::CONNREFUSED | Errno::CONNRESET => DialError::Refused,
            Errno::NETUNREACH | Errno::NETDOWN => DialError::NetworkUnreachable,
            Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::TIMEDOUT | Errno::ADDRNOTAVAIL => DialError::HostUnreachable,
            Errno::ACCESS | Errno::PERM => DialError::Prohibited,
            // Descriptors or memory are used up: a reset tells the guest at once.
            _ => DialError::Refused,
        });
        match result {
            Ok(()) => self.counters.dialed += 1,
            Err(DialError::Refused) => self.counters.dial_refused += 1,
            Err(DialError::HostUnreachable | DialError::NetworkUnreachable) => self.counters.dial_unreachable += 1,
            Err(DialError::Prohibited) => self.counters.dial_failed += 1,
        }
        self.gateway.handle_dialed(now, flow, result);
    }

    /// Looks at a connection in this turn.
    pub(super) fn activate(&mut self, flow: FlowId) {
        if let Some(socket) = self.socket(flow)
            && !socket.queued
            && !socket.connecting
        {
            socket.queued = true;
            self.active.push_back(flow);
        }
    }

    /// Moves what can be moved, in its tenant's turn.
    pub(super) fn serve_flow(&mut self, now: Instant, flow: FlowId) {
        let tenant = self.gateway.tenant_of_flow(flow);
        if let Some(tenant) = tenant
            && self.turns.left(tenant) == 0
        {
            if let Some(socket) = self.socket(flow) {
                socket.queued = false;
            }
            self.counters.turns_over += 1;
            return self.turns.wait(tenant, Source::Flow(flow));
        }
        let Some(mut socket) = self.flows.get_mut(flow.index()).and_then(Option::take) else { return };
        if socket.flow != flow {
            self.flows[flow.index()] = Some(socket);
            return;
        }
        socket.queued = false;
        let result = self.move_bytes(now, &mut socket);
        let index = flow.index();
        if socket.opening.is_some() && self.gateway.status(flow).is_some_and(|status| status.established) {
            self.guest_answered(socket.opening.take());
        }
        if let (Some(tenant), Ok((moved, _))) = (tenant, &result) {
            self.turns.spend(tenant, turns::LOOK + *moved as u64 / turns::BYTES);
        }
        match result {
            Ok((_, more)) => {
                if socket.read_closed && socket.write_closed {
                    socket.stream = None;
                }
                self.flows[index] = Some(socket);
                if let Some(tenant) = tenant.filter(|_| more) {
                    self.turns.wait(tenant, Source::Flow(flow));
                }
            }
            Err(errno) => {
                if let Some(tenant) = tenant {
                    self.turns.spend(tenant, turns::OPENING);
                }
                self.world.tell(Notice::FlowFailed { flow, error: errno });
                // The gateway resets the guest's end and says that it is closed.
                self.flows[index] = Some(socket);
                self.gateway.abort(now, flow);
            }
        }
    }

    /// How many bytes were moved, and whether there is more than its share.
    fn move_bytes(&mut self, now: Instant, socket: &mut FlowSocket<W>) -> Result<(usize, bool), Errno> {
        let (flow, Some(stream)) = (socket.flow, &mut socket.stream) else { return Ok((0, false)) };
        let Some(status) = self.gateway.status(flow).filter(|status| status.established) else { return Ok((0, false)) };
        let may_give = allowance(now, &mut socket.rates, 0);
        let (mut given, mut shortage) = (0, false);
        while (socket.writable || socket.refused) && given < may_give && !socket.write_closed {
            let mut offered = 0;
            let n = self.gateway.read(flow, |bytes| {
                let bytes = &bytes[..bytes.len().min(may_give - given)];
                offered = bytes.len();
                if bytes.is_empty() {
                    return 0;
                }
                if socket.refused {
                    return bytes.len();
                }
                match self.world.write(stream, bytes) {
                    Ok(n) => n,
                    Err(Errno::AGAIN) => {
                        socket.writable = false;
                        0
                    }
                    Err(Errno::INTR) => 0,
                    Err(errno) if errno.is_shortage() => {
                        shortage = true;
                        0
                    }
                    // An early answer may wait to be read; if it is a reset that waits, reading shows it.
                    Err(errno) => {
                        self.world.tell(Notice::FlowRefused { flow, error: errno });
                        socket.refused = true;
                        socket.readable = true;
                        0
                    }
                }
            });
            given += n;
            if offered == 0 || (n == 0 && !socket.refused) {
                break;
            }
        }
        if !socket.write_closed && self.gateway.status(flow).is_some_and(|status| status.received_all) {
            socket.write_closed = true;
            // The other side may have gone already.
            self.world.finish(stream);
        }

        if !socket.prologue.is_empty() {
            let prologue = &socket.prologue;
            let n = self.gateway.write(flow, |room| {
                let n = room.len().min(prologue.len());
                room[..n].copy_from_slice(&prologue[..n]);
                n
            });
            socket.prologue.drain(..n);
        }
        let mut unread = None;
        let may_take = allowance(now, &mut socket.rates, 1);
        let mut taken = 0;
        let mut room = status.room;
        while socket.readable && room > 0 && taken < may_take && !socket.read_closed && socket.prologue.is_empty() {
            let mut end = false;
            let mut asked = 0;
            let n = self.gateway.write(flow, |space| {
                let most = space.len().min(may_take - taken);
                let space = &mut space[..most];
                asked = space.len();
                if space.is_empty() {
                    return 0;
                }
                match self.world.read(stream, space) {
                    Ok(0) => {
                        end = true;
                        0
                    }
                    Ok(n) => n,
                    Err(Errno::AGAIN) => {
                        socket.readable = false;
                        0
                    }
                    Err(Errno::INTR) => 0,
                    Err(errno) if errno.is_shortage() => {
                        shortage = true;
                        0
                    }
                    Err(errno) => {
                        unread = Some(errno);
                        0
                    }
                }
            });
            taken += n;
            if unread.is_some() || shortage {
                break;
            }
            if end {
                socket.read_closed = true;
                self.gateway.finish(now, flow);
            }
            if asked == 0 {
                break;
            }
            // A short read emptied the socket; what comes now is an edge. An end, though, may be behind it already.
            if n > 0 && n < asked && !socket.hangup {
                socket.readable = false;
            }
            room = room.saturating_sub(n);
        }
        if let Some(errno) = unread {
            return Err(errno);
        }
        if shortage {
            self.retry(now, Source::Flow(flow));
        }
        if socket.rates.is_some() {
            let waits = self.gateway.status(flow).map_or(0, |status| status.received) > 0;
            let gives = waits && (socket.writable || socket.refused) && !socket.write_closed;
            let takes = socket.readable && room > 0 && !socket.read_closed;
            let at = settle(&mut socket.rates, [(may_give, given, gives), (may_take, taken, takes)]);
            if let Some(before) = std::mem::replace(&mut socket.throttled, at) {
                self.throttled.remove(&(before, flow));
            }
            self.throttled.extend(at.map(|at| (at, flow)));
        }
        Ok((given + taken, given >= TURN || taken >= TURN))
    }

    pub(super) fn flow_closed(&mut self, flow: FlowId, how: Closed) {
        let Some(slot) = self.flows.get_mut(flow.index()) else { return };
        let Some(mut socket) = slot.take_if(|socket| socket.flow == flow) else { return };
        self.guest_answered(socket.opening);
        if let Some(at) = socket.throttled {
            self.throttled.remove(&(at, flow));
        }
        if how != Closed::Finished
            && let Some(stream) = &mut socket.stream
        {
            // A reset stays a reset.
            self.world.reset(stream);
        }
    }

    /// A connection came by a published port, and its guest has yet to answer.
    pub(super) fn set_opening(&mut self, flow: FlowId, forward: u32) {
        if let Some(socket) = self.socket(flow) {
            socket.opening = Some(forward);
        }
    }

    fn socket(&mut self, flow: FlowId) -> Option<&mut FlowSocket<W>> {
        socket(&mut self.flows, flow)
    }
}

fn socket<W: World>(flows: &mut [Option<FlowSocket<W>>], flow: FlowId) -> Option<&mut FlowSocket<W>> {
    flows.get_mut(flow.index())?.as_mut().filter(|socket| socket.flow == flow)
}

/// Bytes that a connection may move in one direction in this turn.
fn allowance(now: Instant, rates: &mut Option<Box<[TokenBucket; 2]>>, direction: usize) -> usize {
    let Some(rates) = rates else { return TURN };
    let bucket = &mut rates[direction];
    let allowed = bucket.take_up_to(now, TURN as u64);
    if allowed < step(bucket) {
        // It is woken when there is a step's worth; until then every segment would be a tiny one.
        bucket.give_back(allowed);
        return 0;
    }
    usize::try_from(allowed).unwrap_or(TURN)
}

/// The least that a limited connection moves at once: a hundredth of a second's worth.
fn step(bucket: &TokenBucket) -> u64 {
    (bucket.rate() / 100).clamp(1, TURN as u64)
}

/// Gives back what was allowed and not moved; says when to go on if a direction that has more to move has used up its rate.
fn settle(rates: &mut Option<Box<[TokenBucket; 2]>>, moved: [(usize, usize, bool); 2]) -> Option<Instant> {
    let mut again = None;
    for (bucket, (allowed, moved, more)) in rates.as_mut()?.iter_mut().zip(moved) {
        bucket.give_back((allowed - moved) as u64);
        if allowed < TURN && moved == allowed && more {
            let at = bucket.ready_at(step(bucket));
            again = again.into_iter().chain(at).min();
        }
    }
    again
}
