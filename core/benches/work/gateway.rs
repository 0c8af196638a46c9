//! The gateway's packet path: a guest whose frames are made by hand on one side, a world that takes and gives on the other.

use super::pattern;
use nitrotap_core::{
    frame::Framing,
    gateway::{Config, FlowId, Gateway, Handled, Output, PortId},
    time::Instant,
};

const GATEWAY_MAC: [u8; 6] = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd];
const GUEST_MAC: [u8; 6] = [0xba, 0xaa, 0xad, 0xc0, 0xff, 0xee];
const GUEST: [u8; 4] = [192, 168, 127, 2];
const WORLD: [u8; 4] = [203, 0, 113, 9];
const NOW: Instant = Instant::from_millis(1000);
const FIRST_PORT: u16 = 5000;
const MSS: usize = 1460;
/// Segments of a batch.
const BATCH: usize = 16;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

pub(crate) fn segment(
    port: u16,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    options: &[u8],
    data: &[u8],
) -> Vec<u8> {
    let mut segment = [&port.to_be_bytes()[..], &80_u16.to_be_bytes()].concat();
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledgement.to_be_bytes());
    segment.extend([((20 + options.len()) as u8 / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(options);
    segment.extend(data);
    segment
}

pub(crate) fn packet(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (20 + payload.len() as u16).to_be_bytes();
    let head = [0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    [&head[..], &GUEST, &WORLD, payload].concat()
}

fn frame(protocol: u8, payload: &[u8]) -> Vec<u8> {
    [&GATEWAY_MAC[..], &GUEST_MAC, &[8, 0], &packet(protocol, payload)].concat()
}

/// Where one connection is: the guest's next sequence number and the one that it expects.
#[derive(Clone, Copy)]
struct Place {
    flow: FlowId,
    sequence: u32,
    acknowledgement: u32,
}

/// A gateway with connections that stand.
pub(crate) struct World {
    gateway: Gateway,
    port: PortId,
    flows: Vec<Place>,
    next: usize,
    frame: Vec<u8>,
    data: Vec<u8>,
}

impl World {
    pub(crate) fn new(flows: usize) -> Self {
        let mut gateway = Gateway::new(Config { seed: 9, ..Config::default() }).expect("the default is valid");
        let port = gateway.attach(1, Some(Framing::Hyperkit)).expect("a first link");
        let (frame, data) = (frame(6, &segment(0, 0, 0, ACK, &[], &pattern(MSS))), pattern(64 << 10));
        let mut world = Self { gateway, port, flows: Vec::with_capacity(flows), next: 0, frame, data };
        for i in 0..flows {
            world.open(i);
        }
        world
    }

    fn open(&mut self, i: usize) {
        // MSS 1460 and a window scale of 7.
        let options = [2, 4, 5, 0xb4, 1, 3, 3, 7];
        let syn = frame(6, &segment(FIRST_PORT + i as u16, 0, 0, SYN, &options, &[]));
        assert_eq!(self.gateway.handle_frame(NOW, self.port, &syn), Handled::Done);
        let Some(Output::Dial { flow, .. }) = self.gateway.poll_output() else { panic!("a SYN asks for a dial") };
        self.gateway.handle_dialed(NOW, flow, Ok(()));
        let acknowledgement = self.drain().map_or(0, |sequence| sequence.wrapping_add(1));
        self.flows.push(Place { flow, sequence: 1, acknowledgement });
        self.acknowledge(i);
        assert!(self.gateway.status(flow).is_some_and(|status| status.established));
    }

    /// Takes all that waits; gives the sequence number of the last segment.
    fn drain(&mut self) -> Option<u32> {
        let mut last = None;
        self.gateway.flush(NOW);
        while let Some(output) = self.gateway.poll_output() {
            if output != Output::Frames(self.port) {
                continue;
            }
            let mut bytes = self.gateway.pending(self.port);
            let len = bytes.len();
            while let Some((frame, taken)) = Framing::Hyperkit.split(bytes) {
                last = frame.get(38..42).and_then(|n| n.try_into().ok()).map(u32::from_be_bytes);
                bytes = &bytes[taken..];
            }
            if self.gateway.consume(self.port, len) {
                self.gateway.flush(NOW);
            }
        }
        last
    }

    /// Hands a segment with the first `len` bytes of data to the gateway.
    fn send(&mut self, i: usize, len: usize) {
        let place = &mut self.flows[i];
        let total = ((40 + len) as u16).to_be_bytes();
        self.frame[16..18].copy_from_slice(&total);
        self.frame[34..36].copy_from_slice(&(FIRST_PORT + i as u16).to_be_bytes());
        self.frame[38..42].copy_from_slice(&place.sequence.to_be_bytes());
        self.frame[42..46].copy_from_slice(&place.acknowledgement.to_be_bytes());
        place.sequence = place.sequence.wrapping_add(len as u32);
        let handled = self.gateway.handle_frame(NOW, self.port, &self.frame[..54 + len]);
        assert_eq!(handled, Handled::Done);
    }

    fn acknowledge(&mut self, i: usize) {
        self.send(i, 0);
        self.drain();
    }

    fn turn(&mut self) -> usize {
        self.next = (self.next + 1) % self.flows.len();
        self.next
    }

    /// Enclave to world: a batch of full segments, taken by the world and acknowledged.
    pub(crate) fn outbound(&mut self) -> usize {
        let i = self.turn();
        for _ in 0..BATCH {
            self.send(i, MSS);
        }
        let mut taken = 0;
        loop {
            match self.gateway.read(self.flows[i].flow, <[u8]>::len) {
                0 => break,
                n => taken += n,
            }
        }
        self.drain();
        assert_eq!(taken, BATCH * MSS);
        taken
    }

    /// World to enclave: 64 KiB given by the world, sent in segments and acknowledged.
    pub(crate) fn inbound(&mut self) -> usize {
        let i = self.turn();
        let (flow, data) = (self.flows[i].flow, &self.data);
        let mut given = 0;
        // A ring's room may be in two pieces.
        for _ in 0..2 {
            given += self.gateway.write(flow, |room| {
                let len = room.len().min(data.len() - given);
                room[..len].copy_from_slice(&data[given..given + len]);
                len
            });
        }
        self.drain();
        self.flows[i].acknowledgement = self.flows[i].acknowledgement.wrapping_add(given as u32);
        self.acknowledge(i);
        assert_eq!(given, self.data.len());
        given
    }

    /// A small request and a small answer, each with what acknowledges it.
    pub(crate) fn exchange(&mut self) -> usize {
        let i = self.turn();
        self.send(i, 64);
        let flow = self.flows[i].flow;
        let taken = self.gateway.read(flow, <[u8]>::len);
        let given = self.gateway.write(flow, |room| room[..64].len());
        self.drain();
        self.flows[i].acknowledgement = self.flows[i].acknowledgement.wrapping_add(given as u32);
        self.acknowledge(i);
        assert_eq!((taken, given), (64, 64));
        taken + given
    }
}

/// Datagrams of one session, there and back.
pub(crate) struct Datagrams {
    gateway: Gateway,
    port: PortId,
    frame: Vec<u8>,
    answer: Vec<u8>,
}

impl Datagrams {
    pub(crate) fn new(len: usize) -> Self {
        let mut gateway = Gateway::new(Config { seed: 9, ..Config::default() }).expect("the default is valid");
        let port = gateway.attach(1, Some(Framing::Hyperkit)).expect("a first link");
        let head = [&[0x13, 0x88, 0, 80][..], &(8 + len as u16).to_be_bytes(), &[0, 0]].concat();
        Self { gateway, port, frame: frame(17, &[head, pattern(len)].concat()), answer: pattern(len) }
    }

    pub(crate) fn run(&mut self) -> usize {
        let mut bytes = 0;
        for _ in 0..BATCH {
            let Handled::Datagram { session, payload, .. } = self.gateway.handle_frame(NOW, self.port, &self.frame)
            else {
                panic!("a datagram for the world")
            };
            bytes += payload.len();
            self.gateway.handle_datagram(NOW, session, &self.answer);
        }
        self.gateway.flush(NOW);
        while self.gateway.poll_output().is_some() {}
        let len = self.gateway.pending(self.port).len();
        self.gateway.consume(self.port, len);
        bytes + len
    }
}
