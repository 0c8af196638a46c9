//! Rules between the enclaves of one gateway.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use nitrotap_core::{
    frame::Framing,
    gateway::{
        Config, Gateway, Handled, PortId,
        policy::{PolicyConfig, Rule},
    },
    time::Instant,
};
use std::net::IpAddr;

const GATEWAY: [u8; 4] = [192, 168, 127, 1];
const A: ([u8; 6], [u8; 4]) = ([2, 0, 0, 0, 0, 1], [192, 168, 127, 2]);
const B: ([u8; 6], [u8; 4]) = ([2, 0, 0, 0, 0, 2], [192, 168, 127, 3]);
const A6: &str = "fd00:1::2";
const B6: &str = "fd00:1::3";
const EVERYBODY: [u8; 6] = [0xff; 6];
const SYN: u8 = 2;
const ACK: u8 = 16;

/// Two enclaves that the gateway has heard of, and rules.
struct World {
    gateway: Gateway,
    a: PortId,
    b: PortId,
    now: Instant,
}

impl World {
    fn new(allow: &[&str], deny: &[&str]) -> Self {
        let rules = |texts: &[&str]| texts.iter().map(|text| text.parse::<Rule>().unwrap()).collect();
        let policy = PolicyConfig { allow: rules(allow), deny: rules(deny), ..PolicyConfig::default() };
        let subnet6 = Some("fd00:1::/64".parse().unwrap());
        let mut gateway = Gateway::new(Config { policy, subnet6, ..Config::default() }).unwrap();
        let [a, b] = [1, 2].map(|tenant| gateway.attach(tenant, Some(Framing::Hyperkit)).unwrap());
        let mut world = Self { gateway, a, b, now: Instant::from_millis(1) };
        for (link, (mac, address)) in [(a, A), (b, B)] {
            let arp = [&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1][..], &mac, &address, &[0; 6], &GATEWAY].concat();
            world.send(link, &[&EVERYBODY[..], &mac, &arp].concat());
        }
        world.received(a);
        world.received(b);
        world
    }

    fn send(&mut self, from: PortId, frame: &[u8]) {
        assert_eq!(self.gateway.handle_frame(self.now, from, frame), Handled::Done);
    }

    fn received(&mut self, port: PortId) -> Vec<Vec<u8>> {
        let mut bytes = self.gateway.pending(port).to_vec();
        self.gateway.consume(port, bytes.len());
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let len = usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
            frames.push(bytes[2..2 + len].to_vec());
            bytes.drain(..2 + len);
        }
        frames
    }

    /// Whether a frame of A reaches B, or one of B reaches A.
    fn reaches(&mut self, from_a: bool, frame: &[u8]) -> bool {
        let (from, to) = if from_a { (self.a, self.b) } else { (self.b, self.a) };
        self.send(from, frame);
        self.received(from);
        let got = self.received(to);
        assert!(got.is_empty() || got == [frame]);
        !got.is_empty()
    }
}

fn ip(source: IpAddr, destination: IpAddr, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let len = (20 + payload.len() as u16).to_be_bytes();
            let [high, low] = fragment.to_be_bytes();
            let head = [0x45, 0, len[0], len[1], 0, 7, high, low, 64, protocol, 0, 0];
            [&head[..], &source.octets(), &destination.octets(), payload].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let len = (payload.len() as u16).to_be_bytes();
            let head = [0x60, 0, 0, 0, len[0], len[1], protocol, 64];
            [&head[..], &source.octets(), &destination.octets(), payload].concat()
        }
        _ => panic!("two families"),
    }
}

fn frame(to: [u8; 6], from: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&to[..], &from, &kind, packet].concat()
}

fn tcp(from: u16, to: u16, flags: u8) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0; 8], &[0x50, flags, 1, 0, 0, 0, 0, 0]].concat()
}

fn udp(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 8, 0, 0]].concat()
}

/// Addresses of A and B in both families.
fn families() -> [(IpAddr, IpAddr); 2] {
    [(A.1.into(), B.1.into()), (A6.parse().unwrap(), B6.parse().unwrap())]
}

