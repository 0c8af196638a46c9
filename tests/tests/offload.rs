//! What a network card would do, end to end: super-frames through the real gvproxy and through our own gateway, with every
//! kind of offload on and off.

#![expect(clippy::unwrap_used, reason = "tests, though the attribute that says so is in a table")]

use nitrotap_tests::{
    Enclave, FakeHost, Metrics, Scratch, World,
    enclave::serve_outside,
    fakehost::frames::{udp_payload, udp_to_enclave},
    for_every_host,
    gateway::{HOST, Kind},
    guest::payload::Digest,
    require,
    wait::{LATER, SOON},
    world::SILENT,
};
use std::{thread, time::Duration};

for_every_host! {
    a_hundred_megabytes_pass_both_ways_whole_with_everything_on,
    a_hundred_megabytes_pass_both_ways_in_segments_with_strict,
    a_hundred_megabytes_pass_both_ways_with_each_kind_off,
    two_enclaves_talk_in_segments_with_checksums,
    long_datagrams_cross_an_mtu_of_65520,
}

const BYTES: u64 = 100_000_000;

fn both_ways(host: Kind, args: &[&str]) -> Metrics {
    let gateway = host.start().unwrap_or_else(|missing| panic!("{missing:?}"));
    let enclave = Enclave::linked(Enclave::options().args(args), &gateway.url()).unwrap();
    let scratch = Scratch::new();
    let bytes = BYTES.to_string();

    let (mut sink, port) = serve_outside(&["tcp-sink", "127.0.0.1:0"], &scratch);
    enclave.guest(&["tcp-send", &format!("{HOST}:{port}"), &bytes, "21"]).expect_success();
    assert_eq!(sink.expect_line("received ", SOON), Digest::of(21, BYTES).to_string());

    let (_source, port) = serve_outside(&["tcp-source", "127.0.0.1:0", &bytes, "22"], &scratch);
    let received = enclave.guest(&["tcp-recv", &format!("{HOST}:{port}")]).expect_success();
    assert_eq!(received.stdout.trim(), format!("received {}", Digest::of(22, BYTES)));

    let metrics = enclave.metrics();
    assert_eq!((metrics.all_drops_but("link_down"), metrics.losses()), (0, 0));
    metrics
}

fn out_whole(metrics: &Metrics) -> u64 {
    metrics.get("nitrotap_super_frames_total{direction=\"tx\"}")
}

fn in_whole(metrics: &Metrics) -> u64 {
    metrics.get("nitrotap_super_frames_total{direction=\"rx\"}")
}

fn cut(metrics: &Metrics) -> u64 {
    metrics.get("nitrotap_super_frames_cut_total")
}

fn a_hundred_megabytes_pass_both_ways_whole_with_everything_on(host: Kind) {
    require!(host.start());
    let metrics = both_ways(host, &[]);
    assert!(out_whole(&metrics) > 1000, "{metrics:?}");
    assert!(in_whole(&metrics) > 100, "{metrics:?}");
    assert_eq!(cut(&metrics), 0);
}

fn a_hundred_megabytes_pass_both_ways_in_segments_with_strict(host: Kind) {
    require!(host.start());
    let metrics = both_ways(host, &["--strict"]);
    assert_eq!((out_whole(&metrics), metrics.get("nitrotap_checksums_left_total")), (0, 0));
    assert!(cut(&metrics) > 1000, "{metrics:?}");
    assert!(metrics.get("nitrotap_segments_total{direction=\"tx\"}") > 10_000);
    assert!(metrics.frames("tx") > BYTES / 1460);
    assert!(metrics.get("nitrotap_checksums_finished_total") > 0);
}

fn a_hundred_megabytes_pass_both_ways_with_each_kind_off(host: Kind) {
    require!(host.start());
    for list in ["csum,uso,gro", "csum,tso,uso", "csum,tso,gro", "gro", "csum", "none"] {
        let metrics = both_ways(host, &["--offload", list]);
        assert_eq!(out_whole(&metrics) > 0, list.contains("tso"), "{list}");
        assert_eq!(in_whole(&metrics) > 0, list.contains("gro"), "{list}");
        assert_eq!(metrics.get("nitrotap_checksums_left_total") > 0, list.contains("csum"), "{list}");
        assert_eq!(cut(&metrics), 0, "{list}");
    }
}

fn two_enclaves_talk_in_segments_with_checksums(host: Kind) {
    let gateway = require!(host.start());
    let server = require!(Enclave::linked(Enclave::options(), &gateway.url()));
    let other = Enclave::options().args(&["--mac", "ba:aa:ad:c0:ff:ef", "--address", "192.168.127.3/24"]);
    let client = require!(Enclave::linked(other, &gateway.url()));
    let mut sink = server.serve(&["tcp-sink", "0.0.0.0:7000"]);
    let bytes = 20_000_000;
    client.guest(&["tcp-send", "192.168.127.2:7000", &bytes.to_string(), "23"]).expect_success();
    assert_eq!(sink.expect_line("received ", LATER), Digest::of(23, bytes).to_string());
    let metrics = client.metrics();
    assert_eq!(out_whole(&metrics), 0, "nobody but the gateway takes them");
    assert!(cut(&metrics) > 100, "{metrics:?}");
    assert_eq!(metrics.all_drops_but("link_down"), 0);
}

