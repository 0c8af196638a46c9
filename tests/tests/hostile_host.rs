//! A host that sends rubbish, stops in the middle, or stops listening: the stream never loses its step, the counters are
//! exact, and what can be delivered is delivered.

use nitrotap_tests::{
    Enclave, FakeHost, Namespace, Process,
    fakehost::{
        Session,
        frames::{self, ENCLAVE_MAC, GATEWAY_MAC, HEADER, UDP_HEADERS, is_arp, on_stream, udp_payload, udp_to_enclave},
    },
    guest::payload::Payload,
    peers::Missing,
    require,
    wait::{self, SOON},
};
use std::time::Duration;

/// Where the app in the enclave echoes datagrams, and the gateway's port they come from.
const APP: u16 = 7000;
const OURS: u16 = 4000;

/// An enclave whose link to the fake host is up, with an echo app inside.
struct World {
    host: FakeHost,
    session: Session,
    _app: Process,
    enclave: Enclave,
}

impl World {
    fn new() -> Result<Self, Missing> {
        let host = FakeHost::new();
        let mut enclave = Enclave::options().start(&host.url())?;
        let session = host.accept_up();
        enclave.wait_until_up();
        let app = enclave.serve(&["udp-echo", &format!("0.0.0.0:{APP}")]);
        Ok(Self { host, session, _app: app, enclave })
    }

    /// A datagram reaches the app and its echo comes back: the stream is in step in both directions. It is repeated, as
    /// datagrams are: an echo may find a link that is just coming up, or a TAP whose queue is full.
    fn expect_echo(&self, payload: &[u8]) {
        wait::until("an echo", SOON, || {
            self.session.send(&udp_to_enclave(OURS, APP, payload));
            self.session.recv_within(Duration::from_secs(1), |frame| udp_payload(frame, OURS) == Some(payload))
        });
    }

    fn expect_echo_of(&self, payload: &[u8]) {
        let echo = self.session.recv_matching(|frame| udp_payload(frame, OURS) == Some(payload));
        assert!(echo.is_some(), "the stream ended before the echo of {} bytes", payload.len());
    }

    /// Waits until the enclave has counted exactly the frames that were sent on this, its first, session.
    fn expect_all_counted(&mut self) {
        let session = &self.session;
        self.enclave.wait_for_metrics("every frame sent", |metrics| metrics.frames("rx") == session.sent());
    }
}

#[test]
fn the_stream_opens_with_a_request_that_gvproxy_takes_and_then_asks_for_the_gateway() {
    drop(require!(Namespace::new()));
    let host = FakeHost::new();
    let _enclave = require!(Enclave::options().start(&host.url()));
    let mut dial = host.accept();
    let greeting = dial.greeting().unwrap();
    assert_eq!(greeting.request.target().unwrap(), ("POST", "/connect"));
    assert!(greeting.request.start.ends_with("HTTP/1.1"));
    assert!(greeting.request.header("host").is_some(), "HTTP/1.1 without Host is refused: {:?}", greeting.request);
    assert_eq!(greeting.request.header("content-length").unwrap_or("0"), "0");
    assert_eq!(greeting.request.header("transfer-encoding"), None);
    let first = dial.serve_frames().recv_matching(|_| true).expect("a frame follows");
    assert!(frames::arp_reply(&first).is_some(), "the first frame asks for the gateway: {first:x?}");
}

#[test]
fn runts_of_every_length_are_skipped_and_counted() {
    let mut world = require!(World::new());
    for length in 0..HEADER {
        world.session.send(&vec![0xEE; length]);
        world.expect_echo(&Payload::bytes(length as u64, 40));
    }
    // All in one piece, with a good frame behind them.
    let runts: Vec<_> = (0..HEADER).map(|length| vec![0; length]).collect();
    world.session.send_all(&[runts, vec![udp_to_enclave(OURS, APP, b"behind the runts")]].concat());
    world.expect_echo_of(b"behind the runts");
    world.expect_all_counted();
    let metrics = world.enclave.metrics();
    assert_eq!(metrics.drops("rx", "runt"), 2 * HEADER as u64);
    assert_eq!((metrics.losses(), metrics.drops("rx", "tap_write"), metrics.rx_over_mtu()), (0, 0, 0));
}

