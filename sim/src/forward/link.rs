//! nitrotap's enclave side: the shipped link, egress and ingress, driven in virtual time as the daemon drives them.

use super::{Enclave, egress, ingress};
use crate::{
    cpu::Process,
    group::Group,
    ledger::Way,
    mailbox::Orders,
    stream::{Connect, SimStream},
    time::SkewedClock,
    trace::{Actor, Event},
};
use nitrotap_core::{
    frame::{Decoder, PREFIX_LEN, frame_limit},
    link::{Config, DialFailure, Down, Link, LinkCounters, Output, State},
    tap::{Egress, EgressCounters, Ingress, IngressCounters},
    time::Instant,
};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    rc::Rc,
};
use tokio::sync::Notify;

/// A running nitrotap, as seen from outside.
#[derive(Clone)]
pub(crate) struct Port(Rc<Seen>);

#[derive(Default)]
struct Seen {
    link: Cell<LinkCounters>,
    egress: Rc<Cell<EgressCounters>>,
    ingress: Rc<Cell<IngressCounters>>,
    state: Cell<Option<State>>,
    stream: RefCell<Option<SimStream>>,
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
        self.0.stream.borrow().clone()
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

/// Bytes of a batch, as the daemon has it.
const BATCH: usize = 32 << 10;

/// Handshake bytes that no gvproxy would send, as the daemon has it.
const HANDSHAKE_MAX: usize = 256 << 10;

impl Nitrotap {
    /// Starts its threads and its link in `group`.
    pub(crate) fn start(self, group: &Group) -> Port {
        let seen = Rc::new(Seen::default());
        let (egress_orders, ingress_orders) = (Orders::default(), Orders::default());
        let events = Rc::new(Events::default());
        let inbox = events.clone();
        let lost: Rc<dyn Fn(u64, Down)> = Rc::new(move |number, why| inbox.push(number, why));
        let [out, inn] = self.threads;
        let mtu = self.enclave.mtu;
        let outbound = egress::Worker {
            enclave: self.enclave.clone(),
            machine: Egress::new(mtu, BATCH - PREFIX_LEN - frame_limit(mtu).min(BATCH / 2)),
            process: out,
            orders: egress_orders.clone(),
            lost: lost.clone(),
            counters: seen.egress.clone(),
            stream: None,
        };
        let inbound = ingress::Worker {
            enclave: self.enclave.clone(),
            machine: Ingress::new(mtu, self.config.mac, ingress::READ_SIZE),
            process: inn,
            orders: ingress_orders.clone(),
            lost,
            counters: seen.ingress.clone(),
            stream: None,
        };
        let driver = Driver {
            link: Link::new(self.config),
            enclave: self.enclave,
            clock: self.clock,
            egress: egress_orders,
            ingress: ingress_orders,
            events,
            seen: seen.clone(),
            conn: Conn::None,
            number: 0,
        };
        group.spawn(outbound.run());
        group.spawn(inbound.run());
        group.spawn(driver.run());
        Port(seen)
    }
}

struct Driver {
    link: Link,
    enclave: Enclave,
    clock: SkewedClock,
    egress: Orders<egress::Order>,
    ingress: Orders<ingress::Order>,
    events: Rc<Events>,
    seen: Rc<Seen>,
    conn: Conn,
    number: u64,
}

enum Conn {
    None,
    Dialing(Connect),
    Handshake {
        stream: SimStream,
        decoder: Box<Decoder>,
        received: Vec<u8>,
    },
    /// The frame threads have it.
    Attached,
}

enum Turn {
    Timer,
    Lost(u64, Down),
    Dialed(io::Result<SimStream>),
    Readable,
}

impl Driver {
    async fn run(mut self) {
        self.link.start(self.clock.now());
        loop {
            self.drain();
            let timer = self.link.poll_timeout().map(|(at, _)| at);
            let turn = tokio::select! {
                biased;
                (number, why) = self.events.next() => Turn::Lost(number, why),
                turn = self.conn.turn() => turn,
                () = sleep(&self.clock, timer) => Turn::Timer,
            };
            let now = self.clock.now();
            match turn {
                Turn::Timer => {
                    self.link.handle_received(now, self.seen.ingress.get().for_us);
                    self.link.handle_timeout(now);
                }
                Turn::Lost(number, why) => {
                    if number == self.number && matches!(self.conn, Conn::Attached) {
                        self.link.handle_closed(now, why);
                    }
                }
                Turn::Dialed(result) => self.dialed(now, result),
                Turn::Readable => self.readable(now),
            }
        }
    }

