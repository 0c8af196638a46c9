//! `nitrotap proxy` from outside: what it passes on, what it keeps, what it answers itself, and how it ends.

use nitrotap_tests::{
    Finished, Metrics, Process, Scratch, binaries,
    enclave::serve_outside,
    guest::{
        http_client::Client,
        http_server::BODY_SEED,
        payload::{Digest, Payload},
    },
    http::{self, Message},
    wait::{self, LATER, SOON},
};
use rustix::process::Signal;
use std::{
    io::{BufRead as _, Read as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::Command,
};

/// A proxy in front of the guest's HTTP server, all on the loopback.
struct World {
    proxy: Process,
    app: Process,
    app_address: SocketAddr,
    address: SocketAddr,
    metrics: SocketAddr,
    scratch: Scratch,
}

impl World {
    fn new(args: &[&str]) -> Self {
        let scratch = Scratch::new();
        let (app, port) = serve_outside(&["http-server", "127.0.0.1:0"], &scratch);
        let app_address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (proxy, address, metrics) = start(&format!("http://{app_address}"), args, &scratch);
        Self { proxy, app, app_address, address, metrics, scratch }
    }

    fn client(&self) -> Client {
        Client::connect(self.address).expect("the proxy listens")
    }

    fn get(&self, path: &str) -> Message {
        self.client().ask(&get(path)).expect("an answer")
    }

    /// A count that the app keeps, asked for past the proxy.
    fn served(&self, name: &str) -> u64 {
        let text =
            Client::connect(self.app_address).and_then(|mut app| app.ask(&get("/served"))).expect("it runs").text();
        let value = text.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).expect("a count")
    }

    fn metrics(&self) -> Metrics {
        Metrics::parse(&Client::connect(self.metrics).and_then(|mut c| c.ask(&get("/metrics"))).expect("served").text())
    }

    fn stop(mut self) -> Finished {
        self.proxy.signal(Signal::TERM);
        self.proxy.finish(SOON)
    }
}

/// Starts a proxy on ports that are free now; tries again if somebody takes them in between.
fn start(upstream: &str, args: &[&str], scratch: &Scratch) -> (Process, SocketAddr, SocketAddr) {
    wait::until("a proxy on free ports", LATER, || {
        let free =
            || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("ports are left");
        let (address, metrics) = (free(), free());
        let mut command = Command::new(binaries::nitrotap());
        command.args(["proxy", "--upstream", upstream, "--listen", &address.to_string()]);
        command.args(["--metrics", &metrics.to_string()]).args(args);
        let mut proxy = Process::start("proxy", command, scratch);
        let both_listen = || Client::connect(address).and_then(|_| Client::connect(metrics)).is_ok();
        wait::until("the proxy to listen or end", SOON, || (both_listen() || !proxy.is_running()).then_some(()));
        proxy.is_running().then_some((proxy, address, metrics))
    })
}

fn get(path: &str) -> Message {
    Message::request("GET", path, "example.test")
}

#[test]
fn a_request_arrives_as_it_was_sent_and_says_who_sent_it() {
    let world = World::new(&[]);
    let request = Message::request("PUT", "/a/b%20c?d=e&f", "example.test:8443")
        .with("X-Custom", "some value")
        .with("Cookie", "a=b; c=d")
        .body("the body");
    let seen = world.client().ask(&request).unwrap().text();
    assert!(seen.starts_with("PUT /a/b%20c?d=e&f HTTP/1.1\n"), "{seen}");
    let header = |name: &str, value: &str| {
        let line = format!("{name}: {value}").to_lowercase();
        assert!(seen.to_lowercase().lines().any(|seen| seen == line), "{line} is not in:\n{seen}");
    };
    header("X-Custom", "some value");
    header("Cookie", "a=b; c=d");
    header("X-Forwarded-For", "127.0.0.1");
    header("X-Forwarded-Proto", "http");
    header("X-Forwarded-Host", "example.test:8443");
    let mut body = Digest::default();
    body.update(b"the body");
    assert!(seen.ends_with(&format!("body {body}\n")), "{seen}");
}

