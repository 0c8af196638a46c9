//! Orders from the link's task to a frame thread.
//!
//! A thread deep in traffic notices them by one relaxed load per turn, a sleeping one by the event descriptor in its
//! poll set. Bounds: the task sends at most two orders per change of the link and waits for none, so the queue holds a
//! handful.

use rustix::{
    event::{EventfdFlags, eventfd},
    io,
};
use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Both ends of the mailbox; clones share it.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    inner: Arc<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    waiting: AtomicBool,
    orders: Mutex<VecDeque<T>>,
    wake: OwnedFd,
}

impl<T> Mailbox<T> {
    pub(crate) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { inner: Arc::new(Inner { waiting: AtomicBool::new(false), orders: Mutex::default(), wake }) })
    }

    /// Leaves an order and wakes the thread.
    pub(crate) fn send(&self, order: T) {
        self.inner.orders.lock().unwrap_or_else(PoisonError::into_inner).push_back(order);
        self.inner.waiting.store(true, Ordering::Release);
        // It can only fail with EAGAIN, when the counter is at its maximum and the thread is awake anyway.
        let _ = io::write(&self.inner.wake, &1_u64.to_ne_bytes());
    }

    /// Readable while an order waits.
    pub(crate) fn wake(&self) -> &OwnedFd {
        &self.inner.wake
    }

    /// The next order.
    pub(crate) fn take(&self) -> Option<T> {
        if !self.inner.waiting.load(Ordering::Acquire) {
            return None;
        }
        let mut orders = self.inner.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let order = orders.pop_front();
        if orders.is_empty() {
            self.inner.waiting.store(false, Ordering::Release);
            let _ = io::read(&self.inner.wake, &mut [0; 8]);
        }
        order
    }
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}
