//! A client made of frames only, at the real gvproxy and at our own gateway: what every client needs, one frame at a time.

#![expect(clippy::unwrap_used, reason = "tests, though the attribute that says so is in a table")]

use dhcproto::v4::MessageType;
use hickory_proto::rr::RecordType;
use nitrotap_tests::{
    FrameClient, Scratch,
    enclave::serve_outside,
    for_every_host,
    frameclient::{GATEWAY, HOST, Station, packets::GATEWAY_MAC},
    gateway::Kind,
    guest::payload::{Digest, Payload},
    require,
    wait::{LATER, SOON},
};
use smoltcp::wire::IpProtocol;
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddrV4, TcpListener, TcpStream},
    time::Duration,
};

for_every_host! {
    arp_finds_the_gateway_and_the_host_and_nobody_else,
    pings_come_back,
    a_name_of_the_zone_resolves_over_udp_and_tcp,
    dhcp_offers_and_acknowledges_an_address,
    datagrams_come_back_whole_or_in_fragments,
    a_connection_to_the_world_carries_bytes_both_ways_and_ends_in_order,
    a_port_that_nobody_listens_on_is_refused,
    a_connection_from_the_world_is_answered_by_hand,
    two_clients_see_each_other,
}

/// Long enough for an answer that must not come, were it to come.
const SILENCE: Duration = Duration::from_millis(300);

fn arp_finds_the_gateway_and_the_host_and_nobody_else(host: Kind) {
    let gateway = require!(host.start());
    let mut client = FrameClient::connect(&gateway, Station::number(2));
    for known in [GATEWAY, HOST] {
        assert_eq!(client.arp_request(known, SOON), Some(GATEWAY_MAC), "{known}");
    }
    for unknown in [[192, 168, 127, 2], [192, 168, 127, 77], [192, 0, 2, 1]] {
        assert_eq!(client.arp_request(unknown.into(), SILENCE), None, "{unknown:?}");
    }
    assert_eq!(client.broken(), 0);
}

fn pings_come_back(host: Kind) {
    let gateway = require!(host.start());
    let mut client = FrameClient::connect(&gateway, Station::number(2));
    for size in [0, 1, 56, 1471, 1472] {
        assert!(client.ping(GATEWAY, size, SOON), "{size} bytes");
    }
    assert_eq!(client.broken(), 0);
}

fn a_name_of_the_zone_resolves_over_udp_and_tcp(host: Kind) {
    let gateway = require!(host.start());
    let mut client = FrameClient::connect(&gateway, Station::number(2));
    let name = "host.containers.internal.";
    let over_udp = client.dns_query(name, RecordType::A, SOON).unwrap();
    let over_tcp = client.dns_query_over_tcp(name, RecordType::A, SOON).unwrap();
    assert_eq!(over_udp.answers.len(), 1);
    assert_eq!(over_udp.answers, over_tcp.answers);
    assert_eq!(client.broken(), 0);
}

fn dhcp_offers_and_acknowledges_an_address(host: Kind) {
    let gateway = require!(host.start());
    let mut client = FrameClient::connect(&gateway, Station::number(7));
    let offer = client.dhcp_exchange(MessageType::Discover, None, SOON).unwrap();
    let ack = client.dhcp_exchange(MessageType::Request, Some(offer.yiaddr()), SOON).unwrap();
    assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!(ack.yiaddr(), offer.yiaddr());
    assert_eq!(ack.yiaddr().octets()[..3], [192, 168, 127]);
    assert_eq!(client.broken(), 0);
}

fn datagrams_come_back_whole_or_in_fragments(host: Kind) {
    let gateway = require!(host.start());
    let mut client = FrameClient::connect(&gateway, Station::number(2));
    let scratch = Scratch::new();
    let (_echo, port) = serve_outside(&["udp-echo", "127.0.0.1:0"], &scratch);
    for size in [1, 1472, 1473, 9000, 60_000] {
        let payload = Payload::bytes(5, size);
        let echo = client.udp_exchange(SocketAddrV4::new(HOST, port), &payload, SOON);
        assert!(echo.is_some_and(|echo| echo == payload), "{size} bytes");
    }
    assert_eq!(client.broken(), 0);
}

