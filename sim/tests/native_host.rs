//! nitrotap's gateway in gvproxy's place: what stock gvproxy does to enclaves, it does not, and one machine's misbehaviour
//! stays that machine's.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod gateways;

use gateways::{CONNECT, Clocked as _, Host, Log, MAC, arp, ask, framed, run, say, texts};
use nitrotap_sim::{
    gvproxy::Quirks,
    scenario::Scenario,
    world::{ClientSide, ServerSide},
};
use std::{io, time::Duration};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The quirks are gvproxy's alone.
const OURS: Host = (Scenario::NitrotapNrpHost, Quirks::V0_8_1);

#[test]
fn connect_is_silent_and_bytes_that_come_with_it_count() {
    let (log, broken) = run(
        OURS,
        10,
        |side, log| async move {
            // The enclave is not there yet: nobody else's questions come.
            let stream = side.connect_host(1024).await.unwrap();
            stream.send_all(&[CONNECT, &framed(&arp())].concat()).await.unwrap();
            let mut bytes = vec![0; 44];
            let n = stream.recv(&mut bytes).await.unwrap();
            // The gateway's answer (RFC 826), and to us.
            let answered = n == 44 && bytes[2..8] == MAC && bytes[22..24] == [0, 2];
            say(&log, &side, &format!("answered {answered}"));
            std::future::pending().await
        },
        gateways::nothing,
    );
    assert_eq!(texts(&log), ["answered true"]);
    assert_eq!(broken, []);
}

#[test]
fn one_machine_that_does_not_read_stops_no_other() {
    let (log, broken) = run(OURS, 30, gateways::ask_beside_a_deaf_machine, gateways::greeter);
    assert_eq!(texts(&log), ["greeted"; 5], "{log:?}");
    assert_eq!(broken, []);
}

#[test]
fn a_runt_is_skipped_and_what_follows_it_is_not() {
    let client = |side, log| gateways::ask_beside_a_careless_machine(side, log, true);
    let (log, broken) = run(OURS, 30, client, gateways::greeter);
    assert_eq!(texts(&log), ["greeted", "Some(42)", "greeted"], "{log:?}");
    assert_eq!(broken, []);
}

#[test]
fn half_close_is_kept() {
    let (log, broken) = run(OURS, 5, gateways::half_close, gateways::thinker);
    assert_eq!(texts(&log), ["10000 bytes, the end"]);
    assert_eq!(broken, []);
}

#[test]
fn destinations_that_do_not_answer_stop_no_other() {
    let (log, broken) = run(OURS, 20, gateways::outside, gateways::dial_through_ten_that_hang);
    assert_eq!(texts(&log), ["before: true", "after: true"]);
    assert_eq!(broken, []);
}

#[test]
fn a_machine_that_floods_the_switch_stops_no_other() {
    let (log, broken) = run(
        OURS,
        30,
        |side, log| async move {
            ask(&side, &log, 1).await;
            let loud = side.connect_host(1024).await.unwrap();
            loud.send_all(CONNECT).await.unwrap();
            side.clock().sleep(Duration::from_secs(1)).await;
            // As long as frames get, to everybody, without an end.
            let mut frame = arp();
            frame.resize(60_000, 0);
            let flood = framed(&frame).repeat(4);
            side.spawn(async move { while loud.send_all(&flood).await.is_ok() {} });
            ask(&side, &log, 3).await;
            std::future::pending().await
        },
        gateways::greeter,
    );
    assert_eq!(texts(&log), ["greeted"; 4], "{log:?}");
    assert_eq!(broken, []);
}

/// Connects to the app and says how that went.
async fn fate(side: ClientSide, log: Log) {
    side.clock().sleep(Duration::from_secs(1)).await;
    let mut stream = side.connect().await.unwrap();
    let mut text = Vec::new();
    let read = stream.read_to_end(&mut text).await.map_err(|error| error.kind());
    say(&log, &side, &format!("{read:?} at {} s", side.millis() / 1000));
    std::future::pending().await
}

#[test]
fn what_becomes_of_a_connection_arrives_as_what_it_is() {
    // Nobody listens in the enclave.
    let (log, broken) = run(OURS, 10, fate, gateways::nothing);
    assert_eq!(texts(&log), [format!("{:?} at 1 s", Err::<usize, _>(io::ErrorKind::ConnectionReset))]);
    assert_eq!(broken, []);
    // The app resets.
    let (log, _) = run(OURS, 10, fate, |side: ServerSide, _| async move {
        let listener = side.listen(ServerSide::APP_PORT).unwrap();
        loop {
            listener.accept().await.abort();
        }
    });
    assert_eq!(texts(&log), [format!("{:?} at 1 s", Err::<usize, _>(io::ErrorKind::ConnectionReset))]);
    // The client resets, and the app hears of it.
    let (log, _) = run(
        OURS,
        10,
        |side, _| async move {
            side.clock().sleep(Duration::from_secs(1)).await;
            let mut stream = side.connect().await.unwrap();
            stream.write_all(b"never mind").await.unwrap();
            side.clock().sleep(Duration::from_secs(1)).await;
            stream.abort();
            std::future::pending().await
        },
        |side: ServerSide, log| async move {
            let listener = side.listen(ServerSide::APP_PORT).unwrap();
            let mut stream = listener.accept().await;
            let read = stream.read_to_end(&mut Vec::new()).await.map_err(|error| error.kind());
            say(&log, &side, &format!("{read:?}"));
            std::future::pending().await
        },
    );
    assert_eq!(texts(&log), [format!("{:?}", Err::<usize, _>(io::ErrorKind::ConnectionReset))]);
}

#[test]
fn a_client_that_never_reads_is_let_go_when_it_resets() {
    let (log, broken) = run(
        OURS,
        20,
        |side, _| async move {
            side.clock().sleep(Duration::from_secs(1)).await;
            let stream = side.connect().await.unwrap();
            side.clock().sleep(Duration::from_secs(5)).await;
            stream.abort();
            std::future::pending().await
        },
        |side: ServerSide, log| async move {
            let listener = side.listen(ServerSide::APP_PORT).unwrap();
            let mut stream = listener.accept().await;
            let wrote = stream.write_all(&vec![1; 4 << 20]).await.map_err(|error| error.kind());
            say(&log, &side, &format!("{wrote:?} at {} s", side.millis() / 1000));
            std::future::pending().await
        },
    );
    assert_eq!(texts(&log).len(), 1, "{log:?}");
    assert!(log[0].contains("Err(") && log[0].ends_with("at 6 s"), "{log:?}");
    assert_eq!(broken, []);
}
