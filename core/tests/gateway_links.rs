//! What becomes of connections, sessions and fragments when a link is lost, and who gets them then.

#![expect(clippy::unwrap_used, reason = "helpers of tests may")]

#[expect(dead_code, reason = "other tests need more of it")]
mod guest;

use guest::{Net, World};
use nitrotap_core::{
    frame::Framing,
    gateway::{ANONYMOUS, Closed, Config, FlowId, Gateway, Handled, Output, PortId},
    time::Instant,
};
use smoltcp::{socket::tcp, time::Instant as SmolInstant};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

const GATEWAY_MAC: [u8; 6] = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd];
/// The hardware address of the guest in `World`.
const MAC: [u8; 6] = [0xba, 0xaa, 0xad, 0xc0, 0xff, 0xee];
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const SECRET: &[u8] = b"for the first guest alone";
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

/// A segment between a guest's port 40000 and port 80 of the world, as the guest sends it.
#[derive(Clone, Copy)]
struct Numbers {
    sequence: u32,
    acknowledgement: u32,
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

fn tcp(from: u16, to: u16, numbers: Numbers, flags: u8) -> Vec<u8> {
    let mut segment = [&from.to_be_bytes()[..], &to.to_be_bytes()].concat();
    segment.extend(numbers.sequence.to_be_bytes());
    segment.extend(numbers.acknowledgement.to_be_bytes());
    segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment
}

fn frame(from: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&GATEWAY_MAC[..], &from, &kind, packet].concat()
}

/// A question for the gateway, with which a link begins.
fn arp(mac: [u8; 6], net: &Net) -> Vec<u8> {
    let (IpAddr::V4(guest), IpAddr::V4(gateway)) = (net.guest, net.gateway) else { panic!("of IPv4") };
    [&[0xff; 6][..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac, &guest.octets(), &[0; 6], &gateway.octets()].concat()
}

/// The frames that wait for a link.
fn taken(gateway: &mut Gateway, now: Instant, port: PortId) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    gateway.flush(now);
    let mut bytes = gateway.pending(port).to_vec();
    gateway.consume(port, bytes.len());
    while let Some((frame, len)) = Framing::Hyperkit.split(&bytes) {
        frames.push(frame.to_vec());
        bytes.drain(..len);
    }
    frames
}

/// Flags and numbers of the segments among some frames.
fn segments(frames: &[Vec<u8>]) -> Vec<(u8, u32, u32, usize)> {
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let segment = |frame: &Vec<u8>| {
        let at = match (frame[12], frame[14 + 9], frame[14 + 6]) {
            (8, 6, _) => 14 + 20,
            (0x86, _, 6) => 14 + 40,
            _ => return None,
        };
        let segment = &frame[at..];
        Some((
            segment[13],
            number(&segment[4..8]),
            number(&segment[8..12]),
            segment.len() - usize::from(segment[12] >> 4) * 4,
        ))
    };
    frames.iter().filter_map(segment).collect()
}

/// A guest with one connection on a link of a tenant, the guest's next numbers, and that link gone.
fn lost(net: Net, tenant: u32) -> (World, FlowId, Numbers) {
    let mut world = World::new(net, 1500);
    world.gateway.detach(world.port);
    world.port = world.gateway.attach(tenant, Some(Framing::Hyperkit)).unwrap();
    let (handle, flow) = world.open(40_000, 4096);
    world.guest(handle).send_slice(b"hello").unwrap();
    world.until("hello", |world| world.status(flow).received == 5);
    world.read(flow, 5);
    for _ in 0..10 {
        world.step();
    }
    // What the guest would send next, as it says when it is asked.
    let now = world.now;
    world.guest(handle).send_slice(b"!").unwrap();
    let at = SmolInstant::from_micros((now.as_nanos() / 1000) as i64);
    world.iface.poll(at, &mut world.cable, &mut world.sockets);
    let sent: Vec<Vec<u8>> = world.cable.to_gateway.drain(..).collect();
    let (_, sequence, acknowledgement, _) = segments(&sent)[0];
    world.gateway.detach(world.port);
    world.gateway.flush(world.now);
    (world, flow, Numbers { sequence, acknowledgement })
}

