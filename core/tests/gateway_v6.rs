//! IPv6 of guests by frames made by hand: what they are told, what they may not say, what becomes of what they send.

#![expect(clippy::unwrap_used, reason = "helpers of tests may")]

use nitrotap_core::{
    frame::Framing,
    gateway::{
        Config, ConfigError, DialError, Gateway, Handled, Kind, Output, PortId, SessionError, Target,
        policy::PolicyConfig,
    },
    offload::checksum,
    time::Instant,
};
use std::{
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

const GATEWAY_MAC: [u8; 6] = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd];
const ROUTER: &str = "fe80::5894:efff:fee4:cdd";
const GATEWAY: &str = "fd00:1::1";
const HOST: &str = "fd00:1::fe";
const A: &str = "fd00:1::a";
const B: &str = "fd00:1::b";
const WORLD: &str = "2001:db8::9";
const NOW: Instant = Instant::from_millis(1000);

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

fn group_mac(address: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = address.octets();
    [0x33, 0x33, a, b, c, d]
}

fn solicited_node(address: &str) -> Ipv6Addr {
    let [.., a, b, c] = ip(address).octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

fn sum(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, payload: &[u8]) -> u64 {
    let len = (payload.len() as u32).to_be_bytes();
    let pseudo = [&source.octets()[..], &destination.octets(), &len, &[0, 0, 0, protocol]].concat();
    checksum::add(checksum::add(0, &pseudo), payload)
}

fn packet(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0, high, low, protocol, hops][..], &source.octets(), &destination.octets(), payload].concat()
}

fn frame(to: [u8; 6], from: [u8; 6], packet: &[u8]) -> Vec<u8> {
    [&to[..], &from, &[0x86, 0xdd], packet].concat()
}

/// An ICMPv6 message with its checksum, in a packet.
fn icmp(source: &str, destination: Ipv6Addr, hops: u8, mut message: Vec<u8>) -> Vec<u8> {
    let sum = checksum::finish(sum(ip(source), destination, 58, &message));
    message[2..4].copy_from_slice(&sum);
    packet(ip(source), destination, 58, hops, &message)
}

fn solicitation(source: &str, target: &str, lladdr: Option<[u8; 6]>) -> Vec<u8> {
    let mut message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &ip(target).octets()].concat();
    if let Some(mac) = lladdr {
        message.extend([1, 1]);
        message.extend(mac);
    }
    icmp(source, solicited_node(target), 255, message)
}

fn advertisement(source: &str, destination: &str, target: &str, mac: [u8; 6], flags: u8) -> Vec<u8> {
    let message = [&[136, 0, 0, 0, flags, 0, 0, 0][..], &ip(target).octets(), &[2, 1], &mac].concat();
    icmp(source, ip(destination), 255, message)
}

fn udp(source: &str, destination: &str, ports: [u16; 2], data: &[u8]) -> Vec<u8> {
    let len = (8 + data.len() as u16).to_be_bytes();
    let mut datagram = [&ports[0].to_be_bytes()[..], &ports[1].to_be_bytes(), &len, &[0, 0], data].concat();
    let sum = checksum::finish(sum(ip(source), ip(destination), 17, &datagram));
    datagram[6..8].copy_from_slice(&sum);
    packet(ip(source), ip(destination), 17, 64, &datagram)
}

fn syn(source: &str, destination: &str, port: u16) -> Vec<u8> {
    let mut segment = [&40_000_u16.to_be_bytes()[..], &port.to_be_bytes()].concat();
    segment.extend([0, 0, 0, 100, 0, 0, 0, 0, 0x60, 2, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5, 0xa0]);
    let sum = checksum::finish(sum(ip(source), ip(destination), 6, &segment));
    segment[16..18].copy_from_slice(&sum);
    packet(ip(source), ip(destination), 6, 64, &segment)
}

/// What the gateway sent: to which station, from and to which address, of which protocol, and the payload.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    to: [u8; 6],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    protocol: u8,
    hops: u8,
    payload: Vec<u8>,
}

struct World {
    gateway: Gateway,
    a: PortId,
    b: PortId,
}

fn config() -> Config {
    Config { seed: 3, subnet6: Some("fd00:1::/64".parse().unwrap()), ..Config::default() }
}

impl World {
    /// Two enclaves of which the gateway has yet to hear.
    fn new(config: Config) -> Self {
        let mut gateway = Gateway::new(config).unwrap();
        let [a, b] = [1, 2].map(|tenant| gateway.attach(tenant, Some(Framing::Hyperkit)).unwrap());
        let mut world = Self { gateway, a, b };
        for port in [a, b] {
            let told = world.sent(port);
            assert_eq!(told.len(), 1);
            assert_eq!(
                (told[0].payload[0], told[0].to),
                (134, group_mac(ip("ff02::1"))),
                "a new link hears of the router"
            );
        }
        world
    }

    /// Both have asked for the gateway.
    fn known(config: Config) -> Self {
        let mut world = Self::new(config);
        for (port, n, address) in [(world.a, 0xa, A), (world.b, 0xb, B)] {
            world.among(port, n, &solicitation(address, GATEWAY, Some(mac(n))));
            assert_eq!(world.sent(port).len(), 1);
        }
        world
    }

