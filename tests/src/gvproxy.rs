//! The real gvproxy on a unix socket: started, killed, restarted, and asked through its REST API.

use crate::{
    Process, Scratch,
    http::{self, Message},
    peers::{self, Missing},
    wait,
};
use rustix::process::Signal;
use std::{
    fs,
    io::BufReader,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
};

/// The gateway's address in the virtual network, where it also serves DNS.
pub const GATEWAY: &str = "192.168.127.1";
/// Reaches the loopback of the machine gvproxy runs on.
pub const HOST: &str = "192.168.127.254";
/// The enclave's address, by default.
pub const ENCLAVE: &str = "192.168.127.2";

/// A running gvproxy, or one that was killed and may be restarted on the same path.
#[derive(Debug)]
pub struct Gvproxy {
    program: PathBuf,
    process: Process,
    socket: PathBuf,
    scratch: Scratch,
}

impl Gvproxy {
    /// Starts gvproxy and waits until it accepts connections.
    pub fn start() -> Result<Self, Missing> {
        let program = peers::find("gvproxy")?;
        let scratch = Scratch::new();
        let socket = scratch.join("net.sock");
        let process = launch(&program, &socket, &scratch);
        Ok(Self { program, process, socket, scratch })
    }

    /// What to give as `--host`.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The socket itself, for what stands between it and an enclave.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Kills it as a crash would: no goodbye, and the socket file stays.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops or continues it, for instance.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Starts it again on the same path and returns once it accepts connections.
    pub fn restart(&mut self) {
        self.kill();
        // gvproxy refuses to start over a socket file that is still there.
        let _ = fs::remove_file(&self.socket);
        self.process = launch(&self.program, &self.socket, &self.scratch);
    }

    /// The release, such as (0, 8, 1).
    pub fn version(&self) -> (u32, u32, u32) {
        let output = Command::new(&self.program).arg("-version").output().expect("gvproxy runs");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.').find(|word| word.split('.').count() == 3);
        let parts: Vec<u32> = numbers.unwrap_or_default().split('.').filter_map(|part| part.parse().ok()).collect();
        match parts[..] {
            [major, minor, patch] => (major, minor, patch),
            _ => panic!("gvproxy does not tell its version: {text:?}"),
        }
    }

    /// Whether a connection lives on when one of its directions has ended.
    ///
    /// gvproxy 0.8.1 to 0.8.7 ends both as soon as one has, and an answer that comes after the client's end is lost.
    pub fn keeps_half_closed_connections(&self) -> bool {
        self.version() >= (0, 8, 8)
    }

    /// Forwards a free TCP port of the machine's loopback to `port` of the enclave, and gives its address.
    pub fn expose_tcp(&self, port: u16) -> SocketAddr {
        self.expose("tcp", port, || TcpListener::bind("127.0.0.1:0")?.local_addr())
    }

    /// Forwards a free UDP port of the machine's loopback to `port` of the enclave, and gives its address.
    pub fn expose_udp(&self, port: u16) -> SocketAddr {
        self.expose("udp", port, || UdpSocket::bind("127.0.0.1:0")?.local_addr())
    }

    /// Ends a forwarding; connections that stand go on.
    pub fn unexpose(&self, protocol: &str, local: SocketAddr) {
        let body = format!(r#"{{"local":"{local}","protocol":"{protocol}"}}"#);
        let answer = self.call("POST", "/services/forwarder/unexpose", &body);
        assert_eq!(answer.status().expect("a status"), 200, "{}", answer.text());
    }

    /// Which MAC addresses the switch knows, as gvproxy tells it.
    pub fn cam(&self) -> String {
        self.call("GET", "/cam", "").text()
    }

    /// A counter of `/stats`, by its name: `BytesSent`, `BytesReceived`, or one of the network stack's.
    pub fn stat(&self, name: &str) -> u64 {
        let stats = self.call("GET", "/stats", "").text();
        let value = stats.split_once(&format!("\"{name}\":")).map(|(_, rest)| rest.trim_start());
        let digits: String = value.unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_else(|_| panic!("no {name} in {stats}"))
    }

    /// One request to the REST API.
    pub fn call(&self, method: &str, path: &str, body: &str) -> Message {
        let mut stream = UnixStream::connect(&self.socket).expect("gvproxy listens");
        stream.set_read_timeout(Some(wait::SOON)).expect("a duration above zero");
        let request = Message::request(method, path, "gvproxy").with("Connection", "close").body(body);
        request.write(&mut stream).expect("gvproxy reads");
        http::read_response(&mut BufReader::new(stream), method).expect("gvproxy answers")
    }

    fn expose(&self, protocol: &str, port: u16, free: impl Fn() -> std::io::Result<SocketAddr>) -> SocketAddr {
        // Somebody may take the port between our look and gvproxy's bind: then another one.
        wait::until("gvproxy to expose a port", wait::SOON, || {
            let local = free().expect("the loopback has free ports");
            let body = format!(r#"{{"local":"{local}","remote":"{ENCLAVE}:{port}","protocol":"{protocol}"}}"#);
            let answer = self.call("POST", "/services/forwarder/expose", &body);
            (answer.status().expect("a status") == 200).then_some(local)
        })
    }
}

fn launch(program: &PathBuf, socket: &PathBuf, scratch: &Scratch) -> Process {
    let mut command = Command::new(program);
    command.arg("-listen").arg(format!("unix://{}", socket.display())).args(["-ssh-port", "-1"]);
    let mut process = Process::start("gvproxy", command, scratch);
    wait::until("gvproxy to listen", wait::SOON, || {
        assert!(process.is_running(), "gvproxy ended at once:\n{}", process.stderr());
        UnixStream::connect(socket).is_ok().then_some(())
    });
    process
}
