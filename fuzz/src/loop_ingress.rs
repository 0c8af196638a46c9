//! The inbound loop in a world of bytes: what the TAP gets is what the machine alone would give it of the same reads, every
//! packet of a read before the next one.

use crate::world::{ASIDE, Due, Old, Orders, Script, Stream, packet};
use nitrotap_core::{
    drive::{
        Errno, Event, block,
        ingress::{Loop, Order, READ_SIZE, World},
    },
    frame::MIN_FRAME,
    link::{Down, MacAddr},
    offload::{Merge, Segmenter, VNET_LEN},
    tap::{Ingress, IngressCounters, Packet},
    time::Instant,
};
use std::{
    collections::VecDeque,
    rc::{Rc, Weak},
    time::Duration,
};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PAUSE: Duration = Duration::from_micros(100);

/// A byte of flags (1: with virtio-net headers, 2: nothing is joined, 4: one frame per read, 8: no pauses), then what
/// happens.
pub fn loop_ingress(data: &[u8]) {
    let Some((flags, script)) = data.split_first() else { return };
    let flag = |bit: u8| flags & bit != 0;
    let (offload, single) = (flag(1), flag(4));
    let merge = Merge { tcp: !flag(2), udp: !flag(2) };
    let machine = || Ingress::new(1500, MacAddr(MAC), READ_SIZE).with_offload(merge);
    let mut outside = Outside {
        script: Script::new(script),
        orders: Orders::new(),
        number: 0,
        stream: None,
        old: Old::default(),
        due: Due::new(),
        reference: machine(),
        offload,
        single,
        feed: VecDeque::new(),
        sequence: 0,
        expected: VecDeque::new(),
        last: Read::None,
        refused: 0,
        clock: 1,
        is_paused: false,
        is_over: false,
        published: IngressCounters::default(),
    };
    let machine = machine().with_moderation(if flag(8) { Duration::ZERO } else { PAUSE });
    block(Loop::new(&mut outside, machine, offload, single).run());
    outside.end();
}

/// How the last read of a stream went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// There was none since the stream is there.
    None,
    /// It gave as much as was asked for, or nothing but for a signal: there may be more.
    More,
    /// It gave less than was asked for, or nothing.
    All,
}

/// What the TAP has to get: a header, zeros without one, the bytes, and how many frames they are.
type Given = ([u8; VNET_LEN], Vec<u8>, u64);

struct Outside<'d> {
    script: Script<'d>,
    orders: Orders<Order<Stream>>,
    /// Of the last stream.
    number: u64,
    /// The stream that the loop has been given.
    stream: Option<(Weak<u64>, u64)>,
    old: Old,
    due: Due<Event>,
    /// The machine alone.
    reference: Ingress,
    offload: bool,
    single: bool,
    /// Bytes that the stream has.
    feed: VecDeque<u8>,
    /// Of the TCP connection in it.
    sequence: u32,
    expected: VecDeque<Given>,
    last: Read,
    /// Frames that the TAP did not take.
    refused: u64,
    clock: u64,
    is_paused: bool,
    is_over: bool,
    published: IngressCounters,
}

