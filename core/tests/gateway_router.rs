//! The gateway as a router between guests and the world: hop limits of both families, and destinations known by name.

#![expect(clippy::unwrap_used, reason = "helpers of tests may")]

use nitrotap_core::{
    frame::Framing,
    gateway::{
        Closed, Config, DialError, Gateway, Handled, Output, PortId,
        policy::{PolicyConfig, Proto, Verdict},
    },
    offload::checksum,
    time::Instant,
};
use std::net::IpAddr;

const GATEWAY_MAC: [u8; 6] = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd];
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ECHO: [u8; 8] = [8, 0, 0, 0, 0, 7, 0, 3];
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The addresses of one family, and where things are in its packets.
#[derive(Clone, Copy)]
struct Family {
    guest: &'static str,
    gateway: &'static str,
    host: &'static str,
    world: &'static str,
    router: &'static str,
    /// Bytes of a header, and where protocol and hop limit are in it.
    head: usize,
    protocol_at: usize,
    hops_at: usize,
    icmp: u8,
    /// Types of Echo and Time Exceeded.
    kinds: [u8; 2],
}

const FAMILIES: [Family; 2] = [
    Family {
        guest: "192.168.127.2",
        gateway: "192.168.127.1",
        host: "192.168.127.254",
        world: "203.0.113.9",
        router: "198.51.100.1",
        head: 20,
        protocol_at: 9,
        hops_at: 8,
        icmp: 1,
        kinds: [8, 11],
    },
    Family {
        guest: "fd00:1::a",
        gateway: "fd00:1::1",
        host: "fd00:1::fe",
        world: "2001:db8::9",
        router: "2001:db8::1",
        head: 40,
        protocol_at: 6,
        hops_at: 7,
        icmp: 58,
        kinds: [128, 3],
    },
];

fn octets(text: &str) -> Vec<u8> {
    match text.parse().unwrap() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

impl Family {
    fn packet(&self, to: &str, protocol: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; self.head];
        let len = payload.len() as u16;
        if self.head == 20 {
            packet[0] = 0x45;
            packet[2..4].copy_from_slice(&(20 + len).to_be_bytes());
        } else {
            packet[0] = 0x60;
            packet[4..6].copy_from_slice(&len.to_be_bytes());
        }
        (packet[self.protocol_at], packet[self.hops_at]) = (protocol, hops);
        let addresses = [octets(self.guest), octets(to)].concat();
        packet.truncate(self.head - addresses.len());
        [packet, addresses, payload.to_vec()].concat()
    }

    /// An ICMP message with its checksum.
    fn icmp(&self, to: &str, hops: u8, mut message: Vec<u8>) -> Vec<u8> {
        let mut sum = 0;
        if self.head == 40 {
            let pseudo = [octets(self.guest), octets(to), vec![0, 0, 0, message.len() as u8, 0, 0, 0, 58]].concat();
            sum = checksum::add(0, &pseudo);
        }
        let sum = checksum::finish(checksum::add(sum, &message));
        message[2..4].copy_from_slice(&sum);
        self.packet(to, self.icmp, hops, &message)
    }

    fn echo(&self, to: &str, hops: u8) -> Vec<u8> {
        let mut message = ECHO.to_vec();
        message[0] = self.kinds[0];
        self.icmp(to, hops, message)
    }

    fn udp(&self, to: &str, hops: u8) -> Vec<u8> {
        let mut datagram = vec![0x9c, 0x40, 0x82, 0x9b, 0, 12, 0, 0, 1, 2, 3, 4];
        // Nothing verifies it but that it is there.
        datagram[6] = 1;
        self.packet(to, UDP, hops, &datagram)
    }

    fn syn(&self, to: &str, hops: u8) -> Vec<u8> {
        let segment = [0x9c, 0x40, 0, 80, 0, 0, 0, 9, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0];
        self.packet(to, TCP, hops, &segment)
    }

    /// What completes the handshake with this SYN-ACK.
    fn ack(&self, to: &str, syn_ack: &[u8]) -> Vec<u8> {
        let sequence = u32::from_be_bytes(syn_ack[self.head + 4..self.head + 8].try_into().unwrap()).wrapping_add(1);
        let head = [0x9c, 0x40, 0, 80, 0, 0, 0, 10];
        let segment = [&head[..], &sequence.to_be_bytes(), &[0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]].concat();
        self.packet(to, TCP, 64, &segment)
    }
}

