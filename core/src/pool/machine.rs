//! The pool itself: which connection a request gets, when to dial, what to keep.
//!
//! Owns: one entry per connection id, one FIFO of waiting requests, the demand window. It knows ids, never sockets.
//! Driven by: `nitrotap-proxy`, and scripts in `core/tests/law_pool.rs`.
//! Drain: after any call, `poll_output` until `None`, then `poll_timeout`.
//! Bounds: [`Limits`]; each has a counter in [`PoolCounters`].
//!
//! Rules:
//! 1. The newest idle connection goes first: the rest age, and can be closed.
//! 2. With none idle, a request joins the FIFO and a dial starts, unless enough dials are in flight already or
//!    [`Limits::max_conns`] is reached. A finished dial and a freed connection both serve the FIFO's head. A retry
//!    ([`Want::Fresh`]) is served by a dial only, and may cost an idle connection its place.
//! 3. A dial that finds nobody waiting leaves an idle connection.
//! 4. A failed dial rejects the FIFO's head, unless other dials still cover every waiter, and starts no new dial.
//!    When that leaves no open connection, it rejects every waiter that no dial covers: nothing would serve them.
//!    A refused dial is another matter, because an app that restarts refuses: it rejects only those who have waited for
//!    [`Limits::connect_retry`]. From then on one dial at a time, after growing pauses, serves all waiters, until one
//!    succeeds or fails in another way.
//! 5. Open connections number at most the peak of demand (busy connections and waiting requests) over
//!    [`Limits::demand_window`], or [`Limits::min_idle`]; the oldest idle ones go first.

use super::{
    counters::PoolCounters,
    demand::Demand,
    limits::Limits,
    redial::Redial,
    table::{List, Table},
    types::{CloseWhy, ConnId, DialError, Output, RejectWhy, ReqId, Verdict, Want},
};
use crate::time::Instant;
use std::collections::VecDeque;

/// Decides which upstream connection a request gets. See the [module](super) and the rules at the top of this file.
#[derive(Debug)]
pub struct Pool {
    limits: Limits,
    now: Instant,
    draining: bool,
    conns: Table<Conn>,
    /// Dials in flight, oldest first.
    dialing: List,
    /// Idle connections, the one idle longest first.
    idle: List,
    /// Busy connections whose response head is due, the one due first first.
    heads: List,
    /// Busy connections, those in `heads` included.
    active: usize,
    waiters: Table<Waiter>,
    /// Requests waiting for any connection, the oldest first.
    fifo: List,
    /// Requests waiting for a fresh connection, the oldest first.
    fresh: List,
    /// Since the upstream refused a dial.
    redial: Option<Redial>,
    demand: Demand,
    output: VecDeque<Output>,
    counters: PoolCounters,
}

#[derive(Debug)]
struct Conn {
    state: State,
    /// When it entered `state`, or last made progress in it.
    since: Instant,
}

