//! The REST interface over real sockets, against a data thread that is not there.

use super::*;
use crate::host::fake::{Given, data_thread, names};
use nitrotap_core::gateway::FlowId;
use std::{
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
};
use tokio::io::AsyncReadExt as _;

/// Sends `requests` one after the other on one connection, the last with an order to close, and gives all that comes back.
async fn talk(services: &Services, peer: Option<IpAddr>, requests: &str) -> String {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let mut theirs = tokio::net::UnixStream::from_std(theirs).unwrap();
    let mut answers = String::new();
    let server = services.serve_or_turn_away(HostStream::new(OwnedFd::from(ours)).unwrap(), peer);
    let (mut from, mut to) = theirs.split();
    let client = async {
        // A server that has heard enough closes before the end.
        let _ = to.write_all(requests.as_bytes()).await;
        let _ = to.shutdown().await;
    };
    let ((), (), read) = tokio::join!(server, client, from.read_to_string(&mut answers));
    read.unwrap();
    answers
}

/// Status and body of one request; checks the headers that every answer has.
async fn ask(services: &Services, method: &str, path: &str, body: &str) -> (u16, String) {
    let peer = Some(IpAddr::from([192, 168, 127, 2]));
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let answer = talk(services, peer, &request).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_lowercase();
    let status: u16 = head.strip_prefix("http/1.1 ").unwrap()[..3].parse().unwrap();
    assert_eq!(head.contains("x-content-type-options: nosniff"), status != 200, "{head}");
    assert_eq!(head.contains("content-type: text/plain; charset=utf-8"), !body.is_empty(), "{head}");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
    (status, body.to_owned())
}

fn services() -> (Services, std::sync::mpsc::Receiver<Given>) {
    let (handle, given) = data_thread();
    (Services::new(handle, names()), given)
}

fn asker() -> Asker {
    Asker { flow: FlowId::from_u64(1), tenant: 5, address: IpAddr::from([192, 168, 127, 2]) }
}

