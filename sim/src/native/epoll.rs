//! What `epoll` is to the data thread: what has happened to what, in the order in which it did.
//!
//! Edge-triggered, one entry for each source however much has happened to it. Bounds: the sources that there are.

use crate::{
    cpu::lock,
    stream::{Edge, Watcher},
};
use nitrotap_core::drive::host::{Ready, Source};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    task::{Wake, Waker},
};
use tokio::sync::Notify;

/// See the module; clones share the list.
#[derive(Clone, Default)]
pub(super) struct Epoll(Arc<Shared>);

#[derive(Default)]
struct Shared {
    list: Mutex<List>,
    news: Notify,
}

#[derive(Default)]
struct List {
    order: VecDeque<Source>,
    edges: BTreeMap<Source, Edge>,
}

/// Something that is watched.
struct Entry(Source, Arc<Shared>);

impl Watcher for Entry {
    fn edge(&self, edge: Edge) {
        self.1.push(self.0, edge);
    }
}

impl Wake for Entry {
    fn wake(self: Arc<Self>) {
        self.edge(Edge { readable: true, ..Edge::default() });
    }
}

impl Shared {
    fn push(&self, source: Source, edge: Edge) {
        if edge == Edge::default() {
            return;
        }
        let mut list = lock(&self.list);
        let List { order, edges } = &mut *list;
        let known = edges.entry(source).or_insert_with(|| {
            order.push_back(source);
            Edge::default()
        });
        known.readable |= edge.readable;
        known.writable |= edge.writable;
        known.hangup |= edge.hangup;
        self.news.notify_one();
    }
}

impl Epoll {
    /// Whom a stream tells.
    pub(super) fn watcher(&self, source: Source) -> Arc<dyn Watcher> {
        Arc::new(Entry(source, self.0.clone()))
    }

    /// Whom a listener wakes when there is something to accept.
    pub(super) fn waker(&self, source: Source) -> Waker {
        Waker::from(Arc::new(Entry(source, self.0.clone())))
    }

    /// Something has happened.
    pub(super) fn tell(&self, source: Source, edge: Edge) {
        self.0.push(source, edge);
    }

    /// There is something to read, as far as anybody knows.
    pub(super) fn readable(&self, source: Source) {
        self.0.push(source, Edge { readable: true, ..Edge::default() });
    }

    /// Everything that has happened, the oldest first.
    pub(super) fn take(&self, news: &mut Vec<Ready>) {
        let mut list = lock(&self.0.list);
        let List { order, edges } = &mut *list;
        news.clear();
        news.extend(order.drain(..).map(|source| {
            let Edge { readable, writable, hangup } = edges.remove(&source).unwrap_or_default();
            Ready { source, readable, writable, hangup }
        }));
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.0.list).order.is_empty()
    }

    /// Completes when something has happened.
    pub(super) async fn arrived(&self) {
        while self.is_empty() {
            self.0.news.notified().await;
        }
    }
}