    fn handle<'f>(&mut self, port: PortId, frame: &'f [u8]) -> Handled<'f> {
        self.gateway.handle_frame(NOW, port, frame)
    }

    /// A packet to the gateway, or through it.
    fn through(&mut self, port: PortId, n: u8, packet: &[u8]) {
        assert_eq!(self.handle(port, &frame(GATEWAY_MAC, mac(n), packet)), Handled::Done);
    }

    /// A packet to the group that it names.
    fn among(&mut self, port: PortId, n: u8, packet: &[u8]) {
        let group = Ipv6Addr::from(<[u8; 16]>::try_from(&packet[24..40]).unwrap());
        assert_eq!(self.handle(port, &frame(group_mac(group), mac(n), packet)), Handled::Done);
    }

    fn frames(&mut self, port: PortId) -> Vec<Vec<u8>> {
        self.gateway.flush(NOW);
        let mut bytes = self.gateway.pending(port).to_vec();
        self.gateway.consume(port, bytes.len());
        let mut frames = Vec::new();
        while let Some((frame, len)) = Framing::Hyperkit.split(&bytes) {
            frames.push(frame.to_vec());
            bytes.drain(..len);
        }
        frames
    }

    /// What the gateway itself has sent to a link, of which it must send nothing that is wrong.
    fn sent(&mut self, port: PortId) -> Vec<Sent> {
        let frames = self.frames(port);
        let read = |frame: &Vec<u8>| {
            assert_eq!((&frame[6..12], &frame[12..14]), (&GATEWAY_MAC[..], &[0x86, 0xdd][..]));
            let packet = &frame[14..];
            let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
            let (source, destination, protocol) = (address(8), address(24), packet[6]);
            let payload = packet[40..].to_vec();
            assert_eq!(payload.len(), usize::from(u16::from_be_bytes([packet[4], packet[5]])));
            if protocol != 44 {
                assert!(checksum::is_valid(sum(source, destination, protocol, &payload)), "{payload:?}");
            }
            Sent { to: frame[..6].try_into().unwrap(), source, destination, protocol, hops: packet[7], payload }
        };
        frames.iter().map(read).collect()
    }

    fn spoofed(&self) -> u64 {
        self.gateway.counters().spoofed
    }

    fn outputs(&mut self) -> Vec<Output> {
        self.gateway.flush(NOW);
        std::iter::from_fn(|| self.gateway.poll_output())
            .filter(|output| !matches!(output, Output::Frames(_)))
            .collect()
    }

    /// Where a new connection of the first guest leads; `None` if it is reset.
    fn dialed(&mut self, destination: &str, port: u16) -> Option<Target> {
        self.through(self.a, 0xa, &syn(A, destination, port));
        let outputs = self.outputs();
        let dial = outputs.iter().find_map(|output| match output {
            Output::Dial { flow, target, guest } => {
                assert_eq!(*guest, SocketAddr::from((ip(A), 40_000)));
                Some((*flow, *target))
            }
            Output::Flow(_)
            | Output::Closed { .. }
            | Output::SessionClosed(_)
            | Output::SessionRefused(_)
            | Output::Frames(_) => None,
        });
        if let Some((flow, target)) = dial {
            self.gateway.abort(NOW, flow);
            self.frames(self.a);
            return Some(target);
        }
        let [answer] = &self.sent(self.a)[..] else { panic!("neither a dial nor one answer") };
        assert_eq!((answer.source, answer.destination, answer.protocol), (ip(destination), ip(A), 6));
        assert_eq!(answer.payload[13] & 4, 4, "a reset");
        None
    }
}

/// A link says something, so that it is one; not in IPv6.
fn hear(gateway: &mut Gateway, port: PortId, station: u8) {
    let noise = [&GATEWAY_MAC[..], &mac(station), &[8, 6]].concat();
    assert_eq!(gateway.handle_frame(NOW, port, &noise), Handled::Done);
    gateway.flush(NOW);
}

#[test]
fn without_a_prefix_there_is_no_ipv6() {
    let mut gateway = Gateway::new(Config::default()).unwrap();
    let [a, b] = [1, 2].map(|tenant| gateway.attach(tenant, Some(Framing::Hyperkit)).unwrap());
    hear(&mut gateway, b, 0xb);
    assert!(gateway.pending(a).is_empty());
    let solicited = solicitation(A, GATEWAY, Some(mac(0xa)));
    for to in [GATEWAY_MAC, group_mac(solicited_node(GATEWAY)), mac(0xb)] {
        assert_eq!(gateway.handle_frame(NOW, a, &frame(to, mac(0xa), &solicited)), Handled::Done);
    }
    gateway.flush(NOW);
    assert!(gateway.pending(a).is_empty() && gateway.pending(b).is_empty());
    assert_eq!(gateway.counters().unsupported, 3);
    assert_eq!(gateway.poll_timeout(), None);
    assert!(!gateway.is_guest(ip(A).into()));
}

#[test]
fn a_prefix_must_be_one_that_hosts_can_use() {
    let subnet6 = "fd00::/48".parse().unwrap();
    let refused = Gateway::new(Config { subnet6: Some(subnet6), ..Config::default() }).unwrap_err();
    assert_eq!(refused, ConfigError::Subnet6(subnet6));
    assert_eq!(Gateway::new(Config { mtu: 1279, ..config() }).unwrap_err(), ConfigError::Mtu6(1279));
}

#[test]
fn guests_learn_of_router_prefix_and_name_server_when_they_ask_and_every_so_often() {
    let mut world = World::new(config());
    for (port, station) in [(world.a, 0xa), (world.b, 0xb)] {
        hear(&mut world.gateway, port, station);
    }
    assert_eq!(world.gateway.poll_timeout(), None, "nobody speaks IPv6");
    for (source, to) in [("::", "ff02::1"), ("fe80::a", "fe80::a")] {
        world.among(world.a, 0xa, &icmp(source, ip("ff02::2"), 255, vec![133, 0, 0, 0, 0, 0, 0, 0]));
        let [said] = &world.sent(world.a)[..] else { panic!("one answer") };
        assert_eq!((said.source, said.destination, said.to, said.hops), (ip(ROUTER), ip(to), mac(0xa), 255));
        assert_eq!(said.payload[0], 134);
        assert!(said.payload.windows(16).any(|window| window == ip("fd00:1::").octets()));
    }
    assert!(world.frames(world.b).is_empty(), "questions for routers are for routers");
    let mut now = NOW;
    for _ in 0..5 {
        let next = world.gateway.poll_timeout().unwrap();
        let pause = next.since(now);
        assert!(pause >= Duration::from_secs(200) && pause <= Duration::from_secs(600), "{pause:?}");
        now = next;
        world.gateway.handle_timeout(now);
        assert_eq!(world.sent(world.a).len(), 1);
        assert!(world.frames(world.b).is_empty(), "nobody there speaks IPv6");
    }
    world.gateway.detach(world.a);
    world.gateway.handle_timeout(world.gateway.poll_timeout().unwrap());
    assert_eq!(world.gateway.poll_timeout(), None);
}

