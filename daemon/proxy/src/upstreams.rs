//! Drives the pool: turns its ids into connections, its outputs into dials, hand-overs and closes.
//!
//! Owns: the pool, the idle connections by [`ConnId::slot`], the waiting requests by [`ReqId::slot`].
//! The `RefCell` is borrowed for one pool call and its drain, never across an await; what could run foreign code
//! (dropping a connection) happens after the borrow.

use crate::{
    config::Config,
    conn::{Conn, Signals},
    lease::Lease,
    lines::{Line, Lines, What},
    runtime::{ByteStream, DialFailure, Dialer, Runtime},
    url::UpstreamUrl,
};
use nitrotap_core::{
    pool::{ConnId, DialError, Output, Pool, PoolCounters, RejectWhy, ReqId, Verdict, Want},
    time::Instant,
};
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

/// A shard's connections to its upstream.
pub(crate) struct Upstreams<R, D: Dialer> {
    pub(crate) runtime: R,
    dialer: D,
    pub(crate) config: Config,
    pub(crate) url: UpstreamUrl,
    lines: Lines,
    state: RefCell<State<D::Stream>>,
    /// When the housekeeper will look next; anything due earlier wakes it.
    armed: Cell<Option<Instant>>,
    housekeeper: RefCell<Option<Waker>>,
}

struct State<S: ByteStream> {
    pool: Pool,
    places: Vec<Place<S>>,
    waits: Vec<Rc<Wait<S>>>,
}

/// Where the connection with a given slot is.
enum Place<S: ByteStream> {
    Empty,
    /// A dial task works on it; the waker reaches that task.
    Dialing(ConnId, Option<Waker>),
    Idle(ConnId, Box<Conn<S>>),
    /// A lease has it.
    Busy(ConnId, Arc<Signals>),
}

/// A request in the queue, shared with its task: the pool gives the slot to the next request as soon as it has answered
/// this one, and the task may see its answer only after that.
struct Wait<S: ByteStream> {
    req: ReqId,
    answer: Cell<Option<Result<Grant<S>, RejectWhy>>>,
    waker: Cell<Option<Waker>>,
}

/// What came of asking the pool.
enum Asked<S: ByteStream> {
    Answered(Result<Grant<S>, RejectWhy>),
    Queued(Rc<Wait<S>>),
}

/// A connection for one request.
pub(crate) struct Grant<S: ByteStream> {
    pub(crate) id: ConnId,
    pub(crate) conn: Box<Conn<S>>,
    pub(crate) reused: bool,
}

impl<R: Runtime, D: Dialer> Upstreams<R, D> {
    pub(crate) fn new(runtime: R, dialer: D, url: UpstreamUrl, config: Config) -> Self {
        let state = State { pool: Pool::new(config.limits), places: Vec::new(), waits: Vec::new() };
        Self {
            runtime,
            dialer,
            config,
            url,
            lines: Lines::default(),
            state: RefCell::new(state),
            armed: Cell::new(None),
            housekeeper: RefCell::new(None),
        }
    }

    pub(crate) fn counters(&self) -> PoolCounters {
        *self.state.borrow().pool.counters()
    }

    /// Requests that wait although no connection may be opened for them.
    pub(crate) fn starving(&self) -> usize {
        self.state.borrow().pool.starving()
    }

    /// Whether at least half of the connections are free.
    pub(crate) fn has_spare(&self) -> bool {
        self.state.borrow().pool.has_spare()
    }

    /// Logs what an operator must look at, at most once a second for each cause.
    pub(crate) fn warn(&self, what: What, cause: &str) {
        match self.lines.happened(self.runtime.now(), what, cause) {
            Some(line) => self.log(&line),
            None => self.lines.next().into_iter().for_each(|at| self.wake_by(at)),
        }
    }

    fn log(&self, Line { what, cause, count }: &Line) {
        let upstream = &self.url;
        match what {
            What::Answer(status) => tracing::warn!(%upstream, status, cause, count, "no answer from the upstream"),
            What::BrokeOff => {
                tracing::warn!(%upstream, cause, count, "the upstream broke off in the middle of a response");
            }
            What::Dial => tracing::warn!(%upstream, cause, count, "cannot connect to the upstream"),
        }
    }

