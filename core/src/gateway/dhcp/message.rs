//! The part of a DHCP message that the server looks at, and the reply to it.

use crate::gateway::dns::wire_len;
use core::net::Ipv4Addr;
use dhcproto::{
    Decodable, Encodable,
    v4::{self, DhcpOption, DhcpOptions, HType, MessageType, Opcode, OptionCode, borrowed},
};
use hickory_proto::rr::Name;

/// Bytes before the options, the magic number included (RFC 2131 section 2).
const HEAD: usize = 240;
/// What every client takes, as an IP datagram (RFC 2131 section 2).
const DATAGRAM_MIN: u16 = 576;
/// IPv4 and UDP headers.
const HEADERS: u16 = 28;
/// Bytes of one option's value; a second instance of the same option is not understood by all clients (RFC 3396).
const OPTION_MAX: usize = 255;

/// Why a message was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DhcpDrop {
    /// Not a DHCP request, or one without what its kind must have.
    #[error("malformed DHCP message")]
    Malformed,
    /// The client's hardware address is not one of a single Ethernet interface.
    #[error("DHCP client without an Ethernet address")]
    Hardware,
    /// It came over a relay; there is none on this link.
    #[error("DHCP message from a relay")]
    Relayed,
    /// A kind that clients do not send, or that this server does not know.
    #[error("unexpected kind of DHCP message")]
    Kind,
    /// No address is free.
    #[error("no DHCP address is free")]
    Exhausted,
    /// Its tenant, or its link, has as many addresses as it may have.
    #[error("an enclave has its share of the DHCP addresses")]
    Share,
}

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Discover,
    Request,
    Decline,
    Release,
    Inform,
}

/// A client's message.
#[derive(Debug)]
pub(super) struct Request<'a> {
    head: &'a [u8],
    pub(super) kind: Kind,
    pub(super) mac: [u8; 6],
    pub(super) broadcast: bool,
    /// The address it has and answers ARP for; `None` for 0.0.0.0.
    pub(super) ciaddr: Option<Ipv4Addr>,
    /// Option 50.
    pub(super) requested: Option<Ipv4Addr>,
    /// Option 54.
    pub(super) server: Option<Ipv4Addr>,
    /// Bytes of UDP payload that it takes.
    limit: usize,
}

impl<'a> Request<'a> {
    pub(super) fn parse(payload: &'a [u8]) -> Result<Self, DhcpDrop> {
        // Options are looked at one by one: decoding those that nobody needs could only fail.
        let message = borrowed::Message::new(payload).map_err(|_| DhcpDrop::Malformed)?;
        if message.opcode() != Opcode::BootRequest || payload[HEAD - 4..HEAD] != v4::MAGIC {
            return Err(DhcpDrop::Malformed);
        }
        if message.htype() != HType::Eth || message.hlen() != 6 {
            return Err(DhcpDrop::Hardware);
        }
        let mac = <[u8; 6]>::try_from(message.chaddr()).map_err(|_| DhcpDrop::Hardware)?;
        if mac[0] & 1 != 0 || mac == [0; 6] {
            return Err(DhcpDrop::Hardware);
        }
        if !message.giaddr().is_unspecified() {
            return Err(DhcpDrop::Relayed);
        }
        let (mut kind, mut requested, mut server, mut datagram) = (None, None, None, DATAGRAM_MIN);
        for option in message.opts() {
            let data = option.data();
            let address = || <[u8; 4]>::try_from(data).map(Ipv4Addr::from).map_err(|_| DhcpDrop::Malformed);
            // Not exhaustive, and cannot be: the rest of the 255 codes is of no interest.
            if option.code() == OptionCode::MessageType {
                let &[byte] = data else { return Err(DhcpDrop::Malformed) };
                kind = Some(MessageType::from(byte));
            } else if option.code() == OptionCode::RequestedIpAddress {
                requested = Some(address()?);
            } else if option.code() == OptionCode::ServerIdentifier {
                server = Some(address()?);
            } else if option.code() == OptionCode::MaxMessageSize {
                let bytes = <[u8; 2]>::try_from(data).map_err(|_| DhcpDrop::Malformed)?;
                datagram = u16::from_be_bytes(bytes).max(DATAGRAM_MIN);
            }
        }
        let kind = match kind {
            Some(MessageType::Discover) => Kind::Discover,
            Some(MessageType::Request) => Kind::Request,
            Some(MessageType::Decline) => Kind::Decline,
            Some(MessageType::Release) => Kind::Release,
            Some(MessageType::Inform) => Kind::Inform,
            // BOOTP (RFC 1534) is not served.
            Some(_) => return Err(DhcpDrop::Kind),
            None => return Err(DhcpDrop::Malformed),
        };
        Ok(Self {
            head: &payload[..HEAD],
            kind,
            mac,
            broadcast: message.flags().broadcast(),
            ciaddr: Some(message.ciaddr()).filter(|address| !address.is_unspecified()),
            requested,
            server,
            limit: usize::from(datagram - HEADERS),
        })
    }

