//! Two modelled kernels whose TAPs have virtio-net headers, and the halves of nitrotap's TAP handler that ship between them.

use super::{Host, HostConfig, Mac, comparable, host::FlowId, split, vnet::ETHERNET};
use nitrotap_core::{
    link::MacAddr,
    offload::{Merge, VNET_LEN},
    tap::{Egress, Ingress},
    time::Instant,
};
use quickcheck::quickcheck;
use smoltcp::wire::{ArpPacket, EthernetFrame, EthernetProtocol, Ipv4Packet, TcpPacket};
use std::{net::Ipv4Addr, time::Duration};

const MTU: u16 = 1500;
const READ: usize = 64 << 10;
const PORT: u16 = 80;

/// An enclave: a kernel, and nitrotap's two halves.
struct Enclave {
    kernel: Host,
    egress: Egress,
    ingress: Ingress,
    offload: bool,
}

/// How two enclaves are connected.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    /// Join segments towards a TAP.
    gro: bool,
    /// Loses one frame of so many; 0 for none.
    loss: u16,
    /// The second is a gateway that takes TCP as it comes, as gvproxy does, and has a plain TAP.
    gateway: bool,
}

impl Enclave {
    fn new(last: u8, offload: bool, way: Way) -> Self {
        let mac = [2, 0, 0, 0, 0, last];
        let config = HostConfig {
            mac: Mac::from_bytes(&mac),
            address: Ipv4Addr::new(10, 0, 0, last),
            also: Vec::new(),
            gateway: None,
            mtu: MTU.into(),
            buffer: 256 << 10,
            ack_delay: offload.then_some(Duration::from_millis(40)),
            user_timeout: Duration::from_secs(120),
            fin_timeout: Duration::from_secs(60),
            max_flows: 8,
            backlog: 8,
            gateway_mode: !offload,
            max_held: 8,
            offload,
            seed: last.into(),
        };
        let mut egress = Egress::new(MTU, 32 << 10).with_offload(false);
        egress.handle_link_up();
        if way.gateway {
            egress.handle_gateway(MacAddr([2, 0, 0, 0, 0, 2]));
        }
        let merge = Merge { tcp: way.gro, udp: way.gro };
        let ingress = Ingress::new(MTU, MacAddr(mac), READ).with_offload(merge);
        Self { kernel: Host::new(config), egress, ingress, offload }
    }

    /// Lets everything that the kernel has sent leave; gives the frames on the wire.
    fn send(&mut self) -> Vec<Vec<u8>> {
        let mut wire = Vec::new();
        while let Some(packet) = self.kernel.poll_packet() {
            loop {
                if let Some(slot) = self.egress.slot() {
                    slot[..packet.bytes.len()].copy_from_slice(&packet.bytes);
                    break;
                }
                self.drain(&mut wire);
            }
            let before = wire.len();
            self.egress.handle_offloaded(packet.header, packet.bytes.len());
            self.drain(&mut wire);
            let whole = vec![packet.bytes.clone()];
            let expected = split(&packet.header, &packet.bytes).unwrap();
            assert!(wire[before..] == expected || wire[before..] == whole, "other frames than those of a wire");
        }
        wire
    }

    fn drain(&mut self, wire: &mut Vec<Vec<u8>>) {
        while let [low, high, ..] = *self.egress.pending() {
            let end = 2 + usize::from(u16::from_le_bytes([low, high]));
            wire.push(self.egress.pending()[2..end].to_vec());
            self.egress.consume(end);
        }
    }

    /// Takes frames that come in one read.
    fn receive(&mut self, now: Instant, frames: &[Vec<u8>]) {
        let (mut came, mut went) = (Vec::new(), Vec::new());
        for frame in frames {
            came.push(comparable(frame));
            let prefixed = [&(frame.len() as u16).to_le_bytes()[..], frame].concat();
            self.ingress.space()[..prefixed.len()].copy_from_slice(&prefixed);
            self.ingress.handle_read(prefixed.len());
        }
        while let Some(packet) = self.ingress.next_packet() {
            let (header, bytes) = (packet.header, packet.pieces().flatten().copied().collect::<Vec<_>>());
            went.extend(split(&header, &bytes).unwrap().iter().map(|frame| comparable(frame)));
            if self.offload {
                self.kernel.handle_packet(now, &header, &bytes).unwrap();
            } else {
                assert_eq!(header, [0; VNET_LEN]);
                self.kernel.handle_frame(now, &bytes);
            }
        }
        came.sort_unstable();
        went.sort_unstable();
        assert!(came == went, "joining lost or changed something");
    }
}

