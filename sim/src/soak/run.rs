//! Runs a plan: boots its world, lets its faults begin and end, and checks what must hold, all along and at the end.

use super::{app, clients, faults, parting, plan::Plan};
use crate::{
    check::{Audit, Break, Invariant},
    cpu::lock,
    forward::Port,
    gvproxy::Gvproxy,
    native::Native,
    params::Params,
    time::Scale,
    trace::Record,
    world::{ClientSide, World, WorldConfig},
};
use nitrotap_core::{
    gateway::{FLUSH_WORK_LIMIT, QUEUE_LIMIT},
    pool::Limits,
    time::Instant,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

/// The port of a service outside that says something as soon as it is asked, and ends (RFC 865), and what it says.
pub(super) const QUOTE: (u16, &[u8]) = (17, b"What is said at once ends at once.\r\n");

/// The port of the echo services.
pub(super) const ECHO: u16 = crate::world::ECHO;

/// What the programs of a run know of its plan.
#[derive(Clone)]
pub(super) struct Rules {
    calm: Instant,
    first_fault: Instant,
    pub(super) stop: Instant,
    pub(super) app_idle: Duration,
    pub(super) has_proxy: bool,
    pub(super) loads: Arc<[super::plan::Load]>,
}

impl Rules {
    /// Whether something that began at `begun` may have failed by `now`: before the link is up, or because of a fault.
    pub(super) fn excuse(&self, begun: Instant, now: Instant) -> bool {
        begun < self.calm && (now >= self.first_fault || begun < Instant::from_millis(super::plan::BOOT_MS))
    }

    /// Whether what began at `begun` is from before the calm.
    pub(super) fn is_before_calm(&self, begun: Instant) -> bool {
        begun < self.calm
    }
}

/// The books of a run; clones write to the same ones.
#[derive(Clone)]
pub(super) struct Book {
    pub(super) audit: Audit,
    inner: Arc<Mutex<Pages>>,
}

#[derive(Default)]
struct Pages {
    counts: Counts,
    /// Every POST that reached the app.
    posts: BTreeSet<u64>,
}

/// What happened in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// HTTP requests sent.
    pub requests: u64,
    /// Answers and transfers that were right.
    pub answers: u64,
    /// Failures seen by clients; one that no fault excuses also breaks an invariant.
    pub failures: u64,
    /// Bytes that came back.
    pub bytes: u64,
    /// How often each registered fault did something.
    pub fired: BTreeMap<String, u64>,
}

impl Book {
    pub(super) fn request(&self) {
        lock(&self.inner).counts.requests += 1;
    }

    pub(super) fn answer(&self) {
        lock(&self.inner).counts.answers += 1;
    }

    /// Whether the app gets this POST for the first time.
    pub(super) fn first_time(&self, id: u64) -> bool {
        lock(&self.inner).posts.insert(id)
    }

    pub(super) fn failure(&self) {
        lock(&self.inner).counts.failures += 1;
    }

    pub(super) fn transfer(&self, bytes: u64) {
        lock(&self.inner).counts.bytes += bytes;
    }

    pub(super) fn fired(&self, fault: &str) {
        *lock(&self.inner).counts.fired.entry(fault.to_owned()).or_default() += 1;
    }
}

/// What came of a plan.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What broke, first things first; empty if all is well.
    pub breaks: Vec<Break>,
    /// Hash of the trace, and its length in records.
    pub hash: (u64, u64),
    /// What happened.
    pub counts: Counts,
    /// Model time that passed.
    pub model: Duration,
    /// Checks made.
    pub checks: u64,
    /// The trace's hash after every [`CHECKPOINT`](crate::trace::CHECKPOINT) records.
    pub checkpoints: Vec<u64>,
    /// The end of the trace.
    pub tail: Vec<Record>,
}

impl Verdict {
    /// Whether every invariant held.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.breaks.is_empty()
    }
}

/// Model time of a tick. Every millisecond less costs wall time; wires have to be slower.
const TICK: Duration = Duration::from_millis(10);

/// Later than any run ends, in milliseconds.
const NEVER_MS: u64 = 1 << 40;

