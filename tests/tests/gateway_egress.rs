//! From the enclave to the world, through the real gvproxy and through our own gateway.

#![expect(clippy::unwrap_used, reason = "tests, though the attribute that says so is in a table")]

use nitrotap_tests::{
    Enclave, Scratch,
    enclave::serve_outside,
    for_every_pair,
    gateway::{GATEWAY, HOST, pair::Pair},
    guest::payload::Digest,
    require,
    wait::{self, LATER, SOON},
};

for_every_pair! {
    the_gateway_answers_pings_of_every_size_up_to_the_mtu,
    a_name_of_the_gateways_zone_resolves_to_its_address,
    the_switch_knows_the_enclave_by_its_mac,
    a_hundred_megabytes_leave_the_enclave_unchanged,
    a_hundred_megabytes_reach_the_enclave_unchanged,
    what_an_app_leaves_in_its_sockets_when_it_ends_still_arrives,
    both_directions_of_many_connections_carry_bulk_at_the_same_time,
    two_hundred_connections_stand_at_the_same_time,
    segments_of_every_small_size_and_around_the_mtu_arrive_whole,
    datagrams_of_every_size_to_the_mtu_come_back_from_outside,
    datagrams_above_the_mtu_are_fragmented_and_come_back,
    what_nitrotap_counts_is_what_the_gateway_counts,
    a_refused_port_outside_is_refused_inside,
}

const MEGABYTE: u64 = 1_000_000;
/// What fits one frame of MTU 1500: less the IPv4 and UDP headers.
const DATAGRAM: usize = 1500 - 28;

fn the_gateway_answers_pings_of_every_size_up_to_the_mtu(pair: Pair) {
    let gateway = require!(pair.gateway());
    let enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    for size in [0, 1, 56, DATAGRAM - 1, DATAGRAM] {
        let pings = enclave.guest(&["ping", GATEWAY, &size.to_string(), "3"]).expect_success();
        assert_eq!(pings.number("replies"), 3);
    }
}

fn a_name_of_the_gateways_zone_resolves_to_its_address(pair: Pair) {
    let gateway = require!(pair.gateway());
    let enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let server = format!("{GATEWAY}:53");
    let answer = enclave.guest(&["dns-a", "gateway.containers.internal", &server]).expect_success();
    assert_eq!(answer.value("addresses"), GATEWAY);
    let answer = enclave.guest(&["dns-a", "host.containers.internal", &server]).expect_success();
    assert_eq!(answer.value("addresses"), HOST);
    assert!(enclave.resolv_conf().lines().any(|line| line == format!("nameserver {GATEWAY}")));
}

fn the_switch_knows_the_enclave_by_its_mac(pair: Pair) {
    let gateway = require!(pair.gateway());
    let _enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    assert!(gateway.cam().contains("ba:aa:ad:c0:ff:ee"), "{}", gateway.cam());
}

fn a_hundred_megabytes_leave_the_enclave_unchanged(pair: Pair) {
    let gateway = require!(pair.gateway());
    let enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let scratch = Scratch::new();
    let (mut sink, port) = serve_outside(&["tcp-sink", "127.0.0.1:0"], &scratch);

    let bytes = (100 * MEGABYTE).to_string();
    let sent = enclave.guest(&["tcp-send", &format!("{HOST}:{port}"), &bytes, "11"]).expect_success();
    let expected = Digest::of(11, 100 * MEGABYTE).to_string();
    assert_eq!(sent.stdout.trim(), format!("sent {expected}"));
    assert_eq!(sink.expect_line("received ", SOON), expected);

    let metrics = enclave.metrics();
    assert!(metrics.bytes("tx") > 100 * MEGABYTE);
    assert_eq!(metrics.losses(), 0);
    assert_eq!(metrics.drops("tx", "runt") + metrics.drops("tx", "oversize") + metrics.drops("rx", "tap_write"), 0);
}

fn a_hundred_megabytes_reach_the_enclave_unchanged(pair: Pair) {
    let gateway = require!(pair.gateway());
    let enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let scratch = Scratch::new();
    let bytes = (100 * MEGABYTE).to_string();
    let (_source, port) = serve_outside(&["tcp-source", "127.0.0.1:0", &bytes, "12"], &scratch);

    let received = enclave.guest(&["tcp-recv", &format!("{HOST}:{port}")]).expect_success();
    assert_eq!(received.stdout.trim(), format!("received {}", Digest::of(12, 100 * MEGABYTE)));

    let metrics = enclave.metrics();
    assert!(metrics.bytes("rx") > 100 * MEGABYTE);
    assert_eq!(metrics.losses(), 0);
    assert_eq!(metrics.drops("rx", "runt") + metrics.drops("rx", "tap_write") + metrics.rx_over_mtu(), 0);
}

