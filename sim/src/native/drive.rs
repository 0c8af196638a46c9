//! The data thread, as the daemon's: what is ready, a batch at a time, then everything that it has made due.

use super::{
    Host, Native,
    dial::Dials,
    link::{Link, Written},
    ready::{Event, Ready},
    relay::{Relay, Step},
};
use crate::{
    check::Invariant,
    gvproxy::{ENCLAVE, Foul},
    ledger::Way,
    mailbox::Orders,
    stream::SimStream,
    trace::{Actor, Event as Noted},
    world::ENCLAVE_CID,
};
use nitrotap_core::{
    gateway::{Closed, DialError, FlowId, Gateway, Handled, Output, PortId, SessionError, Target},
    time::Instant,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    rc::Rc,
    task::Poll,
};

/// What others ask of the thread.
pub(super) enum Order {
    /// A link, and the bytes that came with its request.
    Link(SimStream, Vec<u8>),
    /// Somebody wants a port of the enclave.
    Client(SimStream, u16),
    /// Bytes for every link that are none of the gateway's.
    Fault(Vec<u8>, Foul),
}

/// Bytes moved for one connection before others get their turn.
const TURN_BYTES: usize = 256 << 10;

/// Rounds of one turn in which something was sent; more of them would mean that two parts keep each other busy.
const MOST_ROUNDS: u32 = 10_000;

/// Turns in a row, at one time, that only a timer began; a gateway that leaves work for the next turn has it done after a few.
const MOST_TURNS: u32 = 100;

pub(super) struct Driver {
    host: Host,
    seen: Native,
    gateway: Rc<RefCell<Gateway>>,
    orders: Orders<Order>,
    ready: Ready,
    links: BTreeMap<u64, Link>,
    relays: BTreeMap<u64, Relay>,
    dials: Dials,
    /// Links that have sent other enclaves as much as they may, and until when nothing of them is read.
    rests: BTreeSet<(Instant, u64)>,
    /// Processor time of what was done since it was last paid for.
    owed_ns: u64,
    /// Frames and bytes towards enclaves that are paid for.
    charged: (u64, u64),
}

impl Driver {
    pub(super) fn new(host: Host, seen: Native) -> Self {
        Self {
            gateway: seen.0.gateway.clone(),
            orders: seen.0.orders.clone(),
            seen,
            host,
            ready: Ready::default(),
            links: BTreeMap::new(),
            relays: BTreeMap::new(),
            dials: Dials::default(),
            rests: BTreeSet::new(),
            owed_ns: 0,
            charged: (0, 0),
        }
    }

    pub(super) async fn run(mut self) {
        let mut at_once = (Instant::ZERO, 0);
        loop {
            let slept = self.wait().await;
            self.host.process.run(&self.host.clock, 0, slept).await;
            let (by_timer, frames) = (self.orders.is_empty() && self.ready.is_empty(), self.charged.0);
            while let Some(order) = self.orders.take() {
                self.obey(order).await;
            }
            for event in self.ready.take() {
                self.handle(event).await;
            }
            self.handle_timeout();
            let outputs = self.settle().await;
            self.pay(0).await;
            let now = self.host.clock.now();
            at_once = if by_timer && at_once.0 == now { (now, at_once.1 + 1) } else { (now, 0) };
            if at_once.1 == MOST_TURNS {
                let detail = format!("the gateway is always due: {:?}", self.gateway.borrow().counters());
                self.host.audit.fail(now, Invariant::Progress, detail);
                return std::future::pending().await;
            }
            if by_timer && outputs == 0 && self.charged.0 == frames {
                self.seen.0.idle_turns.set(self.seen.0.idle_turns.get() + 1);
            }
            let waiting = self.links.values().map(|link| self.gateway.borrow().pending(link.port).len()).max();
            self.seen.0.fullest.set(self.seen.0.fullest.get().max(waiting.unwrap_or(0)));
            self.seen.0.links.set(self.links.len());
            self.seen.0.streams.set(self.relays.len() + self.dials.streams());
        }
    }