#[test]
fn the_gateway_answers_for_its_addresses_and_defends_them() {
    let mut world = World::known(config());
    for target in [GATEWAY, HOST, ROUTER] {
        world.among(world.a, 0xa, &solicitation(A, target, Some(mac(0xa))));
        let [said] = &world.sent(world.a)[..] else { panic!("one answer") };
        assert_eq!((said.source, said.destination, said.to, said.hops), (ip(target), ip(A), mac(0xa), 255));
        assert_eq!((said.payload[0], said.payload[4] & 0xe0), (136, 0xe0), "router, solicited, override");
        assert_eq!(said.payload[8..24], ip(target).octets());
        assert_eq!(said.payload[24..], [&[2, 1][..], &GATEWAY_MAC].concat());
        // Duplicate address detection (RFC 4862 section 5.4.3).
        world.among(world.a, 0xa, &solicitation("::", target, None));
        let [said] = &world.sent(world.a)[..] else { panic!("one answer") };
        assert_eq!((said.destination, said.to), (ip("ff02::1"), group_mac(ip("ff02::1"))));
        assert_eq!(said.payload[4] & 0xe0, 0xa0, "not solicited");
        assert!(world.frames(world.b).is_empty());
    }
    // Whoever asks to be the gateway by saying so is not heard.
    for target in [GATEWAY, HOST, ROUTER] {
        let before = world.spoofed();
        world.among(world.a, 0xa, &advertisement(A, "ff02::1", target, mac(0xa), 0x20));
        assert!(world.frames(world.b).is_empty());
        assert_eq!(world.spoofed(), before + 1);
    }
    for source in [GATEWAY, HOST, ROUTER, WORLD] {
        let before = world.spoofed();
        world.through(world.a, 0xa, &udp(source, WORLD, [1, 2], b"not me"));
        assert_eq!(world.spoofed(), before + 1, "{source}");
    }
}

#[test]
fn enclaves_find_and_reach_each_other_and_nobody_takes_anothers_address() {
    let mut world = World::known(config());
    let asked = solicitation(A, B, Some(mac(0xa)));
    world.among(world.a, 0xa, &asked);
    assert_eq!(world.frames(world.b), [frame(group_mac(solicited_node(B)), mac(0xa), &asked)]);
    let said = frame(mac(0xa), mac(0xb), &advertisement(B, A, B, mac(0xb), 0x60));
    world.handle(world.b, &said);
    assert_eq!(world.frames(world.a), [said]);
    for packet in [
        udp(A, B, [1, 2], b"hello"),
        syn(A, B, 80),
        icmp(A, ip(B), 64, vec![128, 0, 0, 0, 0, 1, 0, 1]),
        udp("fe80::a", B, [1, 2], b"on the link"),
    ] {
        let frame = frame(mac(0xb), mac(0xa), &packet);
        world.handle(world.a, &frame);
        assert_eq!(world.frames(world.b), [frame]);
    }
    let spoofed = world.spoofed();
    let lies = [
        advertisement(A, B, GATEWAY, mac(0xa), 0x60),
        advertisement(A, B, A, mac(0xc), 0x60),
        advertisement(B, B, B, mac(0xa), 0x60),
        advertisement(ROUTER, B, ROUTER, mac(0xa), 0xa0),
        udp(GATEWAY, B, [53, 2], b"an answer"),
        udp(B, B, [1, 2], b"from itself"),
        udp(WORLD, B, [1, 2], b"from the world"),
        udp("::", B, [1, 2], b"from nobody"),
        udp(A, B, [547, 546], b"DHCPv6"),
        // A rogue router, a redirect, and a query of listeners is kept.
        icmp("fe80::a", ip("ff02::1"), 255, [&[134, 0, 0, 0, 64, 0, 7, 8][..], &[0; 8]].concat()),
        icmp("fe80::a", ip(B), 255, [&[137, 0, 0, 0, 0, 0, 0, 0][..], &[0xfe; 32]].concat()),
    ];
    for packet in &lies {
        world.handle(world.a, &frame(mac(0xb), mac(0xa), packet));
        assert!(world.frames(world.b).is_empty(), "{packet:?}");
    }
    assert_eq!(world.spoofed(), spoofed + lies.len() as u64);
    // The same to everybody.
    for packet in &lies {
        for group in ["ff02::1", "ff02::1:ff00:b"] {
            world.handle(world.a, &frame(group_mac(ip(group)), mac(0xa), packet));
            assert!(world.frames(world.b).is_empty(), "{packet:?}");
        }
    }
    // What a fragment is cannot be seen in another one (RFC 6980), and what lies behind a routing header not at all.
    let hidden = packet(ip(A), ip(B), 44, 255, &[58, 0, 0, 1, 0, 0, 0, 1, 134, 0, 0, 0, 0, 0, 0, 0]);
    let routed = packet(ip(A), ip(B), 43, 255, &[17, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 8, 0, 0]);
    let unsupported = world.gateway.counters().unsupported;
    for packet in [hidden, routed] {
        world.handle(world.a, &frame(mac(0xb), mac(0xa), &packet));
        assert!(world.frames(world.b).is_empty());
    }
    assert_eq!(world.gateway.counters().unsupported, unsupported + 2);
}