#[tokio::test]
async fn forwards_live_as_in_gvproxy() {
    let (services, _given) = services();
    let expose = "/services/forwarder/expose";
    let unexpose = "/services/forwarder/unexpose";
    // (method, path, body, status, answer), where the words are those that gvproxy 0.8.1 gave.
    for (method, path, body, status, answer) in [
        ("GET", "/services/forwarder/all", "", 200, "[]\n"),
        ("POST", expose, r#"{"local":":443","remote":"192.168.127.2:443","protocol":"tcp"}"#, 200, ""),
        ("POST", expose, r#"{"Local":":443","REMOTE":":443"} x"#, 500, "proxy already running for tcp on :443\n"),
        ("POST", expose, r#"{"local":"127.0.0.1:53","remote":":53","protocol":"udp"}"#, 200, ""),
        ("POST", expose, r#"{"local":"/nowhere/<&>","remote":"tcp://192.168.127.2:80","protocol":"unix"}"#, 200, ""),
        ("POST", expose, "", 400, "EOF\n"),
        ("POST", expose, r#"{"local":":1","remote":"8.8.8.8:1"}"#, 400, "8.8.8.8:1 is not in the virtual network\n"),
        ("GET", expose, "", 400, "post only\n"),
        ("GET", unexpose, "", 400, "post only\n"),
        (
            "GET",
            "/services/forwarder/all",
            "",
            200,
            "[{\"local\":\"/nowhere/\\u003c\\u0026\\u003e\",\"remote\":\"tcp://192.168.127.2:80\",\"protocol\":\"unix\"},\
             {\"local\":\"127.0.0.1:53\",\"remote\":\"192.168.127.2:53\",\"protocol\":\"udp\"},\
             {\"local\":\":443\",\"remote\":\"192.168.127.2:443\",\"protocol\":\"tcp\"}]\n",
        ),
        ("POST", unexpose, r#"{"local":":443"}"#, 200, ""),
        ("POST", unexpose, r#"{"local":":443","protocol":"tcp"}"#, 500, "proxy not found\n"),
        ("POST", unexpose, r#"{"local":"127.0.0.1:53"}"#, 500, "proxy not found\n"),
        ("POST", unexpose, r#"{"local":"127.0.0.1:53","protocol":"what"}"#, 500, "proxy not found\n"),
    ] {
        assert_eq!(ask(&services, method, path, body).await, (status, answer.to_owned()), "{method} {path} {body}");
    }
}

#[tokio::test]
async fn the_rest_of_the_interface_is_gvproxys_too() {
    let (services, _given) = services();
    let leases = "{\"192.168.127.1\":\"5a:94:ef:e4:0c:dd\",\"192.168.127.10\":\"5a:94:ef:e4:0c:01\",\
                  \"192.168.127.2\":\"5a:94:ef:e4:0c:ee\"}\n";
    for (method, path, body, status, answer) in [
        ("GET", "/leases", "", 200, leases),
        ("GET", "/services/dhcp/leases", "", 200, leases),
        ("POST", "/cam", "", 200, "{\"02:00:00:00:00:01\":7,\"5a:94:ef:e4:0c:ee\":3}\n"),
        ("GET", "/stats?x", "", 200, "{\"BytesReceived\":6,\"BytesSent\":5,\"TCP\":{\"CurrentEstablished\":2}}\n"),
        ("GET", "/services/dns/all", "", 200, "[]\n"),
        ("GET", "/services/dns/add", "", 400, "post only\n"),
        (
            "POST",
            "/services/dns/add",
            r#"{"Name":"corp.internal.","Records":[{"Name":"a","IP":"10.0.0.1"}],"DefaultIP":"10.0.0.9"}"#,
            200,
            "",
        ),
        (
            "POST",
            "/services/dns/add",
            r#"{"Records":[{"IP":"10.0.0.1x"}]}"#,
            400,
            "record of \"\": \"10.0.0.1x\" is no IP address: invalid IP address syntax\n",
        ),
        (
            "GET",
            "/services/dns/all",
            "",
            200,
            "[{\"Name\":\"corp.internal.\",\"Records\":[{\"Name\":\"a\",\"IP\":\"10.0.0.1\"}],\
             \"DefaultIP\":\"10.0.0.9\"}]\n",
        ),
        ("GET", "/tunnel", "", 500, "ip is mandatory\n"),
        ("GET", "/tunnel?ip=foo&port=1", "", 400, "ip foo is no IP address, such as 192.168.127.2\n"),
        ("GET", "/connect", "", 404, "404 page not found\n"),
        ("GET", "/", "", 404, "404 page not found\n"),
    ] {
        assert_eq!(ask(&services, method, path, body).await, (status, answer.to_owned()), "{method} {path} {body}");
    }
}

#[tokio::test]
async fn a_request_without_a_host_is_none_but_in_http_1_0() {
    let (services, _given) = services();
    let answer = talk(&services, None, "GET /leases HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n400 Bad Request: missing required Host header"), "{answer}");
    let answer = talk(&services, None, "GET /leases HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn guests_see_forwards_and_nothing_else() {
    let (services, _given) = services();
    let services = services.of_guest(asker());
    assert_eq!(ask(&services, "GET", "/services/forwarder/all", "").await.0, 200);
    let hidden =
        ["/services/dns/all", "/services/dhcp/leases", "/leases", "/cam", "/stats", "/tunnel?ip=1.2.3.4&port=1"];
    for path in hidden {
        assert_eq!(ask(&services, "GET", path, "").await, (404, "404 page not found\n".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn for_a_guest_nothing_of_this_host_is_looked_at() {
    let (services, _given) = services();
    let services = services.of_guest(asker());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    for (local, remote, protocol, status) in [
        (path.to_str().unwrap(), "tcp://192.168.127.2:80", "unix", 403),
        ("localhost.example:8080", "192.168.127.2:80", "tcp", 400),
        (&*format!(":{}8080", "0".repeat(64)), "192.168.127.2:80", "tcp", 400),
        (":8080", ":80", "tcp", 200),
        ("127.0.0.1:8080", "192.168.127.2:80", "udp", 200),
    ] {
        let body = format!(r#"{{"local":"{local}","remote":"{remote}","protocol":"{protocol}"}}"#);
        let (answer, text) = ask(&services, "POST", "/services/forwarder/expose", &body).await;
        assert_eq!(answer, status, "{local} {text}");
    }
    assert!(path.exists(), "not even a dead socket is removed for a guest");
}

#[tokio::test]
async fn a_remote_without_a_host_needs_a_client_with_an_address() {
    let (services, _given) = services();
    let body = r#"{"local":":6443","remote":":6443"}"#;
    let request =
        format!("POST /services/forwarder/expose HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert!(talk(&services, None, &request).await.starts_with("HTTP/1.1 400 Bad Request\r\n"));
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let (services, _given) = services();
    let body = "x".repeat(MAX_BODY + 1);
    let answer = ask(&services, "POST", "/services/dns/add", &body).await;
    assert_eq!(answer, (413, "the body has more than 1048576 bytes\n".to_owned()));
}

#[tokio::test]
async fn a_tunnel_begins_without_an_answer_and_loses_no_byte() {
    let (services, given) = services();
    // A kept-open connection may become one too.
    for before in ["", "GET /leases HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let request = "POST /tunnel?ip=192.168.127.2&port=22 HTTP/1.1\r\nHost: \r\n\r\nSSH-2.0-";
        theirs.write_all(format!("{before}{request}").as_bytes()).unwrap();
        services.serve_or_turn_away(HostStream::new(ours.into()).unwrap(), None).await;
        let Given::Tunnel(tunnel) = given.recv().unwrap() else { panic!("a tunnel was asked for") };
        assert_eq!((tunnel.to.to_string().as_str(), &tunnel.received[..]), ("192.168.127.2:22", &b"SSH-2.0-"[..]));
        theirs.write_all(b"later").unwrap();
        let mut later = [0; 5];
        let mut stream = UnixStream::from(tunnel.stream);
        stream.set_nonblocking(false).unwrap();
        stream.read_exact(&mut later).unwrap();
        assert_eq!(&later, b"later");
        stream.write_all(b"answer").unwrap();
        drop(stream);
        let mut heard = String::new();
        theirs.read_to_string(&mut heard).unwrap();
        let heard = heard.rsplit("}\n").next().unwrap();
        assert_eq!(heard, "OKanswer", "nothing but OK comes before the guest's bytes");
    }
}

#[tokio::test]
async fn one_client_too_many_is_sent_away_and_not_kept() {
    let (services, _given) = services();
    let all = services.places.clone().acquire_many_owned(MAX_CONNECTIONS as u32).await.unwrap();
    let answer = talk(&services, None, "").await;
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\ntoo many clients\n"), "{answer}");
    drop(all);
    assert_eq!(ask(&services, "GET", "/leases", "").await.0, 200);
}
