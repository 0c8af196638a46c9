//! What a client says about others, and what it would become.

use super::world::{field, run};
use crate::Config;

#[test]
fn names_that_an_app_would_fold_do_not_reach_it_and_are_counted() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client
            .send(
                "GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 6.6.6.6\r\nX_Forwarded_Proto: https\r\nForwarded: for=6.6.6.6\r\n\
                 X-Forwarded-Port: 443\r\nProxy: evil\r\nsession_id: 7\r\n\r\n",
            )
            .await;
        let head = w.accept().await.head().await.to_lowercase();
        assert!(!head.contains("6.6.6.6") && !head.contains("https") && !head.contains("443"), "{head}");
        assert!(!head.contains("evil") && field(&head, "session_id") == Some("7"), "{head}");
        assert_eq!(w.proxy().dropped_fields, 5);
    });
}

#[test]
fn what_the_proxy_says_of_a_client_cannot_be_taken_back_by_the_client() {
    run(Config { trust_forwarded: true, ..Config::default() }, async |w| {
        let mut client = w.client();
        client
            .send(
                "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 203.0.113.9\r\nX-Real-IP: 203.0.113.9\r\n\
                 Connection: X-Forwarded-For, X-Forwarded-Proto, X-Real-IP, X-Forwarded-Host, Host\r\n\r\n",
            )
            .await;
        let head = w.accept().await.head().await;
        assert_eq!(field(&head, "x-forwarded-for"), Some("203.0.113.9, 192.0.2.7"));
        assert_eq!(
            (field(&head, "x-forwarded-proto"), field(&head, "x-real-ip")),
            (Some("https"), Some("203.0.113.9"))
        );
        assert_eq!((field(&head, "x-forwarded-host"), field(&head, "host")), (Some("a"), Some("a")));
    });
}

#[test]
fn an_upgrade_to_http_2_is_not_passed_and_its_101_would_be_a_502() {
    run(Config::default(), async |w| {
        let mut client = w.client();
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n")
            .await;
        let mut up = w.accept().await;
        let head = up.head().await;
        assert_eq!(
            (field(&head, "upgrade"), field(&head, "connection"), field(&head, "http2-settings")),
            (None, None, None)
        );
        up.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 502 "));
        assert_eq!((w.proxy().tunnels, w.proxy().broken), (0, 1));
    });
}

#[test]
fn a_101_to_another_protocol_than_asked_is_a_502() {
    for answer in ["Upgrade: h2c", "X: y", "Upgrade: websocket, h2c"] {
        run(Config::default(), async |w| {
            let mut client = w.client();
            client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
            let mut up = w.accept().await;
            up.head().await;
            up.send(&format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n{answer}\r\n\r\n")).await;
            assert!(client.head().await.starts_with("HTTP/1.1 502 "), "{answer}");
            assert_eq!((w.proxy().tunnels, w.proxy().upgrades, w.pool().active), (0, 0, 0));
        });
    }
}
