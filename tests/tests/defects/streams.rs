//! TCP and UDP towards the world.

use crate::Seen;
use nitrotap_tests::{
    FrameClient, Scratch, World,
    enclave::serve_outside,
    frameclient::{Answer, Flags, GATEWAY, HOST, Options, Segment, Station},
    gateway::Kind,
    guest::payload::Payload,
    usage,
    wait::{self, SOON},
    world::SILENT,
};
use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream},
    time::Duration,
};

const ANSWER: Duration = Duration::from_secs(3);

/// Twenty connections to hosts that never answer, and one to a host that does.
pub(crate) fn unanswered_destinations_that_stall_all_others(kind: Kind) -> Seen {
    let world = World::new()?;
    let gateway = world.start(kind.options())?;
    let (_echo, port) = world.serve(&["tcp-echo", "127.0.0.1:0"]);
    let mut client = FrameClient::connect(&gateway, Station::number(2));
    let us = client.station();
    for n in 0..20 {
        let to = Ipv4Addr::from_bits(SILENT.to_bits() + n);
        let from = client.free_port();
        let syn = Segment {
            from,
            to: 80,
            seq: 1,
            flags: Flags::SYN,
            window: 1000,
            options: Options::LINUX,
            ..Segment::default()
        };
        client.send(&us.tcp(to, &syn));
    }
    client.run(Duration::from_millis(500));
    let start = wait::now();
    let answer = client.tcp_connect(SocketAddrV4::new(HOST, port), Duration::from_secs(4));
    Ok((!matches!(answer, Answer::Open(_))).then(|| format!("no connection in {:?}", start.elapsed())))
}

