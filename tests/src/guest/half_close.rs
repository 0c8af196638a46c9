//! The half-closed connection: the client ends its side first and the answer comes after that.

use super::{
    PATIENCE,
    payload::{Digest, Payload},
    say, serve_each, tcp,
};
use std::{
    io,
    net::{Shutdown, SocketAddr},
};

/// The seed of every answer.
pub const REPLY_SEED: u64 = 99;

/// Reads each connection to its end, and only then sends `reply` bytes and closes.
pub fn server(address: SocketAddr, reply: u64) -> io::Result<()> {
    serve_each(address, None, move |mut stream| {
        let digest = Digest::read(&mut stream)?;
        say(format_args!("received {digest}"))?;
        Payload::new(REPLY_SEED).write(reply, &mut stream)?;
        stream.shutdown(Shutdown::Write)
    })
}

/// Sends `bytes`, ends its side, and reads what still comes. A connection that is cut is a result, not a failure.
pub fn client(address: SocketAddr, bytes: u64, seed: u64) -> io::Result<()> {
    let mut stream = tcp::connect(address, PATIENCE)?;
    Payload::new(seed).write(bytes, &mut stream)?;
    stream.shutdown(Shutdown::Write)?;
    let mut digest = Digest::default();
    let end = match io::copy(&mut stream, &mut digest) {
        Ok(_) => "closed",
        Err(_) => "cut",
    };
    say(format_args!("sent={bytes} end={end} {digest}"))
}
