//! Open loop: requests come when they come, as from people who do not know of each other.

use super::{
    Recorder, SETTLED,
    conversation::{Conversation, spawn_clients},
};
use crate::{cpu::Process, time::ns, world::ClientSide};
use nitrotap_core::time::Instant;
use std::{io, time::Duration};

/// A fixed schedule of requests, dealt out to connections in turn.
///
/// A latency counts from the time for which a request was scheduled: one that had to wait for its connection's earlier
/// answer was late for whoever sent it, although the server saw it in no time ("coordinated omission").
#[derive(Clone, Copy, Debug)]
pub struct OpenLoop {
    /// Requests per second, all connections together; 0 sends none.
    pub rate_per_s: u32,
    /// Connections that take turns; each has one request under way at most.
    pub connections: u32,
}

/// A second in nanoseconds.
const SECOND_NS: u64 = 1_000_000_000;

impl OpenLoop {
    /// Runs the clients on the client's machine, for ever.
    pub async fn run(self, side: ClientSide, recorder: Recorder) {
        // The schedule begins when every connection is there.
        let spread = Duration::from_millis(10);
        let begin = side.clock().now() + SETTLED + spread * 2;
        spawn_clients(&side, self.connections, spread, |process, client| {
            let (side, recorder) = (side.clone(), recorder.clone());
            async move {
                let mut turn = 0;
                loop {
                    let end = self.converse(&side, &process, &recorder, client, begin, &mut turn).await;
                    if end.is_err() {
                        recorder.error(side.clock().now());
                    }
                    side.clock().sleep(Duration::from_millis(1)).await;
                }
            }
        });
        std::future::pending().await
    }

    async fn converse(
        self,
        side: &ClientSide,
        process: &Process,
        recorder: &Recorder,
        client: u32,
        begin: Instant,
        turn: &mut u64,
    ) -> io::Result<()> {
        let clock = side.clock();
        let mut conversation = Conversation::open(side, process, client).await?;
        loop {
            let scheduled = begin + self.offset(client, *turn);
            *turn += 1;
            clock.sleep_until(scheduled).await;
            conversation.ask().await?;
            recorder.answer(scheduled, clock.now());
        }
    }

    /// When a connection's turn comes, from the begin of the schedule on.
    fn offset(self, client: u32, turn: u64) -> Duration {
        let slot = u64::from(client) + turn * u64::from(self.connections);
        match slot.checked_mul(SECOND_NS).and_then(|ns| ns.checked_div(self.rate_per_s.into())) {
            Some(offset_ns) => ns(offset_ns),
            None => Duration::from_secs(u64::from(u32::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_take_turns_at_the_rate() {
        let open = OpenLoop { rate_per_s: 1000, connections: 2 };
        let offsets: Vec<u128> =
            [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(client, turn)| open.offset(client, turn).as_micros()).to_vec();
        assert_eq!(offsets, [0, 1000, 2000, 3000]);
        assert!(OpenLoop { rate_per_s: 0, ..open }.offset(0, 1) > Duration::from_secs(1 << 20));
    }
}
