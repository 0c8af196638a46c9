//! One thread that is every server a bench needs: the first byte of a connection says which ([`wish`]).
//!
//! Owns: listeners and their connections. Driven by: epoll, level-triggered. Drain: none; ends with the bench.
//! Bounds: as many connections as descriptors; [`TURNS`] calls per connection and wake-up; a request's head of
//! [`HEAD_MAX`] bytes.

use super::{window::say, wish};
use crate::{bench::options::ServeUrl, errors::Error};
use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    fd::OwnedFd,
    io::Errno,
    net::{SocketFlags, accept_with, sockopt::set_tcp_nodelay},
};
use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Where to listen; repeatable
    #[arg(long, required = true)]
    pub(super) listen: Vec<ServeUrl>,
}

/// What answers every request.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n";
const BUFFER: usize = 256 << 10;
/// Calls for one connection before the others get their turn.
const TURNS: usize = 4;
const HEAD_MAX: usize = 16 << 10;
const EVENTS: usize = 256;

struct Conn {
    fd: OwnedFd,
    wish: Option<u8>,
    /// The beginning of a request whose end has not come.
    head: Vec<u8>,
    /// What the socket did not take.
    unsent: Vec<u8>,
    writing: bool,
}

/// Why a connection ends.
enum Over {
    Closed,
}

/// Serves until it is killed.
pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let failed = |e: Errno| Error::runtime(format!("epoll failed: {e}"));
    let poller = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
    let mut listeners = Vec::new();
    let mut line = format!("ready {}", std::process::id());
    for (index, url) in args.listen.iter().enumerate() {
        let (fd, name) = bind(url)?;
        epoll::add(&poller, &fd, EventData::new_u64(index as u64), EventFlags::IN).map_err(failed)?;
        listeners.push(fd);
        line.push(' ');
        line.push_str(&name);
    }
    say(&line)?;
    let mut conns: Vec<Option<Conn>> = Vec::new();
    let mut free = Vec::new();
    let (mut buffer, zeros) = (vec![0; BUFFER], vec![0; BUFFER / 2]);
    let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
    loop {
        events.clear();
        match epoll::wait(&poller, rustix::buffer::spare_capacity(&mut events), None::<&Timespec>) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
        for event in &events {
            let Ok(token) = usize::try_from(event.data.u64()) else { continue };
            if let Some(listener) = listeners.get(token) {
                take(&poller, listener, &mut conns, &mut free, listeners.len());
                continue;
            }
            let index = token - listeners.len();
            let Some(Some(conn)) = conns.get_mut(index) else { continue };
            if conn.turn(&poller, token, &mut buffer, &zeros).is_err() {
                // Dropping the descriptor takes it off the poller.
                conns[index] = None;
                free.push(index);
            }
        }
    }
}

fn take(poller: &OwnedFd, listener: &OwnedFd, conns: &mut Vec<Option<Conn>>, free: &mut Vec<usize>, listeners: usize) {
    while let Ok(fd) = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        // Only TCP knows the option.
        let _ = set_tcp_nodelay(&fd, true);
        let index = free.pop().unwrap_or(conns.len());
        let data = EventData::new_u64((listeners + index) as u64);
        if epoll::add(poller, &fd, data, EventFlags::IN).is_err() {
            continue;
        }
        let conn = Conn { fd, wish: None, head: Vec::new(), unsent: Vec::new(), writing: false };
        match conns.get_mut(index) {
            Some(slot) => *slot = Some(conn),
            None => conns.push(Some(conn)),
        }
    }
}

impl Conn {
    fn turn(&mut self, poller: &OwnedFd, token: usize, buffer: &mut [u8], zeros: &[u8]) -> Result<(), Over> {
        for _ in 0..TURNS {
            if !self.unsent.is_empty() {
                let n = self.write_some(None)?;
                self.unsent.drain(..n);
                if !self.unsent.is_empty() {
                    return self.want(poller, token, true);
                }
            }
            if self.wish == Some(wish::SOURCE) {
                if self.write_some(Some(zeros))? == 0 {
                    break;
                }
                continue;
            }
            let n = match rustix::io::read(&self.fd, &mut *buffer) {
                Ok(0) => return Err(Over::Closed),
                Ok(n) => n,
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(_) => return Err(Over::Closed),
            };
            self.input(&buffer[..n])?;
            if n < buffer.len() && self.unsent.is_empty() && self.wish != Some(wish::SOURCE) {
                // Emptied, most likely: epoll tells if not.
                break;
            }
        }
        let writing = self.wish == Some(wish::SOURCE) || !self.unsent.is_empty();
        self.want(poller, token, writing)
    }