/// Version 2 of the PROXY protocol, for 192.0.2.7:49152 to 10.0.0.1:443, with a TLV as AWS's load balancers send it.
const CLAIM: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x13\xc0\x00\x02\x07\x0a\x00\x00\x01\xc0\x00\x01\xbb\xea\x00\x04\x01vpc";

#[test]
fn behind_a_proxy_that_says_so_the_app_sees_the_client_itself() {
    let world = World::new(&["--accept-proxy-protocol"]);
    let mut client = world.client();
    std::io::Write::write_all(client.reader().get_mut(), CLAIM).unwrap();
    // The header is the connection's, and not of its first request only.
    for _ in 0..2 {
        let seen = client.ask(&get("/")).unwrap().text().to_lowercase();
        assert!(seen.contains("\nx-forwarded-for: 192.0.2.7\n"), "{seen}");
    }
    let requests = world.served("requests");
    for instead in
        ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "PROXY TCP4 192.0.2.7 10.0.0.1 49152 443\r\nGET / HTTP/1.1\r\n"]
    {
        let mut client = world.client();
        std::io::Write::write_all(client.reader().get_mut(), instead.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // Closed without a word; a reset is as good an end as any.
        let _ = client.reader().read_to_end(&mut answer);
        assert_eq!(String::from_utf8_lossy(&answer), "");
    }
    assert_eq!(world.served("requests"), requests + 1, "only our own question came");
    // Published a few times per second.
    wait::until("the metrics to follow", SOON, || {
        let refused = world.metrics().get("nitrotap_proxy_protocol_refused_total{cause=\"not_a_header\"}");
        (refused == 2).then_some(())
    });
    assert_eq!(world.metrics().get("nitrotap_proxy_protocol_accepted_total"), 1);
}

#[test]
fn what_concerns_one_hop_only_is_not_passed_on() {
    let world = World::new(&[]);
    let request = get("/")
        .with("Connection", "keep-alive, X-Secret")
        .with("X-Secret", "1")
        .with("Keep-Alive", "timeout=5")
        .with("Proxy-Connection", "keep-alive")
        .with("TE", "gzip")
        .with("Upgrade", "websocket")
        .with("X-Kept", "1");
    let seen = world.client().ask(&request).unwrap().text().to_lowercase();
    for name in ["x-secret", "keep-alive", "proxy-connection", "te", "upgrade"] {
        assert!(!seen.lines().any(|line| line.starts_with(&format!("{name}:"))), "{name} was passed on:\n{seen}");
    }
    assert!(seen.contains("x-kept: 1"), "{seen}");
}

#[test]
fn bodies_of_every_kind_pass_unchanged() {
    let world = World::new(&[]);
    let mut client = world.client();
    for n in [0_usize, 1, 1000, 65_536, 3_000_000] {
        let expected = Payload::bytes(BODY_SEED, n);
        for path in [format!("/bytes/{n}"), format!("/chunked/{n}")] {
            let response = client.ask(&get(&path)).unwrap();
            assert_eq!(response.status().unwrap(), 200);
            assert!(response.body == expected, "{path}");
        }
        let echo = Message::request("POST", "/echo", "example.test").body(expected.clone());
        assert!(client.ask(&echo).unwrap().body == expected, "{n} bytes echoed");
    }
    for code in [204, 304, 404, 500, 503] {
        assert_eq!(client.ask(&get(&format!("/status/{code}"))).unwrap().status().unwrap(), code);
    }
}

#[test]
fn connections_are_kept_on_both_sides() {
    let world = World::new(&["--workers", "1"]);
    let before = world.served("accepted");
    let mut client = world.client();
    for _ in 0..100 {
        assert_eq!(client.ask(&get("/status/200")).unwrap().status().unwrap(), 200);
    }
    // Our own question for the count is one connection more.
    let connections = world.served("accepted") - before - 1;
    assert!(connections <= 2, "{connections} upstream connections for 100 requests in a row");
}

