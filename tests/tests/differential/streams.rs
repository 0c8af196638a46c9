//! TCP: how connections open, end, are refused, and what is never said.

use crate::facts::Facts;
use nitrotap_tests::{
    FrameClient, Gateway,
    frameclient::{Answer, Conversation, Flags, GATEWAY, HOST, Options, Segment, Station, packets::Icmp},
    guest::payload::Payload,
    wait,
    world::{SILENT, UNREACHABLE},
};
use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::Duration,
};

/// How long an answer is waited for that should come.
const ANSWER: Duration = Duration::from_secs(5);
/// How long one is waited for that should not.
const SILENCE: Duration = Duration::from_millis(1500);

/// Serves one connection on the loopback of this machine; the thread gives what it read.
fn serve(serve: impl FnOnce(TcpStream) -> io::Result<Vec<u8>> + Send + 'static) -> (SocketAddrV4, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = SocketAddrV4::new(HOST, listener.local_addr().unwrap().port());
    let thread = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        match serve(stream) {
            Ok(bytes) => format!("{} bytes and the end", bytes.len()),
            Err(error) => format!("{:?}", error.kind()),
        }
    });
    (to, thread)
}

fn read_all(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map(|_| bytes)
}

pub(crate) fn record(facts: &mut Facts, gateway: &Gateway) {
    let mut client = FrameClient::connect(gateway, Station::number(2));
    openings(facts, &mut client);
    refusals(facts, &mut client);
    ends(facts, &mut client);
    strays(facts, &mut client);
    from_outside(facts, gateway, &mut client);
    facts.note("tcp frames that are broken", client.broken());
}

fn openings(facts: &mut Facts, client: &mut FrameClient) {
    let nothing = Options::default();
    let stamped = Options { timestamps: Some((1000, 0)), ..Options::LINUX };
    let variants = [
        ("what Linux offers", Options::LINUX),
        ("what Linux offers and timestamps", stamped),
        ("nothing", nothing),
        ("a segment size of 536", Options { mss: Some(536), ..nothing }),
        ("a segment size of 9000", Options { mss: Some(9000), ..nothing }),
        ("a segment size of 0", Options { mss: Some(0), ..nothing }),
        ("a window scale of 0", Options { window_scale: Some(0), ..nothing }),
        ("a window scale of 14", Options { window_scale: Some(14), ..nothing }),
        ("a window scale of 15", Options { window_scale: Some(15), ..nothing }),
        ("selective acknowledgements", Options { sack_permitted: true, ..nothing }),
    ];
    for (name, options) in variants {
        let (to, _server) = serve(|stream| read_all(&stream));
        let key = format!("tcp syn with {name}");
        match client.tcp_connect_with(to, options, u16::MAX, ANSWER) {
            Answer::Open(mut conversation) => {
                let Segment { flags, options, window, payload, .. } = conversation.opening.clone();
                facts.note(&key, format!("{flags:?} {} {} bytes", option_words(options), payload.len()));
                if name == "what Linux offers" || name == "nothing" {
                    facts.note(&format!("{key}: window"), scaled(window, options));
                }
                conversation.close(client);
                conversation.run_to_end(client, ANSWER);
            }
            Answer::Refused(_) | Answer::Silent => facts.note(&key, "no connection"),
        }
    }
    // How large the segments are that follow.
    for mss in [200, 1000, 1460] {
        let (to, _server) = serve(|mut stream| {
            stream.write_all(&Payload::bytes(1, 10_000))?;
            read_all(&stream)
        });
        let options = Options { mss: Some(mss), ..Options::default() };
        let mut conversation = client.tcp_connect_with(to, options, u16::MAX, ANSWER).expect_open();
        let largest = client.find(ANSWER, |packet| {
            let (_, segment) = packet.as_tcp()?;
            (segment.to == conversation.local && !segment.payload.is_empty()).then_some(segment.payload.len())
        });
        facts.note(&format!("tcp data to a client with a segment size of {mss}"), format!("{largest:?} bytes"));
        conversation.abort(client);
    }
}

/// The offers; timestamps differ from run to run.
fn option_words(options: Options) -> String {
    let Options { mss, window_scale, sack_permitted, timestamps } = options;
    let scale = if window_scale.is_some() { "a scale" } else { "no scale" };
    let echo = timestamps.map(|(_, echo)| echo);
    format!("mss {mss:?}, {scale}, sack {sack_permitted}, timestamps that echo {echo:?},")
}

fn scaled(window: u16, options: Options) -> String {
    format!("{window} shifted by {:?}", options.window_scale)
}

