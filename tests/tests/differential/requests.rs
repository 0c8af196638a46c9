//! The REST API: every endpoint, every error, status and headers and body.

use crate::facts::Facts;
use nitrotap_tests::{
    FrameClient, Gateway, Scratch,
    frameclient::{AGAIN, Answer, Flags, GATEWAY, Segment, Station},
    http::{self, Message},
    wait::{self, SOON},
};
use std::{
    io::{self, BufReader, Read as _, Write as _},
    net::{SocketAddr, SocketAddrV4, TcpListener, UdpSocket},
    os::unix::net::UnixStream,
    time::Duration,
};

const ANSWER: Duration = Duration::from_secs(3);

/// Status, the headers that a client may look at, and the body.
fn words(answer: io::Result<Message>, replace: &[(String, &str)]) -> String {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return format!("no answer ({:?})", error.kind()),
    };
    let status = answer.start.split_once(' ').map_or("", |(_, status)| status);
    let header =
        |name: &str| answer.header(name).map(|value| format!(" {}: {value};", name.to_lowercase())).unwrap_or_default();
    let headers: String =
        ["Content-Type", "X-Content-Type-Options", "Location", "Allow", "Transfer-Encoding"].map(header).concat();
    // Newer releases leave out an expression that is not there.
    let text = answer.text().replace(r#","Regexp":null"#, "");
    let text = replace.iter().fold(text, |text, (from, to)| text.replace(from.as_str(), to));
    format!("{status};{headers} {text}")
}

struct Api<'a> {
    facts: &'a mut Facts,
    gateway: &'a Gateway,
    /// What differs from run to run, and what is noted instead.
    replace: Vec<(String, &'static str)>,
}

impl Api<'_> {
    fn call(&mut self, key: &str, method: &str, path: &str, body: &str) {
        let answer = self.gateway.try_call(method, path, body);
        self.facts.note(&format!("api {key}"), words(answer, &self.replace));
    }

    /// Bytes as they are, to the end of the connection or of the answer.
    fn raw(&mut self, key: &str, bytes: &[u8]) {
        self.facts.note(&format!("api raw {key}"), words(raw(self.gateway, bytes), &self.replace));
    }
}

fn raw(gateway: &Gateway, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = UnixStream::connect(gateway.api_socket())?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(bytes)?;
    http::read_response(&mut BufReader::new(stream), "GET")
}

fn free_tcp() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap()
}

fn free_udp() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap()
}

pub(crate) fn record(facts: &mut Facts, gateway: &Gateway) {
    let mut api = Api { facts, gateway, replace: Vec::new() };
    forwards(&mut api);
    tables(&mut api);
    tunnels(&mut api);
    inside(&mut api);
    http_itself(&mut api);
}

