//! A crate's own server and client in the simulated enclave.
//!
//! The server speaks a protocol of its own, a line for a line, behind nitrotap's TAP and gvproxy. The client runs on the
//! EC2 host and asks it a hundred times. Both are ordinary tokio code: what they `await` takes virtual time, and the run
//! is the same for the same seed.
//!
//! ```sh
//! cargo run -p nitrotap-sim --example own_server
//! ```

use nitrotap_sim::{
    params::Params,
    scenario::Scenario,
    time::Instant,
    world::{ClientSide, ServerSide, ServerStream, World, WorldConfig},
};
use std::{
    error::Error,
    io::{self, Write as _},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

const LINES: usize = 100;

/// What the client saw: each answer, and how long it took.
type Seen = Arc<Mutex<Vec<(String, Duration)>>>;

fn main() -> Result<(), Box<dyn Error>> {
    let seen = Seen::default();
    let to_client = seen.clone();
    // `c5` says what system calls, frames and wires cost; `Params::load` takes a file as well.
    let config = WorldConfig::new(Scenario::NitrotapNrp, Params::load("c5")?, 42);
    let mut world = World::new(config, move |side| client(side, to_client.clone()), server);

    // Virtual time: the link comes up within some 60 ms, and then a line takes a millisecond or two.
    world.run_until(Instant::from_millis(400));

    // Every run checks the simulator's invariants. What broke is listed with its time.
    assert_eq!(world.breaks(), [], "broken invariants");
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(seen.len(), LINES, "the client got every answer");
    for (number, (answer, _)) in seen.iter().enumerate() {
        assert_eq!(answer, &format!("YOU SAID: LINE {number}\n"));
    }
    let slowest = seen.iter().map(|(_, took)| *took).max().unwrap_or_default();
    assert!(slowest < Duration::from_millis(5), "the slowest answer took {slowest:?}");
    let (hash, records) = world.trace().hash();
    let [out, into] = world.frames();
    writeln!(
        io::stdout(),
        "{LINES} lines, the slowest took {slowest:?} of virtual time; {into} frames into the enclave, {out} out\n\
         trace {hash:016x}, {records} records: the same in every run"
    )?;
    Ok(())
}

/// Runs in the enclave, from its boot on.
async fn server(side: ServerSide) {
    // On the TAP, the loopback and vsock. The path of the scenario leads to this port.
    let listener = match side.listen(ServerSide::APP_PORT) {
        Ok(listener) => listener,
        Err(error) => panic!("the port is free in a fresh enclave: {error}"),
    };
    // A process of one thread: connections share its time.
    let process = side.process(1);
    loop {
        let stream = listener.accept().await;
        let (clock, process) = (side.clock(), process.clone());
        // Not `tokio::spawn`: a task of the machine ends when the machine does.
        side.spawn(async move {
            // Your code takes no virtual time by itself. This says that an answer costs 5 us of processor time, and the
            // wake-up of a sleeping thread 2 us.
            let think = || process.run(&clock, 5_000, 2_000);
            if let Err(error) = echo(stream, think).await {
                panic!("the client of this example leaves in good order: {error}");
            }
        });
    }
}

async fn echo<F: Future<Output = ()>>(stream: ServerStream, think: impl Fn() -> F) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        think().await;
        stream.write_all(format!("YOU SAID: {}", line.to_uppercase()).as_bytes()).await?;
        line.clear();
    }
    stream.shutdown().await
}

/// Runs on the EC2 host.
async fn client(side: ClientSide, seen: Seen) {
    let clock = side.clock();
    // Until then there is no link, and gvproxy has nobody to pass a connection on to.
    clock.sleep(Duration::from_millis(70)).await;
    if let Err(error) = ask(&side, &seen).await {
        panic!("nothing disturbs this example: {error}");
    }
}

async fn ask(side: &ClientSide, seen: &Seen) -> io::Result<()> {
    let mut stream = BufReader::new(side.connect().await?);
    for number in 0..LINES {
        let sent = side.clock().now();
        stream.write_all(format!("line {number}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_line(&mut answer).await?;
        seen.lock().unwrap_or_else(PoisonError::into_inner).push((answer, side.clock().now().since(sent)));
    }
    stream.shutdown().await
}