    /// The payload of the reply of kind `kind` for `yiaddr`, with as many of the search domains as fit.
    pub(super) fn reply(
        &self,
        kind: MessageType,
        yiaddr: Ipv4Addr,
        options: impl IntoIterator<Item = DhcpOption>,
        search: &[Name],
        mtu: u16,
    ) -> Result<Vec<u8>, DhcpDrop> {
        // The reply is made from the request's head: a new message would draw a random transaction id.
        let mut message = v4::Message::from_bytes(self.head).map_err(|_| DhcpDrop::Malformed)?;
        message.set_opcode(Opcode::BootReply).set_hops(0).set_secs(0);
        message.set_yiaddr(yiaddr).set_siaddr(Ipv4Addr::UNSPECIFIED);
        message.clear_sname();
        message.clear_fname();
        // RFC 2131 table 3: only an ACK repeats the client's address.
        if kind != MessageType::Ack {
            message.set_ciaddr(Ipv4Addr::UNSPECIFIED);
        }
        let mut all: DhcpOptions = options.into_iter().collect();
        all.insert(DhcpOption::MessageType(kind));
        message.set_opts(all);
        let mut bytes = encode(&message);
        let room = self.limit.min(usize::from(mtu.max(DATAGRAM_MIN) - HEADERS)).saturating_sub(bytes.len() + 2);
        let fitting = fitting(search, room.min(OPTION_MAX));
        if !fitting.is_empty() {
            message.opts_mut().insert(DhcpOption::DomainSearch(fitting.to_vec()));
            bytes = encode(&message);
        }
        // Old BOOTP clients drop what is shorter (RFC 1542 section 2.1).
        bytes.resize(bytes.len().max(v4::MIN_PACKET_SIZE), 0);
        Ok(bytes)
    }
}

fn encode(message: &v4::Message) -> Vec<u8> {
    message.to_vec().expect("options of known sizes are encodable")
}

/// The first domains that together take at most `room` bytes, uncompressed as the encoder may leave them.
fn fitting(search: &[Name], room: usize) -> &[Name] {
    let mut used = 0;
    let count = search
        .iter()
        .take_while(|name| {
            used += wire_len(name);
            used <= room
        })
        .count();
    &search[..count]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_list_is_cut_between_two_domains() {
        let names: Vec<Name> =
            ["example.com", "example.net", "example.org"].map(|name| Name::from_ascii(name).expect("a name")).to_vec();
        assert_eq!(wire_len(&names[0]), 13);
        for (room, fits) in [(0, 0), (12, 0), (13, 1), (25, 1), (26, 2), (39, 3), (255, 3)] {
            assert_eq!(fitting(&names, room).len(), fits, "room {room}");
        }
    }
}