fn forwards(api: &mut Api<'_>) {
    let scratch = Scratch::new();
    let (tcp, udp, taken) = (free_tcp(), free_udp(), TcpListener::bind("127.0.0.1:0").unwrap());
    let taken = (taken.local_addr().unwrap(), taken);
    let path = scratch.join("forward.sock");
    api.replace.push((tcp.to_string(), "TCP"));
    api.replace.push((udp.to_string(), "UDP"));
    api.replace.push((taken.0.to_string(), "TAKEN"));
    api.replace.push((path.display().to_string(), "PATH"));
    let expose = "/services/forwarder/expose";
    let unexpose = "/services/forwarder/unexpose";
    let forward = |local: &dyn std::fmt::Display, remote: &str, protocol: &str| {
        format!(r#"{{"local":"{local}","remote":"{remote}","protocol":"{protocol}"}}"#)
    };

    api.call("all, when there is none", "GET", "/services/forwarder/all", "");
    api.call("expose tcp", "POST", expose, &forward(&tcp, "192.168.127.2:7000", "tcp"));
    api.call("expose the same again", "POST", expose, &forward(&tcp, "192.168.127.2:7000", "tcp"));
    api.call("expose the same elsewhere", "POST", expose, &forward(&tcp, "192.168.127.3:7001", "tcp"));
    api.call("expose udp", "POST", expose, &forward(&udp, "192.168.127.2:7000", "udp"));
    api.call("expose udp again", "POST", expose, &forward(&udp, "192.168.127.2:7000", "udp"));
    api.call("expose a path", "POST", expose, &forward(&path.display(), "tcp://192.168.127.2:7000", "unix"));
    let listed = api.gateway.call("GET", "/services/forwarder/all", "").text();
    let mut listed: Vec<_> = listed.trim().trim_matches(['[', ']']).split("},").collect();
    listed.sort_by_key(|entry| {
        entry.contains("\"tcp\"").then_some(0).or_else(|| entry.contains("\"udp\"").then_some(1)).unwrap_or(2)
    });
    let listed = api.replace.iter().fold(listed.join("},"), |text, (from, to)| text.replace(from.as_str(), to));
    api.facts.note("api all, when there are three", listed.replace('}', ""));
    api.call("expose on a port that is taken", "POST", expose, &forward(&taken.0, "192.168.127.2:7000", "tcp"));

    for (name, body) in [
        ("nothing", ""),
        ("no JSON", "no JSON"),
        ("half an object", r#"{"local":"#),
        ("an array", "[]"),
        ("a number for a text", r#"{"local":1}"#),
        ("an empty object", "{}"),
        ("an object and more behind it", r#"{"local":"","remote":"x"} more"#),
        ("an unknown protocol", r#"{"local":"127.0.0.1:0","remote":"192.168.127.2:1","protocol":"sctp"}"#),
        ("a remote without a port", r#"{"local":"127.0.0.1:0","remote":"192.168.127.2","protocol":"tcp"}"#),
        (
            "a remote with a port out of range",
            r#"{"local":"127.0.0.1:0","remote":"192.168.127.2:99999","protocol":"tcp"}"#,
        ),
        ("a remote with a port that is none", r#"{"local":"127.0.0.1:0","remote":"192.168.127.2:x","protocol":"tcp"}"#),
        ("a remote that is empty", r#"{"local":"127.0.0.1:0","remote":"","protocol":"tcp"}"#),
        ("a remote that is a name", r#"{"local":"127.0.0.1:0","remote":"nonsense:80","protocol":"tcp"}"#),
        ("a remote with a port only", r#"{"local":"127.0.0.1:0","remote":":6443","protocol":"tcp"}"#),
        ("a local without a port", r#"{"local":"127.0.0.1","remote":"192.168.127.2:1","protocol":"tcp"}"#),
        ("a local that is not ours", r#"{"local":"192.0.2.1:7","remote":"192.168.127.2:1","protocol":"tcp"}"#),
        ("a udp local without a port", r#"{"local":"127.0.0.1","remote":"192.168.127.2:1","protocol":"udp"}"#),
        ("a udp remote without a port", r#"{"local":"127.0.0.1:0","remote":"192.168.127.2","protocol":"udp"}"#),
        (
            "a path with a remote that is no URL",
            r#"{"local":"/nonexistent/x","remote":"192.168.127.2:1","protocol":"unix"}"#,
        ),
        ("a path that cannot be", r#"{"local":"/nonexistent/x","remote":"tcp://192.168.127.2:1","protocol":"unix"}"#),
        ("a pipe of Windows", r#"{"local":"\\\\.\\pipe\\x","remote":"tcp://192.168.127.2:1","protocol":"npipe"}"#),
    ] {
        api.call(&format!("expose {name}"), "POST", expose, body);
    }
    let _ = api.gateway.call("POST", unexpose, r#"{"local":"127.0.0.1:0"}"#);
    api.call("expose by GET", "GET", expose, "");
    api.call("expose by PUT", "PUT", expose, &forward(&tcp, "192.168.127.2:7000", "tcp"));

    api.call("unexpose by GET", "GET", unexpose, "");
    api.call("unexpose nothing", "POST", unexpose, "");
    api.call("unexpose an empty object", "POST", unexpose, "{}");
    api.call("unexpose what is not there", "POST", unexpose, r#"{"local":"127.0.0.1:1","protocol":"tcp"}"#);
    api.call(
        "unexpose the right address of the wrong protocol",
        "POST",
        unexpose,
        &format!(r#"{{"local":"{tcp}","protocol":"udp"}}"#),
    );
    api.call("unexpose an unknown protocol", "POST", unexpose, &format!(r#"{{"local":"{tcp}","protocol":"sctp"}}"#));
    api.call("unexpose tcp without its protocol", "POST", unexpose, &format!(r#"{{"local":"{tcp}"}}"#));
    api.call("unexpose tcp again", "POST", unexpose, &format!(r#"{{"local":"{tcp}"}}"#));
    api.call("unexpose udp", "POST", unexpose, &format!(r#"{{"local":"{udp}","protocol":"udp"}}"#));
    api.call("unexpose a path", "POST", unexpose, &format!(r#"{{"local":"{}","protocol":"unix"}}"#, path.display()));
    api.facts.note("api unexpose a path: the file is gone", !path.exists());
    api.call("all, when there is none any more", "POST", "/services/forwarder/all", "");
}

fn tables(api: &mut Api<'_>) {
    api.call("leases", "GET", "/leases", "");
    api.call("leases by their long name", "POST", "/services/dhcp/leases", "");
    api.call("cam without a client", "GET", "/cam", "");
    let mut client = FrameClient::connect(api.gateway, Station::number(2));
    // A first link that was slow to be answered, and so replaced, takes the address with it when it is gone.
    let cam = wait::until("the switch to know the client", SOON, || {
        client.arp_request(GATEWAY, AGAIN);
        Some(api.gateway.call("GET", "/cam", "").text()).filter(|cam| cam.contains(':'))
    });
    let (mac, number) = cam.rsplit_once(':').unwrap_or_default();
    let number = number.trim_end().trim_end_matches('}').parse::<u64>().is_ok();
    api.facts.note("api cam with a client", format!("{mac}: a number: {number}"));
    drop(client);

    api.call("zones", "GET", "/services/dns/all", "");
    let add = "/services/dns/add";
    api.call("zone by GET", "GET", add, "");
    api.call("zone of nothing", "POST", add, "");
    api.call("zone that is no JSON", "POST", add, "no");
    api.call("zone with an address that is none", "POST", add, r#"{"Name":"x.","Records":[{"Name":"a","IP":"x"}]}"#);
    api.call("zone with an expression that is none", "POST", add, r#"{"Name":"x.","Records":[{"Regexp":"("}]}"#);
    api.call(
        "zone",
        "POST",
        add,
        r#"{"Name":"added.test.","Records":[{"Name":"one","IP":"192.0.2.1"}],"DefaultIP":"192.0.2.9"}"#,
    );
    api.call(
        "zone in small letters",
        "POST",
        add,
        r#"{"name":"small.test.","records":[{"name":"one","ip":"192.0.2.1"}]}"#,
    );
    api.call(
        "zone again, with another record",
        "POST",
        add,
        r#"{"Name":"added.test.","Records":[{"Name":"two","IP":"192.0.2.2"}]}"#,
    );
    api.call("zones after that", "GET", "/services/dns/all", "");
    let mut client = FrameClient::connect(api.gateway, Station::number(2));
    for name in ["one.added.test.", "two.added.test.", "three.added.test.", "one.small.test.", "deep.one.added.test."] {
        let answer = client.dns_query(name, hickory_proto::rr::RecordType::A, SOON);
        let answer = answer.map(|answer| {
            (
                answer.metadata.response_code,
                answer.answers.iter().map(|record| format!("{:?}", record.data)).collect::<Vec<_>>(),
            )
        });
        api.facts.note(&format!("api zone answers {name}"), format!("{answer:?}"));
    }

    let stats = api.gateway.call("GET", "/stats", "");
    for name in ["BytesSent", "BytesReceived"] {
        api.facts.note(&format!("api stats has {name}"), stats.text().contains(&format!("\"{name}\":")));
    }
    api.facts.note("api stats is an object", stats.text().starts_with('{') && stats.text().ends_with("}\n"));
    let header = stats.header("content-type").unwrap_or_default().to_owned();
    api.facts.note("api stats type", header);
}

fn tunnels(api: &mut Api<'_>) {
    for (name, query) in [
        ("nothing", ""),
        ("no port", "?ip=192.168.127.2"),
        ("no address", "?port=80"),
        ("a port that is none", "?ip=192.168.127.2&port=x"),
    ] {
        api.call(&format!("tunnel to {name}"), "POST", &format!("/tunnel{query}"), "");
    }
    let mut client = FrameClient::connect(api.gateway, Station::number(2));
    let mut stream = UnixStream::connect(api.gateway.api_socket()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
        .write_all(b"POST /tunnel?ip=192.168.127.2&port=7000 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    let mut ok = [0; 2];
    let read = stream.read_exact(&mut ok).map(|()| String::from_utf8_lossy(&ok).into_owned());
    api.facts.note("api tunnel says", format!("{read:?}"));
    let mut inside = client.tcp_accept(7000, SOON).expect("a connection");
    stream.write_all(b"question").unwrap();
    let question = inside.run(&mut client, SOON, |inside| inside.received == b"question");
    inside.send(&mut client, b"answer");
    inside.close(&mut client);
    inside.run(&mut client, SOON, |inside| inside.is_acknowledged());
    let mut answer = String::new();
    let end = stream.read_to_string(&mut answer).map_err(|error| error.kind());
    api.facts.note("api tunnel carries", format!("{question}, {answer:?}, {end:?}, from {}", inside.remote.ip()));

    // One that the guest refuses.
    let mut stream = UnixStream::connect(api.gateway.api_socket()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(b"GET /tunnel?ip=192.168.127.2&port=7001 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let (remote, syn) = client.tcp_syn(7001, SOON).expect("a SYN");
    let refusal = Segment {
        from: 7001,
        to: remote.port(),
        ack: syn.seq.wrapping_add(1),
        flags: Flags::RST | Flags::ACK,
        ..Segment::default()
    };
    client.send(&client.station().tcp(*remote.ip(), &refusal));
    let mut answer = String::new();
    let end = stream.read_to_string(&mut answer).map_err(|error| error.kind());
    api.facts.note("api tunnel that the guest refuses", format!("{answer:?}, {end:?}"));
}

/// The API as an enclave reaches it: port 80 of the gateway.
fn inside(api: &mut Api<'_>) {
    let mut client = FrameClient::connect(api.gateway, Station::number(2));
    let local = free_tcp();
    api.replace.push((local.to_string(), "INSIDE"));
    let expose = format!(r#"{{"local":"{local}","remote":":6443"}}"#);
    let unexpose = format!(r#"{{"local":"{local}"}}"#);
    for (name, method, path, body) in [
        ("expose with a port only", "POST", "/services/forwarder/expose", expose.as_str()),
        ("all", "GET", "/services/forwarder/all", ""),
        ("unexpose", "POST", "/services/forwarder/unexpose", &unexpose),
        ("leases", "GET", "/leases", ""),
        ("cam", "GET", "/cam", ""),
        ("stats", "GET", "/stats", ""),
        ("zones", "GET", "/services/dns/all", ""),
        ("connect", "POST", "/connect", ""),
    ] {
        let answer = match client.tcp_connect(SocketAddrV4::new(GATEWAY, 80), ANSWER) {
            Answer::Open(mut conversation) => {
                let mut request = Vec::new();
                Message::request(method, path, "192.168.127.1")
                    .with("Connection", "close")
                    .body(body)
                    .write(&mut request)
                    .unwrap();
                conversation.send(&mut client, &request);
                conversation.run_to_end(&mut client, ANSWER);
                conversation.close(&mut client);
                words(http::read_response(&mut conversation.received.as_slice(), method), &api.replace)
            }
            Answer::Refused(_) => "refused".to_owned(),
            Answer::Silent => "silence".to_owned(),
        };
        api.facts.note(&format!("api inside: {name}"), answer);
    }
}

fn http_itself(api: &mut Api<'_>) {
    for (name, path) in [
        ("the root", "/"),
        ("a path that is not there", "/nothing"),
        ("a path with a slash too many", "/cam/"),
        ("a path with two slashes", "//cam"),
        ("a path with dots", "/services/../cam"),
        ("a query", "/cam?x=1"),
        ("a part of a path", "/services/forwarder"),
    ] {
        api.call(&format!("get {name}"), "GET", path, "");
    }
    api.call("delete", "DELETE", "/cam", "");
    api.raw("without Host", b"GET /leases HTTP/1.1\r\nConnection: close\r\n\r\n");
    api.raw("with an empty Host", b"GET /leases HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n");
    api.raw("with two Hosts", b"GET /leases HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n");
    api.raw("HTTP/1.0", b"GET /leases HTTP/1.0\r\n\r\n");
    api.raw("HTTP/2.0", b"GET /leases HTTP/2.0\r\nHost: x\r\n\r\n");
    api.raw("no HTTP", b"rubbish\r\n\r\n");
    api.raw("a header without a colon", b"GET /leases HTTP/1.1\r\nHost: x\r\nrubbish\r\n\r\n");
    api.raw("a body in chunks", b"POST /services/forwarder/unexpose HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n");
    api.raw("an absolute target", b"GET http://x/leases HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    // Two requests on one connection.
    let mut stream = UnixStream::connect(api.gateway.api_socket()).unwrap();
    stream.set_read_timeout(Some(ANSWER)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut ask = || {
        stream.write_all(b"GET /leases HTTP/1.1\r\nHost: x\r\n\r\n")?;
        http::read_response(&mut reader, "GET")?.status()
    };
    let (first, second) = (ask(), ask());
    api.facts.note("api two requests on one connection", format!("{:?} {:?}", first.ok(), second.ok()));
}
