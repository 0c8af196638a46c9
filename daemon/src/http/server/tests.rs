use super::*;
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
};

/// An upstream that answers every request of every connection, in threads that end with their connections.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                let mut buf = [0; 4096];
                while let Ok(1..) = stream.read(&mut buf) {
                    if buf.starts_with(b"GET /slow") {
                        thread::sleep(Duration::from_millis(300));
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
                }
            });
        }
    });
    address
}

fn options(upstream: SocketAddr, workers: usize) -> ProxyOptions {
    ProxyOptions {
        listen: vec!["127.0.0.1:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap()],
        upstream: format!("http://{upstream}").parse().unwrap(),
        workers: NonZeroUsize::new(workers).unwrap(),
        config: Config::default(),
        accept_proxy_protocol: false,
    }
}

fn connect(server: &ProxyServer, listener: usize) -> TcpStream {
    let ListenAddr::Tcp(address) = server.addresses[listener] else { panic!("TCP was asked for") };
    TcpStream::connect(address).unwrap()
}

fn get(stream: &mut TcpStream, path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
    let mut buf = [0; 4096];
    let n = stream.read(&mut buf).unwrap();
    String::from_utf8(buf[..n].to_vec()).unwrap()
}

#[tokio::test]
async fn connections_to_every_listener_are_dealt_out_evenly_and_counted() {
    let server = ProxyServer::start(&options(upstream(), 2)).unwrap();
    let mut clients: Vec<TcpStream> = (0..6).map(|n| connect(&server, n % 2)).collect();
    for client in &mut clients {
        let answer = get(client, "/");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hi"), "{answer}");
    }
    let sources = Sources::default();
    server.register(&sources);
    tokio::time::sleep(Duration::from_millis(400)).await;
    let requests = |p: &Published| p.proxy.read().find(|(d, _)| d.name == "nitrotap_proxy_requests").unwrap().1;
    assert_eq!(server.published.iter().map(|p| requests(p)).collect::<Vec<_>>(), [3, 3]);
    let text = status(&server.published, &server.upstream, &server.addresses);
    assert!(text.contains("6 open, 6 accepted, 0 turned away") && text.contains("6 in all"), "{text}");
    drop(clients);
    assert_eq!(server.drain(Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn a_drain_lets_the_request_in_flight_finish_and_refuses_the_next_connection() {
    let server = ProxyServer::start(&options(upstream(), 2)).unwrap();
    let ListenAddr::Tcp(address) = server.addresses[0] else { panic!("TCP was asked for") };
    let mut client = connect(&server, 0);
    assert!(get(&mut client, "/").ends_with("hi"));
    let slow = thread::spawn(move || get(&mut client, "/slow"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.drain(Duration::from_secs(5)).await, 0);
    let answer = slow.join().unwrap();
    assert!(answer.contains("connection: close") && answer.ends_with("hi"), "{answer}");
    assert!(TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn a_drain_cuts_what_does_not_finish_in_time() {
    let server = ProxyServer::start(&options(upstream(), 1)).unwrap();
    let mut client = connect(&server, 0);
    client.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.drain(Duration::from_millis(100)).await, 1);
}

#[tokio::test]
async fn an_unreachable_upstream_is_a_502_and_not_an_end() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = ProxyServer::start(&options(closed, 1)).unwrap();
    let mut client = connect(&server, 0);
    for _ in 0..2 {
        assert!(get(&mut client, "/").starts_with("HTTP/1.1 502 "));
    }
}

#[tokio::test]
async fn with_the_proxy_protocol_a_connection_without_its_header_is_closed_and_counted() {
    let options = ProxyOptions { accept_proxy_protocol: true, ..options(upstream(), 2) };
    let server = ProxyServer::start(&options).unwrap();
    let mut plain = connect(&server, 0);
    plain.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // A reset is as good an end as any.
    drop(plain.read_to_end(&mut answer));
    assert_eq!(String::from_utf8(answer).unwrap(), "");

    let mut clients: Vec<TcpStream> = (0..4).map(|n| connect(&server, n % 2)).collect();
    for client in &mut clients {
        let address = client.local_addr().unwrap();
        client.write_all(&nitrotap_core::proxy_protocol::encode(address, address)).unwrap();
        assert!(get(client, "/").ends_with("hi"));
    }
    let count = |name: &str| {
        let values: Vec<_> = sum(server.published.iter().map(|p| &p.headers)).filter(|(d, _)| d.name == name).collect();
        values.iter().map(|(_, value)| value).sum::<u64>()
    };
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!((count("nitrotap_proxy_protocol_accepted"), count("nitrotap_proxy_protocol_refused")), (4, 1));
    drop(clients);
    assert_eq!(server.drain(Duration::from_secs(5)).await, 0);
}
