//! Connections whose link is gone: kept until their guest proves that it has them still.
//!
//! Owns: what is known of them. Driven by: the flow table. Bounds: one note per connection; [`UNHEARD`] each; [`PROBES`]
//! probes for each place where the guest is heard of, one per connection and [`INTERVAL`], which then doubles;
//! [`GUESSES`] wrong segments.
//!
//! Addresses prove nothing: another enclave may take them, and a new one may get the number (CID) of one that is over. So
//! a connection goes on only after a segment that nobody but its guest can send, with numbers that fit (RFC 5961 sections
//! 3 and 5), from the owner of its addresses; and until then no byte of it is sent.
//!
//! A guest that only waits to receive sends nothing by itself. It is asked, where its address is heard of, by an
//! acknowledgement with numbers far outside of its window: a peer that has the connection answers with the right numbers
//! (RFC 9293 section 3.10.7.4), one that has not resets it. From the question nobody learns the right numbers.

use super::*;
use crate::gateway::{neighbour::Neighbours, switch::Switch};

/// How long a connection waits for its guest.
const UNHEARD: Duration = Duration::from_secs(300);
/// Questions asked of a guest that does not answer. Linux answers two within half a second once.
const PROBES: u32 = 5;
const INTERVAL: Duration = Duration::from_secs(1);
/// Wrong segments of the owner of the addresses, after which it is taken for somebody else.
const GUESSES: u8 = 16;
/// How far outside of a window the numbers of a probe are, at least and at most.
const OUTSIDE: core::ops::Range<u32> = 1 << 30..1 << 31;

/// Who has which addresses.
#[derive(Clone, Copy)]
pub(in super::super) struct Owners<'a> {
    pub(in super::super) switch: &'a Switch,
    pub(in super::super) neighbours: &'a Neighbours,
}

/// Connections of one guest, and where that was last heard of.
#[derive(Debug, Default)]
pub(super) struct Drifting {
    place: Option<(PortId, [u8; 6])>,
    flows: BTreeSet<Id>,
}

/// What is known of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Drift {
    /// When it is given up; known from the first turn on.
    pub(super) until: Option<Instant>,
    /// The acknowledgement number of the last probe, which a reset of it has as its sequence number.
    asked: Option<u32>,
    /// Probes yet to be sent, and when the next one is due; at once if that is not known.
    left: u32,
    at: Option<Instant>,
    wrong: u8,
}

impl Drift {
    /// When it is to be looked at.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.at.filter(|_| self.left > 0).into_iter().chain(self.until).min()
    }
}

/// What a segment on another link says about a connection.
pub(super) enum Claim {
    /// It goes on there.
    Moved,
    /// Its guest has forgotten it, and wants a new one.
    Forgotten,
    /// Its guest does not have it.
    Reset,
    /// Nothing.
    Nothing,
}

impl Owners<'_> {
    /// Whether what a guest began on one link may be asked for, or spoken in, on another one: that is the same machine's,
    /// or its first link is gone; and both addresses are those of a station there. Links of a listener are told apart by
    /// nothing but these, and there the hardware address must be the same one.
    pub(in super::super) fn may_move(
        &self,
        now: Instant,
        ports: &Ports,
        (tenant, guest): (u32, IpAddr),
        (old, old_mac): (Option<PortId>, [u8; 6]),
        (port, mac): (PortId, [u8; 6]),
    ) -> bool {
        old.is_none_or(|old| ports.may_take_over(old, port))
            && (tenant < ANONYMOUS || mac == old_mac)
            && self.switch.find(mac) == Some(port)
            && !self.neighbours.is_elsewhere(now, ports, guest, port)
    }
}

impl Tcp {
    /// A link is gone. The connections on it go on once their guest has proved itself on another one.
    pub(in super::super) fn detach(&mut self, port: PortId) {
        for drifting in self.adrift.values_mut().filter(|drifting| drifting.place.is_some_and(|(at, _)| at == port)) {
            drifting.place = None;
        }
        for (id, entry) in self.flows.iter_mut().filter(|(_, entry)| entry.port == Some(port)) {
            entry.port = None;
            entry.drift = Some(Drift::default());
            self.adrift.entry((entry.key.tenant, entry.key.guest.0)).or_default().flows.insert(id);
            if !entry.dirty {
                entry.dirty = true;
                self.dirty.push_back(id);
            }
        }
    }

    /// A guest is heard of: it is asked for its connections that have lost their link.
    pub(in super::super) fn moved(&mut self, tenant: u32, guest: IpAddr, place: (PortId, [u8; 6])) {
        let Some(drifting) = self.adrift.get_mut(&(tenant, guest)).filter(|drifting| drifting.place != Some(place))
        else {
            return;
        };
        drifting.place = Some(place);
        let flows: Vec<Id> = drifting.flows.iter().copied().collect();
        for id in flows {
            let Some(entry) = self.flows.get_mut(id) else { continue };
            match &entry.phase {
                // It asks again by itself, and whoever has the address answers for it.
                Phase::Open(flow) if flow.socket().state() == State::SynSent => self.settle_at(id, place),
                Phase::Open(_) if tenant < ANONYMOUS || entry.mac == place.1 => {
                    if let Some(drift) = &mut entry.drift {
                        *drift = Drift { left: PROBES, at: None, ..*drift };
                    }
                }
                Phase::Open(_) | Phase::Held(_) | Phase::Resolving(_) => {}
            }
            self.mark(id);
        }
    }

