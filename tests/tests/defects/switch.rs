//! Frames: the stream, the switch, and who may say that he is whom.

use crate::Seen;
use nitrotap_tests::{
    FrameClient, Scratch,
    enclave::serve_outside,
    frameclient::{
        Addresses, GATEWAY, HOST, Packet, Station,
        packets::{GATEWAY_MAC, Icmp},
    },
    gateway::{self, Kind},
    guest::payload::Payload,
    wait::SOON,
};
use smoltcp::wire::{EthernetProtocol, IpProtocol};
use std::{
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    time::Duration,
};

const ANSWER: Duration = Duration::from_secs(3);
const SILENCE: Duration = Duration::from_millis(500);

/// The neighbour must go on after each, and with a gateway that keeps the stream, so must the sender.
pub(crate) fn a_short_frame_that_wedges_the_switch(kind: Kind) -> Seen {
    let gateway = kind.start()?;
    let mut neighbour = FrameClient::connect(&gateway, Station::number(3));
    let mut sender = FrameClient::connect(&gateway, Station::number(2));
    for length in 0..14 {
        sender.send(&vec![0xFF; length]);
        sender.run(Duration::from_millis(50));
        if neighbour.arp_request(GATEWAY, ANSWER).is_none() {
            return Ok(Some(format!("a frame of {length} bytes silences the switch for everybody")));
        }
        if sender.is_closed() || sender.arp_request(GATEWAY, ANSWER).is_none() {
            return Ok(Some(format!("a frame of {length} bytes costs its sender the stream")));
        }
    }
    Ok(None)
}

/// Go's clients do not wait before their first frame; a request and a frame may come in one read.
pub(crate) fn bytes_lost_when_they_come_with_the_request(kind: Kind) -> Seen {
    let gateway = kind.start()?;
    let us = Station::number(2);
    for round in 0..5 {
        let mut client = FrameClient::dial_with(&gateway, us, &[us.arp_request(GATEWAY)]);
        let answered = client.find(ANSWER, |packet| packet.as_arp().map(|_| ())).is_some();
        if !answered {
            return Ok(Some(format!("no answer to a frame right behind the request, in round {round}")));
        }
        if !client.ping(GATEWAY, 100, ANSWER) {
            return Ok(Some(format!("the stream is out of step, in round {round}")));
        }
    }
    Ok(None)
}