/// An enclave that serves another one, and never asks for the gateway, is known all the same.
#[test]
fn an_address_that_is_used_between_enclaves_only_is_its_users() {
    const C: &str = "fd00:1::c";
    for asks in [false, true] {
        let mut world = World::known(config());
        let c = world.gateway.attach(3, Some(Framing::Hyperkit)).unwrap();
        world.frames(c);
        world.among(world.b, 0xb, &solicitation(B, C, Some(mac(0xb))));
        assert_eq!(world.frames(c).len(), 1);
        // It answers, or asks station to station whether its client is still there.
        let said = advertisement(C, B, C, mac(0xc), 0x60);
        let asked = icmp(C, ip(B), 255, [&[135, 0, 0, 0, 0, 0, 0, 0][..], &ip(B).octets()].concat());
        let honest = frame(mac(0xb), mac(0xc), if asks { &asked } else { &said });
        world.handle(c, &honest);
        assert_eq!(world.frames(world.b), [honest]);
        world.frames(world.a);
        let spoofed = world.spoofed();
        let solicits = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &ip(B).octets(), &[1, 1], &mac(0xa)].concat();
        let lies = [
            advertisement(A, B, C, mac(0xa), 0x60),
            advertisement(C, B, C, mac(0xa), 0x60),
            icmp(C, ip(B), 255, solicits),
            udp(C, B, [1, 2], b"from another"),
        ];
        for packet in &lies {
            world.handle(world.a, &frame(mac(0xb), mac(0xa), packet));
            assert!(world.frames(world.b).is_empty(), "{packet:?}");
        }
        assert_eq!(world.spoofed(), spoofed + lies.len() as u64);
        // The world finds it too, without a question.
        world.frames(c);
        let session = world.gateway.open_session(NOW, SocketAddr::from((ip(C), 53)), SocketAddr::from((ip(WORLD), 9)));
        world.gateway.handle_datagram(NOW, session.unwrap(), b"hello");
        assert_eq!(world.sent(c).iter().map(|sent| (sent.protocol, sent.to)).collect::<Vec<_>>(), [(17, mac(0xc))]);
    }
}

/// An error quotes what it is about (RFC 4443 section 2.4): of two that talk, a third one can say nothing.
#[test]
fn an_enclave_tells_another_of_errors_about_what_was_sent_to_itself_only() {
    const C: &str = "fd00:1::c";
    let mut world = World::known(config());
    let c = world.gateway.attach(3, Some(Framing::Hyperkit)).unwrap();
    world.among(c, 0xc, &solicitation(C, GATEWAY, Some(mac(0xc))));
    world.frames(c);
    for kind in 1..=4 {
        let error = |quoted: &[u8]| {
            let message = [&[kind, 0, 0, 0, 0, 0, 5, 0][..], quoted].concat();
            frame(mac(0xb), mac(0xa), &icmp(A, ip(B), 64, message))
        };
        let honest = error(&udp(B, A, [1, 2], b"to itself"));
        world.handle(world.a, &honest);
        assert_eq!(world.frames(world.b), [honest]);
        let spoofed = world.spoofed();
        for about in [C, WORLD, GATEWAY, "ff02::1"] {
            world.handle(world.a, &error(&udp(B, about, [1, 2], b"to another")));
            assert!(world.frames(world.b).is_empty(), "{kind} about {about}");
        }
        // Too short to tell, no packet of IPv6, and nothing.
        let short = udp(B, A, [1, 2], b"");
        for quoted in [&short[..39], &[&[0x45][..], &short[1..]].concat(), &[]] {
            world.handle(world.a, &error(quoted));
            assert!(world.frames(world.b).is_empty());
        }
        assert_eq!(world.spoofed(), spoofed + 7);
    }
}

#[test]
fn connections_lead_where_the_policy_lets_them() {
    let policy = PolicyConfig { deny: vec!["10.0.0.0/8".parse().unwrap()], ..PolicyConfig::default() };
    let mut world = World::known(Config { policy: policy.clone(), ..config() });
    assert_eq!(world.dialed(WORLD, 80), Some(Target::Address(SocketAddr::from((ip(WORLD), 80)))));
    assert_eq!(world.dialed(GATEWAY, 53), Some(Target::Dns));
    for nobody in [
        GATEWAY,
        HOST,
        B,
        "fd00:1::",
        "fe80::77",
        "::1",
        "fd00:ec2::254",
        // An IPv4 address in other clothes is what it is: denied, the metadata service, the gateway, the loopback.
        "64:ff9b::10.1.2.3",
        "64:ff9b::169.254.169.254",
        "64:ff9b::192.168.127.1",
        "64:ff9b::127.0.0.1",
        "::ffff:10.1.2.3",
        "::ffff:203.0.113.9",
        "::ffff:127.0.0.1",
        "::203.0.113.9",
    ] {
        assert_eq!(world.dialed(nobody, 80), None, "{nobody}");
    }
    let translated = "64:ff9b::203.0.113.9";
    assert_eq!(world.dialed(translated, 80), Some(Target::Address(SocketAddr::from((ip(translated), 80)))));

    let policy = PolicyConfig { host_loopback: true, imds: true, ..policy };
    let mut world = World::known(Config { policy, ..config() });
    let loopback = Target::Address(SocketAddr::from((Ipv6Addr::LOCALHOST, 80)));
    assert_eq!(world.dialed(HOST, 80), Some(loopback));
    assert!(world.dialed("fd00:ec2::254", 80).is_some());
    assert_eq!(world.dialed("fe80::77", 80), None, "an address of some link of the host");
}

