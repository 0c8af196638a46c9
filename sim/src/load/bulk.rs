//! Bulk transfer: connections that move bytes in one direction as fast as they can, to the app itself.
//!
//! Both ends know the bytes, so that what arrives is checked and not only counted.

use super::{Recorder, conversation::spawn_clients};
use crate::{
    charged::{Charged, Price, Readable},
    check::{Audit, Invariant},
    cpu::Process,
    params::ProgramCosts,
    rng,
    time::Clock,
    trace::{Actor, Event},
    world::{ClientSide, ServerSide},
};
use nitrotap_core::time::Instant;
use std::{io, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the app.
    In,
    /// From the app to the client.
    Out,
}

/// A closed transfer: each connection moves so many bytes, and then again over a new one.
#[derive(Clone, Copy, Debug)]
pub struct Bulk {
    /// Connections at a time.
    pub connections: u32,
    /// Bytes that each of them moves before it ends.
    pub bytes_per_connection: u64,
    /// Which way.
    pub direction: Direction,
    /// The host's published port that leads to the app; `None` where the scenario's own path does.
    pub port: Option<u32>,
}

/// Bytes per read and write, as iperf3 has it (128 KiB there, on larger buffers).
const CHUNK: usize = 64 << 10;

impl Bulk {
    /// Runs the clients on the client's machine, for ever.
    pub async fn run(self, side: ClientSide, recorder: Recorder) {
        let pattern = Pattern::new(side.seed());
        spawn_clients(&side, self.connections, Duration::from_millis(1), |process, client| {
            let (side, recorder, pattern) = (side.clone(), recorder.clone(), pattern.clone());
            async move {
                loop {
                    let begin = side.clock().now();
                    match self.transfer(&side, &process, &recorder, &pattern, client).await {
                        Ok(()) => recorder.answer(begin, side.clock().now()),
                        Err(_) => {
                            recorder.error(side.clock().now());
                            // A server that refuses is not asked in a tight loop.
                            side.clock().sleep(Duration::from_millis(1)).await;
                        }
                    }
                }
            }
        });
        std::future::pending().await
    }

    async fn transfer(
        self,
        side: &ClientSide,
        process: &Process,
        recorder: &Recorder,
        pattern: &Pattern,
        client: u32,
    ) -> io::Result<()> {
        let (costs, clock) = (side.costs(), side.clock());
        process.run(&clock, costs.connect_ns, costs.wake_ns).await;
        let stream = match self.port {
            Some(port) => side.connect_host(port).await?,
            None => side.connect().await?,
        };
        let mut stream = Charged::new(stream, process.clone(), clock, price(costs));
        let mut order = [0; ORDER];
        order[0] = match self.direction {
            Direction::In => b'i',
            Direction::Out => b'o',
        };
        order[1..].copy_from_slice(&self.bytes_per_connection.to_be_bytes());
        stream.write_all(&order).await?;
        match self.direction {
            Direction::In => {
                pattern.send(&mut stream, self.bytes_per_connection).await?;
                // The app's last word: it has seen everything. To end our side before that would end both in gvproxy.
                stream.read_u8().await?;
                let now = clock.now();
                side.trace().note(now, Actor::Client, Event::Bulk, client, self.bytes_per_connection, 0);
            }
            Direction::Out => {
                let mut at = 0;
                let mut take = |now: Instant, bytes: usize| {
                    at += bytes as u64;
                    recorder.bytes_moved(now, bytes);
                    side.trace().note(now, Actor::Client, Event::Bulk, client, at, 0);
                };
                pattern.check(&mut stream, self.bytes_per_connection, clock, side.audit(), &mut take).await?;
            }
        }
        Ok(())
    }
}

/// Length of a connection's first bytes: the direction, and how many bytes will follow.
const ORDER: usize = 9;

