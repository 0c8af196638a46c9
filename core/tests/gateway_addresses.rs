//! Whose an address is, and stays: by ARP, neighbour discovery and DHCP, while a link is up, after it, and by decree.

#![expect(clippy::unwrap_used, reason = "helpers of tests may")]

use nitrotap_core::{
    frame::Framing,
    gateway::{ANONYMOUS, Config, Duplicate, Gateway, Handled, Output, Pin, PortId, QUEUE_LIMIT, Station},
    offload::checksum,
    time::Instant,
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

const GATEWAY_MAC: [u8; 6] = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd];
/// The client that the default address is leased to, and that nobody is.
const DEFAULT_MAC: [u8; 6] = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee];
const GATEWAY: [u8; 4] = [192, 168, 127, 1];
const DEFAULT: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 2);
const ALL: [u8; 6] = [0xff; 6];
const VICTIM: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ATTACKER: [u8; 6] = [2, 0, 0, 0, 0, 2];

struct World {
    gateway: Gateway,
    now: Instant,
}

impl World {
    fn new(pins: Vec<Pin>) -> Self {
        let config = Config { subnet6: Some("fd00::/64".parse().unwrap()), seed: 3, pins, ..Config::default() };
        Self { gateway: Gateway::new(config).unwrap(), now: Instant::from_millis(1000) }
    }

    fn link(&mut self, tenant: u32) -> PortId {
        let port = self.gateway.attach(tenant, Some(Framing::Hyperkit)).unwrap();
        self.frames(port);
        port
    }

    fn unlink(&mut self, port: PortId) {
        self.gateway.detach(port);
        self.gateway.flush(self.now);
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
    }

    fn send(&mut self, port: PortId, frame: &[u8]) {
        let handled = self.gateway.handle_frame(self.now, port, frame);
        // A driver that reads on although it is to rest loses what is for others.
        let (Handled::Done | Handled::Datagram { .. } | Handled::Rest { .. }) = handled else { panic!("{handled:?}") };
    }

    /// The frames that wait for a link, which are taken.
    fn frames(&mut self, port: PortId) -> Vec<Vec<u8>> {
        self.gateway.flush(self.now);
        let mut bytes = self.gateway.pending(port).to_vec();
        self.gateway.consume(port, bytes.len());
        let mut frames = Vec::new();
        while let Some((frame, len)) = Framing::Hyperkit.split(&bytes) {
            frames.push(frame.to_vec());
            bytes.drain(..len);
        }
        frames
    }

    fn says(&mut self, port: PortId, mac: [u8; 6], address: IpAddr) {
        self.send(port, &claims(mac, address)[0]);
        self.frames(port);
    }

    /// Which of the links gets the SYN of a connection of the world.
    fn served(&mut self, address: IpAddr, links: &[PortId]) -> Option<PortId> {
        for port in links {
            self.frames(*port);
        }
        let flow = self.gateway.connect(self.now, (address, 80).into()).unwrap();
        let syn = |frame: &Vec<u8>| {
            frame[12..14] == [8, 0] && frame[23] == 6 || frame[12..14] == [0x86, 0xdd] && frame[20] == 6
        };
        let got: Vec<PortId> = links.iter().copied().filter(|port| self.frames(*port).iter().any(syn)).collect();
        self.gateway.abort(self.now, flow);
        self.gateway.flush(self.now);
        while self.gateway.poll_output().is_some() {}
        assert!(got.len() < 2, "everybody gets it");
        got.first().copied()
    }

    /// The kind of the DHCP answer, and the address in it.
    fn dhcp(&mut self, port: PortId, mac: [u8; 6], message: &Dhcp) -> Option<(u8, Ipv4Addr)> {
        self.frames(port);
        self.send(port, &message.frame(mac));
        let answer = self.frames(port).into_iter().rev().find(|frame| frame[34..38] == [0, 67, 0, 68])?;
        let payload = &answer[42..];
        let kind = payload[240..].windows(3).find(|option| option[..2] == [53, 1])?[2];
        Some((kind, Ipv4Addr::from(*payload[16..].first_chunk::<4>()?)))
    }

