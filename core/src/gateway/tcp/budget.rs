//! How much buffer a new connection gets.
//!
//! Owns: the account of bytes. Driven by: the flow table.
//! Every connection that the table may hold is sure of [`SMALLEST`] per direction; of what is left beyond that, a new
//! one gets a share, so the first have much and a crowd has little. Buffers are mapped when they are first touched: an
//! idle connection costs next to nothing of what it was promised.
//! Bounds: never more than `total` bytes are promised.

/// Bytes per direction that a connection has at least.
pub(crate) const SMALLEST: usize = 8 << 10;

/// A connection gets at most this part of what is free.
const SHARE: usize = 256;

/// See the module.
#[derive(Debug)]
pub(crate) struct Budget {
    total: usize,
    largest: usize,
    max_flows: usize,
    used: usize,
    flows: usize,
}

impl Budget {
    /// `total` bytes for at most `max_flows` connections with at most `largest` bytes per direction each.
    pub(crate) fn new(total: usize, largest: usize, max_flows: usize) -> Self {
        Self { total, largest: largest.max(SMALLEST), max_flows, used: 0, flows: 0 }
    }

    /// Bytes per direction for a new connection; `None` if there is no room for one.
    pub(crate) fn take(&mut self) -> Option<usize> {
        if self.flows >= self.max_flows || self.total - self.used < 2 * SMALLEST {
            return None;
        }
        let reserved = (self.max_flows - self.flows) * 2 * SMALLEST;
        let spare = (self.total - self.used).saturating_sub(reserved);
        let size = (SMALLEST + spare / SHARE / 2).min(self.largest);
        // Whole pages: a part of one is mapped like a whole one.
        let size = size / 4096 * 4096;
        self.flows += 1;
        self.used += 2 * size;
        Some(size)
    }

    /// A connection with `size` bytes per direction is gone.
    pub(crate) fn give_back(&mut self, size: usize) {
        debug_assert!(self.flows > 0 && self.used >= 2 * size, "more given back than taken");
        self.flows -= 1;
        self.used -= 2 * size;
    }

    /// Bytes promised.
    pub(crate) const fn used(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    const MIB: usize = 1 << 20;

    #[test]
    fn the_first_have_much_and_a_crowd_still_fits() {
        let mut budget = Budget::new(512 * MIB, 256 << 10, 16_384);
        assert_eq!(budget.take(), Some(256 << 10));
        let sizes: Vec<usize> = std::iter::from_fn(|| budget.take()).collect();
        assert_eq!(sizes.len(), 16_383);
        assert!(sizes.windows(2).all(|pair| pair[0] >= pair[1]));
        assert_eq!(*sizes.last().unwrap(), SMALLEST);
        assert!(budget.used() <= 512 * MIB);
    }

    quickcheck! {
        fn never_more_than_the_total(script: Vec<bool>, total: u32, flows: u8) -> bool {
            let total = total as usize % (8 * MIB);
            let mut budget = Budget::new(total, 64 << 10, flows.into());
            let mut held = Vec::new();
            for take in script {
                if take {
                    held.extend(budget.take());
                } else if let Some(size) = held.pop() {
                    budget.give_back(size);
                }
                assert_eq!(budget.used(), held.iter().sum::<usize>() * 2);
            }
            budget.used() <= total && held.len() <= usize::from(flows)
        }
    }
}