/// A packet from A to B, or from B to A, in one frame.
fn between(from_a: bool, (a, b): (IpAddr, IpAddr), protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    if from_a {
        frame(B.0, A.0, &ip(a, b, protocol, fragment, payload))
    } else {
        frame(A.0, B.0, &ip(b, a, protocol, fragment, payload))
    }
}

#[test]
fn a_rule_about_their_addresses_keeps_enclaves_apart() {
    let rules: [(&[&str], &[&str], bool); 9] = [
        (&[], &[], true),
        (&[], &["enclaves"], false),
        (&[], &["192.168.127.0/24", "[fd00:1::/64]"], false),
        (&[], &["any"], false),
        (&[], &["10.0.0.0/8"], true),
        (&["example.com"], &[], false),
        (&["any"], &[], true),
        (&["enclaves"], &[], true),
        (&["tcp:10.99.0.2:1"], &["192.168.127.0/24", "[fd00:1::/64]"], false),
    ];
    for (allow, deny, open) in rules {
        for of in families() {
            let icmp: (u8, &[u8]) =
                if of.0.is_ipv4() { (1, &[8, 0, 0, 0, 0, 1, 0, 1]) } else { (58, &[128, 0, 0, 0, 0, 1, 0, 1]) };
            for (protocol, payload) in
                [(6, tcp(1000, 443, SYN)), (6, tcp(1000, 443, ACK)), (17, udp(1000, 53)), (icmp.0, icmp.1.to_vec())]
            {
                let mut world = World::new(allow, deny);
                let frame = between(true, of, protocol, 0, &payload);
                assert_eq!(world.reaches(true, &frame), open, "{allow:?} {deny:?} {of:?} {protocol}");
                assert_eq!(world.gateway.counters().between_denied > 0, !open);
            }
        }
        // Where the first address stays is found in any case.
        let mut world = World::new(allow, deny);
        let arp = [&EVERYBODY[..], &A.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &A.0, &A.1, &[0; 6], &B.1].concat();
        assert!(world.reaches(true, &arp));
    }
}

#[test]
fn what_answers_passes_and_what_begins_does_not() {
    for of in families() {
        let mut world = World::new(&["tcp:enclaves:443", "udp:enclaves:53"], &["[fd00:1::2]", "192.168.127.2"]);
        // A may ask B, and B answer; B may not ask A.
        let mut pass =
            |from_a, protocol, payload: Vec<u8>| world.reaches(from_a, &between(from_a, of, protocol, 0, &payload));
        assert!(!pass(false, 17, udp(53, 1000)), "nobody has asked");
        assert!(pass(true, 17, udp(1000, 53)));
        assert!(pass(false, 17, udp(53, 1000)));
        assert!(!pass(false, 17, udp(53, 1001)), "another port of A");
        assert!(!pass(false, 17, udp(54, 1000)), "another port of B");
        assert!(!pass(true, 17, udp(1000, 54)));
        assert!(pass(true, 6, tcp(1000, 443, SYN)));
        assert!(pass(false, 6, tcp(443, 1000, SYN | ACK)));
        assert!(pass(true, 6, tcp(1000, 443, ACK)));
        assert!(!pass(false, 6, tcp(443, 1000, SYN)));
        assert!(!pass(true, 6, tcp(1000, 444, SYN)));
        assert!(!pass(false, 6, tcp(444, 1000, ACK)));
        // One that the gateway has never seen, such as one from before its restart.
        assert!(pass(false, 6, tcp(443, 2000, ACK)));
    }
}

#[test]
fn a_conversation_of_datagrams_ends_with_its_silence() {
    let of = families()[0];
    let mut world = World::new(&["udp:192.168.127.3:53"], &[]);
    let answer = between(false, of, 17, 0, &udp(53, 1000));
    assert!(world.reaches(true, &between(true, of, 17, 0, &udp(1000, 53))));
    world.now = Instant::from_millis(119_000);
    assert!(world.reaches(false, &answer));
    world.now = Instant::from_millis(238_000);
    assert!(world.reaches(false, &answer), "it was not silent");
    world.now = Instant::from_millis(359_000);
    assert!(!world.reaches(false, &answer));
}