    fn duplicates(&mut self) -> Vec<Duplicate> {
        std::iter::from_fn(|| self.gateway.poll_duplicate()).collect()
    }
}

#[derive(Default)]
struct Dhcp {
    kind: u8,
    ciaddr: Option<Ipv4Addr>,
    requested: Option<Ipv4Addr>,
    server: bool,
}

const ACK: u8 = 5;
const NAK: u8 = 6;

impl Dhcp {
    fn frame(&self, mac: [u8; 6]) -> Vec<u8> {
        let mut data = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0];
        data.extend(self.ciaddr.map_or([0; 4], |address| address.octets()));
        data.resize(28, 0);
        data.extend(mac);
        data.resize(236, 0);
        data.extend([99, 130, 83, 99, 53, 1, self.kind]);
        if let Some(address) = self.requested {
            data.extend([50, 4]);
            data.extend(address.octets());
        }
        if self.server {
            data.extend([54, 4]);
            data.extend(GATEWAY);
        }
        data.push(255);
        ethernet(ALL, mac, [8, 0], &ipv4([0; 4], [255; 4], 17, &udp(68, 67, &data)))
    }
}

fn ethernet(to: [u8; 6], from: [u8; 6], kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind, payload].concat()
}

fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (20 + payload.len() as u16).to_be_bytes();
    let head = [0x45, 0, high, low, 0, 0, 0, 0, 64, protocol, 0, 0];
    [&head[..], &source, &destination, payload].concat()
}

fn udp(source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
    let len = (8 + data.len() as u16).to_be_bytes();
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &len, &[0, 0], data].concat()
}

fn arp(operation: u8, to: [u8; 6], sender: ([u8; 6], Ipv4Addr), target: [u8; 4]) -> Vec<u8> {
    let body = [&[0, 1, 8, 0, 6, 4, 0, operation][..], &sender.0, &sender.1.octets(), &[0; 6], &target].concat();
    ethernet(to, sender.0, [8, 6], &body)
}

fn discovery(mac: [u8; 6], source: Ipv6Addr, kind: u8, flags: u8, target: Ipv6Addr, group: bool) -> Vec<u8> {
    let to: Ipv6Addr = if group { "ff02::1" } else { "fd00::1" }.parse().unwrap();
    let option = if kind == 135 { 1 } else { 2 };
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    message.extend([option, 1]);
    message.extend(mac);
    let pseudo = [&source.octets()[..], &to.octets(), &(message.len() as u32).to_be_bytes(), &[0, 0, 0, 58]].concat();
    let sum = checksum::finish(checksum::add(checksum::add(0, &pseudo), &message));
    message[2..4].copy_from_slice(&sum);
    let mut packet = vec![0x60, 0, 0, 0, 0, message.len() as u8, 58, 255];
    packet.extend(source.octets());
    packet.extend(to.octets());
    packet.extend(message);
    ethernet(if group { [0x33, 0x33, 0, 0, 0, 1] } else { GATEWAY_MAC }, mac, [0x86, 0xdd], &packet)
}

/// All the ways to say that one has an address, the most usual one first.
fn claims(mac: [u8; 6], address: IpAddr) -> Vec<Vec<u8>> {
    let syn = [156, 64, 0, 80, 0, 0, 0, 9, 0, 0, 0, 0, 0x50, 2, 255, 255, 0, 0, 0, 0];
    match address {
        IpAddr::V4(address) => {
            let own = (mac, address);
            vec![
                arp(1, ALL, own, GATEWAY),
                arp(1, GATEWAY_MAC, own, GATEWAY),
                arp(1, ALL, own, address.octets()),
                arp(2, ALL, own, address.octets()),
                arp(2, GATEWAY_MAC, own, GATEWAY),
                ethernet(GATEWAY_MAC, mac, [8, 0], &ipv4(address.octets(), [203, 0, 113, 9], 6, &syn)),
                ethernet(GATEWAY_MAC, mac, [8, 0], &ipv4(address.octets(), [203, 0, 113, 9], 17, &udp(9, 9, b"x"))),
            ]
        }
        IpAddr::V6(address) => {
            let other = "fd00::1".parse().unwrap();
            let mut claims = Vec::new();
            for group in [false, true] {
                claims.push(discovery(mac, address, 135, 0, other, group));
                // Unsolicited, with and without the override flag, and as an answer.
                for flags in [0x20, 0, if group { 0 } else { 0x60 }] {
                    claims.push(discovery(mac, address, 136, flags, address, group));
                }
            }
            claims
        }
    }
}

