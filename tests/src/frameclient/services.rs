//! DHCP and DNS, asked by hand.

use super::{AGAIN, FrameClient, Station};
use crate::wait;
use dhcproto::{
    Decodable as _, Encodable as _,
    v4::{self, DhcpOption, MessageType},
};
use hickory_proto::{
    op::{self, OpCode, Query},
    rr::{Name, RecordType},
};
use smoltcp::wire::{EthernetAddress, IpProtocol};
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
const DNS: u16 = 53;

impl FrameClient {
    /// One DHCP message and its answer, for the MAC of this station, which claims no address yet.
    pub fn dhcp_exchange(
        &mut self,
        kind: MessageType,
        requested: Option<Ipv4Addr>,
        limit: Duration,
    ) -> Option<v4::Message> {
        let none = Ipv4Addr::UNSPECIFIED;
        let xid = u32::from(self.free_port());
        let mac = self.station().mac;
        let mut message = v4::Message::new_with_id(xid, none, none, none, none, mac.as_bytes());
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        if let Some(address) = requested {
            message.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
        }
        let bytes = message.to_vec().expect("a message of ours fits");
        let nobody = Station { ip: none, ..self.station() };
        let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, DHCP_SERVER);
        let datagram = nobody.datagram(DHCP_CLIENT, to, &bytes);
        self.send(&nobody.ipv4_to(EthernetAddress::BROADCAST, *to.ip(), IpProtocol::Udp, &datagram));
        self.find(limit, |packet| {
            let (_, datagram) = packet.as_udp()?;
            let answer = v4::Message::from_bytes(&datagram.payload).ok()?;
            let ours = (datagram.from, datagram.to) == (DHCP_SERVER, DHCP_CLIENT) && answer.xid() == xid;
            ours.then_some(answer)
        })
    }

    /// Asks the gateway's name server over UDP, again each second.
    pub fn dns_query(&mut self, name: &str, kind: RecordType, limit: Duration) -> Option<op::Message> {
        let server = SocketAddrV4::new(super::GATEWAY, DNS);
        let port = self.free_port();
        let question = question(port, name, kind);
        let start = wait::now();
        while let Some(left) = limit.checked_sub(start.elapsed()) {
            let answer = self.udp_exchange_from(port, server, &question, left.min(AGAIN));
            if let Some(answer) = answer {
                return op::Message::from_vec(&answer).ok().filter(|answer| answer.metadata.id == port);
            }
        }
        None
    }

    /// Asks the gateway's name server over TCP.
    pub fn dns_query_over_tcp(&mut self, name: &str, kind: RecordType, limit: Duration) -> Option<op::Message> {
        let question = question(4711, name, kind);
        let mut conversation = match self.tcp_connect(SocketAddrV4::new(super::GATEWAY, DNS), limit) {
            super::Answer::Open(conversation) => conversation,
            super::Answer::Refused(_) | super::Answer::Silent => return None,
        };
        let length = u16::try_from(question.len()).expect("a question is short");
        conversation.send(self, &[&length.to_be_bytes()[..], &question].concat());
        conversation.run(self, limit, |conversation| {
            conversation.ended || conversation.reset || whole(&conversation.received).is_some()
        });
        conversation.close(self);
        op::Message::from_vec(whole(&conversation.received)?).ok()
    }
}

/// The first message of a DNS stream, without its length (RFC 1035, section 4.2.2).
fn whole(stream: &[u8]) -> Option<&[u8]> {
    let (length, rest) = stream.split_first_chunk::<2>()?;
    rest.get(..u16::from_be_bytes(*length).into())
}

fn question(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = op::Message::new(id, op::MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("tests ask for names"), kind));
    message.to_vec().expect("a question fits")
}
