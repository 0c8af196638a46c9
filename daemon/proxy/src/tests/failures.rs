//! What clients and operators see when the upstream fails.

use super::world::{Dials, End, field, run, with_limits};
use crate::Config;
use nitrotap_core::pool::Limits;
use std::time::Duration;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// The next answer must have `status`, say so in plain text, and keep the upstream's address to itself.
async fn refused(client: &mut End, status: &str) {
    let (head, body) = client.message().await;
    assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
    assert!(body.starts_with(status) && body.ends_with('\n'), "{body}");
    assert_eq!(field(&head, "content-type"), Some("text/plain; charset=utf-8"));
    assert!(!body.contains("127.0.0.1") && !head.contains("127.0.0.1"));
}

#[test]
fn an_upstream_that_refuses_is_a_502_and_a_log_line_that_names_it() {
    run(Config::default(), async |w| {
        w.dials(Dials::Refuse);
        let mut client = w.client();
        client.send(GET).await;
        refused(&mut client, "502 Bad Gateway").await;
        assert!((2.0..2.3).contains(&w.seconds()), "{}", w.seconds());
        let log = w.log();
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.contains("WARN") && log.contains("http://127.0.0.1:3000") && log.contains("refused"), "{log}");
        w.dials(Dials::Succeed);
        client.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        up.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 200"), "the same client connection goes on");
        assert_eq!((w.proxy().unreachable, w.log().lines().count()), (1, 1));
        assert!((2..20).contains(&w.pool().dial_refused), "{}", w.pool().dial_refused);
    });
}

#[test]
fn requests_wait_for_an_app_that_restarts_and_each_reaches_it_once() {
    run(Config::default(), async |w| {
        w.dials(Dials::Refuse);
        let mut clients: Vec<End> = (0..20).map(|_| w.client()).collect();
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(&format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")).await;
        }
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(w.pool().dial_refused < 40, "{} dials by {} requests", w.pool().dial_refused, clients.len());
        w.dials(Dials::Succeed);
        let mut seen = Vec::new();
        for _ in 0..clients.len() {
            let mut up = w.accept().await;
            seen.push(up.head().await.split(' ').nth(1).unwrap().to_owned());
            up.expect("x").await;
            up.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        }
        for client in &mut clients {
            assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        }
        seen.sort_by_key(|path| path[1..].parse::<usize>().unwrap());
        assert_eq!(seen, (0..20).map(|n| format!("/{n}")).collect::<Vec<_>>());
        assert!((1.5..1.8).contains(&w.seconds()) && w.proxy().unreachable == 0, "{}", w.seconds());
    });
}

#[test]
fn an_upstream_that_never_accepts_is_a_504_after_the_dial_timeout() {
    run(Config::default(), async |w| {
        w.dials(Dials::Hang);
        let mut client = w.client();
        client.send(GET).await;
        refused(&mut client, "504 Gateway Timeout").await;
        assert!((5.0..5.1).contains(&w.seconds()), "{}", w.seconds());
        assert_eq!((w.pool().dial_timeout, w.pool().dialing), (1, 0));
    });
}

#[test]
fn an_upstream_that_never_answers_is_a_504_and_its_connection_is_closed() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        refused(&mut client, "504 Gateway Timeout").await;
        assert!((60.0..60.1).contains(&w.seconds()), "{}", w.seconds());
        assert_eq!(up.rest().await, "");
        assert_eq!((w.proxy().late, w.pool().close_head_timeout, w.pool().active), (1, 1, 0));
        assert!(w.log().contains("no response head in time"));
    });
}

#[test]
fn an_upload_that_moves_is_not_timed_out_and_one_that_stops_is_a_408() {
    let patient = Config { request_buffer: 0, body_timeout: Duration::from_secs(600), ..Config::default() };
    run(patient, async |w| {
        let mut client = w.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n").await;
        let mut up = w.accept().await;
        up.head().await;
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(40)).await;
            client.send("x").await;
            up.expect("x").await;
        }
        refused(&mut client, "408 Request Timeout").await;
        assert!((220.0..221.0).contains(&w.seconds()), "{}", w.seconds());
        assert_eq!((w.proxy().body_timeout, w.log().as_str()), (1, ""), "a client's fault is not logged as a warning");
    });
}

#[test]
fn an_upstream_that_closes_without_an_answer_is_a_502() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        drop(up);
        refused(&mut client, "502 Bad Gateway").await;
        assert_eq!((w.proxy().broken, w.proxy().retries), (1, 0));
    });
}

#[test]
fn an_upstream_that_does_not_speak_http_is_a_502() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        up.send("SSH-2.0-OpenSSH\r\n\r\n").await;
        refused(&mut client, "502 Bad Gateway").await;
    });
}

#[test]
fn a_101_that_nobody_asked_for_is_a_502() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        up.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await;
        refused(&mut client, "502 Bad Gateway").await;
        assert_eq!((w.pool().active, w.proxy().tunnels), (0, 0));
    });
}

#[test]
fn a_response_broken_off_in_the_middle_ends_the_clients_connection() {
    run(Config::default(), async |w| {
        for framing in ["Content-Length: 100\r\n\r\npart", "Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"] {
            let mut client = w.client();
            client.send(GET).await;
            let mut up = w.accept().await;
            up.head().await;
            up.send(&format!("HTTP/1.1 200 OK\r\n{framing}")).await;
            drop(up);
            let rest = client.rest().await;
            assert!(rest.contains("part") && !rest.contains("\r\n0\r\n"), "the client can tell: {rest}");
        }
        assert_eq!((w.proxy().upstream_aborts, w.proxy().client_aborts), (2, 0));
        assert!(w.log().contains("http://127.0.0.1:3000"));
    });
}

#[test]
fn a_full_queue_is_a_503_at_once_and_a_long_wait_one_later() {
    run(with_limits(Limits { max_conns: 1, max_waiters: 1, ..Limits::default() }), async |w| {
        let (mut one, mut two, mut three) = (w.client(), w.client(), w.client());
        one.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        two.send(GET).await;
        assert!(two.is_silent().await);
        three.send(GET).await;
        refused(&mut three, "503 Service Unavailable").await;
        assert!(w.seconds() < 1.0);
        refused(&mut two, "503 Service Unavailable").await;
        assert!((10.0..10.1).contains(&w.seconds()), "{}", w.seconds());
        assert_eq!((w.pool().reject_queue_full, w.pool().reject_wait_timeout, w.proxy().overloaded), (1, 1, 2));
    });
}

#[test]
fn requests_we_cannot_pass_on_are_refused_without_an_upstream() {
    run(Config::default(), async |w| {
        for (request, status) in [
            ("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n", "405 Method Not Allowed"),
            ("GET / HTTP/1.1\r\n\r\n", "400 Bad Request"),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400 Bad Request"),
        ] {
            let mut client = w.client();
            client.send(request).await;
            refused(&mut client, status).await;
        }
        assert_eq!((w.proxy().refused_request, w.pool().requests, w.log().as_str()), (3, 0, ""));
    });
}

#[test]
fn a_malformed_request_body_takes_no_connection() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").await;
        let answer = client.rest().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert_eq!((w.pool().requests, w.log().as_str()), (0, ""));
    });
}

#[test]
fn a_malformed_request_body_is_the_clients_fault() {
    run(Config { request_buffer: 0, ..Config::default() }, async |w| {
        let mut client = w.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").await;
        let mut up = w.accept().await;
        let answer = client.rest().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(!up.rest().await.contains("\r\n0\r\n"), "the upstream sees no end of a body");
        assert_eq!(w.log(), "");
    });
}
