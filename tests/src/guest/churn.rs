//! Connections one after the other, each closed by its server first, as HTTP without keep-alive does: what a stack
//! remembers of them (TIME-WAIT) must not slow the next ones down.

use super::{PATIENCE, listen, say, tcp::connect};
use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr},
    time::{Duration, Instant},
};

const GREETING: &[u8] = b"hello\n";

/// Longer than any connection takes whose SYN is answered when it comes first; a SYN is repeated after a second.
const SLOW: Duration = Duration::from_millis(100);

/// Greets each connection and hangs up: the end that closes first is the one that remembers.
pub fn serve(address: SocketAddr) -> io::Result<()> {
    for stream in listen(address, Some(4096))?.incoming() {
        let mut stream = stream?;
        // A client may be gone again.
        let _ = stream.write_all(GREETING).and_then(|()| stream.shutdown(Shutdown::Write));
        let _ = stream.read_to_end(&mut Vec::new());
    }
    Ok(())
}

/// Opens `count` connections and waits for the end of each, or, with `first`, closes before the server does. Prints how many
/// failed, how many took longer than 100 ms, and the slowest; fails if any did.
pub fn run(address: SocketAddr, count: u32, first: bool) -> io::Result<()> {
    let (mut failed, mut slow, mut slowest) = (0_u32, 0_u32, Duration::ZERO);
    for _ in 0..count {
        let begin = now();
        failed += u32::from(one(address, first).is_err());
        let took = begin.elapsed();
        slow += u32::from(took > SLOW);
        slowest = slowest.max(took);
    }
    say(format_args!("connections={count} failed={failed} slow={slow} slowest_ms={}", slowest.as_millis()))?;
    if failed + slow == 0 { Ok(()) } else { Err(io::Error::other("connections failed, or took longer than 100 ms")) }
}

fn one(address: SocketAddr, first: bool) -> io::Result<()> {
    let mut stream = connect(address, PATIENCE)?;
    let mut greeting = [0; GREETING.len()];
    if first {
        stream.shutdown(Shutdown::Write)?;
    }
    stream.read_exact(&mut greeting)?;
    let rest = stream.read(&mut [0])?;
    if greeting == GREETING && rest == 0 { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn now() -> Instant {
    crate::wait::now()
}
