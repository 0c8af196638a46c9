//! What `epoll` is to the data thread: which streams may have become readable or writable, in the order in which they did.
//!
//! Edge-triggered: a stream that was found to have nothing more is told of again once that has changed, whoever stops
//! before that has to come back by itself.
//! Bounds: each event is in the list at most once.

use crate::cpu::lock;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    task::{Wake, Waker},
};
use tokio::sync::Notify;

/// Something that may have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// A link may be readable.
    LinkIn(u64),
    /// A link may be writable.
    LinkOut(u64),
    /// The world's stream of a connection may be readable.
    WorldIn(u64),
    /// It may be writable.
    WorldOut(u64),
    /// It was reset.
    WorldGone(u64),
    /// A dial may have ended.
    Dialed(u64),
}

/// See the module; clones share the list.
#[derive(Clone, Default)]
pub(super) struct Ready(Arc<Shared>);

#[derive(Default)]
struct Shared {
    list: Mutex<(VecDeque<Event>, BTreeSet<Event>)>,
    news: Notify,
}

struct Waiter(Event, Arc<Shared>);

impl Wake for Waiter {
    fn wake(self: Arc<Self>) {
        self.1.push(self.0);
    }
}

impl Shared {
    fn push(&self, event: Event) {
        let mut list = lock(&self.list);
        if list.1.insert(event) {
            list.0.push_back(event);
            self.news.notify_one();
        }
    }
}

impl Ready {
    /// What a stream wakes to say `event`.
    pub(super) fn waker(&self, event: Event) -> Waker {
        Waker::from(Arc::new(Waiter(event, self.0.clone())))
    }

    /// Comes back to something that was not finished.
    pub(super) fn push(&self, event: Event) {
        self.0.push(event);
    }

    /// Everything that is ready, oldest first.
    pub(super) fn take(&self) -> VecDeque<Event> {
        let mut list = lock(&self.0.list);
        list.1.clear();
        std::mem::take(&mut list.0)
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.0.list).0.is_empty()
    }

    /// Completes when something is.
    pub(super) async fn arrived(&self) {
        while self.is_empty() {
            self.0.news.notified().await;
        }
    }
}