#[test]
fn a_world_that_cannot_be_reached_is_said_to_be() {
    for (error, code) in
        [(DialError::NetworkUnreachable, 0), (DialError::Prohibited, 1), (DialError::HostUnreachable, 3)]
    {
        let mut world = World::known(config());
        let syn = syn(A, WORLD, 80);
        world.through(world.a, 0xa, &syn);
        let Some(Output::Dial { flow, .. }) = world.outputs().first().copied() else { panic!("no dial") };
        world.gateway.handle_dialed(NOW, flow, Err(error));
        let [said] = &world.sent(world.a)[..] else { panic!("one answer") };
        assert_eq!((said.protocol, said.payload[..2].to_vec()), (58, vec![1, code]), "{error:?}");
        assert_eq!(said.payload[8..], syn, "all of it is quoted");
    }
}

#[test]
fn datagrams_pass_both_ways_and_their_errors_come_back() {
    let mut world = World::known(config());
    let sent = frame(GATEWAY_MAC, mac(0xa), &udp(A, WORLD, [5000, 9], b"ping"));
    let Handled::Datagram { session, kind, to, payload, .. } = world.handle(world.a, &sent) else {
        panic!("no datagram")
    };
    assert_eq!((kind, to, &payload[..]), (Kind::Udp, SocketAddr::from((ip(WORLD), 9)), &b"ping"[..]));
    world.gateway.handle_datagram(NOW, session, b"pong");
    let [said] = &world.sent(world.a)[..] else { panic!("one answer") };
    assert_eq!((said.source, said.destination, said.protocol, said.to), (ip(WORLD), ip(A), 17, mac(0xa)));
    assert_eq!((&said.payload[..4], &said.payload[8..]), (&[0, 9, 0x13, 0x88][..], &b"pong"[..]));
    for (error, from, kind) in [
        (SessionError::Refused, WORLD, [1, 4]),
        (SessionError::HostUnreachable, GATEWAY, [1, 3]),
        (SessionError::NetworkUnreachable, GATEWAY, [1, 0]),
        (SessionError::Prohibited, GATEWAY, [1, 1]),
        (SessionError::TooLong(1400), GATEWAY, [2, 0]),
        (SessionError::TooLong(600), GATEWAY, [2, 0]),
    ] {
        world.gateway.handle_session_error(session, error);
        let [said] = &world.sent(world.a)[..] else { panic!("one error") };
        assert_eq!((said.source, &said.payload[..2]), (ip(from), &kind[..]), "{error:?}");
        if let SessionError::TooLong(mtu) = error {
            assert_eq!(said.payload[4..8], u32::from(mtu).max(1280).to_be_bytes());
        }
        assert_eq!(said.payload[8..][8..40], [ip(A).octets(), ip(WORLD).octets()].concat());
        assert_eq!(said.payload[48..52], [0x13, 0x88, 0, 9]);
    }
    // What is denied, and what nobody has.
    for (to, code) in [("fd00:ec2::254", 1), ("::ffff:203.0.113.9", 1), (B, 4), ("fe80::77", 4)] {
        world.through(world.a, 0xa, &udp(A, to, [5000, 9], b"hello"));
        let answers = world.sent(world.a);
        if to == "fe80::77" {
            assert!(answers.is_empty(), "no address of this network");
            continue;
        }
        let [said] = &answers[..] else { panic!("one error about {to}") };
        assert_eq!(said.payload[..2], [1, code], "{to}");
    }
}

#[test]
fn a_datagram_without_a_checksum_is_dropped_and_one_that_is_too_long_is_answered() {
    let mut world = World::known(Config { mtu: 9000, ..config() });
    let mut unchecked = udp(A, WORLD, [5000, 9], b"ping");
    unchecked[46..48].fill(0);
    world.through(world.a, 0xa, &unchecked);
    assert_eq!(world.gateway.counters().malformed, 1);
    let long = udp(A, WORLD, [5000, 9], &[7; 2000]);
    world.through(world.a, 0xa, &long);
    let [said] = &world.sent(world.a)[..] else { panic!("one error") };
    assert_eq!(
        (said.payload[..2].to_vec(), said.payload[4..8].to_vec()),
        (vec![2, 0], 1500_u32.to_be_bytes().to_vec())
    );
    assert_eq!(40 + said.payload.len(), 1280, "as much is quoted as fits everywhere");
    assert_eq!(said.payload[8..], long[..1232]);
}

#[test]
fn options_are_walked_over_and_fragments_come_together() {
    let mut world = World::known(config());
    let plain = udp(A, WORLD, [5000, 9], &[7; 3000]);
    let datagram = &plain[40..];
    let options = [&[60, 0, 1, 4, 0, 0, 0, 0][..], &[17, 0, 1, 4, 0, 0, 0, 0], datagram].concat();
    let sent = frame(GATEWAY_MAC, mac(0xa), &packet(ip(A), ip(WORLD), 0, 64, &options[..16 + 8 + 100]));
    world.handle(world.a, &sent);
    assert_eq!(world.gateway.counters().malformed, 1, "a datagram that is longer than its packet");
    let short = udp(A, WORLD, [5000, 9], b"behind options");
    let options = [&[60, 0, 1, 4, 0, 0, 0, 0][..], &[17, 0, 1, 4, 0, 0, 0, 0], &short[40..]].concat();
    let sent = frame(GATEWAY_MAC, mac(0xa), &packet(ip(A), ip(WORLD), 0, 64, &options));
    let Handled::Datagram { payload, .. } = world.handle(world.a, &sent) else { panic!("no datagram") };
    assert_eq!(&payload[..], b"behind options");
    let piece = |world: &mut World, offset: u16, more: u16, range: std::ops::Range<usize>| {
        let head = [&[17, 0][..], &(offset | more).to_be_bytes(), &[0, 0, 0, 9]].concat();
        let fragment = packet(ip(A), ip(WORLD), 44, 64, &[&head[..], &datagram[range]].concat());
        match world.gateway.handle_frame(NOW, world.a, &frame(GATEWAY_MAC, mac(0xa), &fragment)) {
            Handled::Datagram { payload, .. } => Some(payload.into_owned()),
            Handled::Done | Handled::Rest { .. } | Handled::Dns { .. } => None,
        }
    };
    assert_eq!(piece(&mut world, 1400, 1, 1400..2800), None);
    assert_eq!(piece(&mut world, 2800, 0, 2800..datagram.len()), None);
    assert_eq!(piece(&mut world, 0, 1, 0..1400), Some(vec![7; 3000]));
    let routed = packet(ip(A), ip(WORLD), 43, 64, &[17, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 8, 0, 0]);
    let unsupported = world.gateway.counters().unsupported;
    world.through(world.a, 0xa, &routed);
    assert_eq!(world.gateway.counters().unsupported, unsupported + 1);
}

