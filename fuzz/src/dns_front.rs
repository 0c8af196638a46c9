//! The DNS front against a script of queries, upstream answers and waits: its answers parse, fit, and are nobody else's.

use hickory_proto::op::Message;
use nitrotap_core::{
    gateway::dns::{Action, ClientId, Dns, DnsConfig, Record, Token, Transport, UpstreamFailure, Zone, addresses},
    time::Instant,
};
use std::{net::Ipv4Addr, time::Duration};

const IN_FLIGHT: usize = 4;
const LIMIT: u16 = 1232;

/// A query that is out, as it was asked.
struct Sent {
    token: Token,
    client: ClientId,
    transport: Transport,
    query: Vec<u8>,
    upstream: Vec<u8>,
}

/// A step is: what (one byte), length (two bytes, little endian), and a message.
pub fn dns_front(data: &[u8]) {
    let record = |name: &str, regexp: Option<&str>| Record {
        name: name.to_owned(),
        ip: Ipv4Addr::new(10, 0, 0, 1).into(),
        regexp: regexp.map(str::to_owned),
    };
    let records = vec![record("a", None), record("", Some("^b[0-9]+$"))];
    let zones = vec![Zone { name: "z.".to_owned(), records, default_ip: None }];
    let config = DnsConfig { in_flight: IN_FLIGHT, udp_limit: LIMIT, ..DnsConfig::new(zones, 7) };
    let mut dns = Dns::new(config).expect("a configuration");
    dns.set_filter(Box::new(|name: &str| !name.starts_with('x')));
    let (mut now, mut sent, mut clients): (_, Vec<Sent>, _) = (Instant::ZERO, Vec::new(), 0);
    let mut data = data;
    while let [what, low, high, rest @ ..] = data {
        let (message, rest) = rest.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(rest.len()));
        data = rest;
        match what % 6 {
            kind @ (0 | 1) => {
                let (client, transport) = (ClientId(clients), if kind == 0 { Transport::Udp } else { Transport::Tcp });
                clients += 1;
                match dns.handle_query(now, client, u32::from(high & 3), transport, message) {
                    Action::Answer(answer) => check(&answer, message, transport),
                    Action::Forward { token, query: upstream, transport: same } => {
                        assert_eq!((&upstream[2..], same), (&message[2..], transport));
                        sent.push(Sent { token, client, transport, query: message.to_vec(), upstream });
                    }
                    Action::Drop(_) => {}
                }
                // One of another tenant that made room.
                while let Some((token, client, answer)) = dns.poll_shed() {
                    let at = sent.iter().position(|one| one.token == token).expect("it was in flight");
                    let one = sent.remove(at);
                    assert_eq!(client, one.client);
                    check(&answer, &one.query, one.transport);
                }
            }
            // The message is what is different from an answer that says the same as the query: bytes to add at its end.
            2 => {
                let Some(one) = sent.first() else { continue };
                let mut answer = one.upstream.clone();
                answer[2] |= 0x80;
                answer.extend_from_slice(message);
                upstream(&mut dns, &mut sent, Ok(&answer));
            }
            3 => upstream(&mut dns, &mut sent, Ok(message)),
            4 => upstream(&mut dns, &mut sent, Err(UpstreamFailure::Unreachable)),
            _ => {
                now = now + Duration::from_millis(u64::from(*low) * 50);
                while let Some((token, client, answer)) = dns.handle_timeout(now) {
                    let at = sent.iter().position(|one| one.token == token).expect("it was in flight");
                    let one = sent.remove(at);
                    assert_eq!(client, one.client);
                    check(&answer, &one.query, one.transport);
                }
            }
        }
        assert_eq!(dns.counters().in_flight as usize, sent.len());
        assert!(sent.len() <= IN_FLIGHT);
    }
}

/// An outcome for the oldest query, or rather for the one it is taken for.
fn upstream(dns: &mut Dns, sent: &mut Vec<Sent>, answer: Result<&[u8], UpstreamFailure>) {
    let Some(one) = sent.first() else { return };
    let Some((client, reply)) = dns.handle_upstream(one.token, answer) else {
        assert!(answer.is_ok(), "a failure ends the query");
        return;
    };
    assert_eq!(client, one.client);
    assert_eq!(reply[..2], one.query[..2]);
    if one.transport == Transport::Udp {
        assert!(reply.len() <= usize::from(LIMIT));
    }
    // Only that it takes any bytes.
    let _ = addresses(&reply);
    if answer.is_err() {
        check(&reply, &one.query, one.transport);
    }
    sent.remove(0);
}

/// An answer of the front's own making.
fn check(answer: &[u8], query: &[u8], transport: Transport) {
    let parsed = Message::from_vec(answer).expect("answers parse");
    assert_eq!(parsed.metadata.id.to_be_bytes(), query[..2]);
    assert!(transport == Transport::Tcp || answer.len() <= 512, "{} bytes", answer.len());
}
