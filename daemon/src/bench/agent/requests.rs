//! Closed-loop HTTP/1.1 load: every connection sends its next request when the answer to the last is complete.
//!
//! Owns: the connections, split over at most two threads. Driven by: epoll. Bounds: one request in flight per connection,
//! [`ANSWER_MAX`] bytes of answer.

use super::{
    dial::dial,
    outcome::{Times, times},
    window::{Counts, Phase, Window},
};
use crate::{clock::Clock, endpoint::Endpoint, errors::Error};
use nitrotap_core::time::Instant;
use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    fd::OwnedFd,
    io::Errno,
};
use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[arg(long)]
    to: Endpoint,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    #[command(flatten)]
    window: Window,
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
const ANSWER_MAX: usize = 16 << 10;
const EVENTS: usize = 256;
/// How soon a thread without answers sees that the window is over.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

struct Conn {
    fd: OwnedFd,
    have: Vec<u8>,
    sent: Instant,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let threads = args.connections.clamp(1, 2);
    let counts: Vec<Counts> = (0..threads).map(|_| Counts::default()).collect();
    let clock = Clock::start();
    args.window.run(&clock, &counts, true, |index, counts, phase| {
        let mine = args.connections / threads + usize::from(index < args.connections % threads);
        work(&args.to, mine, &clock, counts, phase)
    })
}

fn work(to: &Endpoint, connections: usize, clock: &Clock, counts: &Counts, phase: &Phase) -> Result<Times, Error> {
    let failed = |e: Errno| Error::runtime(format!("epoll failed: {e}"));
    let poller = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
    let mut conns = Vec::with_capacity(connections);
    for token in 0..connections {
        let conn = connect(to, &poller, token)?;
        conns.push(conn);
    }
    for conn in &mut conns {
        conn.ask(clock)?;
    }
    let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
    let (mut buffer, mut times) = (vec![0; ANSWER_MAX], times());
    while !phase.over() {
        events.clear();
        match epoll::wait(&poller, rustix::buffer::spare_capacity(&mut events), Some(&PATIENCE)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
        for event in &events {
            let Ok(token) = usize::try_from(event.data.u64()) else { continue };
            let conn = &mut conns[token];
            match conn.answered(&mut buffer) {
                Ok(false) => continue,
                Ok(true) => {
                    Counts::add(&counts.operations, 1);
                    if phase.measuring() {
                        let nanos = u64::try_from(clock.now().since(conn.sent).as_nanos()).unwrap_or(u64::MAX);
                        times.saturating_record(nanos.max(1));
                    }
                }
                Err(_) => {
                    Counts::add(&counts.errors, 1);
                    *conn = connect(to, &poller, token)?;
                }
            }
            conn.ask(clock)?;
        }
    }
    Ok(times)
}

fn connect(to: &Endpoint, poller: &OwnedFd, token: usize) -> Result<Conn, Error> {
    let cannot = |e: Errno| Error::runtime(format!("cannot use the connection to {to}: {e}"));
    let fd = dial(to)?;
    rustix::io::ioctl_fionbio(&fd, true).map_err(cannot)?;
    epoll::add(poller, &fd, EventData::new_u64(token as u64), EventFlags::IN).map_err(cannot)?;
    Ok(Conn { fd, have: Vec::new(), sent: Instant::ZERO })
}

impl Conn {
    fn ask(&mut self, clock: &Clock) -> Result<(), Error> {
        self.sent = clock.now();
        // Nothing is in flight, so the socket's buffer is empty and takes all; if it has failed, reading tells.
        match rustix::io::write(&self.fd, REQUEST) {
            Ok(n) if n < REQUEST.len() => Err(Error::runtime("the socket took half a request")),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Whether the answer is complete. An error if it is not what was asked for.
    fn answered(&mut self, buffer: &mut [u8]) -> Result<bool, Error> {
        let n = match rustix::io::read(&self.fd, &mut *buffer) {
            Ok(0) => return Err(Error::runtime("the connection was closed")),
            Ok(n) => n,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(errno) => return Err(Error::runtime(format!("the connection failed: {errno}"))),
        };
        // Nearly always all of it comes at once.
        if self.have.is_empty() && complete(&buffer[..n])? {
            return Ok(true);
        }
        self.have.extend_from_slice(&buffer[..n]);
        let complete = complete(&self.have)?;
        if complete {
            self.have.clear();
        } else if self.have.len() > ANSWER_MAX {
            return Err(Error::runtime("the answer does not end"));
        }
        Ok(complete)
    }
}

/// Whether `bytes` is a whole answer with status 200 and a Content-Length.
fn complete(bytes: &[u8]) -> Result<bool, Error> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes).map_err(|e| Error::runtime(format!("the answer is not HTTP: {e}")))? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Ok(false),
    };
    if response.code != Some(200) {
        return Err(Error::runtime(format!("the answer has status {}", response.code.unwrap_or(0))));
    }
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length: usize = length
        .and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok())
        .ok_or_else(|| Error::runtime("the answer has no Content-Length"))?;
    Ok(bytes.len() >= head + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_last_byte() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n";
        for n in 0..answer.len() {
            assert!(!complete(&answer[..n]).unwrap(), "{n}");
        }
        assert!(complete(answer).unwrap());
        for bad in
            [&b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\n\r\n", b"SSH-2\r\n"]
        {
            assert!(complete(bad).is_err());
        }
    }
}