/// Each of the four ends of two connections ends first, and the other end has still something to say.
pub(crate) fn half_closed_connections_that_are_cut(kind: Kind) -> Seen {
    const MORE: usize = 100_000;
    let gateway = kind.start()?;
    let mut client = FrameClient::connect(&gateway, Station::number(2));
    let more = || Payload::bytes(1, MORE);
    let mut seen = Vec::new();
    let mut expect = |what: &str, bytes: usize| {
        if bytes != MORE {
            seen.push(format!("{what}: {bytes} of {MORE} bytes"));
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = SocketAddrV4::new(HOST, listener.local_addr().unwrap().port());
    let accept = || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        stream
    };
    let read = |mut stream: &TcpStream| {
        let mut bytes = Vec::new();
        // A reset or silence ends it too; the length tells.
        let _ = stream.read_to_end(&mut bytes);
        bytes
    };
    let pause = Duration::from_millis(300);

    // To the world; the client ends first.
    let mut inside = client.tcp_connect(to, SOON).expect_open();
    let mut outside = accept();
    inside.close(&mut client);
    assert!(read(&outside).is_empty());
    client.run(pause);
    let _ = outside.write_all(&more());
    drop(outside);
    inside.run_to_end(&mut client, ANSWER);
    expect("to the world, ended inside", inside.received.len());

    // To the world; the server ends first.
    let mut inside = client.tcp_connect(to, SOON).expect_open();
    let outside = accept();
    outside.shutdown(Shutdown::Write).unwrap();
    inside.run_to_end(&mut client, ANSWER);
    client.run(pause);
    inside.send(&mut client, &more());
    inside.close(&mut client);
    inside.run(&mut client, ANSWER, |inside| inside.is_acknowledged() || inside.reset);
    expect("to the world, ended outside", read(&outside).len());

    // From the world; the client outside ends first.
    let local = gateway.expose_tcp(7000);
    let outside = TcpStream::connect(local).unwrap();
    outside.set_read_timeout(Some(ANSWER)).unwrap();
    let mut inside = client.tcp_accept(7000, SOON).expect("a connection");
    outside.shutdown(Shutdown::Write).unwrap();
    inside.run_to_end(&mut client, ANSWER);
    client.run(pause);
    inside.send(&mut client, &more());
    inside.close(&mut client);
    inside.run(&mut client, ANSWER, |inside| inside.is_acknowledged() || inside.reset);
    expect("from the world, ended outside", read(&outside).len());

    // From the world; the server inside ends first.
    let mut outside = TcpStream::connect(local).unwrap();
    outside.set_read_timeout(Some(ANSWER)).unwrap();
    let mut inside = client.tcp_accept(7000, SOON).expect("a connection");
    inside.close(&mut client);
    inside.run(&mut client, ANSWER, |inside| inside.is_acknowledged() || inside.reset);
    assert!(read(&outside).is_empty());
    client.run(pause);
    let _ = outside.write_all(&more()).and_then(|()| outside.shutdown(Shutdown::Write));
    inside.run_to_end(&mut client, ANSWER);
    expect("from the world, ended inside", inside.received.len());
    Ok((!seen.is_empty()).then(|| seen.join("; ")))
}

/// One enclave asks for a download and reads nothing of its stream.
pub(crate) fn an_enclave_that_reads_nothing_and_stalls_the_others(kind: Kind) -> Seen {
    let gateway = kind.start()?;
    let scratch = Scratch::new();
    let (_endless, endless) = serve_outside(&["tcp-source", "127.0.0.1:0", "1000000000000", "52"], &scratch);
    let (_source, source) = serve_outside(&["tcp-source", "127.0.0.1:0", "2000000", "53"], &scratch);
    let mut stalled = FrameClient::connect(&gateway, Station::number(3));
    let mut downloads: Vec<_> =
        (0..8).map(|_| stalled.tcp_connect(SocketAddrV4::new(HOST, endless), SOON).expect_open()).collect();
    for download in &mut downloads {
        download.acknowledge(&mut stalled);
    }
    stalled.stop_reading();
    let mut other = FrameClient::connect(&gateway, Station::number(2));
    for round in 0..10 {
        std::thread::sleep(Duration::from_millis(100));
        let start = wait::now();
        if !other.ping(GATEWAY, 100, ANSWER) {
            return Ok(Some(format!("no echo reply for another enclave, in round {round}")));
        }
        let mut download = match other.tcp_connect(SocketAddrV4::new(HOST, source), SOON) {
            Answer::Open(download) => download,
            no @ (Answer::Refused(_) | Answer::Silent) => {
                return Ok(Some(format!("another enclave cannot connect: {no:?}")));
            }
        };
        download.run_to_end(&mut other, SOON);
        if download.received.len() != 2_000_000 {
            let (bytes, time) = (download.received.len(), start.elapsed());
            return Ok(Some(format!("another enclave got {bytes} bytes in {time:?}, in round {round}")));
        }
        download.close(&mut other);
    }
    Ok(None)
}

/// A datagram from each of very many ports.
pub(crate) fn udp_sessions_without_a_bound(kind: Kind) -> Seen {
    /// What a single enclave may have; ours documents 2048.
    const BOUND: usize = 2048;
    usage::raise_descriptor_limit();
    let gateway = kind.start()?;
    let scratch = Scratch::new();
    let (_echo, port) = serve_outside(&["udp-echo", "127.0.0.1:0"], &scratch);
    let to = SocketAddrV4::new(HOST, port);
    let mut client = FrameClient::connect(&gateway, Station::number(2));
    let before = usage::descriptors(gateway.pid());
    let mut most = 0;
    for from in 20_000..24_000 {
        client.queue(&client.station().udp(from, to, b"abc"));
        if from % 100 == 0 {
            client.flush();
            client.clear();
            most = most.max(usage::descriptors(gateway.pid()) - before);
        }
    }
    client.flush();
    // One that is lost behind all the others is no defect.
    let second = Duration::from_secs(1);
    let served = (0..10).any(|_| client.udp_exchange_from(30_000, to, b"the last", second).is_some());
    most = most.max(usage::descriptors(gateway.pid()) - before);
    let bounded = most <= BOUND + 16;
    Ok((!bounded || !served).then(|| format!("{most} sockets for 4000 ports; a new session is served: {served}")))
}

/// The enclave resets its connections right after they open.
pub(crate) fn connections_left_open_outside_after_a_reset(kind: Kind) -> Seen {
    let gateway = kind.start()?;
    let mut client = FrameClient::connect(&gateway, Station::number(2));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = SocketAddrV4::new(HOST, listener.local_addr().unwrap().port());
    let mut left = 0;
    for _ in 0..20 {
        client.tcp_connect(to, SOON).expect_open().abort(&mut client);
        let (mut outside, _) = listener.accept().unwrap();
        outside.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let end = outside.read(&mut [0; 1]);
        left += usize::from(end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
        if left == 2 {
            break;
        }
    }
    Ok((left > 0).then(|| format!("{left} connections are still open outside")))
}

/// Ours only opens it when told to.
pub(crate) fn a_loopback_that_is_open_to_enclaves_unasked(kind: Kind) -> Seen {
    let gateway = kind.options().without_host_loopback().start()?;
    let mut client = FrameClient::connect(&gateway, Station::number(2));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut seen = Vec::new();
    for to in [HOST, Ipv4Addr::LOCALHOST] {
        if matches!(client.tcp_connect(SocketAddrV4::new(to, port), ANSWER), Answer::Open(_)) {
            seen.push(format!("tcp to {to}"));
        }
    }
    let scratch = Scratch::new();
    let (_echo, port) = serve_outside(&["udp-echo", "127.0.0.1:0"], &scratch);
    if client.udp_exchange(SocketAddrV4::new(HOST, port), b"abc", Duration::from_secs(1)).is_some() {
        seen.push("udp".to_owned());
    }
    Ok((!seen.is_empty()).then(|| seen.join(", ")))
}
