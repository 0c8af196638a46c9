//! Orders from one task to another on the same machine.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};
use tokio::sync::Notify;

/// A queue of orders; clones share it. Bounds: whoever sends waits for what it caused before it sends much more.
#[derive(Debug)]
pub(crate) struct Orders<T>(Rc<(RefCell<VecDeque<T>>, Notify)>);

impl<T> Default for Orders<T> {
    fn default() -> Self {
        Self(Rc::new((RefCell::default(), Notify::new())))
    }
}

impl<T> Clone for Orders<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Orders<T> {
    pub(crate) fn send(&self, order: T) {
        self.0.0.borrow_mut().push_back(order);
        self.0.1.notify_one();
    }

    pub(crate) fn take(&self) -> Option<T> {
        self.0.0.borrow_mut().pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.0.borrow().is_empty()
    }

    /// Completes when there is an order.
    pub(crate) async fn arrived(&self) {
        while self.is_empty() {
            self.0.1.notified().await;
        }
    }

    /// The next order.
    pub(crate) async fn next(&self) -> T {
        loop {
            match self.take() {
                Some(order) => return order,
                None => self.0.1.notified().await,
            }
        }
    }
}
