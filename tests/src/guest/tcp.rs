//! Plain TCP ends: echo, sink, source, and their clients.

use super::{
    PATIENCE,
    payload::{Digest, Payload},
    say, serve_each,
};
use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

const CHUNK: usize = 64 * 1024;

/// Sends back what comes, on every connection, until the peer ends its side. `backlog` is that of listen(2).
pub fn echo(address: SocketAddr, backlog: Option<i32>) -> io::Result<()> {
    serve_each(address, backlog, |mut stream| {
        let mut buf = vec![0; CHUNK];
        loop {
            match stream.read(&mut buf)? {
                0 => return stream.shutdown(Shutdown::Write),
                n => stream.write_all(&buf[..n])?,
            }
        }
    })
}

/// Reads every connection to its end and prints what came.
pub fn sink(address: SocketAddr) -> io::Result<()> {
    serve_each(address, None, |mut stream| {
        let digest = Digest::read(&mut stream)?;
        say(format_args!("received {digest}"))
    })
}

/// Sends `bytes` of the stream of `seed` on every connection and closes it.
pub fn source(address: SocketAddr, bytes: u64, seed: u64) -> io::Result<()> {
    serve_each(address, None, move |mut stream| {
        Payload::new(seed).write(bytes, &mut stream)?;
        stream.shutdown(Shutdown::Write)?;
        // Until the peer has it all: a close with unread bytes would cut the stream short.
        Digest::read(&mut stream).map(drop)
    })
}

/// Sends `bytes` of the stream of `seed`, ends the sending side and waits for the peer's end.
pub fn send(address: SocketAddr, bytes: u64, seed: u64) -> io::Result<()> {
    let mut stream = connect(address, PATIENCE)?;
    Payload::new(seed).write(bytes, &mut stream)?;
    stream.shutdown(Shutdown::Write)?;
    // What was sent is not in doubt any more, and peers that end a connection with a reset are none of our business.
    let _ = Digest::read(&mut stream);
    say(format_args!("sent {}", Digest::of(seed, bytes)))
}

/// Sends `bytes` of the stream of `seed` and ends at once, leaving the rest to the kernel.
pub fn leave(address: SocketAddr, bytes: u64, seed: u64) -> io::Result<()> {
    Payload::new(seed).write(bytes, &mut connect(address, PATIENCE)?)
}

/// Reads a connection to its end.
pub fn receive(address: SocketAddr, limit: Duration) -> io::Result<()> {
    let mut stream = connect(address, limit)?;
    let digest = Digest::read(&mut stream)?;
    say(format_args!("received {digest}"))
}

/// Opens `connections` to an echo server, and once all stand, exchanges `bytes` over each at the same time.
///
/// They are opened one after the other, because gvproxy 0.8.1 silently drops every SYN above ten that wait for its dial,
/// and a burst of hundreds then takes minutes of TCP's doubling pauses.
pub fn exchange(address: SocketAddr, connections: usize, bytes: u64, seed: u64) -> io::Result<()> {
    let streams = (0..connections).map(|_| connect(address, PATIENCE)).collect::<io::Result<Vec<_>>>()?;
    let results: Vec<_> = std::thread::scope(|scope| {
        let start = |(stream, seed)| scope.spawn(move || exchange_one(stream, bytes, seed));
        let threads: Vec<_> = streams.iter().zip(seed..).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("panicked")))).collect()
    });
    let good = results.iter().filter(|result| result.is_ok()).count();
    say(format_args!("connections={connections} good={good}"))?;
    results.into_iter().collect::<io::Result<Vec<()>>>().map(drop)
}

/// Writes and reads at the same time, so that no buffer on the way can stop both, and compares.
fn exchange_one(stream: &TcpStream, bytes: u64, seed: u64) -> io::Result<()> {
    let echoed = std::thread::scope(|scope| {
        let writer = scope.spawn(|| Payload::new(seed).write(bytes, &mut &*stream));
        let mut digest = Digest::default();
        io::copy(&mut io::Read::take(stream, bytes), &mut digest)?;
        writer.join().unwrap_or_else(|_| Err(io::Error::other("panicked")))?;
        io::Result::Ok(digest)
    })?;
    let expected = Digest::of(seed, bytes);
    if echoed == expected { Ok(()) } else { Err(io::Error::other(format!("sent {expected}, got {echoed} back"))) }
}

/// Connects without end, and lets each connection go when another 500 have come.
pub fn strangers(address: SocketAddr) -> io::Result<()> {
    say("flooding")?;
    let mut held = std::collections::VecDeque::new();
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => held.push_back(stream),
            // It is full for now, or closes what it cannot take.
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
        if held.len() > 500 {
            held.pop_front();
        }
    }
}

pub(super) fn connect(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
