//! A keep-alive HTTP/1.1 server that tells what it was asked, for testing what stands in front of it.
//!
//! | request | answer |
//! |---|---|
//! | `GET /bytes/N` | N bytes of the stream of seed 1, with their length |
//! | `GET /chunked/N` | the same in chunks of uneven size |
//! | `GET /slow/COUNT/MS` | COUNT chunks of one line, MS milliseconds before each |
//! | `POST /echo` | the body |
//! | `GET /status/CODE` | that status, an empty body |
//! | `GET /hang` | none, until the client goes |
//! | `GET /abort` | none, the connection is closed |
//! | `GET /served` | `accepted=… open=… requests=… gone=…`: connections so far, now; requests; clients gone while hanging |
//! | anything else | method, path, headers, length and hash of the body, one per line |

use super::{
    payload::{Digest, Payload},
    serve_each,
};
use crate::http::{self, Message};
use std::{
    io::{self, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// The seed of every body that the server makes up.
pub const BODY_SEED: u64 = 1;

#[derive(Debug, Default)]
struct Served {
    accepted: AtomicU64,
    open: AtomicU64,
    requests: AtomicU64,
    gone: AtomicU64,
}

/// Serves until killed.
pub fn serve(address: SocketAddr) -> io::Result<()> {
    let served = Arc::new(Served::default());
    serve_each(address, None, move |stream| {
        served.accepted.fetch_add(1, Relaxed);
        served.open.fetch_add(1, Relaxed);
        let result = serve_connection(&stream, &served);
        served.open.fetch_sub(1, Relaxed);
        result
    })
}

fn serve_connection(stream: &TcpStream, served: &Served) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = http::read_request(&mut reader)? {
        served.requests.fetch_add(1, Relaxed);
        let answer = Answer { stream, closes: request.wants_close() };
        let (method, path) = request.target()?;
        let mut words = path.trim_start_matches('/').split('/');
        let (word, mut number) =
            (words.next().unwrap_or_default(), || words.next().and_then(|n| n.parse::<u64>().ok()));
        match (method, word, number(), number()) {
            ("GET", "bytes", Some(n), None) => answer.sized(n)?,
            ("GET", "chunked", Some(n), None) => answer.chunked(n)?,
            ("GET", "slow", Some(count), Some(pause)) => answer.slow(count, Duration::from_millis(pause))?,
            ("GET", "status", Some(code), None) => answer.status(u16::try_from(code).unwrap_or(500))?,
            ("POST", "echo", None, None) => answer.text(request.body.clone())?,
            ("GET", "served", None, None) => answer.text(served.to_string())?,
            ("GET", "hang", None, None) => {
                let end = reader.read(&mut [0]);
                served.gone.fetch_add(1, Relaxed);
                return end.map(drop);
            }
            ("GET", "abort", None, None) => return Ok(()),
            _ => answer.text(describe(&request))?,
        }
        if answer.closes {
            return Ok(());
        }
    }
    Ok(())
}

/// The request as text: its first line, its headers as they came, and its body's length and hash.
fn describe(request: &Message) -> String {
    let mut digest = Digest::default();
    digest.update(&request.body);
    let headers: String = request.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    format!("{}\n{headers}body {digest}\n", request.start)
}

/// The answer to one request.
struct Answer<'a> {
    stream: &'a TcpStream,
    /// The connection ends with it, which it says.
    closes: bool,
}

impl Answer<'_> {
    fn head(&self, status: u16, reason: &str) -> Message {
        let message = Message::response(status, reason);
        if self.closes { message.with("Connection", "close") } else { message }
    }

    fn text(&self, body: impl Into<Vec<u8>>) -> io::Result<()> {
        self.head(200, "OK").with("Content-Type", "text/plain").body(body).write(&mut &*self.stream)
    }

    fn status(&self, status: u16) -> io::Result<()> {
        self.head(status, "As Asked").write(&mut &*self.stream)
    }

    fn sized(&self, n: u64) -> io::Result<()> {
        self.write(&format!("{}\r\n", self.head(200, "OK").with("Content-Length", n).head()))?;
        Payload::new(BODY_SEED).write(n, &mut &*self.stream)
    }

    fn chunked(&self, n: u64) -> io::Result<()> {
        self.start_chunks()?;
        let (mut payload, mut left, mut size) = (Payload::new(BODY_SEED), n, 1);
        while left > 0 {
            let take = left.min(size);
            let mut chunk = format!("{take:x}\r\n").into_bytes();
            payload.write(take, &mut chunk)?;
            chunk.extend_from_slice(b"\r\n");
            { self.stream }.write_all(&chunk)?;
            left -= take;
            size = size * 3 % 65_521;
        }
        self.write("0\r\n\r\n")
    }

    fn slow(&self, count: u64, pause: Duration) -> io::Result<()> {
        self.start_chunks()?;
        for i in 0..count {
            std::thread::sleep(pause);
            let line = format!("line {i}\n");
            self.write(&format!("{:x}\r\n{line}\r\n", line.len()))?;
        }
        self.write("0\r\n\r\n")
    }

    fn start_chunks(&self) -> io::Result<()> {
        self.write(&format!("{}\r\n", self.head(200, "OK").with("Transfer-Encoding", "chunked").head()))
    }

    fn write(&self, text: &str) -> io::Result<()> {
        { self.stream }.write_all(text.as_bytes())
    }
}

impl std::fmt::Display for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { accepted, open, requests, gone } = self;
        let [accepted, open, requests, gone] = [accepted, open, requests, gone].map(|count| count.load(Relaxed));
        write!(f, "accepted={accepted} open={open} requests={requests} gone={gone}")
    }
}
