//! A gateway on a unix socket: started, killed, restarted, and asked through its REST API.
//!
//! Two programs are one: the real gvproxy ([`Kind::Stock`]) and `nitrotap host` ([`Kind::Ours`]). What a test may expect of
//! one and not of the other is a method here, with its reason; [`pair`] runs one test with several of them.

pub mod pair;

use crate::{
    Namespace, Process, Scratch, binaries,
    http::{self, Message},
    peers::{self, Missing},
    wait,
};
use rustix::process::Signal;
use std::{
    fs,
    io::{self, BufReader},
    net::{SocketAddr, TcpListener, UdpSocket},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

/// The gateway's address in the virtual network, where it also serves DNS.
pub const GATEWAY: &str = "192.168.127.1";
/// Reaches the loopback of the machine the gateway runs on.
pub const HOST: &str = "192.168.127.254";
/// The enclave's address, by default.
pub const ENCLAVE: &str = "192.168.127.2";

/// Which program it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The real gvproxy.
    Stock,
    /// `nitrotap host`.
    Ours,
}

/// How to start one; [`Kind::options`] has the defaults.
#[derive(Clone, Debug)]
pub struct Options {
    kind: Kind,
    mtu: Option<u16>,
    args: Vec<String>,
    host_loopback: bool,
    namespace: Option<Arc<Namespace>>,
    program: Option<PathBuf>,
    second_listener: bool,
}

/// A running gateway, or one that was killed and may be restarted on the same path.
#[derive(Debug)]
pub struct Gateway {
    options: Options,
    program: PathBuf,
    process: Process,
    scratch: Scratch,
}

impl Kind {
    pub fn options(self) -> Options {
        Options {
            kind: self,
            mtu: None,
            args: Vec::new(),
            host_loopback: true,
            namespace: None,
            program: None,
            second_listener: false,
        }
    }

    /// Starts one with the defaults and waits until it accepts connections.
    pub fn start(self) -> Result<Gateway, Missing> {
        self.options().start()
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Stock => "gvproxy",
            Self::Ours => "nitrotap-host",
        }
    }
}

impl Options {
    /// The MTU of the virtual network, 1500 otherwise.
    pub fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// More arguments, as the program itself spells them.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// Does not open the machine's loopback to enclaves. Stock has it open whatever one says.
    pub fn without_host_loopback(mut self) -> Self {
        self.host_loopback = false;
        self
    }

    /// Takes frames on a second socket too: without a CID, what a client may have is counted per listener.
    pub fn with_second_listener(mut self) -> Self {
        self.second_listener = true;
        self
    }

    /// Another program of this kind than the one that is found or built.
    pub fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// Runs it in a namespace; its sockets are files and stay reachable from outside.
    pub fn inside(mut self, namespace: Arc<Namespace>) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Starts it and waits until it accepts connections.
    pub fn start(self) -> Result<Gateway, Missing> {
        let program = match (&self.program, self.kind) {
            (Some(program), _) => program.clone(),
            (None, Kind::Stock) => peers::find("gvproxy")?,
            (None, Kind::Ours) => binaries::nitrotap().to_owned(),
        };
        let scratch = Scratch::new();
        let process = self.launch(&program, &scratch);
        Ok(Gateway { options: self, program, process, scratch })
    }

    fn launch(&self, program: &Path, scratch: &Scratch) -> Process {
        let socket = scratch.join(FRAMES);
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(program),
            None => Command::new(program),
        };
        match self.kind {
            Kind::Stock => {
                command.arg("-listen").arg(url(&socket)).args(["-ssh-port", "-1"]);
                command.args(self.mtu.iter().flat_map(|mtu| ["-mtu".to_owned(), mtu.to_string()]));
            }
            Kind::Ours => {
                command.arg("host").arg("--listen").arg(url(&socket));
                command.arg("--services").arg(url(&scratch.join(SERVICES)));
                command.args(self.mtu.iter().flat_map(|mtu| ["--mtu".to_owned(), mtu.to_string()]));
                command.args(self.host_loopback.then_some("--allow-host-loopback"));
            }
        }
        if self.second_listener {
            let flag = if self.kind == Kind::Stock { "-listen" } else { "--listen" };
            command.arg(flag).arg(url(&scratch.join(SECOND)));
        }
        command.args(&self.args);
        let name = self.kind.name();
        let mut process = Process::start(name, command, scratch);
        let api = scratch.join(self.kind.api());
        wait::until("the gateway to listen", wait::SOON, || {
            assert!(process.is_running(), "{name} ended at once:\n{}", process.stderr());
            (UnixStream::connect(&socket).is_ok() && UnixStream::connect(&api).is_ok()).then_some(())
        });
        process
    }
}

/// The file names of the sockets.
const FRAMES: &str = "net.sock";
const SECOND: &str = "second.sock";
const SERVICES: &str = "api.sock";

impl Kind {
    /// Where the REST API is. Before 0.8.3, stock has no socket for it alone.
    const fn api(self) -> &'static str {
        match self {
            Self::Stock => FRAMES,
            Self::Ours => SERVICES,
        }
    }
}

