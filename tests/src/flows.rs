//! Thousands of TCP connections through a gateway, made by hand in one thread, and what they cost it.
//!
//! [`Flows`] holds one end of each, a few numbers per connection; the other end is an echo server on the loopback of this
//! machine ([`echo`]). One request is under way per connection, so no window and no congestion control matters; what is not
//! answered within a second is sent again.

pub mod echo;
pub mod measure;

use crate::{
    frameclient::{AGAIN, Flags, FrameClient, HOST, Options, Segment, Station},
    gateway::Gateway,
    guest::payload::Payload,
    wait,
};
use std::{net::SocketAddrV4, time::Duration, time::Instant};

/// Source ports from here on.
const FIRST_PORT: u16 = 5000;

/// The most connections there can be: one port each.
pub const MAX: usize = 60_000;

/// How long nothing at all may happen.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    New,
    /// The SYN is sent.
    Opening,
    Open,
    /// A request is sent, and this many bytes of its echo are missing.
    Waiting(usize),
    /// Refused or reset.
    Dead,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    state: State,
    /// Our next sequence number, and the peer's.
    seq: u32,
    ack: u32,
}

/// Connections to one destination.
#[derive(Debug)]
pub struct Flows {
    client: FrameClient,
    to: SocketAddrV4,
    flows: Vec<Flow>,
    /// Requests and SYNs under way, by index, with the time to repeat them.
    under_way: Vec<(usize, Instant)>,
    request: Vec<u8>,
    repeated: u64,
}

impl Flows {
    /// None are open at first; `port` is that of an echo server on the loopback, and requests are of `size` bytes.
    pub fn new(gateway: &Gateway, port: u16, size: usize) -> Self {
        Self {
            client: FrameClient::connect(gateway, Station::number(2)),
            to: SocketAddrV4::new(HOST, port),
            flows: Vec::new(),
            under_way: Vec::new(),
            request: Payload::bytes(1, size),
            repeated: 0,
        }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.flows.iter().filter(|flow| matches!(flow.state, State::Open | State::Waiting(_))).count()
    }

    /// How many SYNs and requests had to be sent again.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Opens connections until `total` were, at most `at_once` at a time. Gives how many are open.
    pub fn open_up_to(&mut self, total: usize, at_once: usize) -> usize {
        assert!(total <= MAX, "there are only {MAX} ports");
        let mut moved = wait::now();
        loop {
            while self.flows.len() < total && self.under_way.len() < at_once {
                self.flows.push(Flow { seq: 1, ..Flow::default() });
                self.start(self.flows.len() - 1);
            }
            if self.under_way.is_empty() {
                return self.open();
            }
            self.turn(&mut moved);
        }
    }

    /// Sends `count` requests, one after the other over the first `among` open connections, at most `at_once` at a time,
    /// and waits for their echoes.
    pub fn exchange(&mut self, count: u64, at_once: usize, among: usize) {
        let mut open: Vec<usize> = (0..self.flows.len()).filter(|i| self.flows[*i].state == State::Open).collect();
        open.truncate(among);
        let at_once = at_once.min(open.len());
        let mut next = open.iter().cycle();
        let mut left = count;
        let mut moved = wait::now();
        while left > 0 || !self.under_way.is_empty() {
            while left > 0 && self.under_way.len() < at_once {
                let index = *next.next().expect("at least one is open");
                if self.flows[index].state != State::Open {
                    break;
                }
                self.start(index);
                left -= 1;
            }
            self.turn(&mut moved);
        }
    }

    /// Sends the SYN or the request of a connection.
    fn start(&mut self, index: usize) {
        self.flows[index].state = match self.flows[index].state {
            State::New => State::Opening,
            State::Opening | State::Open | State::Waiting(_) | State::Dead => State::Waiting(self.request.len()),
        };
        self.send(index);
        self.under_way.push((index, wait::now() + AGAIN));
    }

    /// Sends, or repeats, what a connection waits for an answer to.
    fn send(&mut self, index: usize) {
        let flow = self.flows[index];
        let segment = match flow.state {
            State::Opening => Segment { flags: Flags::SYN, options: Options::LINUX, ack: 0, ..self.blank(index) },
            State::Waiting(_) => {
                Segment { flags: Flags::ACK | Flags::PSH, payload: self.request.clone(), ..self.blank(index) }
            }
            State::New | State::Open | State::Dead => Segment { flags: Flags::ACK, ..self.blank(index) },
        };
        let frame = self.client.station().tcp(*self.to.ip(), &segment);
        self.client.queue(&frame);
    }

    fn blank(&self, index: usize) -> Segment {
        let flow = self.flows[index];
        let from = FIRST_PORT + u16::try_from(index).expect("below MAX");
        Segment { from, to: self.to.port(), seq: flow.seq, ack: flow.ack, window: 512, ..Segment::default() }
    }

    fn turn(&mut self, moved: &mut Instant) {
        if self.client.turn(AGAIN) {
            *moved = wait::now();
        }
        assert!(!self.client.is_closed(), "the gateway has closed the stream");
        assert!(moved.elapsed() < PATIENCE, "nothing moves, with {} answers missing", self.under_way.len());
        while let Some(segment) = self.client.find(Duration::ZERO, |packet| Some(packet.as_tcp()?.1.clone())) {
            self.take(&segment);
        }
        self.client.clear_inbox();
        let now = wait::now();
        for i in 0..self.under_way.len() {
            if self.under_way[i].1 <= now {
                self.repeated += 1;
                self.under_way[i].1 = now + AGAIN;
                self.send(self.under_way[i].0);
            }
        }
    }

    fn take(&mut self, segment: &Segment) {
        let index = usize::from(segment.to.wrapping_sub(FIRST_PORT));
        let request = self.request.len();
        let Some(flow) = self.flows.get_mut(index) else { return };
        if segment.flags.has(Flags::RST) || segment.flags.has(Flags::FIN) {
            flow.state = State::Dead;
        }
        match flow.state {
            State::Opening if segment.flags.has(Flags::SYN | Flags::ACK) => {
                flow.state = State::Open;
                flow.seq = segment.ack;
                flow.ack = segment.seq.wrapping_add(1);
                self.send(index);
            }
            State::Waiting(missing) if segment.seq == flow.ack && !segment.payload.is_empty() => {
                let came = segment.payload.len().min(missing);
                flow.ack = flow.ack.wrapping_add(u32::try_from(came).expect("within one frame"));
                flow.state = State::Waiting(missing - came);
                if came == missing {
                    // The next request acknowledges it, or the end of the exchange.
                    flow.seq = flow.seq.wrapping_add(u32::try_from(request).expect("within one frame"));
                    flow.state = State::Open;
                    self.send(index);
                }
            }
            State::New | State::Opening | State::Open | State::Waiting(_) | State::Dead => {}
        }
        let done = matches!(self.flows[index].state, State::Open | State::Dead);
        if done && let Some(at) = self.under_way.iter().position(|(under_way, _)| *under_way == index) {
            self.under_way.swap_remove(at);
        }
    }
}