/// The app of a bulk transfer: takes or gives bytes as it is told, for ever. What it takes goes to `recorder`.
pub async fn bulk_server(side: ServerSide, recorder: Recorder) {
    let Ok(listener) = side.listen(ServerSide::APP_PORT) else { return };
    let pattern = Pattern::new(side.seed());
    let costs = side.costs();
    let threads: Vec<Process> = (0..costs.threads.max(1)).map(|_| side.process(1)).collect();
    for number in 0_u32.. {
        let stream = listener.accept().await;
        let process = threads[number as usize % threads.len()].clone();
        let (clock, pattern, recorder, app) = (side.clock(), pattern.clone(), recorder.clone(), side.clone());
        side.spawn(async move {
            process.run(&clock, costs.connect_ns, costs.wake_ns).await;
            let stream = Charged::new(stream, process, clock, price(costs));
            // A client that leaves is no news here: it counts its own errors.
            let _: io::Result<()> = serve(stream, &app, &pattern, &recorder, number).await;
        });
    }
}

async fn serve<S: Readable>(
    mut stream: Charged<S>,
    side: &ServerSide,
    pattern: &Pattern,
    recorder: &Recorder,
    number: u32,
) -> io::Result<()> {
    let direction = stream.read_u8().await?;
    let bytes = stream.read_u64().await?;
    if direction == b'o' {
        pattern.send(&mut stream, bytes).await?;
    } else {
        let mut at = 0;
        let mut take = |now: Instant, bytes: usize| {
            at += bytes as u64;
            recorder.bytes_moved(now, bytes);
            side.trace().note(now, Actor::App, Event::Bulk, number, at, 0);
        };
        pattern.check(&mut stream, bytes, side.clock(), side.audit(), &mut take).await?;
        stream.write_all(b".").await?;
    }
    stream.shutdown().await
}

const fn price(costs: ProgramCosts) -> Price {
    Price { read: costs.read, write: costs.write, wake_ns: costs.wake_ns }
}

/// The bytes of every transfer: random ones over and over. Their number is prime, so that no loss or repetition of whole
/// segments, pages or chunks goes unnoticed.
#[derive(Clone)]
struct Pattern(Arc<[u8]>);

const PATTERN: usize = 65_521;

impl Pattern {
    fn new(seed: u64) -> Self {
        let mut bytes = vec![0; PATTERN];
        rng::stream(seed, "bulk bytes").fill(&mut bytes);
        Self(bytes.into())
    }

    /// At most `most` bytes of the pattern from stream position `at` on.
    fn piece(&self, at: u64, most: u64) -> &[u8] {
        let begin = usize::try_from(at % PATTERN as u64).unwrap_or(0);
        let len = (PATTERN - begin).min(usize::try_from(most).unwrap_or(CHUNK)).min(CHUNK);
        &self.0[begin..begin + len]
    }

    /// Whether these are the bytes of the pattern from stream position `at` on.
    fn matches(&self, mut at: u64, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let expected = self.piece(at, bytes.len() as u64);
            if !bytes.starts_with(expected) {
                return false;
            }
            at += expected.len() as u64;
            bytes = &bytes[expected.len()..];
        }
        true
    }

    async fn send(&self, stream: &mut (impl AsyncWrite + Unpin), bytes: u64) -> io::Result<()> {
        let mut at = 0;
        while at < bytes {
            at += stream.write(self.piece(at, bytes - at)).await? as u64;
        }
        Ok(())
    }

    /// Takes `bytes` bytes, tells `took` of each read, and the audit of what was not sent.
    async fn check(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        bytes: u64,
        clock: Clock,
        audit: &Audit,
        took: &mut impl FnMut(Instant, usize),
    ) -> io::Result<()> {
        let mut buf = vec![0; CHUNK];
        let mut at = 0;
        while at < bytes {
            let room = usize::try_from(bytes - at).unwrap_or(CHUNK).min(CHUNK);
            let got = stream.read(&mut buf[..room]).await?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let now = clock.now();
            audit.check(now, Invariant::Integrity, self.matches(at, &buf[..got]), || {
                format!("bulk transfer: wrong bytes among the {got} from position {at} on")
            });
            at += got as u64;
            took(now, got);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_matches_and_a_lost_chunk_is_noticed() {
        let pattern = Pattern::new(1);
        let mut sent = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(pattern.send(&mut sent, 300_000)).unwrap();
        assert!(sent.len() == 300_000 && pattern.matches(0, &sent) && pattern.matches(100_000, &sent[100_000..]));
        sent.drain(4096..8192);
        assert!(pattern.matches(0, &sent[..4096]) && !pattern.matches(0, &sent));
    }
}
