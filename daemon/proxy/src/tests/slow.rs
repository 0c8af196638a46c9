//! Slow and silent peers: how long they are waited for, and what they can hold meanwhile.

use super::world::{End, World, field, run, with_limits};
use crate::{Config, Peer};
use nitrotap_core::pool::Limits;
use std::{net::IpAddr, time::Duration};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

fn conns(max_conns: usize) -> Config {
    with_limits(Limits { max_conns, ..Limits::default() })
}

/// An upstream that answers the request at its end with `bytes`, as fast as they are taken.
fn send_response(mut up: End, bytes: usize) -> tokio::task::JoinHandle<End> {
    tokio::task::spawn_local(async move {
        up.head().await;
        up.try_send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n")).await;
        for _ in 0..bytes / 1000 {
            up.try_send(&"x".repeat(1000)).await;
        }
        up
    })
}

/// A client whose endless response is being sent to it.
async fn reader_of_much(w: &World) -> End {
    let mut client = w.client();
    client.send(GET).await;
    drop(send_response(w.accept().await, 100_000_000));
    client
}

async fn is_served(w: &World) -> bool {
    let mut client = w.client();
    client.send(GET).await;
    let answer = async { client.head().await };
    let serve = async {
        let mut up = w.accept().await;
        up.head().await;
        up.send(OK).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        head = answer => head.starts_with("HTTP/1.1 200 "),
        () = serve => false,
    }
}

#[test]
fn a_connection_is_free_before_a_slow_client_has_read_its_response() {
    run(conns(1), async |w| {
        let mut slow = w.client();
        slow.send(GET).await;
        let up = send_response(w.accept().await, 700_000);
        let mut up = up.await.unwrap();
        assert!(w.proxy().buffered > 300_000, "{}", w.proxy().buffered);
        let mut honest = w.client();
        honest.send(GET).await;
        up.head().await;
        up.send(OK).await;
        assert_eq!(honest.message().await.1, "hi");
        assert!(w.seconds() < 0.1 && w.pool().dials == 1, "{}", w.seconds());
        let (_, body) = slow.message().await;
        assert!(body.len() == 700_000 && body.bytes().all(|b| b == b'x'));
        slow.send(GET).await;
        up.head().await;
        assert_eq!((w.proxy().buffered, w.proxy().client_aborts), (0, 0));
    });
}

#[test]
fn what_is_read_ahead_is_bounded_for_one_and_for_all() {
    run(Config { response_buffer: 300_000, buffer_memory: 500_000, ..Config::default() }, async |w| {
        let _one = reader_of_much(&w).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let one = w.proxy().buffered;
        assert!((290_000..450_000).contains(&one), "{one}");
        let mut others = Vec::new();
        for _ in 0..4 {
            others.push(reader_of_much(&w).await);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!((490_000..700_000).contains(&w.proxy().buffered), "{}", w.proxy().buffered);
        assert!(w.proxy().buffer_full > 0);
        drop((_one, others));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((w.proxy().buffered, w.proxy().clients), (0, 0));
    });
}

#[test]
fn a_response_with_trailers_and_one_that_breaks_off_pass_a_slow_client_whole() {
    run(Config::default(), async |w| {
        let text = "y".repeat(300_000);
        for (ending, tail) in [("0\r\nx-sum: 7\r\n\r\n", "0\r\nx-sum: 7\r\n\r\n"), ("", "")] {
            let mut client = w.client();
            client.send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n").await;
            let mut up = w.accept().await;
            up.head().await;
            up.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\nConnection: close\r\n\r\n")
                .await;
            up.send(&format!("{:x}\r\n{text}\r\n{ending}", text.len())).await;
            drop(up);
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!(w.pool().active, 0, "free although nothing was read");
            client.head().await;
            let rest = client.rest().await;
            assert_eq!(rest.matches('y').count(), text.len());
            assert!(rest.ends_with(tail), "{}", &rest[rest.len() - 40..]);
        }
        assert_eq!(w.proxy().upstream_aborts, 1);
    });
}

#[test]
fn a_client_that_does_not_read_or_reads_a_byte_now_and_then_is_ended() {
    for byte_every in [None, Some(9)] {
        run(Config { send_timeout: Duration::from_secs(20), ..Config::default() }, async |w| {
            let mut client = reader_of_much(&w).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            while w.proxy().clients == 1 && w.seconds() < 100.0 {
                tokio::time::sleep(Duration::from_secs(byte_every.unwrap_or(1))).await;
                if byte_every.is_some() && w.proxy().clients == 1 {
                    client.some().await;
                }
            }
            assert!((20.0..30.0).contains(&w.seconds()), "{}", w.seconds());
            assert_eq!((w.proxy().slow_downloads, w.pool().active, w.proxy().client_aborts), (1, 0, 1));
        });
    }
}

#[test]
fn a_client_that_reads_at_the_lowest_rate_is_not_ended() {
    run(Config { send_timeout: Duration::from_secs(20), ..Config::default() }, async |w| {
        let mut client = reader_of_much(&w).await;
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            for _ in 0..5 * 300 {
                client.some().await;
            }
        }
        assert_eq!((w.proxy().slow_downloads, w.proxy().clients), (0, 1));
    });
}

