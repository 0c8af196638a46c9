//! The gateway goes and comes back: the TAP stays, the link returns, the counters tell.

use nitrotap_tests::{
    Enclave, Metrics, Scratch,
    enclave::serve_outside,
    for_every_pair,
    gateway::{GATEWAY, HOST, pair::Pair},
    require,
    wait::{self, SOON},
};
use rustix::process::Signal;
use std::time::Duration;

for_every_pair! {
    a_gateway_killed_in_mid_transfer_is_found_again_and_the_tap_stays,
    frames_that_find_no_link_are_dropped_and_counted,
    ten_restarts_in_a_row_leak_no_descriptor,
    a_gateway_that_is_stopped_is_given_up_and_found_again_when_it_is_replaced,
}

/// New connections must work this long after the gateway listens again.
const RETURN: Duration = Duration::from_secs(2);

/// Longer than any test runs: a transfer that only the restart ends.
const ENDLESS: &str = "1000000000000";

/// Opens connections until one works, and panics unless that is within [`RETURN`] of this call.
fn expect_new_connection(enclave: &Enclave, port: u16) {
    let address = format!("{HOST}:{port}");
    let start = wait::now();
    while !enclave.guest(&["tcp-recv", &address, "400"]).status.success() {
        assert!(start.elapsed() < RETURN, "no new connection {:?} after the gateway's return", start.elapsed());
    }
    assert!(start.elapsed() < RETURN, "a new connection only {:?} after the gateway's return", start.elapsed());
}

fn a_gateway_killed_in_mid_transfer_is_found_again_and_the_tap_stays(pair: Pair) {
    let mut gateway = require!(pair.gateway());
    let mut enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let scratch = Scratch::new();
    let (_sink, sink) = serve_outside(&["tcp-sink", "127.0.0.1:0"], &scratch);
    let (_source, source) = serve_outside(&["tcp-source", "127.0.0.1:0", "10000", "31"], &scratch);
    let tap = enclave.tap_index();
    let mut transfer = enclave.start_guest(&["tcp-send", &format!("{HOST}:{sink}"), ENDLESS, "32"]);
    let before = enclave.wait_for_metrics("a transfer", |metrics| metrics.bytes("tx") > 5_000_000);
    assert_eq!((before.dials(), before.losses()), (1, 0));

    gateway.kill();
    let down = enclave.wait_for_metrics("the link down", |metrics| !metrics.link_is_up());
    assert_eq!(down.losses(), 1);
    assert_eq!(enclave.tap_index(), tap);

    gateway.restart();
    expect_new_connection(&enclave, source);

    let after = enclave.wait_until_up();
    assert_eq!(after.losses(), 1);
    assert!(after.dials() >= 2);
    assert_eq!(enclave.tap_index(), tap);
    // The new gateway knows nothing of the old connection and resets it: the app is told, it does not hang.
    assert_eq!(transfer.finish(wait::LATER).code(), Some(1));
    assert!(enclave.guest(&["ping", GATEWAY, "56", "3"]).status.success());
}

fn frames_that_find_no_link_are_dropped_and_counted(pair: Pair) {
    let mut gateway = require!(pair.gateway());
    let mut enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    // The kernel learns the gateway's MAC: without it, it would hold datagrams back itself.
    enclave.guest(&["ping", GATEWAY, "56", "1"]).expect_success();
    gateway.kill();
    let before = enclave.wait_for_metrics("the link down", |metrics| !metrics.link_is_up());
    let _flood = enclave.start_guest(&["udp-flood", &format!("{GATEWAY}:9"), "100"]);
    let dropped = |metrics: &Metrics| metrics.drops("tx", "link_down");
    let after = enclave.wait_for_metrics("drops", |metrics| dropped(metrics) > dropped(&before) + 100);
    assert_eq!(after.frames("tx"), before.frames("tx"));
    assert!(!after.link_is_up());
}

fn ten_restarts_in_a_row_leak_no_descriptor(pair: Pair) {
    let mut gateway = require!(pair.gateway());
    let mut enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let descriptors = |enclave: &Enclave| {
        let folder = format!("/proc/{}/fd", enclave.process.pid());
        std::fs::read_dir(folder).expect("nitrotap runs, as our own user").count()
    };
    let mut before = None;
    for round in 1..=10 {
        gateway.restart();
        enclave.wait_for_metrics("a new link", |metrics| metrics.losses() == round && metrics.link_is_up());
        assert!(enclave.guest(&["ping", GATEWAY, "56", "1"]).status.success());
        let now = descriptors(&enclave);
        assert!(now <= *before.get_or_insert(now) + 2, "{now} descriptors in round {round}, {before:?} in the first");
    }
}

fn a_gateway_that_is_stopped_is_given_up_and_found_again_when_it_is_replaced(pair: Pair) {
    let mut gateway = require!(pair.gateway());
    let mut enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    gateway.signal(Signal::STOP);
    // Three probes without an answer, five seconds apart.
    let lost = enclave.wait_for_metrics("the wedged host given up", |metrics| metrics.losses() == 1);
    assert_eq!(lost.silent_losses(), 1);
    assert!(!lost.link_is_up());
    gateway.restart();
    enclave.wait_until_up();
    assert!(enclave.guest(&["ping", GATEWAY, "56", "1"]).status.success());
    enclave.process.expect_stderr("link up", SOON);
}
