//! What passes through, and how.

use super::world::{field, run, run_with};
use crate::{Config, Peer};

const GET: &str = "GET /a?b HTTP/1.1\r\nHost: example.com\r\n\r\n";

#[test]
fn a_request_and_its_response_pass_with_forwarding_fields() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        let head = up.head().await;
        assert!(head.starts_with("GET /a?b HTTP/1.1\r\n"), "{head}");
        assert_eq!(field(&head, "host"), Some("example.com"));
        assert_eq!(field(&head, "x-forwarded-for"), Some("192.0.2.7"));
        assert_eq!(field(&head, "x-forwarded-host"), Some("example.com"));
        assert_eq!(field(&head, "x-forwarded-proto"), Some("http"));
        up.send("HTTP/1.1 203 Fine\r\nServer: app\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello").await;
        let (head, body) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 203 Fine\r\n"), "the reason phrase passes: {head}");
        assert_eq!((field(&head, "server"), field(&head, "connection"), &*body), (Some("app"), None, "hello"));
        assert_eq!(field(&head, "date"), None, "no date unless asked for");
        assert_eq!(w.proxy().responses_2xx, 1);
    });
}

#[test]
fn a_vsock_peer_is_forwarded_as_unknown() {
    run(Config::default(), async |w| {
        let mut client = w.client_as(Peer::Unknown);
        client.send(GET).await;
        assert_eq!(field(&w.accept().await.head().await, "x-forwarded-for"), Some("unknown"));
    });
}

#[test]
fn a_date_is_added_when_asked_for() {
    run(Config { date_header: true, ..Config::default() }, async |w| {
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        up.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert!(field(&client.head().await, "date").is_some());
    });
}

#[test]
fn bodies_stream_both_ways_at_once_before_they_are_complete() {
    run(Config { request_buffer: 0, ..Config::default() }, async |w| {
        let mut client = w.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfirst").await;
        let mut up = w.accept().await;
        assert_eq!(field(&up.head().await, "content-length"), Some("10"));
        up.expect("first").await;
        up.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
        assert_eq!(field(&client.head().await, "transfer-encoding"), Some("chunked"));
        client.expect("3\r\none\r\n").await;
        client.send("final").await;
        up.expect("final").await;
        up.send("0\r\n\r\n").await;
        client.expect("0\r\n\r\n").await;
        assert_eq!(w.pool().idle, 1, "both bodies are complete, so the connection is kept");
    });
}

#[test]
fn a_large_body_passes_in_pieces_and_whole() {
    run(Config::default(), async |w| {
        let text = "x".repeat(3_000_000);
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        let sent = text.clone();
        let sender = tokio::task::spawn_local(async move {
            up.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{sent}", sent.len())).await;
            up
        });
        let (_, body) = client.message().await;
        assert!(body == text);
        drop(sender.await);
    });
}

#[test]
fn a_chunked_get_keeps_its_body() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").await;
        let mut up = w.accept().await;
        assert_eq!(field(&up.head().await, "transfer-encoding"), Some("chunked"));
        up.expect("2\r\nhi\r\n0\r\n\r\n").await;
    });
}

#[test]
fn trailers_pass_to_a_client_that_takes_them() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n").await;
        let mut up = w.accept().await;
        assert_eq!(field(&up.head().await, "te"), Some("trailers"));
        up.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n",
        )
        .await;
        assert_eq!(field(&client.head().await, "trailer"), Some("x-sum"));
        client.expect("2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n").await;
    });
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it() {
    run(Config { request_buffer: 0, ..Config::default() }, async |w| {
        let mut client = w.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n").await;
        let mut up = w.accept().await;
        assert_eq!(field(&up.head().await, "expect"), Some("100-continue"));
        client.expect("HTTP/1.1 100 Continue\r\n\r\n").await;
        client.send("hi").await;
        up.expect("hi").await;
        up.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK"));
    });
}

#[test]
fn responses_without_a_body_leave_both_connections_usable() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut up = w.accept().await;
        assert!(up.head().await.starts_with("HEAD"));
        up.send("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n").await;
        assert_eq!(field(&client.head().await, "content-length"), Some("1234"));
        for status in ["204 No Content\r\n", "304 Not Modified\r\nContent-Length: 9\r\n"] {
            client.send(GET).await;
            up.head().await;
            up.send(&format!("HTTP/1.1 {status}\r\n")).await;
            let head = client.head().await;
            assert!(head.contains(&status[..3]), "{head}");
            assert_eq!(field(&head, "transfer-encoding"), None);
        }
        client.send(GET).await;
        up.head().await;
        up.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
        assert_eq!(client.message().await.1, "hi");
        assert_eq!((w.pool().dials, w.pool().reuses), (1, 3));
    });
}

#[test]
fn an_http_1_0_client_gets_a_whole_body_and_a_closed_connection() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send("GET / HTTP/1.0\r\n\r\n").await;
        let mut up = w.accept().await;
        let head = up.head().await;
        assert!(head.starts_with("GET / HTTP/1.1\r\n"));
        assert_eq!(field(&head, "host"), Some("127.0.0.1:3000"));
        up.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nhi"), "{answer}");
        assert!(!answer.to_ascii_lowercase().contains("transfer-encoding"));
    });
}

#[test]
fn a_response_that_ends_with_its_connection_is_passed_on_as_chunked() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        up.send("HTTP/1.0 200 OK\r\n\r\nhello").await;
        drop(up);
        assert_eq!(field(&client.head().await, "transfer-encoding"), Some("chunked"));
        client.expect("5\r\nhello\r\n0\r\n\r\n").await;
        assert_eq!((w.pool().idle, w.pool().close_not_reusable), (0, 1));
    });
}

#[test]
fn the_base_path_of_the_upstream_comes_first() {
    run_with("http://127.0.0.1:3000/base", Config::default(), async |w| {
        let mut client = w.client();
        client.send(GET).await;
        assert!(w.accept().await.head().await.starts_with("GET /base/a?b HTTP/1.1\r\n"));
    });
}

#[test]
fn an_absolute_target_becomes_a_path() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send("GET http://example.com/p HTTP/1.1\r\nHost: other\r\n\r\n").await;
        let head = w.accept().await.head().await;
        assert!(head.starts_with("GET /p HTTP/1.1\r\n"));
        assert_eq!(field(&head, "host"), Some("example.com"));
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut up = w.accept().await;
        for n in ["1", "2"] {
            assert!(up.head().await.starts_with(&format!("GET /{n} ")));
            up.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{n}")).await;
        }
        assert_eq!((client.message().await.1, client.message().await.1), ("1".into(), "2".into()));
    });
}
