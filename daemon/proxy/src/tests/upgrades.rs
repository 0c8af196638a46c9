//! Connections that become something else than HTTP.

use super::world::{End, World, field, run, with_limits};
use crate::Config;
use nitrotap_core::pool::Limits;

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: x\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: y\r\n\r\n";

async fn upgraded(w: &World, early: &str) -> (End, End) {
    let mut client = w.client();
    client.send(UPGRADE).await;
    let mut up = w.accept().await;
    let head = up.head().await;
    assert_eq!((field(&head, "connection"), field(&head, "upgrade")), (Some("upgrade"), Some("websocket")));
    assert_eq!(field(&head, "sec-websocket-key"), Some("x"));
    up.send(&format!("{SWITCH}{early}")).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!((field(&head, "connection"), field(&head, "upgrade")), (Some("upgrade"), Some("websocket")));
    assert_eq!(field(&head, "sec-websocket-accept"), Some("y"));
    (client, up)
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways_until_both_ends_are_done() {
    run(Config::default(), async |w| {
        let (mut client, mut up) = upgraded(&w, "early").await;
        client.expect("early").await;
        for n in 0..3 {
            client.send(&format!("ping{n}")).await;
            up.expect(&format!("ping{n}")).await;
            up.send(&format!("pong{n}")).await;
            client.expect(&format!("pong{n}")).await;
        }
        assert_eq!((w.proxy().tunnels, w.proxy().upgrades, w.proxy().responses_1xx), (1, 1, 1));
        client.finish().await;
        assert_eq!(up.rest().await, "", "the end of one direction passes alone");
        up.send("last words").await;
        client.expect("last words").await;
        drop(up);
        assert_eq!(client.rest().await, "");
        tokio::task::yield_now().await;
        assert_eq!((w.proxy().tunnels, w.pool().active, w.pool().close_not_reusable), (0, 0, 1));
    });
}

#[test]
fn bytes_sent_right_behind_the_upgrade_request_are_not_lost() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send(&format!("{UPGRADE}eager")).await;
        let mut up = w.accept().await;
        up.head().await;
        up.send(SWITCH).await;
        client.head().await;
        up.expect("eager").await;
    });
}

#[test]
fn a_declined_upgrade_is_an_ordinary_response() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client.send(UPGRADE).await;
        let mut up = w.accept().await;
        up.head().await;
        up.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno").await;
        assert_eq!(client.message().await.1, "no");
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        up.head().await;
        assert_eq!((w.pool().dials, w.proxy().tunnels), (1, 0));
    });
}

#[test]
fn a_tunnel_counts_as_a_busy_connection_and_as_a_client() {
    run(Config { max_clients: 1, ..with_limits(Limits { max_conns: 1, ..Limits::default() }) }, async |w| {
        let (_client, _up) = upgraded(&w, "").await;
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        assert_eq!((w.pool().active, w.proxy().clients), (1, 0));
        assert!(w.client().rest().await.starts_with("HTTP/1.1 503 "));
    });
}

#[test]
fn a_draining_shard_waits_for_its_tunnels() {
    run(Config::default(), async |w| {
        let (client, up) = upgraded(&w, "").await;
        w.shard.drain();
        let wait = std::time::Duration::from_secs(5);
        assert!(tokio::time::timeout(wait, w.shard.drained()).await.is_err());
        drop((client, up));
        w.shard.drained().await;
    });
}