fn a_connection_to_the_world_carries_bytes_both_ways_and_ends_in_order(host: Kind) {
    let gateway = require!(host.start());
    let mut client = FrameClient::connect(&gateway, Station::number(2));
    let scratch = Scratch::new();
    let (_source, port) = serve_outside(&["tcp-source", "127.0.0.1:0", "3000000", "41"], &scratch);
    let mut download = client.tcp_connect(SocketAddrV4::new(HOST, port), SOON).expect_open();
    assert!(download.run_to_end(&mut client, LATER));
    assert!(!download.reset);
    assert!(download.received == Payload::bytes(41, 3_000_000));
    download.close(&mut client);
    assert!(download.run(&mut client, SOON, |conversation| conversation.is_acknowledged()));

    let (mut sink, port) = serve_outside(&["tcp-sink", "127.0.0.1:0"], &scratch);
    let mut upload = client.tcp_connect(SocketAddrV4::new(HOST, port), SOON).expect_open();
    for piece in Payload::bytes(42, 300_000).chunks(10_000) {
        upload.send(&mut client, piece);
        assert!(upload.run(&mut client, SOON, |conversation| conversation.is_acknowledged()));
    }
    upload.close(&mut client);
    assert!(upload.run(&mut client, SOON, |conversation| conversation.is_acknowledged() || conversation.reset));
    assert_eq!(sink.expect_line("received ", SOON), Digest::of(42, 300_000).to_string());
    assert_eq!(client.broken(), 0);
}

fn a_port_that_nobody_listens_on_is_refused(host: Kind) {
    let gateway = require!(host.start());
    let mut client = FrameClient::connect(&gateway, Station::number(2));
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    assert!(client.tcp_connect(SocketAddrV4::new(HOST, port), SOON).is_refused());
}

fn a_connection_from_the_world_is_answered_by_hand(host: Kind) {
    let gateway = require!(host.start());
    let mut client = FrameClient::connect(&gateway, Station::number(2));
    let local = gateway.expose_tcp(7000);
    let mut outside = TcpStream::connect(local).unwrap();
    outside.write_all(b"question").unwrap();
    let mut inside = client.tcp_accept(7000, SOON).expect("a connection");
    assert_eq!(*inside.remote.ip(), GATEWAY);
    assert!(inside.run(&mut client, SOON, |conversation| conversation.received == b"question"));
    inside.send(&mut client, b"answer");
    inside.close(&mut client);
    assert!(inside.run(&mut client, SOON, |conversation| conversation.is_acknowledged()));
    let mut answer = Vec::new();
    outside.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
}

fn two_clients_see_each_other(host: Kind) {
    let gateway = require!(host.start());
    let mut one = FrameClient::connect(&gateway, Station::number(2));
    let mut other = FrameClient::connect(&gateway, Station::number(9));
    let (us, them) = (one.station(), other.station());
    one.send(&us.arp_request(them.ip));
    let asked = other.find(SOON, |packet| packet.as_arp().map(|(_, to)| to));
    assert!(asked.is_some_and(|to| to.is_broadcast()));
    let datagram = us.datagram(1, SocketAddrV4::new(them.ip, 2), b"to a neighbour");
    one.send(&us.ipv4_to(them.mac, them.ip, IpProtocol::Udp, &datagram));
    let came = other.find(SOON, |packet| packet.as_udp().map(|(_, datagram)| datagram.payload.clone()));
    assert_eq!(came.as_deref(), Some(&b"to a neighbour"[..]));
    assert_eq!((one.broken(), other.broken()), (0, 0));
}