#[test]
fn a_client_that_keeps_the_rest_of_a_finished_response_waiting_is_ended_too() {
    run(Config { send_timeout: Duration::from_secs(20), ..Config::default() }, async |w| {
        let mut client = w.client();
        client.send(GET).await;
        drop(send_response(w.accept().await, 100_000).await);
        while w.proxy().clients == 1 && w.seconds() < 100.0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!((20.0..24.0).contains(&w.seconds()), "{}", w.seconds());
        assert_eq!(w.proxy().slow_downloads, 1);
    });
}

#[test]
fn slow_readers_give_way_when_requests_wait_but_not_those_that_keep_up() {
    run(conns(3), async |w| {
        let (_one, _two) = (reader_of_much(&w).await, reader_of_much(&w).await);
        let mut steady = reader_of_much(&w).await;
        let steady = tokio::task::spawn_local(async move {
            loop {
                for _ in 0..500 {
                    steady.some().await;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        assert!(is_served(&w).await);
        assert!(w.seconds() < 5.5, "{}", w.seconds());
        assert_eq!(w.proxy().evicted, 1, "one waited, one gave way");
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(!steady.is_finished() && w.proxy().clients >= 2);
    });
}

#[test]
fn a_request_that_was_turned_away_counts_as_waiting() {
    let limits = Limits { max_conns: 1, wait_timeout: Duration::from_millis(10), ..Limits::default() };
    run(with_limits(limits), async |w| {
        let _slow = reader_of_much(&w).await;
        let mut served = false;
        while !served && w.seconds() < 20.0 {
            served = is_served(&w).await;
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
        assert!(w.seconds() < 8.0, "{}", w.seconds());
    });
}

#[test]
fn a_body_that_waits_for_100_continue_takes_no_connection_that_others_need() {
    const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4096\r\nExpect: 100-continue\r\n\r\n";
    run(conns(4), async |w| {
        // As long as half of the connections are free, it is the app's to say.
        let mut asking: Vec<End> = (0..2).map(|_| w.client()).collect();
        let mut upstreams = Vec::new();
        for client in &mut asking {
            client.send(POST).await;
            let mut up = w.accept().await;
            assert_eq!(field(&up.head().await, "expect"), Some("100-continue"));
            assert!(client.is_silent().await);
            upstreams.push(up);
        }
        let mut drips: Vec<End> = (0..5).map(|_| w.client()).collect();
        for client in &mut drips {
            client.send(POST).await;
            client.expect("HTTP/1.1 100 Continue\r\n\r\n").await;
            client.send("slow").await;
        }
        assert_eq!((w.pool().requests, w.proxy().requests), (2, 7));
        let body = "x".repeat(4092);
        let mut last = drips.pop().unwrap();
        last.send(&body).await;
        let mut up = w.accept().await;
        let head = up.head().await;
        assert_eq!((field(&head, "expect"), field(&head, "content-length")), (None, Some("4096")), "{head}");
        up.expect(&format!("slow{body}")).await;
        up.send(OK).await;
        assert_eq!(last.message().await.1, "hi");
        assert!(w.seconds() < 0.5, "{}", w.seconds());
    });
}

#[test]
fn a_small_body_takes_no_connection_before_it_is_there() {
    run(conns(1), async |w| {
        let mut drips: Vec<End> = (0..5).map(|_| w.client()).collect();
        for client in &mut drips {
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4096\r\n\r\nslow").await;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!((w.pool().requests, w.proxy().requests), (0, 5));
        assert!(is_served(&w).await && w.seconds() < 10.1);
        for client in &mut drips {
            let (head, _) = client.message().await;
            assert!(head.starts_with("HTTP/1.1 408 ") && field(&head, "connection") == Some("close"), "{head}");
        }
        assert!((30.0..33.0).contains(&w.seconds()), "{}", w.seconds());
        assert_eq!((w.proxy().slow_uploads, w.proxy().body_timeout, w.proxy().buffered), (5, 5, 0));
    });
}

#[test]
fn a_put_that_is_held_whole_is_sent_once_more_where_a_kept_connection_was_dead() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        up.send(OK).await;
        client.message().await;
        client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nagain").await;
        assert_eq!(up.message().await.1, "again");
        drop(up);
        let mut up = w.accept().await;
        assert_eq!(up.message().await.1, "again");
        up.send(OK).await;
        assert_eq!((client.message().await.1.as_str(), w.proxy().retries, w.proxy().buffered), ("hi", 1, 0));
    });
}

#[test]
fn a_body_arrives_whole_whether_it_was_held_or_not() {
    for (length, pieces) in [(10, 1), (65_536, 7), (65_537, 1), (300_000, 11)] {
        run(Config::default(), async |w| {
            let mut client = w.client();
            let body: String = ('a'..='z').cycle().take(length).collect();
            client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")).await;
            let sent = body.clone();
            let sender = tokio::task::spawn_local(async move {
                for piece in sent.as_bytes().chunks(sent.len().div_ceil(pieces)) {
                    client.send(std::str::from_utf8(piece).unwrap()).await;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                client
            });
            let mut up = w.accept().await;
            let (head, seen) = up.message().await;
            assert_eq!(field(&head, "content-length"), Some(length.to_string().as_str()));
            assert!(seen == body, "{} of {length} bytes", seen.len());
            up.send(OK).await;
            assert_eq!(sender.await.unwrap().message().await.1, "hi");
            assert_eq!(w.proxy().buffered, 0);
        });
    }
}

#[test]
fn a_streamed_request_that_pauses_is_passed_on_unless_connections_are_scarce() {
    run(conns(4), async |w| {
        let mut streams = Vec::new();
        for n in 1..=4 {
            let mut client = w.client();
            client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(w.pool().active, n.min(2), "half of the connections at most");
            streams.push(client);
        }
        let (mut up, _second) = (w.accept().await, w.accept().await);
        up.head().await;
        up.expect("5\r\nhello\r\n").await;
        // The answer may begin, and end, while the request goes on.
        up.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n").await;
        streams[0].head().await;
        streams[0].expect("3\r\nyes\r\n").await;
        streams[0].send("3\r\nmor\r\n").await;
        up.expect("3\r\nmor\r\n").await;
        assert!(is_served(&w).await);
    });
}

#[test]
fn a_large_upload_that_drips_is_ended_and_gives_way_earlier_when_requests_wait() {
    for waits in [false, true] {
        run(conns(1), async |w| {
            let mut client = w.client();
            let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n";
            client.send(&format!("{head}{}", "x".repeat(70_000))).await;
            let mut up = w.accept().await;
            up.head().await;
            let reader = tokio::task::spawn_local(async move { up.rest().await.len() });
            if waits {
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert!(is_served(&w).await);
                assert!(w.seconds() < 6.0, "{}", w.seconds());
            } else {
                for _ in 0..8 {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    client.try_send("x").await;
                }
                assert_eq!(w.proxy().slow_uploads, 1);
            }
            assert!(client.head().await.starts_with("HTTP/1.1 408 "));
            assert!(reader.await.unwrap() >= 70_000);
        });
    }
}

#[test]
fn an_upstream_that_does_not_read_its_request_is_to_blame_and_not_the_client() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        let body = "x".repeat(1_000_000);
        let sender = tokio::task::spawn_local(async move {
            client.try_send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{body}")).await;
            client
        });
        let _up = w.accept().await;
        tokio::time::sleep(Duration::from_secs(70)).await;
        assert_eq!((w.proxy().late, w.proxy().body_timeout, w.proxy().slow_uploads), (1, 0, 0));
        drop(sender);
    });
}

#[test]
fn an_upstream_that_stops_in_the_middle_of_a_response_is_given_up() {
    run(conns(2), async |w| {
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        up.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun").await;
        client.head().await;
        // Events now and then are progress.
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(200)).await;
            up.send("x").await;
        }
        assert_eq!(client.rest().await, "begunxxxx");
        assert!((1100.0..1110.0).contains(&w.seconds()), "{}", w.seconds());
        assert_eq!((w.proxy().stalled_upstreams, w.pool().active), (1, 0));
    });
}

