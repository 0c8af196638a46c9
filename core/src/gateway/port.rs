//! The links of a gateway: whose they are, and the frames that wait for them.
//!
//! Owns: one queue per link. Driven by: the machine. Drain: [`Ports::poll_waiting`], then the queue of each.
//! Bounds: [`MAX_PORTS`] links, and of each [`MAX_PROBED`] and [`MAX_ASKED`] addresses of IPv6 that it has named. When there
//! are as many as there may be, the tenant that has most gives one of its own for one that has less, first one on which no
//! frame has come, then the newest one. On a stream that began with a handshake, a frame has to come within [`MUTE`].

use super::{
    arena::{Arena, Id},
    config::Allocate,
    queue::TxQueue,
    tcp::device,
};
use crate::{frame::Framing, time::Instant};
use core::{net::Ipv6Addr, time::Duration};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

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

/// Silence of a new link after which it is not one: who speaks asks for the gateway at once.
const MUTE: Duration = Duration::from_secs(60);

/// Tenants from here on are not machines but listeners: their links trust each other no more than strangers.
pub const ANONYMOUS: u32 = 0x8000_0000;

/// Who has things of the gateway in common: all links of a machine, and of a listener each link by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Holder {
    pub(super) tenant: u32,
    link: Option<PortId>,
}

impl Holder {
    /// The whole tenant.
    pub(super) const fn without_link(self) -> Self {
        Self { tenant: self.tenant, link: None }
    }
}

#[derive(Debug)]
pub(super) struct Port {
    pub(super) tenant: u32,
    pub(super) queue: TxQueue,
    /// Connections that wait for room in the queue.
    blocked: BTreeSet<Id>,
    /// It is among those that the driver has yet to be told of.
    waiting: bool,
    /// The same of those that had better be written soon.
    crowded: bool,
    /// Questions about names that wait for their answers, oldest first; some may have theirs.
    pub(super) questions: VecDeque<u64>,
    /// The source address of its last frame, and when the switch last looked at it.
    pub(super) last_source: Option<([u8; 6], Instant)>,
    /// How many links there were before it.
    number: u64,
    /// The last source address that turned out to be somebody else's.
    pub(super) twin: Option<[u8; 6]>,
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
    /// Whether a frame has come that says who it is from.
    const fn is_heard(&self) -> bool {
        self.last_source.is_some() || self.twin.is_some()
    }

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
    crowded: Vec<PortId>,
    /// Links that have yet to say something, the oldest first, and until when; `None` until somebody says what time it is.
    mute: VecDeque<(Option<Instant>, PortId)>,
    /// Links so far.
    number: u64,
    /// Frames and bytes that were queued, for links that are gone too.
    frames_out: u64,
    bytes_out: u64,
}

impl Ports {
    pub(super) fn new(allocate: Allocate) -> Self {
        Self { allocate: Some(allocate), ..Self::default() }
    }

    /// The link that has to go so that `tenant` can have one; `None` if none has to, or none would.
    pub(super) fn in_the_way(&self, tenant: u32) -> Option<PortId> {
        if self.ports.len() < MAX_PORTS {
            return None;
        }
        let mut of = BTreeMap::<u32, usize>::new();
        for (_, port) in self.ports.iter() {
            *of.entry(port.tenant).or_default() += 1;
        }
        let own = of.get(&tenant).copied().unwrap_or(0);
        let (most, _) = of.into_iter().max_by_key(|(_, links)| *links).filter(|(_, links)| *links > own + 1)?;
        let links = self.iter().filter(|(_, port)| port.tenant == most);
        links.max_by_key(|(_, port)| (!port.is_heard(), port.number)).map(|(id, _)| id)
    }

    /// What time it is: new links are so since now at the latest.
    pub(super) fn stamp(&mut self, now: Instant) {
        for (until, _) in self.mute.iter_mut().rev().take_while(|(until, _)| until.is_none()) {
            *until = Some(now + MUTE);
        }
        while let Some((_, id)) = self.mute.front() {
            if self.ports.get(id.0).is_some_and(|port| !port.is_heard()) {
                break;
            }
            self.mute.pop_front();
        }
    }

