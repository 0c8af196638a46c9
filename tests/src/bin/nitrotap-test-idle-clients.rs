//! How much memory an idle client costs the reverse proxy: unused, after a small request, after a large one.
//!
//! The app is in this process; everything goes over the loopback. No privileges are needed, only descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

const USAGE: &str = "usage: nitrotap-test-idle-clients NITROTAP [--clients N] [--body BYTES] [--at-once N]";

/// Time for the proxy to give back what it gives back.
const SETTLE: Duration = Duration::from_secs(3);

struct Plan {
    binary: String,
    clients: usize,
    body: usize,
    at_once: usize,
}

fn main() -> ExitCode {
    match parse(env::args().skip(1)).and_then(|plan| run(&plan)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "nitrotap-test-idle-clients: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> io::Result<Plan> {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, USAGE);
    let mut plan = Plan { binary: words.next().ok_or_else(usage)?, clients: 10_000, body: 1_000_000, at_once: 64 };
    while let Some(word) = words.next() {
        let value = words.next().and_then(|value| value.parse().ok()).ok_or_else(usage)?;
        match word.as_str() {
            "--clients" => plan.clients = value,
            "--body" => plan.body = value,
            "--at-once" => plan.at_once = value,
            _ => return Err(usage()),
        }
    }
    Ok(plan)
}

fn run(plan: &Plan) -> io::Result<()> {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
    let app = app()?;
    let small = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    let mut large = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", plan.body).into_bytes();
    large.resize(large.len() + plan.body, b'x');
    let mut out = io::stdout();
    for (name, request) in [("unused", &[][..]), ("after a small request", &small), ("after a large request", &large)] {
        let bytes = measure(plan, app, request)?;
        writeln!(out, "{name}: {bytes} bytes per idle client ({} clients)", plan.clients)?;
    }
    Ok(())
}

/// Resident bytes that each idle client adds to a fresh proxy.
fn measure(plan: &Plan, app: SocketAddr, request: &[u8]) -> io::Result<u64> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let proxy = Proxy::start(plan, app, address)?;
    // What the first clients cost is no matter of idle ones.
    drop(open(address, plan.at_once * 4, plan.at_once, request)?);
    thread::sleep(SETTLE);
    let before = proxy.resident()?;
    let clients = open(address, plan.clients, plan.at_once, request)?;
    thread::sleep(SETTLE);
    let after = proxy.resident()?;
    drop(clients);
    Ok(after.saturating_sub(before) / clients_u64(plan.clients))
}

fn clients_u64(clients: usize) -> u64 {
    u64::try_from(clients.max(1)).unwrap_or(u64::MAX)
}

struct Proxy(Child);

impl Proxy {
    fn start(plan: &Plan, app: SocketAddr, listen: SocketAddr) -> io::Result<Self> {
        let child = Command::new(&plan.binary)
            .args(["proxy", "--workers", "1", "--max-clients", &(plan.clients * 2).to_string()])
            .args(["--listen", &listen.to_string(), "--upstream", &format!("http://{app}")])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let proxy = Self(child);
        for _ in 0..100 {
            if TcpStream::connect(listen).is_ok() {
                return Ok(proxy);
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(io::Error::other("the proxy does not listen"))
    }

    fn resident(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no VmRSS"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Opens connections, some at once, each with one exchange.
fn open(address: SocketAddr, clients: usize, at_once: usize, request: &[u8]) -> io::Result<Vec<TcpStream>> {
    let share = clients.div_ceil(at_once.max(1));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..at_once.max(1))
            .map(|_| {
                scope.spawn(move || (0..share).map(|_| exchange(address, request)).collect::<io::Result<Vec<_>>>())
            })
            .collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| io::Error::other("a client panicked"))??);
        }
        Ok(all)
    })
}

fn exchange(address: SocketAddr, request: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    if !request.is_empty() {
        stream.set_nodelay(true)?;
        stream.write_all(request)?;
        read_message(&mut BufReader::new(&stream))?;
    }
    Ok(stream)
}

/// An app that answers whatever it is asked.
fn app() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || -> io::Result<()> {
                let mut reader = BufReader::new(&stream);
                while read_message(&mut reader)? {
                    (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
                }
                Ok(())
            });
        }
    });
    Ok(address)
}

/// Reads a head and the body of the length it states. False at the end of the stream.
fn read_message(reader: &mut BufReader<&TcpStream>) -> io::Result<bool> {
    let mut length = 0;
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(false);
        }
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        if let Some(value) = text.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    io::copy(&mut reader.take(length), &mut io::sink())?;
    Ok(true)
}
