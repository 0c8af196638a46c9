//! The data thread: one epoll loop between the links, the gateway and the sockets of the world.
//!
//! Owns: every descriptor that data passes through, and the gateway. Driven by: the kernel's readiness, the control side's
//! requests, one timer.
//!
//! One thread does it all because a request passes it four times (frame in, socket out, socket in, frame out), and each
//! change of thread would cost more than the work. Nothing here ever waits for a write: a link that does not take its
//! frames keeps its queue, a socket that does not take its bytes keeps its connection's buffer, and everything else goes on.
//! Bounds: those of the gateway; per turn, each tenant gets a share of the work ([`nitrotap_core::gateway::turns`]), and in it
//! each link and each connection theirs, so that none holds up the others.

mod capture;
mod counters;
mod duplicates;
mod flow;
mod forward;
mod link;
mod poller;
mod request;
mod session;
mod unreachable;

pub(crate) use capture::CaptureConfig;

#[cfg(doc)]
use super::control::Handle;
use super::control::Waiting;
use crate::{clock::Clock, drive::mailbox::Mailbox, errors::Error, metrics::Sources};
use capture::Recorder;
use counters::EngineCounters;
use duplicates::Told;
use flow::FlowSocket;
use forward::{Client, Forwards};
use link::Link;
use nitrotap_core::{
    counters::Shared,
    gateway::{self, FlowId, Gateway, Output, PortId, SessionId, Target, publishing::Asker, turns::Turns},
    pcap::CaptureCounters,
    time::Instant,
};
use poller::{News, Poller, Ready, Source};
use rustix::io::Errno;
use session::SessionSocket;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::Arc,
    thread,
    time::Duration,
};
use tokio::sync::oneshot;
use unreachable::Unreachables;

/// What the data thread hands to the control side.
pub(crate) struct Hooks {
    /// A tenant's question for the name server, with the number its answer must bear; false if it cannot be taken.
    pub(crate) ask: Box<dyn FnMut(u32, u64, Vec<u8>) -> bool + Send>,
    /// A guest's connection to a service of the gateway, as a stream, and the guest; false if nobody takes it.
    pub(crate) serve: Box<dyn FnMut(Target, Asker, OwnedFd) -> bool + Send>,
}

/// What the data thread is told once.
pub(crate) struct EngineConfig {
    pub(crate) gateway: gateway::Config,
    pub(crate) hooks: Hooks,
    pub(crate) capture: Option<CaptureConfig>,
    /// Bytes per second and direction that one connection may move.
    pub(crate) flow_rate: Option<u64>,
    /// Published ports at a time.
    pub(crate) max_forwards: usize,
}

/// Starts the data thread. The receiver is told when it has ended: without an error only after [`Handle::stop`].
pub(crate) fn start(
    config: EngineConfig,
    clock: Clock,
    mailbox: Mailbox<Waiting>,
    sources: &Sources,
) -> Result<oneshot::Receiver<Result<(), Error>>, Error> {
    let cannot = |what: &str, error: &dyn std::fmt::Display| Error::runtime(format!("cannot {what}: {error}"));
    let gateway =
        Gateway::new(config.gateway).map_err(|e| Error::usage(format!("the virtual network cannot be: {e}")))?;
    let poller = Poller::new().map_err(|e| cannot("make an epoll descriptor", &e))?;
    poller.watch(mailbox.wake(), Source::Mailbox).map_err(|e| cannot("watch an event descriptor", &e))?;
    let capture = config.capture.map(|config| Recorder::start(config, clock.epoch())).transpose()?;
    let shared = Published::default();
    shared.register(sources);
    let told = Told::default();
    let lines = told.clone();
    sources.add_status(move || lines.text());
    let worker = Worker {
        gateway,
        clock,
        poller,
        mailbox,
        hooks: config.hooks,
        capture,
        flow_rate: config.flow_rate,
        links: BTreeMap::new(),
        flows: Vec::new(),
        sessions: Vec::new(),
        inbound: BTreeMap::new(),
        forwards: Forwards::default(),
        active: VecDeque::new(),
        turns: Turns::default(),
        left_over: false,
        throttled: BTreeSet::new(),
        retries: BTreeSet::new(),
        buffer: vec![0; BUFFER].into(),
        uplink: 0,
        control: Vec::new(),
        max_forwards: config.max_forwards,
        counters: EngineCounters::default(),
        shared,
        stopped: false,
        told,
        unreachables: Unreachables::open(),
    };
    let (tell, ended) = oneshot::channel();
    thread::Builder::new()
        .name("nitrotap-gateway".to_owned())
        .spawn(move || {
            // Nobody may be listening any more.
            let _ = tell.send(worker.run());
        })
        .map_err(|e| cannot("start a thread", &e))?;
    Ok(ended)
}