    /// What a segment says that came on another link than a connection is on.
    pub(super) fn claim(
        &mut self,
        now: Instant,
        ports: &Ports,
        owners: Owners<'_>,
        (port, mac): (PortId, [u8; 6]),
        id: Id,
        segment: &Segment,
    ) -> Claim {
        let Some(entry) = self.flows.get_mut(id) else { return Claim::Nothing };
        let whose = (entry.key.tenant, entry.key.guest.0);
        if !owners.may_move(now, ports, whose, (entry.port, entry.mac), (port, mac)) {
            return Claim::Nothing;
        }
        let begins = segment.flags & (SYN | ACK | RST) == SYN;
        let reset = segment.flags & RST != 0;
        let claim = match &entry.phase {
            Phase::Held(packet) => match wire::segment_of(packet) {
                Some(held) if begins && held.sequence == segment.sequence => Claim::Moved,
                Some(held) if reset && held.sequence.wrapping_add(1) == segment.sequence => Claim::Reset,
                Some(_) | None if begins => Claim::Forgotten,
                Some(_) | None => Claim::Nothing,
            },
            Phase::Resolving(_) => return Claim::Nothing,
            // The guest has said all, and has been told all: nothing that comes now is about this connection.
            Phase::Open(flow) if flow.is_over() && begins => Claim::Forgotten,
            Phase::Open(flow) if flow.is_over() => return Claim::Nothing,
            Phase::Open(flow) if flow.proves(segment) => Claim::Moved,
            Phase::Open(_) if begins => Claim::Forgotten,
            Phase::Open(flow) if reset => {
                let asked = entry.drift.and_then(|drift| drift.asked);
                if asked == Some(segment.sequence) || flow.expected() == segment.sequence {
                    Claim::Reset
                } else {
                    Claim::Nothing
                }
            }
            Phase::Open(_) => Claim::Nothing,
        };
        match claim {
            Claim::Moved => self.settle_at(id, (port, mac)),
            Claim::Nothing => {
                if let Some(drift) = &mut entry.drift {
                    drift.wrong += 1;
                    if drift.wrong >= GUESSES {
                        return Claim::Reset;
                    }
                }
            }
            Claim::Forgotten | Claim::Reset => {}
        }
        claim
    }

    /// A connection goes on over this link.
    fn settle_at(&mut self, id: Id, (port, mac): (PortId, [u8; 6])) {
        self.forget_drift(id);
        if let Some(entry) = self.flows.get_mut(id) {
            entry.port = Some(port);
            entry.mac = mac;
            entry.drift = None;
        }
    }

    /// A connection is no longer one of those that wait for their guest.
    pub(super) fn forget_drift(&mut self, id: Id) {
        let Some(entry) = self.flows.get(id).filter(|entry| entry.drift.is_some()) else { return };
        let guest = (entry.key.tenant, entry.key.guest.0);
        if let Some(drifting) = self.adrift.get_mut(&guest) {
            drifting.flows.remove(&id);
            if drifting.flows.is_empty() {
                self.adrift.remove(&guest);
            }
        }
    }

    /// Looks at a connection that waits for its guest: asks, or does nothing.
    pub(super) fn drift(&mut self, now: Instant, ctx: &mut Context<'_>, id: Id) {
        let Some(entry) = self.flows.get_mut(id) else { return };
        let (key, Some(drift), Phase::Open(flow)) = (entry.key, &mut entry.drift, &entry.phase) else { return };
        drift.until.get_or_insert(now + UNHEARD);
        let place = self.adrift.get(&(key.tenant, key.guest.0)).and_then(|drifting| drifting.place);
        let Some((port, mac)) = place.filter(|_| !flow.is_over()) else {
            // Until it is heard of again there is nobody to ask, and nothing to wake up for.
            drift.left = 0;
            return self.settle(now, ctx, id, false);
        };
        if drift.left > 0 && drift.at.is_none_or(|at| at <= now) {
            let (mut sequence, mut acknowledgement) = (flow.edge(), flow.expected());
            for number in [&mut sequence, &mut acknowledgement] {
                *number = number.wrapping_add(self.rng.u32(OUTSIDE));
            }
            drift.asked = Some(acknowledgement);
            drift.at = Some(now + INTERVAL * (1 << (PROBES - drift.left)));
            drift.left -= 1;
            ctx.counters.tcp_probes += 1;
            self.bare(ctx, port, mac, key.guest.0, |packet| {
                wire::bare_segment(packet, key.remote, key.guest, sequence, acknowledgement, ACK, 0);
            });
        }
        self.settle(now, ctx, id, false);
    }
}
