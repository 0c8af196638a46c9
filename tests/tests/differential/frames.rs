//! ARP, DHCP, ICMP, UDP and what lies below them, frame by frame.

use crate::facts::Facts;
use dhcproto::v4::{DhcpOption, Message, MessageType};
use nitrotap_tests::{
    FrameClient, Gateway,
    frameclient::{
        GATEWAY, HOST, Packet, Station,
        packets::{ETHERNET, GATEWAY_MAC, Icmp},
    },
    guest::payload::Payload,
};
use smoltcp::wire::{ArpOperation, ArpRepr, EthernetAddress, EthernetProtocol, IpProtocol};
use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    thread,
    time::Duration,
};

/// How long an answer is waited for that should come.
const ANSWER: Duration = Duration::from_secs(3);
/// How long one is waited for that should not.
const SILENCE: Duration = Duration::from_millis(400);

pub(crate) fn record(facts: &mut Facts, gateway: &Gateway) {
    arp(facts, gateway);
    icmp(facts, gateway);
    udp(facts, gateway);
    oddities(facts, gateway);
    dhcp(facts, gateway);
}

/// The first packet for which `describe` has words, or that there is none.
fn answer(client: &mut FrameClient, limit: Duration, describe: impl FnMut(&Packet) -> Option<String>) -> String {
    client.find(limit, describe).unwrap_or_else(|| "no answer".to_owned())
}

fn arp_reply(packet: &Packet) -> Option<String> {
    let (
        ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_hardware_addr,
            target_protocol_addr,
        },
        to,
    ) = packet.as_arp()?
    else {
        return None;
    };
    (*operation == ArpOperation::Reply).then(|| {
        format!(
            "{source_protocol_addr} is at {source_hardware_addr}, \
             for {target_protocol_addr} at {target_hardware_addr}, frame to {to}"
        )
    })
}

fn arp(facts: &mut Facts, gateway: &Gateway) {
    let us = Station::number(2);
    let mut client = FrameClient::connect(gateway, us);
    let mut ask = |name: &str, limit, frame: Vec<u8>| {
        client.clear();
        client.send(&frame);
        facts.note(&format!("arp {name}"), answer(&mut client, limit, arp_reply));
    };
    ask("the gateway", ANSWER, us.arp_request(GATEWAY));
    ask("the host", ANSWER, us.arp_request(HOST));
    ask("ourselves", SILENCE, us.arp_request(us.ip));
    ask("an address that nobody has", SILENCE, us.arp_request(Ipv4Addr::new(192, 168, 127, 77)));
    ask("the broadcast address", SILENCE, us.arp_request(Ipv4Addr::new(192, 168, 127, 255)));
    ask("an address of another net", SILENCE, us.arp_request(Ipv4Addr::new(192, 0, 2, 1)));
    ask(
        "the gateway, with the address of nobody",
        SILENCE,
        Station { ip: Ipv4Addr::UNSPECIFIED, ..us }.arp_request(GATEWAY),
    );
    ask("the gateway, with its own address", SILENCE, Station { ip: GATEWAY, ..us }.arp_request(GATEWAY));
    ask(
        "the gateway, with another address",
        ANSWER,
        Station { ip: Ipv4Addr::new(192, 168, 127, 50), ..us }.arp_request(GATEWAY),
    );
    ask(
        "the gateway, with an address of another net",
        SILENCE,
        Station { ip: Ipv4Addr::new(10, 0, 0, 1), ..us }.arp_request(GATEWAY),
    );
    let mut unicast = us.arp_request(GATEWAY);
    unicast[..6].copy_from_slice(GATEWAY_MAC.as_bytes());
    ask("the gateway, asked alone", ANSWER, unicast.clone());
    unicast.extend([0; 18]);
    ask("the gateway, padded to 60 bytes", ANSWER, unicast.clone());
    unicast[16] = 0x86;
    ask("with a protocol that is not IPv4", SILENCE, unicast);
    let cut = us.arp_request(GATEWAY);
    ask("cut short", SILENCE, cut[..cut.len() - 1].to_vec());
}