    fn dialed(&mut self, now: Instant, result: io::Result<SimStream>) {
        match result {
            Ok(stream) => {
                *self.seen.stream.borrow_mut() = Some(stream.clone());
                self.conn = Conn::Handshake { stream, decoder: Box::new(Decoder::new(4096)), received: Vec::new() };
                self.link.handle_dialed(now);
            }
            Err(_) => {
                self.conn = Conn::None;
                self.link.handle_dial_failed(now, DialFailure::Refused);
            }
        }
    }

    fn readable(&mut self, now: Instant) {
        let Conn::Handshake { stream, decoder, received } = &mut self.conn else { return };
        while self.link.state() != State::Up {
            let space = decoder.space();
            let n = match stream.try_recv(space) {
                Ok(0) => return self.link.handle_closed(now, Down::Closed),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.link.handle_closed(now, Down::Io(104)),
            };
            received.extend_from_slice(&space[..n]);
            decoder.commit(n);
            while let Some(frame) = decoder.next_frame() {
                self.link.handle_frame(now, frame);
            }
            if received.len() > HANDSHAKE_MAX {
                return self.link.handle_closed(now, Down::Flood);
            }
        }
        self.link.handle_received(now, self.seen.ingress.get().for_us);
    }

    fn drain(&mut self) {
        while let Some(output) = self.link.poll_output() {
            match output {
                Output::Dial => self.conn = Conn::Dialing(self.enclave.net.connect(self.enclave.host)),
                Output::Write(bytes) => self.write(bytes),
                Output::Probe(frame) => match &self.conn {
                    Conn::Attached => self.egress.send(egress::Order::Inject(frame)),
                    Conn::None | Conn::Dialing(_) | Conn::Handshake { .. } => self.probe(&frame),
                },
                Output::Up => self.attach(),
                Output::Close => self.close(),
                Output::Failed { .. } => {}
            }
        }
        self.seen.link.set(*self.link.counters());
        let state = self.link.state();
        if self.seen.state.replace(Some(state)) != Some(state) {
            let now = self.enclave.clock.now();
            self.enclave.trace.note(now, Actor::Forwarder, Event::LinkState, 0, state as u64, 0);
        }
    }

    fn probe(&mut self, frame: &[u8]) {
        let Conn::Handshake { stream, .. } = &self.conn else { return };
        self.enclave.ledger.sent(stream.local(), Way::Out, frame);
        let prefixed = [&(frame.len() as u16).to_le_bytes()[..], frame].concat();
        self.write(&prefixed);
    }

    /// Handshake bytes are fewer than a fresh stream's credit. A stream that takes them in pieces only seems to be full.
    fn write(&mut self, mut bytes: &[u8]) {
        let Conn::Handshake { stream, .. } = &self.conn else { return };
        while !bytes.is_empty() {
            match stream.try_send(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(_) => return self.link.handle_closed(self.clock.now(), Down::Io(32)),
            }
        }
    }

    fn attach(&mut self) {
        let Conn::Handshake { stream, received, .. } = std::mem::replace(&mut self.conn, Conn::None) else { return };
        self.number += 1;
        self.ingress.send(ingress::Order::Attach(stream.clone(), self.number, received));
        self.egress.send(egress::Order::Attach(stream, self.number));
        self.conn = Conn::Attached;
    }

    fn close(&mut self) {
        if let Conn::Attached = self.conn {
            self.egress.send(egress::Order::Detach);
            self.ingress.send(ingress::Order::Detach);
        }
        if let Some(stream) = self.seen.stream.borrow_mut().take() {
            self.enclave.ledger.close(stream.local(), Way::In);
        }
        self.conn = Conn::None;
    }
}

impl Conn {
    /// What the connection has to say; never resolves when there is nothing to wait for. Cancelling loses nothing.
    async fn turn(&mut self) -> Turn {
        match self {
            Self::Dialing(dial) => Turn::Dialed(dial.await),
            Self::Handshake { stream, .. } => {
                std::future::poll_fn(|cx| stream.poll_readable(cx)).await;
                Turn::Readable
            }
            Self::None | Self::Attached => std::future::pending().await,
        }
    }
}

async fn sleep(clock: &SkewedClock, at: Option<Instant>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Words of the frame threads to the link's task.
#[derive(Debug, Default)]
struct Events(RefCell<VecDeque<(u64, Down)>>, Notify);

impl Events {
    fn push(&self, number: u64, why: Down) {
        self.0.borrow_mut().push_back((number, why));
        self.1.notify_one();
    }

    async fn next(&self) -> (u64, Down) {
        loop {
            let next = self.0.borrow_mut().pop_front();
            match next {
                Some(event) => return event,
                None => self.1.notified().await,
            }
        }
    }
}
