//! nitrotap's enclave side as it ships, in virtual time: the three loops of core, and the link's world.

use super::{
    Enclave, egress,
    events::Events,
    ingress,
    stream::{FrameStream, SeenStream},
};
use crate::{
    check::Invariant,
    cpu::Process,
    group::Group,
    mailbox::Orders,
    rng,
    stream::{Connect, SimStream},
    time::{Instant, SkewedClock},
    trace,
    trace::Actor,
};
use nitrotap_core::{
    drive::{
        self, Errno,
        link::{News, Notice, World},
    },
    link::{Config, DialFailure, Down, Failure, Link, LinkCounters, State, Status},
    offload::Merge,
    tap::{Egress, EgressCounters, Ingress, IngressCounters},
};
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    net::SocketAddr,
    rc::Rc,
};

/// A running nitrotap, as seen from outside.
#[derive(Clone)]
pub(crate) struct Port(Rc<Seen>);

#[derive(Default)]
struct Seen {
    link: Cell<LinkCounters>,
    egress: Rc<Cell<EgressCounters>>,
    ingress: Rc<Cell<IngressCounters>>,
    state: Cell<Option<State>>,
    stream: RefCell<SeenStream>,
}

impl Port {
    pub(crate) fn link(&self) -> LinkCounters {
        self.0.link.get()
    }

    pub(crate) fn egress(&self) -> EgressCounters {
        self.0.egress.get()
    }

    pub(crate) fn ingress(&self) -> IngressCounters {
        self.0.ingress.get()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.0.state.get() == Some(State::Up)
    }

    /// The stream of the link while it has one.
    pub(crate) fn stream(&self) -> Option<SimStream> {
        self.0.stream.borrow().stream()
    }
}

/// What nitrotap is started with.
pub(crate) struct Nitrotap {
    pub(crate) enclave: Enclave,
    pub(crate) clock: SkewedClock,
    pub(crate) config: Config,
    /// One process per frame thread: the daemon's two, and its runtime's thread for the link.
    pub(crate) threads: [Process; 2],
}

impl Nitrotap {
    /// Starts its threads and its link in `group`.
    pub(crate) fn start(self, group: &Group) -> Port {
        let Self { enclave, clock, config, threads: [out, inn] } = self;
        let seen = Rc::new(Seen::default());
        let (egress_orders, ingress_orders) = (Orders::default(), Orders::default());
        let stalls = enclave.stalls.map(|seed| rng::stream(seed, "stalls"));
        let events = Rc::new(Events::new(enclave.clock, stalls));
        let mtu = enclave.mtu;
        let tap = (config.mac, config.address.into());

        let headers = enclave.tap.has_headers();
        let mut machine = Egress::new(mtu, drive::egress::batch(mtu));
        if headers {
            machine = machine.with_offload(false);
        }
        let outside =
            egress::Outside::new(enclave.clone(), out, egress_orders.clone(), events.clone(), seen.egress.clone());
        group.spawn(drive::egress::Loop::new(outside, machine, headers, drive::VSOCK_WRITE_MAX).run());

        let mut machine =
            Ingress::new(mtu, config.mac, drive::ingress::READ_SIZE).with_moderation(drive::ingress::RX_PAUSE);
        if headers {
            machine = machine.with_offload(Merge { tcp: true, udp: true });
        }
        let outside =
            ingress::Outside::new(enclave.clone(), inn, ingress_orders.clone(), events.clone(), seen.ingress.clone());
        group.spawn(drive::ingress::Loop::new(outside, machine, headers, false).run());

        let outside = Outside {
            enclave,
            clock,
            egress: egress_orders,
            ingress: ingress_orders,
            events,
            seen: seen.clone(),
            dial: None,
        };
        let link = drive::link::Loop::new(outside, Link::new(config), tap);
        group.spawn(async move {
            // It ends with the TAP, and modelled ones stay.
            let _ = link.run().await;
        });
        Port(seen)
    }
}

/// What the link's loop reaches.
struct Outside {
    enclave: Enclave,
    clock: SkewedClock,
    egress: Orders<drive::egress::Order<FrameStream>>,
    ingress: Orders<drive::ingress::Order<FrameStream>>,
    events: Rc<Events>,
    seen: Rc<Seen>,
    dial: Option<Connect>,
}

impl World for Outside {
    type Stream = FrameStream;
    type Shared = FrameStream;

    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn dial(&mut self) {
        self.dial = Some(self.enclave.net.connect(self.enclave.host));
    }

    fn forget_dial(&mut self) {
        self.dial = None;
    }

    fn read(&mut self, stream: &FrameStream, space: &mut [u8]) -> Result<usize, Errno> {
        stream.read(space)
    }

    fn write(&mut self, stream: &FrameStream, bytes: &[u8]) -> Result<usize, Errno> {
        stream.write(bytes)
    }

    fn share(&mut self, stream: FrameStream) -> FrameStream {
        stream
    }

    fn order_egress(&mut self, order: drive::egress::Order<FrameStream>) {
        self.egress.send(order);
    }

    fn order_ingress(&mut self, order: drive::ingress::Order<FrameStream>) {
        self.ingress.send(order);
    }

    fn received_for_us(&self) -> u64 {
        self.seen.ingress.get().for_us
    }

    fn open_connections(&mut self) -> Vec<(SocketAddr, SocketAddr)> {
        self.enclave.kernel.open_connections()
    }

    fn publish(&mut self, counters: &LinkCounters, status: Status) {
        self.seen.link.set(*counters);
        let state = status.state;
        if self.seen.state.replace(Some(state)) != Some(state) {
            let now = self.enclave.clock.now();
            self.enclave.trace.note(now, Actor::Forwarder, trace::Event::LinkState, 0, state as u64, 0);
        }
    }

    fn tell(&mut self, notice: Notice) {
        let Notice::Failed { failure: Failure::Lost(why @ (Down::Closed | Down::Truncated | Down::Io(_))), .. } =
            notice
        else {
            return;
        };
        if self.seen.stream.borrow().is_over() == Some(false) {
            let detail = format!("the link is given up ({why}), and its stream is as good as new");
            self.enclave.audit.fail(self.enclave.clock.now(), Invariant::Ends, detail);
        }
    }

    async fn wait(&mut self, stream: Option<&mut FrameStream>, deadline: Option<Instant>) -> News<FrameStream> {
        let result = tokio::select! {
            biased;
            event = self.events.next() => return News::Event(event),
            result = dialed(&mut self.dial) => result,
            () = readable(stream) => return News::Readable,
            () = sleep(&self.clock, deadline) => return News::Timer,
        };
        let Ok(stream) = result else { return News::Dialed(Err(DialFailure::Refused)) };
        let stream = FrameStream::new(stream, self.enclave.clock, self.enclave.ledger.clone());
        *self.seen.stream.borrow_mut() = stream.seen();
        News::Dialed(Ok(stream))
    }
}

/// What came of a dial; never resolves without one. Cancelling loses nothing.
async fn dialed(dial: &mut Option<Connect>) -> io::Result<SimStream> {
    match dial {
        Some(pending) => {
            let result = pending.await;
            *dial = None;
            result
        }
        None => std::future::pending().await,
    }
}

/// Resolves when the stream has something to say; never without one.
async fn readable(stream: Option<&mut FrameStream>) {
    match stream {
        Some(stream) => poll_fn(|cx| stream.poll_readable(cx)).await,
        None => std::future::pending().await,
    }
}

async fn sleep(clock: &SkewedClock, at: Option<Instant>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}