fn refusals(facts: &mut Facts, client: &mut FrameClient) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let link_local = Ipv4Addr::new(169, 254, 169, 254);
    for (name, to) in [
        ("a port that nobody listens on", SocketAddrV4::new(HOST, free)),
        ("a link-local address", SocketAddrV4::new(link_local, 80)),
        ("the broadcast address", SocketAddrV4::new(Ipv4Addr::BROADCAST, 80)),
    ] {
        let answer = client.tcp_connect(to, SILENCE);
        facts.note(&format!("tcp to {name}"), answer_words(client, &answer));
    }
}

/// Acknowledgements are told relative to the SYN's number.
fn answer_words(client: &mut FrameClient, answer: &Answer) -> String {
    match answer {
        Answer::Open(conversation) => format!("open, {:?}", conversation.opening.flags),
        Answer::Refused(segment) => {
            let syn = u32::from(segment.to) << 12;
            let relative = segment.ack.wrapping_sub(syn);
            format!("{:?} seq {} ack syn+{relative} window {}", segment.flags, segment.seq, segment.window)
        }
        Answer::Silent => {
            let error = client.find(Duration::ZERO, |packet| match packet.as_icmp()?.1 {
                Icmp::Other { kind, code } => Some(format!("icmp type {kind} code {code}")),
                Icmp::EchoReply { .. } => None,
            });
            client.clear();
            error.unwrap_or_else(|| "silence".to_owned())
        }
    }
}

fn end_words(conversation: &Conversation) -> String {
    let end = match (conversation.ended, conversation.reset) {
        (_, true) => "a reset",
        (true, false) => "an end",
        (false, false) => "nothing more",
    };
    format!("{} bytes and {end}", conversation.received.len())
}

fn ends(facts: &mut Facts, client: &mut FrameClient) {
    // The server ends first, with and without something said.
    for bytes in [0, 10_000] {
        let (to, server) = serve(move |mut stream| {
            stream.write_all(&Payload::bytes(1, bytes))?;
            stream.shutdown(Shutdown::Write)?;
            read_all(&stream)
        });
        let mut conversation = client.tcp_connect(to, ANSWER).expect_open();
        conversation.run_to_end(client, ANSWER);
        let key = format!("tcp that the server ends after {bytes} bytes");
        facts.note(&format!("{key}: client"), end_words(&conversation));
        conversation.close(client);
        let acknowledged = conversation.run(client, ANSWER, |conversation| conversation.is_acknowledged());
        facts.note(&format!("{key}: the client's end is acknowledged"), acknowledged);
        facts.note(&format!("{key}: server"), server.join().unwrap());
    }
    // The client ends first, and the server has still something to say.
    let (to, server) = serve(|mut stream| {
        let question = read_all(&stream)?;
        thread::sleep(Duration::from_millis(300));
        stream.write_all(&Payload::bytes(1, 50_000))?;
        Ok(question)
    });
    let mut conversation = client.tcp_connect(to, ANSWER).expect_open();
    conversation.send(client, b"question");
    conversation.close(client);
    conversation.run_to_end(client, ANSWER);
    facts.note("tcp that the client half-closes: client", end_words(&conversation));
    facts.note("tcp that the client half-closes: server", server.join().unwrap());

    // The server ends first, and the client has still something to say.
    let (to, server) = serve(|stream| {
        stream.shutdown(Shutdown::Write)?;
        read_all(&stream)
    });
    let mut conversation = client.tcp_connect(to, ANSWER).expect_open();
    conversation.run_to_end(client, ANSWER);
    client.run(Duration::from_millis(300));
    for piece in Payload::bytes(2, 50_000).chunks(5000) {
        conversation.send(client, piece);
        conversation.run(client, ANSWER, |conversation| conversation.is_acknowledged() || conversation.reset);
    }
    if !conversation.reset {
        conversation.close(client);
        conversation.run(client, ANSWER, |conversation| conversation.is_acknowledged() || conversation.reset);
    }
    facts.note("tcp that the server half-closes: client", end_words(&conversation));
    facts.note("tcp that the server half-closes: server", server.join().unwrap());

    // The server resets: it closes with unread bytes.
    let (to, server) = serve(|stream| {
        let mut one = [0; 1];
        (&stream).read_exact(&mut one)?;
        Ok(one.to_vec())
    });
    let mut conversation = client.tcp_connect(to, ANSWER).expect_open();
    conversation.send(client, b"question");
    conversation.run_to_end(client, ANSWER);
    facts.note("tcp that the server resets: client", end_words(&conversation));
    server.join().unwrap();

    // The client resets.
    let (to, server) = serve(|stream| read_all(&stream));
    let mut conversation = client.tcp_connect(to, ANSWER).expect_open();
    conversation.send(client, b"question");
    conversation.run(client, ANSWER, |conversation| conversation.is_acknowledged());
    conversation.abort(client);
    facts.note("tcp that the client resets: server", server.join().unwrap());
}