#[test]
fn frames_over_the_mtu_are_delivered_and_counted_up_to_the_longest() {
    let mut world = require!(World::new());
    // An MTU of 1500 and an Ethernet header, which may have one VLAN tag.
    let longest = 1500 + HEADER + 4;
    let mut over = 0;
    for length in [longest, longest + 1, 4000, 65_535] {
        // An Ethernet type that no stack takes, so that nothing answers.
        let frame = [&ENCLAVE_MAC[..], &GATEWAY_MAC, &[0x88, 0xB5], &vec![0; length - HEADER]].concat();
        world.session.send(&frame);
        over += u64::from(length > longest);
        world.expect_echo(&Payload::bytes(length as u64, 100));
    }
    // One that the stack does take: longer than any frame the gateway should send, whole for the app.
    world.session.send(&udp_to_enclave(OURS, APP, &Payload::bytes(1, 3000)));
    over += 1;
    world.expect_echo(b"after them");
    world.expect_all_counted();
    let metrics = world.enclave.metrics();
    assert_eq!(metrics.rx_over_mtu(), over);
    assert_eq!((metrics.losses(), metrics.drops("rx", "tap_write"), metrics.drops("rx", "runt")), (0, 0, 0));
}

#[test]
fn frames_that_mean_nothing_pass_by() {
    let mut world = require!(World::new());
    let header = |kind: [u8; 2]| [&ENCLAVE_MAC[..], &GATEWAY_MAC, &kind].concat();
    let mut rubbish = vec![header([8, 0]), header([8, 6]), header([0, 0]), vec![0xFF; HEADER], vec![0; 1514]];
    for kind in [[8, 0], [8, 6], [0x86, 0xDD], [0x81, 0], [0x88, 0xCC], [0xFF, 0xFF], [0, 46]] {
        for length in [1, 7, 19, 20, 27, 28, 41, 1500] {
            rubbish.push([header(kind), Payload::bytes(length as u64, length)].concat());
        }
    }
    for frame in &rubbish {
        world.session.send(frame);
    }
    world.session.send_all(&rubbish);
    world.expect_echo(b"after the rubbish");
    world.expect_all_counted();
    let metrics = world.enclave.metrics();
    assert_eq!((metrics.losses(), metrics.drops("rx", "runt"), metrics.drops("rx", "tap_write")), (0, 0, 0));
}

#[test]
fn a_frame_cut_at_any_byte_is_put_together() {
    let mut world = require!(World::new());
    let length = 2 + UDP_HEADERS + 20;
    for at in 1..length {
        let payload = Payload::bytes(at as u64, 20);
        world.session.send_split(&udp_to_enclave(OURS, APP, &payload), at);
        world.expect_echo_of(&payload);
    }
    world.expect_all_counted();
    assert_eq!(world.enclave.metrics().losses(), 0);
}

#[test]
fn datagrams_from_empty_to_the_mtu_come_back() {
    let mut world = require!(World::new());
    for size in [0, 1, 2, 17, 18, 19, 1471, 1472] {
        world.expect_echo(&Payload::bytes(7, size));
    }
    world.expect_all_counted();
    assert_eq!(world.enclave.metrics().rx_over_mtu(), 0);
}

#[test]
fn thousands_of_frames_in_one_piece_are_all_counted() {
    let mut world = require!(World::new());
    let frames: Vec<_> = (0..5000).map(|i| udp_to_enclave(OURS, 9, &Payload::bytes(i, (i % 300) as usize))).collect();
    world.session.send_all(&frames);
    world.expect_echo(b"after all of them");
    world.expect_all_counted();
    assert_eq!(world.enclave.metrics().all_drops_but("link_down"), 0);
}

#[test]
fn a_stream_that_ends_inside_a_frame_is_replaced_and_the_rest_is_never_delivered() {
    let mut world = require!(World::new());
    let whole = on_stream(&udp_to_enclave(OURS, APP, b"never whole"));
    for (round, at) in (1..).zip([1, 2, 3, 15, whole.len() - 1]) {
        world.session.send_raw(&whole[..at]);
        world.session = world.host.accept_up_after(world.session);
        world.expect_echo(&Payload::bytes(round, 30));
        let metrics = world.enclave.metrics();
        assert_eq!((metrics.losses(), metrics.drops("rx", "truncated")), (round, round), "cut at {at}");
    }
}

#[test]
fn a_host_that_goes_with_unread_bytes_is_replaced() {
    let mut world = require!(World::new());
    let flood = world.enclave.start_guest(&["udp-flood", "192.168.127.1:9", "1000"]);
    world.session.recv_matching(|frame| udp_payload(frame, 9).is_some()).expect("the flood arrives");
    world.session.stop_reading();
    world.session = world.host.accept_up_after(world.session);
    drop(flood);
    world.expect_echo(b"on the second stream");
    assert_eq!(world.enclave.metrics().losses(), 1);
}