fn both() -> [IpAddr; 2] {
    [DEFAULT.into(), "fd00::2".parse().unwrap()]
}

/// By all that a client can send for it, in every state, with a hardware address of its own and with that of the default lease.
#[test]
fn no_dhcp_message_takes_the_address_of_a_live_link() {
    for mac in [ATTACKER, DEFAULT_MAC] {
        for address in [DEFAULT, Ipv4Addr::new(192, 168, 127, 9)] {
            let mut world = World::new(Vec::new());
            let (victim, attacker) = (world.link(1), world.link(2));
            world.says(victim, VICTIM, address.into());
            let wanted = Some(address);
            let messages = [
                Dhcp { kind: 1, requested: wanted, ..Dhcp::default() },
                Dhcp { kind: 3, requested: wanted, ..Dhcp::default() },
                Dhcp { kind: 3, requested: wanted, server: true, ..Dhcp::default() },
                Dhcp { kind: 3, ciaddr: wanted, ..Dhcp::default() },
                Dhcp { kind: 3, ciaddr: wanted, requested: wanted, server: true },
                Dhcp { kind: 4, requested: wanted, server: true, ..Dhcp::default() },
                Dhcp { kind: 7, ciaddr: wanted, server: true, ..Dhcp::default() },
                Dhcp { kind: 8, ciaddr: wanted, ..Dhcp::default() },
                Dhcp { kind: 3, requested: wanted, ..Dhcp::default() },
            ];
            for message in &messages {
                let answer = world.dhcp(attacker, mac, message);
                match message.kind {
                    3 => assert_eq!(answer, Some((NAK, Ipv4Addr::UNSPECIFIED)), "{address}"),
                    _ => assert!(answer.is_none_or(|(_, given)| given != address), "{answer:?}"),
                }
                assert_eq!(world.served(address.into(), &[victim, attacker]), Some(victim));
            }
            // Its owner may lease it, and renew.
            for message in &messages[1..4] {
                if address != DEFAULT {
                    assert_eq!(world.dhcp(victim, VICTIM, message), Some((ACK, address)));
                }
            }
            assert_eq!(world.gateway.counters().duplicates, 1);
            let claim = Duplicate { address: Station::Ip(address.into()), owner: Some(victim), claimant: attacker };
            assert_eq!(world.duplicates(), [claim]);
        }
    }
}

#[test]
fn no_claim_takes_the_address_of_a_live_link_however_long_that_is_silent() {
    for address in both() {
        for tenants in [[1, 2], [ANONYMOUS, ANONYMOUS + 1], [ANONYMOUS, ANONYMOUS], [1, ANONYMOUS]] {
            let mut world = World::new(Vec::new());
            let [victim, attacker] = tenants.map(|tenant| world.link(tenant));
            world.says(victim, VICTIM, address);
            for seconds in [0, 299, 2, 10_000] {
                world.pass(seconds);
                for (n, claim) in claims(ATTACKER, address).iter().chain(&claims(VICTIM, address)).enumerate() {
                    world.frames(victim);
                    world.send(attacker, claim);
                    assert!(world.frames(victim).is_empty(), "it hears nothing of it");
                    assert_eq!(world.served(address, &[victim, attacker]), Some(victim), "{n}");
                }
            }
            let told = world.duplicates();
            assert_eq!(told.len(), 2, "its address and its hardware address, each once: {told:?}");
        }
    }
}

