//! From the world into the enclave, through the ports that the real gvproxy and our own gateway expose.

#![expect(clippy::unwrap_used, reason = "tests, though the attribute that says so is in a table")]

use nitrotap_tests::{
    Enclave, Scratch,
    enclave::{Options, run_outside, start_outside},
    for_every_pair,
    gateway::{ENCLAVE, GATEWAY, pair::Pair},
    guest::{
        http_client::Client,
        http_server::BODY_SEED,
        payload::{Digest, Payload},
    },
    http::{self, Message},
    require,
    wait::{LATER, SOON},
};
use rustix::process::Signal;

for_every_pair! {
    an_app_in_the_enclave_answers_http_from_outside,
    an_app_behind_the_reverse_proxy_answers_http_from_outside,
    two_hundred_clients_of_the_reverse_proxy_all_get_their_answers,
    a_request_in_progress_is_finished_before_the_app_is_told_to_end,
    a_hundred_megabytes_leave_an_app_through_an_exposed_port_unchanged,
    a_hundred_megabytes_reach_an_app_through_an_exposed_port_unchanged,
    two_hundred_connections_from_outside_stand_at_the_same_time,
    datagrams_of_every_size_to_the_mtu_come_back_from_the_enclave,
    a_port_that_is_no_longer_exposed_lets_standing_connections_go_on,
    a_half_closed_connection_is_cut_by_old_gvproxy_and_by_nothing_of_ours,
    a_half_closed_connection_to_the_world_is_cut_by_old_gvproxy,
}

const MEGABYTE: u64 = 1_000_000;
const DATAGRAM: usize = 1500 - 28;

fn an_app_in_the_enclave_answers_http_from_outside(pair: Pair) {
    let gateway = require!(pair.gateway());
    let enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let scratch = Scratch::new();
    let _server = enclave.serve(&["http-server", "0.0.0.0:8080"]);
    let local = gateway.expose_tcp(8080);

    let page = run_outside(&["http-get", &format!("http://{local}/some/page?x=1"), "X-Test: yes"], &scratch);
    let page = page.expect_success().stdout;
    assert!(page.starts_with("GET /some/page?x=1 HTTP/1.1\n"), "{page}");
    assert!(page.contains("X-Test: yes\n"), "{page}");
}

/// An enclave whose reverse proxy on port 80 stands in front of an HTTP app on its loopback.
fn with_reverse_proxy(pair: Pair) -> Options {
    pair.client().args(&["--listen", "0.0.0.0:80", "--upstream", "http://127.0.0.1:8080"])
}

fn an_app_behind_the_reverse_proxy_answers_http_from_outside(pair: Pair) {
    let gateway = require!(pair.gateway());
    let app = with_reverse_proxy(pair).guest_app(&["http-server", "127.0.0.1:8080"]);
    let mut enclave = require!(Enclave::linked(app, &gateway.url()));
    enclave.process.expect_line("listening on ", SOON);
    let local = gateway.expose_tcp(80);

    let mut client = Client::connect(local).unwrap();
    let page = client.ask(&Message::request("GET", "/page", "example.test")).unwrap().text();
    assert!(page.starts_with("GET /page HTTP/1.1\n"), "{page}");
    // The gateway hides who the client is: it comes from the gateway.
    assert!(page.to_lowercase().contains(&format!("x-forwarded-for: {GATEWAY}\n")), "{page}");
    let large = client.ask(&Message::request("GET", "/chunked/5000000", "example.test")).unwrap().body;
    assert!(large == Payload::bytes(BODY_SEED, 5_000_000));
    let echo = client.ask(&Message::request("POST", "/echo", "example.test").body(large.clone())).unwrap().body;
    assert!(echo == large);
    assert_eq!(enclave.metrics().losses(), 0);
}