fn echo(packet: &Packet) -> Option<String> {
    let (addresses, message) = packet.as_icmp()?;
    Some(match message {
        Icmp::EchoReply { ident, sequence, data } => {
            format!("echo reply {ident} {sequence} of {} bytes from {} to {}", data.len(), addresses.from, addresses.to)
        }
        Icmp::Other { kind, code } => format!("type {kind} code {code} from {}", addresses.from),
    })
}

fn icmp(facts: &mut Facts, gateway: &Gateway) {
    let us = Station::number(2);
    let mut client = FrameClient::connect(gateway, us);
    for size in [0_usize, 1, 56, 1472] {
        client.send(&us.echo_request(GATEWAY, 7, 8, &Payload::bytes(1, size)));
        facts.note(&format!("ping the gateway with {size} bytes"), answer(&mut client, ANSWER, echo));
    }
    for (name, to) in [("the host", HOST), ("a guest that is not there", Ipv4Addr::new(192, 168, 127, 77))] {
        client.send(&us.echo_request(to, 7, 8, b"abc"));
        facts.note(&format!("ping {name}"), answer(&mut client, SILENCE, echo));
    }
    client.send(&us.echo_request(Ipv4Addr::new(192, 0, 2, 1), 7, 8, b"abc"));
    facts.note("ping an address that nobody has", answer(&mut client, SILENCE, echo));

    let large = Payload::bytes(2, 4000);
    let whole = us.echo_request(GATEWAY, 9, 9, &large);
    client.send_all(&us.fragments(GATEWAY, IpProtocol::Icmp, &whole[ETHERNET + 20..], 1500, 77));
    let mut pieces = Vec::new();
    while let Some((offset, length, more)) = client.find(SILENCE, |packet| {
        packet.as_fragment().map(|(_, fragment)| (fragment.offset, fragment.payload.len(), fragment.more))
    }) {
        pieces.push(format!("{offset}+{length}{}", if more { "" } else { " last" }));
    }
    pieces.sort();
    facts.note("ping the gateway with 4000 bytes in fragments", pieces.join(", "));

    // Types that are no echo: timestamp, address mask, a reply that nobody waits for.
    for (name, kind) in [("timestamp", 13), ("address mask", 17), ("echo reply", 0)] {
        let mut message = vec![kind, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum);
        client.send(&us.ipv4(GATEWAY, IpProtocol::Icmp, &message));
        facts.note(&format!("icmp {name} to the gateway"), answer(&mut client, SILENCE, echo));
    }
    let mut wrong = us.echo_request(GATEWAY, 7, 8, b"abc");
    *wrong.last_mut().unwrap() ^= 1;
    client.send(&wrong);
    facts.note("ping with a wrong checksum", answer(&mut client, SILENCE, echo));
    facts.note("icmp frames that are broken", client.broken());
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    nitrotap_tests::guest::ping::checksum(bytes).to_be_bytes()
}

/// Where the datagrams of the tests come back from: the loopback of this machine.
fn echo_server() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut buf = vec![0; 65_536];
        while let Ok((n, from)) = socket.recv_from(&mut buf) {
            let _ = socket.send_to(&buf[..n], from);
        }
    });
    port
}

