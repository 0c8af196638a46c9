//! The links of a gateway: whose they are, and the frames that wait for them.
//!
//! Owns: one queue per link. Driven by: the machine. Drain: [`Ports::poll_waiting`], then the queue of each.
//! Bounds: [`MAX_PORTS`] links, and of each [`MAX_PROBED`] and [`MAX_ASKED`] addresses of IPv6 that it has named.

use super::{
    arena::{Arena, Id},
    config::Allocate,
    queue::TxQueue,
    tcp::device,
};
use crate::{frame::Framing, time::Instant};
use core::{net::Ipv6Addr, time::Duration};
use std::collections::{BTreeSet, VecDeque};

/// A link: one stream of frames, from its attachment to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub(super) Id);

impl PortId {
    /// A number that no other link of this gateway ever has.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        self.0.to_u64()
    }

    /// The inverse of `to_u64`.
    #[must_use]
    pub const fn from_u64(id: u64) -> Self {
        Self(Id::from_u64(id))
    }
}

/// Links at a time. Each has a queue of [`super::queue::LIMIT`] bytes.
pub const MAX_PORTS: usize = 256;

/// Links of one machine at a time: one, and while it redials some whose end is not yet known.
pub(super) const MAX_PORTS_PER_MACHINE: usize = 16;

/// Tenants from here on are not machines but listeners: their links trust each other no more than strangers.
pub const ANONYMOUS: u32 = 0x8000_0000;

#[derive(Debug)]
pub(super) struct Port {
    pub(super) tenant: u32,
    pub(super) queue: TxQueue,
    /// Connections that wait for room in the queue.
    blocked: BTreeSet<Id>,
    /// It is among those that the driver has yet to be told of.
    waiting: bool,
    /// Questions about names that wait for their answers, oldest first; some may have theirs.
    pub(super) questions: VecDeque<u64>,
    /// The source address of its last frame, and when the switch last looked at it.
    pub(super) last_source: Option<([u8; 6], Instant)>,
    /// A guest behind it speaks IPv6.
    pub(super) ipv6: bool,
    /// Addresses that guests behind it have lately wanted to have: at most [`MAX_PROBED`].
    probed: VecDeque<Ipv6Addr>,
    /// Addresses of others that they have asked for, and when, oldest first: at most [`MAX_ASKED`].
    asked: VecDeque<(Ipv6Addr, Instant)>,
}

/// Addresses remembered of one link while they are being tried: a guest tries a few at a time, for a second.
const MAX_PROBED: usize = 16;

/// Questions for neighbours remembered of one link: it may ask for a guest on each link that there can be.
const MAX_ASKED: usize = MAX_PORTS;

/// For how long a question waits for its answer: as a guest does, which asks three times, one second apart
/// (`MAX_MULTICAST_SOLICIT`, `MAX_UNICAST_SOLICIT` and `RETRANS_TIMER` of RFC 4861 section 10). Each question counts anew.
const ASKED: Duration = Duration::from_secs(3);

impl Port {
    /// A guest wants to have an address.
    pub(super) fn probe(&mut self, address: Ipv6Addr) {
        self.probed.retain(|other| *other != address);
        if self.probed.len() >= MAX_PROBED {
            self.probed.pop_front();
        }
        self.probed.push_back(address);
    }

    /// Whether a guest may still be trying an address.
    pub(super) fn probes(&self, address: Ipv6Addr) -> bool {
        self.probed.contains(&address)
    }

    /// A guest asks who has an address.
    pub(super) fn ask(&mut self, now: Instant, address: Ipv6Addr) {
        self.asked.retain(|(other, at)| *other != address && now.since(*at) < ASKED);
        if self.asked.len() >= MAX_ASKED {
            self.asked.pop_front();
        }
        self.asked.push_back((address, now));
    }

    /// Whether a guest may still wait for an answer about an address.
    pub(super) fn asks(&self, now: Instant, address: Ipv6Addr) -> bool {
        self.asked.iter().any(|(other, at)| *other == address && now.since(*at) < ASKED)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// Where queues come from, if not from the allocator.
    allocate: Option<Allocate>,
    ports: Arena<Port>,
    waiting: VecDeque<PortId>,
    /// Frames and bytes that were queued, for links that are gone too.
    frames_out: u64,
    bytes_out: u64,
}

impl Ports {
    pub(super) fn new(allocate: Allocate) -> Self {
        Self { allocate: Some(allocate), ..Self::default() }
    }

