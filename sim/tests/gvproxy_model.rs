//! The model of gvproxy does what stock gvproxy is known for: the behaviour that nitrotap is built around must be there.
//!
//! Sources are gvproxy's `pkg/virtualnetwork/mux.go` and `pkg/tap/switch.go`, and what `tests/` sees of the real one.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use nitrotap_sim::{
    check::Invariant,
    gvproxy::Quirks,
    params::Params,
    scenario::Scenario,
    stream::SimStream,
    time::{Instant, Scale},
    world::{ClientSide, ServerSide, World, WorldConfig},
};
use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const CONNECT: &[u8] = b"POST /connect HTTP/1.1\r\nHost: \r\nContent-Length: 0\r\n\r\n";
/// A machine of the virtual network that is not the enclave.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// What the programs of a test have seen.
type Log = Arc<Mutex<Vec<String>>>;

fn say(log: &Log, side: &impl Clocked, text: &str) {
    let ms = side.millis();
    log.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{ms:>5} {text}"));
}

trait Clocked {
    fn millis(&self) -> u64;
}

impl Clocked for ClientSide {
    fn millis(&self) -> u64 {
        self.clock().now().as_nanos() / 1_000_000
    }
}

impl Clocked for ServerSide {
    fn millis(&self) -> u64 {
        self.clock().now().as_nanos() / 1_000_000
    }
}

fn config(quirks: Quirks) -> WorldConfig {
    let mut params = Params::free();
    params.machines.buf_alloc = 4096;
    WorldConfig {
        scale: Scale::REAL,
        tick: Duration::from_millis(10),
        quirks,
        ..WorldConfig::new(Scenario::NitrotapNrp, params, 1)
    }
}

/// Runs `client` and `server` for some seconds and gives what they saw and what broke.
fn run<C, S>(
    quirks: Quirks,
    seconds: u64,
    client: impl Fn(ClientSide, Log) -> C + 'static,
    server: impl Fn(ServerSide, Log) -> S + 'static,
) -> (Vec<String>, Vec<Invariant>)
where
    C: Future<Output = ()> + 'static,
    S: Future<Output = ()> + 'static,
{
    let log = Log::default();
    let (of_client, of_server) = (log.clone(), log.clone());
    let mut world = World::new(
        config(quirks),
        move |side| client(side, of_client.clone()),
        move |side| server(side, of_server.clone()),
    );
    world.run_until(Instant::from_millis(seconds * 1000));
    let broken = world.breaks().iter().map(|broken| broken.invariant).collect();
    (log.lock().unwrap_or_else(PoisonError::into_inner).clone(), broken)
}

/// An ARP request (RFC 826) for the gateway.
fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(MAC);
    frame.extend([192, 168, 127, 9, 0, 0, 0, 0, 0, 0, 192, 168, 127, 1]);
    frame
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u16).to_le_bytes()[..], frame].concat()
}

/// The first two bytes that come within a second: the length of a frame.
async fn answer(side: &ClientSide, stream: &SimStream) -> Option<u16> {
    let mut prefix = [0; 2];
    tokio::select! {
        biased;
        n = stream.recv(&mut prefix) => n.ok().filter(|n| *n == 2).map(|_| u16::from_le_bytes(prefix)),
        () = side.clock().sleep(Duration::from_secs(1)) => None,
    }
}

async fn nothing(_: ServerSide, _: Log) {
    std::future::pending().await
}

#[test]
fn connect_is_silent_and_bytes_that_come_with_it_are_lost() {
    let (log, broken) = run(
        Quirks::V0_8_8,
        10,
        |side, log| async move {
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
        },
        nothing,
    );
    let texts: Vec<&str> = log.iter().map(|line| &line[6..]).collect();
    assert_eq!(texts, ["together false: None then Some(42)", "together true: None then None"]);
    assert_eq!(broken, []);
}

/// An app that answers every connection with a greeting.
async fn greeter(side: ServerSide, _: Log) {
    let listener = side.listen(ServerSide::APP_PORT).unwrap();
    loop {
        let mut stream = listener.accept().await;
        side.spawn(async move {
            let _ = stream.write_all(b"hello").await;
            let _ = stream.shutdown().await;
        });
    }
}

/// Asks the app for its greeting every second, and says when it came.
async fn ask(side: &ClientSide, log: &Log, times: u32) {
    for _ in 0..times {
        side.clock().sleep(Duration::from_secs(1)).await;
        let asked = async {
            let mut stream = side.connect().await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            std::io::Result::Ok(text)
        };
        let came = tokio::select! {
            biased;
            text = asked => text.is_ok_and(|text| text == "hello"),
            () = side.clock().sleep(Duration::from_secs(3)) => false,
        };
        say(log, side, if came { "greeted" } else { "no greeting" });
    }
}