fn udp(facts: &mut Facts, gateway: &Gateway) {
    let us = Station::number(2);
    let mut client = FrameClient::connect(gateway, us);
    let to = SocketAddrV4::new(HOST, echo_server());
    for size in [1, 100, 1471, 1472] {
        let payload = Payload::bytes(3, size);
        let back = client.udp_exchange(to, &payload, ANSWER);
        facts.note(&format!("udp echo of {size} bytes"), back.is_some_and(|back| back == payload));
    }
    for size in [1473, 2952, 2953, 9000, 65_507] {
        let payload = Payload::bytes(4, size);
        let port = client.free_port();
        client.clear();
        client.send_udp(port, to, &payload);
        let mut pieces = Vec::new();
        while let Some((offset, length)) = client
            .find(SILENCE, |packet| packet.as_fragment().map(|(_, fragment)| (fragment.offset, fragment.payload.len())))
        {
            pieces.push((offset, length));
        }
        pieces.sort_unstable();
        let pieces: Vec<_> = pieces.iter().map(|(offset, length)| format!("{offset}+{length}")).collect();
        facts.note(&format!("fragments of a udp echo of {size} bytes"), pieces.join(" "));
    }

    let any = |packet: &Packet| packet.as_udp().map(|(_, datagram)| format!("{} bytes", datagram.payload.len()));
    let either = |packet: &Packet| echo(packet).or_else(|| any(packet));
    let mut quiet = |name: &str, frame: Vec<u8>| {
        client.clear();
        client.send(&frame);
        facts.note(&format!("udp {name}"), answer(&mut client, SILENCE, either));
    };
    let closed = free_udp_port();
    quiet("to a closed port of the host", us.udp(9, SocketAddrV4::new(HOST, closed), b"abc"));
    quiet("to a closed port of the gateway", us.udp(9, SocketAddrV4::new(GATEWAY, 9), b"abc"));
    quiet("to everybody", us.udp(9, SocketAddrV4::new(Ipv4Addr::BROADCAST, to.port()), b"abc"));
    quiet(
        "to the broadcast address of the net",
        us.udp(9, SocketAddrV4::new([192, 168, 127, 255].into(), to.port()), b"abc"),
    );
    quiet("to a multicast group", us.udp(9, SocketAddrV4::new([224, 0, 0, 251].into(), to.port()), b"abc"));
    quiet("to link-local addresses", us.udp(9, SocketAddrV4::new([169, 254, 169, 254].into(), to.port()), b"abc"));
    quiet("to the loopback by its own address", us.udp(9, SocketAddrV4::new(Ipv4Addr::LOCALHOST, to.port()), b"abc"));
    let mut unsummed = us.udp(10, to, b"abc");
    unsummed[ETHERNET + 26..ETHERNET + 28].fill(0);
    quiet("without a checksum", unsummed);
    let mut wrong = us.udp(11, to, b"abc");
    *wrong.last_mut().unwrap() ^= 1;
    quiet("with an unfinished checksum", wrong);
    let mut wrong = us.udp(12, to, b"abc");
    wrong[ETHERNET + 10] ^= 1;
    quiet("with a wrong IPv4 checksum", wrong);
    let mut hop = us.udp(13, to, b"abc");
    hop[ETHERNET + 8] = 1;
    quiet("with a hop limit of 1", hop);
    let mut long = us.udp(14, to, b"abc");
    long[ETHERNET + 24] = 1;
    quiet("with a length beyond the packet", long);
    let mut padded = us.udp(15, to, b"abc");
    padded.extend([0; 40]);
    quiet("with padding behind it", padded);
    quiet("from a port of zero", us.udp(0, to, b"abc"));
    quiet("from an address of another net", Station { ip: [10, 9, 8, 7].into(), ..us }.udp(16, to, b"abc"));
    facts.note("udp frames that are broken", client.broken());
}

fn free_udp_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Frames that no honest client sends; the switch goes on after each of them.
fn oddities(facts: &mut Facts, gateway: &Gateway) {
    let us = Station::number(2);
    let mut client = FrameClient::connect(gateway, us);
    let ipv4 = |bytes: &[u8]| us.frame(GATEWAY_MAC, EthernetProtocol::Ipv4, bytes);
    let version_six = us.udp(9, SocketAddrV4::new(GATEWAY, 9), b"abc").into_iter().enumerate();
    let version_six: Vec<u8> = version_six.map(|(i, byte)| if i == ETHERNET { 0x65 } else { byte }).collect();
    let odd: [(&str, Vec<u8>); 9] = [
        ("an empty payload", ipv4(&[])),
        ("half a header", ipv4(&[0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17])),
        ("a header length of zero", ipv4(&[0x40; 40])),
        ("a header longer than the packet", ipv4(&[0x4F; 20])),
        ("version 6 in an IPv4 frame", version_six),
        ("an unknown Ethernet type", us.frame(GATEWAY_MAC, EthernetProtocol::Unknown(0x88B5), &[0; 46])),
        ("IPv6", us.frame(GATEWAY_MAC, EthernetProtocol::Ipv6, &[0x60; 40])),
        (
            "an unknown destination",
            us.frame(EthernetAddress([2, 9, 9, 9, 9, 9]), EthernetProtocol::Unknown(0x88B5), &[0; 46]),
        ),
        ("an IPv4 protocol that nobody speaks", us.ipv4(GATEWAY, IpProtocol::Unknown(99), &[0; 20])),
    ];
    for (name, frame) in odd {
        client.clear();
        client.send(&frame);
        let said = answer(&mut client, SILENCE, |packet| echo(packet).or_else(|| Some(format!("{packet:?}"))));
        let goes_on = client.arp_request(GATEWAY, ANSWER).is_some();
        facts.note(&format!("a frame with {name}"), format!("{said}; the switch goes on: {goes_on}"));
    }
}

