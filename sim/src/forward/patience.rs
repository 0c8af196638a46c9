//! How long orders of the link's loop may wait for a frame thread: until it wakes up, and for so many reads.

use crate::{
    check::{Audit, Invariant},
    time::Clock,
};

pub(super) struct Patience {
    /// Reads between two looks at the orders.
    most: u32,
    /// Reads since orders were looked at, or came.
    reads: u32,
    audit: Audit,
    clock: Clock,
}

impl Patience {
    pub(super) const fn new(most: u32, audit: Audit, clock: Clock) -> Self {
        Self { most, reads: 0, audit, clock }
    }

    /// The thread reads frames; `ordered` says that orders wait.
    pub(super) fn read(&mut self, ordered: bool) {
        self.reads = if ordered { self.reads + 1 } else { 0 };
        self.audit.check(self.clock.now(), Invariant::Progress, self.reads <= self.most, || {
            format!("{} reads, and an order waits", self.reads)
        });
    }

    /// The thread looks for orders.
    pub(super) const fn look(&mut self) {
        self.reads = 0;
    }

    /// The thread waits for news. An order that it was told of and has left is one that nobody tells it of again; the daemon's
    /// thread would go round and round instead.
    pub(super) async fn sleep(&self, overlooked: usize) {
        self.audit.check(self.clock.now(), Invariant::Progress, overlooked == 0, || {
            format!("a frame thread waits, and so do {overlooked} orders that it was told of")
        });
        if overlooked > 0 {
            std::future::pending::<()>().await;
        }
    }
}