#[test]
fn one_machine_that_does_not_read_stops_all_others() {
    let (log, broken) = run(
        Quirks::V0_8_8,
        30,
        |side, log| async move {
            ask(&side, &log, 2).await;
            // A second machine on the switch asks and never listens, until its stream takes no more.
            let deaf = side.connect_host(1024).await.unwrap();
            deaf.send_all(CONNECT).await.unwrap();
            side.clock().sleep(Duration::from_secs(1)).await;
            for _ in 0..200 {
                deaf.send_all(&framed(&arp())).await.unwrap();
            }
            ask(&side, &log, 2).await;
            // As soon as it has gone, the lock is free again.
            deaf.abort();
            drop(deaf);
            ask(&side, &log, 1).await;
            std::future::pending().await
        },
        greeter,
    );
    let texts: Vec<&str> = log.iter().map(|line| &line[6..]).collect();
    assert_eq!(texts, ["greeted", "greeted", "no greeting", "no greeting", "greeted"], "{log:?}");
    assert_eq!(broken, []);
}

#[test]
fn a_runt_wedges_the_whole_switch_and_is_a_finding() {
    let (log, broken) = run(
        Quirks::V0_8_8,
        30,
        |side, log| async move {
            ask(&side, &log, 1).await;
            let careless = side.connect_host(1024).await.unwrap();
            careless.send_all(CONNECT).await.unwrap();
            side.clock().sleep(Duration::from_secs(1)).await;
            careless.send_all(&framed(&[0; 5])).await.unwrap();
            std::future::pending().await
        },
        greeter,
    );
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!(broken, [Invariant::Frames]);
}

/// Sends, finishes, and says how much of an answer still comes.
async fn half_close(side: ClientSide, log: Log) {
    side.clock().sleep(Duration::from_secs(1)).await;
    let mut stream = side.connect().await.unwrap();
    stream.write_all(b"question").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = Vec::new();
    let read = stream.read_to_end(&mut text).await;
    say(&log, &side, &format!("{} bytes, {}", text.len(), if read.is_ok() { "the end" } else { "a reset" }));
    std::future::pending().await
}

/// Reads to the end of the question and only then answers.
async fn thinker(side: ServerSide, _: Log) {
    let listener = side.listen(ServerSide::APP_PORT).unwrap();
    loop {
        let mut stream = listener.accept().await;
        let clock = side.clock();
        side.spawn(async move {
            let _ = stream.read_to_end(&mut Vec::new()).await;
            clock.sleep(Duration::from_millis(500)).await;
            let _ = stream.write_all(&[7; 10_000]).await;
            let _ = stream.shutdown().await;
        });
    }
}

#[test]
fn half_close_is_kept_from_0_8_8_on_and_not_before() {
    let (log, _) = run(Quirks::V0_8_8, 5, half_close, thinker);
    assert_eq!(log[0][6..], *"10000 bytes, the end");
    let (log, _) = run(Quirks::V0_8_1, 5, half_close, thinker);
    assert_eq!(log[0][6..], *"0 bytes, the end");
}

#[test]
fn ten_destinations_that_do_not_answer_stop_all_others() {
    let (log, broken) = run(
        Quirks::V0_8_8,
        20,
        |side, _| async move {
            // What the enclave can reach outside.
            let listener = side.listen(80).unwrap();
            loop {
                let mut stream = listener.accept().await;
                side.spawn(async move { drop(stream.shutdown().await) });
            }
        },
        |side, log| async move {
            side.clock().sleep(Duration::from_secs(1)).await;
            let dial = async |name: &str| {
                let reached = tokio::select! {
                    biased;
                    stream = side.connect(Ipv4Addr::new(203, 0, 113, 1), 80) => stream.is_ok(),
                    () = side.clock().sleep(Duration::from_secs(2)) => false,
                };
                say(&log, &side, &format!("{name}: {reached}"));
            };
            dial("before").await;
            for port in 1..=10 {
                let of = side.clone();
                side.spawn(async move { drop(of.connect(Ipv4Addr::new(198, 51, 100, 1), port).await) });
            }
            side.clock().sleep(Duration::from_secs(1)).await;
            dial("after").await;
            std::future::pending().await
        },
    );
    let texts: Vec<&str> = log.iter().map(|line| &line[6..]).collect();
    assert_eq!(texts, ["before: true", "after: false"]);
    assert_eq!(broken, []);
}
