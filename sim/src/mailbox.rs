//! Orders from one task to another on the same machine.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};
use tokio::sync::Notify;

/// A queue of orders; clones share it. Bounds: whoever sends waits for what it caused before it sends much more.
#[derive(Debug)]
pub(crate) struct Orders<T>(Rc<Inner<T>>);

#[derive(Debug)]
struct Inner<T> {
    queue: RefCell<VecDeque<T>>,
    news: Notify,
    /// Orders that were there when their thread was last woken, and are still.
    known: Cell<usize>,
}

impl<T> Default for Orders<T> {
    fn default() -> Self {
        Self(Rc::new(Inner { queue: RefCell::default(), news: Notify::new(), known: Cell::default() }))
    }
}

impl<T> Clone for Orders<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Orders<T> {
    pub(crate) fn send(&self, order: T) {
        self.0.queue.borrow_mut().push_back(order);
        self.0.news.notify_one();
    }

    pub(crate) fn take(&self) -> Option<T> {
        self.0.known.set(self.0.known.get().saturating_sub(1));
        self.0.queue.borrow_mut().pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.queue.borrow().is_empty()
    }

    /// The thread that takes the orders has been woken: it knows of those that are there.
    pub(crate) fn tell(&self) {
        self.0.known.set(self.0.queue.borrow().len());
    }

    /// Orders that the thread was told of and has not taken since.
    pub(crate) fn overlooked(&self) -> usize {
        self.0.known.get()
    }

    /// Completes when there is an order.
    pub(crate) async fn arrived(&self) {
        while self.is_empty() {
            self.0.news.notified().await;
        }
    }

    /// The next order.
    pub(crate) async fn next(&self) -> T {
        loop {
            match self.take() {
                Some(order) => return order,
                None => self.0.news.notified().await,
            }
        }
    }
}