#[test]
fn a_long_answer_comes_in_fragments() {
    let mut world = World::known(config());
    let sent = frame(GATEWAY_MAC, mac(0xa), &udp(A, WORLD, [5000, 9], b"more"));
    let Handled::Datagram { session, .. } = world.handle(world.a, &sent) else { panic!("no datagram") };
    let data: Vec<u8> = (0..5000_u32).map(|n| n as u8).collect();
    world.gateway.handle_datagram(NOW, session, &data);
    let pieces = world.sent(world.a);
    assert_eq!(pieces.len(), 4);
    let mut whole = Vec::new();
    for (n, piece) in pieces.iter().enumerate() {
        assert!(piece.protocol == 44 && 40 + piece.payload.len() <= 1500);
        let offset = u16::from_be_bytes([piece.payload[2], piece.payload[3]]);
        assert_eq!((usize::from(offset & !7), offset & 1 == 1), (whole.len(), n < 3));
        whole.extend(&piece.payload[8..]);
    }
    assert!(checksum::is_valid(sum(ip(WORLD), ip(A), 17, &whole)));
    assert_eq!(whole[8..], data);
}

/// RFC 8200 section 4.5: 32 bits, which begin anywhere (RFC 7739), and are no other protocol's.
#[test]
fn fragments_are_numbered_with_32_bits_of_their_own() {
    let first = |seed: u64| {
        let mut world = World::known(Config { seed, ..config() });
        let sent = frame(GATEWAY_MAC, mac(0xa), &udp(A, WORLD, [5000, 9], b"more"));
        let Handled::Datagram { session, .. } = world.handle(world.a, &sent) else { panic!("no datagram") };
        let mut echo4 = vec![0x45, 0, 7, 228, 0, 0, 0, 0, 64, 1, 0, 0, 192, 168, 127, 2, 192, 168, 127, 1];
        let mut message = [&[8, 0, 0, 0][..], &[7; 1996]].concat();
        let sum4 = checksum::finish(checksum::add(0, &message));
        message[2..4].copy_from_slice(&sum4);
        echo4.extend(message);
        let mut numbers = Vec::new();
        for _ in 0..3 {
            world.gateway.handle_datagram(NOW, session, &[7; 2000]);
            let of = |piece: &Sent| u32::from_be_bytes(piece.payload[4..8].try_into().unwrap());
            let pieces: Vec<u32> = world.sent(world.a).iter().map(of).collect();
            assert!(pieces.len() == 2 && pieces[0] == pieces[1]);
            numbers.push(pieces[0]);
            world.handle(world.a, &[&GATEWAY_MAC[..], &mac(0xa), &[8, 0], &echo4].concat());
            assert_eq!(world.frames(world.a).len(), 2, "fragments of IPv4");
        }
        assert_eq!(numbers, [0, 1, 2].map(|n| numbers[0].wrapping_add(n)));
        numbers[0]
    };
    let firsts = [1, 2, 3].map(first);
    assert!(firsts.iter().all(|first| *first > 0xffff), "{firsts:?}");
    assert!(firsts[0] != firsts[1] && firsts[1] != firsts[2] && firsts[0] != firsts[2]);
}

/// Later pieces begin with whatever the datagram has there: here, with what would be a neighbor advertisement.
#[test]
fn a_long_ping_comes_together_whatever_it_carries() {
    let mut world = World::known(config());
    let whole = icmp(A, ip(WORLD), 64, [&[128, 0, 0, 0, 0, 7, 0, 1][..], &[136; 2000]].concat());
    let message = &whole[40..];
    let mut arrived = None;
    for (offset, more) in [(0_u16, 1), (1000, 0)] {
        let end = if more == 1 { 1000 } else { message.len() };
        let head = [&[58, 0][..], &(offset | more).to_be_bytes(), &[0, 0, 0, 9]].concat();
        let piece = [&head[..], &message[usize::from(offset)..end]].concat();
        let piece = frame(GATEWAY_MAC, mac(0xa), &packet(ip(A), ip(WORLD), 44, 64, &piece));
        if let Handled::Datagram { payload, .. } = world.gateway.handle_frame(NOW, world.a, &piece) {
            arrived = Some(payload.into_owned());
        }
    }
    assert_eq!(arrived.as_deref(), Some(message));
    assert_eq!(world.gateway.counters().malformed, 0);
}

#[test]
fn the_gateway_and_the_world_answer_pings() {
    let mut world = World::known(config());
    let echo = vec![128, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3];
    for (to, reply) in [(GATEWAY, true), (HOST, true), (ROUTER, true), (B, false)] {
        world.through(world.a, 0xa, &icmp(A, ip(to), 64, echo.clone()));
        let [said] = &world.sent(world.a)[..] else { panic!("one answer from {to}") };
        assert_eq!((said.payload[0], said.source), if reply { (129, ip(to)) } else { (1, ip(B)) });
    }
    let request = frame(GATEWAY_MAC, mac(0xa), &icmp(A, ip(WORLD), 64, echo.clone()));
    let Handled::Datagram { session, kind, to, payload, .. } = world.handle(world.a, &request) else {
        panic!("no ping")
    };
    assert_eq!((kind, to.ip(), payload[0]), (Kind::Ping, ip(WORLD).into(), 128));
    // The kernel has put an identifier of its own.
    world.gateway.handle_datagram(NOW, session, &[129, 0, 9, 9, 1, 1, 0, 1, 1, 2, 3]);
    let [said] = &world.sent(world.a)[..] else { panic!("one answer") };
    assert_eq!((said.source, said.payload[0], &said.payload[4..]), (ip(WORLD), 129, &echo[4..]));
    let mut wrong = icmp(A, ip(GATEWAY), 64, echo);
    wrong[43] ^= 1;
    world.through(world.a, 0xa, &wrong);
    assert!(world.sent(world.a).is_empty());
    assert_eq!(world.gateway.counters().malformed, 1);
}