    /// A connection for one request. Dropping the future gives up the place in the queue.
    pub(crate) async fn lease(self: &Rc<Self>, want: Want) -> Result<Lease<R, D>, RejectWhy> {
        loop {
            let grant = match self.ask(want) {
                Asked::Answered(answer) => answer?,
                Asked::Queued(wait) => Queued { upstreams: self, wait }.answer().await?,
            };
            let mut lease = Lease::new(self.clone(), grant);
            if !lease.reused || lease.is_alive() {
                return Ok(lease);
            }
            // The peer closed it while it was idle; nothing was sent, so this costs no retry.
            lease.bury();
        }
    }

    /// Asks the pool; an immediate answer comes back, a later one goes to the request's `Wait`.
    fn ask(self: &Rc<Self>, want: Want) -> Asked<D::Stream> {
        let now = self.runtime.now();
        let mut state = self.state.borrow_mut();
        let req = state.pool.handle_request(now, want);
        let mut answer = None;
        let doomed = self.drain_outputs(&mut state, |r, a| {
            debug_assert_eq!(r, req, "a new request's call answers no other request");
            answer = Some(a);
        });
        let asked = match answer {
            Some(answer) => Asked::Answered(answer),
            None => Asked::Queued(state.enqueue(req)),
        };
        self.arm_for(&state.pool, now);
        drop(state);
        drop(doomed);
        asked
    }

    /// A connection's request is over.
    pub(crate) fn done(self: &Rc<Self>, id: ConnId, conn: Option<Box<Conn<D::Stream>>>) {
        let verdict = if conn.is_some() { Verdict::Reusable } else { Verdict::MustClose };
        self.with_pool(|state, now| {
            state.leave_busy(id, conn);
            state.pool.handle_done(now, id, verdict);
        });
    }

    /// The peer ended a connection that carried no request.
    pub(crate) fn closed(self: &Rc<Self>, id: ConnId) {
        self.with_pool(|state, now| {
            state.leave_busy(id, None);
            state.pool.handle_closed(now, id);
        });
    }

    /// The response head arrived.
    pub(crate) fn head(&self, id: ConnId) {
        self.state.borrow_mut().pool.handle_head(self.runtime.now(), id);
    }

    /// A part of the request body went out.
    pub(crate) fn progress(&self, id: ConnId) {
        self.state.borrow_mut().pool.handle_progress(self.runtime.now(), id);
    }

    pub(crate) fn drain(self: &Rc<Self>) {
        self.with_pool(|state, now| state.pool.drain(now));
    }

    /// Acts on deadlines and looks for idle connections that the peer has closed. Gives the time of the next look.
    pub(crate) fn housekeep(self: &Rc<Self>, cx: &Context<'_>) -> Option<Instant> {
        let mut dead = Vec::new();
        for place in &mut self.state.borrow_mut().places {
            if let Place::Idle(id, conn) = place
                && conn.drive(cx)
            {
                dead.push(*id);
            }
        }
        for id in dead {
            let corpse = self.state.borrow_mut().take_idle(id);
            drop(corpse);
            self.with_pool(|state, now| state.pool.handle_closed(now, id));
        }
        self.with_pool(|state, now| state.pool.handle_timeout(now));
        let now = self.runtime.now();
        self.lines.due(now).iter().for_each(|line| self.log(line));
        let state = self.state.borrow();
        let sweep = (state.pool.counters().idle > 0).then(|| now + self.config.sweep_every);
        state.pool.poll_timeout().into_iter().chain(sweep).chain(self.lines.next()).min()
    }

