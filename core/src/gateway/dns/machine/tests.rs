use super::*;
use crate::gateway::dns::{UDP_SIZE, addresses, default_zones};
use core::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{
        Name, RData, Record,
        rdata::{A, TXT, opt::EdnsCode},
    },
};
use quickcheck::QuickCheck;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 254);
const CLIENT: ClientId = ClientId(42);
const TENANT: u32 = 16;
const T0: Instant = Instant::ZERO;

fn dns() -> Dns {
    Dns::new(DnsConfig::new(default_zones(GATEWAY, HOST, None), 1)).expect("a config")
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0xbeef, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message.metadata.recursion_desired = true;
    message
}

fn with_edns(mut message: Message, size: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(size).set_dnssec_ok(true);
    message.set_edns(edns);
    message
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().expect("encodable")
}

fn ask(dns: &mut Dns, message: &Message) -> Action {
    dns.handle_query(T0, CLIENT, TENANT, Transport::Udp, &bytes(message))
}

fn parsed(bytes: &[u8]) -> Message {
    Message::from_vec(bytes).expect("answers parse")
}

fn answered(action: Action) -> Message {
    let Action::Answer(bytes) = action else { panic!("not answered: {action:?}") };
    let message = parsed(&bytes);
    assert_eq!((message.metadata.id, message.metadata.message_type), (0xbeef, MessageType::Response));
    message
}

fn forwarded(action: Action) -> (Token, Message) {
    let Action::Forward { token, query, .. } = action else { panic!("not forwarded: {action:?}") };
    (token, parsed(&query))
}

/// A resolver's answer to `asked`.
fn upstream(asked: &Message, code: ResponseCode, records: Vec<Record>) -> Message {
    let mut message = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    message.add_queries(asked.queries.clone());
    message.metadata.response_code = code;
    message.add_answers(records);
    message
}

fn txt(name: &str, len: usize) -> Record {
    let text = "x".repeat(255);
    let pieces = vec![text; len / 256];
    Record::from_rdata(Name::from_ascii(name).expect("a name"), 60, RData::TXT(TXT::new(pieces)))
}

fn ede(message: &Message) -> Option<(u16, String)> {
    let option = message.edns.as_ref()?.option(EdnsCode::from(15))?;
    let data: Vec<u8> = option.try_into().ok()?;
    let (code, text) = data.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*code), String::from_utf8_lossy(text).into_owned()))
}

#[test]
fn a_local_name_is_answered_as_it_was_asked() {
    let mut dns = dns();
    let message = answered(ask(&mut dns, &query("Gateway.CONTAINERS.internal.", RecordType::A)));
    let name = Name::from_ascii("Gateway.CONTAINERS.internal.").expect("a name");
    assert!(message.queries[0].name().eq_case(&name), "the question is echoed in its case");
    let head = message.metadata;
    assert!(head.recursion_desired && head.recursion_available && head.authoritative && !head.truncation);
    assert_eq!(message.answers, [Record::from_rdata(name, 0, RData::A(A(GATEWAY)))]);
    assert!(message.edns.is_none());
    assert_eq!(dns.counters().local, 1);
}

