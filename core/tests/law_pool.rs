//! Laws of the connection pool: random legal scripts run against the pool and against a naive model of its rules,
//! compared after each step; and invariants that need no model.

use nitrotap_core::{
    pool::{CloseWhy, ConnId, DialError, Limits, Output, Pool, PoolCounters, RejectWhy, ReqId, Verdict, Want},
    time::Instant,
};
use quickcheck::{Arbitrary, Gen, QuickCheck};
use std::{collections::BTreeMap, time::Duration};

#[test]
fn the_pool_does_what_the_naive_model_does() {
    QuickCheck::new().tests(5_000).quickcheck(run as fn(Script));
}

fn run(script: Script) {
    let limits = script.limits;
    let mut world = World {
        pool: Pool::new(limits),
        model: Model::new(limits),
        now: Instant::ZERO,
        conns: BTreeMap::new(),
        reqs: Vec::new(),
        state: Vec::new(),
        answered: Vec::new(),
    };
    for step in script.steps {
        world.step(&step);
    }
}

#[derive(Clone, Debug)]
struct Script {
    limits: Limits,
    steps: Vec<Step>,
}

/// What happens, to which of the candidates (modulo their number), and how long after the step before.
#[derive(Clone, Debug)]
struct Step {
    what: What,
    pick: usize,
    millis: u64,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Request(Want),
    Cancel,
    Connected,
    DialFailed(DialError),
    Progress,
    Head,
    Done(Verdict),
    Closed,
    Timeout,
    TimeoutWhenDue,
    Drain,
}

