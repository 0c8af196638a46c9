//! How things stand at the end of a turn, for whoever counts or checks.

use super::{HostCounters, Link, World, flow::FlowSocket};
use crate::gateway::{Gateway, PortId};
use std::collections::BTreeMap;

/// See the module.
pub struct View<'a, W: World> {
    pub(super) gateway: &'a Gateway,
    pub(super) counters: &'a HostCounters,
    pub(super) links: &'a BTreeMap<PortId, Link<W>>,
    pub(super) flows: &'a [Option<FlowSocket<W>>],
    pub(super) work: u64,
    pub(super) waiting: usize,
    pub(super) sources: usize,
}

impl<W: World> View<'_, W> {
    /// The machine.
    #[must_use]
    pub const fn gateway(&self) -> &Gateway {
        self.gateway
    }

    /// What the loop counts.
    #[must_use]
    pub const fn counters(&self) -> &HostCounters {
        self.counters
    }

    /// Work of this turn, in units of a frame.
    #[must_use]
    pub const fn work(&self) -> u64 {
        self.work
    }

    /// Links, connections, sessions and ports that are looked at again in the next turn.
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many different ones these are: as many, or one of them gets more than its share of a turn.
    #[must_use]
    pub const fn sources(&self) -> usize {
        self.sources
    }

    /// Links that are up.
    #[must_use]
    pub fn links(&self) -> usize {
        self.links.len()
    }

    /// The most bytes that wait for a link now.
    #[must_use]
    pub fn fullest(&self) -> usize {
        self.links.keys().map(|port| self.gateway.pending(*port).len()).max().unwrap_or(0)
    }

    /// Streams of the world that are open, or being opened. Looks at every connection's place.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.flows.iter().flatten().filter(|flow| flow.is_open()).count()
    }
}