#[test]
fn other_types_of_a_local_name_are_empty_and_other_names_do_not_exist() {
    let mut dns = dns();
    for (name, kind, code, answers) in [
        ("host.docker.internal.", RecordType::A, ResponseCode::NoError, 1),
        ("host.docker.internal.", RecordType::ANY, ResponseCode::NoError, 1),
        ("host.docker.internal.", RecordType::AAAA, ResponseCode::NoError, 0),
        ("host.docker.internal.", RecordType::HTTPS, ResponseCode::NoError, 0),
        ("nobody.docker.internal.", RecordType::A, ResponseCode::NXDomain, 0),
        ("nobody.docker.internal.", RecordType::AAAA, ResponseCode::NXDomain, 0),
    ] {
        let message = answered(ask(&mut dns, &query(name, kind)));
        assert_eq!((message.metadata.response_code, message.answers.len()), (code, answers), "{name} {kind}");
    }
    forwarded(ask(&mut dns, &query("docker.internal.", RecordType::A)));
    let mut chaos = query("host.docker.internal.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    forwarded(ask(&mut dns, &chaos));
}

#[test]
fn names_of_the_gateway_have_both_families_where_it_has_both() {
    let (gateway, host) = (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xfe));
    let mut dns = Dns::new(DnsConfig::new(default_zones(GATEWAY, HOST, Some((gateway, host))), 1)).expect("a config");
    for (kind, expected) in [
        (RecordType::A, vec![IpAddr::V4(HOST)]),
        (RecordType::AAAA, vec![IpAddr::V6(host)]),
        (RecordType::ANY, vec![IpAddr::V4(HOST), IpAddr::V6(host)]),
        (RecordType::MX, vec![]),
    ] {
        let message = answered(ask(&mut dns, &query("host.docker.internal.", kind)));
        let found: Vec<_> = message.answers.iter().filter_map(|record| record.data.ip_addr()).collect();
        assert_eq!((message.metadata.response_code, found), (ResponseCode::NoError, expected), "{kind}");
    }
}

#[test]
fn names_that_no_resolver_can_know_are_answered_here() {
    // Not even a filter that lets nothing pass keeps a guest from itself.
    let mut dns = dns();
    dns.set_filter(Box::new(|_: &str| false));
    for (name, kind, code, expected) in [
        ("localhost.", RecordType::A, ResponseCode::NoError, Some(IpAddr::V4(Ipv4Addr::LOCALHOST))),
        ("LOCALHOST.", RecordType::AAAA, ResponseCode::NoError, Some(IpAddr::V6(Ipv6Addr::LOCALHOST))),
        ("db.localhost.", RecordType::A, ResponseCode::NoError, Some(IpAddr::V4(Ipv4Addr::LOCALHOST))),
        ("localhost.", RecordType::MX, ResponseCode::NoError, None),
        ("a.invalid.", RecordType::A, ResponseCode::NXDomain, None),
        ("x.onion.", RecordType::AAAA, ResponseCode::NXDomain, None),
        ("localhost.example.", RecordType::A, ResponseCode::Refused, None),
        ("printer.local.", RecordType::A, ResponseCode::Refused, None),
    ] {
        let message = answered(ask(&mut dns, &query(name, kind)));
        let found = message.answers.first().and_then(|record| record.data.ip_addr());
        assert_eq!((message.metadata.response_code, found), (code, expected), "{name} {kind}");
    }
}

#[test]
fn a_resolver_that_cannot_say_is_not_the_last_word_unless_no_other_one_answers() {
    let codes = [
        ResponseCode::ServFail,
        ResponseCode::NotImp,
        ResponseCode::Refused,
        ResponseCode::FormErr,
        ResponseCode::NotAuth,
    ];
    for code in codes {
        let mut dns = dns();
        let (token, asked) = forwarded(ask(&mut dns, &query("a.example.", RecordType::A)));
        let poor = bytes(&upstream(&asked, code, vec![]));
        let mut forged = poor.clone();
        forged[0] ^= 1;
        assert!(!dns.defer(token, &forged), "not an answer to this query");
        assert!(dns.defer(token, &poor));
        assert_eq!(dns.counters().in_flight, 1);
        // Another one answers.
        let record = Record::from_rdata(asked.queries[0].name().clone(), 60, RData::A(A::new(1, 2, 3, 4)));
        let good = bytes(&upstream(&asked, ResponseCode::NoError, vec![record]));
        assert!(!dns.defer(token, &good));
        let (_, got) = dns.handle_upstream(token, Ok(&good)).expect("an answer");
        assert_eq!(parsed(&got).answers.len(), 1);
        // None does.
        let (token, asked) = forwarded(ask(&mut dns, &query("a.example.", RecordType::A)));
        assert!(dns.defer(token, &bytes(&upstream(&asked, code, vec![]))));
        let (_, got) = dns.handle_upstream(token, Err(UpstreamFailure::Timeout)).expect("an answer");
        let head = parsed(&got).metadata;
        assert_eq!((head.id, head.response_code), (0xbeef, code));
        assert_eq!((dns.counters().upstream, dns.counters().timeout), (2, 0));
    }
    let mut dns = dns();
    let (token, asked) = forwarded(ask(&mut dns, &query("a.example.", RecordType::A)));
    assert!(!dns.defer(token, &bytes(&upstream(&asked, ResponseCode::NXDomain, vec![]))), "that says something");
}

