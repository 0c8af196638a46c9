//! Clients and worlds that do their worst to `nitrotap host`: its memory and its descriptors stay within bounds, and a
//! well-behaved neighbour keeps its service all the time. Figures are printed on standard error.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use nitrotap_tests::{
    FrameClient, Gateway, World,
    flows::echo,
    frameclient::{
        Answer, Conversation, Flags, GATEWAY, GO_REQUEST, HOST, Options, Segment, Station, packets::GATEWAY_MAC,
    },
    gateway::Kind,
    guest::payload::Payload,
    require, usage,
    wait::{self, SOON},
    world::SILENT,
};
use smoltcp::wire::{EthernetAddress, EthernetProtocol};
use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

const MEBIBYTE: u64 = 1 << 20;

/// How long the neighbour's round may take at most while others misbehave.
const ROUND: Duration = Duration::from_secs(10);

/// A client that does everything right, and notices when it is not served. It has a listener of its own, as on vsock every
/// enclave has a CID of its own: who shares one shares what one may have.
struct Neighbour {
    client: FrameClient,
    to: SocketAddrV4,
    slowest: Duration,
}

impl Neighbour {
    /// With an echo server on the loopback of this machine.
    fn new(gateway: &Gateway) -> Self {
        Self::with(gateway, echo::serve())
    }

    /// With an echo server that the gateway finds on its loopback.
    fn with(gateway: &Gateway, port: u16) -> Self {
        let to = SocketAddrV4::new(HOST, port);
        let client = FrameClient::connect_to(&gateway.second_socket(), Station::number(9));
        let mut neighbour = Self { client, to, slowest: Duration::ZERO };
        neighbour.round();
        neighbour
    }

    /// A ping, a connection, an exchange, an end.
    fn round(&mut self) {
        let (start, client) = (wait::now(), &mut self.client);
        // Broadcasts of others may have filled its queue meanwhile, and then a reply is lost, as on any network.
        client.clear();
        let answered = (0..5).any(|_| client.ping(GATEWAY, 100, ROUND / 5));
        assert!(answered, "the neighbour's pings are not answered");
        let mut conversation = client.tcp_connect(self.to, ROUND).expect_open();
        let data = Payload::bytes(1, 20_000);
        conversation.send(client, &data);
        assert!(
            conversation.run(client, ROUND, |conversation| conversation.received == data),
            "the neighbour got {} bytes of its echo",
            conversation.received.len()
        );
        conversation.close(client);
        assert!(conversation.run(client, ROUND, |conversation| conversation.is_acknowledged() || conversation.reset));
        assert_eq!(client.broken(), 0);
        self.slowest = self.slowest.max(start.elapsed());
        assert!(start.elapsed() < ROUND, "the neighbour's round took {:?}", start.elapsed());
    }
}

/// What a gateway uses, and since when.
struct Watch<'a> {
    gateway: &'a Gateway,
    resident: u64,
    descriptors: usize,
    start: Instant,
}

impl<'a> Watch<'a> {
    fn new(gateway: &'a Gateway) -> Self {
        let (resident, descriptors) = (usage::resident(gateway.pid()), usage::descriptors(gateway.pid()));
        Self { gateway, resident, descriptors, start: wait::now() }
    }

    /// Prints what happened, and fails if memory grew by more than `bound` bytes.
    fn expect_memory(&self, what: &str, bound: u64, neighbour: &Neighbour) {
        let now = usage::resident(self.gateway.pid());
        let grown = now.saturating_sub(self.resident);
        let (slowest, time) = (neighbour.slowest, self.start.elapsed());
        writeln!(
            io::stderr(),
            "{what}: {time:.1?}, memory {} KiB, {} KiB more; the neighbour's slowest round {slowest:.1?}",
            now / 1024,
            grown / 1024
        )
        .expect("standard error is open");
        assert!(grown <= bound, "{what}: memory grew by {grown} bytes, the bound is {bound}");
    }

    /// Waits until no more than `more` descriptors are open than at first.
    fn expect_descriptors(&self, more: usize) {
        let pid = self.gateway.pid();
        let left = || usage::descriptors(pid).saturating_sub(self.descriptors);
        wait::try_until(SOON, || (left() <= more).then_some(()))
            .unwrap_or_else(|| panic!("{} descriptors more than at first", left()));
    }
}

