//! The control side as a whole, against a data thread that is not there.

use super::*;
use crate::host::{
    config::{Limits, Listeners, Network, SUBNET},
    control::{Forward, Local},
    fake::{Given, data_thread, names},
};
use nitrotap_core::gateway::{FlowId, publishing::Asker};
use std::{
    future::pending,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::mpsc::Receiver,
};
use tokio::sync::oneshot;

struct World {
    given: Receiver<Given>,
    guests: mpsc::Sender<Guest>,
    end: oneshot::Sender<Result<(), Error>>,
}

/// A data thread, and the ends of it that a test holds.
fn gateway() -> (Running, World) {
    let (handle, given) = data_thread();
    let (to_guests, guests) = mpsc::channel(4);
    let (end, ended) = oneshot::channel();
    (Running { handle, names: names(), guests, ended }, World { given, guests: to_guests, end })
}

async fn run(config: Config, gateway: Running) -> Result<(), Error> {
    run_until(pending(), config, Activated::default(), gateway, Sources::default()).await
}

fn config(dir: &Path) -> Config {
    let url = |name: &str| format!("unix://{}", dir.join(name).display()).parse().unwrap();
    Config {
        listeners: Listeners {
            links: vec![url("link")],
            qemu: vec![url("qemu")],
            bess: Vec::new(),
            services: Some(url("services")),
            services_on_links: false,
            guest_services: true,
            socket_mode: 0o600,
        },
        network: Network::in_subnet(SUBNET).unwrap(),
        policy: nitrotap_core::gateway::policy::PolicyConfig::default(),
        limits: Limits::default(),
        forwards: vec![Forward {
            name: ":443".into(),
            local: Local::Tcp(([0, 0, 0, 0], 443).into()),
            to: "192.168.127.2:443".parse().unwrap(),
            proxy_protocol: false,
        }],
        resolv_conf: "/etc/resolv.conf".into(),
        pcap: None,
        metrics: None,
        pid_file: Some(dir.join("pid")),
    }
}

/// Connects as soon as somebody listens.
fn connect(path: &Path) -> UnixStream {
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(_) => std::thread::yield_now(),
        }
    }
}

fn forwards(mut stream: UnixStream) -> String {
    stream.write_all(b"GET /services/forwarder/all HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_serves_what_was_asked_for_and_ends_when_told_with_nothing_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, world) = gateway();
    let (tell, told) = oneshot::channel();
    let told = async { told.await.unwrap() };
    let running = tokio::spawn(run_until(told, config(dir.path()), Activated::default(), gateway, Sources::default()));
    let folder = dir.path().to_owned();
    tokio::task::spawn_blocking(move || {
        let listed = "[{\"local\":\":443\",\"remote\":\"192.168.127.2:443\",\"protocol\":\"tcp\"}]\n";
        assert_eq!(forwards(connect(&folder.join("services"))), listed);
        let mut link = connect(&folder.join("link"));
        link.write_all(b"POST /connect HTTP/1.1\r\nHost: \r\n\r\n").unwrap();
        let Given::Attach(attach) = world.given.recv().unwrap() else { panic!("a link was expected") };
        assert_eq!(attach.kind, LinkKind::Stream(Framing::Hyperkit));
        let _qemu = connect(&folder.join("qemu"));
        let Given::Attach(attach) = world.given.recv().unwrap() else { panic!("a link was expected") };
        assert_eq!(attach.kind, LinkKind::Stream(Framing::Qemu));
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let asker = Asker { flow: FlowId::from_u64(1), tenant: 5, address: [192, 168, 127, 2].into() };
        world.guests.blocking_send(Guest { stream: ours.into(), asker }).unwrap();
        assert_eq!(forwards(theirs), listed);
        // It is the last thing that is made.
        while !folder.join("pid").exists() {
            std::thread::yield_now();
        }
        tell.send(()).unwrap();
        // No listener is left when the data thread is told.
        assert!(matches!(world.given.recv(), Ok(Given::Stop)));
        assert!(!folder.join("link").exists());
        world.end.send(Ok(())).unwrap();
    })
    .await
    .unwrap();
    running.await.unwrap().unwrap();
    let left: Vec<PathBuf> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_data_thread_that_fails_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, world) = gateway();
    world.end.send(Err(Error::runtime("the sockets are gone"))).unwrap();
    let error = run(config(dir.path()), gateway).await.unwrap_err();
    assert_eq!(error.to_string(), "the sockets are gone");
    assert!(!dir.path().join("link").exists() && !dir.path().join("pid").exists());
}

#[tokio::test]
async fn what_cannot_be_had_ends_it_before_it_is_ready() {
    let dir = tempfile::tempdir().unwrap();
    let _live = UnixListener::bind(dir.path().join("services")).unwrap();
    let (gateway, _world) = gateway();
    let error = run(config(dir.path()), gateway).await.unwrap_err();
    assert!(error.to_string().contains("a process listens there already"), "{error}");
    assert!(!dir.path().join("link").exists(), "what was bound is gone again");
}

#[tokio::test]
async fn a_forward_that_cannot_be_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, _world) = gateway();
    let mut config = config(dir.path());
    config.forwards[0].to = "8.8.8.8:443".parse().unwrap();
    let error = run(config, gateway).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot publish tcp :443 to 8.8.8.8:443: 8.8.8.8:443 is not in the virtual network");
}

#[test]
fn sockets_of_systemd_are_sorted_by_name() {
    let socket = || OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let named = |names: &[&str]| Activated::sort(names.iter().map(|name| (socket(), (*name).to_owned())).collect());
    let sorted = named(&["link", "link-vsock", "nitrotap.socket", "unknown", "", "services"]).unwrap();
    assert_eq!((sorted.links.len(), sorted.services.len()), (5, 1));
    let error = named(&["metrics"]).unwrap_err().to_string();
    assert!(error.contains("\"metrics\"") && error.contains("FileDescriptorName=link"), "{error}");
    let datagram = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let error = Activated::sort(vec![(datagram.into(), "link".to_owned())]).unwrap_err().to_string();
    assert!(error.contains("ListenStream="), "{error}");
}