    /// The housekeeper sleeps until `at`, or for ever, and listens for something earlier.
    pub(crate) fn arm(&self, at: Option<Instant>, cx: &Context<'_>) {
        self.armed.set(at);
        let mut waker = self.housekeeper.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Makes sure the housekeeper looks at `at` or earlier.
    pub(crate) fn wake_by(&self, at: Instant) {
        if self.armed.get().is_none_or(|armed| at < armed) {
            self.armed.set(Some(at));
            self.wake_housekeeper();
        }
    }

    pub(crate) fn wake_housekeeper(&self) {
        if let Some(waker) = self.housekeeper.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    fn arm_for(&self, pool: &Pool, now: Instant) {
        if let Some(at) = pool.poll_timeout() {
            self.wake_by(at);
        }
        if pool.counters().idle > 0 && self.armed.get().is_none_or(|armed| armed > now + self.config.sweep_every) {
            self.wake_by(now + self.config.sweep_every);
        }
    }

    /// One call into the pool and the drain of its outputs.
    fn with_pool(self: &Rc<Self>, call: impl FnOnce(&mut State<D::Stream>, Instant)) {
        let now = self.runtime.now();
        let mut state = self.state.borrow_mut();
        call(&mut state, now);
        let mut unmet = Vec::new();
        let doomed = {
            let unmet = &mut unmet;
            self.drain_outputs(&mut state, |req, answer| unmet.push((req, answer)))
        };
        for (req, answer) in unmet {
            state.answer(req, answer);
        }
        self.arm_for(&state.pool, now);
        drop(state);
        drop(doomed);
    }

    /// Carries out the pool's outputs. Gives back the connections to drop once the state is released.
    fn drain_outputs(
        self: &Rc<Self>,
        state: &mut State<D::Stream>,
        mut answer: impl FnMut(ReqId, Result<Grant<D::Stream>, RejectWhy>),
    ) -> Vec<Box<Conn<D::Stream>>> {
        let mut doomed = Vec::new();
        while let Some(output) = state.pool.poll_output() {
            match output {
                Output::Assign { req, conn: id, reused } => {
                    let conn = state.take_idle(id).expect("the pool assigns connections that were put in their place");
                    state.places[id.slot()] = Place::Busy(id, conn.signals.clone());
                    answer(req, Ok(Grant { id, conn, reused }));
                }
                Output::Reject { req, why } => answer(req, Err(why)),
                Output::Dial { conn: id } => {
                    state.put(id, Place::Dialing(id, None));
                    self.runtime.spawn(self.clone().dial(id));
                }
                Output::Close { conn: id, why } => match state.take(id) {
                    Place::Idle(_, conn) => doomed.push(conn),
                    Place::Busy(_, signals) => signals.expire(),
                    Place::Dialing(_, waker) => {
                        tracing::debug!(upstream = %self.url, %id, ?why, "dial given up");
                        if let Some(waker) = waker {
                            waker.wake();
                        }
                    }
                    Place::Empty => {}
                },
            }
        }
        doomed
    }

    /// The task of one dial.
    async fn dial(self: Rc<Self>, id: ConnId) {
        let mut dial = pin!(self.dialer.dial());
        let outcome = poll_fn(|cx| {
            if !self.still_dialing(id, cx) {
                return Poll::Ready(None);
            }
            dial.as_mut().poll(cx).map(Some)
        })
        .await;
        let conn = match outcome {
            None => return,
            Some(Err(failure)) => Err(failure),
            Some(Ok(stream)) => Conn::open(stream, &self.config)
                .await
                .map_err(|e| DialFailure { kind: DialError::Other, cause: std::io::Error::other(e) }),
        };
        match conn {
            Ok(conn) => {
                tracing::debug!(upstream = %self.url, %id, "connected");
                self.with_pool(|state, now| {
                    if state.is_dialing(id) {
                        state.put(id, Place::Idle(id, conn));
                        state.pool.handle_connected(now, id);
                    }
                });
            }
            Err(failure) => {
                tracing::debug!(upstream = %self.url, %id, cause = %failure.cause, "dial failed");
                if failure.kind == DialError::Other {
                    // The class says nothing, so the log must.
                    self.warn(What::Dial, &failure.cause.to_string());
                }
                self.with_pool(|state, now| {
                    if state.is_dialing(id) {
                        state.put(id, Place::Empty);
                    }
                    state.pool.handle_dial_failed(now, id, failure.kind);
                });
            }
        }
    }

    fn still_dialing(&self, id: ConnId, cx: &Context<'_>) -> bool {
        match self.state.borrow_mut().places.get_mut(id.slot()) {
            Some(Place::Dialing(dialing, waker)) if *dialing == id => {
                *waker = Some(cx.waker().clone());
                true
            }
            Some(Place::Dialing(..) | Place::Empty | Place::Idle(..) | Place::Busy(..)) | None => false,
        }
    }
}

impl<S: ByteStream> State<S> {
    fn put(&mut self, id: ConnId, place: Place<S>) {
        match self.places.get_mut(id.slot()) {
            Some(old) => *old = place,
            None => {
                debug_assert_eq!(self.places.len(), id.slot(), "slots are handed out densely");
                self.places.push(place);
            }
        }
    }

    /// Empties the place of `id`, if `id` still has it.
    fn take(&mut self, id: ConnId) -> Place<S> {
        let Some(place) = self.places.get_mut(id.slot()) else { return Place::Empty };
        match place {
            Place::Dialing(at, _) | Place::Idle(at, _) | Place::Busy(at, _) if *at == id => {
                std::mem::replace(place, Place::Empty)
            }
            Place::Empty | Place::Dialing(..) | Place::Idle(..) | Place::Busy(..) => Place::Empty,
        }
    }

    fn take_idle(&mut self, id: ConnId) -> Option<Box<Conn<S>>> {
        match self.take(id) {
            Place::Idle(_, conn) => Some(conn),
            Place::Empty | Place::Dialing(..) | Place::Busy(..) => None,
        }
    }

    fn is_dialing(&self, id: ConnId) -> bool {
        matches!(self.places.get(id.slot()), Some(Place::Dialing(at, _)) if *at == id)
    }

    /// A lease ends: its connection is kept, or its place emptied. Without effect if the pool gave the place away.
    fn leave_busy(&mut self, id: ConnId, conn: Option<Box<Conn<S>>>) {
        if matches!(self.places.get(id.slot()), Some(Place::Busy(at, _)) if *at == id) {
            self.places[id.slot()] = conn.map_or(Place::Empty, |conn| Place::Idle(id, conn));
        }
    }

    fn enqueue(&mut self, req: ReqId) -> Rc<Wait<S>> {
        let wait = Rc::new(Wait { req, answer: Cell::new(None), waker: Cell::new(None) });
        match self.waits.get_mut(req.slot()) {
            Some(place) => *place = wait.clone(),
            None => {
                debug_assert_eq!(self.waits.len(), req.slot(), "slots are handed out densely");
                self.waits.push(wait.clone());
            }
        }
        wait
    }

    fn answer(&self, req: ReqId, answer: Result<Grant<S>, RejectWhy>) {
        let wait = self.waits.get(req.slot()).filter(|w| w.req == req);
        let wait = wait.expect("the pool answers only requests that wait: others are cancelled in Queued::drop");
        wait.answer.set(Some(answer));
        if let Some(waker) = wait.waker.take() {
            waker.wake();
        }
    }
}

/// A request's place in the queue.
struct Queued<'a, R: Runtime, D: Dialer> {
    upstreams: &'a Rc<Upstreams<R, D>>,
    wait: Rc<Wait<D::Stream>>,
}

impl<R: Runtime, D: Dialer> Queued<'_, R, D> {
    async fn answer(self) -> Result<Grant<D::Stream>, RejectWhy> {
        poll_fn(|cx| match self.wait.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                self.wait.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

impl<R: Runtime, D: Dialer> Drop for Queued<'_, R, D> {
    fn drop(&mut self) {
        match self.wait.answer.take() {
            // Answered between the wake-up and this drop: the connection goes to the next in line.
            Some(Ok(grant)) => self.upstreams.done(grant.id, Some(grant.conn)),
            Some(Err(_)) => {}
            // Without effect after an answer was taken.
            None => self.upstreams.with_pool(|state, now| state.pool.handle_cancelled(now, self.wait.req)),
        }
    }
}
