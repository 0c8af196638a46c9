//! What hyper alone would not pass: interim responses, trailers, early answers, odd bytes, many fields.

use super::world::{field, run};
use crate::Config;

const GET: &str = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

#[test]
fn interim_responses_pass_at_once_and_in_order() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        up.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\nX: 1\r\n\r\n").await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 103 Early Hints\r\n") && field(&head, "link") == Some("</a>"), "{head}");
        assert_eq!((field(&head, "connection"), field(&head, "x")), (None, None), "fields of a hop stay on it");
        up.send(&format!("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n{OK}")).await;
        assert!(client.head().await.starts_with("HTTP/1.1 102 Processing\r\n"));
        assert_eq!(field(&client.head().await, "link"), Some("</b>"));
        assert_eq!(client.message().await.1, "hi");
        client.send(GET).await;
        up.head().await;
        up.send(OK).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200"), "nothing of one request comes with the next");
        assert_eq!(w.proxy().interim, 3);
    });
}

#[test]
fn an_http_1_0_client_gets_no_interim_response_and_no_trailers() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send("GET / HTTP/1.0\r\n\r\n").await;
        let mut up = w.accept().await;
        up.head().await;
        up.send("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        up.send("5\r\n0\r\n\r\n\r\n0\r\nX-Sum: 1\r\n\r\n").await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\n0\r\n\r\n"), "{answer}");
        assert_eq!((w.proxy().interim, w.proxy().dropped_trailers), (0, 1));
    });
}

#[test]
fn the_upstream_decides_about_a_body_that_waits() {
    run(Config::default(), async |w| {
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
        let mut client = w.client();
        client.send(post).await;
        let mut up = w.accept().await;
        assert_eq!(field(&up.head().await, "expect"), Some("100-continue"));
        assert!(client.is_silent().await, "only the upstream can want the body");
        up.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        client.expect("HTTP/1.1 100 Continue\r\n\r\n").await;
        client.send("hello").await;
        up.expect("hello").await;
        assert!(w.seconds() < 0.5, "{}", w.seconds());
        up.send(OK).await;
        assert_eq!(client.message().await.1, "hi");
        assert_eq!(w.proxy().interim, 0, "one 100, not two");

        client.send(post).await;
        up.head().await;
        up.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno").await;
        let (head, body) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 417 ") && body == "no", "{head}");
        assert_eq!(field(&head, "connection"), Some("close"), "where the body would go is not clear any more");
        assert_eq!(up.rest().await, "");
        assert_eq!(w.proxy().early_answers, 1);
    });
}

#[test]
fn a_body_that_waits_for_an_upstream_that_knows_no_100_is_sent_all_the_same() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").await;
        let mut up = w.accept().await;
        up.head().await;
        client.expect("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert!((1.0..1.1).contains(&w.seconds()), "{}", w.seconds());
        client.send("hello").await;
        up.expect("hello").await;
        up.send(OK).await;
        assert_eq!(client.message().await.1, "hi");
        client.send("POST / HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi").await;
        assert_eq!(field(&up.head().await, "expect"), None, "HTTP/1.0 cannot mean it");
        up.expect("hi").await;
    });
}

#[test]
fn trailers_pass_unannounced_both_ways_but_not_those_of_a_head() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n").await;
        let mut up = w.accept().await;
        up.head().await;
        up.expect("2\r\nhi\r\n").await;
        client.send("0\r\nX-Sum: 42\r\nX_Forwarded_For: me\r\nContent-Length: 9\r\nX-Sum: 43\r\n\r\n").await;
        up.expect("0\r\nx-sum: 42\r\nx-sum: 43\r\n\r\n").await;
        up.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\nSet-Cookie: a\r\n\r\n",
        )
        .await;
        client.head().await;
        client.expect("2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n").await;
        assert_eq!(w.proxy().dropped_trailers, 3);
        // The next messages on both connections have none.
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").await;
        up.head().await;
        up.expect("2\r\nhi\r\n0\r\n\r\n").await;
        up.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").await;
        client.head().await;
        client.expect("0\r\n\r\n").await;
        assert_eq!((w.pool().dials, w.pool().reuses), (1, 1));
    });
}

/// hyper would take a bare line feed in a trailer section, and with it the next request for a field.
#[test]
fn a_chunked_body_whose_end_can_be_told_in_two_ways_ends_the_connection() {
    for body in [
        "0\r\n\n",
        "0\r\nX: a\n\n",
        "0\r\nX: a\nY: b\r\n\r\n",
        "2;a\nb\r\nhi\r\n0\r\n\r\n",
        "2\r\nhi\n0\r\n\r\n",
        "x\r\n",
    ] {
        for pieces in [1, 2] {
            run(Config::default(), async |w| {
                let mut client = w.client();
                client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                client.send(&body[..pieces - 1]).await;
                client.send(&format!("{}{GET}", &body[pieces - 1..])).await;
                client.finish().await;
                let answer = client.rest().await;
                assert!(
                    answer.starts_with("HTTP/1.1 400 ") && answer.matches("HTTP/1.1 ").count() == 1,
                    "{body:?}: {answer}"
                );
                assert_eq!(w.pool().dials, 0, "{body:?}");
            });
        }
    }
}

