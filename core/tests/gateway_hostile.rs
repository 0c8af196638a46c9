//! Frames of guests that mean no good, made by hand.

#![expect(clippy::unwrap_used, reason = "helpers of tests may")]

use nitrotap_core::{
    frame::Framing,
    gateway::{Config, Gateway, Handled, Output, PortId},
    offload::checksum,
    time::Instant,
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

const GATEWAY_MAC: [u8; 6] = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd];
const GATEWAY: [u8; 4] = [192, 168, 127, 1];
const GUEST: [u8; 4] = [192, 168, 127, 2];
const WORLD: [u8; 4] = [203, 0, 113, 9];
const NOW: Instant = Instant::from_millis(1000);

fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

fn frame(to: [u8; 6], from: [u8; 6], kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
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

fn tcp(sequence: u32, acknowledgement: u32, flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
    let mut segment = [&40_000_u16.to_be_bytes()[..], &80_u16.to_be_bytes()].concat();
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledgement.to_be_bytes());
    segment.extend([((20 + options.len()) as u8 / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(options);
    segment.extend(data);
    segment
}

fn arp(sender: ([u8; 6], [u8; 4]), target: [u8; 4]) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, 1][..], &sender.0, &sender.1, &[0; 6], &target].concat()
}

fn gateway() -> Gateway {
    Gateway::new(Config { seed: 3, ..Config::default() }).unwrap()
}

fn link(gateway: &mut Gateway, tenant: u32) -> PortId {
    gateway.attach(tenant, Some(Framing::Hyperkit)).unwrap()
}

/// The frames that wait for a link, which are taken.
fn frames(gateway: &mut Gateway, port: PortId) -> Vec<Vec<u8>> {
    gateway.flush(NOW);
    let mut bytes = gateway.pending(port).to_vec();
    gateway.consume(port, bytes.len());
    let mut frames = Vec::new();
    while let Some((frame, len)) = Framing::Hyperkit.split(&bytes) {
        frames.push(frame.to_vec());
        bytes.drain(..len);
    }
    frames
}

fn outputs(gateway: &mut Gateway) -> Vec<Output> {
    gateway.flush(NOW);
    std::iter::from_fn(|| gateway.poll_output()).collect()
}

/// A guest may send into its handshake what it likes: what does not fit is not taken, and nothing breaks.
#[test]
fn a_first_segment_beyond_the_receive_buffer_is_not_taken() {
    for far in [1_000_000_u32, 524_288, 524_280, 524_000, 300_000, 65_536] {
        let mut gateway = gateway();
        let port = link(&mut gateway, 1);
        let send = |gateway: &mut Gateway, segment: &[u8]| {
            let frame = frame(GATEWAY_MAC, mac(1), [8, 0], &ipv4(GUEST, WORLD, 6, segment));
            assert_eq!(gateway.handle_frame(NOW, port, &frame), Handled::Done);
        };
        send(&mut gateway, &tcp(100, 0, 0x02, &[3, 3, 7, 1], &[]));
        let Some(Output::Dial { flow, .. }) = outputs(&mut gateway).first().copied() else { panic!("no dial") };
        gateway.handle_dialed(NOW, flow, Ok(()));
        let answer = frames(&mut gateway, port).pop().unwrap();
        let ours = u32::from_be_bytes(answer[14 + 20 + 4..14 + 20 + 8].try_into().unwrap()).wrapping_add(1);
        send(&mut gateway, &tcp(101 + far, ours, 0x10, &[], &[7; 1000]));
        // Everything up to there, in order, and nobody reads.
        let mut next = 101_u32;
        for _ in 0..800 {
            send(&mut gateway, &tcp(next, ours, 0x10, &[], &[9; 1400]));
            next = next.wrapping_add(1400);
            outputs(&mut gateway);
            frames(&mut gateway, port);
        }
        let held = gateway.status(flow).unwrap().received;
        assert!(held <= 512 << 10, "{far}: {held} bytes held");
        let mut read = 0;
        while gateway.status(flow).is_some_and(|status| status.received > 0) {
            gateway.read(flow, |bytes| {
                let at = |n: usize| u64::from(far).checked_sub((read + n) as u64);
                for (n, byte) in bytes.iter().enumerate() {
                    let far_one = at(n).is_none() && read + n < far as usize + 1000;
                    assert!(*byte == 9 || (*byte == 7 && far_one), "byte {} is {byte}", read + n);
                }
                read += bytes.len();
                bytes.len()
            });
        }
        assert_eq!(read, held);
    }
}