    /// Sleeps until there is something to do; gives what the wake-up costs.
    async fn wait(&self) -> u64 {
        let rested = self.rests.first().map(|(at, _)| *at);
        let next = self.gateway.borrow().poll_timeout().into_iter().chain(self.dials.next()).chain(rested).min();
        let clock = self.host.clock;
        if !self.ready.is_empty() || !self.orders.is_empty() || next.is_some_and(|at| at <= clock.now()) {
            return 0;
        }
        let timer = async {
            match next {
                Some(at) => clock.sleep_past(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.orders.arrived() => {}
            () = self.ready.arrived() => {}
            () = timer => {}
        }
        self.host.costs.wake_ns
    }

    /// Pays for what was done, and for what is done next.
    async fn pay(&mut self, next_ns: u64) {
        let (frames, bytes) = {
            let counters = self.gateway.borrow().counters();
            (counters.frames_out, counters.bytes_out)
        };
        let out = &self.host.costs.frame_out;
        let built = (frames - self.charged.0) * out.ns + (bytes - self.charged.1) * out.ps_per_byte / 1000;
        self.charged = (frames, bytes);
        let cost = std::mem::take(&mut self.owed_ns) + built + next_ns;
        if cost > 0 {
            self.host.process.run(&self.host.clock, cost, 0).await;
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Link(stream, early) => {
                let made = Link::new(&mut self.gateway.borrow_mut(), &self.ready, stream);
                let Some(mut link) = made else { return };
                let port = link.port;
                for chunk in early.chunks(super::link::READ_SIZE) {
                    link.decoder.space()[..chunk.len()].copy_from_slice(chunk);
                    link.decoder.commit(chunk.len());
                    self.take_frames(port, &mut link);
                }
                self.links.insert(port.to_u64(), link);
                self.ready.push(Event::LinkIn(port.to_u64()));
            }
            Order::Client(stream, to) => {
                self.pay(self.host.costs.connect_ns).await;
                let now = self.host.clock.now();
                let opened = self.gateway.borrow_mut().connect(now, SocketAddr::from((ENCLAVE, to)));
                match opened {
                    Ok(flow) => self.relay(flow, stream),
                    Err(_) => stream.abort(),
                }
            }
            Order::Fault(bytes, foul) => {
                for (id, link) in &mut self.links {
                    link.add_fault(bytes.clone(), foul);
                    self.ready.push(Event::LinkOut(*id));
                }
            }
        }
    }

    fn relay(&mut self, flow: FlowId, stream: SimStream) {
        self.relays.insert(flow.to_u64(), Relay::new(&self.ready, flow, stream));
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::LinkIn(id) => self.receive(id).await,
            Event::LinkOut(id) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.writable = true;
                    self.send(id).await;
                }
            }
            Event::WorldIn(id) => {
                if let Some(relay) = self.relays.get_mut(&id) {
                    relay.readable = true;
                    self.serve(FlowId::from_u64(id)).await;
                }
            }
            Event::WorldOut(id) => {
                if let Some(relay) = self.relays.get_mut(&id) {
                    relay.writable = true;
                    self.serve(FlowId::from_u64(id)).await;
                }
            }
            Event::WorldGone(id) => {
                if self.relays.get(&id).is_some_and(Relay::is_reset) {
                    self.drop_world(FlowId::from_u64(id));
                }
            }
            Event::Dialed(id) => self.dialed(FlowId::from_u64(id)),
        }
    }

    /// One read of a link, and all its frames.
    async fn receive(&mut self, id: u64) {
        if !self.links.contains_key(&id) {
            return;
        }
        self.pay(self.host.costs.link_read.ns).await;
        let Some(mut link) = self.links.remove(&id) else { return };
        if !self.take_frames(link.port, &mut link) {
            self.links.insert(id, link);
            return;
        }
        match link.read() {
            Poll::Pending => {}
            Poll::Ready(Ok(n @ 1..)) => {
                self.owed_ns += self.host.costs.link_read.bytes(n);
                self.take_frames(link.port, &mut link);
                // There may be more; others first.
                self.ready.push(Event::LinkIn(id));
            }
            Poll::Ready(Ok(0) | Err(_)) => return self.unlink(&link),
        }
        self.links.insert(id, link);
    }

    /// Hands over what the link's decoder has; false if the link rests.
    fn take_frames(&mut self, port: PortId, link: &mut Link) -> bool {
        let now = self.host.clock.now();
        if link.rest.is_some_and(|until| until > now) {
            return false;
        }
        link.rest = None;
        let stream = link.stream().clone();
        let mut gateway = self.gateway.borrow_mut();
        let useless = gateway.useless();
        while link.rest.is_none()
            && let Some(frame) = link.decoder.next_frame()
        {
            self.owed_ns += self.host.costs.frame_in.cost(frame.len());
            Link::note_received(&stream, &self.host, frame);
            match gateway.handle_frame(now, port, frame) {
                Handled::Done => {}
                Handled::Rest { until } => {
                    link.rest = Some(until);
                    self.rests.insert((until, port.to_u64()));
                }
                Handled::Datagram { session, .. } => gateway.session_failed(session, SessionError::Refused),
                Handled::Dns { client, query } => {
                    if let Some(answer) = refusal(&query) {
                        gateway.handle_dns_answer(client, &answer);
                    }
                }
            }
        }
        let useless = gateway.useless() - useless;
        if let Some(until) = gateway.handle_useless(now, port, useless) {
            link.rest = link.rest.max(Some(until));
            self.rests.insert((until, port.to_u64()));
        }
        drop(gateway);
        let runts = link.decoder.runts();
        self.host.audit.check(now, Invariant::Frames, runts == 0 || stream.peer().cid != ENCLAVE_CID, || {
            format!("{runts} runts were sent to the host")
        });
        link.rest.is_none()
    }

    fn unlink(&self, link: &Link) {
        self.gateway.borrow_mut().detach(link.port);
        self.host.ledger.close(link.stream().peer(), Way::Out);
    }

    fn handle_timeout(&mut self) {
        let now = self.host.clock.now();
        while let Some((_, id)) = self.rests.first().copied().filter(|(at, _)| *at <= now) {
            self.rests.pop_first();
            self.ready.push(Event::LinkIn(id));
        }
        while let Some(flow) = self.dials.expired(now) {
            self.gateway.borrow_mut().dialed(now, flow, Err(DialError::HostUnreachable));
        }
        let mut gateway = self.gateway.borrow_mut();
        if gateway.poll_timeout().is_some_and(|at| at <= now) {
            gateway.handle_timeout(now);
        }
    }

    /// Everything that is due because of what has happened, to the end; gives how many outputs there were.
    async fn settle(&mut self) -> usize {
        let mut all = 0;
        let mut due: BTreeSet<u64> = BTreeSet::new();
        for round in 0.. {
            let now = self.host.clock.now();
            self.host.audit.check(now, Invariant::Progress, round < MOST_ROUNDS, || {
                "the gateway and its driver keep each other busy".to_owned()
            });
            if round == MOST_ROUNDS {
                break;
            }
            self.gateway.borrow_mut().flush(now);
            let mut outputs = Vec::new();
            while let Some(output) = self.gateway.borrow_mut().poll_output() {
                outputs.push(output);
            }
            all += outputs.len();
            let mut quiet = true;
            for output in outputs {
                match output {
                    Output::Frames(port) => {
                        due.insert(port.to_u64());
                        continue;
                    }
                    Output::Dial { flow, target, .. } => self.dial(flow, target).await,
                    Output::Flow(flow) => self.serve(flow).await,
                    Output::Closed { flow, how } => self.closed(flow, how),
                    Output::SessionClosed(_) | Output::SessionRefused(_) => {}
                }
                quiet = false;
            }
            if !quiet {
                continue;
            }
            let mut room = false;
            for id in std::mem::take(&mut due) {
                room |= self.send(id).await;
            }
            if !room {
                break;
            }
        }
        all
    }

    async fn dial(&mut self, flow: FlowId, target: Target) {
        self.pay(self.host.costs.connect_ns).await;
        let now = self.host.clock.now();
        if self.dials.start(now, &self.host, flow, target) {
            self.dialed(flow);
        } else {
            self.gateway.borrow_mut().dialed(now, flow, Err(DialError::Refused));
        }
    }

    /// Looks at a dial.
    fn dialed(&mut self, flow: FlowId) {
        let Some(result) = self.dials.poll(flow, &self.ready) else { return };
        if let Ok(stream) = &result {
            self.relay(flow, stream.clone());
        }
        let result = result.map(drop).map_err(|_| DialError::Refused);
        self.gateway.borrow_mut().dialed(self.host.clock.now(), flow, result);
    }

    /// Moves bytes of a connection for as long as both sides let it.
    async fn serve(&mut self, flow: FlowId) {
        let id = flow.to_u64();
        let Some(mut relay) = self.relays.remove(&id) else { return };
        let mut moved = 0;
        loop {
            let step = relay.next(&self.gateway.borrow(), flow);
            let costs = self.host.costs;
            let call = match step {
                Step::Read => costs.world_read,
                Step::Write => costs.world_write,
                Step::Finish => {
                    relay.finish();
                    continue;
                }
                Step::Nothing => break,
            };
            if moved >= TURN_BYTES {
                self.ready.push(Event::WorldIn(id));
                self.ready.push(Event::WorldOut(id));
                break;
            }
            self.pay(call.ns).await;
            let now = self.host.clock.now();
            let result = if step == Step::Read {
                relay.read(now, &mut self.gateway.borrow_mut(), flow)
            } else {
                relay.write(&mut self.gateway.borrow_mut(), flow)
            };
            match result {
                Ok(n) => {
                    moved += n;
                    self.owed_ns += call.bytes(n);
                }
                Err(_) => {
                    self.relays.insert(id, relay);
                    return self.drop_world(flow);
                }
            }
        }
        self.relays.insert(id, relay);
    }

    /// The world has reset a connection.
    fn drop_world(&mut self, flow: FlowId) {
        if let Some(relay) = self.relays.remove(&flow.to_u64()) {
            relay.reset();
            self.gateway.borrow_mut().abort(self.host.clock.now(), flow);
        }
    }

    /// A connection is over on the guest's side.
    fn closed(&mut self, flow: FlowId, how: Closed) {
        self.dials.forget(flow);
        if let Some(relay) = self.relays.remove(&flow.to_u64())
            && how != Closed::Finished
        {
            relay.reset();
        }
    }

    /// Writes to a link for as long as it takes anything. True if connections that waited for room may go on.
    async fn send(&mut self, id: u64) -> bool {
        let mut room = false;
        while self.links.get(&id).is_some_and(|link| link.wants_to_write(&self.gateway.borrow())) {
            self.pay(self.host.costs.link_write.ns).await;
            let Some(link) = self.links.get_mut(&id) else { break };
            let port = link.port;
            let written = link.write(&self.host, &self.gateway.borrow());
            match written {
                Written::Some(n) => {
                    self.owed_ns += self.host.costs.link_write.bytes(n);
                    room |= self.gateway.borrow_mut().consume(port, n);
                }
                Written::Fault => {}
                Written::Nothing | Written::Full => break,
                Written::Over => {
                    if let Some(link) = self.links.remove(&id) {
                        self.unlink(&link);
                        let peer = link.stream().peer().port;
                        self.host.trace.note(self.host.clock.now(), Actor::Gateway, Noted::StreamReset, peer, 0, 0);
                    }
                }
            }
        }
        room
    }
}

/// The refusal of a question to the name server (RFC 1035 section 4.1.1): its header with another response code.
fn refusal(query: &[u8]) -> Option<Vec<u8>> {
    let mut answer = query.get(..12)?.to_vec();
    answer[2] |= 0x80;
    answer[3] = answer[3] & 0xf0 | 5;
    answer[4..12].fill(0);
    Some(answer)
}