struct World {
    gateway: Gateway,
    port: PortId,
    now: Instant,
}

impl World {
    fn new(policy: PolicyConfig) -> Self {
        let config = Config { seed: 3, subnet6: Some("fd00:1::/64".parse().unwrap()), policy, ..Config::default() };
        let mut gateway = Gateway::new(config).unwrap();
        let port = gateway.attach(1, Some(Framing::Hyperkit)).unwrap();
        let mut world = Self { gateway, port, now: Instant::from_millis(1000) };
        world.frames();
        world
    }

    fn send(&mut self, packet: &[u8]) -> Handled<'static> {
        let kind: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
        let frame = [&GATEWAY_MAC[..], &MAC, &kind, packet].concat();
        match self.gateway.handle_frame(self.now, self.port, &frame) {
            Handled::Datagram { session, kind, to, payload, hop_limit } => {
                Handled::Datagram { session, kind, to, payload: payload.into_owned().into(), hop_limit }
            }
            Handled::Done => Handled::Done,
            other @ (Handled::Rest { .. } | Handled::Dns { .. }) => panic!("{other:?}"),
        }
    }

    fn outputs(&mut self) -> Vec<Output> {
        self.gateway.flush(self.now);
        std::iter::from_fn(|| self.gateway.poll_output()).collect()
    }

    /// Packets for the guest.
    fn frames(&mut self) -> Vec<Vec<u8>> {
        self.gateway.flush(self.now);
        let mut bytes = self.gateway.pending(self.port).to_vec();
        self.gateway.consume(self.port, bytes.len());
        let mut frames = Vec::new();
        while let Some((frame, len)) = Framing::Hyperkit.split(&bytes) {
            frames.push(frame[14..].to_vec());
            bytes.drain(..len);
        }
        frames
    }
}

/// Who says, of what kind, and what it quotes.
fn error(family: &Family, packet: &[u8]) -> (IpAddr, u8, Vec<u8>) {
    assert_eq!(packet[family.protocol_at], family.icmp);
    let source = if family.head == 20 {
        IpAddr::from(<[u8; 4]>::try_from(&packet[12..16]).unwrap())
    } else {
        IpAddr::from(<[u8; 16]>::try_from(&packet[8..24]).unwrap())
    };
    (source, packet[family.head], packet[family.head + 8..].to_vec())
}

#[test]
fn the_first_hop_of_a_guest_is_the_gateway() {
    for family in FAMILIES {
        for hops in [0, 1] {
            let mut world = World::new(PolicyConfig::default());
            for packet in
                [family.udp(family.world, hops), family.echo(family.world, hops), family.syn(family.world, hops)]
            {
                assert_eq!(world.send(&packet), Handled::Done);
                assert!(!world.outputs().iter().any(|output| matches!(output, Output::Dial { .. })));
                let [answer] = &world.frames()[..] else { panic!("one answer") };
                let (from, kind, quoted) = error(&family, answer);
                assert_eq!((from, kind), (family.gateway.parse().unwrap(), family.kinds[1]));
                assert_eq!(quoted[..family.head + 8], packet[..family.head + 8], "by which it is known");
            }
            assert_eq!(world.gateway.counters().hop_limit, 3);
            // About an error there is none.
            let mut unreachable = [&[1, 0, 0, 0, 0, 0, 0, 0][..], &family.udp(family.world, 9)].concat();
            unreachable[0] = if family.head == 20 { 3 } else { 1 };
            assert_eq!(world.send(&family.icmp(family.world, hops, unreachable)), Handled::Done);
            assert!(world.frames().is_empty());
        }
    }
}

#[test]
fn what_is_for_the_gateway_itself_has_arrived() {
    for family in FAMILIES {
        let mut world = World::new(PolicyConfig::default());
        for to in [family.gateway, family.host] {
            world.send(&family.echo(to, 1));
            let [answer] = &world.frames()[..] else { panic!("one answer") };
            assert_eq!(answer[family.head], if family.head == 20 { 0 } else { 129 });
        }
    }
}

