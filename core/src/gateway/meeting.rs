//! What one enclave says to another, as far as rules ask, and what was allowed a moment ago.
//!
//! Owns: a table of conversations for each link that needs one. Driven by: the machine, for every packet between enclaves where
//! there are rules about them.
//! Bounds: [`SLOTS`] conversations of one link; a new one may take the place of an old one of the same link, of no other's.

use super::{
    policy::Proto,
    port::PortId,
    wire::{self, Chain, Ip},
};
use crate::time::Instant;
use core::{hash::BuildHasher, net::IpAddr, time::Duration};
use foldhash::fast::FixedState;
use std::collections::BTreeMap;

/// Conversations remembered of one link.
const SLOTS: usize = 1024;

/// Silence after which a conversation must be allowed anew: that of a session with the world.
const IDLE: Duration = super::session::IDLE;

/// An address and a port, 0 where there is none.
pub(super) type End = (IpAddr, u16);

/// A packet between enclaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meeting {
    pub(super) source: End,
    pub(super) destination: End,
    pub(super) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A SYN.
    Opens,
    /// Any other segment of TCP.
    Segment,
    Datagram,
    /// An echo request, or another message that wants an answer.
    Ping,
    Pong,
    /// An ICMP error about something that was sent the other way: its protocol, source and destination.
    Error(Option<Proto>, End, End),
    /// Neighbour discovery.
    Discovery,
    /// A fragment that is not the first one, of this protocol.
    Piece(Option<Proto>),
    /// Another protocol.
    Other,
    /// Something that no honest kernel sends, and that filters are got round with (RFC 1858).
    Trick,
}

const ERRORS: [u8; 5] = [3, 4, 5, 11, 12];

impl Meeting {
    pub(super) fn of_v4(ip: &Ip<'_>) -> Self {
        let offset = wire::be16(ip.packet, 6) & 0x1fff;
        Self::of(ip.source, ip.destination, ip.protocol, ip.payload, usize::from(offset) * 8)
    }

    pub(super) fn of_v6(chain: &Chain<'_>) -> Self {
        let offset = chain.fragment.map_or(0, |fragment| usize::from(fragment.offset));
        Self::of(chain.source.into(), chain.destination.into(), chain.protocol, chain.payload, offset)
    }

    fn of(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8], offset: usize) -> Self {
        let proto = proto(protocol);
        let plain = |what| Self { source: (source, 0), destination: (destination, 0), what };
        if offset > 0 {
            // It could overwrite the flags of a SYN.
            let trick = proto == Some(Proto::Tcp) && offset < wire::TCP;
            return plain(if trick { What::Trick } else { What::Piece(proto) });
        }
        let with_ports = |what| Self {
            source: (source, wire::be16(payload, 0)),
            destination: (destination, wire::be16(payload, 2)),
            what,
        };
        match proto {
            Some(Proto::Tcp) if payload.len() < wire::TCP => plain(What::Trick),
            Some(Proto::Tcp) if payload[13] & (wire::SYN | wire::ACK) == wire::SYN => with_ports(What::Opens),
            Some(Proto::Tcp) => with_ports(What::Segment),
            Some(Proto::Udp) if payload.len() < 4 => plain(What::Trick),
            Some(Proto::Udp) => with_ports(What::Datagram),
            Some(Proto::Icmp) => plain(message(payload, source.is_ipv4())),
            None => plain(What::Other),
        }
    }
}

/// What an ICMP message is.
fn message(payload: &[u8], v4: bool) -> What {
    match (payload.first(), v4) {
        (Some(0), true) | (Some(129), false) => What::Pong,
        (Some(133..=137), false) => What::Discovery,
        (Some(kind), v4) if if v4 { ERRORS.contains(kind) } else { *kind < 128 } => quoted(payload),
        (Some(_) | None, _) => What::Ping,
    }
}

/// What an ICMP error is about. Of a quoted packet with extension headers only the addresses are known.
fn quoted(payload: &[u8]) -> What {
    let about = || {
        let packet = payload.get(wire::ICMP..)?;
        let (source, destination, protocol, head): (IpAddr, IpAddr, u8, usize) = match packet.first()? >> 4 {
            4 if packet.len() >= wire::IPV4 => {
                let head = usize::from(packet[0] & 0xf) * 4;
                (wire::address_v4(packet, 12).into(), wire::address_v4(packet, 16).into(), packet[9], head)
            }
            6 if packet.len() >= wire::IPV6 => {
                (wire::address_v6(packet, 8).into(), wire::address_v6(packet, 24).into(), packet[6], wire::IPV6)
            }
            _ => return None,
        };
        let proto = proto(protocol);
        let ports = packet.get(head..head + 4).filter(|_| matches!(proto, Some(Proto::Tcp | Proto::Udp)));
        let port = |at| ports.map_or(0, |ports| wire::be16(ports, at));
        Some(What::Error(proto, (source, port(0)), (destination, port(2))))
    };
    about().unwrap_or(What::Trick)
}

const fn proto(protocol: u8) -> Option<Proto> {
    match protocol {
        wire::PROTO_TCP => Some(Proto::Tcp),
        wire::PROTO_UDP => Some(Proto::Udp),
        wire::PROTO_ICMP | wire::PROTO_ICMPV6 => Some(Proto::Icmp),
        _ => None,
    }
}

/// A conversation: who began it, and with whom.
type Conversation = (Proto, End, End);

/// Conversations and when each was last heard, at a place that follows from the conversation.
type Slots = Box<[Option<(Conversation, Instant)>]>;

/// What was allowed on each link a moment ago.
#[derive(Debug)]
pub(super) struct Conversations {
    by_link: BTreeMap<PortId, Slots>,
    hash: FixedState,
}

impl Conversations {
    pub(super) const fn new(seed: u64) -> Self {
        Self { by_link: BTreeMap::new(), hash: FixedState::with_seed(seed) }
    }

    /// Whether a conversation that a guest of `link` began goes on.
    pub(super) fn goes_on(&mut self, now: Instant, link: PortId, of: Conversation) -> bool {
        let at = self.slot(&of);
        match self.by_link.get_mut(&link).and_then(|slots| slots[at].as_mut()) {
            Some((known, seen)) if *known == of && now.since(*seen) < IDLE => {
                *seen = now;
                true
            }
            Some(_) | None => false,
        }
    }

    /// A guest of `link` may go on with it.
    pub(super) fn begin(&mut self, now: Instant, link: PortId, of: Conversation) {
        let at = self.slot(&of);
        let slots = self.by_link.entry(link).or_insert_with(|| vec![None; SLOTS].into());
        slots[at] = Some((of, now));
    }

    /// A link is gone.
    pub(super) fn detach(&mut self, link: PortId) {
        self.by_link.remove(&link);
    }

    fn slot(&self, of: &Conversation) -> usize {
        let (proto, source, destination) = of;
        self.hash.hash_one((*proto as u8, source, destination)) as usize % SLOTS
    }
}
