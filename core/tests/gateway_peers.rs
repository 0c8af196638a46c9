//! Peers that remember earlier connections, that refuse with ICMP, that have a shorter way than their link, and slow worlds.

#![expect(clippy::unwrap_used, reason = "helpers of tests may")]

#[expect(dead_code, reason = "other tests need more of it")]
mod guest;

use guest::{Net, World, pattern};
use nitrotap_core::{
    frame::Framing,
    gateway::{Closed, Config, FlowId, Gateway, Handled, Output, PortId},
    offload::checksum,
    time::Instant,
};
use smoltcp::socket::tcp;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

const GATEWAY_MAC: [u8; 6] = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd];
const MAC: [u8; 6] = [0xba, 0xaa, 0xad, 0xc0, 0xff, 0xee];
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

const NET: Net = Net {
    guest: IpAddr::V4(Ipv4Addr::new(192, 168, 127, 2)),
    gateway: IpAddr::V4(Ipv4Addr::new(192, 168, 127, 1)),
    world: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)),
};
const NET6: Net = Net {
    guest: IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2)),
    gateway: IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1)),
    world: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9)),
};

/// A segment that the gateway sent.
#[derive(Clone, Debug)]
struct Seen {
    packet: Vec<u8>,
    from: u16,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    /// TSval and TSecr.
    stamps: Option<(u32, u32)>,
    len: usize,
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}

fn seen(frame: &[u8]) -> Option<Seen> {
    let head = match (frame[12], frame[14 + 9], frame[14 + 6]) {
        (8, 6, _) => 20,
        (0x86, _, 6) => 40,
        _ => return None,
    };
    let segment = &frame[14 + head..];
    let at = usize::from(segment[12] >> 4) * 4;
    let mut options = &segment[20..at];
    let mut stamps = None;
    while let [kind, rest @ ..] = options {
        options = match kind {
            0 => break,
            1 => rest,
            8 => {
                stamps = Some((number(&rest[1..5]), number(&rest[5..9])));
                &rest[9..]
            }
            _ => &rest[usize::from(rest[0]) - 1..],
        };
    }
    Some(Seen {
        packet: frame[14..].to_vec(),
        from: u16::from_be_bytes([segment[0], segment[1]]),
        sequence: number(&segment[4..8]),
        acknowledgement: number(&segment[8..12]),
        flags: segment[13],
        stamps,
        len: segment.len() - at,
    })
}

fn ip(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u16;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [high, low] = (20 + len).to_be_bytes();
            let head = [0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0];
            [&head[..], &from.octets(), &to.octets(), payload].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [high, low] = len.to_be_bytes();
            [&[0x60, 0, 0, 0, high, low, protocol, 64][..], &from.octets(), &to.octets(), payload].concat()
        }
        _ => panic!("two families"),
    }
}

/// A frame with an error of the guest about a packet that it was sent.
fn error(net: &Net, kind: u8, code: u8, mtu: u16, about: &[u8]) -> Vec<u8> {
    let quoted = if net.guest.is_ipv4() { &about[..28] } else { about };
    let mut message = [&[kind, code, 0, 0, 0, 0][..], &mtu.to_be_bytes(), quoted].concat();
    let (protocol, pseudo) = match (net.guest, net.gateway) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let len = (message.len() as u32).to_be_bytes();
            (58, checksum::add(0, &[&from.octets()[..], &to.octets(), &len, &[0, 0, 0, 58]].concat()))
        }
        _ => (1, 0),
    };
    let sum = checksum::finish(checksum::add(pseudo, &message));
    message[2..4].copy_from_slice(&sum);
    frame(&ip(net.guest, net.gateway, protocol, &message))
}

fn frame(packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&GATEWAY_MAC[..], &MAC, &kind, packet].concat()
}