/// How often queues and the link are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Runs `plan` on a thread of its own, so that nothing of an earlier run is left behind in this one's thread.
///
/// # Panics
/// If no thread can be made.
#[must_use]
pub fn run(plan: &Plan, keep_trace: bool) -> Verdict {
    let (plan, pulse) = (plan.clone(), Arc::<Pulse>::default());
    let thread = std::thread::Builder::new().name(format!("seed-{:x}", plan.seed));
    let (tell, told) = mpsc::channel();
    let felt = pulse.clone();
    let handle = thread
        .spawn(move || {
            let verdict = Run::new(plan, keep_trace).finish(&pulse);
            // Nobody waits any more for one that was given up.
            let _ = tell.send(verdict);
        })
        .expect("a thread can be made");
    loop {
        let before = felt.beats.load(Relaxed);
        match told.recv_timeout(HANG) {
            Ok(verdict) => return verdict,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if felt.beats.load(Relaxed) == before => return felt.stopped(),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    match handle.join() {
        Ok(()) => unreachable!("it says what came of it, or panics"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Time on the wall after which a step of the world, which takes milliseconds, is taken for one that never ends. Its thread
/// cannot be ended, and stays until the process goes.
const HANG: Duration = Duration::from_secs(120);

/// Signs of life of a run.
#[derive(Default)]
struct Pulse {
    beats: AtomicU64,
    /// Model time at the last one, in nanoseconds.
    at_ns: AtomicU64,
}

impl Pulse {
    fn beat(&self, at: Instant) {
        self.at_ns.store(at.as_nanos(), Relaxed);
        self.beats.fetch_add(1, Relaxed);
    }

    /// The verdict on a run that goes on for ever.
    fn stopped(&self) -> Verdict {
        let at_ns = self.at_ns.load(Relaxed);
        let detail = format!("a step of the world has not ended within {HANG:?}");
        Verdict {
            breaks: vec![Break { at_ns, invariant: Invariant::Progress, detail }],
            hash: (0, 0),
            counts: Counts::default(),
            model: Duration::from_nanos(at_ns),
            checks: 0,
            checkpoints: Vec::new(),
            tail: Vec::new(),
        }
    }
}

struct Run {
    plan: Plan,
    world: World,
    book: Book,
    /// Frames for us that the enclave had received at the last look; `None` inside for nitriding's loop.
    heard: Option<Option<u64>>,
    /// Since when nothing has arrived although nothing kept it from doing so.
    link_idle_since: Option<Instant>,
    /// Frames that the TAP's queue had dropped at the last look.
    dropped: u64,
    /// How often nitrotap's gateway had been woken for nothing at the last look.
    idle_turns: u64,
    /// Connections of gvproxy's that there were when the calm began.
    flows_at_calm: Option<usize>,
}

impl Run {
    fn new(plan: Plan, keep_trace: bool) -> Self {
        let rules = Rules {
            calm: Instant::from_millis(plan.calm_ms),
            first_fault: Instant::from_millis(plan.faults.iter().map(|fault| fault.at_ms).min().unwrap_or(NEVER_MS)),
            stop: Instant::from_millis(plan.stop_ms),
            // Without a proxy in between, a client's request can cross the end of an idle connection; nobody is to blame.
            app_idle: Duration::from_millis(if plan.scenario.proxy().is_some() { plan.app_idle_ms } else { 3_600_000 }),
            has_proxy: plan.scenario.proxy().is_some(),
            loads: plan.loads.clone().into(),
        };
        let mut params = Params::free();
        params.machines.buf_alloc = plan.buf_alloc;
        params.machines.txqueuelen = plan.txqueuelen;
        params.machines.tcp_buffer = plan.tcp_buffer;
        let config = WorldConfig {
            scale: Scale::REAL,
            tick: TICK,
            quirks: plan.quirks,
            host_buffer: plan.host_buffer,
            flow_rate: plan.flow_rate,
            mtu: plan.mtu,
            fragment: plan.fragment,
            shuffle: plan.shuffle,
            pool: Limits {
                head_timeout: Duration::from_secs(5),
                idle_timeout: Duration::from_millis(plan.idle_timeout_ms),
                ..Limits::default()
            },
            ..WorldConfig::new(plan.scenario, params, plan.seed)
        };
        // The audit is the world's, which does not exist yet: programs get the book when they start.
        let pages: Arc<Mutex<Pages>> = Arc::default();
        let book = |audit: &Audit, inner: &Arc<Mutex<Pages>>| Book { audit: audit.clone(), inner: inner.clone() };
        let (c1, r1) = (pages.clone(), rules.clone());
        let (c2, r2) = (pages.clone(), rules.clone());
        let (c3, r3) = (pages.clone(), rules);
        let world = World::with_outside(
            config,
            move |side: ClientSide| {
                let book = book(side.audit(), &c1);
                clients::run(side, r1.clone(), book)
            },
            move |side| {
                let book = book(side.audit(), &c2);
                app::serve(side, r2.clone(), book)
            },
            move |side: ClientSide| {
                let book = book(side.audit(), &c3);
                outside(side, r3.clone(), book)
            },
        );
        if keep_trace {
            world.trace().keep_all();
        }
        let book = Book { audit: world.shared().audit.clone(), inner: pages };
        if plan.fragment {
            book.fired("fragmented-io");
        }
        Self { plan, world, book, heard: None, link_idle_since: None, dropped: 0, idle_turns: 0, flows_at_calm: None }
    }

    fn finish(mut self, pulse: &Pulse) -> Verdict {
        let end = Instant::from_millis(self.plan.end_ms);
        let mut timeline: Vec<(u64, bool, u32)> = Vec::new();
        for (index, fault) in self.plan.faults.iter().enumerate() {
            timeline.push((fault.at_ms, true, index as u32));
            timeline.push((fault.at_ms + fault.for_ms.max(20), false, index as u32));
        }
        timeline.sort_unstable();
        let mut timeline = timeline.into_iter().peekable();
        let mut next_look = Instant::ZERO + LOOK;
        while self.world.now() < end && self.world.is_sound() {
            while let Some((_, begins, index)) =
                timeline.next_if(|(at, ..)| Instant::from_millis(*at) <= self.world.now())
            {
                let fault = self.plan.faults[index as usize];
                if begins {
                    if faults::begin(&mut self.world, index, &fault) {
                        self.book.fired(fault.kind.name());
                    }
                } else {
                    faults::end(&mut self.world, index, &fault);
                }
            }
            self.world.step();
            pulse.beat(self.world.now());
            if self.world.now() >= next_look {
                next_look = next_look + LOOK;
                self.look();
            }
        }
        // A keepalive may be on its way just now; give it the time to arrive.
        let last = end + LOOK;
        while self.world.is_sound() && self.world.now() < last && self.flying() > 0 {
            self.world.step();
        }
        // A shrunk plan ends with its failure, when nothing is at rest.
        if self.world.is_sound() && self.plan.has_ending() {
            self.look_back();
        }
        Verdict {
            breaks: self.world.breaks(),
            hash: self.world.trace().hash(),
            counts: lock(&self.book.inner).counts.clone(),
            model: self.world.now().since(Instant::ZERO),
            checks: self.book.audit.checks(),
            checkpoints: self.world.trace().checkpoints(),
            tail: self.world.trace().tail(usize::MAX),
        }
    }

    fn check(&self, invariant: Invariant, holds: bool, detail: impl FnOnce() -> String) {
        self.book.audit.check(self.world.now(), invariant, holds, detail);
    }

    /// What must hold all along.
    fn look(&mut self) {
        let now = self.world.now();
        let mut idle_turns = self.idle_turns;
        let sites = self.world.shared().sites.borrow();
        for site in [&sites.client, &sites.host, &sites.enclave].into_iter().flatten() {
            let usage = site.net.usage();
            self.check(Invariant::Bounds, usage.fullest <= usage.limit && usage.streams < 5000, || {
                format!("{usage:?}")
            });
        }
        let mut dropped = 0;
        if let Some(inside) = &sites.inside {
            let (queued, _, full) = inside.tap.counts();
            dropped = full;
            self.check(Invariant::Bounds, queued <= self.plan.txqueuelen, || {
                format!("{queued} frames in the TAP's queue")
            });
            let usage = inside.kernel.usage();
            self.check(Invariant::Bounds, usage.flows < 2000, || format!("{usage:?} in the kernel"));
        }
        if let Some(gvproxy) = &sites.gvproxy {
            let waiting = gvproxy.waiting();
            self.check(Invariant::Bounds, waiting < 2000, || format!("{waiting} frames wait for gvproxy's lock"));
            self.check(Invariant::Frames, !gvproxy.is_wedged(), || "gvproxy's switch is wedged".to_owned());
        }
        if let Some(native) = &sites.native {
            let counters = native.counters();
            let (fullest, memory) = (native.fullest(), native.memory());
            self.check(Invariant::Bounds, fullest <= QUEUE_LIMIT, || format!("{fullest} bytes waited for a link"));
            let held = counters.tcp_flows < 2000 && counters.sessions <= MOST_SESSIONS && counters.links < 30;
            self.check(Invariant::Bounds, held, || format!("{counters:?}"));
            let remembers = counters.tcp_time_wait <= MOST_TIME_WAIT && counters.tcp_buffer_bytes <= memory as u64;
            self.check(Invariant::Bounds, remembers, || format!("{counters:?}"));
            self.check(Invariant::Progress, counters.tcp_stuck == 0, || {
                format!("a connection would have said the same for ever: {counters:?}")
            });
            self.check(Invariant::Bounds, counters.flush_work_max <= FLUSH_WORK_LIMIT, || format!("{counters:?}"));
            let turns = native.idle_turns();
            let more = turns.saturating_sub(idle_turns);
            idle_turns = turns;
            self.check(Invariant::Progress, more <= MOST_IDLE_TURNS + 2 * counters.tcp_flows, || {
                format!("the gateway's timers woke it for nothing {more} times in {LOOK:?}, {counters:?}")
            });
            let streams = native.streams();
            self.check(Invariant::Conservation, streams as u64 <= counters.tcp_flows, || {
                format!("{streams} connections of the world, {counters:?}")
            });
        }
        // The link has to come up whenever there is somebody to talk to.
        let quiet = now >= Instant::from_millis(self.plan.faults_over_ms);
        // What counts is what arrives; nitriding's loop says nothing of itself.
        let heard = sites.inside.as_ref().map(|inside| inside.port.as_ref().map(|port| port.ingress().for_us));
        let flows = sites.gvproxy.as_ref().map(|gvproxy| gvproxy.stack().usage().flows);
        drop(sites);
        if dropped > self.dropped {
            self.book.fired("full-buffers");
        }
        self.dropped = dropped;
        self.idle_turns = idle_turns;
        if self.flows_at_calm.is_none() && now >= Instant::from_millis(self.plan.calm_ms) {
            self.flows_at_calm = flows;
        }
        let moves = heard == Some(None) || heard != self.heard;
        self.heard = heard;
        if moves || !quiet {
            self.link_idle_since = None;
        } else {
            let since = *self.link_idle_since.get_or_insert(now);
            self.check(Invariant::Progress, now.since(since) < LINK_PATIENCE, || {
                format!("nothing has come over the link for {:?} with a gvproxy that listens", now.since(since))
            });
        }
    }

    /// Frames in flight on the link's stream.
    fn flying(&self) -> usize {
        let sites = self.world.shared().sites.borrow();
        let stream = sites.inside.as_ref().and_then(|inside| inside.port.as_ref()).and_then(Port::stream);
        stream.map_or(0, |stream| self.world.shared().ledger.flying(stream.local()))
    }

    /// What must hold when nobody has talked for a while.
    fn look_back(&self) {
        let sites = self.world.shared().sites.borrow();
        let Some(inside) = &sites.inside else {
            return self.check(Invariant::Recovery, false, || "the enclave has not come back".to_owned());
        };
        if let Some(port) = &inside.port {
            self.check(Invariant::Recovery, port.is_up(), || "the link is down at the end".to_owned());
            let link = port.link();
            self.check(Invariant::Conservation, link.ups == link.losses + u64::from(port.is_up()), || {
                format!("{link:?}")
            });
            let (queued, passed, _) = inside.tap.counts();
            let out = port.egress();
            let read = passed - queued as u64;
            let dropped = out.dropped_runt + out.dropped_oversize + out.dropped_link_down + out.dropped_offload;
            // A super-frame that was cut is as many frames as were cut out of it.
            let whole = out.frames + out.segmented - out.segments;
            let accounted = whole + dropped >= read && whole <= read + link.probes;
            self.check(Invariant::Conservation, accounted, || {
                format!("{read} frames read from the TAP, counters {out:?}")
            });
            let flying = self.flying();
            self.check(Invariant::Frames, flying == 0, || format!("{flying} frames sent on a live link never arrived"));
        }
        let kernel = inside.kernel.usage();
        if let Some(port) = &inside.port {
            let received = port.ingress();
            // A super-frame that was joined is one.
            let delivered = received.frames + received.super_frames - received.joined - received.dropped_tap_write;
            let (malformed, wrong) = (kernel.malformed, kernel.wrong_sums);
            self.check(Invariant::Frames, (malformed, wrong) == (0, 0), || {
                format!("{malformed} packets that no TAP takes, and {wrong} with a wrong sum to be finished")
            });
            self.check(Invariant::Conservation, kernel.frames_in == delivered, || {
                format!("{} frames reached the kernel, counters {received:?}", kernel.frames_in)
            });
        }
        self.check(Invariant::BoundedEnd, kernel.flows == 0, || format!("connections left in the kernel: {kernel:?}"));
        let leaked = match (&sites.gvproxy, &sites.native) {
            (Some(gvproxy), _) => self.look_back_at_gvproxy(gvproxy),
            (None, Some(native)) => self.look_back_at_native(native),
            (None, None) => {
                return self.check(Invariant::Recovery, false, || "the host's gateway has not come back".to_owned());
            }
        };
        let link_stream = usize::from(inside.port.as_ref().is_some_and(|port| port.stream().is_some()));
        let expected = [(&sites.client, leaked), (&sites.host, 1 + 2 * leaked), (&sites.enclave, link_stream)];
        for (site, expected) in expected {
            let Some(site) = site else { continue };
            let usage = site.net.usage();
            self.check(Invariant::BoundedEnd, usage.streams <= expected, || {
                format!("streams left on machine {}: {usage:?}", site.net.cid())
            });
        }
        if let Some(proxy) = &inside.proxy {
            for (proxy, pool) in proxy.counters() {
                self.check(Invariant::BoundedEnd, proxy.clients == 0 && proxy.tunnels == 0, || format!("{proxy:?}"));
                let rejected = pool.reject_queue_full + pool.reject_wait_timeout + pool.reject_dial_failed;
                let asked = pool.assigned + rejected + pool.cancelled + pool.waiting;
                self.check(Invariant::Conservation, pool.requests == asked, || format!("{pool:?}"));
                self.check(Invariant::Bounds, pool.active == 0 && pool.dialing == 0 && pool.waiting == 0, || {
                    format!("{pool:?} with nobody there")
                });
            }
        }
    }

    /// Gives how many connections stay with gvproxy for good.
    fn look_back_at_gvproxy(&self, gvproxy: &Gvproxy) -> usize {
        // Stock gvproxy never asks whether a silent guest is still there: what a fault cut off stays with it for ever, and
        // so does the stream on its other side. What came without a fault, or after the last one, may not stay.
        let stack = gvproxy.stack().usage();
        let cut_off = if self.plan.faults.is_empty() { 0 } else { self.flows_at_calm.unwrap_or(0) };
        self.check(Invariant::BoundedEnd, stack.flows <= cut_off, || {
            format!("connections left in gvproxy, of which a fault may have cut off {cut_off}: {stack:?}")
        });
        stack.flows
    }

    /// nitrotap's gateway keeps nothing, whatever has happened.
    fn look_back_at_native(&self, native: &Native) -> usize {
        let counters = native.counters();
        let nothing = counters.tcp_flows == 0 && counters.sessions == 0 && counters.tcp_time_wait == 0;
        self.check(Invariant::BoundedEnd, nothing, || format!("left in the gateway: {counters:?}"));
        let memory = counters.tcp_buffer_bytes == 0 && native.streams() == 0;
        self.check(Invariant::BoundedEnd, memory, || {
            format!("held by the gateway for {} connections of the world: {counters:?}", native.streams())
        });
        let links = u64::from(native.has_streams());
        self.check(Invariant::BoundedEnd, counters.links == links && links <= 1, || format!("links: {counters:?}"));
        0
    }
}

/// Wake-ups of nitrotap's gateway for nothing between two looks, and two more for each connection, whose deadlines move: a
/// timer that is due again at once would have 500.
const MOST_IDLE_TURNS: u64 = 20;

/// Connections that are over and remembered, and sessions, that nitrotap's gateway has at most.
const MOST_TIME_WAIT: u64 = 16_384;
const MOST_SESSIONS: u64 = 8192;

/// Longest time without a frame while gvproxy listens and nothing is wrong: a silent peer is noticed after 25 s.
const LINK_PATIENCE: Duration = Duration::from_secs(40);

/// What enclaves find outside: an echo service, one that ends first, and one of partings.
async fn outside(side: ClientSide, rules: Rules, book: Book) {
    let (Ok(echo), Ok(quote)) = (side.listen(u32::from(ECHO)), side.listen(u32::from(QUOTE.0))) else { return };
    let Ok(partings) = side.listen(u32::from(parting::PORT)) else { return };
    side.spawn(parting::outside(side.clone(), partings, rules, book));
    loop {
        let clock = side.clock();
        tokio::select! {
            biased;
            stream = echo.accept() => side.spawn(async move { drop(app::echo(stream, Vec::new(), clock).await) }),
            stream = quote.accept() => side.spawn(async move { drop(app::quote(stream, QUOTE.1, clock).await) }),
        }
    }
}