#[test]
fn edns_is_answered_with_edns() {
    let mut dns = dns();
    let asked = with_edns(query("host.docker.internal.", RecordType::A), 4096);
    let edns = answered(ask(&mut dns, &asked)).edns.expect("an OPT record");
    assert_eq!((edns.max_payload(), edns.version(), edns.flags().dnssec_ok), (UDP_SIZE, 0, true));
    let mut future = asked;
    future.edns.as_mut().expect("an OPT record").set_version(1);
    for name in ["host.docker.internal.", "example.com."] {
        future.queries[0].set_name(Name::from_ascii(name).expect("a name"));
        let message = answered(ask(&mut dns, &future));
        assert_eq!(message.edns.expect("an OPT record").rcode_high(), 1, "BADVERS is 16");
        assert_eq!(message.metadata.response_code.low(), 0);
    }
}

#[test]
fn what_is_not_local_passes_whole_but_for_its_id() {
    let mut dns = dns();
    for kind in [RecordType::AAAA, RecordType::PTR, RecordType::SRV, RecordType::HTTPS, RecordType::Unknown(65280)] {
        let sent = [bytes(&with_edns(query("WwW.example.com.", kind), 4096)), b"tail".to_vec()].concat();
        let Action::Forward { token, query, transport } = dns.handle_query(T0, CLIENT, TENANT, Transport::Tcp, &sent)
        else {
            panic!("not forwarded")
        };
        assert_eq!((&query[2..], transport), (&sent[2..], Transport::Tcp));
        assert_ne!(query[..2], sent[..2]);
        // Bytes of which nobody here needs to understand anything.
        let mut answer = query;
        answer[2] |= 0x80;
        answer.extend([0xff; 600]);
        let (client, got) = dns.handle_upstream(token, Ok(&answer)).expect("an answer");
        assert_eq!((client, &got[..2], &got[2..]), (CLIENT, &sent[..2], &answer[2..]));
    }
    assert_eq!((dns.counters().upstream, dns.counters().in_flight), (5, 0));
}

#[test]
fn a_resolvers_verdict_reaches_the_client_untouched() {
    for code in [ResponseCode::NXDomain, ResponseCode::ServFail, ResponseCode::Refused] {
        let mut dns = dns();
        let (token, asked) = forwarded(ask(&mut dns, &query("example.com.", RecordType::A)));
        let answer = upstream(&asked, code, vec![]);
        let (_, got) = dns.handle_upstream(token, Ok(&bytes(&answer))).expect("an answer");
        let mut expected = answer;
        expected.metadata.id = 0xbeef;
        assert_eq!(parsed(&got), expected);
    }
}