fn says(net: &Net, mac: [u8; 6], numbers: Numbers, flags: u8) -> Vec<u8> {
    frame(mac, &ip(net.guest, net.world, 6, &tcp(40_000, 80, numbers, flags)))
}

fn leaked(frames: &[Vec<u8>]) -> bool {
    frames.iter().any(|frame| frame.windows(SECRET.len()).any(|bytes| bytes == SECRET))
}

/// The case of the issue, of both families, on a listener and of one machine's number: made-up numbers move nothing.
#[test]
fn a_segment_with_made_up_numbers_moves_no_connection() {
    for (net, tenant, mac) in [(NET, ANONYMOUS, MAC), (NET6, ANONYMOUS, MAC), (NET, 1, MAC), (NET6, 1, STRANGER)] {
        let (mut world, flow, right) = lost(net, tenant);
        world.write(flow, SECRET);
        let other = world.gateway.attach(tenant, Some(Framing::Hyperkit)).unwrap();
        let wrong = [
            (right.sequence.wrapping_add(1 << 30), right.acknowledgement, ACK),
            (right.sequence, right.acknowledgement.wrapping_add(1 << 30), ACK),
            (right.sequence, right.acknowledgement.wrapping_sub(5), ACK),
            (1, 1, ACK),
            (right.sequence.wrapping_add(1), 0, RST),
        ];
        for (sequence, acknowledgement, flags) in wrong {
            let said = says(&net, mac, Numbers { sequence, acknowledgement }, flags);
            world.gateway.handle_frame(world.now, other, &said);
            assert!(!leaked(&taken(&mut world.gateway, world.now, other)), "{sequence} {acknowledgement} {flags}");
            world.now = world.now + Duration::from_secs(3);
            world.gateway.handle_timeout(world.now);
            assert!(
                !leaked(&taken(&mut world.gateway, world.now, other)),
                "{sequence} {acknowledgement} {flags} later"
            );
        }
        assert!(world.gateway.status(flow).is_some(), "it waits for its guest");
        world.gateway.handle_frame(world.now, other, &says(&net, mac, right, ACK));
        assert!(leaked(&taken(&mut world.gateway, world.now, other)), "the right ones move it");
    }
}

/// On a listener nothing but addresses tells links apart: even right numbers count only with both of them.
#[test]
fn a_stranger_who_has_seen_the_numbers_moves_nothing_without_the_addresses() {
    let (mut world, flow, right) = lost(NET, ANONYMOUS);
    world.write(flow, SECRET);
    let other = world.gateway.attach(ANONYMOUS, Some(Framing::Hyperkit)).unwrap();
    world.gateway.handle_frame(world.now, other, &says(&NET, STRANGER, right, ACK));
    world.gateway.handle_frame(world.now, other, &says(&NET, STRANGER, right, SYN));
    assert!(!leaked(&taken(&mut world.gateway, world.now, other)));
    // The guest is back, and its addresses with it; the stranger borrows its hardware address.
    let home = world.gateway.attach(ANONYMOUS, Some(Framing::Hyperkit)).unwrap();
    world.gateway.handle_frame(world.now, home, &arp(MAC, &NET));
    world.gateway.handle_frame(world.now, other, &says(&NET, MAC, right, ACK));
    assert!(!leaked(&taken(&mut world.gateway, world.now, other)));
    world.gateway.handle_frame(world.now, home, &says(&NET, MAC, right, ACK));
    assert!(leaked(&taken(&mut world.gateway, world.now, home)));
}

#[test]
fn a_connection_never_goes_to_another_tenant() {
    let (mut world, flow, right) = lost(NET, 1);
    world.write(flow, SECRET);
    let other = world.gateway.attach(2, Some(Framing::Hyperkit)).unwrap();
    world.gateway.handle_frame(world.now, other, &arp(MAC, &NET));
    world.gateway.handle_frame(world.now, other, &says(&NET, MAC, right, ACK));
    let got = taken(&mut world.gateway, world.now, other);
    assert!(!leaked(&got));
    assert_eq!(
        segments(&got).iter().filter(|(flags, ..)| flags & RST != 0).count(),
        1,
        "it is told that there is none"
    );
    assert!(world.gateway.status(flow).is_some());
}