impl Arbitrary for Script {
    fn arbitrary(g: &mut Gen) -> Self {
        let small = |g: &mut Gen, from: usize| from + usize::arbitrary(g) % 5;
        let limits = Limits {
            max_conns: small(g, 1),
            max_idle: small(g, 0),
            min_idle: usize::arbitrary(g) % 3,
            max_waiters: small(g, 1),
            wait_timeout: Duration::from_millis(1 + u64::arbitrary(g) % 400),
            dial_timeout: Duration::from_millis(1 + u64::arbitrary(g) % 400),
            head_timeout: Duration::from_millis(1 + u64::arbitrary(g) % 400),
            idle_timeout: Duration::from_millis(1 + u64::arbitrary(g) % 800),
            demand_window: Duration::from_millis(8 * (1 + u64::arbitrary(g) % 40)),
            connect_retry: Duration::from_millis((u64::arbitrary(g) % 400).saturating_sub(100)),
        };
        Self { limits, steps: Vec::arbitrary(g) }
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = Self>> {
        let limits = self.limits;
        Box::new(self.steps.shrink().map(move |steps| Self { limits, steps }))
    }
}

impl Arbitrary for Step {
    fn arbitrary(g: &mut Gen) -> Self {
        // Requests and completions dominate, so that queues and idle lists fill up and empty again.
        let any = What::Request(Want::Any);
        let done = What::Done(Verdict::Reusable);
        let menu = [
            any,
            any,
            any,
            any,
            What::Request(Want::Fresh),
            What::Cancel,
            What::Connected,
            What::Connected,
            What::Connected,
            What::DialFailed(DialError::Refused),
            What::DialFailed(DialError::Refused),
            What::DialFailed(DialError::Other),
            What::Progress,
            What::Head,
            done,
            done,
            done,
            What::Done(Verdict::MustClose),
            What::Closed,
            What::Timeout,
            What::TimeoutWhenDue,
            What::TimeoutWhenDue,
        ];
        let what = if u8::arbitrary(g) == 0 { What::Drain } else { *g.choose(&menu).expect("the menu is not empty") };
        Self { what, pick: usize::arbitrary(g), millis: u64::arbitrary(g) % 60 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Dialing,
    Busy,
    Idle,
    Gone,
}

/// The driver's side: remembers every id ever seen and what may still happen to it.
struct World {
    pool: Pool,
    model: Model,
    now: Instant,
    /// Connections by ordinal of their dial.
    conns: BTreeMap<ConnId, usize>,
    reqs: Vec<ReqId>,
    state: Vec<(ConnId, Life)>,
    answered: Vec<bool>,
}

impl World {
    fn step(&mut self, step: &Step) {
        self.now = self.now + Duration::from_millis(step.millis);
        let now = self.now;
        // Steps on ids that are gone are legal and must change nothing: they are part of the candidates.
        let pick = |lives: &[Life]| {
            let of = |gone| {
                self.state.iter().enumerate().filter(move |(_, s)| lives.contains(&s.1) || gone && s.1 == Life::Gone)
            };
            let gone = step.pick.is_multiple_of(8);
            let count = of(gone).count();
            (count > 0).then(|| of(gone).nth(step.pick / 8 % count)).flatten().map(|(n, s)| (n, s.0))
        };
        match step.what {
            What::Request(want) => {
                let req = self.pool.handle_request(now, want);
                assert!(!self.reqs.contains(&req), "ids are unique");
                self.reqs.push(req);
                self.answered.push(false);
                self.model.request(now, want);
            }
            What::Cancel => {
                if let Some(n) = step.pick.checked_rem(self.reqs.len()) {
                    self.pool.handle_cancelled(now, self.reqs[n]);
                    if self.model.cancel(now, n) {
                        assert!(!std::mem::replace(&mut self.answered[n], true), "a cancelled request had no answer");
                    }
                }
            }
            What::Connected => {
                if let Some((n, conn)) = pick(&[Life::Dialing]) {
                    self.pool.handle_connected(now, conn);
                    if self.state[n].1 == Life::Dialing {
                        self.state[n].1 = Life::Idle;
                    }
                    self.model.connected(now, n);
                }
            }
            What::DialFailed(why) => {
                if let Some((n, conn)) = pick(&[Life::Dialing]) {
                    self.pool.handle_dial_failed(now, conn, why);
                    self.state[n].1 = Life::Gone;
                    self.model.dial_failed(now, n, why);
                }
            }
            What::Progress => {
                if let Some((n, conn)) = pick(&[Life::Busy]) {
                    self.pool.handle_progress(now, conn);
                    self.model.progress(now, n);
                }
            }
            What::Head => {
                if let Some((n, conn)) = pick(&[Life::Busy]) {
                    self.pool.handle_head(now, conn);
                    self.model.head(now, n);
                }
            }
            What::Done(verdict) => {
                if let Some((n, conn)) = pick(&[Life::Busy]) {
                    self.pool.handle_done(now, conn, verdict);
                    if self.state[n].1 == Life::Busy {
                        self.state[n].1 = if verdict == Verdict::Reusable { Life::Idle } else { Life::Gone };
                    }
                    self.model.done(now, n, verdict);
                }
            }
            What::Closed => {
                if let Some((n, conn)) = pick(&[Life::Busy, Life::Idle]) {
                    self.pool.handle_closed(now, conn);
                    self.state[n].1 = Life::Gone;
                    self.model.closed(now, n);
                }
            }
            What::Timeout => {
                self.pool.handle_timeout(now);
                self.model.timeout(now);
            }
            What::TimeoutWhenDue => {
                if let Some(at) = self.pool.poll_timeout() {
                    let before = *self.pool.counters();
                    self.now = self.now.max(at);
                    self.pool.handle_timeout(self.now);
                    self.model.timeout(self.now);
                    let idle_timer = self.pool.poll_timeout().filter(|next| *next <= self.now);
                    assert!(idle_timer.is_none() || *self.pool.counters() != before, "the driver spins");
                }
            }
            What::Drain => {
                self.pool.drain(now);
                self.model.drain(now);
            }
        }
        let outputs: Vec<Output> = std::iter::from_fn(|| self.pool.poll_output()).collect();
        let seen: Vec<Seen> = outputs.iter().map(|o| self.note(o)).collect();
        assert_eq!(seen, std::mem::take(&mut self.model.out), "after {step:?}");
        self.check();
    }

    /// Applies an output to what the driver knows, checking that it is legal, and names it by ordinals.
    fn note(&mut self, output: &Output) -> Seen {
        match *output {
            Output::Dial { conn } => {
                let n = self.conns.len();
                assert!(self.conns.insert(conn, n).is_none(), "ids are unique");
                self.state.push((conn, Life::Dialing));
                Seen::Dial(n)
            }
            Output::Assign { req, conn, reused } => {
                let (n, r) = (self.conns[&conn], self.req(req));
                assert_eq!(self.state[n].1, Life::Idle, "only a connection that is open and unused is assigned");
                self.state[n].1 = Life::Busy;
                assert!(!std::mem::replace(&mut self.answered[r], true), "one answer per request");
                Seen::Assign(r, n, reused)
            }
            Output::Reject { req, why } => {
                let r = self.req(req);
                assert!(!std::mem::replace(&mut self.answered[r], true), "one answer per request");
                Seen::Reject(r, why)
            }
            Output::Close { conn, why } => {
                let n = self.conns[&conn];
                assert_ne!(self.state[n].1, Life::Gone, "a connection is closed once");
                assert!(self.state[n].1 != Life::Busy || why == CloseWhy::HeadTimeout);
                self.state[n].1 = Life::Gone;
                Seen::Close(n, why)
            }
        }
    }

    fn req(&self, req: ReqId) -> usize {
        self.reqs.iter().position(|&r| r == req).expect("the pool answers only requests it was given")
    }

    fn check(&self) {
        let c = self.pool.counters();
        let count = |life| self.state.iter().filter(|s| s.1 == life).count();
        assert_eq!(c.idle as usize, count(Life::Idle));
        assert_eq!(c.active as usize, count(Life::Busy));
        assert_eq!(c.dialing as usize, count(Life::Dialing));
        assert_eq!(c.waiting as usize, self.answered.iter().filter(|a| !**a).count(), "every request is answered once");
        let limits = &self.model.limits;
        assert!((c.idle + c.active + c.dialing) as usize <= limits.max_conns);
        assert!(c.idle as usize <= limits.max_idle);
        assert!(c.waiting as usize <= limits.max_waiters);
        let slots: Vec<usize> = self.state.iter().filter(|s| s.1 != Life::Gone).map(|s| s.0.slot()).collect();
        assert!(slots.iter().all(|s| *s < limits.max_conns), "a slot is a place in a table of max_conns");
        assert_eq!(c.requests, c.assigned + rejected(c) + c.cancelled + c.waiting);
        assert_eq!(c.dials, c.connected + dial_failures(c) + c.dialing);
        assert_eq!(c.connected, c.idle + c.active + closed(c));
        assert_eq!(*c, self.model.counters(), "counters agree with the model");
        assert_eq!(self.pool.is_quiet(), c.active + c.waiting + c.dialing == 0);
    }
}

fn rejected(c: &PoolCounters) -> u64 {
    c.reject_queue_full + c.reject_wait_timeout + c.reject_dial_failed
}

fn dial_failures(c: &PoolCounters) -> u64 {
    c.dial_refused + c.dial_unreachable + c.dial_timeout + c.dial_unresolved + c.dial_other
}

fn closed(c: &PoolCounters) -> u64 {
    c.close_not_reusable
        + c.close_by_peer
        + c.close_idle_timeout
        + c.close_surplus
        + c.close_max_idle
        + c.close_replaced
        + c.close_drained
        + c.close_head_timeout
}

/// An output with ids replaced by ordinals.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Dial(usize),
    Assign(usize, usize, bool),
    Reject(usize, RejectWhy),
    Close(usize, CloseWhy),
}

/// The pool's rules, written for obviousness: vectors scanned from end to end, the whole history kept.
struct Model {
    limits: Limits,
    draining: bool,
    dialing: Vec<(usize, Instant)>,
    idle: Vec<(usize, Instant)>,
    heads: Vec<(usize, Instant)>,
    streaming: Vec<usize>,
    waiters: Vec<(usize, Instant, Want)>,
    /// While the upstream refuses: when it is dialled again, and the pause before that.
    redial: Option<(Instant, Duration)>,
    /// Demand from each time on.
    history: Vec<(Instant, usize)>,
    next_conn: usize,
    next_req: usize,
    out: Vec<Seen>,
    count: PoolCounters,
}

impl Model {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            draining: false,
            dialing: vec![],
            idle: vec![],
            heads: vec![],
            streaming: vec![],
            waiters: vec![],
            redial: None,
            history: vec![(Instant::ZERO, 0)],
            next_conn: 0,
            next_req: 0,
            out: vec![],
            count: PoolCounters::default(),
        }
    }