#[test]
fn only_an_answer_to_the_query_is_one() {
    let mut dns = dns();
    let (token, asked) = forwarded(ask(&mut dns, &query("Example.com.", RecordType::A)));
    let good = bytes(&upstream(&asked, ResponseCode::NoError, vec![]));
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    for (bad, what) in [
        (with(0, !good[0]), "another id"),
        (with(2, good[2] & 0x7f), "a query"),
        (with(2, good[2] | 0x28), "another operation"),
        (with(5, 2), "two questions"),
        (with(5, 0), "no question, and no error"),
        (with(13, b'f'), "another name"),
        (with(12, 6), "other labels"),
        (with(good.len() - 3, 28), "another type"),
        (with(good.len() - 1, 3), "another class"),
        (good[..good.len() - 1].to_vec(), "half a question"),
        (good[..11].to_vec(), "half a header"),
        (vec![], "nothing"),
    ] {
        assert_eq!(dns.handle_upstream(token, Ok(&bad)), None, "{what}");
    }
    assert_eq!(dns.counters().strays, 12);
    // A resolver that lost the case of the name: the client sees its own.
    let lower = good.to_ascii_lowercase();
    assert_ne!(lower[12..], good[12..]);
    let (_, got) = dns.handle_upstream(token, Ok(&[&good[..12], &lower[12..]].concat())).expect("an answer");
    assert_eq!(got[12..], good[12..]);
    assert_eq!(dns.handle_upstream(token, Ok(&good)), None, "answered already");
    assert_eq!(dns.handle_upstream(token, Err(UpstreamFailure::Timeout)), None);
    assert_eq!((dns.counters().strays, dns.counters().timeout), (13, 0));
}

#[test]
fn an_error_without_a_question_gets_one() {
    let mut dns = dns();
    let (token, asked) = forwarded(ask(&mut dns, &query("example.com.", RecordType::A)));
    let mut answer = upstream(&asked, ResponseCode::FormErr, vec![]);
    answer.queries.clear();
    let (_, got) = dns.handle_upstream(token, Ok(&bytes(&answer))).expect("an answer");
    let got = parsed(&got);
    assert_eq!((got.metadata.response_code, &got.queries), (ResponseCode::FormErr, &asked.queries));
}

#[test]
fn over_udp_an_answer_is_cut_to_what_the_client_takes() {
    let long = "long.example.";
    for (edns, len, limit, whole) in [
        (None, 256, UDP_SIZE, true),
        (None, 768, UDP_SIZE, false),
        (Some(100), 768, UDP_SIZE, false),
        (Some(4096), 768, UDP_SIZE, true),
        (Some(4096), 1536, UDP_SIZE, false),
        (Some(4096), 1536, 4096, true),
        (Some(1000), 1024, 4096, false),
        (None, 256, 0, true),
        (None, 512, 0, false),
    ] {
        let mut dns = Dns::new(DnsConfig { udp_limit: limit, ..DnsConfig::new(vec![], 1) }).expect("a config");
        let sent = query(long, RecordType::TXT);
        let sent = if let Some(size) = edns { with_edns(sent, size) } else { sent };
        let (token, asked) = forwarded(ask(&mut dns, &sent));
        let mut answer = upstream(&asked, ResponseCode::NXDomain, vec![txt(long, len)]);
        if edns.is_some() {
            answer = with_edns(answer, 1400);
        }
        let (_, got) = dns.handle_upstream(token, Ok(&bytes(&answer))).expect("an answer");
        let got = parsed(&got);
        answer.metadata.id = 0xbeef;
        if !whole {
            answer.metadata.truncation = true;
            answer.answers.clear();
        }
        assert_eq!(got, answer, "{edns:?} {len} {limit}");
        assert_eq!(dns.counters().truncated, u64::from(!whole));
    }
}

#[test]
fn a_cut_answer_keeps_the_rest_of_its_code_and_none_of_its_options() {
    let mut dns = dns();
    let (token, asked) = forwarded(ask(&mut dns, &with_edns(query("a.example.", RecordType::TXT), 512)));
    let mut answer = with_edns(upstream(&asked, ResponseCode::BADVERS, vec![txt("a.example.", 1024)]), 1400);
    answer
        .edns
        .as_mut()
        .expect("an OPT record")
        .options_mut()
        .insert(hickory_proto::rr::rdata::opt::EdnsOption::Unknown(12, vec![0; 700]));
    let (_, got) = dns.handle_upstream(token, Ok(&bytes(&answer))).expect("an answer");
    assert!(got.len() < 60, "{}", got.len());
    let edns = parsed(&got).edns.expect("an OPT record");
    assert_eq!((edns.rcode_high(), edns.options().options.len()), (1, 0));
}

