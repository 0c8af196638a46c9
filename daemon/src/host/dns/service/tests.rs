use super::*;
use crate::host::dns::{INTAKE, PIPELINE_TENANT, STREAM_LIMITS};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode},
    rr::{
        Name, RData, Record as Rr, RecordType,
        rdata::{A, AAAA, TXT, opt::EdnsCode},
    },
};
use nitrotap_core::gateway::dns::{Record, addresses, default_zones};
use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Mutex,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    time::timeout,
};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 254);
/// For what must happen at all, however slow the machine is.
const DEADLINE: Duration = Duration::from_secs(30);

/// A resolver on loopback whose answers depend on the name alone.
async fn fake(address: Ipv4Addr, port: u16) -> Option<SocketAddr> {
    let listener = TcpListener::bind((address, port)).await.ok()?;
    let at = listener.local_addr().ok()?;
    let socket = UdpSocket::bind(at).await.ok()?;
    tokio::spawn(async move {
        let mut buf = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut buf).await {
            for answer in answers(at, &buf[..len], Transport::Udp) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                while let Ok(len) = stream.read_u16().await {
                    let mut bytes = vec![0; usize::from(len)];
                    stream.read_exact(&mut bytes).await.unwrap();
                    for answer in answers(at, &bytes, Transport::Tcp) {
                        stream.write_all(&stream::framed(&answer)).await.unwrap();
                    }
                }
            });
        }
    });
    Some(at)
}

