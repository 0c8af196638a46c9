//! Client connections: timeouts, limits, drain.

use super::world::{run, with_limits};
use crate::Config;
use nitrotap_core::pool::Limits;
use std::time::Duration;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

#[test]
fn a_client_that_says_nothing_is_closed_after_the_header_timeout() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        assert_eq!(client.rest().await, "");
        assert!((30.0..38.0).contains(&w.seconds()), "{}", w.seconds());
        assert_eq!((w.proxy().header_timeouts, w.proxy().clients), (1, 0));
    });
}

thread_local! {
    static SCARCE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[test]
fn without_memory_new_clients_and_requests_are_told_so_and_what_is_in_progress_goes_on() {
    let has_memory = || !SCARCE.get();
    run(Config { has_memory, ..Config::default() }, async |w| {
        let (mut busy, mut idle, mut half) = (w.client(), w.client(), w.client());
        for client in [&mut idle, &mut busy] {
            client.send(GET).await;
            let mut up = w.accept().await;
            up.head().await;
            if w.pool().requests == 1 {
                up.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
                client.message().await;
                continue;
            }
            half.send("GET / HTTP/1.1\r\n").await;
            SCARCE.set(true);
            let mut late = w.client();
            assert!(late.rest().await.starts_with("HTTP/1.1 503 "));
            up.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
            assert_eq!(client.message().await.1, "hi");
        }
        half.send("Host: a\r\n").await;
        assert!(half.rest().await.starts_with("HTTP/1.1 503 "));
        tokio::time::sleep(Duration::from_secs(3)).await;
        idle.send(GET).await;
        assert!(idle.rest().await.starts_with("HTTP/1.1 503 "));
        SCARCE.set(false);
        let mut again = w.client();
        again.send(GET).await;
        assert_eq!((w.proxy().shed, w.proxy().heads_refused), (1, 2));
    });
}

#[test]
fn heads_that_do_not_end_share_the_memory_for_waiting_messages() {
    run(Config { buffer_memory: 100_000, ..Config::default() }, async |w| {
        let mut refused = 0;
        let mut clients: Vec<_> = (0..10).map(|_| w.client()).collect();
        for client in &mut clients {
            client.send(&format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(30_000))).await;
            client.send(&"a".repeat(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        for client in &mut clients {
            if !client.is_silent().await {
                refused += 1;
            }
        }
        assert_eq!((refused, w.proxy().heads_refused), (6, 6), "four times 26 KB and no more");
        // A head that is all there needs none of it.
        let mut client = w.client();
        client.send(GET).await;
        w.accept().await.head().await;
        drop(clients);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(w.proxy().buffered, 0);
    });
}

#[test]
fn a_client_that_trickles_its_head_is_closed_all_the_same() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        for byte in "GET / HTTP/1.1\r\n".chars() {
            client.send(&byte.to_string()).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(client.rest().await, "");
        assert!((30.0..38.0).contains(&w.seconds()), "{}", w.seconds());
    });
}

#[test]
fn an_idle_client_may_stay_for_the_keep_alive_timeout_but_not_dawdle_over_its_next_head() {
    run(Config::default(), async |w| {
        let (mut idle, mut slow) = (w.client(), w.client());
        for client in [&mut idle, &mut slow] {
            client.send(GET).await;
        }
        let (mut a, mut b) = (w.accept().await, w.accept().await);
        for up in [&mut a, &mut b] {
            up.head().await;
            up.send(OK).await;
        }
        idle.message().await;
        slow.message().await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        slow.send("GET /").await;
        assert_eq!(slow.rest().await, "");
        assert!((40.0..56.0).contains(&w.seconds()), "{}", w.seconds());
        assert_eq!(idle.rest().await, "");
        assert!((75.0..83.0).contains(&w.seconds()), "{}", w.seconds());
        assert_eq!((w.proxy().header_timeouts, w.proxy().keep_alive_timeouts), (1, 1));
    });
}

#[test]
fn a_slow_reader_of_a_finished_response_is_not_timed_out_while_it_reads() {
    run(Config { keep_alive_timeout: Duration::from_secs(20), ..Config::default() }, async |w| {
        let text = "x".repeat(200_000);
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        up.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len())).await;
        let sent = text.clone();
        let sender = tokio::task::spawn_local(async move {
            up.send(&sent).await;
            up
        });
        client.head().await;
        for part in text.as_bytes().chunks(10_000) {
            tokio::time::sleep(Duration::from_secs(6)).await;
            client.expect(std::str::from_utf8(part).unwrap()).await;
        }
        drop(sender.await);
        assert!(w.seconds() > 100.0);
    });
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(60 * 1024))).await;
        w.accept().await.head().await;
        let mut client = w.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nX: ").await;
        let sender = tokio::task::spawn_local(async move {
            client.try_send(&"y".repeat(80 * 1024)).await;
            client.rest().await
        });
        assert!(sender.await.unwrap().starts_with("HTTP/1.1 431 "));
    });
}