#[test]
fn two_hundred_clients_at_once_all_get_their_answers() {
    let world = World::new(&[]);
    let mut clients: Vec<_> = (0..200).map(|_| world.client()).collect();
    std::thread::scope(|scope| {
        for (i, client) in clients.iter_mut().enumerate() {
            scope.spawn(move || {
                for _ in 0..5 {
                    let response = client.ask(&get(&format!("/bytes/{}", 1000 + i))).unwrap();
                    assert!(response.body == Payload::bytes(BODY_SEED, 1000 + i));
                }
            });
        }
    });
    let active = || world.metrics().get("nitrotap_pool_connections{state=\"active\"}");
    wait::until("every upstream connection to be given back", SOON, || (active() == 0).then_some(()));
}

#[test]
fn every_client_beyond_the_limit_is_told_so_whether_it_asks_or_listens_first() {
    let world = World::new(&["--workers", "1", "--max-clients", "1"]);
    let mut first = world.client();
    // The probes of the harness may still be there for a moment.
    wait::until("a place", SOON, || {
        first = world.client();
        first.ask(&get("/")).ok().filter(|answer| answer.status().unwrap() == 200).map(drop)
    });
    for request in
        ["", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123"]
    {
        for _ in 0..20 {
            let mut surplus = world.client();
            std::io::Write::write_all(surplus.reader().get_mut(), request.as_bytes()).unwrap();
            let mut answer = String::new();
            surplus.reader().read_to_string(&mut answer).expect("the end of the connection, not a reset");
            assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: "), "{answer}");
        }
    }
    assert_eq!(first.ask(&get("/")).unwrap().status().unwrap(), 200);
}

#[test]
fn an_app_that_restarts_costs_its_clients_a_wait_and_no_answer() {
    let mut world = World::new(&[]);
    assert_eq!(world.get("/").status().unwrap(), 200);
    world.app.kill();
    let upstream = world.app_address.to_string();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| world.get("/").status().unwrap());
        let mut again = Command::new(binaries::guest());
        again.args(["http-server", &upstream]);
        let mut app = Process::start("app", again, &world.scratch);
        app.expect_line("listening on ", SOON);
        assert_eq!(waiting.join().unwrap(), 200);
    });
}

#[test]
fn an_upstream_that_is_down_is_answered_502_until_it_is_back() {
    let mut world = World::new(&[]);
    assert_eq!(world.get("/").status().unwrap(), 200);
    world.app.kill();
    let answer = world.get("/");
    assert_eq!(answer.status().unwrap(), 502, "{}", answer.text());
    assert!(!answer.body.is_empty(), "it says why");
    let upstream = world.app_address.to_string();
    world.proxy.expect_stderr(&upstream, SOON);

    let mut again = Command::new(binaries::guest());
    again.args(["http-server", &upstream]);
    world.app = Process::start("app", again, &world.scratch);
    world.app.expect_line("listening on ", SOON);
    wait::until("the upstream to be found again", SOON, || (world.get("/").status().unwrap() == 200).then_some(()));
}

#[test]
fn an_upstream_that_hangs_up_without_an_answer_is_a_502_and_the_client_goes_on() {
    let world = World::new(&[]);
    let mut client = world.client();
    for _ in 0..3 {
        assert_eq!(client.ask(&get("/abort")).unwrap().status().unwrap(), 502);
        assert_eq!(client.ask(&get("/status/200")).unwrap().status().unwrap(), 200);
    }
}

#[test]
fn an_upstream_that_never_answers_is_a_504() {
    let world = World::new(&["--response-timeout", "1"]);
    let answer = world.get("/hang");
    assert_eq!(answer.status().unwrap(), 504, "{}", answer.text());
    assert!(!answer.body.is_empty());
}