#[test]
fn over_tcp_nothing_is_cut() {
    let mut dns = dns();
    let sent = bytes(&query("long.example.", RecordType::TXT));
    let (token, asked) = forwarded(dns.handle_query(T0, CLIENT, TENANT, Transport::Tcp, &sent));
    let answer = bytes(&upstream(&asked, ResponseCode::NoError, vec![txt("long.example.", 60_000)]));
    let (_, got) = dns.handle_upstream(token, Ok(&answer)).expect("an answer");
    assert_eq!(got.len(), answer.len());
}

#[test]
fn failures_are_told_apart() {
    for (failure, code, word) in [
        (UpstreamFailure::Timeout, 22, "answered"),
        (UpstreamFailure::Unreachable, 23, "reachable"),
        (UpstreamFailure::NoResolvers, 23, "has no"),
    ] {
        let mut dns = dns();
        let (token, _) = forwarded(ask(&mut dns, &with_edns(query("example.com.", RecordType::A), 1232)));
        let (_, got) = dns.handle_upstream(token, Err(failure)).expect("an answer");
        let got = parsed(&got);
        let (ede, text) = ede(&got).expect("an extended error");
        assert_eq!((got.metadata.response_code, ede), (ResponseCode::ServFail, code));
        assert!(text.contains(word), "{text}");
        let (token, _) = forwarded(ask(&mut dns, &query("example.com.", RecordType::A)));
        let (_, got) = dns.handle_upstream(token, Err(failure)).expect("an answer");
        assert!(parsed(&got).edns.is_none(), "one without EDNS would not understand it");
        let counters = dns.counters();
        assert_eq!(if code == 22 { counters.timeout } else { counters.unreachable }, 2);
    }
}

#[test]
fn a_query_waits_so_long_and_no_longer() {
    let mut dns = dns();
    let later = T0 + Duration::from_secs(1);
    let one = bytes(&query("one.example.", RecordType::A));
    let (first, _) = forwarded(dns.handle_query(T0, ClientId(1), TENANT, Transport::Udp, &one));
    let (second, asked) = forwarded(dns.handle_query(later, ClientId(2), TENANT, Transport::Udp, &one));
    forwarded(dns.handle_query(later, ClientId(3), TENANT, Transport::Udp, &one));
    let due = T0 + Duration::from_secs(5);
    assert_eq!((dns.poll_timeout(), dns.handle_timeout(Instant::from_millis(4_999))), (Some(due), None));
    let (token, client, answer) = dns.handle_timeout(due).expect("it is over");
    assert_eq!((token, client, parsed(&answer).metadata.response_code), (first, ClientId(1), ResponseCode::ServFail));
    assert_eq!((dns.handle_timeout(due), dns.poll_timeout()), (None, Some(due + Duration::from_secs(1))));
    let answer = bytes(&upstream(&asked, ResponseCode::NoError, vec![]));
    assert_eq!(dns.handle_upstream(second, Ok(&answer)).map(|(client, _)| client), Some(ClientId(2)));
    assert_eq!(dns.handle_timeout(Instant::from_millis(6_000)).map(|t| t.1), Some(ClientId(3)));
    assert_eq!((dns.poll_timeout(), dns.counters().timeout), (None, 2));
}

#[test]
fn a_tenant_has_its_share_of_what_is_in_flight_and_who_has_the_most_makes_room() {
    let config = DnsConfig { in_flight: 6, in_flight_per_tenant: 4, ..DnsConfig::new(vec![], 1) };
    let mut dns = Dns::new(config).expect("ok");
    let one = bytes(&query("example.com.", RecordType::A));
    let ask = |dns: &mut Dns, client, tenant| {
        let action = dns.handle_query(T0, ClientId(client), tenant, Transport::Udp, &one);
        let shed = dns.poll_shed().map(|(_, client, answer)| (client.0, parsed(&answer).metadata.response_code));
        (matches!(action, Action::Forward { .. }), shed)
    };
    for client in 0..4 {
        assert_eq!(ask(&mut dns, client, 1), (true, None));
    }
    assert_eq!(ask(&mut dns, 4, 1), (false, None), "its share is used up");
    assert_eq!(ask(&mut dns, 10, 2), (true, None));
    assert_eq!(ask(&mut dns, 11, 2), (true, None));
    // Now there are too many in all.
    assert_eq!(ask(&mut dns, 20, 3), (true, Some((0, ResponseCode::ServFail))), "the oldest of the one with the most");
    assert_eq!(ask(&mut dns, 21, 3), (true, Some((1, ResponseCode::ServFail))));
    assert_eq!(ask(&mut dns, 22, 3), (false, None), "all have the same");
    let counters = dns.counters();
    assert_eq!((counters.in_flight, counters.overload), (6, 4));
    // What is answered makes room for its tenant.
    while dns.handle_timeout(T0 + Duration::from_secs(5)).is_some() {}
    assert_eq!(ask(&mut dns, 30, 1), (true, None));
}

