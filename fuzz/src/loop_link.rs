//! The link's loop in a world of bytes: one stream at a time, nothing but the request and probes on it before it is proven,
//! and every byte that was read handed on.

use crate::world::{ASIDE, Carver, Old, Script, Stream};
use nitrotap_core::{
    drive::{
        Errno, Event, block, egress, ingress,
        link::{HANDSHAKE_MAX, Loop, News, Notice, World},
    },
    link::{ARP_FRAME, CONNECT_REQUEST, Config, DialFailure, Down, Link, LinkCounters, MacAddr, State, Status},
    tap::MAX_WOKEN,
    time::Instant,
};
use std::{
    cell::Cell,
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    rc::{Rc, Weak},
    time::Duration,
};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 2);
const GATEWAYS: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);

/// What happens.
pub fn loop_link(data: &[u8]) {
    let config = Config::new(MAC, ADDRESS, GATEWAYS, 1);
    let gap = config.gap;
    let mut outside = Outside {
        script: Script::new(data),
        clock: Cell::new(1_000_000_000),
        gap,
        is_dialing: false,
        streams: 0,
        hand: None,
        proven: None,
        egress: None,
        ingress: None,
        number: 0,
        old: Old::default(),
        received: Cell::new(0),
        fired: None,
        stays: None,
        end: None,
        status: None,
    };
    let result = block(Loop::new(&mut outside, Link::new(config), (MAC, ADDRESS.into())).run());
    outside.end(result);
}

/// A stream in its handshake.
struct Hand {
    stream: Weak<u64>,
    begun: Instant,
    written: Vec<u8>,
    read: Vec<u8>,
    carver: Carver,
    feed: VecDeque<u8>,
    /// It has failed, and is to be closed.
    is_broken: bool,
    /// The gateway has answered a probe on it.
    is_proven: bool,
    /// The last read said that there is no more.
    is_empty: bool,
}

struct Outside<'d> {
    script: Script<'d>,
    clock: Cell<u64>,
    gap: Duration,
    is_dialing: bool,
    streams: u64,
    hand: Option<Hand>,
    /// A stream that is no longer in its handshake, and what was read of it.
    proven: Option<(Weak<u64>, Vec<u8>)>,
    /// The numbers of the streams that the frame loops have.
    egress: Option<u64>,
    ingress: Option<u64>,
    /// Of the last stream.
    number: u64,
    old: Old,
    /// Frames that the inbound loop has counted.
    received: Cell<u64>,
    /// The deadline that was over when the last wait ended.
    fired: Option<Instant>,
    /// Whether the frame loops must still have their stream.
    stays: Option<bool>,
    /// What ended it.
    end: Option<Result<(), Errno>>,
    status: Option<Status>,
}

impl Hand {
    /// Whether the request has left, and how many probes.
    fn sent(&self) -> (bool, usize) {
        let behind = self.written.len().saturating_sub(CONNECT_REQUEST.len());
        (self.written.len() >= CONNECT_REQUEST.len(), behind / (2 + ARP_FRAME))
    }

    /// What may be written: the request, then probes.
    fn check(&self) {
        let (request, probes) = self.written.split_at(self.written.len().min(CONNECT_REQUEST.len()));
        assert!(CONNECT_REQUEST.starts_with(request), "a request of another kind");
        for probe in probes.chunks(2 + ARP_FRAME) {
            assert!(prefixed(&arp(1, MAC, ADDRESS, GATEWAYS)).starts_with(probe), "something else than a probe");
        }
    }
}

/// An ARP frame: a broadcast request of 1, or the answer of 2 to us (RFC 826).
fn arp(operation: u8, from: MacAddr, address: Ipv4Addr, about: Ipv4Addr) -> Vec<u8> {
    let (to, target) = if operation == 1 { ([0xff; 6], [0; 6]) } else { (MAC.0, MAC.0) };
    let head = [&to[..], &from.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
    [&head[..], &from.0, &address.octets(), &target, &about.octets()].concat()
}

fn prefixed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u16).to_le_bytes()[..], frame].concat()
}

