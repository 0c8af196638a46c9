//! A frame thread of the daemon in virtual time: what its calls cost, and how it sleeps.

use crate::{cpu::Process, time::Clock};
use std::{cell::Cell, future::poll_fn, pin::pin, task::Poll};

pub(super) struct Thread {
    pub(super) process: Process,
    pub(super) clock: Clock,
    /// What a wake-up costs.
    wake_ns: u64,
    /// Processor time of calls that is not spent yet.
    owed_ns: Cell<u64>,
}

impl Thread {
    pub(super) fn new(process: Process, clock: Clock, wake_ns: u64) -> Self {
        Self { process, clock, wake_ns, owed_ns: Cell::default() }
    }

    /// A call that takes so long.
    pub(super) fn owe(&self, ns: u64) {
        self.owed_ns.set(self.owed_ns.get() + ns);
    }

    /// Spends what the calls take.
    pub(super) async fn spend(&self) {
        self.process.run(&self.clock, self.owed_ns.take(), 0).await;
    }

    /// Sleeps until `news`, if they are not there yet, and wakes up.
    pub(super) async fn sleep(&self, news: impl Future<Output = ()>) {
        self.spend().await;
        let mut news = pin!(news);
        let mut slept = 0;
        poll_fn(|cx| {
            let poll = news.as_mut().poll(cx);
            if poll.is_pending() {
                slept = self.wake_ns;
            }
            poll
        })
        .await;
        self.process.run(&self.clock, 0, slept).await;
    }
}

/// Completes when either does; the first one is asked first.
pub(super) async fn either(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|cx| {
        if a.as_mut().poll(cx).is_ready() || b.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