#[test]
fn too_many_queries_in_flight_are_answered_and_not_kept() {
    let mut dns =
        Dns::new(DnsConfig { in_flight: 2, ..DnsConfig::new(default_zones(GATEWAY, HOST, None), 1) }).expect("ok");
    let sent = with_edns(query("example.com.", RecordType::A), 1232);
    let (token, _) = forwarded(ask(&mut dns, &sent));
    forwarded(ask(&mut dns, &sent));
    let refused = answered(ask(&mut dns, &sent));
    assert_eq!(refused.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(ede(&refused).map(|(code, _)| code), Some(0));
    assert_eq!((dns.counters().overload, dns.counters().in_flight), (1, 2));
    answered(ask(&mut dns, &query("host.docker.internal.", RecordType::A)));
    dns.handle_upstream(token, Err(UpstreamFailure::Timeout)).expect("an answer");
    forwarded(ask(&mut dns, &sent));
}

#[test]
fn the_filter_decides_about_names_that_are_not_ours() {
    let mut dns = dns();
    dns.set_hosts(BTreeMap::from([("printer.lan".to_owned(), vec![IpAddr::V4(HOST)])]));
    let (tx, rx) = std::sync::mpsc::channel();
    dns.set_filter(Box::new(move |name: &str| {
        tx.send(name.to_owned()).expect("the test listens");
        name == "good.example"
    }));
    forwarded(ask(&mut dns, &query("GOOD.example.", RecordType::A)));
    for name in ["bad.example.", "printer.lan.", "."] {
        let refused = answered(ask(&mut dns, &with_edns(query(name, RecordType::A), 1232)));
        assert_eq!(refused.metadata.response_code, ResponseCode::Refused, "{name}");
        assert_eq!(ede(&refused).map(|(code, _)| code), Some(15));
    }
    answered(ask(&mut dns, &query("host.docker.internal.", RecordType::A)));
    assert_eq!(rx.try_iter().collect::<Vec<_>>(), ["good.example", "bad.example", "printer.lan", "."]);
    assert_eq!(dns.counters().blocked, 3);
}

#[test]
fn the_hosts_own_table_answers_for_addresses_only() {
    let mut dns = dns();
    let v6: IpAddr = Ipv6Addr::LOCALHOST.into();
    let printer = vec![IpAddr::V4(HOST), v6, IpAddr::V4(GATEWAY)];
    dns.set_hosts(BTreeMap::from([("printer.lan".to_owned(), printer), ("v6.lan".to_owned(), vec![v6])]));
    let found = |dns: &mut Dns, name: &str, kind| -> Vec<IpAddr> {
        let message = answered(ask(dns, &query(name, kind)));
        assert_eq!(message.metadata.response_code, ResponseCode::NoError);
        addresses(&bytes(&message)).into_iter().map(|(_, address, _)| address).collect()
    };
    assert_eq!(found(&mut dns, "Printer.lan.", RecordType::A), [IpAddr::V4(HOST), IpAddr::V4(GATEWAY)]);
    assert_eq!(found(&mut dns, "printer.lan.", RecordType::AAAA), [v6]);
    assert_eq!(found(&mut dns, "v6.lan.", RecordType::A), [] as [IpAddr; 0]);
    forwarded(ask(&mut dns, &query("printer.lan.", RecordType::MX)));
    forwarded(ask(&mut dns, &query("x.printer.lan.", RecordType::A)));
    let many = (0..10_000).map(|n| (format!("h{n:05}"), vec![IpAddr::V4(HOST); 100])).collect();
    dns.set_hosts(many);
    assert_eq!(found(&mut dns, "h00000.", RecordType::A).len(), 0, "64 addresses do not fit into 512 bytes");
    forwarded(ask(&mut dns, &query("h09999.", RecordType::A)));
}

#[test]
fn what_cannot_be_read_is_told_so_and_what_is_no_query_is_dropped() {
    let mut dns = dns();
    let good = bytes(&with_edns(query("example.com.", RecordType::A), 1232));
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let mut two_opts = with(11, 2);
    two_opts.extend_from_within(good.len() - 11..);
    // A name that consists of the header's bytes.
    let pointer = [&good[..12], &[0xc0, 4, 0, 1, 0, 1]].concat();
    let code = |dns: &mut Dns, bytes: &[u8]| {
        answered(dns.handle_query(T0, CLIENT, TENANT, Transport::Udp, bytes)).metadata.response_code
    };
    for (bytes, what) in [
        (with(5, 0), "no question"),
        (with(5, 2), "two questions"),
        (with(12, 0x80), "a label of no known kind"),
        (good[..20].to_vec(), "half a question"),
        (good[..good.len() - 1].to_vec(), "half an OPT record"),
        (with(11, 2), "a record too few"),
        (with(10, 1), "too many records"),
        (two_opts, "two OPT records"),
        (pointer, "a pointer"),
        (good[..12].to_vec(), "a header alone"),
    ] {
        assert_eq!(code(&mut dns, &bytes), ResponseCode::FormErr, "{what}");
    }
    for opcode in 1..16 {
        assert_eq!(code(&mut dns, &with(2, 1 | opcode << 3)), ResponseCode::NotImp, "{opcode}");
    }
    let drop = |dns: &mut Dns, bytes: &[u8]| dns.handle_query(T0, CLIENT, TENANT, Transport::Udp, bytes);
    assert_eq!(drop(&mut dns, &with(2, 0x81)), Action::Drop(DnsDrop::Response));
    assert_eq!(drop(&mut dns, &good[..11]), Action::Drop(DnsDrop::Short));
    let counters = dns.counters();
    assert_eq!((counters.malformed, counters.unsupported), (10, 15));
    assert_eq!((counters.dropped_short, counters.dropped_response, counters.queries), (1, 1, 27));
}

/// Whatever arrives, an answer has the query's id and parses, and every query has one outcome.
#[test]
fn any_bytes_have_one_outcome() {
    fn law(noise: Vec<u8>, name: Vec<u8>, at: usize, byte: u8) -> bool {
        let mut dns = dns();
        let label: String = name.iter().take(60).map(|b| char::from(b'a' + b % 26)).collect();
        let mut sent = bytes(&with_edns(query(&format!("x{label}.docker.internal."), RecordType::A), 1232));
        let at = at % sent.len();
        sent[at] = byte;
        for bytes in [noise, sent] {
            match dns.handle_query(T0, CLIENT, TENANT, Transport::Udp, &bytes) {
                Action::Answer(answer) => assert_eq!(parsed(&answer).metadata.id.to_be_bytes(), bytes[..2]),
                Action::Forward { query, .. } => assert_eq!(query[2..], bytes[2..]),
                Action::Drop(_) => {}
            }
        }
        let c = dns.counters();
        let ends =
            c.local + c.blocked + c.malformed + c.unsupported + c.overload + c.dropped_short + c.dropped_response;
        c.queries == 2 && ends + c.in_flight == 2
    }
    QuickCheck::new().tests(2_000).quickcheck(law as fn(Vec<u8>, Vec<u8>, usize, u8) -> bool);
}
