//! What tests of the two gateways have in common: a world, an enclave's programs, and another machine on the switch.

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

pub(crate) const CONNECT: &[u8] = b"POST /connect HTTP/1.1\r\nHost: \r\nContent-Length: 0\r\n\r\n";
/// A machine of the virtual network that is not the enclave.
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// The gateway on the host, which is nitrotap's own or a gvproxy with these quirks.
pub(crate) type Host = (Scenario, Quirks);

/// What the programs of a test have seen.
pub(crate) type Log = Arc<Mutex<Vec<String>>>;

pub(crate) fn say(log: &Log, side: &impl Clocked, text: &str) {
    let ms = side.millis();
    log.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{ms:>5} {text}"));
}

pub(crate) trait Clocked {
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

fn config((scenario, quirks): Host) -> WorldConfig {
    let mut params = Params::free();
    params.machines.buf_alloc = 4096;
    WorldConfig { scale: Scale::REAL, tick: Duration::from_millis(10), quirks, ..WorldConfig::new(scenario, params, 1) }
}

/// Runs `client` and `server` for some seconds and gives what they saw and what broke.
pub(crate) fn run<C, S>(
    host: Host,
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
        config(host),
        move |side| client(side, of_client.clone()),
        move |side| server(side, of_server.clone()),
    );
    world.run_until(Instant::from_millis(seconds * 1000));
    let broken = world.breaks().iter().map(|broken| broken.invariant).collect();
    (log.lock().unwrap_or_else(PoisonError::into_inner).clone(), broken)
}

/// An ARP request (RFC 826) for the gateway.
pub(crate) fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(MAC);
    frame.extend([192, 168, 127, 9, 0, 0, 0, 0, 0, 0, 192, 168, 127, 1]);
    frame
}

pub(crate) fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u16).to_le_bytes()[..], frame].concat()
}

/// The first two bytes that come within a second: the length of a frame.
pub(crate) async fn answer(side: &ClientSide, stream: &SimStream) -> Option<u16> {
    let mut prefix = [0; 2];
    tokio::select! {
        biased;
        n = stream.recv(&mut prefix) => n.ok().filter(|n| *n == 2).map(|_| u16::from_le_bytes(prefix)),
        () = side.clock().sleep(Duration::from_secs(1)) => None,
    }
}

pub(crate) async fn nothing(_: ServerSide, _: Log) {
    std::future::pending().await
}

/// An app that answers every connection with a greeting.
pub(crate) async fn greeter(side: ServerSide, _: Log) {
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
pub(crate) async fn ask(side: &ClientSide, log: &Log, times: u32) {
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

/// Sends, finishes, and says how much of an answer still comes.
pub(crate) async fn half_close(side: ClientSide, log: Log) {
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
pub(crate) async fn thinker(side: ServerSide, _: Log) {
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

/// Dials outside, then ten times where nobody answers, then outside again; says what it reached.
pub(crate) async fn dial_through_ten_that_hang(side: ServerSide, log: Log) {
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
}

/// What the enclave can reach outside.
pub(crate) async fn outside(side: ClientSide, _: Log) {
    let listener = side.listen(80).unwrap();
    loop {
        let mut stream = listener.accept().await;
        side.spawn(async move { drop(stream.shutdown().await) });
    }
}

/// Asks the app twice, then joins a machine that asks and never listens, until its stream takes no more, and asks again,
/// and once more when that machine has gone.
pub(crate) async fn ask_beside_a_deaf_machine(side: ClientSide, log: Log) {
    ask(&side, &log, 2).await;
    let deaf = side.connect_host(1024).await.unwrap();
    deaf.send_all(CONNECT).await.unwrap();
    side.clock().sleep(Duration::from_secs(1)).await;
    for _ in 0..200 {
        deaf.send_all(&framed(&arp())).await.unwrap();
    }
    ask(&side, &log, 2).await;
    // As soon as it has gone, a lock that it kept is free again.
    deaf.abort();
    drop(deaf);
    ask(&side, &log, 1).await;
    std::future::pending().await
}

/// Asks the app once, and sends a runt as another machine; then asks again if `after`.
pub(crate) async fn ask_beside_a_careless_machine(side: ClientSide, log: Log, after: bool) {
    ask(&side, &log, 1).await;
    let careless = side.connect_host(1024).await.unwrap();
    careless.send_all(CONNECT).await.unwrap();
    side.clock().sleep(Duration::from_secs(1)).await;
    careless.send_all(&framed(&[0; 5])).await.unwrap();
    if after {
        careless.send_all(&framed(&arp())).await.unwrap();
        let answered = answer(&side, &careless).await;
        say(&log, &side, &format!("{answered:?}"));
        ask(&side, &log, 1).await;
    }
    std::future::pending().await
}

/// What was said, without the times.
pub(crate) fn texts(log: &[String]) -> Vec<&str> {
    log.iter().map(|line| &line[6..]).collect()
}