#[test]
fn odd_bytes_of_a_target_pass_encoded_on_every_request_of_a_connection() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send("POST /a<b> HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n\"<>\"\"GET /q?a=\"b\" HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut up = w.accept().await;
        assert!(up.head().await.starts_with("POST /a%3Cb%3E HTTP/1.1\r\n"));
        up.expect("\"<>\"\"").await;
        up.send(OK).await;
        assert_eq!(client.message().await.1, "hi");
        assert!(up.head().await.starts_with("GET /q?a=%22b%22 HTTP/1.1\r\n"), "a pipelined head is known as one");
        up.send(OK).await;
        client.message().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nGE<\r\n0\r\n\r\nGET /<< HTTP/1.1\r\nHost: a\r\n\r\n").await;
        up.head().await;
        up.expect("3\r\nGE<\r\n0\r\n\r\n").await;
        up.send(OK).await;
        client.message().await;
        assert!(up.head().await.starts_with("GET /%3C%3C HTTP/1.1\r\n"));
    });
}

#[test]
fn more_than_a_hundred_fields_pass_both_ways_and_too_many_are_refused() {
    run(Config::default(), async |w| {
        let fields = |n: usize| (0..n).map(|i| format!("X-{i}: {i}\r\n")).collect::<String>();
        let mut client = w.client();
        client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(200))).await;
        let mut up = w.accept().await;
        assert_eq!(field(&up.head().await, "x-199"), Some("199"));
        up.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{}\r\nhi", fields(200))).await;
        assert_eq!(field(&client.message().await.0, "x-199"), Some("199"));
        client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(257))).await;
        assert!(client.rest().await.starts_with("HTTP/1.1 431 "));
        assert_eq!(w.proxy().refused_size, 1);
    });
}

#[test]
fn a_head_of_many_fields_that_comes_in_pieces_behind_interim_ones_passes_whole() {
    run(Config::default(), async |w| {
        let fields = (0..110).map(|i| format!("X-{i}: {i}\r\nSet-Cookie: {i}\r\n")).collect::<String>();
        let early = "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n";
        let last = format!("HTTP/1.1 200 OK\r\n{fields}Connection: x-3\r\nContent-Length: 2\r\n\r\n");
        let response = format!("HTTP/1.1 100 Continue\r\n\r\n{early}{early}{last}");
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        for piece in [1, 7, 11, 33, 60, 500, response.len()] {
            up.head().await;
            for part in response.as_bytes().chunks(piece) {
                up.send(std::str::from_utf8(part).unwrap()).await;
                tokio::task::yield_now().await;
            }
            up.send("hi").await;
            for _ in 0..2 {
                let head = client.head().await;
                assert!(head.starts_with("HTTP/1.1 103 ") && field(&head, "link") == Some("a"), "{piece}: {head}");
            }
            let (head, body) = client.message().await;
            assert_eq!((field(&head, "x-109"), field(&head, "x-3"), &*body), (Some("109"), None, "hi"), "{piece}");
            let cookies: Vec<&str> = head.lines().filter_map(|line| line.strip_prefix("set-cookie: ")).collect();
            assert_eq!(cookies.len(), 110, "{piece}");
            assert!(cookies.iter().enumerate().all(|(i, cookie)| *cookie == i.to_string()), "in order: {cookies:?}");
            client.send(GET).await;
        }
        assert_eq!((w.proxy().interim, w.pool().dials), (14, 1));
    });
}

