//! Link listeners over real sockets, against a data thread that is not there.

use super::*;
use crate::host::{
    fake::{Given, data_thread, names},
    socket::Bound,
};
use nitrotap_core::frame::Framing;
use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    sync::mpsc::Receiver,
};

const GO: &str = "POST /connect HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 0\r\n\r\n";
const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\n\
    X-Content-Type-Options: nosniff\r\nContent-Length: 19\r\n\r\n404 page not found\n";

fn acceptor(path: &Path, scheme: &str) -> Acceptor {
    let url = format!("{scheme}://{}", path.display()).parse().unwrap();
    Bound::listen(&url, 0o600).unwrap().register().unwrap()
}

/// A link listener on a socket at `path`, with a data thread behind it.
fn link_listener(path: &Path, with_services: bool) -> Receiver<Given> {
    let (handle, given) = data_thread();
    let services = with_services.then(|| Services::new(handle.clone(), names()));
    tokio::spawn(
        LinkListener {
            acceptor: acceptor(path, "unix"),
            index: 5,
            handle,
            services,
            turned_away: TurnedAway::default(),
        }
        .serve(),
    );
    given
}

/// Runs `client` on a thread of its own, while the runtime of the test serves it.
async fn blocking<T: Send + 'static>(client: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(client).await.unwrap()
}

fn attached(given: &Receiver<Given>) -> Attach {
    match given.recv().unwrap() {
        Given::Attach(attach) => attach,
        Given::Tunnel(_) | Given::Stop => panic!("a link was expected"),
    }
}

#[tokio::test]
async fn connect_is_answered_with_nothing_and_no_byte_behind_it_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let given = link_listener(&path, false);
    blocking(move || {
        // Whole, in two pieces, and byte by byte.
        let stream = [GO.as_bytes(), b"\x0e\0frame"].concat();
        for piece in [stream.len(), GO.len() - 2, 1] {
            let mut client = UnixStream::connect(&path).unwrap();
            for piece in stream.chunks(piece) {
                client.write_all(piece).unwrap();
            }
            let attach = attached(&given);
            assert_eq!((attach.kind, attach.tenant), (LinkKind::Stream(Framing::Hyperkit), 0x8000_0005));
            client.write_all(b"more").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut got = attach.received;
            let mut ours = UnixStream::from(attach.stream);
            ours.set_nonblocking(false).unwrap();
            ours.read_to_end(&mut got).unwrap();
            assert_eq!(got, b"\x0e\0framemore", "pieces of {piece}");
            ours.write_all(b"x").unwrap();
            drop(ours);
            let mut heard = String::new();
            client.read_to_string(&mut heard).unwrap();
            assert_eq!(heard, "x", "nothing but frames");
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_not_there_is_404_and_connect_may_follow_on_the_same_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let given = link_listener(&path, false);
    blocking(move || {
        let mut client = UnixStream::connect(&path).unwrap();
        for request in [
            "GET /services/forwarder/all HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /nitrotap HTTP/1.1\r\nHost: \r\nConnection: Upgrade\r\nUpgrade: nitrotap\r\n\r\n",
        ] {
            client.write_all(request.as_bytes()).unwrap();
            let mut answer = vec![0; NOT_FOUND.len()];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(String::from_utf8(answer).unwrap(), NOT_FOUND);
        }
        client.write_all(GO.as_bytes()).unwrap();
        assert!(attached(&given).received.is_empty());
    })
    .await;
}

#[tokio::test]
async fn what_is_no_request_is_refused_in_words_and_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _given = link_listener(&path, false);
    blocking(move || {
        let long = format!("GET / HTTP/1.1\r\nHost:\r\na: {}", "b".repeat(MAX_HEAD * 2));
        for (text, status) in [
            ("POST /connect HTTP/1.1\r\n\r\n", "400 Bad Request: missing required Host header"),
            ("\x0e\0\u{1}\u{2}\r\n\r\n", "400 Bad Request"),
            ("POST /connect HTTP/1.1\r\nHost:\r\nContent-Length: 5\r\n\r\nhello", "400 Bad Request"),
            (long.as_str(), "431 Request Header Fields Too Large"),
        ] {
            let mut client = UnixStream::connect(&path).unwrap();
            client.write_all(text.as_bytes()).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
        }
        // One that keeps asking.
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all("GET /x HTTP/1.1\r\nHost: x\r\n\r\n".repeat(MAX_REQUESTS + 1).as_bytes()).unwrap();
        let mut answers = String::new();
        client.read_to_string(&mut answers).unwrap();
        assert_eq!(answers.matches("404 page not found\n").count(), MAX_REQUESTS);
        assert_eq!(answers.matches("Connection: close").count(), 1);
    })
    .await;
}

#[tokio::test]
async fn services_are_on_a_link_listener_only_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let given = link_listener(&path, true);
    blocking(move || {
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"GET /services/forwarder/all HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n[]\n"), "{answer}");
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(GO.as_bytes()).unwrap();
        attached(&given);
    })
    .await;
}