#[test]
fn the_datagrams_of_a_tenant_go_to_no_other_one_with_its_address() {
    let mut gateway = gateway();
    let (a, b) = (link(&mut gateway, 1), link(&mut gateway, 2));
    let ask = frame(GATEWAY_MAC, mac(1), [8, 0], &ipv4(GUEST, WORLD, 17, &udp(5000, 53, b"question")));
    let Handled::Datagram { session, .. } = gateway.handle_frame(NOW, a, &ask) else { panic!("no session") };
    gateway.detach(a);
    // The other one has the same address, and says so.
    gateway.handle_frame(NOW, b, &frame([0xff; 6], mac(2), [8, 6], &arp((mac(2), GUEST), GATEWAY)));
    frames(&mut gateway, b);
    gateway.handle_datagram(NOW, session, b"secret");
    let to_b = frames(&mut gateway, b);
    assert!(!to_b.iter().any(|frame| frame.windows(6).any(|bytes| bytes == b"secret")));
    // Nor may it send as the other.
    let Handled::Datagram { session: own, .. } = gateway.handle_frame(NOW, b, &ask) else { panic!("no session") };
    assert_ne!(own, session);
}

#[test]
fn a_session_that_the_world_began_before_its_guest_was_known_gets_its_answers() {
    let mut gateway = gateway();
    let port = link(&mut gateway, 7);
    let client: SocketAddr = ([198, 51, 100, 4], 9999).into();
    let session = gateway.open_session(NOW, (GUEST, 5000).into(), client).unwrap();
    gateway.handle_datagram(NOW, session, b"hello");
    let asked = frames(&mut gateway, port);
    assert_eq!(asked[0][12..14], [8, 6], "it is asked for");
    gateway.handle_frame(NOW, port, &frame([0xff; 6], mac(1), [8, 6], &arp((mac(1), GUEST), GATEWAY)));
    let got = frames(&mut gateway, port).into_iter().find(|frame| frame[12..14] == [8, 0]).expect("the datagram");
    assert_eq!(&got[14 + 28..], b"hello");
    let ours = u16::from_be_bytes([got[34], got[35]]);
    let answer = frame(GATEWAY_MAC, mac(1), [8, 0], &ipv4(GUEST, GATEWAY, 17, &udp(5000, ours, b"answer")));
    match gateway.handle_frame(NOW, port, &answer) {
        Handled::Datagram { session: answered, to, payload, .. } => {
            assert_eq!((answered, to, &payload[..]), (session, client, &b"answer"[..]));
        }
        other @ (Handled::Done | Handled::Rest { .. } | Handled::Dns { .. }) => panic!("{other:?}"),
    }
}