/// A machine that takes the number of one that is over knows none of its connections: it is asked, and told nothing.
#[test]
fn a_machine_with_the_number_of_another_one_is_asked_and_its_reset_ends_the_connection() {
    let (mut world, flow, right) = lost(NET, 1);
    world.write(flow, SECRET);
    let other = world.gateway.attach(1, Some(Framing::Hyperkit)).unwrap();
    world.gateway.handle_frame(world.now, other, &arp(STRANGER, &NET));
    let got = taken(&mut world.gateway, world.now, other);
    assert!(!leaked(&got));
    let asked = segments(&got);
    let [(ACK, sequence, acknowledgement, 0)] = asked[..] else { panic!("one question: {asked:?}") };
    let far = 1 << 28;
    assert!(
        sequence.wrapping_sub(right.acknowledgement.wrapping_sub(far)) > 2 * far,
        "it does not give its number away"
    );
    assert!(acknowledgement.wrapping_sub(right.sequence.wrapping_sub(far)) > 2 * far, "nor the other one's");
    let reset = Numbers { sequence: acknowledgement, acknowledgement: 0 };
    world.gateway.handle_frame(world.now, other, &says(&NET, STRANGER, reset, RST));
    assert!(world.gateway.status(flow).is_none());
    assert!(!leaked(&taken(&mut world.gateway, world.now, other)));
    assert_eq!(world.gateway.counters().tcp_flows, 0, "and takes no more of what the tenant may have");
}

#[test]
fn whoever_guesses_is_given_few_guesses() {
    let (mut world, flow, right) = lost(NET, 1);
    let other = world.gateway.attach(1, Some(Framing::Hyperkit)).unwrap();
    let mut guesses = 0;
    while world.gateway.status(flow).is_some() {
        guesses += 1;
        let guess =
            Numbers { sequence: right.sequence, acknowledgement: right.acknowledgement.wrapping_add(guesses * 9) };
        world.gateway.handle_frame(world.now, other, &says(&NET, STRANGER, guess, ACK));
        assert!(guesses < 100);
    }
    assert!(guesses > 8, "a few may be accidents");
}

/// Questions are few, and cost nobody more than one segment each, however often the guest is heard of.
#[test]
fn a_guest_that_does_not_answer_is_asked_a_few_times_and_given_up() {
    let (mut world, flow, _) = lost(NET, 1);
    let other = world.gateway.attach(1, Some(Framing::Hyperkit)).unwrap();
    let begin = world.now;
    let mut asked = 0;
    while world.gateway.status(flow).is_some() {
        world.gateway.handle_frame(world.now, other, &arp(MAC, &NET));
        world.gateway.handle_timeout(world.now);
        asked += segments(&taken(&mut world.gateway, world.now, other)).len();
        world.now = world.now + Duration::from_millis(500);
        assert!(world.now.since(begin) < Duration::from_secs(310));
        world.gateway.poll_output();
    }
    assert!(world.now.since(begin) > Duration::from_secs(290));
    assert!((2..=8).contains(&asked), "{asked} questions, and perhaps a reset");
}

/// A guest that was asked over a link that is lost in its turn is nobody to wait for.
#[test]
fn a_lost_link_with_open_questions_wakes_nobody() {
    let (mut world, flow, _) = lost(NET, 1);
    let other = world.gateway.attach(1, Some(Framing::Hyperkit)).unwrap();
    world.gateway.handle_frame(world.now, other, &arp(MAC, &NET));
    assert_eq!(segments(&taken(&mut world.gateway, world.now, other)).len(), 1);
    world.gateway.detach(other);
    let end = world.now + Duration::from_secs(100);
    let mut wakes = 0;
    while let Some(at) = world.gateway.poll_timeout().filter(|at| *at <= end) {
        world.now = world.now.max(at);
        world.gateway.handle_timeout(world.now);
        world.gateway.flush(world.now);
        wakes += 1;
        assert!(wakes < 10);
    }
    assert!(world.gateway.status(flow).is_some());
}

