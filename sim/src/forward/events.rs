//! Words of the frame threads to the link's task.

use nitrotap_core::drive::Event;
use std::{cell::RefCell, collections::VecDeque};
use tokio::sync::Notify;

/// Bounds: each thread says one word for each stream, and then waits for orders.
#[derive(Debug, Default)]
pub(super) struct Events(RefCell<VecDeque<Event>>, Notify);

impl Events {
    pub(super) fn push(&self, event: Event) {
        self.0.borrow_mut().push_back(event);
        self.1.notify_one();
    }

    pub(super) async fn next(&self) -> Event {
        loop {
            let next = self.0.borrow_mut().pop_front();
            match next {
                Some(event) => return event,
                None => self.1.notified().await,
            }
        }
    }
}
