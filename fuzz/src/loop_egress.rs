//! The outbound loop in a world of bytes: what leaves on a stream is what the TAP gave, in order, cut where the machine
//! itself would cut it, with the link's own frames between.

use crate::world::{ASIDE, Carver, Due, Old, Orders, Script, Stream, packet};
use nitrotap_core::{
    drive::{
        Errno, Event, block,
        egress::{Awaited, Loop, Order, World, batch},
    },
    link::{ARP_FRAME, Down, MacAddr},
    offload::VNET_LEN,
    tap::{Egress, EgressCounters},
};
use std::{
    collections::VecDeque,
    rc::{Rc, Weak},
};

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// Reads of the TAP between two looks at the orders.
const READS: usize = 1024;

/// A byte of flags (1: with virtio-net headers, 2: strict, 4: one frame per write, 8: short writes, 16: a small MTU), then
/// what happens.
pub fn loop_egress(data: &[u8]) {
    let Some((flags, script)) = data.split_first() else { return };
    let flag = |bit: u8| flags & bit != 0;
    let (offload, mtu) = (flag(1), if flag(16) { 576 } else { 1500 });
    let machine = |target| {
        let machine = Egress::new(mtu, target);
        if offload { machine.with_offload(flag(2)) } else { machine }
    };
    let max_write = if flag(8) { 100 } else { 32 << 10 };
    let mut outside = Outside {
        script: Script::new(script),
        orders: Orders::new(),
        number: 0,
        stream: None,
        old: Old::default(),
        due: Due::new(),
        reference: machine(0),
        expected: VecDeque::new(),
        carver: Carver::default(),
        injected: 0,
        is_tap_empty: false,
        is_stream_full: false,
        is_over: false,
        published: EgressCounters::default(),
        max_write,
    };
    let target = if flag(4) { 0 } else { batch(mtu) };
    block(Loop::new(&mut outside, machine(target), offload, max_write).run());
    outside.end();
}

/// What has to leave.
#[derive(Debug)]
enum Leaving {
    Frame(Vec<u8>),
    /// A frame of the link's, for which the batch may have had no room.
    Injected(Vec<u8>),
}

struct Outside<'d> {
    script: Script<'d>,
    orders: Orders<Order<Stream>>,
    /// Of the last stream.
    number: u64,
    /// The stream that the loop has been given.
    stream: Option<(Weak<u64>, u64)>,
    old: Old,
    due: Due<Event>,
    /// The machine alone, which is drained after every frame.
    reference: Egress,
    expected: VecDeque<Leaving>,
    carver: Carver,
    /// Frames of the link's so far.
    injected: u32,
    /// The last read of the TAP said so, and the last write of the stream.
    is_tap_empty: bool,
    is_stream_full: bool,
    is_over: bool,
    published: EgressCounters,
    max_write: usize,
}

impl Outside<'_> {
    /// The next byte, after the orders that come before it.
    fn next(&mut self) -> u8 {
        self.due.check();
        assert!(!self.is_over, "something is done after the end");
        loop {
            let byte = self.script.byte();
            if byte < ASIDE {
                return byte;
            }
            self.order(byte);
        }
    }

    fn order(&mut self, byte: u8) {
        let order = match byte % 8 {
            0 | 1 => {
                self.number += 1;
                let gateway = byte.is_multiple_of(8).then_some(GATEWAY);
                Order::Attach { stream: Rc::new(self.number), number: self.number, gateway }
            }
            2 => Order::Detach,
            3 if self.script.byte() == 3 => Order::Stop,
            _ => {
                self.injected += 1;
                let mut frame = [0xee; ARP_FRAME];
                frame[..4].copy_from_slice(&self.injected.to_be_bytes());
                Order::Inject(frame)
            }
        };
        self.orders.leave(order);
    }

    fn detach(&mut self) {
        if let Some((stream, _)) = self.stream.take() {
            self.old.add(&stream);
        }
        self.reference.handle_link_down();
        self.expected.clear();
        self.carver = Carver::default();
    }

    /// A frame of the TAP's, or why there is none.
    fn read(&mut self, header: Option<&mut [u8; VNET_LEN]>, slot: &mut [u8]) -> Result<usize, Errno> {
        let byte = self.next();
        self.orders.call(READS);
        self.is_tap_empty = byte == 0;
        match byte {
            0 => return Err(Errno::AGAIN),
            1 => return Err(Errno::INTR),
            2 if self.script.byte() == 2 => {
                let errno = self.script.failure();
                self.due.owe(Event::TapGone(errno));
                self.is_over = true;
                return Err(errno);
            }
            _ => {}
        }
        let (bytes, frame) = frame(&mut self.script, byte, header.is_some());
        slot[..frame.len()].copy_from_slice(&frame);
        let room = self.reference.slot().expect("it is empty");
        room[..frame.len()].copy_from_slice(&frame);
        if let Some(header) = header {
            *header = bytes;
            self.reference.handle_offloaded(bytes, frame.len());
        } else {
            self.reference.handle_frame(frame.len());
        }
        let mut cut = Carver::default();
        while !self.reference.pending().is_empty() {
            let frames = cut.take(self.reference.pending());
            self.expected.extend(frames.into_iter().map(Leaving::Frame));
            let len = self.reference.pending().len();
            self.reference.consume(len);
        }
        Ok(frame.len())
    }

    /// A whole frame has left.
    fn left(&mut self, frame: &[u8]) {
        loop {
            match self.expected.pop_front() {
                Some(Leaving::Frame(next) | Leaving::Injected(next)) if next == frame => return,
                Some(Leaving::Injected(_)) => {}
                other => panic!("a frame of {} bytes has left, and next was {other:?}", frame.len()),
            }
        }
    }

    /// What the machine counts must be what the reference counts, as far as batches make no difference.
    fn check_counters(&self) {
        let of = |counters: &EgressCounters| {
            [
                counters.dropped_runt,
                counters.dropped_oversize,
                counters.dropped_offload,
                counters.super_frames,
                counters.segmented,
                counters.checksums_finished,
                counters.checksums_left,
            ]
        };
        assert_eq!(of(&self.published), of(self.reference.counters()));
    }

    fn end(mut self) {
        self.due.check();
        self.detach();
        self.old.check();
        assert!(self.is_over, "the loop ended by itself");
    }
}

