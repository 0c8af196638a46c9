//! Rules between enclaves: what of one may reach another.
//!
//! Without rules about them nothing is looked at. With rules, the first packet of a conversation is judged as one to the world
//! would be, by its destination; what answers it passes. A segment of TCP that is no SYN passes where either direction may
//! be opened, so that connections outlive the gateway. Broadcasts and multicasts are for all: only a deny rule that covers
//! them, such as `enclaves`, stops them. ARP and neighbour discovery always pass.

use super::{IpAddr, Proto, Rules, Verdict};
use crate::{
    gateway::{
        meeting::{End, Meeting, What},
        port::PortId,
        wire::{self, ETHERNET, Ip},
    },
    time::Instant,
};

/// What may not pass.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Refusal<'f> {
    /// It cannot even be read.
    Unreadable,
    /// It is not allowed.
    Silent,
    /// The same of a packet for one guest, whose sender is told: its address, and the packet.
    Told(IpAddr, &'f [u8]),
}

impl Rules {
    /// Whether a frame may go from one link to another, or to all. `link_of` gives the link of a guest.
    pub(in super::super) fn may_meet<'f>(
        &mut self,
        now: Instant,
        from: PortId,
        to: Option<PortId>,
        link_of: impl FnOnce(IpAddr) -> Option<PortId>,
        frame: &'f [u8],
    ) -> Result<(), Refusal<'f>> {
        if !self.between {
            return Ok(());
        }
        let payload = &frame[ETHERNET..];
        let (meeting, packet) = match [frame[12], frame[13]] {
            wire::ETHERTYPE_IPV4 => {
                Ip::parse_v4(payload).map(|ip| (Meeting::of_v4(&ip), ip.packet)).ok_or(Refusal::Unreadable)?
            }
            wire::ETHERTYPE_IPV6 => {
                wire::chain(payload).map(|chain| (Meeting::of_v6(&chain), chain.packet)).ok_or(Refusal::Unreadable)?
            }
            _ => return Ok(()),
        };
        let destination = meeting.destination.0;
        let group = self.network.is_group(destination);
        let allowed = if group {
            self.may_tell_all(&meeting)
        } else {
            let to = to.or_else(|| link_of(destination));
            self.may_tell(now, from, to, &meeting)
        };
        let answered = matches!(meeting.what, What::Opens | What::Segment | What::Datagram | What::Ping);
        match allowed {
            true => Ok(()),
            false if answered && !group => Err(Refusal::Told(meeting.source.0, packet)),
            false => Err(Refusal::Silent),
        }
    }

    fn may_tell_all(&self, meeting: &Meeting) -> bool {
        let (proto, port) = match meeting.what {
            What::Discovery => return true,
            What::Datagram => (Some(Proto::Udp), Some(meeting.destination.1)),
            What::Opens | What::Segment => (Some(Proto::Tcp), Some(meeting.destination.1)),
            What::Ping | What::Pong | What::Error(..) => (Some(Proto::Icmp), None),
            What::Piece(proto) => (proto, None),
            What::Other => (None, None),
            What::Trick => return false,
        };
        !self.policy.denies_between(proto, meeting.destination.0, port)
    }

    fn may_tell(&mut self, now: Instant, from: PortId, to: Option<PortId>, meeting: &Meeting) -> bool {
        let Meeting { source, destination, what } = *meeting;
        let policy = &self.policy;
        let open = |proto: Option<Proto>, (address, port): End| {
            let port = matches!(proto, Some(Proto::Tcp | Proto::Udp)).then_some(port).filter(|port| *port > 0);
            policy.verdict_between(now, proto, address, port) == Verdict::Allow
        };
        let (proto, both) = match what {
            What::Opens => (Proto::Tcp, false),
            What::Segment => (Proto::Tcp, true),
            What::Datagram => (Proto::Udp, false),
            What::Ping => return open(Some(Proto::Icmp), destination),
            What::Pong => return open(Some(Proto::Icmp), destination) || open(Some(Proto::Icmp), source),
            What::Discovery => return true,
            What::Piece(proto) => return open(proto, (destination.0, 0)) || open(proto, (source.0, 0)),
            What::Other => return open(None, destination),
            What::Trick => return false,
            What::Error(proto, by, about) => {
                // It passes where what it is about did.
                let conversation = proto.map(|proto| (proto, by, about));
                let answer = proto.map(|proto| (proto, about, by));
                return open(proto, about)
                    || (proto != Some(Proto::Udp) && open(proto, by))
                    || to.zip(conversation).is_some_and(|(to, of)| self.conversations.goes_on(now, to, of))
                    || answer.is_some_and(|of| self.conversations.goes_on(now, from, of));
            }
        };
        if what != What::Opens
            && (self.conversations.goes_on(now, from, (proto, source, destination))
                || to.is_some_and(|to| self.conversations.goes_on(now, to, (proto, destination, source))))
        {
            return true;
        }
        let allowed = open(Some(proto), destination) || (both && open(Some(proto), source));
        if allowed {
            self.conversations.begin(now, from, (proto, source, destination));
        }
        allowed
    }
}