fn syn(from: u16, to: SocketAddrV4, seq: u32) -> Segment {
    let options = Options::LINUX;
    Segment { from, to: to.port(), seq, flags: Flags::SYN, window: u16::MAX, options, ..Segment::default() }
}

/// A hundred thousand SYNs; `destination` says where each goes.
fn flood(gateway: &Gateway, neighbour: &mut Neighbour, destination: impl Fn(u32) -> SocketAddrV4) {
    let mut attacker = FrameClient::connect(gateway, Station::number(2));
    for n in 0..100_000_u32 {
        let to = destination(n);
        let from = u16::try_from(1024 + n % 60_000).unwrap();
        let frame = attacker.station().tcp(*to.ip(), &syn(from, to, n));
        attacker.queue(&frame);
        if n % 500 == 0 {
            attacker.flush();
            attacker.clear_inbox();
        }
        if n % 20_000 == 0 {
            neighbour.round();
        }
    }
    attacker.flush();
    neighbour.round();
}

#[test]
fn a_flood_of_connections_to_hosts_that_never_answer() {
    usage::raise_descriptor_limit();
    let world = require!(World::new());
    let gateway = require!(world.start(Kind::Ours.options().with_second_listener()));
    let (_echo, port) = world.serve(&["tcp-echo", "127.0.0.1:0"]);
    let mut neighbour = Neighbour::with(&gateway, port);
    let watch = Watch::new(&gateway);
    flood(&gateway, &mut neighbour, |n| SocketAddrV4::new(Ipv4Addr::from_bits(SILENT.to_bits() + n % 100), 80));
    // A thousand half-open ones of 16 KiB, and room for what the allocator keeps.
    watch.expect_memory("100,000 SYNs to hosts that never answer", 64 * MEBIBYTE, &neighbour);
}

#[test]
fn a_flood_of_connections_that_are_never_completed() {
    usage::raise_descriptor_limit();
    let gateway = require!(Kind::Ours.options().with_second_listener().start());
    let mut neighbour = Neighbour::new(&gateway);
    let watch = Watch::new(&gateway);
    let to = SocketAddrV4::new(HOST, echo::serve());
    flood(&gateway, &mut neighbour, |_| to);
    watch.expect_memory("100,000 SYNs whose answers nobody acknowledges", 64 * MEBIBYTE, &neighbour);
}

#[test]
fn frames_of_garbage() {
    let gateway = require!(Kind::Ours.options().with_second_listener().start());
    let mut neighbour = Neighbour::new(&gateway);
    let watch = Watch::new(&gateway);
    let mut attacker = FrameClient::connect(&gateway, Station::number(2));
    let us = attacker.station();
    let mut random = Payload::new(77);
    for round in 0..50 {
        for _ in 0..1000 {
            let mut dice = [0; 4];
            random.fill(&mut dice);
            let length = usize::from(u16::from_le_bytes([dice[0], dice[1]])) % 1600;
            let mut bytes = vec![0; length];
            random.fill(&mut bytes);
            let kind = match dice[2] % 4 {
                0 => EthernetProtocol::Arp,
                1 => EthernetProtocol::Ipv6,
                _ => EthernetProtocol::Ipv4,
            };
            let to = if dice[3] & 1 == 0 { GATEWAY_MAC } else { EthernetAddress::BROADCAST };
            if let Some(first) = bytes.first_mut().filter(|_| dice[3] & 2 == 0) {
                *first = 0x45;
            }
            // Some have no header either.
            let frame = if dice[2] > 250 { bytes } else { us.frame(to, kind, &bytes) };
            attacker.queue(&frame);
        }
        attacker.flush();
        attacker.clear_inbox();
        if round % 10 == 0 {
            neighbour.round();
        }
    }
    assert!(attacker.ping(GATEWAY, 10, SOON), "its own stream is in step too");
    neighbour.round();
    watch.expect_memory("50,000 frames of garbage", 16 * MEBIBYTE, &neighbour);
}

