//! What enclaves send each other: judged, and passed on.

use super::{BROADCAST, ETHERNET, Gateway, Handled, Instant, Place, PortId, Refusal, Unreachable, wire};
use crate::gateway::lan::Passing;

impl Gateway {
    /// A frame that is not for the gateway alone. `own`: its hardware address is its sender's.
    pub(super) fn handle_between<'f>(
        &mut self,
        now: Instant,
        from: Place,
        own: bool,
        destination: [u8; 6],
        frame: &'f [u8],
    ) -> Handled<'f> {
        let group = destination[0] & 1 == 1;
        if !group && self.lan.is_share_full(from.0, destination, frame.len()) {
            self.counters.share_full += 1;
            return Handled::Done;
        }
        if self.network.v6().is_some() && [frame[12], frame[13]] == wire::ETHERTYPE_IPV6 {
            return self.handle_ipv6_between(now, from, own, destination, frame);
        }
        if group && own && !self.lan.may_flood(now, &mut self.counters, from.0) {
            // It is looked at no further than the gateway itself needs.
            return if destination == BROADCAST { self.handle_local(now, from, frame) } else { Handled::Done };
        }
        // What reaches other enclaves says who it is from: none of them can be told that somebody else has moved.
        let passes = own && self.lan.is_honest(now, from, frame);
        if passes && group {
            self.flood(now, from, frame);
        }
        if destination == BROADCAST {
            return self.handle_local(now, from, frame);
        }
        if !passes {
            match [frame[12], frame[13]] {
                wire::ETHERTYPE_ARP | wire::ETHERTYPE_IPV4 => self.counters.spoofed += u64::from(own),
                _ => self.counters.unsupported += 1,
            }
        } else if !group {
            self.forward(now, from, destination, frame);
        }
        Handled::Done
    }

    /// The same of IPv6.
    fn handle_ipv6_between<'f>(
        &mut self,
        now: Instant,
        from: Place,
        own: bool,
        destination: [u8; 6],
        frame: &'f [u8],
    ) -> Handled<'f> {
        let payload = &frame[ETHERNET..];
        let group = destination[0] & 1 == 1;
        let to = if group { None } else { self.lan.link_of(destination) };
        let passing = if own { self.lan.may_pass(now, from, to, payload) } else { Passing::Kept };
        // Whoever serves other enclaves, and them alone, is known by this: else its address would be anybody's. It was
        // judged to be the sender's, or nobody's yet, so this is not refused.
        if let Passing::Speaks(speaker, asked) = passing {
            self.found(now, from, speaker.into(), false);
            if let Some(address) = asked {
                self.lan.asks(now, from.0, address);
            }
        }
        let passes = matches!(passing, Passing::Pass | Passing::Speaks(..));
        if group {
            if passes && self.lan.may_flood(now, &mut self.counters, from.0) {
                self.flood(now, from, frame);
            }
            // What is wrong with it is counted there.
            return self.handle_ipv6(now, from, payload);
        }
        match passing {
            Passing::Pass | Passing::Speaks(..) => self.forward(now, from, destination, frame),
            Passing::Lie => self.counters.spoofed += 1,
            Passing::Unknown => self.counters.unsupported += 1,
            Passing::Kept => {}
        }
        Handled::Done
    }

    /// A frame goes to all other links, if the rules allow it.
    fn flood(&mut self, now: Instant, from: Place, frame: &[u8]) {
        if self.may_meet(now, from, None, frame) {
            self.lan.flood(&mut self.counters, from.0, frame);
        }
    }

    /// A frame goes to a station on another link, if the rules allow it.
    fn forward(&mut self, now: Instant, from: Place, destination: [u8; 6], frame: &[u8]) {
        if let Some(to) = self.lan.other_link(&mut self.counters, from.0, destination)
            && self.may_meet(now, from, Some(to), frame)
        {
            self.lan.pass_on(&mut self.counters, from.0, to, frame);
        }
    }

    /// Whether the rules let a frame go from one link to another, or to all. An honest sender of a packet for one guest is told if
    /// not.
    fn may_meet(&mut self, now: Instant, from: Place, to: Option<PortId>, frame: &[u8]) -> bool {
        let Self { lan, rules, .. } = self;
        let link_of = |address| lan.guest(address).map(|(port, _)| port);
        let Err(refusal) = rules.may_meet(now, from.0, to, link_of, frame) else { return true };
        self.counters.between_denied += u64::from(!matches!(refusal, Refusal::Unreadable));
        if let Refusal::Told(source, packet) = refusal {
            let gateway = self.network.gateway_for(source);
            self.lan.send_error(&mut self.counters, from, gateway, source, packet, Unreachable::Prohibited);
        }
        false
    }
}
