//! Rules between enclaves: what of one may reach another.
//!
//! Without rules about them nothing is looked at. With rules, the first packet of a conversation is judged as one to the world
//! would be, by its destination; what answers it passes. A segment of TCP that is no SYN passes where either direction may
//! be opened, so that connections outlive the gateway. Broadcasts and multicasts are for all: only a deny rule that covers
//! them, such as `enclaves`, stops them. ARP and neighbour discovery always pass.

use super::*;
use crate::gateway::meeting::{End, Meeting, What};

impl Gateway {
    /// Whether a frame may go from one link to another, or to all. An honest sender of a packet for one guest is told if not.
    pub(super) fn may_meet(&mut self, now: Instant, from: (PortId, [u8; 6]), to: Option<PortId>, frame: &[u8]) -> bool {
        if !self.rules_between {
            return true;
        }
        let payload = &frame[ETHERNET..];
        let (meeting, packet) = match [frame[12], frame[13]] {
            wire::ETHERTYPE_IPV4 => match Ip::parse_v4(payload) {
                Some(ip) => (Meeting::of_v4(&ip), ip.packet),
                None => return false,
            },
            wire::ETHERTYPE_IPV6 => match wire::chain(payload) {
                Some(chain) => (Meeting::of_v6(&chain), chain.packet),
                None => return false,
            },
            _ => return true,
        };
        let destination = meeting.destination.0;
        let group = destination.is_multicast()
            || destination == Ipv4Addr::BROADCAST
            || destination == self.config.subnet.broadcast();
        let allowed = if group {
            self.may_tell_all(&meeting)
        } else {
            let to = to.or_else(|| self.neighbours.find(destination).map(|neighbour| neighbour.port));
            self.may_tell(now, from.0, to, &meeting)
        };
        if !allowed {
            self.counters.between_denied += 1;
            let answered = matches!(meeting.what, What::Opens | What::Segment | What::Datagram | What::Ping);
            if answered && !group {
                let gateway = self.gateway_for(meeting.source.0);
                self.send_error(from, gateway, meeting.source.0, packet, Unreachable::Prohibited);
            }
        }
        allowed
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