#[test]
fn nothing_that_cannot_be_judged_passes_from_one_enclave_to_another() {
    let mut gateway = gateway();
    let (liar, victim) = (link(&mut gateway, 1), link(&mut gateway, 2));
    gateway.handle_frame(NOW, victim, &frame([0xff; 6], mac(2), [8, 6], &arp((mac(2), [192, 168, 127, 3]), GATEWAY)));
    gateway.handle_frame(NOW, liar, &frame([0xff; 6], mac(1), [8, 6], &arp((mac(1), GUEST), GATEWAY)));
    frames(&mut gateway, victim);
    let own = |payload: &[u8]| ipv4(GUEST, [192, 168, 127, 3], 17, payload);
    let lies = [
        frame(mac(2), mac(1), [0x81, 0], &[&[0, 0, 8, 6][..], &arp((mac(1), GATEWAY), [192, 168, 127, 3])].concat()),
        frame([0x33, 0x33, 0, 0, 0, 1], mac(1), [0x86, 0xdd], &[0x60; 64]),
        frame(mac(2), mac(1), [8, 0], &own(&udp(67, 68, &[2; 300]))),
        frame([0xff; 6], mac(1), [8, 0], &own(&udp(67, 68, &[2; 300]))),
        frame([0xff; 6], mac(1), [8, 6], &arp((mac(1), GATEWAY), [192, 168, 127, 3])),
        frame(mac(2), mac(1), [8, 0], &ipv4(GATEWAY, [192, 168, 127, 3], 17, &udp(53, 5000, b"poison"))),
    ];
    for lie in &lies {
        gateway.handle_frame(NOW, liar, lie);
    }
    assert_eq!(frames(&mut gateway, victim), Vec::<Vec<u8>>::new());
    gateway.handle_frame(NOW, liar, &frame(mac(2), mac(1), [8, 0], &own(&udp(7, 7, b"honest"))));
    assert_eq!(frames(&mut gateway, victim).len(), 1);
}

#[test]
fn a_lease_is_ended_by_nobody_but_its_owner() {
    let mut gateway = gateway();
    let (owner, other) = (link(&mut gateway, 1), link(&mut gateway, 2));
    let message = |kind: u8, chaddr: [u8; 6], ciaddr: [u8; 4], requested: Option<[u8; 4]>| {
        let mut data = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0];
        data.extend(ciaddr);
        data.resize(28, 0);
        data.extend(chaddr);
        data.resize(236, 0);
        data.extend([99, 130, 83, 99, 53, 1, kind]);
        if let Some(address) = requested {
            data.extend([50, 4]);
            data.extend(address);
        }
        data.push(255);
        data.resize(300, 0);
        ipv4([0; 4], [255; 4], 17, &udp(68, 67, &data))
    };
    let leased = |gateway: &Gateway| {
        gateway.leases(NOW).into_iter().find(|(_, owner)| *owner == mac(9)).map(|(address, _)| address.octets())
    };
    gateway.handle_frame(NOW, owner, &frame([0xff; 6], mac(9), [8, 0], &message(1, mac(9), [0; 4], None)));
    let offer = frames(&mut gateway, owner).pop().unwrap();
    let address: [u8; 4] = offer[42 + 16..42 + 20].try_into().unwrap();
    let ask = message(3, mac(9), [0; 4], Some(address));
    gateway.handle_frame(NOW, owner, &frame([0xff; 6], mac(9), [8, 0], &ask));
    assert_eq!(leased(&gateway), Some(address));
    // From another link, in its own name and in the owner's.
    for from in [mac(8), mac(9)] {
        gateway.handle_frame(NOW, other, &frame(GATEWAY_MAC, from, [8, 0], &message(7, mac(9), address, None)));
        let elsewhere = message(3, mac(9), [0; 4], Some([192, 168, 127, 99]));
        gateway.handle_frame(NOW, other, &frame([0xff; 6], from, [8, 0], &elsewhere));
    }
    assert_eq!(leased(&gateway), Some(address));
    gateway.handle_frame(NOW, owner, &frame(GATEWAY_MAC, mac(9), [8, 0], &message(7, mac(9), address, None)));
    assert_eq!(leased(&gateway), None);
}