    fn counters(&self) -> PoolCounters {
        PoolCounters {
            idle: self.idle.len() as u64,
            active: self.active() as u64,
            dialing: self.dialing.len() as u64,
            waiting: self.waiters.len() as u64,
            ..self.count
        }
    }

    fn active(&self) -> usize {
        self.heads.len() + self.streaming.len()
    }

    fn settle(&mut self, now: Instant) {
        self.history.push((now, self.active() + self.waiters.len()));
    }

    /// The highest demand since the start of the seventh span before the current one.
    fn peak(&self, now: Instant) -> usize {
        let span = self.limits.demand_window.as_nanos() as u64 / 8;
        let from = Instant::from_nanos((now.as_nanos() / span).saturating_sub(7) * span);
        let at_start = self.history.iter().rfind(|h| h.0 < from).map_or(0, |h| h.1);
        self.history.iter().filter(|h| h.0 >= from).map(|h| h.1).fold(at_start, usize::max)
    }

    fn request(&mut self, now: Instant, want: Want) {
        let req = self.next_req;
        self.next_req += 1;
        self.count.requests += 1;
        if want == Want::Any && !self.idle.is_empty() {
            let (conn, _) = self.idle.remove(self.idle.len() - 1);
            self.assign(now, req, conn, true);
        } else if self.waiters.len() < self.limits.max_waiters {
            self.count.queued += 1;
            self.waiters.push((req, now, want));
            self.cover(now);
        } else {
            self.reject(req, RejectWhy::QueueFull);
        }
        self.settle(now);
    }