#[tokio::test]
async fn a_full_house_of_silent_clients_holds_back_the_next_one_until_one_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let given = link_listener(&path, false);
    blocking(move || {
        let mut silent: Vec<_> = (0..MAX_HANDSHAKES).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(GO.as_bytes()).unwrap();
        // All of them are in the listener's hands before it could have come to the last.
        silent[0].write_all(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        silent[0].read_exact(&mut vec![0; NOT_FOUND.len()]).unwrap();
        assert!(given.try_recv().is_err(), "there was no room for it");
        drop(silent.pop());
        attached(&given);
    })
    .await;
}

#[tokio::test]
async fn raw_listeners_have_one_peer_at_a_time_and_take_another_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (handle, given) = data_thread();
    let kind = LinkKind::Stream(Framing::Qemu);
    tokio::spawn(
        RawListener { acceptor: acceptor(&path, "unix"), index: 1, handle, kind, turned_away: TurnedAway::default() }
            .serve(),
    );
    blocking(move || {
        let _first = UnixStream::connect(&path).unwrap();
        let mut attach = attached(&given);
        assert_eq!((attach.kind, attach.tenant, attach.received.len()), (kind, 0x8000_0001, 0));
        let _second = UnixStream::connect(&path).unwrap();
        assert!(given.try_recv().is_err(), "the first is still there");
        attach.ended.take().unwrap().send(()).unwrap();
        // A data thread that ends without a word frees the place as well.
        drop(attached(&given));
        let _third = UnixStream::connect(&path).unwrap();
        attached(&given);
    })
    .await;
}

#[tokio::test]
async fn bess_peers_send_messages() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (handle, given) = data_thread();
    tokio::spawn(
        RawListener {
            acceptor: acceptor(&path, "unixpacket"),
            index: 0,
            handle,
            kind: LinkKind::Messages,
            turned_away: TurnedAway::default(),
        }
        .serve(),
    );
    blocking(move || {
        let client = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        connect(&client, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::io::write(&client, b"one").unwrap();
        rustix::io::write(&client, b"two").unwrap();
        let attach = attached(&given);
        assert_eq!(attach.kind, LinkKind::Messages);
        let mut message = [0; 16];
        assert_eq!(rustix::io::read(&attach.stream, &mut message).unwrap(), 3, "messages stay apart");
    })
    .await;
}

#[tokio::test]
async fn who_dials_without_end_is_held_to_the_listeners_rate() {
    use nitrotap_core::gateway::arrivals::{BURST, RATE};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let given = link_listener(&path, false);
    let clock = crate::clock::Clock::start();
    let dialled = BURST + RATE / 2;
    blocking(move || {
        let dialler = std::thread::spawn(move || {
            for _ in 0..dialled {
                // It is closed when it was accepted, which a full backlog makes this wait for.
                let mut client = UnixStream::connect(&path).unwrap();
                client.write_all(GO.as_bytes()).unwrap();
            }
        });
        for n in 1..=dialled {
            drop(attached(&given));
            let passed = clock.now().since(nitrotap_core::time::Instant::ZERO);
            let most = BURST + RATE * u64::try_from(passed.as_millis()).unwrap() / 1000 + 2;
            assert!(n <= most, "{n} links in {passed:?}");
        }
        dialler.join().unwrap();
    })
    .await;
}

#[test]
fn tenants_are_the_cid_or_the_listener() {
    assert_eq!(tenant(Peer::Vsock { cid: 16, port: 9 }, 3), 16);
    assert_eq!(tenant(Peer::Local, 3), 0x8000_0003);
    assert_eq!(tenant(Peer::Ip(([127, 0, 0, 1], 1).into()), 0), 0x8000_0000);
}

#[test]
fn one_enclave_cannot_take_all_the_seats() {
    let seats = Seats::default();
    let peer = |cid| Peer::Vsock { cid, port: 1 };
    let mut taken: Vec<_> = (0..MAX_HANDSHAKES_PER_PEER).map(|_| seats.take(peer(16)).unwrap()).collect();
    assert!(seats.take(peer(16)).is_none());
    assert!(seats.take(peer(17)).is_some());
    taken.pop();
    assert!(seats.take(peer(16)).is_some());
    drop(taken);
    assert!(seats.taken.lock().unwrap().is_empty(), "nothing is kept for those who are gone");
}