/// A SYN that waits for the world is its sender's, whoever has the link's number next.
#[test]
fn a_connection_that_is_being_opened_goes_on_with_the_same_syn_alone() {
    for (tenant, mac, same, goes_on) in
        [(ANONYMOUS, MAC, true, true), (ANONYMOUS, MAC, false, false), (1, STRANGER, false, false)]
    {
        let mut gateway = Gateway::new(Config { seed: 3, ..Config::default() }).unwrap();
        let now = Instant::from_millis(1000);
        let port = gateway.attach(tenant, Some(Framing::Hyperkit)).unwrap();
        let syn = Numbers { sequence: 1000, acknowledgement: 0 };
        gateway.handle_frame(now, port, &says(&NET, MAC, syn, SYN));
        let dials = |gateway: &mut Gateway| {
            let all: Vec<Output> = std::iter::from_fn(|| gateway.poll_output()).collect();
            let dial =
                all.iter().find_map(|output| if let Output::Dial { flow, .. } = output { Some(*flow) } else { None });
            (dial, all.iter().any(|output| matches!(output, Output::Closed { how: Closed::Reset, .. })))
        };
        let (Some(first), false) = dials(&mut gateway) else { panic!("a dial") };
        gateway.detach(port);
        let other = gateway.attach(tenant, Some(Framing::Hyperkit)).unwrap();
        let again = if same { syn } else { Numbers { sequence: 77_777, ..syn } };
        gateway.handle_frame(now, other, &says(&NET, mac, again, SYN));
        let (second, closed) = dials(&mut gateway);
        assert_eq!((second.is_none(), closed), (goes_on, !goes_on), "{tenant} {same}");
        let flow = second.unwrap_or(first);
        gateway.handle_dialed(now, flow, Ok(()));
        let got = segments(&taken(&mut gateway, now, other));
        assert!(
            matches!(got[..], [(flags, _, acknowledgement, 0)] if flags == SYN | ACK && acknowledgement == again.sequence + 1),
            "{got:?}"
        );
    }
}

/// A connection to a guest whose handshake had not ended: nobody can answer it but whoever has its number.
#[test]
fn a_connection_to_a_guest_is_asked_for_again_where_its_address_is_next() {
    let mut gateway = Gateway::new(Config { seed: 3, ..Config::default() }).unwrap();
    let now = Instant::from_millis(1000);
    let port = gateway.attach(1, Some(Framing::Hyperkit)).unwrap();
    gateway.handle_frame(now, port, &arp(MAC, &NET));
    taken(&mut gateway, now, port);
    let flow = gateway.connect(now, SocketAddr::new(NET.guest, 443)).unwrap();
    let asked = segments(&taken(&mut gateway, now, port));
    let [(SYN, ours, _, 0)] = asked[..] else { panic!("{asked:?}") };
    gateway.detach(port);
    let other = gateway.attach(1, Some(Framing::Hyperkit)).unwrap();
    gateway.handle_frame(now, other, &arp(MAC, &NET));
    let later = now + Duration::from_secs(2);
    gateway.handle_timeout(later);
    let asked = segments(&taken(&mut gateway, later, other));
    assert!(matches!(asked[..], [(SYN, again, _, 0)] if again == ours), "{asked:?}");
    assert!(gateway.status(flow).is_some());
}