fn options(stamps: Option<(u32, u32)>) -> Vec<u8> {
    stamps
        .map_or_else(Vec::new, |(value, echo)| [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat())
}

/// A gateway with one link, and a guest whose frames are made by hand.
struct Hand {
    net: Net,
    gateway: Gateway,
    port: PortId,
    now: Instant,
    outputs: Vec<Output>,
}

impl Hand {
    fn new(net: Net) -> Self {
        let subnet6 = net.guest.is_ipv6().then(|| "fd00:1::/64".parse().unwrap());
        let mut gateway = Gateway::new(Config { seed: 5, subnet6, ..Config::default() }).unwrap();
        let port = gateway.attach(1, Some(Framing::Hyperkit)).unwrap();
        let mut hand = Self { net, gateway, port, now: Instant::from_millis(1000), outputs: Vec::new() };
        // A connection that begins says where the guest is.
        hand.say((1, 80), (0, 0), SYN, None, b"");
        hand.segments();
        hand.outputs.clear();
        hand
    }

    /// The guest sends a segment from a port to another one: of the gateway if that is 16000 or above, else of the world.
    fn say(&mut self, ports: (u16, u16), numbers: (u32, u32), flags: u8, stamps: Option<(u32, u32)>, data: &[u8]) {
        let options = options(stamps);
        let mut segment = [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes()].concat();
        segment.extend(numbers.0.to_be_bytes());
        segment.extend(numbers.1.to_be_bytes());
        segment.extend([((20 + options.len()) as u8 / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(options);
        segment.extend(data);
        let to = if ports.1 >= 16_000 { self.net.gateway } else { self.net.world };
        let said = frame(&ip(self.net.guest, to, 6, &segment));
        assert_eq!(self.gateway.handle_frame(self.now, self.port, &said), Handled::Done);
    }

    /// The segments that wait for the guest.
    fn segments(&mut self) -> Vec<Seen> {
        let mut all = Vec::new();
        if self.gateway.poll_timeout().is_some_and(|at| at <= self.now) {
            self.gateway.handle_timeout(self.now);
        }
        self.gateway.flush(self.now);
        self.outputs.extend(std::iter::from_fn(|| self.gateway.poll_output()));
        let mut bytes = self.gateway.pending(self.port).to_vec();
        self.gateway.consume(self.port, bytes.len());
        while let Some((frame, len)) = Framing::Hyperkit.split(&bytes) {
            all.extend(seen(frame));
            bytes.drain(..len);
        }
        all
    }

    /// Begins a connection to port 80 of the guest; gives it and its SYN.
    fn connect(&mut self) -> (FlowId, Seen) {
        let flow = self.gateway.connect(self.now, SocketAddr::new(self.net.guest, 80)).unwrap();
        let all = self.segments();
        let [syn] = &all[..] else { panic!("{all:?}") };
        assert_eq!(syn.flags, SYN);
        (flow, syn.clone())
    }

    /// A connection of the guest that stands, from its port 4000, with its next number 101; our next one.
    fn open(&mut self, stamps: Option<(u32, u32)>) -> (FlowId, u32) {
        self.say((4000, 80), (100, 0), SYN, stamps, b"");
        self.segments();
        let all = std::mem::take(&mut self.outputs);
        let dial = |output: &Output| if let Output::Dial { flow, .. } = output { Some(*flow) } else { None };
        let flow = all.iter().rev().find_map(dial).unwrap();
        self.gateway.handle_dialed(self.now, flow, Ok(()));
        let ours = self.segments()[0].sequence.wrapping_add(1);
        self.say((4000, 80), (101, ours), ACK, stamps, b"");
        self.segments();
        assert!(self.gateway.status(flow).unwrap().established);
        (flow, ours)
    }

    fn is_closed(&self, flow: FlowId, how: Closed) -> bool {
        self.outputs.contains(&Output::Closed { flow, how })
    }
}

#[test]
fn a_guest_that_refuses_a_syn_with_an_icmp_error_is_heard() {
    for (net, kind, codes) in [(NET, 3, [0, 1, 2, 3, 5, 9, 10, 13].as_slice()), (NET6, 1, &[0, 1, 3, 4, 5, 6])] {
        let mut hand = Hand::new(net);
        for code in codes {
            let (flow, syn) = hand.connect();
            hand.gateway.handle_frame(hand.now, hand.port, &error(&net, kind, *code, 0, &syn.packet));
            hand.segments();
            assert!(hand.is_closed(flow, Closed::Reset), "code {code} of {}", net.guest);
        }
        assert_eq!(hand.gateway.counters().tcp_rejected, codes.len() as u64);
        assert_eq!(hand.gateway.counters().tcp_flows, 1, "but for that with which each begins");
    }
}

#[test]
fn nothing_else_is_heard_of_an_icmp_error() {
    for (net, kind, code) in [(NET, 3, 3), (NET6, 1, 4)] {
        let mut hand = Hand::new(net);
        let (flow, syn) = hand.connect();
        let head = if net.guest.is_ipv4() { 20 } else { 40 };
        let change = |at: usize, bit: u8| {
            let mut packet = syn.packet.clone();
            packet[at] ^= bit;
            packet
        };
        // Another number, other ports, another peer, another guest, a protocol without connections.
        for about in
            [change(head + 5, 1), change(head, 1), change(head + 2, 1), change(head - 5, 1), change(head - 1, 1)]
        {
            hand.gateway.handle_frame(hand.now, hand.port, &error(&net, kind, code, 0, &about));
        }
        // Time exceeded and the like pass; so do errors of others.
        for (kind, code) in if net.guest.is_ipv4() { [(11, 0), (12, 0)] } else { [(3, 0), (4, 1)] } {
            hand.gateway.handle_frame(hand.now, hand.port, &error(&net, kind, code, 0, &syn.packet));
        }
        for tenant in [1, 2] {
            let other = hand.gateway.attach(tenant, Some(Framing::Hyperkit)).unwrap();
            hand.gateway.handle_frame(hand.now, other, &error(&net, kind, code, 0, &syn.packet));
        }
        hand.segments();
        assert!(hand.gateway.status(flow).is_some());
        // A connection that stands goes on.
        hand.say((80, syn.from), (700, syn.sequence.wrapping_add(1)), SYN | ACK, None, b"");
        hand.segments();
        hand.gateway.write(flow, |room| {
            room[..5].fill(7);
            5
        });
        let sent = hand.segments();
        hand.gateway.handle_frame(hand.now, hand.port, &error(&net, kind, code, 0, &sent[0].packet));
        hand.segments();
        assert!(hand.gateway.status(flow).is_some_and(|status| status.established));
        assert_eq!(hand.gateway.counters().tcp_rejected, 0);
    }
}

#[test]
fn a_refused_datagram_ends_its_session_and_nobody_elses() {
    let mut hand = Hand::new(NET);
    let client = SocketAddr::from(([198, 51, 100, 4], 9999));
    let session = hand.gateway.open_session(hand.now, (NET.guest, 5000).into(), client).unwrap();
    hand.gateway.handle_datagram(hand.now, session, b"hello");
    hand.gateway.flush(hand.now);
    let bytes = hand.gateway.pending(hand.port).to_vec();
    let (sent, _) = Framing::Hyperkit.split(&bytes).unwrap();
    let about = sent[14..].to_vec();
    let closed = |hand: &mut Hand| {
        hand.segments();
        hand.outputs.contains(&Output::SessionClosed(session))
    };
    let other = hand.gateway.attach(2, Some(Framing::Hyperkit)).unwrap();
    hand.gateway.handle_frame(hand.now, other, &error(&NET, 3, 3, 0, &about));
    hand.gateway.handle_frame(hand.now, hand.port, &error(&NET, 11, 0, 0, &about));
    assert!(!closed(&mut hand));
    hand.gateway.handle_frame(hand.now, hand.port, &error(&NET, 3, 3, 0, &about));
    assert!(closed(&mut hand));
    let asker: Vec<_> = hand.outputs.iter().filter(|output| **output == Output::SessionRefused(session)).collect();
    assert_eq!(asker.len(), 1, "who asked is told, once");
}

#[test]
fn a_guest_that_refuses_an_answer_has_no_asker_to_be_told() {
    let mut hand = Hand::new(NET);
    let question = [&5000_u16.to_be_bytes()[..], &[0, 53, 0, 9, 0, 0, b'x']].concat();
    let question = frame(&ip(NET.guest, [203, 0, 113, 9].into(), 17, &question));
    let Handled::Datagram { session, .. } = hand.gateway.handle_frame(hand.now, hand.port, &question) else {
        panic!("it is a datagram");
    };
    hand.gateway.handle_datagram(hand.now, session, b"answer");
    hand.gateway.flush(hand.now);
    let bytes = hand.gateway.pending(hand.port).to_vec();
    let (sent, _) = Framing::Hyperkit.split(&bytes).unwrap();
    let about = sent[14..].to_vec();
    hand.gateway.handle_frame(hand.now, hand.port, &error(&NET, 3, 3, 0, &about));
    hand.segments();
    assert!(hand.outputs.contains(&Output::SessionClosed(session)));
    assert!(!hand.outputs.contains(&Output::SessionRefused(session)));
}

#[test]
fn a_way_that_takes_less_gets_shorter_segments_and_never_too_short_ones() {
    for (net, kind, code, said, becomes) in
        [(NET, 3, 4, 700, 700), (NET, 3, 4, 5, 552), (NET6, 2, 0, 1300, 1300), (NET6, 2, 0, 5, 1280)]
    {
        let mut world = World::new(net, 1500);
        let (handle, flow) = world.open(40_000, 200_000);
        world.write(flow, &pattern(30_000, 1));
        world.gateway.flush(world.now);
        let bytes = world.gateway.pending(world.port).to_vec();
        world.gateway.consume(world.port, bytes.len());
        let (long, _) = Framing::Hyperkit.split(&bytes).unwrap();
        let about = long[14..].to_vec();
        assert_eq!(about.len(), 1500);
        // What it quotes would have fitted, or was never sent.
        let mut strange = about.clone();
        strange[if net.guest.is_ipv4() { 24 } else { 44 }] ^= 0x40;
        world.gateway.handle_frame(world.now, world.port, &error(&net, kind, code, 1500, &about));
        world.gateway.handle_frame(world.now, world.port, &error(&net, kind, code, said, &strange));
        let longest = |world: &World| world.cable.to_guest.iter().map(|frame| frame.len() - 14).max().unwrap_or(0);
        let mut before = 0;
        world.until("all again", |world| {
            before = before.max(longest(world));
            world.guest(handle).recv_queue() == 30_000
        });
        assert_eq!(before, 1500, "nothing has become shorter");
        world.gateway.handle_frame(world.now, world.port, &error(&net, kind, code, said, &about));
        let next = pattern(30_000, 2);
        world.write(flow, &next);
        world.gateway.flush(world.now);
        let bytes = world.gateway.pending(world.port).to_vec();
        let (next_long, _) = Framing::Hyperkit.split(&bytes).unwrap();
        let about = next_long[14..].to_vec();
        world.gateway.handle_frame(world.now, world.port, &error(&net, kind, code, said, &about));
        let bytes = world.gateway.pending(world.port).len();
        world.gateway.consume(world.port, bytes);
        let mut after = 0;
        let mut got: Vec<u8> = Vec::new();
        world.until("the next", |world| {
            after = after.max(longest(world));
            let _ = world.guest(handle).recv(|bytes| {
                got.extend_from_slice(bytes);
                (bytes.len(), ())
            });
            got.len() == 60_000
        });
        assert_eq!((after, got[30_000..] == next[..]), (becomes, true), "{said}");
    }
}

/// A guest that has closed an earlier connection first, or has it still, acknowledges a SYN (RFC 9293 section 3.10.7.4): it
/// is reset, and asked again at once, and not a second later.
#[test]
fn a_syn_that_meets_an_earlier_connection_is_followed_by_one_with_a_higher_number() {
    for net in [NET, NET6] {
        let mut hand = Hand::new(net);
        let (flow, mut syn) = hand.connect();
        for ahead in [1 << 20, (1 << 30) + 5] {
            assert!(syn.stamps.is_some());
            let expects = syn.sequence.wrapping_add(ahead);
            hand.say((80, syn.from), (900, expects), ACK, None, b"");
            let answer = hand.segments();
            let [reset, again] = &answer[..] else { panic!("{answer:?}") };
            assert_eq!((reset.flags & RST, reset.sequence), (RST, expects), "whoever has it still loses it");
            assert_eq!((again.flags, again.from), (SYN, syn.from));
            assert!((1..1 << 24).contains(&again.sequence.wrapping_sub(expects)), "{} after {expects}", again.sequence);
            syn = again.clone();
        }
        assert_eq!(syn.stamps, None, "the last time without: the guest may remember later ones");
        // That was all: a guest that makes fun of it waits like any other.
        hand.say((80, syn.from), (900, syn.sequence.wrapping_add(77)), ACK, None, b"");
        assert!(hand.segments().iter().all(|segment| segment.flags & SYN == 0));
        hand.say((80, syn.from), (900, syn.sequence.wrapping_add(1)), SYN | ACK, None, b"");
        hand.segments();
        assert!(hand.gateway.status(flow).is_some_and(|status| status.established));
    }
}

#[test]
fn timestamps_are_sent_to_who_sends_them_and_count_milliseconds_across_connections() {
    let mut hand = Hand::new(NET);
    let (flow, _) = hand.open(None);
    hand.gateway.write(flow, |room| room[..3].len());
    assert_eq!(hand.segments()[0].stamps, None);
    hand.gateway.abort(hand.now, flow);
    hand.segments();

    let mut last = None;
    for round in 0..3_u32 {
        hand.now = hand.now + Duration::from_millis(1500);
        let (flow, _) = hand.open(Some((7000 + round, 0)));
        hand.gateway.write(flow, |room| room[..3].len());
        let (value, echo) = hand.segments()[0].stamps.unwrap();
        assert_eq!(echo, 7000 + round);
        if let Some(last) = last.replace(value) {
            assert_eq!(value.wrapping_sub(last), 1500);
        }
        let (_, syn) = hand.connect();
        assert_eq!(syn.stamps, Some((value, 0)));
        hand.gateway.abort(hand.now, flow);
        hand.segments();
    }
}

/// The first segment of a connection to a guest is one, with timestamps too: the guest may not know the connection yet.
#[test]
fn a_first_segment_leaves_room_for_timestamps() {
    let mut hand = Hand::new(NET);
    let (flow, syn) = hand.connect();
    hand.say((80, syn.from), (700, syn.sequence.wrapping_add(1)), SYN | ACK, Some((1, syn.stamps.unwrap().0)), b"");
    hand.segments();
    let room = hand.gateway.status(flow).unwrap().room;
    let given = hand.gateway.write(flow, |space| space.len());
    assert_eq!(given, room);
    let sent = hand.segments();
    assert_eq!(sent.iter().map(|segment| segment.len).collect::<Vec<_>>(), [room]);
}

/// The guest's last FIN is acknowledged as often as it comes, and nothing else is: two that acknowledge acknowledgements
/// never stop.
#[test]
fn what_is_over_answers_a_repeated_end_and_no_acknowledgement() {
    let mut hand = Hand::new(NET);
    let (flow, ours) = hand.open(None);
    hand.gateway.finish(hand.now, flow);
    hand.segments();
    hand.say((4000, 80), (101, ours.wrapping_add(1)), FIN | ACK, None, b"");
    hand.segments();
    assert!(hand.is_closed(flow, Closed::Finished));
    hand.say((4000, 80), (102, ours.wrapping_add(1)), ACK, None, b"");
    hand.say((4000, 80), (102, 0), RST, None, b"");
    assert!(hand.segments().is_empty());
    hand.say((4000, 80), (101, ours.wrapping_add(1)), FIN | ACK, None, b"");
    let answer = hand.segments();
    assert!(matches!(&answer[..], [Seen { flags: ACK, acknowledgement: 102, .. }]), "{answer:?}");
    // Who begins anew is answered with higher numbers, whatever its own is.
    let (_, again) = hand.open(None);
    assert!((1..1 << 30).contains(&again.wrapping_sub(ours)), "{again} after {ours}");
}

/// Its link is lost, and not a flag.
const UNLINK: u8 = 0;

/// A guest has said all and been told all, and the world is slow: what came is the world's, for as long as it takes,
/// though smoltcp forgets it after ten seconds, and whatever the guest does with its ports meanwhile.
#[test]
fn what_a_guest_sent_before_its_end_waits_for_a_slow_world() {
    for guest_first in [false, true] {
        for disturb in [None, Some(RST), Some(SYN), Some(UNLINK)] {
            let mut hand = Hand::new(NET);
            let (flow, ours) = hand.open(None);
            let data = pattern(1000, 3);
            if guest_first {
                hand.say((4000, 80), (101, ours), FIN | ACK, None, &data);
                hand.segments();
                hand.gateway.finish(hand.now, flow);
                hand.segments();
                hand.say((4000, 80), (1102, ours.wrapping_add(1)), ACK, None, b"");
            } else {
                hand.gateway.finish(hand.now, flow);
                hand.segments();
                hand.say((4000, 80), (101, ours.wrapping_add(1)), FIN | ACK, None, &data);
            }
            hand.segments();
            if disturb == Some(UNLINK) {
                hand.gateway.detach(hand.port);
            } else if let Some(flags) = disturb {
                hand.say((4000, 80), (1102, 0), flags, None, b"");
                hand.segments();
            }
            for _ in 0..100 {
                hand.now = hand.now + Duration::from_secs(6);
                hand.segments();
            }
            assert_eq!(
                hand.gateway.status(flow).map(|status| status.received),
                Some(1000),
                "{guest_first} {disturb:?}"
            );
            let mut got = Vec::new();
            hand.gateway.read(flow, |bytes| {
                got.extend_from_slice(bytes);
                bytes.len()
            });
            assert_eq!(got, data);
            hand.segments();
            assert!(hand.is_closed(flow, Closed::Finished), "{guest_first} {disturb:?}");
        }
    }
}

/// A guest that uses a port again a moment after it closed first, as `tcp_tw_reuse` lets it.
#[test]
fn a_guest_uses_the_same_port_many_times() {
    let mut world = World::new(NET, 1500);
    for _ in 0..50 {
        let (handle, flow) = world.open(40_000, 4096);
        world.guest(handle).close();
        world.until("the end", |world| world.status(flow).received_all);
        world.gateway.finish(world.now, flow);
        world.until("all of it", |world| world.closed.contains(&(flow, Closed::Finished)));
        assert!(matches!(world.guest(handle).state(), tcp::State::TimeWait | tcp::State::FinWait2));
        world.sockets.remove(handle);
    }
}