/// Room for one message of a link, or one datagram.
const BUFFER: usize = 128 << 10;

/// How long something rests for which the kernel has neither memory nor descriptors.
const RETRY: Duration = Duration::from_millis(100);

/// Whether the kernel has no memory for a call that is right otherwise.
const fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::NOMEM | Errno::NOBUFS)
}

/// Times per turn that a connection may be looked at because the gateway had news of it. One look leads to another where
/// that opened the connection, and to a third where it was aborted; more of them would mean that two parts keep each other
/// busy.
const PASSES: usize = 8;

/// Readings between two looks at everything else.
const EVENTS: usize = 2048;

#[derive(Default)]
struct Published {
    gateway: Arc<Shared<gateway::Counters>>,
    policy: Arc<Shared<gateway::policy::PolicyCounters>>,
    dhcp: Arc<Shared<gateway::dhcp::DhcpCounters>>,
    fragments: Arc<Shared<gateway::fragments::FragmentCounters>>,
    engine: Arc<Shared<EngineCounters>>,
    capture: Arc<Shared<CaptureCounters>>,
}

impl Published {
    fn register(&self, sources: &Sources) {
        sources.add_counters(Arc::clone(&self.gateway));
        sources.add_counters(Arc::clone(&self.engine));
        sources.add_counters(Arc::clone(&self.policy));
        sources.add_counters(Arc::clone(&self.dhcp));
        sources.add_counters(Arc::clone(&self.fragments));
        sources.add_counters(Arc::clone(&self.capture));
        let engine = Arc::clone(&self.engine);
        sources.add_status(move || {
            let refused = engine.read().find(|(desc, _)| desc.name == "nitrotap_host_pings_refused");
            match refused {
                Some((_, refused @ 1..)) => format!("pings: {refused} refused: {}\n", session::PINGS_REFUSED),
                _ => String::new(),
            }
        });
    }
}

/// Everything the thread owns.
struct Worker {
    gateway: Gateway,
    clock: Clock,
    poller: Poller,
    mailbox: Mailbox<Waiting>,
    hooks: Hooks,
    capture: Option<Recorder>,
    flow_rate: Option<u64>,
    links: BTreeMap<PortId, Link>,
    /// By [`FlowId::index`].
    flows: Vec<Option<FlowSocket>>,
    /// By [`SessionId::index`].
    sessions: Vec<Option<SessionSocket>>,
    /// Sessions that the world began: by the forward's number and the client's address.
    inbound: BTreeMap<(u32, Client), SessionId>,
    forwards: Forwards,
    /// Connections to look at in this turn.
    active: VecDeque<FlowId>,
    /// What had more to do than its share, and is looked at again without waiting for the kernel.
    turns: Turns<Source>,
    /// Something that nobody tells of was left for the next turn.
    left_over: bool,
    /// Connections that have used up their rate, and when they may go on.
    throttled: BTreeSet<(Instant, FlowId)>,
    /// What the kernel had no memory or no descriptors for, and links that rest; and when that is tried again.
    retries: BTreeSet<(Instant, Source)>,
    buffer: Box<[u8]>,
    /// Grows whenever the host's addresses or routes have changed.
    uplink: u64,
    /// Where the gateway itself listens over TCP.
    control: Vec<SocketAddr>,
    max_forwards: usize,
    counters: EngineCounters,
    shared: Published,
    stopped: bool,
    /// Duplicate addresses.
    told: Told,
    unreachables: Unreachables,
}

impl Worker {
    fn run(mut self) -> Result<(), Error> {
        let mut news = News::new();
        while !self.stopped {
            self.turn(&mut news)
                .map_err(|e| Error::runtime(format!("the gateway cannot wait for its sockets any more: {e}")))?;
        }
        Ok(())
    }

