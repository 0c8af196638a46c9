//! The model of gvproxy does what stock gvproxy is known for: the behaviour that nitrotap is built around must be there.
//!
//! Sources are gvproxy's `pkg/virtualnetwork/mux.go` and `pkg/tap/switch.go`, and what `tests/` sees of the real one.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod gateways;

use gateways::{CONNECT, Host, Log, answer, arp, framed, run, say, texts};
use nitrotap_sim::{check::Invariant, gvproxy::Quirks, scenario::Scenario, world::ClientSide};

const V0_8_1: Host = (Scenario::NitrotapNrp, Quirks::V0_8_1);
const V0_8_8: Host = (Scenario::NitrotapNrp, Quirks::V0_8_8);

/// Joins a machine whose first frame comes together with its request, and one whose first frame comes later.
async fn join_early_and_late(side: ClientSide, log: Log) {
    for together in [false, true] {
        let stream = side.connect_host(1024).await.unwrap();
        let (first, second) = if together {
            ([CONNECT, &framed(&arp())].concat(), Vec::new())
        } else {
            (CONNECT.to_vec(), framed(&arp()))
        };
        stream.send_all(&first).await.unwrap();
        let early = answer(&side, &stream).await;
        stream.send_all(&second).await.unwrap();
        let late = answer(&side, &stream).await;
        say(&log, &side, &format!("together {together}: {early:?} then {late:?}"));
    }
    std::future::pending().await
}

#[test]
fn connect_is_silent_and_bytes_that_come_with_it_are_lost() {
    let (log, broken) = run(V0_8_8, 10, join_early_and_late, gateways::nothing);
    assert_eq!(texts(&log), ["together false: None then Some(42)", "together true: None then None"]);
    assert_eq!(broken, []);
}

#[test]
fn one_machine_that_does_not_read_stops_all_others() {
    let (log, broken) = run(V0_8_8, 30, gateways::ask_beside_a_deaf_machine, gateways::greeter);
    assert_eq!(texts(&log), ["greeted", "greeted", "no greeting", "no greeting", "greeted"], "{log:?}");
    assert_eq!(broken, []);
}

#[test]
fn a_runt_wedges_the_whole_switch_and_is_a_finding() {
    let client = |side, log| gateways::ask_beside_a_careless_machine(side, log, false);
    let (log, broken) = run(V0_8_8, 30, client, gateways::greeter);
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!(broken, [Invariant::Frames]);
}

#[test]
fn half_close_is_kept_from_0_8_8_on_and_not_before() {
    let (log, _) = run(V0_8_8, 5, gateways::half_close, gateways::thinker);
    assert_eq!(texts(&log), ["10000 bytes, the end"]);
    let (log, _) = run(V0_8_1, 5, gateways::half_close, gateways::thinker);
    assert_eq!(texts(&log), ["0 bytes, the end"]);
}

#[test]
fn ten_destinations_that_do_not_answer_stop_all_others() {
    let (log, broken) = run(V0_8_8, 20, gateways::outside, gateways::dial_through_ten_that_hang);
    assert_eq!(texts(&log), ["before: true", "after: false"]);
    assert_eq!(broken, []);
}
