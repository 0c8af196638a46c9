//! Upstream connections: kept, found dead, retried, given up.

use super::world::{Dials, End, World, run, with_limits};
use crate::Config;
use nitrotap_core::pool::Limits;
use std::time::Duration;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

/// One request from a new client over a new upstream connection, both of which stay open.
async fn warm(w: &World) -> (End, End) {
    let mut client = w.client();
    client.send(GET).await;
    let mut up = w.accept().await;
    serve(&mut up).await;
    assert_eq!(client.message().await.1, "hi");
    (client, up)
}

async fn serve(up: &mut End) {
    up.head().await;
    up.send(OK).await;
}

#[test]
fn many_requests_of_many_clients_share_one_connection_when_they_take_turns() {
    run(Config::default(), async |w| {
        let (mut first, mut up) = warm(&w).await;
        for _ in 0..5 {
            first.send(GET).await;
            serve(&mut up).await;
            first.message().await;
            let mut other = w.client();
            other.send(GET).await;
            serve(&mut up).await;
            other.message().await;
        }
        assert_eq!((w.pool().dials, w.pool().reuses), (1, 10));
    });
}

#[test]
fn a_connection_the_upstream_announces_to_close_is_not_kept() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        up.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi").await;
        let (head, _) = client.message().await;
        assert!(!head.contains("close"), "the client's connection is another matter: {head}");
        assert_eq!((w.pool().idle, w.pool().close_not_reusable), (0, 1));
        assert_eq!(up.rest().await, "");
    });
}

#[test]
fn a_connection_closed_while_idle_is_not_used_and_costs_no_retry() {
    run(Config::default(), async |w| {
        let (mut client, up) = warm(&w).await;
        drop(up);
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
        let mut fresh = w.accept().await;
        fresh.head().await;
        fresh.expect("hi").await;
        fresh.send(OK).await;
        assert_eq!(client.message().await.1, "hi");
        assert_eq!((w.pool().close_by_peer, w.proxy().retries), (1, 0));
    });
}

#[test]
fn a_connection_closed_while_idle_is_noticed_without_any_request() {
    run(Config::default(), async |w| {
        let (_client, up) = warm(&w).await;
        drop(up);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!((w.pool().idle, w.pool().close_by_peer), (0, 1));
    });
}

#[test]
fn stray_bytes_on_an_idle_connection_end_it() {
    run(Config::default(), async |w| {
        let (mut client, mut up) = warm(&w).await;
        up.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged").await;
        client.send(GET).await;
        serve(&mut w.accept().await).await;
        assert_eq!(client.message().await.1, "hi");
        assert_eq!(w.pool().close_by_peer, 1);
    });
}

#[test]
fn a_get_that_met_a_dead_connection_is_sent_once_more_on_a_fresh_one() {
    run(Config::default(), async |w| {
        let (mut client, mut up) = warm(&w).await;
        client.send(GET).await;
        up.head().await;
        drop(up);
        let mut fresh = w.accept().await;
        serve(&mut fresh).await;
        assert_eq!(client.message().await.1, "hi");
        assert_eq!((w.proxy().retries, w.proxy().broken), (1, 0));
    });
}

#[test]
fn a_second_dead_connection_is_the_clients_to_know() {
    run(Config::default(), async |w| {
        let (mut client, mut up) = warm(&w).await;
        client.send(GET).await;
        up.head().await;
        drop(up);
        let mut fresh = w.accept().await;
        fresh.head().await;
        drop(fresh);
        assert!(client.message().await.0.starts_with("HTTP/1.1 502 "));
        assert_eq!((w.proxy().retries, w.proxy().broken), (1, 1));
    });
}

#[test]
fn a_post_is_not_sent_twice() {
    run(Config::default(), async |w| {
        for body in ["Content-Length: 2\r\n\r\nhi", "Content-Length: 0\r\n\r\n"] {
            let (mut client, mut up) = warm(&w).await;
            client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\n{body}")).await;
            up.head().await;
            drop(up);
            assert!(client.message().await.0.starts_with("HTTP/1.1 502 "));
        }
        assert_eq!(w.proxy().retries, 0);
    });
}

#[test]
fn a_request_is_not_repeated_after_a_part_of_a_response() {
    run(Config::default(), async |w| {
        let (mut client, mut up) = warm(&w).await;
        client.send(GET).await;
        up.head().await;
        up.send("HTTP/1.1 200").await;
        drop(up);
        assert!(client.message().await.0.starts_with("HTTP/1.1 502 "));
        assert_eq!(w.proxy().retries, 0);
    });
}