fn dhcp(facts: &mut Facts, gateway: &Gateway) {
    let options = |message: Option<Message>| {
        let Some(message) = message else { return "no answer".to_owned() };
        let mut options: Vec<_> = message.opts().iter().map(|(_, option)| format!("{option:?}")).collect();
        options.sort();
        let (flags, next) = (u16::from(message.flags()), message.siaddr());
        format!("{} from {next}, flags {flags:#x}: {}", message.yiaddr(), options.join("; "))
    };
    let mut seven = FrameClient::connect(gateway, Station::number(7));
    facts.note("dhcp discover", options(seven.dhcp_exchange(MessageType::Discover, None, ANSWER)));
    facts.note("dhcp request", options(seven.dhcp_exchange(MessageType::Request, None, ANSWER)));
    let wish = Some(Ipv4Addr::new(192, 168, 127, 99));
    facts.note("dhcp request of an address", options(seven.dhcp_exchange(MessageType::Request, wish, ANSWER)));
    facts.note("dhcp release", options(seven.dhcp_exchange(MessageType::Release, None, SILENCE)));
    facts.note("dhcp inform", options(seven.dhcp_exchange(MessageType::Inform, None, SILENCE)));
    facts.note("dhcp discover after the release", options(seven.dhcp_exchange(MessageType::Discover, None, ANSWER)));
    let mut eight = FrameClient::connect(gateway, Station::number(8));
    facts.note("dhcp discover of a second client", options(eight.dhcp_exchange(MessageType::Discover, None, ANSWER)));
    let device = Station { mac: EthernetAddress([0x5A, 0x94, 0xEF, 0xE4, 0x0C, 0xEE]), ..Station::number(2) };
    let mut device = FrameClient::connect(gateway, device);
    facts.note("dhcp discover of the device", options(device.dhcp_exchange(MessageType::Discover, None, ANSWER)));

    // How the answer travels.
    seven.clear();
    eight.clear();
    seven.send(&dhcp_discover(&seven.station()));
    let travels = answer(&mut seven, ANSWER, |packet| {
        let (addresses, datagram) = packet.as_udp().filter(|(_, datagram)| datagram.from == 67)?;
        let (from, to) = (addresses.from, addresses.to);
        Some(format!("{from}:{} to {to}:{}, frame to {}", datagram.from, datagram.to, addresses.to_mac))
    });
    facts.note("dhcp answers travel", travels);
    eight.run(SILENCE);
    let seen =
        eight.find(Duration::ZERO, |packet| packet.as_udp().filter(|(_, datagram)| datagram.from == 67).map(|_| ()));
    let seen = seen.is_some();
    facts.note("dhcp answers to others are seen by everybody", seen);
}

fn dhcp_discover(us: &Station) -> Vec<u8> {
    use dhcproto::Encodable as _;
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(99, none, none, none, none, us.mac.as_bytes());
    message.opts_mut().insert(DhcpOption::MessageType(MessageType::Discover));
    let nobody = Station { ip: none, ..*us };
    let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
    let datagram = nobody.datagram(68, to, &message.to_vec().unwrap());
    nobody.ipv4_to(EthernetAddress::BROADCAST, *to.ip(), IpProtocol::Udp, &datagram)
}