impl Outside<'_> {
    fn time(&self) -> Instant {
        Instant::from_nanos(self.clock.get())
    }

    /// The next byte, after the time that passes before it.
    fn next(&mut self) -> u8 {
        loop {
            let byte = self.script.byte();
            if byte < ASIDE {
                return byte;
            }
            let time = Duration::from_millis(self.script.up_to(4000) as u64);
            self.clock.set((self.time() + time).as_nanos());
        }
    }

    fn is_attached(&self) -> bool {
        self.egress.is_some()
    }

    fn hand(&mut self, stream: &Stream) -> &mut Hand {
        let hand = self.hand.as_mut().expect("a stream in its handshake");
        assert_eq!(hand.stream.as_ptr(), Rc::as_ptr(stream), "another stream than the last one");
        assert!(!hand.is_broken, "a stream that has failed is used");
        hand
    }

    /// What the host sends next.
    fn feed(&mut self, kind: u8) -> Vec<u8> {
        let len = self.script.up_to(1600);
        match kind % 8 {
            0..4 => prefixed(&arp(2, GATEWAY, GATEWAYS, ADDRESS)),
            4 => prefixed(&arp(2, GATEWAY, ADDRESS, GATEWAYS)),
            5 => vec![0xff; len * 40],
            6 => prefixed(&arp(2, GATEWAY, GATEWAYS, ADDRESS))[..len % 44].to_vec(),
            _ => prefixed(&vec![kind; len]),
        }
    }

    /// A stream that failed, or sent too much, must have been let go by now; any other may have been.
    fn close(&mut self) {
        let over = |hand: &Hand| hand.is_broken || hand.read.len() > HANDSHAKE_MAX;
        if let Some(hand) = self.hand.take_if(|hand| over(hand) || hand.stream.strong_count() == 0) {
            self.old.add(&hand.stream);
        }
        self.old.check();
    }

    /// Between two turns.
    fn settle(&mut self) {
        self.close();
        assert!(self.hand.as_ref().is_none_or(|hand| !hand.is_proven), "a proven stream that nobody was given");
        assert!(self.proven.is_none(), "a stream was shared and given to nobody");
        assert_eq!(self.egress, self.ingress, "only one frame loop has the stream");
        let up = self.status.is_some_and(|status| status.state == State::Up);
        assert_eq!(up, self.is_attached(), "what is shown is not what is");
        if let Some(attached) = self.stays.take() {
            assert_eq!(self.is_attached(), attached, "after a word about a lost stream");
        }
        let busy = [self.is_dialing, self.hand.is_some(), self.is_attached()];
        assert!(busy.iter().filter(|busy| **busy).count() <= 1, "more than one connection at a time: {busy:?}");
    }

    fn end(mut self, result: Result<(), Errno>) {
        self.settle();
        assert_eq!(Some(result), self.end, "the loop ended otherwise than it was told");
        let left = (self.is_dialing, self.hand.is_some(), self.is_attached());
        assert_eq!(left, (false, false, false), "something of the link is left");
    }
}