/// Nobody is told by an address who it is: what the world answers to a guest whose link is gone waits for nobody.
#[test]
fn a_session_goes_on_only_once_its_guest_speaks_again() {
    for (tenant, mac, theirs) in [(ANONYMOUS, STRANGER, false), (ANONYMOUS, MAC, true), (1, STRANGER, true)] {
        for ping in [false, true] {
            let mut gateway = Gateway::new(Config { seed: 3, ..Config::default() }).unwrap();
            let now = Instant::from_millis(1000);
            let port = gateway.attach(tenant, Some(Framing::Hyperkit)).unwrap();
            let datagram = |mac| {
                let (protocol, payload) = if ping {
                    (1, vec![8, 0, 0xf7, 0xf8, 0, 7, 0, 0])
                } else {
                    (17, [&5000_u16.to_be_bytes()[..], &53_u16.to_be_bytes(), &[0, 8, 0, 0]].concat())
                };
                frame(mac, &ip(NET.guest, NET.world, protocol, &payload))
            };
            let asked = datagram(MAC);
            let Handled::Datagram { session, .. } = gateway.handle_frame(now, port, &asked) else {
                panic!("no session")
            };
            gateway.detach(port);
            let other = gateway.attach(tenant, Some(Framing::Hyperkit)).unwrap();
            gateway.handle_frame(now, other, &arp(mac, &NET));
            taken(&mut gateway, now, other);
            let answer = [&[0; 8][..], SECRET].concat();
            gateway.handle_datagram(now, session, &answer);
            assert!(taken(&mut gateway, now, other).is_empty(), "{tenant} {ping}");
            let again = datagram(mac);
            let spoke = gateway.handle_frame(now, other, &again);
            assert_eq!(
                matches!(spoke, Handled::Datagram { session: same, .. } if same == session),
                theirs,
                "{tenant} {ping}"
            );
            gateway.handle_datagram(now, session, &answer);
            assert_eq!(leaked(&taken(&mut gateway, now, other)), theirs, "{tenant} {ping}");
        }
    }
}

#[test]
fn nobody_completes_what_a_lost_link_has_begun() {
    for tenant in [ANONYMOUS, 1] {
        let mut gateway = Gateway::new(Config { seed: 3, ..Config::default() }).unwrap();
        let now = Instant::from_millis(1000);
        let port = gateway.attach(tenant, Some(Framing::Hyperkit)).unwrap();
        let piece = |offset: u16, more: bool, payload: &[u8]| {
            let mut packet = ip(NET.guest, NET.world, 17, payload);
            let field = ((offset / 8) | (u16::from(more) << 13)).to_be_bytes();
            packet[6..8].copy_from_slice(&field);
            let sum = nitrotap_core::offload::checksum::finish(nitrotap_core::offload::checksum::add(0, &packet[..20]));
            packet[10..12].copy_from_slice(&sum);
            frame(MAC, &packet)
        };
        let first = piece(0, true, &[&5000_u16.to_be_bytes()[..], &53_u16.to_be_bytes(), &[0, 16, 0, 0]].concat());
        let last = piece(8, false, b"the rest");
        let whole =
            |gateway: &mut Gateway, port| matches!(gateway.handle_frame(now, port, &last), Handled::Datagram { .. });
        gateway.handle_frame(now, port, &first);
        gateway.detach(port);
        let other = gateway.attach(tenant, Some(Framing::Hyperkit)).unwrap();
        assert!(!whole(&mut gateway, other), "{tenant}");
        let both = gateway.handle_frame(now, other, &first);
        assert!(matches!(both, Handled::Datagram { .. }), "{tenant}: of one link they are put together");
    }
}

/// The process was stopped, or its machine was: nobody was silent, as nobody was asked.
#[test]
fn an_absence_of_the_gateway_ends_no_connection() {
    let mut world = World::new(NET, 1500);
    let (handle, flow) = world.open(40_000, 4096);
    let (_, waiting) = world.open(40_001, 4096);
    world.write(waiting, b"not answered yet");
    for _ in 0..90_000 {
        world.step();
    }
    world.now = world.now + Duration::from_secs(320);
    for _ in 0..200 {
        world.step();
    }
    assert_eq!(world.closed, []);
    world.guest(handle).send_slice(b"still here").unwrap();
    world.until("the bytes", |world| world.status(flow).received == 10);
    assert_eq!(world.guest(handle).state(), tcp::State::Established);
}

/// A guest that is silent while everybody is there is given up as before.
#[test]
fn a_guest_that_vanished_behind_its_link_is_given_up() {
    let mut world = World::new(NET, 1500);
    let (_, flow) = world.open(40_000, 4096);
    let begin = world.now;
    while world.gateway.status(flow).is_some() {
        world.now = world.gateway.poll_timeout().unwrap();
        world.gateway.handle_timeout(world.now);
        taken(&mut world.gateway, world.now, world.port);
        world.gateway.poll_output();
    }
    let after = world.now.since(begin);
    assert!((Duration::from_secs(290)..Duration::from_secs(310)).contains(&after), "{after:?}");
}