#[test]
fn questions_of_one_link_leave_the_name_server_to_others() {
    let mut gateway = gateway();
    let (flood, other) = (link(&mut gateway, 1), link(&mut gateway, 2));
    let ask = |n: u8, port: u16| frame(GATEWAY_MAC, mac(n), [8, 0], &ipv4(GUEST, GATEWAY, 17, &udp(port, 53, b"?")));
    let asked = (1..=5000).filter(|n| gateway.handle_frame(NOW, flood, &ask(1, *n)) != Handled::Done).count();
    assert!(asked < 100, "{asked} questions wait");
    let Handled::Dns { client, .. } = gateway.handle_frame(NOW, other, &ask(2, 1)) else { panic!("not asked") };
    gateway.handle_dns_answer(client, b"answer");
    let got = frames(&mut gateway, other);
    assert_eq!(&got[0][42..], b"answer");
    let datagram = &got[0][34..];
    let pseudo = checksum::pseudo_header_v4(GATEWAY, GUEST, 17, datagram.len() as u16);
    assert!(checksum::is_valid(checksum::add(pseudo, datagram)));
    let later = NOW + Duration::from_secs(11);
    assert_ne!(
        gateway.handle_frame(later, flood, &ask(1, 6000)),
        Handled::Done,
        "what was never answered is forgotten"
    );
    assert_eq!(Ipv4Addr::from(GATEWAY), gateway.config().gateway);
}

/// Memory that is used up refuses what is new, with a reset and a counter, and takes nothing from what is there.
#[test]
fn a_connection_for_which_there_is_no_memory_is_refused() {
    let mut none = Gateway::new(Config { allocate: |_| None, ..Config::default() }).unwrap();
    assert_eq!(none.attach(1, Some(Framing::Hyperkit)), None, "a link has a queue");
    // Enough for a queue, and for no buffer.
    let allocate = |len: usize| (len >= 1 << 20).then(|| vec![0; len]);
    let mut gateway = Gateway::new(Config { allocate, ..Config::default() }).unwrap();
    let port = link(&mut gateway, 1);
    for n in 1..=3 {
        let syn = frame(GATEWAY_MAC, mac(1), [8, 0], &ipv4(GUEST, WORLD, 6, &tcp(100, 0, 0x02, &[], &[])));
        assert_eq!(gateway.handle_frame(NOW, port, &syn), Handled::Done);
        let dial = outputs(&mut gateway).into_iter().find_map(|output| match output {
            Output::Dial { flow, .. } => Some(flow),
            Output::Flow(_)
            | Output::Closed { .. }
            | Output::SessionClosed(_)
            | Output::SessionRefused(_)
            | Output::Frames(_) => None,
        });
        gateway.handle_dialed(NOW, dial.unwrap(), Ok(()));
        let answer = frames(&mut gateway, port).pop().unwrap();
        assert_eq!(answer[14 + 20 + 13] & 0x04, 0x04, "a reset");
        assert!(outputs(&mut gateway).iter().any(|output| matches!(output, Output::Closed { .. })));
        assert!(gateway.connect(NOW, (GUEST, 22).into()).is_err());
        let counters = gateway.counters();
        assert_eq!((counters.refused_memory, counters.tcp_flows, counters.tcp_buffer_bytes), (2 * n, 0, 0));
    }
}

/// What a SYN carries is sent again once the connection is there; its options count from the first.
#[test]
fn a_syn_with_payload_opens_a_connection_like_any_other() {
    let mut gateway = gateway();
    let port = link(&mut gateway, 1);
    let syn = tcp(100, 0, 0x02, &[2, 4, 1, 200], &[7; 1000]);
    gateway.handle_frame(NOW, port, &frame(GATEWAY_MAC, mac(1), [8, 0], &ipv4(GUEST, WORLD, 6, &syn)));
    let Some(Output::Dial { flow, .. }) = outputs(&mut gateway).first().copied() else { panic!("no dial") };
    gateway.handle_dialed(NOW, flow, Ok(()));
    let answer = frames(&mut gateway, port).pop().unwrap();
    let segment = &answer[14 + 20..];
    assert_eq!(segment[13], 0x12, "SYN and ACK");
    assert_eq!(segment[8..12], 101_u32.to_be_bytes());
    let ours = u32::from_be_bytes(segment[4..8].try_into().unwrap()).wrapping_add(1);
    let ack = tcp(101, ours, 0x10, &[], &[7; 1000]);
    gateway.handle_frame(NOW, port, &frame(GATEWAY_MAC, mac(1), [8, 0], &ipv4(GUEST, WORLD, 6, &ack)));
    assert_eq!(gateway.status(flow).unwrap().received, 1000);
}