#[test]
fn one_client_too_many_is_told_so_and_closed() {
    run(Config { max_clients: 1, ..Config::default() }, async |w| {
        let first = w.client();
        let mut second = w.client();
        let answer = second.rest().await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("connection: close"), "{answer}");
        assert_eq!((w.proxy().shed, w.proxy().accepted, w.proxy().clients), (1, 1, 1));
        drop(first);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut third = w.client();
        third.send(GET).await;
        w.accept().await.head().await;
    });
}

#[test]
fn a_client_turned_away_may_finish_its_request_before_the_connection_ends() {
    run(Config { max_clients: 1, ..Config::default() }, async |w| {
        let _first = w.client();
        let mut second = w.client();
        second
            .send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n{}", "x".repeat(200_000)))
            .await;
        assert!(second.rest().await.starts_with("HTTP/1.1 503 "));
        assert_eq!((w.proxy().lingering, w.proxy().shed), (1, 1));
        drop(second);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(w.proxy().lingering, 0);
    });
}

#[test]
fn clients_turned_away_cannot_stay_and_more_than_the_limit_get_no_answer() {
    run(Config { max_clients: 0, max_lingering: 2, ..Config::default() }, async |w| {
        let (mut one, mut two, mut three) = (w.client(), w.client(), w.client());
        assert_eq!(three.rest().await, "");
        assert_eq!((w.proxy().lingering, w.proxy().shed, w.proxy().shed_unanswered), (2, 3, 1));
        assert!(w.seconds() < 1.0);
        w.shard.drained().await;
        assert!((1.9..2.1).contains(&w.seconds()), "{}", w.seconds());
        for told in [&mut one, &mut two] {
            assert!(told.rest().await.starts_with("HTTP/1.1 503 "));
        }
        // Neither one that sends for ever.
        let mut chatty = w.client();
        chatty.try_send(&"x".repeat(4_000_000)).await;
        assert!(w.seconds() < 2.2 && w.proxy().lingering == 0);
    });
}

#[test]
fn draining_finishes_what_is_in_flight_and_closes_the_rest() {
    run(Config::default(), async |w| {
        let (mut busy, mut idle) = (w.client(), w.client());
        idle.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        up.send(OK).await;
        idle.message().await;
        busy.send(GET).await;
        up.head().await;
        w.shard.drain();
        assert_eq!(idle.rest().await, "");
        let mut late = w.client();
        assert!(late.rest().await.starts_with("HTTP/1.1 503 "));
        assert!(tokio::time::timeout(Duration::from_secs(3), w.shard.drained()).await.is_err());
        up.send(OK).await;
        let answer = busy.rest().await;
        assert!(answer.contains("connection: close") && answer.ends_with("hi"), "{answer}");
        w.shard.drained().await;
        assert_eq!((w.pool().idle, w.pool().active, w.proxy().clients), (0, 0, 0));
        assert_eq!(up.rest().await, "");
    });
}

#[test]
fn an_idle_shard_needs_no_timer() {
    run(with_limits(Limits { idle_timeout: Duration::from_secs(5), ..Limits::default() }), async |w| {
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        up.send(OK).await;
        client.message().await;
        drop(client);
        assert_eq!(up.rest().await, "");
        assert!((5.0..5.1).contains(&w.seconds()), "{}", w.seconds());
        // Virtual time jumps from timer to timer: a stray one would show as an early end of this sleep's silence.
        assert!(up.is_silent().await || w.pool().idle == 0);
    });
}
