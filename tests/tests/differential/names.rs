//! DNS: the gateway's own zones, and what it passes on to a name server.

use crate::facts::Facts;
use hickory_proto::{op::Message, rr::RecordType};
use nitrotap_tests::{
    FrameClient, Gateway,
    frameclient::{Packet, Station},
};
use std::{net::SocketAddrV4, time::Duration};

const ANSWER: Duration = Duration::from_secs(12);

fn words(message: Option<&Message>) -> String {
    let Some(message) = message else { return "no answer".to_owned() };
    let records = |list: &[hickory_proto::rr::Record]| {
        let mut words: Vec<_> =
            list.iter().map(|record| format!("{} {} {:?}", record.name, record.ttl, record.data)).collect();
        words.sort();
        if words.len() > 3 { format!("{} records", words.len()) } else { words.join(", ") }
    };
    let metadata = &message.metadata;
    let flags = [
        ("tc", metadata.truncation),
        ("rd", metadata.recursion_desired),
        ("ra", metadata.recursion_available),
        ("ad", metadata.authentic_data),
    ];
    let flags: Vec<_> = flags.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    format!(
        "{:?} [{}] questions {} answers [{}] authorities [{}] additionals {}",
        metadata.response_code,
        flags.join(" "),
        message.queries.len(),
        records(&message.answers),
        records(&message.authorities),
        message.additionals.len() + usize::from(message.edns.is_some()),
    )
}

pub(crate) fn record(facts: &mut Facts, gateway: &Gateway) {
    let mut client = FrameClient::connect(gateway, Station::number(2));
    let local = [
        ("gateway.containers.internal.", RecordType::A),
        ("host.containers.internal.", RecordType::A),
        ("gateway.docker.internal.", RecordType::A),
        ("host.docker.internal.", RecordType::A),
        ("GATEWAY.Containers.Internal.", RecordType::A),
        ("gateway.containers.internal.", RecordType::AAAA),
        ("gateway.containers.internal.", RecordType::MX),
        ("gateway.containers.internal.", RecordType::TXT),
        ("nobody.containers.internal.", RecordType::A),
        ("nobody.containers.internal.", RecordType::AAAA),
        ("containers.internal.", RecordType::A),
        ("deep.gateway.containers.internal.", RecordType::A),
    ];
    let upstream = [
        ("ok.test.", RecordType::A),
        ("ok.test.", RecordType::AAAA),
        ("ok.test.", RecordType::TXT),
        ("ok.test.", RecordType::MX),
        ("empty.test.", RecordType::A),
        ("nx.test.", RecordType::A),
        ("fail.test.", RecordType::A),
        ("refuse.test.", RecordType::A),
        ("big.test.", RecordType::TXT),
    ];
    let authoritative = client.dns_query(local[0].0, local[0].1, ANSWER).map(|answer| answer.metadata.authoritative);
    facts.note("dns answers about our own zones are authoritative", format!("{authoritative:?}"));
    for (name, kind) in local.into_iter().chain(upstream) {
        let answer = client.dns_query(name, kind, ANSWER);
        facts.note(&format!("dns {kind} {name}"), words(answer.as_ref()));
        let over_udp = words(answer.as_ref());
        let over_tcp = words(client.dns_query_over_tcp(name, kind, ANSWER).as_ref());
        let told = if over_tcp == over_udp { "the same" } else { &over_tcp };
        facts.note(&format!("dns {kind} {name} over tcp"), told);
    }
    let answer = client.dns_query("silent.test.", RecordType::A, ANSWER);
    facts.note("dns A silent.test.", words(answer.as_ref()));
    facts.note(
        "dns A 1.127.168.192.in-addr.arpa.",
        words(client.dns_query("1.127.168.192.in-addr.arpa.", RecordType::PTR, ANSWER).as_ref()),
    );

    let server = SocketAddrV4::new(nitrotap_tests::frameclient::GATEWAY, 53);
    for (name, bytes) in [
        ("rubbish", &b"rubbish"[..]),
        ("an empty datagram", b""),
        ("a header without a question", &[0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        if bytes.is_empty() {
            continue;
        }
        let port = client.free_port();
        client.send_udp(port, server, bytes);
        let answer = client.find(Duration::from_secs(1), |packet: &Packet| {
            let (_, datagram) = packet.as_udp()?;
            (datagram.to == port).then(|| words(Message::from_vec(&datagram.payload).ok().as_ref()))
        });
        facts.note(&format!("dns {name}"), answer.unwrap_or_else(|| "silence".to_owned()));
    }
    facts.note("dns frames that are broken", client.broken());
}