#[test]
fn a_request_that_follows_closely_is_judged_like_a_first_one() {
    run(Config::default(), async |w| {
        let fields = |n: usize| (0..n).map(|i| format!("X-{i}: {i}\r\n")).collect::<String>();
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        up.send(OK).await;
        client.message().await;
        let large = "y".repeat(20_000);
        for (head, becomes, body) in [
            ("GET /<a> HTTP/1.1\r\nHost: a\r\n\r\n", "GET /%3Ca%3E HTTP/1.1\r\n", ""),
            (&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(150)), "GET / HTTP/1.1\r\n", ""),
            (GET, "GET /a ", ""),
            ("POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", "POST /b ", "hello"),
            ("\r\nPUT /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "PUT /c ", "1\r\na\r\n0\r\n\r\n"),
            (GET, "GET /a ", ""),
            ("POST /d HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n", "POST /d ", &large),
            (GET, "GET /a ", ""),
        ] {
            client.send(head).await;
            client.send(body).await;
            let seen = up.head().await;
            assert!(seen.starts_with(becomes), "{head}: {seen}");
            assert_eq!(field(&seen, "x-149").is_some(), head.contains("X-149"));
            up.expect(body).await;
            up.send(OK).await;
            assert_eq!(client.message().await.1, "hi", "{head}");
        }
        // In pieces, and two at once.
        for piece in ["GET /e HT", "TP/1.1\r\nHost: a\r\n", "\r\n"] {
            assert!(up.is_silent().await);
            client.send(piece).await;
        }
        assert!(up.head().await.starts_with("GET /e "));
        up.send(OK).await;
        client.message().await;
        client.send(GET).await;
        up.head().await;
        up.send(OK).await;
        client.message().await;
        client.send(&format!("{GET}{GET}")).await;
        for _ in 0..2 {
            up.head().await;
            assert!(up.is_silent().await, "one request at a time");
            up.send(OK).await;
            client.message().await;
        }
        client.send(GET).await;
        up.head().await;
        up.send(OK).await;
        client.message().await;
        client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(257))).await;
        assert!(client.rest().await.starts_with("HTTP/1.1 431 "));
        assert_eq!((w.proxy().requests, w.pool().dials, w.proxy().refused_request), (14, 1, 1));
    });
}

#[test]
fn buffers_are_kept_while_requests_follow_closely_and_given_back_after_a_pause() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        for _ in 0..20 {
            up.head().await;
            up.send(OK).await;
            client.message().await;
            tokio::time::sleep(std::time::Duration::from_millis(250)).await;
            assert_eq!(w.shard.buffered_clients(), 1);
            client.send(GET).await;
        }
        up.head().await;
        up.send(OK).await;
        client.message().await;
        tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
        assert_eq!((w.shard.buffered_clients(), w.proxy().clients), (0, 1));
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n").await;
        client.send(&"y".repeat(20_000)).await;
        up.head().await;
        up.send(OK).await;
        client.message().await;
        assert!(client.is_silent().await);
        assert_eq!(w.shard.buffered_clients(), 0, "large ones go at once");
        let mut many = Vec::new();
        for _ in 0..140 {
            let mut client = w.client();
            client.send(GET).await;
            up.head().await;
            up.send(OK).await;
            client.message().await;
            many.push(client);
        }
        assert_eq!(w.shard.buffered_clients(), 128, "a crowd leaves no holes behind");
        tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
        assert_eq!(w.shard.buffered_clients(), 0);
        for client in &mut many {
            client.send(GET).await;
            up.head().await;
            up.send(OK).await;
            client.message().await;
        }
        assert_eq!((w.shard.buffered_clients(), w.proxy().clients), (128, 141), "places are given back");
    });
}

#[test]
fn what_is_no_http_1_is_told_so() {
    run(Config::default(), async |w| {
        for (bytes, says) in [
            ("\u{16}\u{3}\u{1}\u{0}\u{5}hello", "400 Bad Request: this port speaks plain HTTP"),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", "505 HTTP Version Not Supported"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "use HTTP/1.1"),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "400 Bad Request"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "501 Not Implemented"),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                "400 Bad Request: Content-Length",
            ),
        ] {
            let mut client = w.client();
            client.send(bytes).await;
            client.finish().await;
            let answer = client.rest_lossy().await;
            assert!(answer.contains(says), "{bytes:?}: {answer}");
        }
        let p = w.proxy();
        assert_eq!(
            (p.refused_tls, p.refused_version, p.refused_http2, p.refused_malformed, p.refused_framing),
            (1, 1, 1, 1, 2)
        );
        assert_eq!((p.refused_request, w.pool().requests, w.log().as_str()), (6, 0, ""));
    });
}

#[test]
fn an_answer_before_the_body_is_read_reaches_a_client_that_still_sends() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n").await;
        let mut up = w.accept().await;
        up.head().await;
        up.send("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbig\n").await;
        // Nobody reads any more, and writing to it fails.
        drop(up);
        client.send(&"x".repeat(60_000)).await;
        let (head, body) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 413 ") && body == "big\n", "{head}");
        assert_eq!(field(&head, "connection"), Some("close"));
        for _ in 0..100 {
            client.send(&"x".repeat(60_000)).await;
        }
        assert_eq!(client.rest().await, "", "the end of our direction comes, and not a reset");
        assert_eq!((w.proxy().broken, w.proxy().early_answers, w.proxy().client_aborts), (0, 1, 0));
    });
}

#[test]
fn a_client_that_never_closes_after_an_early_answer_is_closed() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 501 "));
        tokio::time::sleep(std::time::Duration::from_secs(11)).await;
        assert_eq!(w.proxy().clients, 0, "silence");
        let mut client = w.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n").await;
        client.head().await;
        for _ in 0..31 {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            client.try_send("x").await;
        }
        assert_eq!(w.proxy().clients, 0, "a drip");
    });
}