/// Whether a frame is one that every machine takes.
fn is_right(frame: &[u8]) -> bool {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    if ethernet.ethertype() == EthernetProtocol::Arp {
        return ArpPacket::new_checked(ethernet.payload()).is_ok();
    }
    let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
    let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
    let fits = frame.len() <= ETHERNET + usize::from(MTU) && usize::from(ip.total_len()) == frame.len() - ETHERNET;
    fits && ip.verify_checksum() && tcp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into())
}

struct World {
    now: Instant,
    ends: [Enclave; 2],
    way: Way,
    rng: fastrand::Rng,
    /// Longest frame that left the first.
    longest: usize,
    moved: u32,
}

impl World {
    fn new(way: Way, seed: u64) -> Self {
        let ends = [Enclave::new(1, true, way), Enclave::new(2, !way.gateway, Way { gateway: false, ..way })];
        let now = Instant::from_millis(1000);
        Self { now, ends, way, rng: fastrand::Rng::with_seed(seed), longest: 0, moved: 0 }
    }

    /// Moves frames both ways until there are none.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for from in [0, 1] {
                let mut frames = self.ends[from].send();
                if from == 0 {
                    self.longest = frames.iter().map(Vec::len).max().unwrap_or(0).max(self.longest);
                }
                assert!((self.way.gateway && from == 0) || frames.iter().all(|frame| is_right(frame)));
                moved |= !frames.is_empty();
                if self.way.loss > 0 {
                    frames.retain(|_| self.rng.u16(..self.way.loss) > 0);
                }
                let mut frames = &frames[..];
                while !frames.is_empty() {
                    // A read brings up to 64 KiB, the prefixes among them.
                    let read = self.rng.usize(1..=if frames.iter().any(|frame| frame.len() > 1514) { 1 } else { 43 });
                    let (now, later) = frames.split_at(read.min(frames.len()));
                    self.ends[1 - from].receive(self.now, now);
                    frames = later;
                }
            }
            if !moved {
                return;
            }
            self.moved += 1;
        }
    }

    /// Lets time pass until something is due.
    fn wait(&mut self) {
        let due = self.ends.iter().filter_map(|end| end.kernel.poll_timeout()).min();
        self.now = due.expect("something is due while bytes are missing").max(self.now);
        for end in &mut self.ends {
            end.kernel.handle_timeout(self.now);
        }
        self.settle();
    }

    fn read(&mut self, end: usize, id: FlowId, to: &mut Vec<u8>) {
        let mut buf = vec![0; 1 + self.rng.usize(..200_000)];
        let taken = self.ends[end].kernel.with(self.now, id, |flow| flow.socket().recv_slice(&mut buf).unwrap_or(0));
        to.extend_from_slice(&buf[..taken.unwrap()]);
    }

    fn write(&mut self, end: usize, id: FlowId, from: &[u8]) -> usize {
        let part = &from[..from.len().min(1 + self.rng.usize(..100_000))];
        if part.is_empty() {
            return 0;
        }
        self.ends[end].kernel.with(self.now, id, |flow| flow.socket().send_slice(part).unwrap_or(0)).unwrap()
    }

    /// Opens a connection; an identifier for either end.
    fn connect(&mut self) -> [FlowId; 2] {
        if !self.way.gateway {
            assert!(self.ends[1].kernel.listen(PORT));
        }
        let first = self.ends[0].kernel.connect(self.now, (Ipv4Addr::new(10, 0, 0, 2), PORT)).unwrap();
        for _ in 0..1000 {
            self.settle();
            let kernel = &mut self.ends[1].kernel;
            let second = match kernel.poll_syn() {
                Some(syn) => kernel.admit(self.now, syn.key),
                None => kernel.accept(PORT),
            };
            if let Some(second) = second {
                self.settle();
                return [first, second];
            }
            self.wait();
        }
        panic!("no connection came up");
    }

    /// Sends `stream` there and back again.
    fn echo(&mut self, stream: &[u8]) {
        let [first, second] = self.connect();
        let (mut sent, mut there, mut returned, mut back) = (0, Vec::new(), 0, Vec::new());
        while back.len() < stream.len() {
            let before = (sent, there.len(), returned, back.len());
            sent += self.write(0, first, &stream[sent..]);
            self.settle();
            self.read(1, second, &mut there);
            returned += self.write(1, second, &there[returned..]);
            self.settle();
            self.read(0, first, &mut back);
            self.settle();
            if (sent, there.len(), returned, back.len()) == before {
                self.wait();
            }
        }
        assert!(there == stream, "another stream arrived");
        assert!(back == stream, "another stream came back");
        for end in &self.ends {
            assert_eq!((end.kernel.usage().malformed, end.kernel.usage().wrong_sums), (0, 0));
        }
    }
}