#[test]
fn while_a_link_is_dialled_anew_its_address_is_nobody_elses() {
    for address in both() {
        let mut world = World::new(Vec::new());
        let (victim, attacker) = (world.link(1), world.link(2));
        world.says(victim, VICTIM, address);
        world.pass(1000);
        world.unlink(victim);
        for seconds in [0, 1, 28] {
            world.pass(seconds);
            for claim in claims(ATTACKER, address).iter().chain(&claims(VICTIM, address)) {
                world.send(attacker, claim);
                assert_eq!(world.served(address, &[attacker]), None);
            }
            let ask = Dhcp { kind: 3, requested: Some(DEFAULT), ..Dhcp::default() };
            if address == DEFAULT {
                assert_eq!(world.dhcp(attacker, ATTACKER, &ask), Some((NAK, Ipv4Addr::UNSPECIFIED)));
                assert_ne!(world.dhcp(attacker, DEFAULT_MAC, &ask).map(|(kind, _)| kind), Some(ACK));
            }
        }
        let back = world.link(1);
        world.says(back, VICTIM, address);
        assert_eq!(world.served(address, &[back, attacker]), Some(back));
        // Gone for good, it is free.
        world.unlink(back);
        world.pass(30);
        world.says(attacker, ATTACKER, address);
        assert_eq!(world.served(address, &[attacker]), Some(attacker));
    }
}

/// For as long as somebody else dials without end, on the link or between two, with the owner's hardware address or another.
#[test]
fn who_had_an_address_for_long_gets_it_back_after_a_long_restart() {
    for address in both() {
        for (owner, rogue) in [(1, 2), (ANONYMOUS, ANONYMOUS + 1), (1, ANONYMOUS), (ANONYMOUS, 1)] {
            for (mac, connected) in [(VICTIM, true), (ATTACKER, true), (VICTIM, false)] {
                let mut world = World::new(Vec::new());
                let link = world.link(owner);
                world.says(link, VICTIM, address);
                world.pass(600);
                world.unlink(link);
                let mut thief = world.link(rogue);
                for round in 0..50 {
                    world.pass(31);
                    if !connected && round > 0 {
                        thief = world.link(rogue);
                    }
                    world.says(thief, mac, address);
                    assert_eq!(world.served(address, &[thief]), Some(thief), "nobody else wants it");
                    world.pass(31);
                    world.unlink(thief);
                    if connected {
                        thief = world.link(rogue);
                        world.says(thief, mac, address);
                    }
                }
                let back = world.link(owner);
                world.says(back, VICTIM, address);
                assert!(world.gateway.addresses().contains(&(VICTIM, back)));
                if !connected {
                    thief = world.link(rogue);
                }
                for claim in claims(mac, address).iter().chain(&claims(ATTACKER, address)) {
                    assert_eq!(world.served(address, &[thief, back]), Some(back));
                    world.send(thief, claim);
                    world.pass(1);
                }
                // It is settled still.
                world.unlink(back);
                world.pass(31);
                world.says(thief, mac, address);
                assert_eq!(world.served(address, &[thief]), Some(thief));
                let back = world.link(owner);
                world.says(back, VICTIM, address);
                assert_eq!(world.served(address, &[thief, back]), Some(back));
            }
        }
    }
}

#[test]
fn nobody_gets_back_what_it_had_for_a_moment_or_long_ago_or_what_another_one_has_had_for_long() {
    for address in both() {
        // How long the first one has it and is away, and the second one has it then; who comes back.
        for (had, away, has, first) in
            [(599, 31, 1, 1), (600, 31, 600, 1), (600, 3631, 1, 1), (600, 31, 1, 3), (0, 31, 0, 1), (600, 29, 700, 2)]
        {
            let mut world = World::new(Vec::new());
            let link = world.link(1);
            world.says(link, VICTIM, address);
            world.pass(had);
            world.unlink(link);
            world.pass(away);
            let second = if first == 2 { world.link(1) } else { world.link(2) };
            world.says(second, VICTIM, address);
            assert_eq!(world.served(address, &[second]), Some(second));
            world.pass(has);
            world.says(second, VICTIM, address);
            let back = world.link(first);
            for claim in claims(VICTIM, address).iter().chain(&claims(ATTACKER, address)) {
                world.send(back, claim);
                assert_eq!(world.served(address, &[second, back]), Some(second), "{had} {away} {has} {first}");
            }
            assert!(world.gateway.addresses().contains(&(VICTIM, second)));
        }
    }
}