impl Outside<'_> {
    /// The next byte, after the orders and the time that come before it.
    fn next(&mut self) -> u8 {
        self.due.check();
        assert!(!self.is_over, "something is done after the end");
        loop {
            let byte = self.script.byte();
            self.clock += 500;
            if byte < ASIDE {
                return byte;
            }
            match byte % 8 {
                0 | 1 => {
                    self.number += 1;
                    let stream = Rc::new(self.number);
                    let received = if byte.is_multiple_of(8) { self.bytes() } else { Vec::new() };
                    self.orders.leave(Order::Attach { stream, number: self.number, received });
                }
                2 => self.orders.leave(Order::Detach),
                3 if self.script.byte() == 3 => self.orders.leave(Order::Stop),
                _ => self.clock += 1000 * self.script.word() as u64,
            }
        }
    }

    /// What a host might send in one go, or might not.
    fn bytes(&mut self) -> Vec<u8> {
        let kind = self.script.byte();
        let len = self.script.up_to(1600);
        let mut bytes = Vec::new();
        let mut put = |frame: &[u8]| {
            bytes.extend((frame.len() as u16).to_le_bytes());
            bytes.extend(frame);
        };
        match kind % 8 {
            // Shorter than a frame, down to nothing.
            1 => put(&vec![7; len % MIN_FRAME]),
            2 => put(&vec![kind; MIN_FRAME + len * 40]),
            // Segments of one connection in a row.
            3 | 4 => {
                let whole = packet(MAC, 6, self.sequence, len * 40);
                self.sequence = self.sequence.wrapping_add(len as u32 * 40);
                cut(&whole, 1460, &mut put);
            }
            5 => cut(&packet(MAC, 17, 1, len * 4), 1000, &mut put),
            // A frame that is cut short, behind which nothing is in step.
            6 => bytes = vec![200, 0, kind, kind],
            7 => bytes = (0..len % 64).map(|_| self.script.byte()).collect(),
            _ => put(&[&MAC[..], &vec![kind; 8 + len]].concat()),
        }
        bytes
    }

    /// Bytes that the loop has taken of a stream at once.
    fn taken(&mut self, bytes: &[u8]) {
        self.reference.space()[..bytes.len()].copy_from_slice(bytes);
        self.reference.handle_read(bytes.len());
        if self.offload {
            while let Some(packet) = self.reference.next_packet() {
                let frames = packet.frames() as u64;
                self.expected.push_back((packet.header, packet.pieces().flatten().copied().collect(), frames));
            }
        } else {
            while let Some(frame) = self.reference.next_frame() {
                self.expected.push_back(([0; VNET_LEN], frame.to_vec(), 1));
            }
        }
    }

    /// True if the stream ended inside a frame.
    fn detach(&mut self) -> bool {
        if let Some((stream, _)) = self.stream.take() {
            self.old.add(&stream);
        }
        self.feed.clear();
        self.last = Read::None;
        self.reference.handle_stream_end().is_err()
    }

    fn lose(&mut self, why: Down) {
        let Some((_, number)) = self.stream else { return };
        let why = if self.detach() { Down::Truncated } else { why };
        self.due.owe(Event::StreamLost(number, why));
    }

    fn give(&mut self, header: [u8; VNET_LEN], bytes: &[u8]) -> Result<(), Errno> {
        let byte = self.next();
        assert!(!self.is_paused, "a pause with packets for the TAP at hand");
        let (expected, frames) = match self.expected.front() {
            Some((header, bytes, frames)) => ((*header, &bytes[..]), *frames),
            None => panic!("a packet of {} bytes that no stream gave", bytes.len()),
        };
        assert!(expected == (header, bytes), "the TAP got another packet of {} bytes than the next", bytes.len());
        match byte {
            1 => return Err(Errno::INTR),
            2..8 => self.refused += frames,
            _ => {}
        }
        self.expected.pop_front();
        if matches!(byte, 2..8) { Err(self.script.failure()) } else { Ok(()) }
    }

    fn is_current(&self, stream: Option<&Stream>) -> bool {
        self.stream.as_ref().map(|(stream, _)| stream.as_ptr()) == stream.map(Rc::as_ptr)
    }

    fn check_done(&self) {
        self.due.check();
        assert!(self.expected.is_empty(), "the TAP has yet to get {} packets", self.expected.len());
    }

    fn end(mut self) {
        self.check_done();
        self.detach();
        self.old.check();
        assert!(self.is_over, "the loop ended by itself");
    }
}

/// Segments with checksums of a packet, in frames.
fn cut(frame: &[u8], size: usize, put: &mut impl FnMut(&[u8])) {
    let (link, ip) = frame.split_at(MIN_FRAME);
    let mut segmenter = Segmenter::new(ip, size).unwrap_or_else(|error| panic!("{error}"));
    while let Some(len) = segmenter.next_len() {
        let mut frame = link.to_vec();
        frame.resize(MIN_FRAME + len, 0);
        segmenter.write_next(&mut frame[MIN_FRAME..]);
        put(&frame);
    }
}