pub(crate) fn a_control_interface_on_the_frame_listener(kind: Kind) -> Seen {
    let gateway = kind.start()?;
    let local = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
    let body = format!(r#"{{"local":"{local}","remote":"192.168.127.2:80","protocol":"tcp"}}"#);
    let mut seen = Vec::new();
    for (method, path, body) in [
        ("POST", "/services/forwarder/expose", body.as_str()),
        ("GET", "/services/forwarder/all", ""),
        ("GET", "/services/dns/all", ""),
        ("GET", "/cam", ""),
        ("GET", "/stats", ""),
        ("GET", "/leases", ""),
        ("POST", "/tunnel", ""),
    ] {
        // No answer in HTTP is fine too: nobody is there.
        let status = gateway::call(&gateway.socket(), method, path, body).and_then(|answer| answer.status());
        if status.is_ok_and(|status| status != 404) {
            seen.push(format!("{method} {path}"));
        }
    }
    if std::net::TcpStream::connect(local).is_ok() {
        seen.push("a port was opened".to_owned());
    }
    Ok((!seen.is_empty()).then(|| seen.join(", ")))
}

/// What the gateway sends to a victim, while somebody else uses the victim's MAC, and its address too.
pub(crate) fn a_mac_that_another_enclave_can_take(kind: Kind) -> Seen {
    let gateway = kind.start()?;
    let mut victim = FrameClient::connect(&gateway, Station::number(2));
    let mut thief = FrameClient::connect(&gateway, Station::number(3));
    thief.stop_answering_arp();
    let (us, spoof) = (victim.station(), victim.station());
    for round in 0..5 {
        // The question of the victim, and at once the thief's claim.
        thief.send(&spoof.arp_request(Ipv4Addr::new(192, 168, 127, 99)));
        thief.send(&spoof.udp(9, SocketAddrV4::new(GATEWAY, 9), b"it is me"));
        thief.run(Duration::from_millis(50));
        let local = gateway.expose_tcp(7000 + round);
        let outside = std::net::TcpStream::connect(local).unwrap();
        let stolen = thief.tcp_syn(7000 + round, SILENCE).is_some();
        let kept = victim.tcp_syn(7000 + round, ANSWER).is_some();
        drop(outside);
        if stolen || !kept {
            return Ok(Some(format!("the thief got the connection: {stolen}; the victim: {kept}; in round {round}")));
        }
    }
    Ok((!victim.ping(GATEWAY, 10, ANSWER)).then(|| format!("{} hears nothing any more", us.ip)))
}

/// Frames to the gateway still reach the gateway, and what goes to others is not seen.
pub(crate) fn a_gateway_mac_that_an_enclave_can_take(kind: Kind) -> Seen {
    let gateway = kind.start()?;
    let mut victim = FrameClient::connect(&gateway, Station::number(2));
    let mut thief = FrameClient::connect(&gateway, Station::number(3));
    let spoof = Station { mac: GATEWAY_MAC, ip: GATEWAY, ..thief.station() };
    for round in 0..5 {
        thief.send(&spoof.arp_request(victim.station().ip));
        thief.send(&spoof.arp_reply(victim.station().mac, victim.station().ip));
        thief.run(Duration::from_millis(50));
        victim.clear();
        thief.clear();
        if !victim.ping(GATEWAY, 100 + round, ANSWER) {
            return Ok(Some(format!("the gateway is not heard any more, in round {round}")));
        }
        let listens = thief.find(SILENCE, |packet| packet.as_icmp().map(|(addresses, _)| addresses.from));
        if let Some(from) = listens {
            return Ok(Some(format!("the thief hears {from}, in round {round}")));
        }
    }
    Ok(None)
}

/// Two enclaves were started with the same MAC and address. They may suffer; a third one must not.
pub(crate) fn a_twin_that_breaks_its_neighbours(kind: Kind) -> Seen {
    let gateway = kind.start()?;
    let scratch = Scratch::new();
    let (_source, port) = serve_outside(&["tcp-source", "127.0.0.1:0", "500000", "51"], &scratch);
    let mut neighbour = FrameClient::connect(&gateway, Station::number(9));
    let mut one = FrameClient::connect(&gateway, Station::number(2));
    let mut twin = FrameClient::dial(&gateway.socket(), Station::number(2), nitrotap_tests::frameclient::GO_REQUEST);
    for round in 0..5 {
        for client in [&mut one, &mut twin] {
            client.run(Duration::from_millis(60));
            client.send(&client.station().arp_request(GATEWAY));
            client.send(&client.station().echo_request(GATEWAY, 1, 1, b"me"));
        }
        let mut download = neighbour.tcp_connect(SocketAddrV4::new(HOST, port), ANSWER).expect_open();
        download.run_to_end(&mut neighbour, SOON);
        download.close(&mut neighbour);
        if download.received != Payload::bytes(51, 500_000) {
            return Ok(Some(format!("a neighbour got {} bytes, in round {round}", download.received.len())));
        }
    }
    // The first of them was there first.
    one.clear();
    Ok((!one.ping(GATEWAY, 10, ANSWER)).then(|| "the one that was there first hears nothing".to_owned()))
}

/// An MTU of 65520 makes frames of 65,534 bytes, one less than the length prefix holds; they go through the switch, and to
/// the gateway and back.
pub(crate) fn the_biggest_frames_that_put_the_stream_out_of_step(kind: Kind) -> Seen {
    const MTU: u16 = 65_520;
    const FRAME: usize = MTU as usize + 14;
    let gateway = kind.options().mtu(MTU).start()?;
    let mut one = FrameClient::connect(&gateway, Station::number(2));
    let mut other = FrameClient::connect(&gateway, Station::number(3));
    let (us, them) = (one.station(), other.station());
    for size in [FRAME - 1, FRAME, FRAME - 100] {
        for round in 0..4 {
            let data = Payload::bytes(round, size - 14 - 20 - 8);
            one.send(&us.ipv4_to(
                them.mac,
                them.ip,
                IpProtocol::Udp,
                &us.datagram(1, SocketAddrV4::new(them.ip, 2), &data),
            ));
            other.send(&them.ipv4_to(
                us.mac,
                us.ip,
                IpProtocol::Udp,
                &them.datagram(3, SocketAddrV4::new(us.ip, 4), &data),
            ));
            let came = other.recv_udp(2, SocketAddrV4::new(us.ip, 1), ANSWER).is_some_and(|came| came == data);
            let back = one.recv_udp(4, SocketAddrV4::new(them.ip, 3), ANSWER).is_some_and(|came| came == data);
            if !came || !back {
                return Ok(Some(format!("frames of {size} bytes: {came} and {back}, in round {round}")));
            }
        }
        if !one.ping(GATEWAY, size - 14 - 20 - 8, ANSWER) {
            return Ok(Some(format!("no echo in a frame of {size} bytes from the gateway")));
        }
    }
    // One more than any frame may be; it may be dropped, but nothing else.
    one.send(&us.frame(them.mac, EthernetProtocol::Unknown(0x88B5), &vec![0; FRAME + 1 - 14]));
    one.send(&us.frame(GATEWAY_MAC, EthernetProtocol::Unknown(0x88B5), &vec![0; FRAME + 1 - 14]));
    let in_step = one.arp_request(GATEWAY, ANSWER).is_some() && other.arp_request(GATEWAY, ANSWER).is_some();
    let broken = one.broken() + other.broken();
    Ok((!in_step || broken > 0).then(|| format!("in step: {in_step}, broken frames: {broken}")))
}

pub(crate) fn echo_replies_from_nobody(kind: Kind) -> Seen {
    let gateway = kind.start()?;
    let mut client = FrameClient::connect(&gateway, Station::number(2));
    let nobody = Ipv4Addr::new(192, 168, 127, 77);
    client.send(&client.station().echo_request(nobody, 1, 1, b"abc"));
    let reply = client.find(ANSWER, |packet: &Packet| {
        let (Addresses { from, .. }, message) = packet.as_icmp()?;
        matches!(message, Icmp::EchoReply { .. }).then_some(*from)
    });
    Ok(reply.map(|from| format!("{from} answers, and is not there")))
}
