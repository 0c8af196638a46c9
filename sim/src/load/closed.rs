//! Closed loop: as many requests under way as there are clients.

use super::{
    Recorder,
    conversation::{Conversation, spawn_clients},
};
use crate::{cpu::Process, world::ClientSide};
use std::{io, time::Duration};

/// A closed loop.
#[derive(Clone, Copy, Debug)]
pub struct ClosedLoop {
    /// Clients, a connection each.
    pub connections: u32,
    /// Time over which their first requests are spread.
    pub spread: Duration,
    /// Pause between an answer and the next request; zero for a load generator, some for people.
    pub think: Duration,
}

impl ClosedLoop {
    /// Runs the clients on the client's machine, for ever.
    pub async fn run(self, side: ClientSide, recorder: Recorder) {
        spawn_clients(&side, self.connections, self.spread, |process, client| {
            let (side, recorder) = (side.clone(), recorder.clone());
            async move {
                loop {
                    let end = self.converse(&side, &process, &recorder, client).await;
                    if end.is_err() {
                        recorder.error(side.clock().now());
                    }
                    // A server that refuses is not asked in a tight loop.
                    side.clock().sleep(Duration::from_millis(1)).await;
                }
            }
        });
        std::future::pending().await
    }

    async fn converse(self, side: &ClientSide, process: &Process, recorder: &Recorder, client: u32) -> io::Result<()> {
        let clock = side.clock();
        let mut conversation = Conversation::open(side, process, client).await?;
        loop {
            let sent = conversation.ask().await?;
            recorder.answer(sent, clock.now());
            if !self.think.is_zero() {
                clock.sleep(self.think).await;
            }
        }
    }
}