#[test]
fn a_host_that_reads_nothing_still_gets_its_frames_delivered() {
    let mut world = require!(World::new());
    let flood = world.enclave.start_guest(&["udp-flood", "192.168.127.1:9", "1000"]);
    world.session.recv_matching(|frame| udp_payload(frame, 9).is_some()).expect("the flood arrives");
    world.session.stop_reading();
    // The stream towards the host is full once no more frames are counted as sent.
    let mut last = None;
    world.enclave.wait_for_metrics("the stream full", |metrics| {
        last.replace(metrics.frames("tx")) == Some(metrics.frames("tx"))
    });
    for i in 0..100 {
        world.session.send(&udp_to_enclave(OURS, APP, &Payload::bytes(i, 50)));
    }
    world.expect_all_counted();
    drop(flood);
    world.session.resume_reading();
    world.expect_echo(b"in step again");
    assert_eq!(world.enclave.metrics().losses(), 0);
}

#[test]
fn a_host_that_swallows_everything_is_given_up() {
    let mut world = require!(World::new());
    world.session.stop_answering();
    world.session.wait_until_closed();
    world.session = world.host.accept_up();
    world.expect_echo(b"the next one answers");
    let metrics = world.enclave.metrics();
    assert_eq!((metrics.losses(), metrics.silent_losses()), (1, 1));
}

#[test]
fn a_first_byte_that_the_host_lost_costs_a_redial_and_nothing_else() {
    let host = FakeHost::new();
    let mut enclave = require!(Enclave::options().start(&host.url()));
    let mut dial = host.accept();
    dial.greeting().unwrap();
    // As a stock gvproxy does with bytes that come too early: the stream is out of step for good.
    dial.lose(1).unwrap();
    let out_of_step = dial.serve_frames();
    out_of_step.wait_until_closed();
    let session = host.accept_up();
    let metrics = enclave.wait_until_up();
    assert!(metrics.probe_failures() >= 1);
    assert_eq!((metrics.dials(), metrics.losses()), (metrics.probe_failures() + 1, 0));
    let app = enclave.serve(&["udp-echo", &format!("0.0.0.0:{APP}")]);
    World { host, session, _app: app, enclave }.expect_echo(b"in step");
}

#[test]
fn a_host_that_never_answers_gets_nothing_but_the_question() {
    let host = FakeHost::new();
    let mut enclave = require!(Enclave::options().start(&host.url()));
    // The app talks all the time; none of it may go to a host that is not proven.
    let mut talking = None;
    for round in 1..=3 {
        let session = host.accept().serve();
        session.stop_answering();
        talking.get_or_insert_with(|| enclave.start_guest(&["udp-flood", "192.168.127.1:9", "100"]));
        while let Some(frame) = session.recv_matching(|_| true) {
            assert!(is_arp(&frame), "in round {round}: {frame:x?}");
        }
        let metrics = enclave.metrics();
        assert!(!metrics.link_is_up());
        assert!(metrics.probe_failures() >= round, "{} in round {round}", metrics.probe_failures());
    }
    let _session = host.accept_up();
    enclave.wait_until_up();
}

#[test]
fn frames_before_the_answer_belong_to_the_enclave_like_any_other() {
    let host = FakeHost::new();
    let mut enclave = require!(Enclave::options().start(&host.url()));
    let mut dial = host.accept();
    dial.greeting().unwrap();
    let session = dial.serve_frames();
    session.stop_answering();
    let question = session.recv_matching(is_arp).expect("a question");
    // The last of them is cut by the answer's piece.
    let early: Vec<_> = (0..50).map(|i| udp_to_enclave(OURS, APP, &Payload::bytes(i, 100))).collect();
    session.send_all(&early);
    let last = udp_to_enclave(OURS, APP, b"right behind the answer");
    session.send_all(&[frames::arp_reply(&question).unwrap(), last.clone()]);
    session.send_split(&last, 9);
    session.answer();
    enclave
        .wait_for_metrics("every frame sent", |metrics| metrics.link_is_up() && metrics.frames("rx") == session.sent());
}

#[test]
fn a_host_that_answers_in_http_is_no_gateway() {
    let host = FakeHost::new();
    let mut enclave = require!(Enclave::options().start(&host.url()));
    for _ in 0..2 {
        let mut dial = host.accept();
        dial.greeting().unwrap();
        let session = dial.serve_frames();
        session.stop_answering();
        session.send_raw(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n");
        session.wait_until_closed();
    }
    assert!(!enclave.metrics().link_is_up());
    let _session = host.accept_up();
    enclave.wait_until_up();
}