    /// `None` if there are too many, or no memory for the queue of one more.
    pub(super) fn attach(&mut self, tenant: u32, framing: Option<Framing>) -> Option<PortId> {
        let of_tenant = self.ports.iter().filter(|(_, port)| port.tenant == tenant).count();
        if self.ports.len() >= MAX_PORTS || (tenant < ANONYMOUS && of_tenant >= MAX_PORTS_PER_MACHINE) {
            return None;
        }
        let queue = TxQueue::with(self.allocate, framing)?;
        Some({
            PortId(self.ports.insert(Port {
                tenant,
                queue,
                blocked: BTreeSet::new(),
                waiting: false,
                questions: VecDeque::new(),
                last_source: None,
                ipv6: false,
                probed: VecDeque::new(),
                asked: VecDeque::new(),
            }))
        })
    }

    pub(super) fn detach(&mut self, id: PortId) {
        self.ports.remove(id.0);
    }

    pub(super) fn get(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.0)
    }

    pub(super) fn get_mut(&mut self, id: PortId) -> Option<&mut Port> {
        self.ports.get_mut(id.0)
    }

    pub(super) fn len(&self) -> usize {
        self.ports.len()
    }

    /// Frames queued so far, and their bytes.
    pub(super) const fn sent_in_all(&self) -> (u64, u64) {
        (self.frames_out, self.bytes_out)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PortId, &Port)> {
        self.ports.iter().map(|(id, port)| (PortId(id), port))
    }

    /// Whether `new` may take over what `old` has learned or opened: only from a link that is gone, or from another one of
    /// the same machine.
    pub(super) fn may_take_over(&self, old: PortId, new: PortId) -> bool {
        if old == new {
            return true;
        }
        match (self.get(old), self.get(new)) {
            (None, _) => true,
            (Some(old), Some(new)) => old.tenant == new.tenant && old.tenant < ANONYMOUS,
            (Some(_), None) => false,
        }
    }

    /// Room for a frame on a link; `None` if there is none, or no such link.
    pub(super) fn slot(&mut self, id: PortId, len: usize) -> Option<&mut [u8]> {
        self.touch(id);
        let port = self.ports.get_mut(id.0)?;
        let slot = port.queue.slot(len)?;
        self.frames_out += 1;
        self.bytes_out += len as u64;
        Some(slot)
    }

    /// Frames were queued for a link without [`Ports::slot`].
    pub(super) fn sent(&mut self, id: PortId, frames: u64, bytes: u64) {
        self.frames_out += frames;
        self.bytes_out += bytes;
        self.touch(id);
    }

    /// Something is being queued for a link.
    fn touch(&mut self, id: PortId) {
        if let Some(port) = self.ports.get_mut(id.0)
            && !port.waiting
        {
            port.waiting = true;
            self.waiting.push_back(id);
        }
    }

    /// The next link for which frames may have been queued.
    pub(super) fn poll_waiting(&mut self) -> Option<PortId> {
        loop {
            let id = self.waiting.pop_front()?;
            if let Some(port) = self.ports.get_mut(id.0) {
                port.waiting = false;
                if !port.queue.is_empty() {
                    return Some(id);
                }
            }
        }
    }

    /// A connection waits until there is room again.
    pub(super) fn block(&mut self, id: PortId, flow: Id) {
        if let Some(port) = self.ports.get_mut(id.0) {
            port.blocked.insert(flow);
        }
    }

    /// A connection waits no more, or is gone.
    pub(super) fn forget(&mut self, id: PortId, flow: Id) {
        if let Some(port) = self.ports.get_mut(id.0) {
            port.blocked.remove(&flow);
        }
    }

    /// Those that waited, if there is room now.
    pub(super) fn unblock(&mut self, id: PortId) -> Vec<Id> {
        match self.ports.get_mut(id.0) {
            Some(port) if !port.blocked.is_empty() && device::has_room(&port.queue) => {
                std::mem::take(&mut port.blocked).into_iter().collect()
            }
            Some(_) | None => Vec::new(),
        }
    }
}