fn url(path: &Path) -> String {
    format!("unix://{}", path.display())
}

impl Gateway {
    pub fn kind(&self) -> Kind {
        self.options.kind
    }

    /// What to give as `--host`.
    pub fn url(&self) -> String {
        url(&self.socket())
    }

    /// The socket that takes frames, for what stands between it and an enclave.
    pub fn socket(&self) -> PathBuf {
        self.scratch.join(FRAMES)
    }

    /// The second one, of [`Options::with_second_listener`].
    pub fn second_socket(&self) -> PathBuf {
        self.scratch.join(SECOND)
    }

    /// The socket that takes requests.
    pub fn api_socket(&self) -> PathBuf {
        self.scratch.join(self.kind().api())
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process, for what it says and for its end.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills it as a crash would: no goodbye, and the socket files stay.
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
        if self.kind() == Kind::Stock {
            // gvproxy refuses to start over a socket file that is still there.
            let _ = fs::remove_file(self.socket());
            let _ = fs::remove_file(self.second_socket());
        }
        self.process = self.options.launch(&self.program, &self.scratch);
    }

    /// The release, such as (0, 8, 1), of a stock gvproxy.
    pub fn stock_version(&self) -> Option<(u32, u32, u32)> {
        (self.kind() == Kind::Stock).then(|| version(&self.program))
    }

    /// Whether a connection lives on when one of its directions has ended.
    ///
    /// gvproxy 0.8.1 to 0.8.7 ends both as soon as one has, and an answer that comes after the client's end is lost.
    pub fn keeps_half_closed_connections(&self) -> bool {
        self.stock_version().is_none_or(|version| version >= (0, 8, 8))
    }

    /// Whether a datagram without payload comes through: it makes stock's relay spin.
    pub fn carries_empty_datagrams(&self) -> bool {
        self.kind() == Kind::Ours
    }

    /// Forwards a free TCP port of the machine's loopback to `port` of the enclave, and gives its address.
    pub fn expose_tcp(&self, port: u16) -> SocketAddr {
        self.expose("tcp", &format!("{ENCLAVE}:{port}"), || TcpListener::bind("127.0.0.1:0")?.local_addr())
    }

    /// Forwards a free UDP port of the machine's loopback to `port` of the enclave, and gives its address.
    pub fn expose_udp(&self, port: u16) -> SocketAddr {
        self.expose("udp", &format!("{ENCLAVE}:{port}"), || UdpSocket::bind("127.0.0.1:0")?.local_addr())
    }

    /// Forwards a free TCP port of the machine's loopback to any address of the virtual network.
    pub fn expose_tcp_to(&self, remote: SocketAddr) -> SocketAddr {
        self.expose("tcp", &remote.to_string(), || TcpListener::bind("127.0.0.1:0")?.local_addr())
    }

    /// Ends a forwarding; connections that stand go on.
    pub fn unexpose(&self, protocol: &str, local: SocketAddr) {
        let body = format!(r#"{{"local":"{local}","protocol":"{protocol}"}}"#);
        let answer = self.call("POST", "/services/forwarder/unexpose", &body);
        assert_eq!(answer.status().expect("a status"), 200, "{}", answer.text());
    }

    /// Which MAC addresses the switch knows, as the gateway tells it.
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
        self.try_call(method, path, body).expect("the gateway answers")
    }

    /// The same; an error where the gateway closes the connection instead of answering.
    pub fn try_call(&self, method: &str, path: &str, body: &str) -> io::Result<Message> {
        call(&self.api_socket(), method, path, body)
    }

    fn expose(&self, protocol: &str, remote: &str, free: impl Fn() -> io::Result<SocketAddr>) -> SocketAddr {
        // Somebody may take the port between our look and the gateway's bind: then another one.
        wait::until("the gateway to expose a port", wait::SOON, || {
            let local = free().expect("the loopback has free ports");
            let body = format!(r#"{{"local":"{local}","remote":"{remote}","protocol":"{protocol}"}}"#);
            let answer = self.call("POST", "/services/forwarder/expose", &body);
            (answer.status().expect("a status") == 200).then_some(local)
        })
    }
}

/// One request over a unix socket.
pub fn call(socket: &Path, method: &str, path: &str, body: &str) -> io::Result<Message> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(wait::SOON))?;
    Message::request(method, path, "gateway").with("Connection", "close").body(body).write(&mut stream)?;
    http::read_response(&mut BufReader::new(stream), method)
}

fn version(program: &Path) -> (u32, u32, u32) {
    let output = Command::new(program).arg("-version").output().expect("gvproxy runs");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.').find(|word| word.split('.').count() == 3);
    let parts: Vec<u32> = numbers.unwrap_or_default().split('.').filter_map(|part| part.parse().ok()).collect();
    match parts[..] {
        [major, minor, patch] => (major, minor, patch),
        _ => panic!("gvproxy does not tell its version: {text:?}"),
    }
}