#[test]
fn a_lease_gives_way_to_who_had_its_address_for_long() {
    let ask = |address| Dhcp { kind: 3, requested: Some(address), ..Dhcp::default() };
    for address in [DEFAULT, Ipv4Addr::new(192, 168, 127, 9)] {
        let mut world = World::new(Vec::new());
        let link = world.link(1);
        world.says(link, VICTIM, address.into());
        world.pass(600);
        world.unlink(link);
        world.pass(31);
        let (other, third) = (world.link(2), world.link(3));
        assert_eq!(world.dhcp(other, ATTACKER, &ask(address)).unwrap().0, if address == DEFAULT { NAK } else { ACK });
        let back = world.link(1);
        assert_eq!(world.dhcp(third, [2, 0, 0, 0, 0, 9], &ask(address)).unwrap().0, NAK);
        if address != DEFAULT {
            assert_eq!(world.dhcp(back, VICTIM, &ask(address)), Some((ACK, address)));
            assert_eq!(world.dhcp(other, ATTACKER, &ask(address)), Some((NAK, Ipv4Addr::UNSPECIFIED)));
            assert_eq!(world.served(address.into(), &[back, other]), Some(back));
        }
    }
}

#[test]
fn a_lease_outlives_its_link_if_its_client_comes_back_without_asking() {
    let mut world = World::new(Vec::new());
    let (link, other) = (world.link(1), world.link(2));
    let ask = |address| Dhcp { kind: 3, requested: Some(address), ..Dhcp::default() };
    let [back, lost] = [7, 8].map(|n| Ipv4Addr::new(192, 168, 127, n));
    assert_eq!(world.dhcp(link, VICTIM, &ask(back)), Some((ACK, back)));
    assert_eq!(world.dhcp(link, [2, 0, 0, 0, 0, 9], &ask(lost)), Some((ACK, lost)));
    world.unlink(link);
    let again = world.link(1);
    world.says(again, VICTIM, back.into());
    world.pass(31);
    let leases = world.gateway.leases(world.now);
    world.gateway.flush(world.now);
    assert!(leases.contains_key(&back));
    assert_eq!(world.dhcp(other, ATTACKER, &ask(back)), Some((NAK, Ipv4Addr::UNSPECIFIED)));
    assert_eq!(world.dhcp(other, ATTACKER, &ask(lost)), Some((ACK, lost)));
}

#[test]
fn a_pinned_address_is_its_owners_before_it_is_there_and_nobody_elses_ever() {
    for address in both() {
        for mac in [None, Some(VICTIM)] {
            let mut world = World::new(vec![Pin { tenant: 16, address, mac }]);
            let attacker = world.link(2);
            for claim in claims(ATTACKER, address).iter().chain(&claims(VICTIM, address)) {
                world.send(attacker, claim);
                world.gateway.flush(world.now);
                let dials = std::iter::from_fn(|| world.gateway.poll_output());
                assert!(dials.filter(|output| matches!(output, Output::Dial { .. })).count() == 0, "nor uses it");
                assert_eq!(world.served(address, &[attacker]), None);
            }
            let told = world.duplicates();
            assert!(
                told.contains(&Duplicate { address: Station::Ip(address), owner: None, claimant: attacker }),
                "{told:?}"
            );
            let owner = world.link(16);
            if mac.is_some() {
                world.says(owner, ATTACKER, address);
                assert_eq!(world.served(address, &[owner, attacker]), None, "another station of its owner");
            }
            world.says(owner, VICTIM, address);
            assert_eq!(world.served(address, &[owner, attacker]), Some(owner));
            world.unlink(owner);
            world.pass(10_000);
            world.says(attacker, ATTACKER, address);
            assert_eq!(world.served(address, &[attacker]), None, "while its owner is away, too");
        }
    }
}

