//! The DHCP server against a script of messages: it answers within its limits, and nobody gets an address twice.

use dhcproto::{
    Decodable,
    v4::{Message, MessageType},
};
use nitrotap_core::{
    gateway::dhcp::{Client, Dhcp, DhcpConfig},
    time::Instant,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

/// Host addresses of the /29 below, of which four can be given out, one is set aside and one is the gateway's.
const LEASES: usize = 6;

/// A step is: seconds to pass (one byte), length of the message (two bytes, little endian), the message. A message shorter
/// than a head becomes a request for what it says, so that the fuzzer need not find the form first.
pub fn dhcp_server(data: &[u8]) {
    let gateway = Ipv4Addr::new(10, 0, 0, 1);
    let mut server = Dhcp::new(DhcpConfig {
        subnet: ipnet::Ipv4Net::new(Ipv4Addr::new(10, 0, 0, 0), 29).expect("a prefix length"),
        gateway,
        gateway_mac: [2; 6],
        host: Ipv4Addr::new(10, 0, 0, 6),
        dns: vec![gateway],
        mtu: 1500,
        search: vec!["example.com".to_owned(); 30],
        static_leases: BTreeMap::from([(Ipv4Addr::new(10, 0, 0, 2), [4; 6])]),
        lease_time: Duration::from_secs(60),
        pinned: BTreeSet::new(),
        keep_address: Duration::from_secs(30),
    })
    .expect("a configuration");
    let mut now = Instant::ZERO;
    let mut data = data;
    while let [seconds, low, high, rest @ ..] = data {
        now = now + Duration::from_secs(u64::from(*seconds));
        let (message, rest) = rest.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(rest.len()));
        data = rest;
        let message = if message.len() < 240 { &request(message)[..] } else { message };
        let before = server.leases(now);
        // Clients are on four links of two machines, of which one has its last address from elsewhere.
        let [tenant, link] = [1, 3].map(|bits| message.get(33).map_or(0, |last| u64::from(last & bits)));
        let elsewhere = Ipv4Addr::new(10, 0, 0, 5);
        let may_have = move |address| tenant == 0 || address != elsewhere;
        let client = Client { tenant: tenant as u32, holder: 0, link, pinned: None, may_have: &may_have };
        if seconds % 16 == 15 {
            server.detach(link);
        }
        let Ok(Some(reply)) = server.handle(now, &client, message) else { continue };
        assert!(!reply.lease || may_have(reply.yiaddr), "{} is somebody else's", reply.yiaddr);
        assert!((300..=1472).contains(&reply.payload.len()), "{} bytes", reply.payload.len());
        let parsed = Message::from_bytes(&reply.payload).expect("replies parse");
        assert_eq!((parsed.yiaddr(), parsed.chaddr()), (reply.yiaddr, &reply.mac[..]));
        let kind = parsed.opts().msg_type().expect("a kind");
        assert!(matches!(kind, MessageType::Offer | MessageType::Ack | MessageType::Nak));
        let owner = before.get(&reply.yiaddr);
        assert!(owner.is_none_or(|owner| *owner == reply.mac), "{} is taken", reply.yiaddr);
        assert!(server.leases(now).len() <= LEASES);
    }
}

/// Kind, client, the addresses asked for and owned, then any options.
fn request(script: &[u8]) -> Vec<u8> {
    let at = |i: usize| script.get(i).copied().unwrap_or(0);
    let mut bytes = vec![1, 1, 6, 0, 0, 0, 0, 1, 0, 0, at(4), 0];
    bytes.extend(if at(3) == 0 { [0; 4] } else { [10, 0, 0, at(3)] });
    bytes.resize(28, 0);
    bytes.extend([2, 0, 0, 0, 0, at(1)]);
    bytes.resize(236, 0);
    bytes.extend([99, 130, 83, 99, 53, 1, at(0), 50, 4, 10, 0, 0, at(2)]);
    bytes.extend(script.get(5..).unwrap_or_default());
    bytes
}