#[test]
fn addresses_that_are_made_up() {
    let gateway = require!(Kind::Ours.options().with_second_listener().start());
    let mut neighbour = Neighbour::new(&gateway);
    let watch = Watch::new(&gateway);
    let mut attacker = FrameClient::connect(&gateway, Station::number(2));
    let victim = neighbour.client.station();
    for n in 0..50_000_u32 {
        let [_, a, b, c] = n.to_be_bytes();
        let liar = Station {
            mac: EthernetAddress([2, 1, 1, a, b, c]),
            ip: Ipv4Addr::new(192, 168, 127, 100 + c % 100),
            ..attacker.station()
        };
        let frame = match n % 4 {
            0 => liar.arp_request(GATEWAY),
            1 => liar.udp(9, SocketAddrV4::new(GATEWAY, 9), b"abc"),
            // The address of the neighbour, with a MAC of our own.
            2 => Station { ip: victim.ip, ..liar }.arp_reply(GATEWAY_MAC, GATEWAY),
            _ => Station { ip: victim.ip, ..liar }.arp_request(GATEWAY),
        };
        attacker.queue(&frame);
        if n % 500 == 0 {
            attacker.flush();
            attacker.clear_inbox();
        }
        if n % 10_000 == 0 {
            neighbour.round();
        }
    }
    attacker.flush();
    neighbour.round();
    // What comes from outside still finds the neighbour.
    let local = gateway.expose_tcp_to((victim.ip, 7000).into());
    let _outside = TcpStream::connect(local).unwrap();
    assert!(neighbour.client.tcp_syn(7000, SOON).is_some());
    let known = gateway.cam().matches("\":").count();
    assert!(known <= 66, "one client has {known} addresses in the table");
    watch.expect_memory("50,000 made-up addresses", 16 * MEBIBYTE, &neighbour);
}

/// Sends endlessly on every connection; gives the port.
fn endless() -> u16 {
    serve(|mut stream| {
        let chunk = [7; 65_536];
        while stream.write_all(&chunk).is_ok() {}
    })
}

/// Serves each connection on its own thread.
fn serve(serve: fn(TcpStream)) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    port
}

#[test]
fn downloads_whose_window_is_shut() {
    let gateway = require!(Kind::Ours.options().with_second_listener().start());
    let mut neighbour = Neighbour::new(&gateway);
    let watch = Watch::new(&gateway);
    let mut attacker = FrameClient::connect(&gateway, Station::number(2));
    let to = SocketAddrV4::new(HOST, endless());
    let mut downloads: Vec<Conversation> = (0..100).map(|_| attacker.tcp_connect(to, SOON).expect_open()).collect();
    for download in &mut downloads {
        download.set_window(&mut attacker, 0);
    }
    for _ in 0..10 {
        attacker.run(Duration::from_millis(300));
        attacker.clear();
        neighbour.round();
    }
    // A hundred buffers of 512 KiB at most, and what stands in the other direction.
    watch.expect_memory("100 downloads with a window of zero", 128 * MEBIBYTE, &neighbour);
    // One whose window opens again goes on.
    let download = &mut downloads[0];
    let before = download.received.len();
    download.set_window(&mut attacker, 60_000);
    assert!(download.run(&mut attacker, SOON, |download| download.received.len() > before + 100_000));
    for download in &mut downloads {
        download.abort(&mut attacker);
    }
    watch.expect_descriptors(2);
}

#[test]
fn an_enclave_that_reads_nothing() {
    let gateway = require!(Kind::Ours.options().with_second_listener().start());
    let mut neighbour = Neighbour::new(&gateway);
    let watch = Watch::new(&gateway);
    let mut attacker = FrameClient::connect(&gateway, Station::number(2));
    let to = SocketAddrV4::new(HOST, endless());
    for _ in 0..50 {
        attacker.tcp_connect(to, SOON).expect_open();
    }
    attacker.stop_reading();
    for n in 0..10_u16 {
        thread::sleep(Duration::from_millis(300));
        // It asks for more, which nobody reads either.
        attacker.queue(&attacker.station().echo_request(GATEWAY, 1, n, &[0; 1400]));
        attacker.turn(Duration::ZERO);
        neighbour.round();
    }
    watch.expect_memory("an enclave that reads nothing of 50 downloads", 64 * MEBIBYTE, &neighbour);
    attacker.resume_reading();
    attacker.run(Duration::from_secs(1));
    attacker.clear_inbox();
    assert!(attacker.arp_request(GATEWAY, SOON).is_some(), "the stream is in step");
    assert_eq!(attacker.broken(), 0);
}