#[test]
fn a_pinned_address_is_leased_to_its_owner() {
    let address = DEFAULT;
    let discover = Dhcp { kind: 1, requested: Some(address), ..Dhcp::default() };
    let request = Dhcp { kind: 3, requested: Some(address), ..Dhcp::default() };
    for mac in [None, Some(VICTIM)] {
        let mut world = World::new(vec![Pin { tenant: 16, address: address.into(), mac }]);
        let (owner, attacker) = (world.link(16), world.link(2));
        for thief in [ATTACKER, DEFAULT_MAC] {
            assert_ne!(world.dhcp(attacker, thief, &discover).unwrap().1, address);
            assert_eq!(world.dhcp(attacker, thief, &request).unwrap().0, NAK);
        }
        assert_eq!(world.dhcp(owner, VICTIM, &Dhcp { kind: 1, ..Dhcp::default() }).unwrap().1, address);
        assert_eq!(world.dhcp(owner, VICTIM, &request), Some((ACK, address)));
        assert_eq!(world.served(address.into(), &[owner, attacker]), Some(owner));
        // A second station behind the same link has one of its own.
        assert_ne!(world.dhcp(owner, [2, 0, 0, 0, 0, 9], &discover).unwrap().1, address);
    }
}

/// Small frames and large ones, to one and to all, of both families: the victim's own goes on, and so does a third one's.
#[test]
fn a_flood_between_enclaves_leaves_the_queue_to_its_owner_and_to_others() {
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 3];
    for len in [60, 1400, 60_000] {
        for to in [VICTIM, ALL, [1, 0, 0x5e, 0, 0, 1]] {
            for v6 in [false, true] {
                let mut world = World::new(Vec::new());
                let [victim, attacker, other] = [1, 2, 3].map(|tenant| world.link(tenant));
                let addresses = [2, 3, 4].map(|last| IpAddr::from([192, 168, 127, last]));
                for ((port, mac), address) in
                    [(victim, VICTIM), (attacker, ATTACKER), (other, OTHER)].into_iter().zip(addresses)
                {
                    world.says(port, mac, address);
                }
                let frame = |mac: [u8; 6], last: u8, len: usize| {
                    let data = udp(9, 9, &vec![last; len]);
                    if !v6 {
                        return ethernet(to, mac, [8, 0], &ipv4([192, 168, 127, last], [192, 168, 127, 2], 17, &data));
                    }
                    let [high, low] = (data.len() as u16).to_be_bytes();
                    let source = Ipv6Addr::from_bits(0xfd << 120 | u128::from(last)).octets();
                    let head = [0x60, 0, 0, 0, high, low, 17, 64];
                    ethernet(
                        to,
                        mac,
                        [0x86, 0xdd],
                        &[&head[..], &source, &Ipv6Addr::from_bits(0xfd << 120 | 2).octets(), &data].concat(),
                    )
                };
                let flood = frame(ATTACKER, 3, len);
                for _ in 0..10_000 {
                    world.send(attacker, &flood);
                }
                let waiting = world.gateway.pending(victim).len();
                assert!(waiting <= QUEUE_LIMIT / 4, "{len}: {waiting} bytes wait");
                // Others still find room, and so does the gateway: for its own answers and for a connection.
                let mine = frame(OTHER, 4, 100);
                world.send(other, &mine);
                world.send(victim, &claims(VICTIM, addresses[0])[0]);
                let flow = world.gateway.connect(world.now, (addresses[0], 80).into()).unwrap();
                let got = world.frames(victim);
                assert!(got.contains(&mine));
                assert!(got.iter().any(|frame| frame[6..14] == [&GATEWAY_MAC[..], &[8, 6]].concat()), "ARP");
                assert!(got.iter().any(|frame| frame[6..14] == [&GATEWAY_MAC[..], &[8, 0]].concat()), "TCP");
                let foreign = got.iter().filter(|frame| **frame == flood).count();
                assert!((1..=130).contains(&foreign), "{foreign} frames of {len} bytes");
                world.gateway.abort(world.now, flow);
                // There is a rate too, however fast the queue drains.
                let mut passed = 0;
                world.pass(1);
                for _ in 0..3000 {
                    world.send(attacker, &flood);
                    passed += world.frames(victim).iter().filter(|frame| **frame == flood).count();
                }
                if to[0] & 1 == 1 {
                    assert!(passed + foreign <= 512, "{passed}");
                    assert!(world.gateway.counters().flood > 10_000);
                } else {
                    assert_eq!(passed, 2048);
                    assert!(world.gateway.counters().share_full > 1800);
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_a_guests_cannot_be_pinned() {
    let pin = |address: &str| Pin { tenant: 16, address: address.parse().unwrap(), mac: None };
    for bad in ["192.168.127.1", "192.168.127.254", "192.168.127.255", "10.0.0.1", "fd00::1", "fd00::fe", "fd01::2"] {
        let config = Config { subnet6: Some("fd00::/64".parse().unwrap()), pins: vec![pin(bad)], ..Config::default() };
        assert!(Gateway::new(config).is_err(), "{bad}");
    }
    let config = Config { pins: vec![pin("fd00::2")], ..Config::default() };
    assert!(Gateway::new(config).is_err(), "there is no IPv6");
}

/// One second of a driver that rests when it is told to; how many frames it read.
fn read_for_a_second(world: &mut World, port: PortId, victim: PortId, frame: &[u8]) -> u64 {
    let (mut read, mut rest) = (0, world.now);
    for _ in 0..10_000 {
        world.now = world.now + Duration::from_micros(100);
        let useless = world.gateway.useless();
        // As much as a link brings in that time.
        for _ in 0..100 {
            if rest > world.now {
                break;
            }
            read += 1;
            if read % 10 == 0 {
                world.frames(victim);
            }
            if let Handled::Rest { until } = world.gateway.handle_frame(world.now, port, frame) {
                assert!(until > world.now && until.since(world.now) <= Duration::from_millis(10), "{until:?}");
                rest = until;
            }
        }
        let useless = world.gateway.useless() - useless;
        rest = rest.max(world.gateway.handle_useless(world.now, port, useless).unwrap_or(world.now));
        world.frames(victim);
    }
    read
}

#[test]
fn a_link_that_sends_others_too_much_is_held_back_and_loses_nothing() {
    let mut world = World::new(Vec::new());
    let [victim, attacker] = [1, 2].map(|tenant| world.link(tenant));
    for (port, mac, last) in [(victim, VICTIM, 2), (attacker, ATTACKER, 3)] {
        world.says(port, mac, IpAddr::from([192, 168, 127, last]));
    }
    let ip = ipv4([192, 168, 127, 3], [192, 168, 127, 2], 17, &udp(9, 9, &[7; 1400]));
    let before = world.gateway.counters().switched;
    let read = read_for_a_second(&mut world, attacker, victim, &ethernet(VICTIM, ATTACKER, [8, 0], &ip));
    let counters = world.gateway.counters();
    assert_eq!((counters.switched - before, counters.flood, counters.share_full), (read, 0, 0));
    assert!((60_000..=65_536 + 2048).contains(&read), "{read}");
}

#[test]
fn a_link_whose_frames_come_to_nothing_is_held_back() {
    let stray = [&[0x04, 0xd2, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10][..], &[4, 0, 0, 0, 0, 0]].concat();
    let packets = [
        ("a stray", GATEWAY_MAC, [8, 0], ipv4([192, 168, 127, 3], [203, 0, 113, 1], 6, &stray)),
        ("to nobody", [2, 9, 9, 9, 9, 9], [8, 0], ipv4([192, 168, 127, 3], [192, 168, 127, 99], 17, &udp(9, 9, b"x"))),
        ("no packet", GATEWAY_MAC, [8, 0], vec![0x45; 10]),
        ("a protocol that nobody knows", GATEWAY_MAC, [0x88, 0xb5], vec![0; 46]),
    ];
    for (what, to, kind, packet) in packets {
        let mut world = World::new(Vec::new());
        let [victim, attacker] = [1, 2].map(|tenant| world.link(tenant));
        for (port, mac, last) in [(victim, VICTIM, 2), (attacker, ATTACKER, 3)] {
            world.says(port, mac, IpAddr::from([192, 168, 127, last]));
        }
        let read = read_for_a_second(&mut world, attacker, victim, &ethernet(to, ATTACKER, kind, &packet));
        assert!((30_000..=32_768 + 8192 + 200).contains(&read), "{what}: {read}: {:?}", world.gateway.counters());
        assert!(world.gateway.counters().rests > 0, "{what}");
        // The neighbour's link is read as ever.
        assert_eq!(world.gateway.handle_useless(world.now, victim, 1), None);
    }
}
