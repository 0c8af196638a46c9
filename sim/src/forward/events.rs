//! Words of the frame threads to the link's task.

use crate::time::Clock;
use nitrotap_core::{drive::Event, time::Instant};
use std::{cell::RefCell, collections::VecDeque, time::Duration};
use tokio::sync::Notify;

/// Longest time for which a thread does not run between what a call told it and what it says of that.
const STALL_MS: u64 = 3000;

/// Bounds: each thread says one word for each stream, and then waits for orders.
#[derive(Debug)]
pub(super) struct Events {
    /// The next one first, and when it is said.
    queue: RefCell<VecDeque<(Instant, Event)>>,
    news: Notify,
    clock: Clock,
    /// Threads stall now and then, as they do where a kernel has others to run.
    stalls: Option<RefCell<fastrand::Rng>>,
}

impl Events {
    pub(super) fn new(clock: Clock, stalls: Option<fastrand::Rng>) -> Self {
        Self { queue: RefCell::default(), news: Notify::new(), clock, stalls: stalls.map(RefCell::new) }
    }

    /// A thread says something, and goes on at the time that this gives.
    pub(super) fn push(&self, event: Event) -> Instant {
        let mut at = self.clock.now();
        if let (Event::StreamLost(..), Some(rng)) = (&event, &self.stalls) {
            let mut rng = rng.borrow_mut();
            if rng.u8(0..4) == 0 {
                at = at + Duration::from_millis(rng.u64(1..=STALL_MS));
            }
        }
        let mut queue = self.queue.borrow_mut();
        let place = queue.partition_point(|(other, _)| *other <= at);
        queue.insert(place, (at, event));
        self.news.notify_one();
        at
    }

    pub(super) async fn next(&self) -> Event {
        loop {
            let due = self.queue.borrow().front().map(|(at, _)| *at);
            match due {
                Some(at) if at <= self.clock.now() => {
                    if let Some((_, event)) = self.queue.borrow_mut().pop_front() {
                        return event;
                    }
                }
                Some(at) => tokio::select! {
                    biased;
                    () = self.news.notified() => {}
                    () = self.clock.sleep_until(at) => {}
                },
                None => self.news.notified().await,
            }
        }
    }
}