#[test]
fn a_client_that_goes_takes_its_request_with_it() {
    let world = World::new(&[]);
    let mut client = world.client();
    client.send(&get("/hang")).unwrap();
    wait::until("the request to arrive", SOON, || (world.served("requests") >= 2).then_some(()));
    drop(client);
    wait::until("the upstream to see it go", SOON, || (world.served("gone") == 1).then_some(()));
}

#[test]
fn a_response_is_passed_on_as_it_comes_and_not_at_its_end() {
    let world = World::new(&[]);
    let mut client = world.client();
    // It would take ten minutes to its end.
    client.send(&get("/slow/6000/100")).unwrap();
    http::read_head(client.reader()).unwrap().expect("a head");
    let mut line = String::new();
    while !line.contains("line 2") {
        assert_ne!(client.reader().read_line(&mut line).unwrap(), 0, "it ended with {line:?}");
    }
}

#[test]
fn a_request_in_progress_is_finished_after_a_termination() {
    let mut world = World::new(&[]);
    let mut client = world.client();
    client.send(&get("/slow/20/50")).unwrap();
    let head = http::read_head(client.reader()).unwrap().expect("a head");
    world.proxy.signal(Signal::TERM);
    let address = world.address;
    wait::until("new connections to be refused", SOON, || Client::connect(address).is_err().then_some(()));
    let mut rest = Vec::new();
    client.reader().read_to_end(&mut rest).unwrap();
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.contains("line 19"), "{}\n{rest}", head.head());
    assert_eq!(world.proxy.finish(SOON).code(), Some(0));
}

#[test]
fn a_termination_without_requests_ends_it_at_once_with_success() {
    let world = World::new(&[]);
    let mut idle = world.client();
    assert_eq!(idle.ask(&get("/")).unwrap().status().unwrap(), 200);
    let finished = world.stop();
    assert_eq!(finished.code(), Some(0), "{}", finished.stderr);
    // It did not wait for the idle client until the end of its patience.
    assert!(!finished.stderr.contains("cut short"), "{}", finished.stderr);
}

#[test]
fn what_is_no_http_is_refused_and_the_rest_goes_on() {
    let world = World::new(&[]);
    for rubbish in
        ["\x16\x03\x01\x02\x00\x01", "GET\r\n\r\n", "GET / HTTP/9.9\r\nHost: x\r\n\r\n", "\r\n\r\n\0\0\0\r\n\r\n"]
    {
        let mut client = world.client();
        std::io::Write::write_all(client.reader().get_mut(), rubbish.as_bytes()).unwrap();
        client.reader().get_mut().shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // Refused with a status or a closed connection, soon.
        let _ = client.reader().read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            answer.is_empty()
                || answer.starts_with("HTTP/1.1 4")
                || answer.starts_with("HTTP/1.0 4")
                || answer.starts_with("HTTP/1.1 505"),
            "{answer}"
        );
    }
    assert_eq!(world.get("/").status().unwrap(), 200);
    assert_eq!(world.served("requests"), 2);
}

#[test]
fn the_metrics_tell_of_the_pool() {
    let world = World::new(&["--workers", "1"]);
    let mut client = world.client();
    for _ in 0..10 {
        assert_eq!(client.ask(&get("/status/200")).unwrap().status().unwrap(), 200);
    }
    // Published a few times per second.
    wait::until("the metrics to follow", SOON, || {
        (world.metrics().get("nitrotap_pool_requests_total") == 10).then_some(())
    });
    let metrics = world.metrics();
    let dials = metrics.get("nitrotap_pool_dials_total");
    assert!((1..=2).contains(&dials), "{dials} dials");
    assert_eq!(metrics.get("nitrotap_pool_reuses_total"), 10 - 1);
    assert_eq!(metrics.get("nitrotap_pool_connections{state=\"active\"}"), 0);
    assert!(metrics.get("nitrotap_pool_connections{state=\"idle\"}") >= 1);
    assert_eq!(metrics.get("nitrotap_proxy_retries_total"), 0);
}