    fn cancel(&mut self, now: Instant, req: usize) -> bool {
        let before = self.waiters.len();
        self.waiters.retain(|w| w.0 != req);
        let cancelled = self.waiters.len() < before;
        self.count.cancelled += u64::from(cancelled);
        self.settle(now);
        cancelled
    }

    fn connected(&mut self, now: Instant, conn: usize) {
        if take(&mut self.dialing, conn) {
            self.count.connected += 1;
            let refused_before = self.redial.take().is_some();
            if self.waiters.is_empty() {
                self.count.dials_spare += 1;
                self.park(now, conn);
            } else {
                let (req, ..) = self.waiters.remove(0);
                self.assign(now, req, conn, false);
            }
            if refused_before {
                self.cover(now);
            }
        }
        self.settle(now);
    }

    fn dial_failed(&mut self, now: Instant, conn: usize, why: DialError) {
        if take(&mut self.dialing, conn) {
            match why {
                DialError::Refused => self.count.dial_refused += 1,
                DialError::Unreachable => self.count.dial_unreachable += 1,
                DialError::TimedOut => self.count.dial_timeout += 1,
                DialError::Unresolved => self.count.dial_unresolved += 1,
                DialError::Other => self.count.dial_other += 1,
            }
            if why == DialError::Refused && self.limits.connect_retry > Duration::ZERO {
                return self.refused(now);
            }
            self.redial = None;
            let uncovered = self.waiters.len().saturating_sub(self.dialing.len());
            let victims = if self.idle.len() + self.active() == 0 { uncovered } else { uncovered.min(1) };
            for (req, ..) in self.waiters.drain(..victims).collect::<Vec<_>>() {
                self.reject(req, RejectWhy::DialFailed(why));
            }
        }
        self.settle(now);
    }

    fn refused(&mut self, now: Instant) {
        let longest = Duration::from_millis(250);
        let pause = self.redial.map_or(Duration::from_millis(10), |(_, pause)| (2 * pause).min(longest));
        if self.redial.is_none_or(|(at, _)| at <= now) {
            // SplitMix64 of the number of dials so far takes up to a quarter off.
            let mut z = self.count.dials.wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let off = pause / 4 * ((z ^ (z >> 31)) % 1024) as u32 / 1024;
            self.redial = Some((now + (pause - off), pause));
        }
        while let Some(&(req, since, _)) = self.waiters.first()
            && since + self.limits.connect_retry <= now
        {
            self.waiters.remove(0);
            self.reject(req, RejectWhy::DialFailed(DialError::Refused));
        }
        self.settle(now);
    }

    fn progress(&mut self, now: Instant, conn: usize) {
        if take(&mut self.heads, conn) {
            self.heads.push((conn, now));
        }
    }

    fn head(&mut self, _now: Instant, conn: usize) {
        if take(&mut self.heads, conn) {
            self.streaming.push(conn);
        }
    }

    fn done(&mut self, now: Instant, conn: usize, verdict: Verdict) {
        if self.stop_using(conn) {
            if verdict == Verdict::MustClose {
                self.count.close_not_reusable += 1;
                self.cover(now);
            } else if let Some(first) = self.waiters.iter().position(|w| w.2 == Want::Any) {
                let (req, ..) = self.waiters.remove(first);
                self.assign(now, req, conn, true);
            } else {
                self.park(now, conn);
                self.cover(now);
            }
        }
        self.settle(now);
    }

    fn closed(&mut self, now: Instant, conn: usize) {
        if take(&mut self.idle, conn) || self.stop_using(conn) {
            self.count.close_by_peer += 1;
            self.cover(now);
        }
        self.settle(now);
    }