#[test]
fn a_world_that_reads_nothing() {
    let gateway = require!(Kind::Ours.options().with_second_listener().start());
    let mut neighbour = Neighbour::new(&gateway);
    let watch = Watch::new(&gateway);
    let mut attacker = FrameClient::connect(&gateway, Station::number(2));
    let to = SocketAddrV4::new(HOST, serve(|_stream| thread::sleep(Duration::from_secs(600))));
    let mut uploads = Vec::new();
    for n in 0..50 {
        let mut upload = attacker.tcp_connect(to, SOON).expect_open();
        // More than any window, and no respect for it.
        upload.send(&mut attacker, &Payload::bytes(n, 1_000_000));
        attacker.clear_inbox();
        uploads.push(upload);
        if n % 10 == 0 {
            neighbour.round();
        }
    }
    neighbour.round();
    watch.expect_memory("50 uploads that nobody outside reads", 128 * MEBIBYTE, &neighbour);
}

#[test]
fn requests_that_never_end() {
    let gateway = require!(Kind::Ours.options().with_second_listener().start());
    let mut neighbour = Neighbour::new(&gateway);
    let watch = Watch::new(&gateway);
    let mut held = Vec::new();
    for n in 0..200 {
        for socket in [gateway.socket(), gateway.api_socket()] {
            // Where there is no room for more, that is an answer too.
            let Ok(mut stream) = UnixStream::connect(socket) else { continue };
            stream.set_nonblocking(true).unwrap();
            let _ = stream.write(&GO_REQUEST[..n % GO_REQUEST.len()]);
            held.push(stream);
        }
    }
    neighbour.round();
    let start = wait::now();
    // Somebody new is let in elsewhere, while they are all still there.
    let mut late = FrameClient::connect_to(&gateway.second_socket(), Station::number(3));
    assert!(late.ping(GATEWAY, 10, SOON));
    assert!(start.elapsed() < ROUND, "served after {:?} only", start.elapsed());
    // And here as soon as enough of them are given up, ten seconds each 64 of them.
    assert_eq!(gateway.call("GET", "/leases", "").status().unwrap(), 200);
    let mut here = FrameClient::connect(&gateway, Station::number(4));
    assert!(here.ping(GATEWAY, 10, SOON));
    drop(here);
    watch.expect_memory("400 requests that never end", 64 * MEBIBYTE, &neighbour);
    drop(held);
    drop(late);
    watch.expect_descriptors(2);
    neighbour.round();
}

#[test]
fn connections_that_are_reset_at_once() {
    let gateway = require!(Kind::Ours.options().with_second_listener().start());
    let mut neighbour = Neighbour::new(&gateway);
    let watch = Watch::new(&gateway);
    let mut attacker = FrameClient::connect(&gateway, Station::number(2));
    let quiet = SocketAddrV4::new(HOST, echo::serve());
    // Closes with unread bytes, which resets.
    let rude = SocketAddrV4::new(HOST, serve(|mut stream| drop(stream.read(&mut [0; 1]))));
    for n in 0..2000 {
        let to = if n % 2 == 0 { quiet } else { rude };
        let mut conversation = attacker.tcp_connect(to, SOON).expect_open();
        if n % 2 == 0 {
            conversation.abort(&mut attacker);
        } else {
            conversation.send(&mut attacker, b"two bytes and more");
            conversation.run_to_end(&mut attacker, SOON);
            conversation.abort(&mut attacker);
        }
        if n % 400 == 0 {
            neighbour.round();
        }
    }
    neighbour.round();
    watch.expect_descriptors(2);
    watch.expect_memory("2000 connections that are reset at once", 32 * MEBIBYTE, &neighbour);
}