#[test]
fn stalled_responses_give_way_when_requests_wait() {
    run(conns(1), async |w| {
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        up.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun").await;
        client.head().await;
        assert!(is_served(&w).await);
        assert!(w.seconds() < 6.0 && w.proxy().evicted == 1, "{}", w.seconds());
    });
}

async fn tunnel(w: &World) -> Option<(End, End)> {
    let mut client = w.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let accept = async {
        let mut up = w.accept().await;
        up.head().await;
        up.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        up
    };
    let up = tokio::time::timeout(Duration::from_secs(1), accept).await.ok();
    let head = client.head().await;
    up.map(|up| (client, up)).filter(|_| head.starts_with("HTTP/1.1 101 "))
}

#[test]
fn a_tunnel_without_a_byte_ends_and_one_with_bytes_in_either_direction_stays() {
    run(Config { tunnel_idle: Duration::from_secs(100), ..Config::default() }, async |w| {
        let (_silent, _up) = tunnel(&w).await.unwrap();
        let (mut listens, mut talks) = tunnel(&w).await.unwrap();
        let (mut asks, mut hears) = tunnel(&w).await.unwrap();
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_secs(60)).await;
            talks.send("x").await;
            listens.expect("x").await;
            asks.send("y").await;
            hears.expect("y").await;
        }
        assert_eq!((w.proxy().tunnels, w.proxy().tunnel_timeouts, w.pool().active), (2, 1, 2));
    });
}