fn answers(at: SocketAddr, query: &[u8], transport: Transport) -> Vec<Vec<u8>> {
    let query = Message::from_vec(query).unwrap();
    let question = query.queries[0].clone();
    let mut answer = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    answer.add_query(question.clone());
    answer.metadata.recursion_available = true;
    let record = |data| Rr::from_rdata(question.name().clone(), 300, data);
    match question.name().iter().next().unwrap() {
        b"silence" => return vec![],
        b"missing" => answer.metadata.response_code = ResponseCode::NXDomain,
        b"poor-at-3" if at.ip() == Ipv4Addr::new(127, 0, 0, 3) => {
            answer.metadata.response_code = ResponseCode::ServFail
        }
        b"broken" => answer.metadata.response_code = ResponseCode::ServFail,
        b"big" if transport == Transport::Udp => answer.metadata.truncation = true,
        b"big" => {
            answer.add_answer(record(RData::TXT(TXT::new(vec!["x".repeat(250); 200]))));
        }
        b"wide" => {
            answer.add_answer(record(RData::TXT(TXT::new(vec!["x".repeat(250); 10]))));
        }
        b"forged" => {
            answer.add_answer(record(RData::A(A::new(203, 0, 113, 1))));
            let mut forged = answer.clone();
            forged.metadata.id ^= 1;
            forged.answers[0].data = RData::A(A::new(6, 6, 6, 6));
            return vec![forged.to_vec().unwrap(), b"noise".to_vec(), answer.to_vec().unwrap()];
        }
        _ if question.query_type() == RecordType::AAAA => {
            answer.add_answer(record(RData::AAAA(AAAA(Ipv6Addr::LOCALHOST))));
        }
        _ => {
            answer.add_answer(record(RData::A(A::new(203, 0, 113, 1))));
        }
    }
    vec![answer.to_vec().unwrap()]
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(0xbeef, MessageType::Query, OpCode::Query);
    message.add_query(Question::query(Name::from_ascii(name).unwrap(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    message.set_edns(edns);
    message.to_vec().unwrap()
}

fn ede(message: &Message) -> Option<u16> {
    let data: Vec<u8> = message.edns.as_ref()?.option(EdnsCode::from(15))?.try_into().ok()?;
    data.first_chunk().map(|code| u16::from_be_bytes(*code))
}

struct Bench {
    handle: DnsHandle,
    answers: mpsc::UnboundedReceiver<(u64, Vec<u8>)>,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    dir: tempfile::TempDir,
}

impl Bench {
    /// With a resolver that listens on 127.0.0.1.
    async fn new(conf: &str) -> Self {
        let resolver = fake(Ipv4Addr::LOCALHOST, 0).await.unwrap();
        Self::with(conf, resolver.port(), |config| config)
    }

    fn with(conf: &str, port: u16, change: impl Fn(DnsConfig) -> DnsConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let resolv_conf = dir.path().join("resolv.conf");
        fs::write(&resolv_conf, conf).unwrap();
        let hosts = dir.path().join("hosts");
        fs::write(&hosts, "127.0.0.1 localhost\n10.1.2.3 printer.lan\n").unwrap();
        let (tx, answers) = mpsc::unbounded_channel();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let saw = Arc::clone(&seen);
        let hooks = Hooks {
            answer: Box::new(move |client, answer| drop(tx.send((client, answer)))),
            seen: Some(Box::new(move |_, answer| saw.lock().unwrap().push(answer.to_vec()))),
            filter: Some(Box::new(|name: &str| name != "blocked.example")),
        };
        let config = change(DnsConfig { timeout: DEADLINE, ..DnsConfig::new(default_zones(GATEWAY, HOST, None), 1) });
        let settings = Settings { resolv_conf, hosts: Some(hosts), port: Some(port) };
        let (handle, service) = DnsService::new(config, settings, hooks, Clock::start()).unwrap();
        tokio::spawn(service.run());
        Self { handle, answers, seen, dir }
    }

    async fn ask(&mut self, name: &str, kind: RecordType) -> Message {
        assert!(self.handle.try_query(16, 7, Transport::Udp, query(name, kind)));
        let (client, answer) = timeout(DEADLINE, self.answers.recv()).await.unwrap().unwrap();
        let message = Message::from_vec(&answer).unwrap();
        assert_eq!((client, message.metadata.id), (7, 0xbeef));
        message
    }

    async fn code(&mut self, name: &str) -> (ResponseCode, Option<u16>) {
        let message = self.ask(name, RecordType::A).await;
        (message.metadata.response_code, ede(&message))
    }
}

const ONE: &str = "nameserver 127.0.0.1\noptions timeout:30 attempts:1\n";

#[tokio::test]
async fn what_resolvers_say_reaches_the_client() {
    let mut bench = Bench::new(ONE).await;
    let v6 = bench.ask("some.example.", RecordType::AAAA).await;
    assert_eq!(v6.answers[0].data, RData::AAAA(AAAA(Ipv6Addr::LOCALHOST)));
    assert_eq!(v6.answers[0].ttl, 300);
    assert_eq!(bench.code("missing.example.").await, (ResponseCode::NXDomain, None));
    assert_eq!(bench.code("broken.example.").await, (ResponseCode::ServFail, None));
    assert_eq!(bench.code("blocked.example.").await, (ResponseCode::Refused, Some(15)));
    let wide = bench.ask("wide.example.", RecordType::TXT).await;
    assert!(wide.metadata.truncation && wide.answers.is_empty(), "2500 bytes are too many");
    let big = bench.ask("big.example.", RecordType::TXT).await;
    assert!(big.metadata.truncation, "already cut by the resolver");
    assert_eq!(bench.seen.lock().unwrap().len(), 6);
}

#[tokio::test]
async fn only_the_answer_that_matches_counts() {
    let mut bench = Bench::new(ONE).await;
    let message = bench.ask("forged.example.", RecordType::A).await;
    assert_eq!(message.answers[0].data, RData::A(A::new(203, 0, 113, 1)));
}

#[tokio::test]
async fn the_hosts_table_and_the_zones_answer_before_any_resolver() {
    let mut bench = Bench::with("", 9, |config| config);
    let found = |message: &Message| message.answers.iter().map(|r| r.data.ip_addr().unwrap()).collect::<Vec<_>>();
    assert_eq!(found(&bench.ask("printer.LAN.", RecordType::A).await), [Ipv4Addr::new(10, 1, 2, 3)]);
    assert_eq!(found(&bench.ask("host.docker.internal.", RecordType::A).await), [HOST]);
    assert_eq!(found(&bench.ask("localhost.", RecordType::A).await), [Ipv4Addr::LOCALHOST]);
}

#[tokio::test]
async fn the_next_resolver_is_asked_when_one_is_not_there() {
    // Nobody listens on 127.0.0.2.
    let mut bench = Bench::new(&format!("nameserver 127.0.0.2\n{ONE}")).await;
    assert_eq!(bench.code("some.example.").await, (ResponseCode::NoError, None));
}

#[tokio::test]
async fn the_next_resolver_is_asked_when_one_cannot_say() {
    let fool = fake(Ipv4Addr::new(127, 0, 0, 3), 0).await.unwrap();
    fake(Ipv4Addr::LOCALHOST, fool.port()).await.unwrap();
    let conf = |first| format!("nameserver {first}\nnameserver 127.0.0.1\noptions timeout:30 attempts:1\n");
    // The first one says SERVFAIL of this name, the other one knows it.
    let mut bench = Bench::with(&conf("127.0.0.3"), fool.port(), |config| config);
    assert_eq!(bench.code("poor-at-3.example.").await, (ResponseCode::NoError, None));
    // Nobody knows this one: what the first one said is the last word.
    assert_eq!(bench.code("broken.example.").await, (ResponseCode::ServFail, None));
    // Over a stream too.
    let (mut client, server) = UnixStream::pair().unwrap();
    tokio::spawn(DnsHandle::serve_tcp(server, bench.handle.admit(16).unwrap()));
    client.write_all(&stream::framed(&query("poor-at-3.example.", RecordType::A))).await.unwrap();
    let len = timeout(DEADLINE, client.read_u16()).await.unwrap().unwrap();
    let mut bytes = vec![0; usize::from(len)];
    client.read_exact(&mut bytes).await.unwrap();
    assert_eq!(addresses(&bytes).len(), 1);
}

#[tokio::test]
async fn no_resolver_there_and_none_that_answers_are_told_apart() {
    let mut bench = Bench::new("nameserver 127.0.0.2\noptions attempts:2").await;
    assert_eq!(bench.code("some.example.").await, (ResponseCode::ServFail, Some(23)));
    let mut bench = Bench::new("nameserver 127.0.0.2\nnameserver 127.0.0.1\noptions attempts:1 timeout:1").await;
    assert_eq!(bench.code("silence.example.").await, (ResponseCode::ServFail, Some(22)));
    // The front's own limit comes first.
    let resolver = fake(Ipv4Addr::LOCALHOST, 0).await.unwrap();
    let hasty = |config| DnsConfig { timeout: Duration::from_millis(50), ..config };
    let mut bench = Bench::with(ONE, resolver.port(), hasty);
    assert_eq!(bench.code("silence.example.").await, (ResponseCode::ServFail, Some(22)));
    let counters = bench
        .handle
        .counters()
        .read()
        .filter(|(_, value)| *value > 0)
        .map(|(desc, value)| (desc.name, desc.labels.first().map_or("", |label| label.1), value));
    assert_eq!(
        counters.collect::<Vec<_>>(),
        [("nitrotap_dns_queries", "", 1), ("nitrotap_dns_outcomes", "timeout", 1)]
    );
}

#[tokio::test]
async fn a_slow_resolver_does_not_hold_up_other_queries() {
    let mut bench = Bench::new(ONE).await;
    for n in 0..100 {
        assert!(bench.handle.try_query(16, n, Transport::Udp, query("silence.example.", RecordType::A)));
    }
    assert_eq!(bench.code("some.example.").await, (ResponseCode::NoError, None));
}

#[tokio::test]
async fn a_stream_carries_many_queries_and_long_answers() {
    let bench = Bench::new(ONE).await;
    let (client, server) = UnixStream::pair().unwrap();
    let seat = bench.handle.admit(16).unwrap();
    let serving = tokio::spawn(DnsHandle::serve_tcp(server, seat));
    let (mut reader, mut writer) = client.into_split();
    let names = ["silence.example.", "some.example.", "big.example.", "host.docker.internal.", "missing.example."];
    let all: Vec<u8> = names.iter().flat_map(|name| stream::framed(&query(name, RecordType::A))).collect();
    // In pieces, none of which is a message.
    for piece in all.chunks(7) {
        writer.write_all(piece).await.unwrap();
    }
    let mut answered = BTreeMap::new();
    while answered.len() < 4 {
        let len = timeout(DEADLINE, reader.read_u16()).await.unwrap().unwrap();
        let mut bytes = vec![0; usize::from(len)];
        reader.read_exact(&mut bytes).await.unwrap();
        let message = Message::from_vec(&bytes).unwrap();
        assert!(!message.metadata.truncation);
        answered.insert(message.queries[0].name().to_ascii(), bytes.len());
    }
    assert!(!answered.contains_key("silence.example."));
    assert!(answered["big.example."] > 50_000);
    drop((reader, writer));
    timeout(DEADLINE, serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_has_sent_its_last_query_still_gets_the_answer() {
    let bench = Bench::new(ONE).await;
    let (mut client, server) = UnixStream::pair().unwrap();
    client.write_all(&stream::framed(&query("some.example.", RecordType::A))).await.unwrap();
    client.shutdown().await.unwrap();
    DnsHandle::serve_tcp(server, bench.handle.admit(16).unwrap()).await;
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(addresses(&bytes[2..]).len(), 1);
    assert_eq!(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])), bytes.len() - 2);
}

#[tokio::test]
async fn what_waits_is_bounded_for_each_tenant() {
    // Nobody runs the service here: what is left to it stays.
    let (commands, _) = mpsc::channel(1);
    let front = Front::new(Clock::start());
    let handle = DnsHandle { front, commands, counters: Arc::new(Shared::default()) };
    for _ in 0..INTAKE.waiting {
        assert!(handle.try_query(16, 1, Transport::Udp, vec![]));
    }
    assert!(!handle.try_query(16, 1, Transport::Udp, vec![]));
    assert!(handle.try_query(17, 1, Transport::Udp, vec![]), "another tenant has its own share");
    assert!(!handle.try_query(17, 1, Transport::Udp, vec![0; QUERY_MAX + 1]), "no query is that long");
}

#[tokio::test]
async fn a_tenant_with_too_many_streams_loses_its_own_oldest_one() {
    let bench = Bench::new(ONE).await;
    let other = bench.handle.admit(17).unwrap();
    let (mut client, server) = UnixStream::pair().unwrap();
    let serving = tokio::spawn(DnsHandle::serve_tcp(server, bench.handle.admit(16).unwrap()));
    let seats: Vec<_> = (0..STREAM_LIMITS.per_tenant).map(|_| bench.handle.admit(16).unwrap()).collect();
    // It ends at once, and not when it has been idle for long.
    assert_eq!(timeout(DEADLINE, client.read(&mut [0])).await.unwrap().unwrap(), 0);
    serving.await.unwrap();
    assert!(timeout(Duration::ZERO, other.end.notified()).await.is_err(), "nobody else pays");
    drop(seats);
    assert_eq!(bench.handle.front.figures(), (0, 1, 1));
}

#[tokio::test]
async fn streams_full_of_questions_do_not_hold_up_another_tenant() {
    let mut bench = Bench::new(ONE).await;
    let mut clients = Vec::new();
    for _ in 0..STREAM_LIMITS.per_tenant {
        let (client, server) = UnixStream::pair().unwrap();
        tokio::spawn(DnsHandle::serve_tcp(server, bench.handle.admit(16).unwrap()));
        // Without an end, and nobody takes the answers.
        let question = stream::framed(&query("host.docker.internal.", RecordType::A)).repeat(1000);
        let (reader, mut writer) = client.into_split();
        clients.push(reader);
        tokio::spawn(async move { writer.write_all(&question).await });
    }
    assert!(bench.handle.try_query(17, 7, Transport::Udp, query("gateway.docker.internal.", RecordType::A)));
    let (client, answer) = timeout(DEADLINE, bench.answers.recv()).await.unwrap().unwrap();
    assert_eq!((client, addresses(&answer).len()), (7, 1));
    // Nor are more of them read than are answered.
    assert!(bench.handle.front.queries().len() <= PIPELINE_TENANT);
}

#[tokio::test]
async fn zones_are_added_while_it_runs() {
    let mut bench = Bench::new(ONE).await;
    assert_eq!(bench.code("missing.added.test.").await, (ResponseCode::NXDomain, None));
    let records = vec![Record { name: "missing".to_owned(), ip: GATEWAY.into(), regexp: None }];
    let zone = Zone { name: "added.test.".to_owned(), records, default_ip: None };
    bench.handle.add_zone(zone.clone()).await.unwrap().unwrap();
    assert_eq!(bench.code("missing.added.test.").await, (ResponseCode::NoError, None));
    assert_eq!(bench.handle.zones().await.unwrap()[2], zone);
    let bad = Zone { name: "a..b".to_owned(), ..zone };
    assert!(matches!(bench.handle.add_zone(bad).await.unwrap(), Err(ZoneError::Name(_))));
}

#[tokio::test]
async fn another_resolv_conf_is_noticed() {
    // Nobody listens on 127.0.0.2.
    let mut bench = Bench::new("nameserver 127.0.0.2\noptions attempts:1\n").await;
    assert_eq!(bench.code("some.example.").await, (ResponseCode::ServFail, Some(23)));
    fs::write(bench.dir.path().join("resolv.conf"), ONE).unwrap();
    let noticed = async { while bench.code("some.example.").await.0 != ResponseCode::NoError {} };
    timeout(DEADLINE, noticed).await.unwrap();
}

#[tokio::test]
async fn without_a_resolver_in_the_file_this_host_is_asked() {
    let mut bench = Bench::new("options attempts:1\n").await;
    assert_eq!(bench.code("some.example.").await, (ResponseCode::NoError, None));
}

#[tokio::test]
async fn a_service_that_has_ended_is_told() {
    let hooks = Hooks { answer: Box::new(|_, _| {}), seen: None, filter: None };
    let settings = Settings { resolv_conf: "/dev/null".into(), hosts: None, port: None };
    let (handle, service) = DnsService::new(DnsConfig::new(vec![], 1), settings, hooks, Clock::start()).unwrap();
    drop(service);
    assert!(handle.zones().await.is_err());
    assert!(!handle.try_query(16, 1, Transport::Udp, vec![]));
}
