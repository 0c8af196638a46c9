//! Room for messages that wait in the proxy: one budget for a shard, so that slow clients cannot take all memory.

use bytes::Bytes;
use hyper::body::Frame;
use std::{cell::Cell, collections::VecDeque, rc::Rc};

/// What a frame costs beside its bytes: its place in the queue, and what its allocation keeps alive.
const OVERHEAD: usize = 128;

/// What all the shard's queues may hold together.
pub(crate) struct Budget {
    max: usize,
    used: Cell<usize>,
    refused: Cell<u64>,
    has_memory: fn() -> bool,
}

impl Budget {
    pub(crate) fn new(max: usize, has_memory: fn() -> bool) -> Rc<Self> {
        Rc::new(Self { max, used: Cell::new(0), refused: Cell::new(0), has_memory })
    }

    /// Whether the process has memory for anything new.
    pub(crate) fn has_memory(&self) -> bool {
        (self.has_memory)()
    }

    /// Bytes in use, and how often there was no room.
    pub(crate) fn usage(&self) -> (u64, u64) {
        (self.used.get() as u64, self.refused.get())
    }

    /// Whether nothing more fits in.
    pub(crate) fn is_full(&self) -> bool {
        self.used.get() >= self.max || !self.has_memory()
    }
}

/// Bytes that are held in some other way than as frames.
pub(crate) struct Charge<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl<'a> Charge<'a> {
    pub(crate) const fn new(budget: &'a Budget) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Whether there is room for `bytes` in all; they are never less than before.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes - self.bytes;
        if more == 0 {
            return true;
        }
        if self.budget.is_full() {
            self.budget.refused.set(self.budget.refused.get() + 1);
            return false;
        }
        self.bytes = bytes;
        self.budget.used.set(self.budget.used.get() + more);
        true
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.budget.used.set(self.budget.used.get() - self.bytes);
    }
}

/// Frames kept for later, in order.
pub(crate) struct Held {
    budget: Rc<Budget>,
    frames: VecDeque<Frame<Bytes>>,
    charged: usize,
}

impl Held {
    pub(crate) fn new(budget: &Rc<Budget>) -> Self {
        Self { budget: budget.clone(), frames: VecDeque::new(), charged: 0 }
    }

    /// Whether one more frame may come, for an owner who may hold `limit` bytes. A shard without room counts it.
    pub(crate) fn has_room(&self, limit: usize) -> bool {
        if self.charged >= limit {
            return false;
        }
        let full = self.budget.is_full();
        self.budget.refused.set(self.budget.refused.get() + u64::from(full));
        !full
    }

    /// Keeps a frame. Ask [`Self::has_room`] first; so the budget is exceeded by at most one frame for each owner.
    pub(crate) fn push(&mut self, frame: Frame<Bytes>) {
        self.charge(cost(&frame));
        self.frames.push_back(frame);
    }

    pub(crate) fn pop(&mut self) -> Option<Frame<Bytes>> {
        let frame = self.frames.pop_front()?;
        self.pay_back(cost(&frame));
        if self.frames.is_empty() {
            // The queue's own room goes too: most connections never need it again.
            self.frames = VecDeque::new();
        }
        Some(frame)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes of data in it.
    pub(crate) fn len(&self) -> u64 {
        self.frames.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum()
    }

    /// The same once more, charged too, if it is data alone.
    pub(crate) fn repeat(&self) -> Option<Self> {
        let mut copy = Self::new(&self.budget);
        for frame in &self.frames {
            copy.push(Frame::data(frame.data_ref()?.clone()));
        }
        Some(copy)
    }

    fn charge(&mut self, bytes: usize) {
        self.charged += bytes;
        self.budget.used.set(self.budget.used.get() + bytes);
    }

    fn pay_back(&mut self, bytes: usize) {
        self.charged -= bytes;
        self.budget.used.set(self.budget.used.get() - bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pay_back(self.charged);
    }
}

fn cost(frame: &Frame<Bytes>) -> usize {
    let trailers =
        frame.trailers_ref().map_or(0, |fields| fields.iter().map(|(n, v)| n.as_str().len() + v.len()).sum());
    OVERHEAD + frame.data_ref().map_or(trailers, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_has_its_limit_and_all_owners_the_budget_and_what_goes_is_given_back() {
        let budget = Budget::new(2000, || true);
        let (mut one, mut two) = (Held::new(&budget), Held::new(&budget));
        while one.has_room(1000) {
            one.push(Frame::data(Bytes::from_static(&[0; 100])));
        }
        assert_eq!((one.len(), budget.usage()), (500, (5 * 228, 0)), "one frame over its limit");
        while two.has_room(10_000) {
            two.push(Frame::data(Bytes::from_static(&[0; 372])));
        }
        assert_eq!(budget.usage(), (5 * 228 + 2 * 500, 1));
        let copy = two.repeat().unwrap();
        assert_eq!((copy.len(), budget.usage().0), (744, 5 * 228 + 4 * 500));
        drop((copy, two));
        while one.pop().is_some() {}
        assert_eq!(budget.usage(), (0, 1));
        let (mut head, mut other) = (Charge::new(&budget), Charge::new(&budget));
        assert!(head.grow_to(0) && head.grow_to(1500) && head.grow_to(2100) && head.grow_to(2100));
        assert!(!other.grow_to(1) && !one.has_room(1000));
        drop((head, other));
        assert_eq!(budget.usage(), (0, 3));
    }
}