impl World for &mut Outside<'_> {
    type Stream = Stream;

    fn read(&mut self, stream: &Stream, space: &mut [u8]) -> Result<usize, Errno> {
        let byte = self.next();
        self.check_done();
        self.old.check();
        self.orders.call(1);
        assert!(!self.is_paused, "a read in place of a wait");
        assert!(self.is_current(Some(stream)), "another stream than the last one");
        let most = if self.single { 1..=self.reference.missing() } else { READ_SIZE..=usize::MAX };
        assert!(most.contains(&space.len()), "a read of {} bytes", space.len());
        self.last = Read::All;
        match byte {
            0 => return Err(Errno::AGAIN),
            1 => {
                self.last = Read::More;
                return Err(Errno::INTR);
            }
            2 if self.script.byte() == 2 => {
                self.lose(Down::Closed);
                return Ok(0);
            }
            3 if self.script.byte() == 3 => {
                let errno = self.script.failure();
                self.lose(Down::Io(errno.raw()));
                return Err(errno);
            }
            _ => {}
        }
        while self.feed.len() < usize::from(byte) * 700 && !self.script.is_over() {
            let bytes = self.bytes();
            self.feed.extend(bytes);
        }
        let most = space.len().min(self.feed.len());
        let n = if byte.is_multiple_of(4) { most.min(1 + self.script.up_to(200)) } else { most };
        if n == 0 {
            return Err(Errno::AGAIN);
        }
        for (to, from) in space.iter_mut().zip(self.feed.drain(..n)) {
            *to = from;
        }
        if n == space.len() {
            self.last = Read::More;
        }
        self.taken(&space[..n]);
        Ok(n)
    }

    fn write_tap(&mut self, frame: &[u8]) -> Result<(), Errno> {
        assert!(!self.offload, "a frame without a header");
        self.give([0; VNET_LEN], frame)
    }

    fn write_tap_offloaded(&mut self, packet: &Packet<'_>) -> Result<(), Errno> {
        assert!(self.offload, "a header for a TAP without them");
        let bytes: Vec<u8> = packet.pieces().flatten().copied().collect();
        self.give(packet.header, &bytes)
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.clock)
    }

    fn take_order(&mut self) -> Option<Order<Stream>> {
        assert!(!self.is_over, "nobody gives orders any more");
        assert!(!self.is_paused, "a look at the orders in place of a wait");
        self.check_done();
        let order = self.orders.take()?;
        match &order {
            Order::Attach { stream, number, received } => {
                self.detach();
                received.chunks(READ_SIZE).for_each(|chunk| self.taken(chunk));
                self.stream = Some((Rc::downgrade(stream), *number));
            }
            Order::Detach => drop(self.detach()),
            Order::Stop => self.is_over = true,
        }
        Some(order)
    }

    fn tell(&mut self, event: Event) {
        self.due.told(&event);
    }

    fn publish(&mut self, counters: &IngressCounters) {
        self.published = *counters;
    }

    async fn wait(&mut self, stream: Option<&Stream>) -> Result<(), Errno> {
        assert!(!self.is_over, "a wait after the end");
        self.check_done();
        self.old.check();
        self.orders.wait();
        assert!(self.is_current(stream), "another stream than the last one");
        assert!(stream.is_none() || self.last == Read::All, "the stream may have more: {:?}", self.last);
        self.is_paused = false;
        let counters = self.reference.counters();
        let moderated = self.published.moderated;
        // A pause is counted when it begins, and shown with what comes next.
        let shown = IngressCounters { moderated, dropped_tap_write: self.refused, ..counters };
        assert_eq!(self.published, shown);
        if self.script.is_over() && self.orders.is_empty() {
            self.orders.leave(Order::Stop);
        }
        if self.orders.is_empty() && self.next() == 1 && self.script.byte() == 1 {
            let errno = self.script.failure();
            self.due.owe(Event::TapGone(errno));
            self.is_over = true;
            return Err(errno);
        }
        self.orders.waited();
        Ok(())
    }

    async fn pause(&mut self, duration: Duration) {
        self.check_done();
        assert!(self.stream.is_some() && self.last == Read::All && !self.is_paused, "a pause for nothing");
        assert!(duration > Duration::ZERO && duration <= PAUSE, "a pause of {duration:?}");
        self.clock += u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.is_paused = true;
    }

    async fn elapse(&mut self) {
        self.clock += 1000;
    }
}