    fn input(&mut self, bytes: &[u8]) -> Result<(), Over> {
        let (wish, rest) = match (self.wish, bytes) {
            (Some(wish), bytes) => (wish, bytes),
            // A request's first byte belongs to it.
            (None, [b'G', ..]) => (b'G', bytes),
            (None, [wish, rest @ ..]) => (*wish, rest),
            (None, []) => return Ok(()),
        };
        self.wish = Some(wish);
        match wish {
            wish::SINK | wish::SOURCE => {}
            wish::ECHO => self.write(rest)?,
            _ => {
                self.head.extend_from_slice(rest);
                let mut from = 0;
                while let Some(end) = end_of_head(&self.head[from..]) {
                    from += end;
                    self.write(ANSWER)?;
                }
                self.head.drain(..from);
                if self.head.len() > HEAD_MAX {
                    return Err(Over::Closed);
                }
            }
        }
        Ok(())
    }

    /// Writes now what the socket takes, and keeps the rest.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Over> {
        let n = if self.unsent.is_empty() { self.write_some(Some(bytes))? } else { 0 };
        self.unsent.extend_from_slice(&bytes[n..]);
        Ok(())
    }

    fn write_some(&self, bytes: Option<&[u8]>) -> Result<usize, Over> {
        match rustix::io::write(&self.fd, bytes.unwrap_or(&self.unsent)) {
            Ok(n) => Ok(n),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(_) => Err(Over::Closed),
        }
    }

    fn want(&mut self, poller: &OwnedFd, token: usize, writing: bool) -> Result<(), Over> {
        if writing != self.writing {
            let flags = if writing { EventFlags::OUT } else { EventFlags::IN };
            epoll::modify(poller, &self.fd, EventData::new_u64(token as u64), flags).map_err(|_| Over::Closed)?;
            self.writing = writing;
        }
        Ok(())
    }
}

/// Bytes up to and with the empty line that ends a request without a body.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// Listens, non-blocking; the name is what clients dial.
pub(in crate::bench) fn bind(url: &ServeUrl) -> Result<(OwnedFd, String), Error> {
    let cannot = |e: &dyn std::fmt::Display| Error::runtime(format!("cannot listen on {url}: {e}"));
    Ok(match url {
        ServeUrl::Tcp(address) => {
            let listener = std::net::TcpListener::bind(address).map_err(|e| cannot(&e))?;
            listener.set_nonblocking(true).map_err(|e| cannot(&e))?;
            // The library's backlog is 128, fewer than connect at once.
            rustix::net::listen(&listener, 4096).map_err(|e| cannot(&e))?;
            let name = format!("tcp://{}", listener.local_addr().map_err(|e| cannot(&e))?);
            (listener.into(), name)
        }
        ServeUrl::Unix(path) => {
            let listener = std::os::unix::net::UnixListener::bind(path).map_err(|e| cannot(&e))?;
            listener.set_nonblocking(true).map_err(|e| cannot(&e))?;
            rustix::net::listen(&listener, 4096).map_err(|e| cannot(&e))?;
            (listener.into(), format!("unix://{}", path.display()))
        }
        ServeUrl::Vsock(port) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| cannot(&e))?;
            let _inside = runtime.enter();
            let listener = tokio_vsock::VsockListener::bind(tokio_vsock::VsockAddr::new(u32::MAX, *port))
                .map_err(|e| cannot(&e))?;
            let fd = rustix::io::fcntl_dupfd_cloexec(&listener, 0).map_err(|e| cannot(&e))?;
            rustix::io::ioctl_fionbio(&fd, true).map_err(|e| cannot(&e))?;
            (fd, url.to_string())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_head_is_found() {
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET"), Some(27));
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\n\r"), None);
    }
}