fn what_an_app_leaves_in_its_sockets_when_it_ends_still_arrives(pair: Pair) {
    let gateway = require!(pair.gateway());
    let scratch = Scratch::new();
    let (mut sink, port) = serve_outside(&["tcp-sink", "127.0.0.1:0"], &scratch);
    let sender = pair.client().guest_app(&["tcp-leave", &format!("{HOST}:{port}"), "3000000", "13"]);
    let mut enclave = require!(sender.start(&gateway.url()));
    enclave.process.finish(LATER).expect_success();
    assert_eq!(sink.expect_line("received ", LATER), Digest::of(13, 3_000_000).to_string());
}

fn both_directions_of_many_connections_carry_bulk_at_the_same_time(pair: Pair) {
    let gateway = require!(pair.gateway());
    let enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let scratch = Scratch::new();
    let (_echo, port) = serve_outside(&["tcp-echo", "127.0.0.1:0"], &scratch);
    let bytes = (4 * MEGABYTE).to_string();
    let done = enclave.guest(&["tcp-exchange", &format!("{HOST}:{port}"), "8", &bytes, "13"]).expect_success();
    assert_eq!(done.number("good"), 8);
    assert_eq!(enclave.metrics().losses(), 0);
}

fn two_hundred_connections_stand_at_the_same_time(pair: Pair) {
    let gateway = require!(pair.gateway());
    let enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let scratch = Scratch::new();
    let (_echo, port) = serve_outside(&["tcp-echo", "127.0.0.1:0"], &scratch);
    let before = enclave.metrics();
    let done = enclave.guest(&["tcp-exchange", &format!("{HOST}:{port}"), "200", "20000", "14"]).expect_success();
    assert_eq!(done.number("good"), 200);
    assert_eq!(enclave.metrics().all_drops(), before.all_drops());
}

fn segments_of_every_small_size_and_around_the_mtu_arrive_whole(pair: Pair) {
    let gateway = require!(pair.gateway());
    let enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let scratch = Scratch::new();
    let (_echo, port) = serve_outside(&["tcp-echo", "127.0.0.1:0"], &scratch);
    // 1460 is the segment that fills an MTU of 1500; 1448 is it with timestamps.
    for bytes in ["0", "1", "2", "1447", "1448", "1449", "1460", "1461"] {
        let done = enclave.guest(&["tcp-exchange", &format!("{HOST}:{port}"), "1", bytes, "15"]).expect_success();
        assert_eq!(done.number("good"), 1, "{bytes} bytes");
    }
}

fn datagrams_of_every_size_to_the_mtu_come_back_from_outside(pair: Pair) {
    let gateway = require!(pair.gateway());
    let enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let scratch = Scratch::new();
    let (_echo, port) = serve_outside(&["udp-echo", "127.0.0.1:0"], &scratch);
    let empty = gateway.carries_empty_datagrams().then_some(0);
    for size in empty.into_iter().chain([1, 2, 17, 18, DATAGRAM - 1, DATAGRAM]) {
        let pings = enclave.guest(&["udp-ping", &format!("{HOST}:{port}"), &size.to_string(), "5"]).expect_success();
        assert_eq!(pings.number("echoed"), 5, "{size} bytes");
    }
}

fn datagrams_above_the_mtu_are_fragmented_and_come_back(pair: Pair) {
    let gateway = require!(pair.gateway());
    let enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let scratch = Scratch::new();
    let (_echo, port) = serve_outside(&["udp-echo", "127.0.0.1:0"], &scratch);
    for size in [DATAGRAM + 1, 4000, 60_000] {
        let pings = enclave.guest(&["udp-ping", &format!("{HOST}:{port}"), &size.to_string(), "3"]).expect_success();
        assert_eq!(pings.number("echoed"), 3, "{size} bytes");
    }
}

fn what_nitrotap_counts_is_what_the_gateway_counts(pair: Pair) {
    let gateway = require!(pair.gateway());
    let mut enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let scratch = Scratch::new();
    let (_echo, port) = serve_outside(&["tcp-echo", "127.0.0.1:0"], &scratch);
    enclave.guest(&["tcp-exchange", &format!("{HOST}:{port}"), "4", "1000000", "16"]).expect_success();
    enclave.wait_for_metrics("the bytes that the gateway sent", |metrics| {
        metrics.bytes("rx") == gateway.stat("BytesSent")
    });
    // The questions of the handshake are the link's own, and not among the frames of the TAP. What is being closed still
    // sends, so the two are asked until they agree.
    enclave.wait_for_metrics("the bytes that the gateway received", |metrics| {
        let more = gateway.stat("BytesReceived").checked_sub(metrics.bytes("tx"));
        more.is_some_and(|more| more <= metrics.get("nitrotap_link_probes_total") * 42)
    });
}

fn a_refused_port_outside_is_refused_inside(pair: Pair) {
    let gateway = require!(pair.gateway());
    let enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let start = wait::now();
    let refused = enclave.guest(&["tcp-recv", &format!("{HOST}:{port}")]);
    assert_eq!(refused.code(), Some(1));
    assert!(refused.stderr.contains("refused"), "after {:?}: {}", start.elapsed(), refused.stderr);
}