/// A link is gone while the world thinks about a ping: the guest that asks again on another one gets an answer to that.
#[test]
fn an_answer_to_a_ping_over_the_next_link_is_an_echo_reply() {
    let mut world = World::known(config());
    let guest = [192, 168, 127, 2];
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac(0xa), &guest, &[0; 6], &[192, 168, 127, 1]].concat();
    let arp = [&[0xff; 6][..], &mac(0xa), &[8, 6], &arp].concat();
    let mut echo4 = vec![0x45, 0, 0, 31, 0, 0, 0, 0, 64, 1, 0, 0, 192, 168, 127, 2, 203, 0, 113, 9];
    let mut message = vec![8, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3];
    let sum4 = checksum::finish(checksum::add(0, &message));
    message[2..4].copy_from_slice(&sum4);
    echo4.extend(message);
    let echo4 = [&GATEWAY_MAC[..], &mac(0xa), &[8, 0], &echo4].concat();
    let echo6 = icmp(A, ip(WORLD), 64, vec![128, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3]);
    let echo6 = frame(GATEWAY_MAC, mac(0xa), &echo6);
    let here = frame(GATEWAY_MAC, mac(0xa), &solicitation(A, B, Some(mac(0xa))));
    for (request, reply, here) in [(&echo6, 129, &here), (&echo4, 0, &arp)] {
        let Handled::Datagram { session, .. } = world.handle(world.a, request) else { panic!("no ping") };
        world.gateway.detach(world.a);
        let before = world.gateway.counters();
        world.gateway.handle_datagram(NOW, session, &[reply, 0, 9, 9, 1, 1, 0, 1, 1, 2, 3]);
        world.a = world.gateway.attach(1, Some(Framing::Hyperkit)).unwrap();
        world.frames(world.a);
        world.handle(world.a, here);
        world.frames(world.a);
        assert_eq!(world.gateway.counters().datagrams_out, before.datagrams_out, "whoever is there now has not asked");
        let Handled::Datagram { session: again, .. } = world.handle(world.a, request) else { panic!("no ping") };
        assert_eq!(again, session);
        world.gateway.handle_datagram(NOW, session, &[reply, 0, 9, 9, 1, 1, 0, 1, 1, 2, 3]);
        let frames = world.frames(world.a);
        let [said, ..] = &frames[..] else { panic!("no answer") };
        let head = 14 + if reply == 129 { 40 } else { 20 };
        assert_eq!(said[head - if reply == 129 { 34 } else { 11 }], if reply == 129 { 58 } else { 1 });
        assert_eq!((said[head], &said[head + 4..]), (reply, &[0, 7, 0, 1, 1, 2, 3][..]));
        assert_eq!(world.gateway.counters().datagrams_out, before.datagrams_out + 1);
    }
}

#[test]
fn questions_about_names_are_answered_by_the_address_that_was_asked() {
    let mut world = World::known(config());
    for server in [GATEWAY, ROUTER] {
        let sent = frame(GATEWAY_MAC, mac(0xa), &udp(A, server, [5000, 53], b"what is"));
        let Handled::Dns { client, query } = world.handle(world.a, &sent) else { panic!("no question") };
        assert_eq!(&query[..], b"what is");
        world.gateway.handle_dns_answer(client, b"this");
        let [said] = &world.sent(world.a)[..] else { panic!("one answer") };
        assert_eq!((said.source, said.destination, &said.payload[8..]), (ip(server), ip(A), &b"this"[..]));
    }
}

#[test]
fn a_guest_that_the_world_wants_is_asked_for() {
    let mut world = World::new(config());
    let client: SocketAddr = "[2001:db8::77]:4000".parse().unwrap();
    let session = world.gateway.open_session(NOW, SocketAddr::from((ip(A), 53)), client).unwrap();
    world.gateway.handle_datagram(NOW, session, b"hello");
    for port in [world.a, world.b] {
        let [asked] = &world.sent(port)[..] else { panic!("one question") };
        assert_eq!((asked.source, asked.destination, asked.hops), (ip(GATEWAY), solicited_node(A), 255));
        assert_eq!(asked.to, group_mac(solicited_node(A)));
        assert_eq!((asked.payload[0], &asked.payload[8..24]), (135, &ip(A).octets()[..]));
    }
    world.through(world.a, 0xa, &advertisement(A, GATEWAY, A, mac(0xa), 0x60));
    let [said] = &world.sent(world.a)[..] else { panic!("the datagram") };
    assert_eq!((said.source, said.to, &said.payload[8..]), (ip(GATEWAY), mac(0xa), &b"hello"[..]));
    let answer = frame(
        GATEWAY_MAC,
        mac(0xa),
        &udp(A, GATEWAY, [53, u16::from_be_bytes([said.payload[0], said.payload[1]])], b"hi"),
    );
    let Handled::Datagram { to, payload, .. } = world.handle(world.a, &answer) else { panic!("no answer") };
    assert_eq!((to, &payload[..]), (client, &b"hi"[..]));
    for nobody in [GATEWAY, HOST, ROUTER, WORLD, "fe80::a"] {
        assert!(world.gateway.open_session(NOW, SocketAddr::from((ip(nobody), 53)), client).is_err(), "{nobody}");
        assert!(world.gateway.connect(NOW, SocketAddr::from((ip(nobody), 53))).is_err(), "{nobody}");
    }
}