/// A frame that an enclave's kernel might send, or might not, and its virtio-net header.
fn frame(script: &mut Script<'_>, kind: u8, offload: bool) -> ([u8; VNET_LEN], Vec<u8>) {
    let to = if kind & 0x10 == 0 { GATEWAY.0 } else { [9; 6] };
    let len = script.up_to(1600);
    match kind % 8 {
        // A runt, or the longest slot.
        2 => ([0; VNET_LEN], vec![7; if kind & 0x20 == 0 { len % 14 } else { 65_540 + len % 8 }]),
        3 if offload => {
            let size = 64 + script.up_to(1500) as u16;
            let frame = packet(to, 6, 1, len * 40);
            ([1, 1, 54, 0, size.to_le_bytes()[0], size.to_le_bytes()[1], 34, 0, 16, 0], frame)
        }
        4 if offload => {
            let size = 64 + script.up_to(1500) as u16;
            let frame = packet(to, 17, 1, len * 4);
            ([1, 5, 42, 0, size.to_le_bytes()[0], size.to_le_bytes()[1], 34, 0, 6, 0], frame)
        }
        5 if offload => ([1, 0, 0, 0, 0, 0, 34, 0, 16, 0], packet(to, 6, 1, len)),
        6 if offload => (std::array::from_fn(|_| script.byte()), packet(to, 6, 1, len)),
        _ => ([0; VNET_LEN], [&to[..], &vec![kind; 8 + len]].concat()),
    }
}

impl World for &mut Outside<'_> {
    type Stream = Stream;

    fn read_tap(&mut self, frame: &mut [u8]) -> Result<usize, Errno> {
        self.read(None, frame)
    }

    fn read_tap_offloaded(&mut self, header: &mut [u8; VNET_LEN], frame: &mut [u8]) -> Result<usize, Errno> {
        self.read(Some(header), frame)
    }

    fn write(&mut self, stream: &Stream, bytes: &[u8]) -> Result<usize, Errno> {
        let byte = self.next();
        self.old.check();
        let (current, number) = self.stream.clone().expect("nothing is written without a stream");
        assert_eq!(current.as_ptr(), Rc::as_ptr(stream), "another stream than the last one");
        assert!((1..=self.max_write).contains(&bytes.len()), "a write of {} bytes", bytes.len());
        self.is_stream_full = byte == 1;
        let n = match byte {
            1 => return Err(Errno::AGAIN),
            2 => return Err(Errno::INTR),
            3 if self.script.byte() == 3 => {
                let errno = self.script.failure();
                self.due.owe(Event::StreamLost(number, Down::Io(errno.raw())));
                self.detach();
                return Err(errno);
            }
            4..64 => 1 + self.script.up_to(bytes.len() - 1),
            _ => bytes.len(),
        };
        for frame in self.carver.take(&bytes[..n]) {
            self.left(&frame);
        }
        Ok(n)
    }

    fn take_order(&mut self) -> Option<Order<Stream>> {
        assert!(!self.is_over, "nobody gives orders any more");
        self.due.check();
        let order = self.orders.take()?;
        match &order {
            Order::Attach { stream, number, gateway } => {
                self.detach();
                self.stream = Some((Rc::downgrade(stream), *number));
                self.reference.handle_link_up();
                if let Some(gateway) = gateway {
                    self.reference.handle_gateway(*gateway);
                }
            }
            Order::Detach => self.detach(),
            Order::Inject(frame) if self.stream.is_some() => {
                self.expected.push_back(Leaving::Injected(frame.to_vec()));
            }
            Order::Inject(_) => {}
            Order::Stop => self.is_over = true,
        }
        Some(order)
    }

    fn tell(&mut self, event: Event) {
        self.due.told(&event);
    }

    fn publish(&mut self, counters: &EgressCounters) {
        self.published = *counters;
    }

    async fn wait(&mut self, awaited: Awaited<'_, Stream>) -> Result<(), Errno> {
        assert!(!self.is_over, "a wait after the end");
        self.due.check();
        self.old.check();
        self.orders.wait();
        match awaited {
            Awaited::Frame => {
                assert!(self.is_tap_empty, "the TAP has not been asked");
                self.expected.retain(|leaving| matches!(leaving, Leaving::Frame(_)));
                let rest = (self.expected.len(), self.carver.is_between_frames());
                assert!(self.stream.is_none() || rest == (0, true), "frames wait, and so does the loop: {rest:?}");
                self.check_counters();
            }
            Awaited::Room(stream) => {
                let current = self.stream.as_ref().map(|(stream, _)| stream.as_ptr());
                assert_eq!(current, Some(Rc::as_ptr(stream)), "another stream than the last one");
                assert!(self.is_stream_full, "the stream takes bytes");
            }
        }
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

    async fn elapse(&mut self) {}
}