fn stream(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

quickcheck! {
    fn a_stream_arrives_unchanged_with_and_without_joining(len: u32, seed: u64, gro: bool) -> bool {
        let stream = stream(len as usize % 1_000_000);
        let mut world = World::new(Way { gro, ..Way::default() }, seed);
        world.echo(&stream);
        stream.len() < 100_000 || world.ends[1].ingress.counters().super_frames > 0 || !gro
    }

    fn a_stream_arrives_unchanged_although_frames_are_lost(len: u16, seed: u64, gro: bool) -> bool {
        World::new(Way { gro, loss: 20, ..Way::default() }, seed).echo(&stream(len.into()));
        true
    }
}

#[test]
fn a_gateway_gets_super_frames_and_unfinished_checksums() {
    let mut world = World::new(Way { gro: true, gateway: true, ..Way::default() }, 1);
    world.echo(&stream(500_000));
    let (out, inn) = (*world.ends[0].egress.counters(), world.ends[0].ingress.counters());
    assert!(out.super_frames > 0 && out.checksums_left > 0 && inn.super_frames > 0, "{out:?} {inn:?}");
    assert_eq!((out.segmented, out.dropped_offload), (0, 0));
    assert_eq!(world.longest, 14 + 40 + 44 * 1460, "as many whole segments as Linux sends at once");
}

#[test]
fn a_super_frame_is_acknowledged_at_once() {
    let mut world = World::new(Way { gro: true, ..Way::default() }, 1);
    let [first, second] = world.connect();
    let begun = world.now;
    // Nobody reads, so no window opens that would say the same.
    assert_eq!(world.ends[0].kernel.with(begun, first, |flow| flow.socket().send_slice(&[7; 2920])), Some(Ok(2920)));
    world.settle();
    let left = |world: &mut World| world.ends[0].kernel.with(begun, first, |flow| flow.socket().send_queue()).unwrap();
    assert_eq!(left(&mut world), 0);
    // One segment waits for 40 ms, as before.
    assert_eq!(world.ends[0].kernel.with(begun, first, |flow| flow.socket().send_slice(&[7; 1460])), Some(Ok(1460)));
    world.settle();
    assert_eq!(left(&mut world), 1460);
    world.wait();
    assert_eq!((left(&mut world), world.now.since(begun)), (0, Duration::from_millis(40)));
    let received = world.ends[1].kernel.with(begun, second, |flow| flow.socket().recv_queue());
    assert_eq!(received, Some(4380));
}

/// What smoltcp offers it rounds down, and it takes nothing behind that, though it has offered it before. Then the last
/// bytes of a full window are lost while it closes.
#[test]
fn bytes_behind_a_window_that_was_rounded_down_are_sent_again() {
    const ALL: usize = 256 << 10;
    for gateway in [false, true] {
        let mut world = World::new(Way { gateway, ..Way::default() }, 1);
        let [first, second] = world.connect();
        let now = world.now;
        let sent = world.ends[0].kernel.with(now, first, |flow| flow.socket().send_slice(&vec![7; ALL]));
        assert_eq!(sent, Some(Ok(ALL)));
        world.settle();
        let waiting = world.ends[0].kernel.with(now, first, |flow| flow.socket().send_queue());
        assert!(waiting.is_some_and(|bytes| (1..8).contains(&bytes)), "{waiting:?} bytes left out");
        let mut buf = vec![0; ALL];
        let mut taken = 0;
        for _ in 0..2 {
            let read = world.ends[1].kernel.with(now, second, |flow| flow.socket().recv_slice(&mut buf));
            taken += read.unwrap().unwrap();
            world.settle();
        }
        assert_eq!(taken, ALL, "to a gateway: {gateway}");
    }
}
