//! What becomes due: segments, deadlines, ends.
//!
//! Bounds: [`FLUSH_WORK`] and [`timers::EXPIRIES`](EXPIRIES) per call, whatever state connections are in. What is left over is due at once.

use super::*;

/// Work of one [`Tcp::flush`], in units of a bare segment, or of 512 bytes of a longer one: a tenth of a microsecond each.
/// It lets 8 MiB leave in one call, as much as the queues of sixteen busy links hold, or 8,192 acknowledgements, and ends
/// within a few milliseconds. What it may be at most is [`FLUSH_WORK_LIMIT`].
const FLUSH_WORK: usize = 16_384;

/// The most work of one flush: the last connection may send four segments of 64 KiB after all.
pub const FLUSH_WORK_LIMIT: u64 = (FLUSH_WORK + 1 + TURN * (1 + device::LONGEST / 512)) as u64;

/// A connection's timer expires at most once within this time. All that smoltcp waits for takes a second or more.
const TICK: Duration = Duration::from_millis(1);

impl Tcp {
    /// Sends what the inputs since the last call have made due, up to its share of work: [`Tcp::poll_timeout`] says so if
    /// more is.
    pub(in super::super) fn flush(&mut self, now: Instant, ctx: &mut Context<'_>) {
        self.forgive(now);
        let mut work = 0;
        while work < FLUSH_WORK
            && let Some(id) = self.dirty.pop_front()
        {
            work += 1;
            let Some(entry) = self.flows.get_mut(id) else { continue };
            entry.dirty = false;
            let Phase::Open(flow) = &mut entry.phase else { continue };
            if entry.established && matches!(entry.state, State::TimeWait | State::Closed) {
                // smoltcp forgets all when its TIME-WAIT is over, also what the world has yet to take.
                self.settle(now, ctx, id, true);
                continue;
            }
            if entry.drift.is_some() {
                self.drift(now, ctx, id);
                continue;
            }
            let place = Place { port: entry.port, mac: entry.mac };
            let progress =
                with_emit(&self.config, &mut self.scratch, ctx, place, (entry.key.guest.0, flow.mtu), |emit| {
                    let progress = flow.send(now, emit);
                    work += emit.work;
                    progress
                });
            match progress {
                Progress::Idle => self.settle(now, ctx, id, true),
                Progress::More => self.mark(id),
                Progress::Stuck => {
                    ctx.counters.tcp_stuck += 1;
                    self.abort(now, ctx, FlowId(id));
                }
                Progress::Blocked => {
                    if let Some(port) = entry.port
                        && entry.blocked != Some(port)
                    {
                        if let Some(old) = entry.blocked.replace(port) {
                            ctx.ports.forget(old, id);
                        }
                        ctx.ports.block(port, id);
                    }
                    self.settle(now, ctx, id, false);
                }
            }
        }
        ctx.counters.flush_work_max = ctx.counters.flush_work_max.max(work as u64);
        self.left_over = (!self.dirty.is_empty()).then_some(now);
        ctx.counters.flushes_cut += u64::from(self.left_over.is_some());
        self.time_wait.expire(now);
    }

    /// After an absence: what would have ended meanwhile has as long to go as when it began, since nobody was asked or heard.
    fn forgive(&mut self, now: Instant) {
        let looked = std::mem::replace(&mut self.looked, now);
        let late = self.timers.next().map_or(Duration::ZERO, |due| now.since(due.max(looked)));
        if late > ABSENCE {
            for (_, entry) in self.flows.iter_mut() {
                entry.forgive(late);
            }
        }
    }

    /// Connections that waited for room on a link may go on; those that have moved to another one wait there.
    pub(in super::super) fn unblock(&mut self, port: PortId, ids: Vec<Id>) {
        for id in ids {
            if let Some(entry) = self.flows.get_mut(id).filter(|entry| entry.blocked == Some(port)) {
                entry.blocked = None;
                self.mark(id);
            }
        }
    }

    pub(in super::super) fn handle_timeout(&mut self, now: Instant, ctx: &mut Context<'_>) {
        self.forgive(now);
        for _ in 0..EXPIRIES {
            let Some(id) = self.timers.expired(now) else { break };
            let Some(entry) = self.flows.get_mut(id) else { continue };
            entry.scheduled = Scheduled::default();
            entry.not_before = now + TICK;
            if entry.ends_at().is_some_and(|at| at <= now) {
                ctx.counters.tcp_timeouts += 1;
                match entry.phase {
                    Phase::Held(_) => self.refuse(ctx, FlowId(id), Refused::Unreachable(Unreachable::Host)),
                    Phase::Resolving(_) | Phase::Open(_) => self.abort(now, ctx, FlowId(id)),
                }
                continue;
            }
            match entry.phase {
                Phase::Open(_) => self.mark(id),
                Phase::Held(_) | Phase::Resolving(_) => self.reschedule(now, id),
            }
        }
    }

    /// Looks at what has become of a connection, of which everything that is due was sent or not.
    pub(super) fn settle(&mut self, now: Instant, ctx: &mut Context<'_>, id: Id, sent: bool) {
        let Some(entry) = self.flows.get_mut(id) else { return };
        let Phase::Open(flow) = &mut entry.phase else { return };
        let (state, before) = (flow.socket().state(), entry.state);
        entry.state = state;
        if !entry.established && is_open(state) && state != State::Closed {
            entry.established = true;
            entry.half_open = false;
            entry.deadline = None;
            ctx.tenants.opened(entry.key.tenant, entry.origin);
            ctx.counters.tcp_opened += 1;
            if !entry.notified {
                entry.notified = true;
                ctx.out.push_back(Output::Flow(FlowId(id)));
            }
        }
        let drained = flow.socket().recv_queue() == 0;
        match state {
            // Only once the guest's end is acknowledged.
            State::TimeWait if drained && sent => {
                let (sequence, acknowledgement) = flow.last;
                // The last segment was an acknowledgement: it takes up no sequence number.
                self.time_wait.insert(now, entry.key, Last { sequence, acknowledgement });
                self.remove(ctx, id, Closed::Finished);
            }
            State::Closed if matches!(before, State::LastAck | State::Closing | State::TimeWait | State::Closed) => {
                if drained {
                    self.remove(ctx, id, Closed::Finished);
                } else {
                    self.reschedule(now, id);
                }
            }
            // smoltcp gave up: the peer did not answer.
            State::Closed => self.remove(ctx, id, Closed::Reset),
            State::Listen => self.remove(ctx, id, Closed::Reset),
            State::SynSent
            | State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck
            | State::TimeWait => self.reschedule(now, id),
        }
    }

    pub(super) fn reschedule(&mut self, now: Instant, id: Id) {
        let Some(entry) = self.flows.get_mut(id) else { return };
        let at = match &mut entry.phase {
            Phase::Open(flow)
                if entry.port.is_some()
                    && entry.blocked != entry.port
                    && !matches!(entry.state, State::TimeWait | State::Closed) =>
            {
                flow.poll_at(now)
            }
            Phase::Open(_) | Phase::Held(_) | Phase::Resolving(_) => None,
        };
        let asked = entry.drift.filter(|_| !entry.is_over()).and_then(|drift| drift.poll_timeout());
        if let Some(at) = at.into_iter().chain(entry.ends_at()).chain(asked).min() {
            self.timers.schedule(&mut entry.scheduled, id, at.max(entry.not_before));
        }
    }
}