fn long_datagrams_cross_an_mtu_of_65520(host: Kind) {
    let gateway = require!(host.options().mtu(65_520).start());
    let enclave = require!(Enclave::linked(Enclave::options().args(&["--mtu", "65520"]), &gateway.url()));
    let scratch = Scratch::new();
    let (_echo, port) = serve_outside(&["udp-echo", "127.0.0.1:0"], &scratch);
    for size in [1472, 9000, 40_000, 65_492] {
        let pings = enclave.guest(&["udp-ping", &format!("{HOST}:{port}"), &size.to_string(), "3"]).expect_success();
        assert_eq!(pings.number("echoed"), 3, "{size} bytes");
    }
}

/// Stock gvproxy sends whatever comes and lets its kernel fragment it, DF or not: an app behind it is not told, and its
/// datagrams are lost where fragments are.
#[test]
fn who_may_not_be_fragmented_is_told_how_wide_the_world_is() {
    let world = require!(World::new());
    // The echo is at an address of the host itself.
    let gateway = require!(world.start(Kind::Ours.options().mtu(65_520).args(&["--allow", "any", "--allow", "host"])));
    let enclave = require!(Enclave::linked(Enclave::options().args(&["--mtu", "65520"]), &gateway.url()));
    let told = enclave.guest(&["udp-probe", &format!("{SILENT}:9"), "9000"]).expect_success();
    assert_eq!(told.number("mtu"), 1500);

    // Who may be fragmented loses one datagram to the discovery, and then goes through in fragments.
    let (_echo, port) = world.serve(&["udp-echo", "198.51.100.1:0"]);
    for size in ["1472", "9000", "60000"] {
        let pings = enclave.guest(&["udp-ping", &format!("198.51.100.1:{port}"), size, "3"]).expect_success();
        assert_eq!(pings.number("echoed"), 3, "{size} bytes");
    }
}

#[test]
fn datagrams_that_were_joined_reach_an_app_one_by_one() {
    const COUNT: u8 = 20;
    let host = FakeHost::new();
    let mut enclave = require!(Enclave::options().start(&host.url()));
    let session = host.accept_up();
    enclave.wait_until_up();
    let _echo = enclave.serve(&["udp-echo", "0.0.0.0:7007"]);
    // Until the kernel knows the gateway's hardware address its answers wait, and later ones may overtake them.
    session.send(&udp_to_enclave(9000, 7007, b"first"));
    session.recv_matching(|frame| udp_payload(frame, 9000) == Some(b"first")).expect("the stream stays");
    // The last is shorter: it ends the packet.
    let sizes: Vec<usize> = (0..COUNT).map(|n| if n + 1 == COUNT { 300 } else { 1000 }).collect();
    let datagrams = (0..COUNT).zip(&sizes).map(|(n, size)| udp_to_enclave(9000, 7007, &vec![n; *size]));
    session.send_all(&datagrams.collect::<Vec<_>>());
    for (n, size) in (0..COUNT).zip(&sizes) {
        let echo = session.recv_matching(|frame| udp_payload(frame, 9000).is_some()).expect("the stream stays");
        assert_eq!(udp_payload(&echo, 9000), Some(&vec![n; *size][..]), "datagram {n}");
    }
    let metrics = enclave.wait_for_metrics("what was joined", |metrics| in_whole(metrics) > 0);
    // All of them, unless the stream was read in the middle of the write.
    assert!(metrics.get("nitrotap_joined_frames_total") > 1);
    assert_eq!(metrics.drops("rx", "tap_write"), 0);
}

#[test]
fn a_stream_of_single_frames_is_read_in_moderation_unless_told_not_to() {
    /// Far more than a machine under load needs to send fast enough for one window.
    const BURSTS: usize = 400_000;
    for (args, moderated) in [(&[][..], true), (&["--rx-usecs", "0"], false)] {
        let host = FakeHost::new();
        let mut enclave = require!(Enclave::options().args(args).start(&host.url()));
        let session = host.accept_up();
        enclave.wait_until_up();
        let frame = udp_to_enclave(9000, 7007, &[7; 1400]);
        let mut sent = 0;
        for burst in 1..=BURSTS {
            for _ in 0..8 {
                session.send(&frame);
                sent += 1;
            }
            thread::sleep(Duration::from_micros(100));
            let enough = burst % 1000 == 0 && enclave.metrics().get("nitrotap_rx_moderated_total") > 0;
            if enough || !moderated && burst == 1000 {
                break;
            }
        }
        let metrics = enclave.wait_for_metrics("every frame", |metrics| metrics.frames("rx") >= sent);
        assert_eq!(metrics.get("nitrotap_rx_moderated_total") > 0, moderated, "{args:?}");
        assert_eq!(metrics.drops("rx", "tap_write"), 0);
    }
}