#[derive(Debug)]
struct Waiter {
    since: Instant,
    want: Want,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In `Pool::dialing`.
    Dialing,
    /// In `Pool::idle`.
    Idle,
    /// In `Pool::heads`.
    AwaitingHead,
    /// The response head has arrived; in no list.
    Streaming,
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            now: Instant::ZERO,
            draining: false,
            conns: Table::new(limits.max_conns),
            dialing: List::new(),
            idle: List::new(),
            heads: List::new(),
            active: 0,
            waiters: Table::new(limits.max_waiters),
            fifo: List::new(),
            fresh: List::new(),
            redial: None,
            demand: Demand::new(limits.demand_window),
            output: VecDeque::new(),
            counters: PoolCounters::default(),
        }
    }

    /// What has been counted so far.
    #[must_use]
    pub const fn counters(&self) -> &PoolCounters {
        &self.counters
    }

    /// Whether no request waits or is served and no dial is in flight.
    #[must_use]
    pub const fn is_quiet(&self) -> bool {
        self.active == 0 && self.waiting() == 0 && self.dialing.len() == 0
    }

    /// Requests that wait although no connection may be opened for them: every one is busy.
    #[must_use]
    pub fn starving(&self) -> usize {
        if self.conns.is_full() { self.waiting().saturating_sub(self.dialing.len()) } else { 0 }
    }

    /// Whether at least half of all connections are free for others.
    #[must_use]
    pub const fn has_spare(&self) -> bool {
        (self.active + self.dialing.len() + self.waiting()) * 2 < self.limits.max_conns
    }

    /// Keeps no connection beyond its request from now on; waiting and new requests are still served.
    pub fn drain(&mut self, now: Instant) {
        self.advance(now);
        self.draining = true;
        while self.close_oldest_idle(CloseWhy::Drained) {}
        self.settle();
    }

    /// A request needs a connection. Its answer, now or later, is one `Assign` or `Reject` for the returned id.
    pub fn handle_request(&mut self, now: Instant, want: Want) -> ReqId {
        self.advance(now);
        self.counters.requests += 1;
        let newest = if want == Want::Any { self.idle.back() } else { None };
        let req = if let Some(slot) = newest {
            let req = ReqId { serial: self.waiters.skip_serial(), slot: u32::MAX };
            self.idle.unlink(&mut self.conns, slot);
            self.active += 1;
            self.assign(req, slot, true);
            req
        } else if let Some((serial, slot)) = self.waiters.insert(Waiter { since: self.now, want }) {
            self.counters.queued += 1;
            self.enqueue(slot, want);
            self.cover_waiters();
            ReqId { serial, slot }
        } else {
            let req = ReqId { serial: self.waiters.skip_serial(), slot: u32::MAX };
            self.reject(req, RejectWhy::QueueFull);
            req
        };
        self.settle();
        req
    }

    /// The client of a request left. Without effect once the request has its answer: then the driver ends the
    /// connection's use with `handle_done`.
    pub fn handle_cancelled(&mut self, now: Instant, req: ReqId) {
        self.advance(now);
        if self.waiters.get_mut(req.serial, req.slot).is_some() {
            self.dequeue(req.slot);
            self.counters.cancelled += 1;
        }
        self.settle();
    }

    /// A dial succeeded.
    pub fn handle_connected(&mut self, now: Instant, conn: ConnId) {
        self.advance(now);
        if self.state(conn) == Some(State::Dialing) {
            self.counters.connected += 1;
            self.dialing.unlink(&mut self.conns, conn.slot);
            let refused_before = self.redial.take().is_some();
            if let Some(waiter) = self.oldest_waiter() {
                let req = self.dequeue(waiter);
                self.active += 1;
                self.assign(req, conn.slot, false);
            } else {
                self.counters.dials_spare += 1;
                self.become_idle(conn.slot);
            }
            if refused_before {
                self.cover_waiters();
            }
        }
        self.settle();
    }

    /// A dial failed.
    pub fn handle_dial_failed(&mut self, now: Instant, conn: ConnId, why: DialError) {
        self.advance(now);
        if self.state(conn) == Some(State::Dialing) {
            self.dial_failed(conn.slot, why);
        }
        self.settle();
    }

    /// The request on `conn` makes progress: its head timeout starts anew. Called per chunk of a request body.
    pub fn handle_progress(&mut self, now: Instant, conn: ConnId) {
        self.advance(now);
        if self.state(conn) == Some(State::AwaitingHead) {
            self.heads.unlink(&mut self.conns, conn.slot);
            self.await_head(conn.slot);
        }
    }

    /// The response head has arrived on `conn`; from here on the client's patience is the limit.
    pub fn handle_head(&mut self, now: Instant, conn: ConnId) {
        self.advance(now);
        if self.state(conn) == Some(State::AwaitingHead) {
            self.heads.unlink(&mut self.conns, conn.slot);
            self.enter(conn.slot, State::Streaming);
        }
    }

    /// The request on `conn` is over.
    pub fn handle_done(&mut self, now: Instant, conn: ConnId, verdict: Verdict) {
        self.advance(now);
        if self.stop_using(conn) {
            match verdict {
                Verdict::MustClose => {
                    self.counters.close_not_reusable += 1;
                    self.conns.remove(conn.slot);
                    self.cover_waiters();
                }
                Verdict::Reusable => {
                    if let Some(waiter) = self.fifo.front() {
                        let req = self.dequeue(waiter);
                        self.active += 1;
                        self.assign(req, conn.slot, true);
                    } else {
                        self.become_idle(conn.slot);
                        self.cover_waiters();
                    }
                }
            }
        }
        self.settle();
    }

    /// The peer closed `conn`, or sent bytes on it that nobody asked for.
    pub fn handle_closed(&mut self, now: Instant, conn: ConnId) {
        self.advance(now);
        let idle = self.state(conn) == Some(State::Idle);
        if idle {
            self.idle.unlink(&mut self.conns, conn.slot);
        }
        if idle || self.stop_using(conn) {
            self.counters.close_by_peer += 1;
            self.conns.remove(conn.slot);
            self.cover_waiters();
        }
        self.settle();
    }

    /// Acts on every deadline up to `now`; harmless when there is none.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        while let Some(slot) = self.overdue(&self.dialing, self.limits.dial_timeout) {
            self.output.push_back(Output::Close { conn: self.conn_id(slot), why: CloseWhy::DialTimeout });
            self.dial_failed(slot, DialError::TimedOut);
        }
        while let Some(slot) = self.overdue(&self.heads, self.limits.head_timeout) {
            self.heads.unlink(&mut self.conns, slot);
            self.active -= 1;
            self.close(slot, CloseWhy::HeadTimeout);
            self.cover_waiters();
        }
        while let Some(waiter) = self.oldest_waiter() {
            if self.now < self.waiters.at(waiter).1.since + self.limits.wait_timeout {
                break;
            }
            let why = match (self.redial, self.dialing.len()) {
                (Some(_), _) if !self.conns.is_full() => RejectWhy::DialFailed(DialError::Refused),
                (_, 1..) => RejectWhy::DialFailed(DialError::TimedOut),
                (_, 0) => RejectWhy::WaitTimeout,
            };
            let req = self.dequeue(waiter);
            self.reject(req, why);
        }
        while self.overdue(&self.idle, self.limits.idle_timeout).is_some() {
            self.close_oldest_idle(CloseWhy::IdleTimeout);
        }
        if self.redial_due().is_some_and(|at| at <= self.now) {
            self.cover_waiters();
        }
        self.settle();
        self.trim();
        self.settle();
    }

    /// The next thing to do, in order.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// When to call [`Self::handle_timeout`]; `None` means never. At once while there is output to be drained.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.output.is_empty() {
            return Some(self.now);
        }
        let conn = |list: &List, after| list.front().map(|slot| self.conns.at(slot).1.since + after);
        let mut earliest: Option<Instant> = None;
        // One by one, since this is asked twice for each request, and a table to choose from costs more than the choice.
        let mut consider = |at: Option<Instant>| {
            if let Some(at) = at
                && earliest.is_none_or(|earlier| at < earlier)
            {
                earliest = Some(at);
            }
        };
        consider(conn(&self.dialing, self.limits.dial_timeout));
        consider(conn(&self.heads, self.limits.head_timeout));
        consider(self.oldest_waiter().map(|slot| self.waiters.at(slot).1.since + self.limits.wait_timeout));
        consider(conn(&self.idle, self.limits.idle_timeout));
        consider((self.idle.len() > self.limits.min_idle).then(|| self.demand.next()));
        consider(self.redial_due());
        earliest
    }

    fn advance(&mut self, now: Instant) {
        debug_assert!(self.output.is_empty(), "the driver drains poll_output after every call");
        if now < self.now {
            self.counters.clock_backwards += 1;
        } else {
            self.now = now;
        }
    }

    /// Publishes gauges and demand; every public call that changes them ends with it.
    fn settle(&mut self) {
        self.counters.idle = self.idle.len() as u64;
        self.counters.active = self.active as u64;
        self.counters.dialing = self.dialing.len() as u64;
        self.counters.waiting = self.waiting() as u64;
        self.demand.record(self.now, self.active + self.waiting());
    }

    fn conn_id(&self, slot: u32) -> ConnId {
        ConnId { serial: self.conns.at(slot).0, slot }
    }

    fn state(&mut self, conn: ConnId) -> Option<State> {
        self.conns.get_mut(conn.serial, conn.slot).map(|c| c.state)
    }

    fn enter(&mut self, slot: u32, state: State) {
        let serial = self.conns.at(slot).0;
        if let Some(conn) = self.conns.get_mut(serial, slot) {
            *conn = Conn { state, since: self.now };
        }
    }

    /// The first entry of `list`, all of which have the same patience, if its time is up.
    fn overdue(&self, list: &List, patience: core::time::Duration) -> Option<u32> {
        list.front().filter(|&slot| self.conns.at(slot).1.since + patience <= self.now)
    }

    const fn waiting(&self) -> usize {
        self.fifo.len() + self.fresh.len()
    }

    /// Whoever waits longest, for whatever kind of connection.
    fn oldest_waiter(&self) -> Option<u32> {
        self.fifo.front().into_iter().chain(self.fresh.front()).min_by_key(|slot| self.waiters.at(*slot).0)
    }

    fn enqueue(&mut self, slot: u32, want: Want) {
        match want {
            Want::Any => self.fifo.push_back(&mut self.waiters, slot),
            Want::Fresh => self.fresh.push_back(&mut self.waiters, slot),
        }
    }

    fn dequeue(&mut self, slot: u32) -> ReqId {
        let (serial, &Waiter { want, .. }) = self.waiters.at(slot);
        match want {
            Want::Any => self.fifo.unlink(&mut self.waiters, slot),
            Want::Fresh => self.fresh.unlink(&mut self.waiters, slot),
        }
        self.waiters.remove(slot);
        ReqId { serial, slot }
    }

    fn assign(&mut self, req: ReqId, slot: u32, reused: bool) {
        self.counters.assigned += 1;
        self.counters.reuses += u64::from(reused);
        self.await_head(slot);
        self.output.push_back(Output::Assign { req, conn: self.conn_id(slot), reused });
    }

    fn await_head(&mut self, slot: u32) {
        self.enter(slot, State::AwaitingHead);
        self.heads.push_back(&mut self.conns, slot);
    }

    fn reject(&mut self, req: ReqId, why: RejectWhy) {
        match why {
            RejectWhy::QueueFull => self.counters.reject_queue_full += 1,
            RejectWhy::WaitTimeout => self.counters.reject_wait_timeout += 1,
            RejectWhy::DialFailed(_) => self.counters.reject_dial_failed += 1,
        }
        self.output.push_back(Output::Reject { req, why });
    }

    /// Dials until each waiter has a dial in flight, or no place is left.
    fn cover_waiters(&mut self) {
        let wanted = match self.redial {
            None => self.waiting(),
            Some(redial) if self.now < redial.at => 0,
            Some(_) => self.waiting().min(1),
        };
        while self.dialing.len() < wanted {
            if self.conns.is_full() {
                // There are idle connections beside waiters only if those want fresh ones.
                self.close_oldest_idle(CloseWhy::Replaced);
            }
            let Some((serial, slot)) = self.conns.insert(Conn { state: State::Dialing, since: self.now }) else {
                break;
            };
            self.counters.dials += 1;
            self.counters.redials += u64::from(self.redial.is_some());
            self.dialing.push_back(&mut self.conns, slot);
            self.output.push_back(Output::Dial { conn: ConnId { serial, slot } });
        }
    }

    /// When the next dial after a refusal begins, if somebody waits for it and there is room.
    fn redial_due(&self) -> Option<Instant> {
        let possible = self.waiting() > 0 && self.dialing.len() == 0 && (!self.conns.is_full() || self.idle.len() > 0);
        self.redial.filter(|_| possible).map(|redial| redial.at)
    }

    /// Rule 4.
    fn dial_failed(&mut self, slot: u32, why: DialError) {
        match why {
            DialError::Refused => self.counters.dial_refused += 1,
            DialError::Unreachable => self.counters.dial_unreachable += 1,
            DialError::TimedOut => self.counters.dial_timeout += 1,
            DialError::Unresolved => self.counters.dial_unresolved += 1,
            DialError::Other => self.counters.dial_other += 1,
        }
        self.dialing.unlink(&mut self.conns, slot);
        self.conns.remove(slot);
        if why == DialError::Refused && !self.limits.connect_retry.is_zero() {
            self.redial = Some(Redial::after_refusal(self.redial, self.now, self.counters.dials));
            while let Some(waiter) = self.oldest_waiter()
                && self.waiters.at(waiter).1.since + self.limits.connect_retry <= self.now
            {
                let req = self.dequeue(waiter);
                self.reject(req, RejectWhy::DialFailed(why));
            }
            return;
        }
        self.redial = None;
        let nothing_open = self.active + self.idle.len() == 0;
        while self.waiting() > self.dialing.len() {
            let Some(waiter) = self.oldest_waiter() else { break };
            let req = self.dequeue(waiter);
            self.reject(req, RejectWhy::DialFailed(why));
            if !nothing_open {
                break;
            }
        }
    }

    /// Takes a busy connection out of use; false when it is not busy.
    fn stop_using(&mut self, conn: ConnId) -> bool {
        match self.state(conn) {
            Some(State::AwaitingHead) => self.heads.unlink(&mut self.conns, conn.slot),
            Some(State::Streaming) => {}
            Some(State::Dialing | State::Idle) | None => return false,
        }
        self.active -= 1;
        true
    }

    fn become_idle(&mut self, slot: u32) {
        if self.draining {
            return self.close(slot, CloseWhy::Drained);
        }
        self.enter(slot, State::Idle);
        self.idle.push_back(&mut self.conns, slot);
        if self.idle.len() > self.limits.max_idle {
            self.close_oldest_idle(CloseWhy::MaxIdle);
        }
        self.trim();
    }

    /// Rule 5.
    fn trim(&mut self) {
        self.demand.advance(self.now);
        let wanted = self.demand.peak().max(self.limits.min_idle);
        while self.active + self.idle.len() > wanted && self.close_oldest_idle(CloseWhy::Surplus) {}
    }

    fn close_oldest_idle(&mut self, why: CloseWhy) -> bool {
        let Some(slot) = self.idle.front() else { return false };
        self.idle.unlink(&mut self.conns, slot);
        self.close(slot, why);
        true
    }

    /// Closes an open connection that is in no list any more.
    fn close(&mut self, slot: u32, why: CloseWhy) {
        match why {
            CloseWhy::IdleTimeout => self.counters.close_idle_timeout += 1,
            CloseWhy::Surplus => self.counters.close_surplus += 1,
            CloseWhy::MaxIdle => self.counters.close_max_idle += 1,
            CloseWhy::Replaced => self.counters.close_replaced += 1,
            CloseWhy::Drained => self.counters.close_drained += 1,
            CloseWhy::HeadTimeout => self.counters.close_head_timeout += 1,
            // Never opened: counted as a failed dial.
            CloseWhy::DialTimeout => {}
        }
        self.output.push_back(Output::Close { conn: self.conn_id(slot), why });
        self.conns.remove(slot);
    }
}

#[cfg(test)]
mod tests;