    /// When to look for links that have never said anything.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.mute.front().and_then(|(until, _)| *until)
    }

    /// The next link that has not said anything for too long.
    pub(super) fn poll_mute(&mut self, now: Instant) -> Option<PortId> {
        self.stamp(now);
        let due = self.poll_timeout().is_some_and(|until| until <= now);
        if due { self.mute.pop_front().map(|(_, id)| id) } else { None }
    }

    /// `None` if there are too many, or no memory for the queue of one more.
    pub(super) fn attach(&mut self, tenant: u32, framing: Option<Framing>) -> Option<PortId> {
        let of_tenant = self.ports.iter().filter(|(_, port)| port.tenant == tenant).count();
        if self.ports.len() >= MAX_PORTS || (tenant < ANONYMOUS && of_tenant >= MAX_PORTS_PER_MACHINE) {
            return None;
        }
        let queue = TxQueue::with(self.allocate, framing)?;
        self.number += 1;
        let id = {
            PortId(self.ports.insert(Port {
                tenant,
                number: self.number,
                queue,
                blocked: BTreeSet::new(),
                waiting: false,
                crowded: false,
                questions: VecDeque::new(),
                last_source: None,
                twin: None,
                ipv6: false,
                probed: VecDeque::new(),
                asked: VecDeque::new(),
            }))
        };
        // The other kinds begin without a request, one link at a time, and may be there long before their guest is.
        if framing == Some(Framing::Hyperkit) {
            self.mute.push_back((None, id));
        }
        Some(id)
    }

    pub(super) fn detach(&mut self, id: PortId) {
        self.ports.remove(id.0);
        self.mute.retain(|(_, other)| *other != id);
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

    /// Who has what comes from a link; `None` if it is gone.
    pub(super) fn holder(&self, id: PortId) -> Option<Holder> {
        let tenant = self.get(id)?.tenant;
        Some(Holder { tenant, link: (tenant >= ANONYMOUS).then_some(id) })
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

    /// Room for a frame that `from` has for another link.
    pub(super) fn slot_from(&mut self, from: Holder, id: PortId, len: usize) -> Option<&mut [u8]> {
        self.touch(id);
        let port = self.ports.get_mut(id.0)?;
        let slot = port.queue.slot_from(from, len)?;
        self.frames_out += 1;
        self.bytes_out += len as u64;
        Some(slot)
    }

    /// A frame of another link was queued.
    pub(super) fn passed_on(&mut self, id: PortId) {
        if let Some(port) = self.ports.get_mut(id.0)
            && !port.crowded
            && port.queue.is_crowded()
        {
            port.crowded = true;
            self.crowded.push(id);
        }
    }

    /// The next link whose queue had better be written before others put in more.
    pub(super) fn poll_crowded(&mut self) -> Option<PortId> {
        let id = self.crowded.pop()?;
        if let Some(port) = self.ports.get_mut(id.0) {
            port.crowded = false;
        }
        Some(id)
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

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Option<Framing> = Some(Framing::Hyperkit);

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    fn hear(ports: &mut Ports, id: PortId) {
        ports.get_mut(id).unwrap().last_source = Some(([2; 6], at(0)));
    }

    #[test]
    fn a_full_table_is_for_the_tenant_that_has_less() {
        let mut ports = Ports::default();
        let other = ports.attach(7, LINK).unwrap();
        let first = ports.attach(ANONYMOUS, LINK).unwrap();
        assert_eq!(ports.in_the_way(8), None, "there is room");
        let greedy: Vec<_> = (2..MAX_PORTS).map(|_| ports.attach(ANONYMOUS, LINK).unwrap()).collect();
        assert_eq!(ports.attach(8, LINK), None);
        assert_eq!(ports.in_the_way(ANONYMOUS), None, "it is the greediest itself");
        for id in [first, other].into_iter().chain(greedy.iter().copied().filter(|id| *id != greedy[5])) {
            hear(&mut ports, id);
        }
        for gone in [greedy[5], greedy[253], greedy[252]] {
            assert_eq!(ports.in_the_way(8), Some(gone));
            ports.detach(gone);
            let late = ports.attach(8, LINK).unwrap();
            hear(&mut ports, late);
        }
        assert!(ports.get(other).is_some() && ports.get(first).is_some());
    }

    #[test]
    fn a_link_has_to_say_something_unless_it_began_without_a_request() {
        let mut ports = Ports::default();
        let [speaks, mute, gone] = [0; 3].map(|_| ports.attach(1, LINK).unwrap());
        ports.attach(2, Some(Framing::Qemu)).unwrap();
        ports.attach(3, None).unwrap();
        assert_eq!(ports.poll_timeout(), None);
        ports.stamp(at(100));
        hear(&mut ports, speaks);
        ports.detach(gone);
        assert_eq!(ports.poll_mute(at(159)), None);
        assert_eq!(ports.poll_timeout(), Some(at(160)));
        assert_eq!(ports.poll_mute(at(160)), Some(mute));
        assert_eq!((ports.poll_mute(at(1000)), ports.poll_timeout()), (None, None));
    }
}