/// Segments without a connection.
fn strays(facts: &mut Facts, client: &mut FrameClient) {
    let to = SocketAddrV4::new(HOST, 9);
    for (name, flags) in [
        ("an acknowledgement", Flags::ACK),
        ("an end", Flags::FIN | Flags::ACK),
        ("a reset", Flags::RST),
        ("no flag", Flags::default()),
        ("a SYN and an end", Flags::SYN | Flags::FIN),
        ("a SYN and an acknowledgement", Flags::SYN | Flags::ACK),
    ] {
        let from = client.free_port();
        let stray = Segment { from, to: to.port(), seq: 1000, ack: 2000, flags, window: 1000, ..Segment::default() };
        client.send(&client.station().tcp(*to.ip(), &stray));
        let answer = client.find(Duration::from_millis(700), |packet| {
            let (_, segment) = packet.as_tcp()?;
            (segment.to == from).then(|| format!("{:?} seq {} ack {}", segment.flags, segment.seq, segment.ack))
        });
        facts.note(&format!("tcp stray with {name}"), answer.unwrap_or_else(|| "silence".to_owned()));
    }
}

fn from_outside(facts: &mut Facts, gateway: &Gateway, client: &mut FrameClient) {
    let local = gateway.expose_tcp(7000);
    let outside = TcpStream::connect(local).unwrap();
    let (remote, syn) = client.tcp_syn(7000, ANSWER).expect("a SYN");
    facts.note("tcp from outside: syn", format!("from {} {:?} {}", remote.ip(), syn.flags, option_words(syn.options)));
    facts.note("tcp from outside: window", scaled(syn.window, syn.options));
    let refusal = Segment {
        from: 7000,
        to: remote.port(),
        ack: syn.seq.wrapping_add(1),
        flags: Flags::RST | Flags::ACK,
        ..Segment::default()
    };
    client.send(&client.station().tcp(*remote.ip(), &refusal));
    outside.set_read_timeout(Some(ANSWER)).unwrap();
    facts.note("tcp from outside that the client refuses", outside_words(&outside));

    // The client says nothing, and somebody waits.
    let start = wait::now();
    let outside = TcpStream::connect(local).unwrap();
    outside.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    client.tcp_syn(7000, ANSWER).expect("a SYN");
    let end = outside_words(&outside);
    let seconds = start.elapsed().as_secs();
    let when = if (8..13).contains(&seconds) { "ten".to_owned() } else { seconds.to_string() };
    facts.note("tcp from outside that the client ignores", format!("{end} after {when} seconds"));
    client.clear();

    let mut outside = TcpStream::connect(local).unwrap();
    outside.set_read_timeout(Some(ANSWER)).unwrap();
    outside.write_all(b"question").unwrap();
    outside.shutdown(Shutdown::Write).unwrap();
    let mut inside = client.tcp_accept(7000, ANSWER).expect("a connection");
    inside.run_to_end(client, ANSWER);
    facts.note("tcp from outside that is half-closed there: client", end_words(&inside));
    client.run(Duration::from_millis(300));
    inside.send(client, b"answer");
    inside.close(client);
    inside.run(client, Duration::from_secs(2), |inside| inside.is_acknowledged() || inside.reset);
    facts.note("tcp from outside that is half-closed there: outside", outside_words(&outside));

    let mut outside = TcpStream::connect(local).unwrap();
    outside.set_read_timeout(Some(ANSWER)).unwrap();
    let mut inside = client.tcp_accept(7000, ANSWER).expect("a connection");
    inside.send(client, b"banner");
    inside.close(client);
    inside.run(client, ANSWER, |inside| inside.is_acknowledged() || inside.reset);
    facts.note("tcp from outside that is half-closed here: outside", outside_words(&outside));
    thread::sleep(Duration::from_millis(300));
    let sent = outside.write_all(b"more").and_then(|()| outside.shutdown(Shutdown::Write));
    inside.run_to_end(client, Duration::from_secs(2));
    facts.note("tcp from outside that is half-closed here: client", format!("{} after {sent:?}", end_words(&inside)));
}

fn outside_words(stream: &TcpStream) -> String {
    match read_all(stream) {
        Ok(bytes) => format!("{} bytes and the end", bytes.len()),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// In a world of its own: destinations that do not answer, or do not exist.
pub(crate) fn record_of_silence(facts: &mut Facts, gateway: &Gateway) {
    let mut client = FrameClient::connect(gateway, Station::number(2));
    for (name, to) in [
        ("a host that no route leads to", UNREACHABLE),
        ("a host that does not answer", SILENT),
        ("a guest that is not there", Ipv4Addr::new(192, 168, 127, 77)),
        ("a closed port of the gateway", GATEWAY),
        ("the loopback by its own address", Ipv4Addr::LOCALHOST),
    ] {
        let answer = client.tcp_connect(SocketAddrV4::new(to, 81), SILENCE);
        facts.note(&format!("tcp to {name}"), answer_words(&mut client, &answer));
    }
}