#[test]
fn clients_that_come_and_go() {
    let gateway = require!(Kind::Ours.options().with_second_listener().start());
    let mut neighbour = Neighbour::new(&gateway);
    let watch = Watch::new(&gateway);
    for n in 0..1000 {
        let us = Station::number(20 + u8::try_from(n % 200).unwrap());
        let mut client = FrameClient::dial_with(&gateway, us, &[us.arp_request(GATEWAY)]);
        match n % 4 {
            0 => assert!(client.find(SOON, |packet| packet.as_arp().map(|_| ())).is_some()),
            // In the middle of a frame, and of its length.
            1 => client.send_raw(&[60, 0, 1, 2, 3]),
            2 => client.send_raw(&[60]),
            _ => {}
        }
        drop(client);
        if n % 200 == 0 {
            neighbour.round();
        }
    }
    watch.expect_descriptors(0);
    neighbour.round();
    watch.expect_memory("1000 clients that come and go", 16 * MEBIBYTE, &neighbour);
}

#[test]
fn strangers_leave_a_guest_its_own_connections() {
    let gateway = require!(Kind::Ours.options().args(&["--max-flows-per-enclave", "8"]).start());
    let mut guest = FrameClient::connect(&gateway, Station::number(2));
    let local = gateway.expose_tcp_to((guest.station().ip, 7000).into());
    let strangers: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(local).unwrap()).collect();
    let held: Vec<Conversation> = (0..6).map(|_| guest.tcp_accept(7000, SOON).expect("three quarters of 8")).collect();
    wait::until("all others to be refused", SOON, || {
        (gateway.stat("nitrotap_gateway_refused,limit=inbound") == 14).then_some(())
    });
    let echo = SocketAddrV4::new(HOST, echo::serve());
    let _own = [(); 2].map(|()| guest.tcp_connect(echo, SOON).expect_open());
    // All that it may have is in use now, and that is a limit too.
    assert!(guest.tcp_connect(echo, Duration::from_millis(300)).is_silent());
    drop((strangers, held));
}

#[test]
fn strangers_wait_in_the_backlog_while_their_guest_does_not_answer() {
    const AT_ONCE: u64 = 256;
    const ALL: u64 = 600;
    let gateway = require!(Kind::Ours.options().start());
    let mut guest = FrameClient::connect(&gateway, Station::number(2));
    let local = gateway.expose_tcp_to((guest.station().ip, 7000).into());
    let strangers: Vec<TcpStream> = (0..ALL).map(|_| TcpStream::connect(local).unwrap()).collect();
    let accepted = || gateway.stat("nitrotap_host_accepted");
    wait::until("the port to be held", SOON, || (gateway.stat("nitrotap_host_accepts_held") > 0).then_some(()));
    assert_eq!(accepted(), AT_ONCE);
    // That is one port's affair.
    let other = gateway.expose_tcp_to((guest.station().ip, 7001).into());
    let _client = TcpStream::connect(other).unwrap();
    assert!(guest.tcp_accept(7001, SOON).is_some());
    // Those that are given up make room, and when the guest answers all others are served.
    wait::until("the first ones to be given up", SOON, || {
        guest.clear();
        (accepted() > AT_ONCE + 1).then_some(())
    });
    wait::until("all others to be served", SOON, || {
        while guest.tcp_accept(7000, Duration::from_millis(20)).is_some() {}
        (gateway.stat("nitrotap_gateway_tcp_opened") > ALL - AT_ONCE).then_some(())
    });
    assert_eq!(accepted(), ALL + 1);
    drop(strangers);
}