#[test]
fn the_conversations_of_one_enclave_take_no_room_of_another_s() {
    let of = families()[0];
    let mut world = World::new(&["udp:enclaves:53"], &[]);
    assert!(world.reaches(true, &between(true, of, 17, 0, &udp(1000, 53))));
    for port in 1024..9000 {
        // Not faster than one enclave may send to another.
        world.now = Instant::from_millis(u64::from(port) / 32);
        assert!(world.reaches(false, &between(false, of, 17, 0, &udp(port, 53))));
    }
    assert!(world.reaches(false, &between(false, of, 17, 0, &udp(53, 1000))));
}

#[test]
fn errors_pass_where_what_they_are_about_did() {
    for (v6, of) in families().into_iter().enumerate() {
        let (protocol, kind) = if v6 == 1 { (58, [1, 4]) } else { (1, [3, 3]) };
        let about = |protocol, payload: &[u8]| [&kind[..], &[0; 6], &ip(of.0, of.1, protocol, 0, payload)].concat();
        let mut world = World::new(&["udp:enclaves:53"], &[]);
        let mut pass =
            |from_a, protocol, payload: Vec<u8>| world.reaches(from_a, &between(from_a, of, protocol, 0, &payload));
        assert!(pass(true, 17, udp(1000, 53)));
        assert!(pass(false, protocol, about(17, &udp(1000, 53))));
        assert!(!pass(false, protocol, about(17, &udp(1000, 54))));
        assert!(!pass(false, protocol, about(6, &tcp(1000, 443, SYN))));
        assert!(!pass(false, protocol, about(6, &[])), "nothing is known of it");
    }
}

#[test]
fn fragments_do_not_go_round_the_rules() {
    let of = families()[0];
    let mut world = World::new(&["tcp:enclaves:443"], &[]);
    let mut pass =
        |protocol, fragment, payload: &[u8]| world.reaches(true, &between(true, of, protocol, fragment, payload));
    assert!(pass(6, 0x2000, &tcp(1000, 443, SYN)));
    assert!(!pass(6, 0x2000, &tcp(1000, 80, SYN)));
    assert!(!pass(6, 0x2000, &tcp(1000, 443, SYN)[..8]), "its flags would come later");
    assert!(!pass(6, 0x0001, &[0; 16]), "it would overwrite the flags");
    assert!(pass(6, 0x0010, &[0; 16]), "a piece of what was judged");
    assert!(!pass(17, 0x0010, &[0; 16]), "no datagram may be sent at all");
    let mut isolated = World::new(&[], &["enclaves"]);
    assert!(!isolated.reaches(true, &between(true, of, 6, 0x0010, &[0; 16])));
}

#[test]
fn a_frame_to_all_does_not_go_round_the_rules() {
    for (allow, deny, unicast, group) in [
        (&[][..], &[][..], true, true),
        (&[], &["enclaves"], false, false),
        (&["udp:10.0.0.1:53"], &[], false, true),
        (&[], &["192.168.127.3"], false, true),
        (&[], &["udp:enclaves:5353"], true, false),
    ] {
        let mut world = World::new(allow, deny);
        let a = A.1.into();
        for to in [EVERYBODY, [1, 0, 0x5e, 0, 0, 0xfb]] {
            let for_one = frame(to, A.0, &ip(a, B.1.into(), 17, 0, &udp(1000, 53)));
            assert_eq!(world.reaches(true, &for_one), unicast, "{allow:?} {deny:?}");
            for all in [[255; 4], [192, 168, 127, 255], [224, 0, 0, 251]] {
                let for_all = frame(to, A.0, &ip(a, all.into(), 17, 0, &udp(1000, 5353)));
                assert_eq!(world.reaches(true, &for_all), group, "{allow:?} {deny:?} {all:?}");
            }
        }
    }
}

#[test]
fn whoever_may_not_is_told() {
    for of in families() {
        let mut world = World::new(&[], &["enclaves"]);
        let frame = between(true, of, 17, 0, &udp(1000, 53));
        world.send(world.a, &frame);
        assert_eq!(world.received(world.b), Vec::<Vec<u8>>::new());
        let [told] = &world.received(world.a)[..] else { panic!("one answer") };
        // Administratively prohibited (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1).
        let (at, expected) = if of.0.is_ipv4() { (34, [3, 13]) } else { (54, [1, 1]) };
        assert_eq!(told[at..at + 2], expected);
    }
}