#[test]
fn a_retry_avoids_the_other_idle_connections() {
    run(Config::default(), async |w| {
        let (mut one, mut two) = (w.client(), w.client());
        one.send(GET).await;
        two.send(GET).await;
        let (mut a, mut b) = (w.accept().await, w.accept().await);
        serve(&mut a).await;
        serve(&mut b).await;
        one.message().await;
        two.message().await;
        assert_eq!(w.pool().idle, 2);
        one.send(GET).await;
        b.head().await;
        drop(b);
        serve(&mut w.accept().await).await;
        one.message().await;
        assert!(a.is_silent().await);
    });
}

#[test]
fn requests_beyond_the_limit_wait_for_a_free_connection() {
    run(with_limits(Limits { max_conns: 1, ..Limits::default() }), async |w| {
        let (mut one, mut two) = (w.client(), w.client());
        one.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        two.send(GET).await;
        assert!(two.is_silent().await);
        assert_eq!(w.pool().waiting, 1);
        up.send(OK).await;
        one.message().await;
        serve(&mut up).await;
        two.message().await;
        assert_eq!(w.pool().dials, 1);
    });
}

#[test]
fn a_client_that_leaves_the_queue_is_forgotten() {
    run(with_limits(Limits { max_conns: 1, ..Limits::default() }), async |w| {
        let (mut one, mut two, mut three) = (w.client(), w.client(), w.client());
        one.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut up = w.accept().await;
        up.head().await;
        two.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(two.is_silent().await);
        three.send("GET /3 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(three.is_silent().await);
        drop(two);
        up.send(OK).await;
        assert!(up.head().await.starts_with("GET /3 "));
        assert_eq!((w.pool().cancelled, w.proxy().client_aborts), (1, 1));
        drop(one);
    });
}

#[test]
fn a_client_that_leaves_before_the_response_cancels_it_upstream() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        drop(client);
        assert_eq!(up.rest().await, "", "the upstream sees the connection end");
        assert_eq!((w.proxy().client_aborts, w.pool().close_not_reusable), (1, 1));
    });
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_response_cancels_the_rest() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        up.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart").await;
        client.head().await;
        drop(client);
        assert_eq!(up.rest().await, "");
        assert_eq!((w.proxy().client_aborts, w.proxy().upstream_aborts), (1, 0));
    });
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_request_body_cancels_it_upstream() {
    run(Config { request_buffer: 0, ..Config::default() }, async |w| {
        let mut client = w.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\npart").await;
        let mut up = w.accept().await;
        up.head().await;
        up.expect("part").await;
        drop(client);
        assert_eq!(up.rest().await, "");
        assert_eq!(w.pool().active, 0);
    });
}

#[test]
fn connections_of_a_spike_close_when_the_spike_is_forgotten() {
    run(Config::default(), async |w| {
        let mut clients: Vec<End> = (0..20).map(|_| w.client()).collect();
        for client in &mut clients {
            client.send(GET).await;
        }
        let mut ups = Vec::new();
        for _ in 0..20 {
            let mut up = w.accept().await;
            up.head().await;
            ups.push(up);
        }
        for up in &mut ups {
            up.send(OK).await;
        }
        for client in &mut clients {
            client.message().await;
        }
        assert_eq!(w.pool().idle, 20);
        tokio::time::sleep(Duration::from_secs(35)).await;
        assert_eq!((w.pool().idle, w.pool().close_surplus), (1, 19));
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!((w.pool().idle, w.pool().close_idle_timeout), (0, 1));
    });
}

#[test]
fn a_freed_connection_serves_the_request_that_waited_for_a_slow_dial() {
    run(Config::default(), async |w| {
        let (mut one, mut two) = (w.client(), w.client());
        one.send(GET).await;
        let mut up = w.accept().await;
        up.head().await;
        w.dials(Dials::Hang);
        two.send(GET).await;
        assert!(two.is_silent().await);
        up.send(OK).await;
        one.message().await;
        serve(&mut up).await;
        two.message().await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!((w.pool().dial_timeout, w.proxy().late), (1, 0), "nobody waited for that dial any more");
    });
}

#[test]
fn a_request_that_takes_the_place_of_an_answered_one_takes_nothing_else_from_it() {
    let limits = Limits { max_conns: 1, ..Limits::default() };
    run(with_limits(limits), async |w| {
        let (mut first, mut up) = warm(&w).await;
        let (mut second, mut third) = (w.client(), w.client());
        first.send(GET).await;
        up.head().await;
        second.send(GET).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(w.pool().waiting, 1);
        // Two wake-ups in one turn: the second client's answer is there, and the third one asks before it is taken.
        up.send(OK).await;
        third.send(GET).await;
        let all = async {
            assert_eq!(first.message().await.1, "hi");
            serve(&mut up).await;
            assert_eq!(second.message().await.1, "hi");
            serve(&mut up).await;
            assert_eq!(third.message().await.1, "hi");
        };
        tokio::time::timeout(Duration::from_secs(5), all).await.expect("nobody is forgotten");
        assert_eq!((w.pool().active, w.pool().waiting), (0, 0));
    });
}