#[test]
fn no_enclave_tells_another_that_it_cannot_have_an_address() {
    let mut world = World::known(config());
    let wanted = "fd00:1::77";
    world.among(world.a, 0xa, &solicitation("::", wanted, None));
    assert!(world.frames(world.b).is_empty(), "nobody is asked");
    // The other one knows all the same: it wants the address too, or says to have it.
    for packet in [solicitation("::", wanted, None), advertisement(B, "ff02::1", wanted, mac(0xb), 0x20)] {
        world.among(world.b, 0xb, &packet);
        assert!(world.frames(world.a).is_empty());
    }
    for source in [B, wanted] {
        let said = advertisement(source, A, wanted, mac(0xb), 0x60);
        world.handle(world.b, &frame(mac(0xa), mac(0xb), &said));
        assert!(world.frames(world.a).is_empty());
    }
    // What is asked for in earnest is answered.
    world.among(world.a, 0xa, &solicitation(A, B, Some(mac(0xa))));
    world.frames(world.b);
    let said = frame(mac(0xa), mac(0xb), &advertisement(B, A, B, mac(0xb), 0x60));
    world.handle(world.b, &said);
    assert_eq!(world.frames(world.a), [said]);
    // A probe counts for more than a question, and a link remembers so many of its probes.
    let said = frame(mac(0xa), mac(0xb), &advertisement(B, A, wanted, mac(0xb), 0x60));
    for n in 0..16 {
        world.among(world.a, 0xa, &solicitation(A, wanted, Some(mac(0xa))));
        world.frames(world.b);
        world.handle(world.b, &said);
        assert!(world.frames(world.a).is_empty());
        world.among(world.a, 0xa, &solicitation("::", &format!("fd00:1::{:x}", 0x100 + n), None));
    }
    world.handle(world.b, &said);
    assert_eq!(world.frames(world.a), [said]);
}

/// A guest also gives up an address that it has yet to probe.
#[test]
fn an_enclave_is_told_only_what_it_has_lately_asked_for() {
    let mut world = World::known(config());
    let said = |target: &str| frame(mac(0xa), mac(0xb), &advertisement(B, A, target, mac(0xb), 0x60));
    let told = |world: &mut World, now: Instant, target: &str| {
        assert_eq!(world.gateway.handle_frame(now, world.b, &said(target)), Handled::Done);
        let frames = world.frames(world.a);
        assert!(frames.is_empty() || frames == [said(target)]);
        !frames.is_empty()
    };
    assert!(!told(&mut world, NOW, B) && !told(&mut world, NOW, "fd00:1::77"), "nobody has asked");
    assert_eq!(world.gateway.counters().spoofed, 0, "it may be true");
    // To all, or from station to station (RFC 4861 section 7.3.3); for three seconds.
    let unicast = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &ip(B).octets()].concat();
    let unicast = frame(mac(0xb), mac(0xa), &icmp(A, ip(B), 255, unicast));
    let multicast = frame(group_mac(solicited_node(B)), mac(0xa), &solicitation(A, B, Some(mac(0xa))));
    for (second, asked) in [(10, unicast), (20, multicast)] {
        let at = |millis| NOW + Duration::from_secs(second) + Duration::from_millis(millis);
        assert!(!told(&mut world, at(0), B));
        world.gateway.handle_frame(at(0), world.a, &asked);
        assert_eq!(world.frames(world.b), [asked]);
        assert!(told(&mut world, at(0), B) && told(&mut world, at(2999), B));
        assert!(!told(&mut world, at(0), "fd00:1::77"), "another address");
        assert!(!told(&mut world, at(3000), B));
    }
    // What one has asked, another one has not.
    let now = NOW + Duration::from_secs(30);
    let asked = solicitation(B, A, Some(mac(0xb)));
    world.gateway.handle_frame(now, world.b, &frame(group_mac(solicited_node(A)), mac(0xb), &asked));
    world.frames(world.a);
    assert!(!told(&mut world, now, B));
    // So many at a time: the oldest one makes room.
    let target = |n: u32| format!("fd00:1::1:{n:x}");
    for n in 0..=256 {
        let asked = solicitation(A, &target(n), Some(mac(0xa)));
        world.gateway.handle_frame(now, world.a, &frame(group_mac(solicited_node(&target(n))), mac(0xa), &asked));
        world.frames(world.b);
    }
    assert!(
        !told(&mut world, now, &target(0)) && told(&mut world, now, &target(1)) && told(&mut world, now, &target(256))
    );
}

/// Two stock enclaves with one image have one hardware address, and make the same addresses of it.
#[test]
fn twins_both_reach_the_world() {
    let mut world = World::known(config());
    world.frames(world.a);
    // The second one tries its address: the first one must not hear of it.
    world.among(world.b, 0xa, &solicitation("::", A, None));
    assert!(world.frames(world.a).is_empty());
    world.among(world.b, 0xa, &icmp("fe80::a", ip("ff02::2"), 255, vec![133, 0, 0, 0, 0, 0, 0, 0]));
    world.among(world.b, 0xa, &solicitation(A, GATEWAY, Some(mac(0xa))));
    assert_eq!(world.sent(world.b).iter().map(|sent| sent.payload[0]).collect::<Vec<_>>(), [134, 136]);
    for port in [world.a, world.b] {
        world.through(port, 0xa, &syn(A, WORLD, 80));
        let Some(Output::Dial { flow, .. }) = world.outputs().first().copied() else { panic!("no dial") };
        world.gateway.handle_dialed(NOW, flow, Ok(()));
        let [said] = &world.sent(port)[..] else { panic!("one answer") };
        assert_eq!((said.source, said.payload[13]), (ip(WORLD), 0x12), "SYN and ACK");
    }
}