impl World for &mut Outside<'_> {
    type Stream = Stream;
    type Shared = Stream;

    fn now(&self) -> Instant {
        self.time()
    }

    fn dial(&mut self) {
        self.close();
        assert!(!self.is_dialing && self.hand.is_none() && !self.is_attached(), "a dial beside a connection");
        self.is_dialing = true;
    }

    fn forget_dial(&mut self) {
        assert!(self.is_dialing, "no dial is under way");
        self.is_dialing = false;
    }

    fn read(&mut self, stream: &Stream, space: &mut [u8]) -> Result<usize, Errno> {
        let byte = self.next();
        if self.hand(stream).feed.is_empty() && byte > 15 {
            let bytes = self.feed(byte);
            self.hand(stream).feed.extend(bytes);
        }
        let few = if byte % 2 == 1 { 1 + self.script.up_to(100) } else { usize::MAX };
        let failure = self.script.failure();
        let end = byte == 2 && self.script.byte() == 2;
        let hand = self.hand(stream);
        assert!(!hand.is_proven, "what comes behind the answer is the inbound loop's");
        assert!(!space.is_empty(), "a read of nothing");
        hand.is_empty = false;
        match byte {
            1 => return Err(Errno::INTR),
            2 if end => {
                hand.is_broken = true;
                return Ok(0);
            }
            3 => {
                hand.is_broken = true;
                return Err(failure);
            }
            _ => {}
        }
        let n = few.min(hand.feed.len()).min(space.len());
        if n == 0 {
            hand.is_empty = true;
            return Err(Errno::AGAIN);
        }
        for (to, from) in space.iter_mut().zip(hand.feed.drain(..n)) {
            *to = from;
        }
        hand.read.extend_from_slice(&space[..n]);
        let answer = arp(2, GATEWAY, GATEWAYS, ADDRESS);
        // Whatever address it is said to be for.
        let is_answer = |frame: &Vec<u8>| frame.len() >= ARP_FRAME && frame[12..38] == answer[12..38];
        let answered = hand.carver.take(&space[..n]).iter().any(is_answer);
        // A probe of which only a part has left breaks the stream.
        hand.is_proven = answered && hand.sent().1 > 0;
        Ok(n)
    }

    fn write(&mut self, stream: &Stream, bytes: &[u8]) -> Result<usize, Errno> {
        let byte = self.next();
        let (gap, now, failure, part) = (self.gap, self.time(), self.script.failure(), self.script.byte());
        let hand = self.hand(stream);
        assert!(!hand.is_proven && !bytes.is_empty(), "a write of {} bytes", bytes.len());
        if hand.written.len() == CONNECT_REQUEST.len() {
            assert!(now.since(hand.begun) >= gap, "the probe comes too early for a stock gvproxy");
        }
        let n = match byte {
            1 => return Err(Errno::INTR),
            2 | 3 => {
                hand.is_broken = true;
                return if byte == 2 { Err(failure) } else { Err(Errno::AGAIN) };
            }
            4 => {
                hand.is_broken = true;
                return Ok(0);
            }
            5..32 => 1 + usize::from(part) % bytes.len(),
            _ => bytes.len(),
        };
        hand.written.extend_from_slice(&bytes[..n]);
        hand.check();
        Ok(n)
    }

    fn share(&mut self, stream: Stream) -> Stream {
        assert!(self.hand(&stream).is_proven, "a stream that nobody has answered on");
        let hand = self.hand.take().expect("there was one");
        assert_eq!(Rc::strong_count(&stream), 1);
        self.proven = Some((hand.stream, hand.read));
        stream
    }

    fn order_egress(&mut self, order: egress::Order<Stream>) {
        match order {
            egress::Order::Attach { stream, number, gateway } => {
                let (proven, _) = self.proven.as_ref().expect("a proven stream");
                assert_eq!(proven.as_ptr(), Rc::as_ptr(&stream));
                assert!(number > self.number && self.egress.is_none(), "stream {number} after {}", self.number);
                assert_eq!(gateway, Some(GATEWAY));
                self.number = number;
                self.egress = Some(number);
            }
            egress::Order::Detach => assert!(self.egress.take().is_some(), "there is nothing to let go"),
            egress::Order::Inject(frame) => {
                assert!(self.is_attached(), "a probe without a stream");
                assert_eq!(frame[..], arp(1, MAC, ADDRESS, GATEWAYS));
            }
            egress::Order::Stop => panic!("who starts a loop stops it"),
        }
    }

    fn order_ingress(&mut self, order: ingress::Order<Stream>) {
        match order {
            ingress::Order::Attach { stream, number, received } => {
                let (proven, read) = self.proven.take().expect("a proven stream");
                assert_eq!(proven.as_ptr(), Rc::as_ptr(&stream));
                assert!(Some(number) == self.egress && self.ingress.is_none(), "first the outbound loop");
                self.ingress = Some(number);
                let woken = received.strip_suffix(&read[..]).expect("every byte that was read");
                let mut carver = Carver::default();
                let woken = carver.take(woken);
                assert!(carver.is_between_frames() && woken.len() <= MAX_WOKEN);
                assert!(woken.iter().all(|frame| frame.starts_with(&[MAC.0, GATEWAY.0].concat())));
            }
            ingress::Order::Detach => assert!(self.ingress.take().is_some(), "there is nothing to let go"),
            ingress::Order::Stop => panic!("who starts a loop stops it"),
        }
    }

    fn received_for_us(&self) -> u64 {
        self.received.get()
    }

    fn open_connections(&mut self) -> Vec<(SocketAddr, SocketAddr)> {
        let ours = [(ADDRESS, 40_000).into(), ([10, 0, 0, 1], 1).into(), "[fd00::2]:5".parse().expect("an address")];
        let peer = |ours: SocketAddr| match ours {
            SocketAddr::V4(_) => ([203, 0, 113, 9], 443).into(),
            SocketAddr::V6(_) => "[2001:db8::9]:80".parse().expect("an address"),
        };
        let count = self.script.up_to(ours.len());
        ours[..count].iter().map(|ours| (*ours, peer(*ours))).collect()
    }

    fn publish(&mut self, counters: &LinkCounters, status: Status) {
        assert_eq!((status.counters, counters.up == 1), (*counters, status.state == State::Up));
        self.status = Some(status);
    }

    fn tell(&mut self, notice: Notice) {
        match notice {
            Notice::Up { woken, .. } => assert!(self.is_attached() && woken <= 2),
            Notice::Failed { attempt, retry_in, loud, .. } => {
                assert!(attempt > 0 && retry_in <= Duration::from_secs(1));
                assert_eq!(loud, attempt == 1 || attempt.is_multiple_of(60));
            }
        }
    }

    async fn wait(&mut self, stream: Option<&mut Stream>, deadline: Option<Instant>) -> News<Stream> {
        assert!(self.end.is_none(), "a wait after the end");
        self.settle();
        let held = self.hand.as_ref().map(|hand| hand.stream.as_ptr());
        assert_eq!(held, stream.map(|stream| Rc::as_ptr(stream)), "another stream than the last one");
        let deadline = deadline.expect("there is always something to do");
        assert!(self.fired.take().is_none_or(|fired| deadline > fired), "the same deadline again");
        assert!(self.hand.as_ref().is_none_or(|hand| hand.is_empty), "readiness is told once, and not all was read");
        if self.script.is_over() {
            self.end = Some(Ok(()));
            return News::Stop;
        }
        let byte = self.next();
        match byte {
            1..40 if self.is_dialing => {
                self.is_dialing = false;
                if byte < 4 {
                    return News::Dialed(Err([DialFailure::Refused, DialFailure::TimedOut][usize::from(byte % 2)]));
                }
                self.streams += 1;
                let stream = Rc::new(self.streams);
                self.hand = Some(Hand {
                    stream: Rc::downgrade(&stream),
                    begun: self.time(),
                    written: Vec::new(),
                    read: Vec::new(),
                    carver: Carver::default(),
                    feed: VecDeque::new(),
                    is_broken: false,
                    is_proven: false,
                    is_empty: true,
                });
                News::Dialed(Ok(stream))
            }
            1..80 if self.hand.is_some() => {
                self.hand.iter_mut().for_each(|hand| hand.is_empty = false);
                News::Readable
            }
            80..90 => {
                // Every other one is late.
                let number = self.number.saturating_sub(u64::from(byte % 2));
                self.stays = self.egress.map(|current| current != number);
                News::Event(Event::StreamLost(number, Down::Closed))
            }
            90 => {
                let errno = self.script.failure();
                self.end = Some(Err(errno));
                News::Event(Event::TapGone(errno))
            }
            91 => {
                self.end = Some(Ok(()));
                News::Stop
            }
            _ => {
                self.received.set(self.received.get() + u64::from(byte % 2));
                let now = self.time().max(deadline);
                self.clock.set(now.as_nanos());
                self.fired = Some(now);
                News::Timer
            }
        }
    }
}