fn two_hundred_clients_of_the_reverse_proxy_all_get_their_answers(pair: Pair) {
    let gateway = require!(pair.gateway());
    let app = with_reverse_proxy(pair).guest_app(&["http-server", "127.0.0.1:8080"]);
    let mut enclave = require!(Enclave::linked(app, &gateway.url()));
    enclave.process.expect_line("listening on ", SOON);
    let local = gateway.expose_tcp(80);
    let clients: Vec<_> = (0..200).map(|_| Client::connect(local).unwrap()).collect();
    std::thread::scope(|scope| {
        for (i, mut client) in clients.into_iter().enumerate() {
            scope.spawn(move || {
                let request = Message::request("GET", &format!("/bytes/{}", 2000 + i), "example.test");
                for _ in 0..3 {
                    assert!(client.ask(&request).unwrap().body == Payload::bytes(BODY_SEED, 2000 + i));
                }
            });
        }
    });
}

fn a_request_in_progress_is_finished_before_the_app_is_told_to_end(pair: Pair) {
    let gateway = require!(pair.gateway());
    let app = with_reverse_proxy(pair).guest_app(&["http-server", "127.0.0.1:8080"]);
    let mut enclave = require!(Enclave::linked(app, &gateway.url()));
    enclave.process.expect_line("listening on ", SOON);
    let mut client = Client::connect(gateway.expose_tcp(80)).unwrap();
    client.send(&Message::request("GET", "/slow/20/50", "example.test")).unwrap();
    http::read_head(client.reader()).unwrap().expect("a head");
    enclave.process.signal(Signal::TERM);
    let mut rest = String::new();
    std::io::Read::read_to_string(client.reader(), &mut rest).unwrap();
    assert!(rest.contains("line 19\n"), "{rest}");
    // The app was then told, and ended by that.
    assert_eq!(enclave.process.finish(SOON).code(), Some(128 + 15));
}

fn a_hundred_megabytes_leave_an_app_through_an_exposed_port_unchanged(pair: Pair) {
    let gateway = require!(pair.gateway());
    let enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let scratch = Scratch::new();
    let bytes = (100 * MEGABYTE).to_string();
    let _source = enclave.serve(&["tcp-source", "0.0.0.0:7000", &bytes, "21"]);
    let local = gateway.expose_tcp(7000).to_string();

    let received = run_outside(&["tcp-recv", &local], &scratch).expect_success();
    assert_eq!(received.stdout.trim(), format!("received {}", Digest::of(21, 100 * MEGABYTE)));
    assert_eq!(enclave.metrics().losses(), 0);
}

fn a_hundred_megabytes_reach_an_app_through_an_exposed_port_unchanged(pair: Pair) {
    let gateway = require!(pair.gateway());
    let enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let scratch = Scratch::new();
    let mut sink = enclave.serve(&["tcp-sink", "0.0.0.0:7000"]);
    let local = gateway.expose_tcp(7000).to_string();

    let bytes = (100 * MEGABYTE).to_string();
    run_outside(&["tcp-send", &local, &bytes, "22"], &scratch).expect_success();
    assert_eq!(sink.expect_line("received ", LATER), Digest::of(22, 100 * MEGABYTE).to_string());
    assert_eq!(enclave.metrics().losses(), 0);
}

fn two_hundred_connections_from_outside_stand_at_the_same_time(pair: Pair) {
    let gateway = require!(pair.gateway());
    let enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let scratch = Scratch::new();
    let mut app = vec!["tcp-echo", "0.0.0.0:7000"];
    if pair.has_stock_host() {
        // A full backlog drops the first segment of a connection and resets what comes behind it, which gvproxy sends and
        // our host does not: with gvproxy no app that has less room than clients is safe.
        app.push("1024");
    }
    let _echo = enclave.serve(&app);
    let local = gateway.expose_tcp(7000).to_string();

    let before = enclave.metrics();
    let done = run_outside(&["tcp-exchange", &local, "200", "20000", "23"], &scratch).expect_success();
    assert_eq!(done.number("good"), 200);
    assert_eq!(enclave.metrics().all_drops(), before.all_drops());
}

