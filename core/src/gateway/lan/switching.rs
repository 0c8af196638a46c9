//! Frames of one enclave for others: how many there may be, and where they go.

use super::{Lan, PortId};
use crate::{
    gateway::{counters::Counters, floods::Pace},
    time::Instant,
};

impl Lan {
    /// So many frames of a link have come to nothing. Gives until when nothing more of it is to be read.
    pub(in super::super) fn handle_useless(
        &mut self,
        now: Instant,
        counters: &mut Counters,
        port: PortId,
        frames: u64,
    ) -> Option<Instant> {
        let rest = self.ports.holder(port).and_then(|holder| self.useless.charge(now, holder, frames));
        counters.rests += u64::from(rest.is_some());
        rest
    }

    /// Whether a link may send one more frame to everybody.
    pub(in super::super) fn may_flood(&mut self, now: Instant, counters: &mut Counters, from: PortId) -> bool {
        let may = self.ports.holder(from).is_some_and(|holder| self.floods.may(now, holder));
        counters.flood += u64::from(!may);
        may
    }

    /// Whether a link may send one more frame to a station on another one, and whether it is to rest behind it.
    pub(in super::super) fn pace(&mut self, now: Instant, counters: &mut Counters, from: PortId) -> Pace {
        let Some(holder) = self.ports.holder(from) else { return Pace::Over { rest: now } };
        let pace = self.unicasts.pace(now, holder);
        counters.flood += u64::from(matches!(pace, Pace::Over { .. }));
        counters.rests += u64::from(!matches!(pace, Pace::Go));
        pace
    }

    /// The link of a station.
    pub(in super::super) fn link_of(&self, destination: [u8; 6]) -> Option<PortId> {
        self.switch.find(destination)
    }

    /// The same, if it is another one than `from`. Two stations behind one link are that link's affair.
    pub(in super::super) fn other_link(
        &self,
        counters: &mut Counters,
        from: PortId,
        destination: [u8; 6],
    ) -> Option<PortId> {
        let to = self.switch.find(destination).filter(|to| *to != from);
        counters.unknown_destination += u64::from(to.is_none());
        to
    }

    /// Whether a frame for a station on another link would be dropped for want of room there.
    pub(in super::super) fn is_share_full(&self, from: PortId, destination: [u8; 6], len: usize) -> bool {
        let Some(to) = self.switch.find(destination).filter(|to| *to != from) else { return false };
        let (Some(holder), Some(to)) = (self.ports.holder(from), self.ports.get(to)) else { return false };
        !to.queue.takes_from(holder, len)
    }

    /// Queues a frame of one enclave for all others.
    pub(in super::super) fn flood(&mut self, counters: &mut Counters, from: PortId, frame: &[u8]) {
        let others: Vec<PortId> = self.ports.iter().map(|(id, _)| id).filter(|id| *id != from).collect();
        for id in others {
            self.pass_on(counters, from, id, frame);
        }
    }

    /// Queues a frame of one enclave for another one, if that one's share for others has room.
    pub(in super::super) fn pass_on(&mut self, counters: &mut Counters, from: PortId, to: PortId, frame: &[u8]) {
        let Some(holder) = self.ports.holder(from) else { return };
        match self.ports.slot_from(holder, to, frame.len()) {
            Some(slot) => {
                slot.copy_from_slice(frame);
                self.ports.passed_on(to);
                counters.switched += 1;
            }
            None => counters.share_full += 1,
        }
    }
}