    fn turn(&mut self, news: &mut News) -> rustix::io::Result<()> {
        let now = self.clock.now();
        let timeout = if self.turns.is_idle() && !self.left_over {
            let throttled = self.throttled.first().map(|(at, _)| *at);
            let retries = self.retries.first().map(|(at, _)| *at);
            let publishing = self.forwards.publishing.poll_timeout();
            let own = throttled.into_iter().chain(retries).chain(publishing);
            self.gateway.poll_timeout().into_iter().chain(own).min().map(|at| at.since(now))
        } else {
            Some(Duration::ZERO)
        };
        if let Some(capture) = self.capture.as_mut().filter(|_| self.turns.is_idle()) {
            capture.flush();
        }
        self.poller.wait(news, timeout)?;
        let now = self.clock.now();
        self.turns.begin();
        // First the mailbox: what the name server has learned must be known before a guest uses it.
        self.left_over = self.requests(now);
        while let Some(source) = self.turns.next() {
            if let Source::Flow(flow) = source {
                self.look_again(now, flow);
            } else {
                self.serve(now, source, true, false, false);
            }
        }
        for Ready { source, readable, writable, hangup } in news.iter() {
            self.serve(now, source, readable, writable, hangup);
        }
        if self.gateway.poll_timeout().is_some_and(|at| at <= now) {
            self.gateway.handle_timeout(now);
        }
        self.end_links();
        // What is to be tried once more is not tried again in this turn.
        for _ in 0..self.retries.iter().take_while(|(at, _)| *at <= now).count() {
            if let Some((_, source)) = self.retries.pop_first() {
                self.serve(now, source, true, true, false);
            }
        }
        while let Some((_, flow)) = self.throttled.first().copied().filter(|(at, _)| *at <= now) {
            self.throttled.pop_first();
            self.activate(flow);
        }
        self.end_forwards(now);
        self.left_over |= !self.settle(now);
        let took = u64::try_from(self.clock.now().since(now).as_nanos()).unwrap_or(u64::MAX);
        self.counters.turns += 1;
        self.counters.turn_nanoseconds = self.counters.turn_nanoseconds.max(took);
        self.tell_duplicates();
        self.publish();
        Ok(())
    }

    fn serve(&mut self, now: Instant, source: Source, readable: bool, writable: bool, hangup: bool) {
        match source {
            // Seen to in every turn.
            Source::Mailbox => {}
            Source::Link(port) => self.link_ready(now, port, readable, writable, hangup),
            Source::Flow(flow) => self.flow_ready(now, flow, readable, writable, hangup),
            Source::Session(session) => self.session_ready(now, session),
            Source::Forward(number) => self.forward_ready(now, number),
        }
    }

    /// Goes on until neither the gateway nor a connection has anything to do, or a turn's share is used up; false if something
    /// is left to do at once. What the gateway itself leaves over, its timer tells.
    fn settle(&mut self, now: Instant) -> bool {
        let mut written = Vec::new();
        for _ in 0..PASSES {
            // What guests sent goes out before it is acknowledged: the world need not wait for a write to the link, and the
            // acknowledgement tells of the room that is free again. So links wait for the flush.
            while let Some(output) = self.gateway.poll_output() {
                match output {
                    Output::Frames(port) => written.push(port),
                    other @ (Output::Dial { .. }
                    | Output::Flow(_)
                    | Output::Closed { .. }
                    | Output::SessionRefused(_)
                    | Output::SessionClosed(_)) => self.obey(now, other),
                }
            }
            for _ in 0..self.active.len() {
                if let Some(flow) = self.active.pop_front() {
                    self.serve_flow(now, flow);
                }
            }
            self.gateway.flush(now);
            for port in written.drain(..) {
                self.write_link(now, port);
            }
            while let Some(output) = self.gateway.poll_output() {
                self.obey(now, output);
            }
            if self.active.is_empty() {
                return true;
            }
        }
        self.counters.settles_cut += 1;
        false
    }

    fn obey(&mut self, now: Instant, output: Output) {
        match output {
            Output::Dial { flow, target, guest } => self.dial(now, flow, target, guest),
            Output::Flow(flow) => self.activate(flow),
            Output::Closed { flow, how } => self.flow_closed(flow, how),
            Output::SessionRefused(session) => self.session_refused(now, session),
            Output::SessionClosed(session) => self.session_closed(session),
            Output::Frames(port) => {
                self.write_link(now, port);
            }
        }
    }

    /// The kernel has no memory for something now; no edge tells when it has again.
    fn retry(&mut self, now: Instant, source: Source) {
        self.counters.shortages += 1;
        self.retries.insert((now + RETRY, source));
    }

    fn publish(&mut self) {
        self.counters.links = self.links.len() as u64;
        self.counters.turn_work = self.turns.most();
        self.shared.gateway.publish(&self.gateway.counters());
        self.shared.policy.publish(&self.gateway.policy_counters());
        self.shared.dhcp.publish(self.gateway.dhcp_counters());
        self.shared.fragments.publish(self.gateway.fragment_counters());
        if let Some(capture) = &self.capture {
            self.counters.capture_lost = capture.lost();
            self.shared.capture.publish(capture.counters());
        }
        self.shared.engine.publish(&self.counters);
    }
}
