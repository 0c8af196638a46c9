//! UDP: an echo server, and a client that counts what it must repeat.

use super::{PATIENCE, payload::Payload, say};
use rustix::{
    io::Errno,
    net::sockopt::{self, Ipv4PathMtuDiscovery},
};
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Sends every datagram back to where it came from.
pub fn echo(address: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    say(format_args!("listening on {}", socket.local_addr()?))?;
    let mut buf = vec![0; 65_536];
    loop {
        let (n, from) = socket.recv_from(&mut buf)?;
        // Nobody listens there any more, or there is no way back: the next datagram may have better luck.
        let _ = socket.send_to(&buf[..n], from);
    }
}

/// Sends `count` datagrams of `size` bytes, one at a time, and compares each echo. A datagram that is lost is repeated.
pub fn ping(address: SocketAddr, size: usize, count: u64) -> io::Result<()> {
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(RETRY_AFTER))?;
    let mut repeated = 0;
    for i in 0..count {
        let datagram = Payload::bytes(i, size);
        let mut attempts = 0;
        while !echoed(&socket, &datagram)? {
            attempts += 1;
            repeated += 1;
            if RETRY_AFTER * attempts >= PATIENCE {
                return Err(io::Error::other(format!("datagram {i} of {size} bytes was never echoed")));
            }
        }
    }
    say(format_args!("echoed={count} repeated={repeated}"))
}

/// Sends a datagram of `size` bytes that may not be fragmented, as QUIC does, again and again until the kernel refuses it
/// because the path was found to be narrower. Gives the MTU that it found.
pub fn probe(address: SocketAddr, size: usize) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(RETRY_AFTER))?;
    let datagram = Payload::bytes(0, size);
    for _ in 0..PATIENCE.as_secs() {
        let told = |error: &io::Error| error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error());
        let sent = socket.send(&datagram);
        // Nobody answers: this waits for the error to come.
        if sent.as_ref().is_err_and(told) || socket.recv(&mut [0]).as_ref().is_err_and(told) {
            return say(format_args!("mtu={}", sockopt::ip_mtu(&socket)?));
        }
        sent?;
    }
    Err(io::Error::other(format!("{size} bytes were sent for ever, and nobody said that they do not pass")))
}

/// Sends datagrams of `size` bytes as fast as they go, for ever, whether anybody listens or not.
pub fn flood(address: SocketAddr, size: usize) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let datagram = Payload::bytes(0, size);
    say("flooding")?;
    loop {
        // A refusal concerns an earlier datagram.
        let _ = socket.send_to(&datagram, address);
    }
}

/// Sends one datagram from each of ever new ports, for ever.
pub fn strangers(address: SocketAddr) -> io::Result<()> {
    say("flooding")?;
    loop {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        // Nobody needs to listen.
        let _ = socket.send_to(b"stranger", address);
    }
}

/// The errors of an earlier datagram that the next call reports: nobody listens, or a router said that it was too long,
/// and the kernel fragments from here on.
fn concerns_an_earlier_one(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused || error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error())
}

/// Whether `datagram` came back before the time to repeat it.
fn echoed(socket: &UdpSocket, datagram: &[u8]) -> io::Result<bool> {
    let mut buf = vec![0; 65_536];
    let sent = socket.send(datagram);
    if sent.as_ref().is_err_and(|error| !concerns_an_earlier_one(error)) {
        sent?;
    }
    loop {
        match socket.recv(&mut buf) {
            Ok(n) if buf[..n] == *datagram => return Ok(true),
            // The late echo of an attempt that was given up.
            Ok(n) if n == datagram.len() => {}
            Ok(n) => return Err(io::Error::other(format!("sent {} bytes, got {n} back", datagram.len()))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if concerns_an_earlier_one(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
