//! One client's connection: a request out, its answer in, at the prices of the load generator.

use super::SETTLED;
use crate::{
    charged::{Charged, Price},
    cpu::Process,
    http::Reader,
    rng,
    stream::SimStream,
    time::{Clock, ns},
    trace::{Actor, Event},
    world::ClientSide,
};
use nitrotap_core::time::Instant;
use std::{io, time::Duration};
use tokio::io::AsyncWriteExt as _;

/// The request of the hello-world experiment.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";

/// An open connection to the app.
pub(super) struct Conversation {
    side: ClientSide,
    client: u32,
    number: u64,
    reader: Reader<Charged<SimStream>>,
}

impl Conversation {
    /// Connects.
    pub(super) async fn open(side: &ClientSide, process: &Process, client: u32) -> io::Result<Self> {
        let costs = side.costs();
        let clock: Clock = side.clock();
        process.run(&clock, costs.connect_ns, costs.wake_ns).await;
        let stream = side.connect().await?;
        let price = Price { read: costs.read, write: costs.write, wake_ns: costs.wake_ns };
        let reader = Reader::new(Charged::new(stream, process.clone(), clock, price));
        Ok(Self { side: side.clone(), client, number: 0, reader })
    }

    /// Sends a request and takes its answer; when it was sent.
    pub(super) async fn ask(&mut self) -> io::Result<Instant> {
        let Self { side, client, number, reader } = self;
        let sent = side.clock().now();
        side.trace().note(sent, Actor::Client, Event::Request, *client, *number, REQUEST.len() as u64);
        reader.stream.write_all(REQUEST).await?;
        let head = reader.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let body = reader.body(&head, false).await?;
        let status = head.status().unwrap_or(0);
        side.trace().note(side.clock().now(), Actor::Client, Event::Answer, *client, *number, u64::from(status));
        if status != 200 || body != crate::app::HELLO {
            return Err(io::ErrorKind::InvalidData.into());
        }
        *number += 1;
        Ok(sent)
    }
}

/// Starts `connections` clients on the load generator's threads, each at its own time within `spread`.
pub(super) fn spawn_clients<F: Future<Output = ()> + 'static>(
    side: &ClientSide,
    connections: u32,
    spread: Duration,
    client: impl Fn(Process, u32) -> F,
) {
    let costs = side.costs();
    let threads: Vec<Process> = (0..costs.threads.max(1)).map(|_| side.process(1)).collect();
    let mut starts = rng::stream(side.seed(), "client start");
    let spread = u64::try_from(spread.as_nanos()).unwrap_or(u64::MAX);
    for number in 0..connections {
        let process = threads[number as usize % threads.len()].clone();
        let start = side.clock().now() + SETTLED + ns(starts.u64(0..=spread));
        let (clock, run) = (side.clock(), client(process, number));
        side.spawn(async move {
            clock.sleep_until(start).await;
            run.await;
        });
    }
}