fn datagrams_of_every_size_to_the_mtu_come_back_from_the_enclave(pair: Pair) {
    let gateway = require!(pair.gateway());
    let enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let scratch = Scratch::new();
    let _echo = enclave.serve(&["udp-echo", "0.0.0.0:7000"]);
    let local = gateway.expose_udp(7000).to_string();
    let empty = gateway.carries_empty_datagrams().then_some(0);
    for size in empty.into_iter().chain([1, 2, 17, 18, DATAGRAM - 1, DATAGRAM]) {
        let pings = run_outside(&["udp-ping", &local, &size.to_string(), "5"], &scratch).expect_success();
        assert_eq!(pings.number("echoed"), 5, "{size} bytes");
    }
}

fn a_port_that_is_no_longer_exposed_lets_standing_connections_go_on(pair: Pair) {
    let gateway = require!(pair.gateway());
    let enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let scratch = Scratch::new();
    let _source = enclave.serve(&["tcp-source", "0.0.0.0:7000", &(50 * MEGABYTE).to_string(), "24"]);
    let local = gateway.expose_tcp(7000);
    let before = enclave.metrics().bytes("tx");
    let mut receiver = start_outside(&["tcp-recv", &local.to_string()], &scratch);
    nitrotap_tests::wait::until("the transfer to begin", LATER, || {
        (enclave.metrics().bytes("tx") > before + MEGABYTE).then_some(())
    });
    gateway.unexpose("tcp", local);
    let received = receiver.finish(LATER).expect_success();
    assert_eq!(received.stdout.trim(), format!("received {}", Digest::of(24, 50 * MEGABYTE)));
    assert_eq!(run_outside(&["tcp-recv", &local.to_string()], &scratch).code(), Some(1));
}

fn a_half_closed_connection_is_cut_by_old_gvproxy_and_by_nothing_of_ours(pair: Pair) {
    const REPLY: u64 = MEGABYTE;
    let gateway = require!(pair.gateway());
    let enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let scratch = Scratch::new();
    let mut server = enclave.serve(&["half-close-server", "0.0.0.0:7000", &REPLY.to_string()]);

    // The same app, the same exchange, without the peer in between: whole.
    let direct = enclave.guest(&["half-close", &format!("{ENCLAVE}:7000"), "1000", "25"]).expect_success();
    assert_eq!(direct.value("end"), "closed");
    assert_eq!(direct.number("bytes"), REPLY);

    let local = gateway.expose_tcp(7000).to_string();
    let through = run_outside(&["half-close", &local, "1000", "25"], &scratch).expect_success();
    // What the client sent before its end arrives in either case.
    assert_eq!(server.expect_line("received ", LATER), Digest::of(25, 1000).to_string());
    if gateway.keeps_half_closed_connections() {
        assert_eq!(through.number("bytes"), REPLY);
    } else {
        assert!(through.number("bytes") < REPLY, "{}", through.stdout);
    }
}

fn a_half_closed_connection_to_the_world_is_cut_by_old_gvproxy(pair: Pair) {
    const REPLY: u64 = MEGABYTE;
    let gateway = require!(pair.gateway());
    let enclave = require!(Enclave::linked(pair.client(), &gateway.url()));
    let scratch = Scratch::new();
    let args = ["half-close-server", "127.0.0.1:0", &REPLY.to_string()];
    let (mut server, port) = nitrotap_tests::enclave::serve_outside(&args, &scratch);

    let address = format!("{}:{port}", nitrotap_tests::gateway::HOST);
    let through = enclave.guest(&["half-close", &address, "1000", "26"]).expect_success();
    assert_eq!(server.expect_line("received ", LATER), Digest::of(26, 1000).to_string());
    if gateway.keeps_half_closed_connections() {
        assert_eq!(through.number("bytes"), REPLY);
    } else {
        assert!(through.number("bytes") < REPLY, "{}", through.stdout);
    }
}