#[test]
fn datagrams_go_on_with_one_hop_less_and_routers_beyond_are_heard() {
    for family in FAMILIES {
        let mut world = World::new(PolicyConfig::default());
        for (n, packet) in [family.udp(family.world, 5), family.echo(family.world, 5)].into_iter().enumerate() {
            let Handled::Datagram { session, hop_limit, .. } = world.send(&packet) else { panic!("no datagram") };
            assert_eq!(hop_limit, 4);
            // The kernel quotes what it sent: a ping with an identifier of its own.
            let message = [family.kinds[0], 0, 1, 1, 9, 9, 0, 3];
            let router: IpAddr = family.router.parse().unwrap();
            world.gateway.handle_session_expired(session, router, if n == 0 { b"payload" } else { &message });
            let [answer] = &world.frames()[..] else { panic!("one answer") };
            let (from, kind, quoted) = error(&family, answer);
            assert_eq!((from, kind), (router, family.kinds[1]));
            assert_eq!(
                quoted[family.head - if family.head == 20 { 8 } else { 32 }..family.head],
                packet[family.head - if family.head == 20 { 8 } else { 32 }..family.head]
            );
            let ports_or_sequence = if n == 0 { 0..4 } else { 4..8 };
            assert_eq!(quoted[family.head..][ports_or_sequence.clone()], packet[family.head..][ports_or_sequence]);
            // A router that has an address of ours is none that a guest may hear of.
            world.gateway.handle_session_expired(session, family.host.parse().unwrap(), &message);
            let [answer] = &world.frames()[..] else { panic!("one answer") };
            assert_eq!(error(&family, answer).0, family.gateway.parse::<IpAddr>().unwrap());
        }
    }
}

/// An app keeps the address that it once looked up: pools of connections, runtimes that cache for ever.
#[test]
fn an_address_stays_open_as_long_as_a_connection_or_a_session_uses_it() {
    for family in FAMILIES {
        let by_name = || PolicyConfig { allow: vec!["db.example".parse().unwrap()], ..PolicyConfig::default() };
        let address: IpAddr = family.world.parse().unwrap();
        let hour = std::time::Duration::from_secs(3600);
        let open =
            |world: &mut World| world.gateway.policy().verdict(world.now, Proto::Tcp, address, 80) == Verdict::Allow;

        let mut world = World::new(by_name());
        world.gateway.policy().learn(world.now, "db.example", address, 300);
        world.send(&family.syn(family.world, 64));
        let dials: Vec<_> = world.outputs();
        let Some(Output::Dial { flow, .. }) = dials.first().copied() else { panic!("no dial: {dials:?}") };
        world.gateway.handle_dialed(world.now, flow, Ok(()));
        let syn_ack = world.frames().pop().unwrap();
        world.send(&family.ack(family.world, &syn_ack));
        world.outputs();
        assert!(world.gateway.status(flow).unwrap().established);
        world.now = world.now + hour;
        world.outputs();
        assert!(open(&mut world), "the connection lives");
        world.gateway.abort(world.now, flow);
        assert!(world.outputs().contains(&Output::Closed { flow, how: Closed::Reset }));
        world.now = world.now + std::time::Duration::from_secs(299);
        assert!(open(&mut world), "for the answer's time");
        world.now = world.now + std::time::Duration::from_secs(1);
        assert!(!open(&mut world));

        // A session of datagrams, which ends by its silence.
        let mut world = World::new(by_name());
        world.gateway.policy().learn(world.now, "db.example", address, 0);
        world.gateway.flush(world.now);
        for _ in 0..60 {
            assert!(matches!(world.send(&family.udp(family.world, 64)), Handled::Datagram { .. }));
            world.now = world.now + std::time::Duration::from_secs(60);
            world.gateway.handle_timeout(world.now);
            world.outputs();
            assert!(open(&mut world), "it is in use");
        }
        world.now = world.now + hour;
        world.gateway.handle_timeout(world.now);
        world.outputs();
        world.now = world.now + std::time::Duration::from_secs(60);
        assert!(!open(&mut world));

        // What the world refuses keeps nothing open.
        let mut world = World::new(by_name());
        world.gateway.policy().learn(world.now, "db.example", address, 0);
        world.send(&family.syn(family.world, 64));
        let Some(Output::Dial { flow, .. }) = world.outputs().first().copied() else { panic!("no dial") };
        world.gateway.handle_dialed(world.now, flow, Err(DialError::Refused));
        world.outputs();
        world.now = world.now + hour;
        assert!(!open(&mut world));
    }
}