#[test]
fn strangers_do_not_end_what_a_guest_takes_part_in() {
    let gateway = require!(Kind::Ours.options().args(&["--max-udp-sessions-per-enclave", "16"]).start());
    let mut guest = FrameClient::connect(&gateway, Station::number(2));
    let local = gateway.expose_udp(7000);
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    let to = SocketAddrV4::new(HOST, server.local_addr().unwrap().port());
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.connect(local).unwrap();
    let mut buffer = [0; 64];
    // The guest asks a server, and a client talks to the guest; the port that the client has for the guest stays the same.
    guest.send_udp(4000, to, b"ask");
    let (_, asker) = server.recv_from(&mut buffer).unwrap();
    let mut talk = |guest: &mut FrameClient| {
        client.send(b"hello").unwrap();
        let from = guest
            .find(SOON, |packet| {
                let (addresses, datagram) = packet.as_udp()?;
                let wanted = datagram.to == 7000 && datagram.payload == b"hello";
                wanted.then(|| SocketAddrV4::new(addresses.from, datagram.from))
            })
            .expect("the client's datagram");
        guest.send_udp(7000, from, b"answer");
        assert_eq!(client.recv(&mut buffer).unwrap(), 6);
        from
    };
    let before = [talk(&mut guest), talk(&mut guest)];
    let seen = || {
        gateway.stat("nitrotap_gateway_datagrams,direction=to_enclave") + gateway.stat("nitrotap_host_accept_refused")
    };
    let first = seen();
    // In parts that the published port's socket has room for.
    for part in 1..=10 {
        for _ in 0..50 {
            UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"stranger", local).unwrap();
        }
        wait::until("the strangers to be seen", SOON, || {
            guest.clear();
            (seen() >= first + part * 50).then_some(())
        });
    }
    assert_eq!([before[0], talk(&mut guest)], [before[1]; 2], "the client has another port");
    server.send_to(b"late", asker).unwrap();
    assert_eq!(guest.recv_udp(4000, to, SOON).as_deref(), Some(&b"late"[..]));
}

#[test]
fn memory_that_is_used_up_refuses_connections_and_ends_nothing() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    usage::raise_descriptor_limit();
    let gateway = require!(Kind::Ours.options().with_second_listener().start());
    let mut neighbour = Neighbour::new(&gateway);
    let mut guest = FrameClient::connect(&gateway, Station::number(2));
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let size: u64 = size.trim().trim_end_matches("kB").trim().parse().unwrap();
    let limit = Some(size * 1024 + 64 * MEBIBYTE);
    let pid = Pid::from_raw(i32::try_from(gateway.pid()).unwrap());
    prlimit(pid, Resource::As, Rlimit { current: limit, maximum: limit }).unwrap();
    let to = SocketAddrV4::new(HOST, echo::serve());
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..200 {
        match guest.tcp_connect(to, SOON) {
            Answer::Open(conversation) => open.push(conversation),
            Answer::Refused(_) => refused += 1,
            Answer::Silent => panic!("a connection for which there is no memory gets an answer"),
        }
    }
    assert!(open.len() >= 10 && refused >= 10, "{} open, {refused} refused", open.len());
    assert_eq!(gateway.stat("nitrotap_gateway_refused,limit=memory"), refused);
    assert!(neighbour.client.ping(GATEWAY, 100, SOON));
    for conversation in &mut open {
        let data = Payload::bytes(1, 5000);
        conversation.send(&mut guest, &data);
        assert!(conversation.run(&mut guest, SOON, |conversation| conversation.received == data));
        conversation.abort(&mut guest);
    }
    wait::until("memory to be free again", SOON, || {
        matches!(neighbour.client.tcp_connect(to, SOON), Answer::Open(_)).then_some(())
    });
    neighbour.round();
}

#[test]
fn a_gateway_that_is_killed_under_load_serves_again_at_once() {
    let mut gateway = require!(Kind::Ours.options().with_second_listener().start());
    for round in 0..3 {
        let neighbour = Neighbour::new(&gateway);
        let mut loads: Vec<_> = (2..6).map(|n| FrameClient::connect(&gateway, Station::number(n))).collect();
        let to = SocketAddrV4::new(HOST, endless());
        for load in &mut loads {
            let mut download = load.tcp_connect(to, SOON).expect_open();
            assert!(download.run(load, SOON, |download| download.received.len() > 200_000));
        }
        gateway.kill();
        for load in &mut loads {
            wait::until("the stream to end", SOON, || {
                load.turn(Duration::from_millis(10));
                load.clear_inbox();
                load.is_closed().then_some(())
            });
        }
        drop(neighbour);
        let start = wait::now();
        gateway.restart();
        let neighbour = Neighbour::new(&gateway);
        let time = start.elapsed();
        writeln!(io::stderr(), "killed for the {round}th time: served {time:.1?} later")
            .expect("standard error is open");
        assert!(time < SOON && neighbour.slowest < ROUND);
    }
}