    fn timeout(&mut self, now: Instant) {
        let limits = self.limits;
        while let Some(&(conn, since)) = self.dialing.first()
            && since + limits.dial_timeout <= now
        {
            self.out.push(Seen::Close(conn, CloseWhy::DialTimeout));
            self.dial_failed(now, conn, DialError::TimedOut);
        }
        while let Some(&(conn, since)) = self.heads.first()
            && since + limits.head_timeout <= now
        {
            self.heads.remove(0);
            self.count.close_head_timeout += 1;
            self.out.push(Seen::Close(conn, CloseWhy::HeadTimeout));
            self.cover(now);
        }
        while let Some(&(req, since, _)) = self.waiters.first()
            && since + limits.wait_timeout <= now
        {
            self.waiters.remove(0);
            let open = self.dialing.len() + self.idle.len() + self.active();
            let why = if self.redial.is_some() && open < limits.max_conns {
                RejectWhy::DialFailed(DialError::Refused)
            } else if self.dialing.is_empty() {
                RejectWhy::WaitTimeout
            } else {
                RejectWhy::DialFailed(DialError::TimedOut)
            };
            self.reject(req, why);
        }
        while self.idle.first().is_some_and(|i| i.1 + limits.idle_timeout <= now) {
            self.close_oldest_idle(CloseWhy::IdleTimeout);
        }
        if self.redial.is_some() && self.dialing.is_empty() {
            self.cover(now);
        }
        self.settle(now);
        self.trim(now);
    }

    fn drain(&mut self, now: Instant) {
        self.draining = true;
        while !self.idle.is_empty() {
            self.close_oldest_idle(CloseWhy::Drained);
        }
        self.settle(now);
    }

    fn assign(&mut self, now: Instant, req: usize, conn: usize, reused: bool) {
        self.count.assigned += 1;
        self.count.reuses += u64::from(reused);
        self.heads.push((conn, now));
        self.out.push(Seen::Assign(req, conn, reused));
    }

    fn reject(&mut self, req: usize, why: RejectWhy) {
        match why {
            RejectWhy::QueueFull => self.count.reject_queue_full += 1,
            RejectWhy::WaitTimeout => self.count.reject_wait_timeout += 1,
            RejectWhy::DialFailed(_) => self.count.reject_dial_failed += 1,
        }
        self.out.push(Seen::Reject(req, why));
    }

    fn cover(&mut self, now: Instant) {
        let wanted = match self.redial {
            None => self.waiters.len(),
            Some((at, _)) => usize::from(at <= now && !self.waiters.is_empty()),
        };
        while self.dialing.len() < wanted {
            if self.dialing.len() + self.idle.len() + self.active() == self.limits.max_conns {
                if self.idle.is_empty() {
                    break;
                }
                self.close_oldest_idle(CloseWhy::Replaced);
            }
            self.dialing.push((self.next_conn, now));
            self.out.push(Seen::Dial(self.next_conn));
            self.count.dials += 1;
            self.count.redials += u64::from(self.redial.is_some());
            self.next_conn += 1;
        }
    }

    fn stop_using(&mut self, conn: usize) -> bool {
        let before = self.streaming.len();
        self.streaming.retain(|c| *c != conn);
        self.streaming.len() < before || take(&mut self.heads, conn)
    }

    fn park(&mut self, now: Instant, conn: usize) {
        self.idle.push((conn, now));
        if self.draining {
            self.close_oldest_idle(CloseWhy::Drained);
        }
        if self.idle.len() > self.limits.max_idle {
            self.close_oldest_idle(CloseWhy::MaxIdle);
        }
        self.trim(now);
    }

    fn trim(&mut self, now: Instant) {
        let wanted = self.peak(now).max(self.limits.min_idle);
        while !self.idle.is_empty() && self.idle.len() + self.active() > wanted {
            self.close_oldest_idle(CloseWhy::Surplus);
        }
    }

    fn close_oldest_idle(&mut self, why: CloseWhy) {
        if self.idle.is_empty() {
            return;
        }
        let (conn, _) = self.idle.remove(0);
        match why {
            CloseWhy::IdleTimeout => self.count.close_idle_timeout += 1,
            CloseWhy::Surplus => self.count.close_surplus += 1,
            CloseWhy::MaxIdle => self.count.close_max_idle += 1,
            CloseWhy::Replaced => self.count.close_replaced += 1,
            CloseWhy::Drained => self.count.close_drained += 1,
            CloseWhy::DialTimeout | CloseWhy::HeadTimeout => panic!("not for idle connections"),
        }
        self.out.push(Seen::Close(conn, why));
    }
}

fn take(list: &mut Vec<(usize, Instant)>, conn: usize) -> bool {
    let before = list.len();
    list.retain(|c| c.0 != conn);
    list.len() < before
}