#[test]
fn tunnels_leave_connections_for_requests() {
    run(conns(4), async |w| {
        let mut tunnels = Vec::new();
        for _ in 0..3 {
            tunnels.push(tunnel(&w).await.unwrap());
        }
        assert!(tunnel(&w).await.is_none());
        assert_eq!((w.proxy().tunnels, w.proxy().tunnels_refused, w.proxy().overloaded), (3, 1, 1));
        assert!(is_served(&w).await);
        tunnels.pop();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(tunnel(&w).await.is_some());
    });
}

#[test]
fn an_address_has_its_share_of_connections_tunnels_included() {
    run(Config { max_per_public_address: 2, ..Config::default() }, async |w| {
        let (_client, _up) = tunnel(&w).await.unwrap();
        let _second = w.client();
        let mut third = w.client();
        assert!(third.rest().await.starts_with("HTTP/1.1 429 "));
        assert_eq!((w.proxy().crowded, w.proxy().accepted), (1, 2));
        let others = ["192.0.2.8", "10.0.0.1", "10.0.0.1", "10.0.0.1"];
        let _others = others.map(|ip| w.client_as(Peer::Ip(ip.parse::<IpAddr>().unwrap())));
        assert_eq!(w.proxy().accepted, 6, "other addresses, and those that many may share");
        drop(_second);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let _again = w.client();
        assert_eq!((w.proxy().crowded, w.proxy().accepted), (1, 7));
    });
}

#[test]
fn a_cid_has_a_share_where_one_is_set_and_no_other_bound() {
    let cids = async |w: &World| {
        let mut clients: Vec<End> = (0..3).map(|_| w.client_as(Peer::Vsock(3))).collect();
        clients.push(w.client_as(Peer::Vsock(4)));
        clients[3].send(GET).await;
        let mut up = w.accept().await;
        assert_eq!(field(&up.head().await, "x-forwarded-for"), Some("unknown"));
        (w.proxy().crowded, w.proxy().accepted)
    };
    run(Config { max_per_address: 2, ..Config::default() }, async |w| assert_eq!(cids(&w).await, (1, 3)));
    run(Config { max_per_public_address: 2, ..Config::default() }, async |w| assert_eq!(cids(&w).await, (0, 4)));
}

#[test]
fn a_burst_of_failures_is_a_line_a_second_with_their_number() {
    let limits = Limits { connect_retry: Duration::ZERO, ..Limits::default() };
    run(with_limits(limits), async |w| {
        w.dials(super::world::Dials::Refuse);
        let mut client = w.client();
        for _ in 0..300 {
            client.send(GET).await;
            assert!(client.message().await.0.starts_with("HTTP/1.1 502 "));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let log = w.log();
        assert!((3..6).contains(&log.lines().count()), "{log}");
        let counts =
            log.split("count=").skip(1).map(|rest| rest.split(' ').next().unwrap().trim().parse::<u64>().unwrap());
        assert_eq!(counts.sum::<u64>(), 300, "{log}");
    });
}
