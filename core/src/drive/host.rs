//! The host's data thread: one loop between the links, the gateway and the sockets of the world.
//!
//! Owns: every stream and socket that data passes through, and the gateway. Driven by: readiness, the control side's requests,
//! one timer; see [`World`] for what it does to the world, and how.
//!
//! One thread does it all because a request passes it four times (frame in, socket out, socket in, frame out), and each
//! change of thread would cost more than the work. Nothing here ever waits for a write: a link that does not take its
//! frames keeps its queue, a socket that does not take its bytes keeps its connection's buffer, and everything else goes on.
//! Bounds: those of the gateway; per turn, each tenant gets a share of the work ([`crate::gateway::turns`]), and in it each
//! link and each connection theirs, so that none holds up the others.

mod control;
mod counters;
mod flow;
mod forward;
mod link;
mod notice;
mod request;
mod session;
#[cfg(test)]
mod tests;
mod unreachable;
mod view;
mod world;

pub use control::{Attach, ExposeError, Forward, LinkKind, Local, Mac, Request, Stats, Tunnel, Who};
pub use counters::HostCounters;
pub use notice::{Named, Notice};
pub use view::View;
pub use world::{Complaint, Control, Datagrams, News, Ports, Ready, Received, Source, Streams, Watch, World};

use super::Errno;
use crate::{
    gateway::{Duplicate, FlowId, Gateway, Output, PortId, SessionId, limits::TokenBucket, turns::Turns},
    time::Instant,
};
use core::{net::SocketAddr, time::Duration};
use flow::FlowSocket;
use forward::{Client, Forwards};
use link::Link;
use session::SessionSocket;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Room for one message of a link, or one datagram.
const BUFFER: usize = 128 << 10;

/// How long something rests for which the kernel has neither memory nor descriptors.
const RETRY: Duration = Duration::from_millis(100);

/// Times per turn that a connection may be looked at because the gateway had news of it. One look leads to another where
/// that opened the connection, and to a third where it was aborted; more of them would mean that two parts keep each other
/// busy.
const PASSES: usize = 8;

/// What the loop is told once.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes per second and direction that one connection may move; `None` without a limit.
    pub flow_rate: Option<u64>,
    /// Published ports at a time.
    pub max_forwards: usize,
}

/// See the module.
pub struct Host<W: World> {
    world: W,
    gateway: Gateway,
    flow_rate: Option<u64>,
    links: BTreeMap<PortId, Link<W>>,
    /// By [`FlowId::index`].
    flows: Vec<Option<FlowSocket<W>>>,
    /// By [`SessionId::index`].
    sessions: Vec<Option<SessionSocket<W>>>,
    /// Sessions that the world began: by the forward's number and the client's address.
    inbound: BTreeMap<(u32, Client), SessionId>,
    forwards: Forwards<W>,
    /// Connections to look at in this turn.
    active: VecDeque<FlowId>,
    /// What had more to do than its share, and is looked at again without waiting for news.
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
    counters: HostCounters,
    stopped: bool,
    /// Of errors that tell askers that nobody is there.
    refusals: TokenBucket,
}

impl<W: World> Host<W> {
    /// A loop without links.
    pub fn new(world: W, gateway: Gateway, config: Config) -> Self {
        Self {
            world,
            gateway,
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
            counters: HostCounters::default(),
            stopped: false,
            refusals: unreachable::rate(),
        }
    }

    /// The machine that it drives.
    pub const fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Goes round until it is told to stop.
    ///
    /// # Errors
    /// The world cannot wait any more.
    pub async fn run(mut self) -> Result<(), Errno> {
        let mut news = W::News::default();
        while !self.stopped {
            self.turn(&mut news).await?;
        }
        Ok(())
    }

    async fn turn(&mut self, news: &mut W::News) -> Result<(), Errno> {
        let timeout = self.timeout(self.world.now());
        if self.turns.is_idle() {
            self.world.pause();
        }
        self.world.wait(news, timeout).await?;
        let began = self.world.now();
        self.turns.begin();
        // First the mailbox: what the name server has learned must be known before a guest uses it.
        self.left_over = self.requests(began);
        let mut now = self.world.elapse(began).await;
        while let Some(source) = self.turns.next() {
            if let Source::Flow(flow) = source {
                self.look_again(now, flow);
            } else {
                self.serve(now, source, true, false, false);
            }
            now = self.world.elapse(now).await;
        }
        for Ready { source, readable, writable, hangup } in news.iter() {
            self.serve(now, source, readable, writable, hangup);
            now = self.world.elapse(now).await;
        }
        if self.gateway.poll_timeout().is_some_and(|at| at <= now) {
            self.gateway.handle_timeout(now);
        }
        self.end_links();
        // What is to be tried once more is not tried again in this turn.
        for _ in 0..self.retries.iter().take_while(|(at, _)| *at <= now).count() {
            if let Some((_, source)) = self.retries.pop_first() {
                self.serve(now, source, true, true, false);
                now = self.world.elapse(now).await;
            }
        }
        while let Some((_, flow)) = self.throttled.first().copied().filter(|(at, _)| *at <= now) {
            self.throttled.pop_first();
            self.activate(flow);
        }
        self.end_forwards(now);
        self.left_over |= !self.settle(now).await;
        let took = u64::try_from(self.world.now().since(began).as_nanos()).unwrap_or(u64::MAX);
        self.counters.turns += 1;
        self.counters.turn_nanoseconds = self.counters.turn_nanoseconds.max(took);
        self.tell_duplicates();
        self.publish();
        Ok(())
    }

    /// How long nothing is due; `None` if nothing is without news.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        if !self.turns.is_idle() || self.left_over {
            return Some(Duration::ZERO);
        }
        let throttled = self.throttled.first().map(|(at, _)| *at);
        let retries = self.retries.first().map(|(at, _)| *at);
        let publishing = self.forwards.publishing.poll_timeout();
        let own = throttled.into_iter().chain(retries).chain(publishing);
        self.gateway.poll_timeout().into_iter().chain(own).min().map(|at| at.since(now))
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
    async fn settle(&mut self, mut now: Instant) -> bool {
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
                    | Output::SessionClosed(_)) => {
                        self.obey(now, other);
                        now = self.world.elapse(now).await;
                    }
                }
            }
            for _ in 0..self.active.len() {
                if let Some(flow) = self.active.pop_front() {
                    self.serve_flow(now, flow);
                    now = self.world.elapse(now).await;
                }
            }
            self.gateway.flush(now);
            now = self.world.elapse(now).await;
            for port in written.drain(..) {
                self.write_link(now, port);
                now = self.world.elapse(now).await;
            }
            while let Some(output) = self.gateway.poll_output() {
                self.obey(now, output);
                now = self.world.elapse(now).await;
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

    /// Says which addresses two want to have; the gateway says it seldom.
    fn tell_duplicates(&mut self) {
        while let Some(Duplicate { address, owner, claimant }) = self.gateway.poll_duplicate() {
            let name = |link: PortId| Named { link, peer: self.links.get(&link).map(Link::peer) };
            let notice = Notice::Duplicate { address, owner: owner.map(name), claimant: name(claimant) };
            self.world.tell(notice);
        }
    }

    fn publish(&mut self) {
        self.counters.links = self.links.len() as u64;
        self.counters.turn_work = self.turns.most();
        self.counters.capture_lost = self.world.lost();
        let Self { world, gateway, counters, links, flows, turns, .. } = self;
        world.publish(View {
            gateway,
            counters,
            links,
            flows,
            work: turns.spent(),
            waiting: turns.waiting(),
            sources: turns.sources(),
        });
    }
}
