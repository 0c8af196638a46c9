//! ICMP and ICMPv6 echo through a raw socket: needs no `ping` program, only CAP_NET_RAW in its namespace.

use super::say;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketType, ipproto,
    sockopt::{self, Timeout},
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Request and reply of ICMP, and of ICMPv6.
const ECHO: (u8, u8) = (8, 0);
const ECHO_V6: (u8, u8) = (128, 129);
const ATTEMPTS: u16 = 20;

/// Sends `count` echo requests of `size` bytes of data, one at a time, repeating the lost ones.
pub fn ping(address: IpAddr, size: usize, count: u16) -> io::Result<()> {
    let (family, protocol, (ask, answer)) = match address {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, ECHO),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, ECHO_V6),
    };
    let socket = rustix::net::socket(family, SocketType::RAW, Some(protocol))?;
    sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(1)))?;
    let identifier = rustix::process::getpid().as_raw_nonzero().get().to_be_bytes();
    let mut repeated = 0;
    for sequence in 0..count {
        let request = echo(ask, [identifier[2], identifier[3]], sequence, size);
        let reply = echo(answer, [identifier[2], identifier[3]], sequence, size);
        let mut attempts = 0;
        while !answered(&socket, address, &request, &reply)? {
            attempts += 1;
            repeated += 1;
            if attempts == ATTEMPTS {
                return Err(io::Error::other(format!("no echo reply from {address}")));
            }
        }
    }
    say(format_args!("replies={count} repeated={repeated}"))
}

fn answered(socket: impl std::os::fd::AsFd, address: IpAddr, request: &[u8], reply: &[u8]) -> io::Result<bool> {
    rustix::net::sendto(&socket, request, SendFlags::empty(), &SocketAddr::new(address, 0))?;
    let mut buf = vec![0; 65_536];
    loop {
        match rustix::net::recv(&socket, &mut buf[..], RecvFlags::empty()) {
            // A raw socket gets every ICMP message of the namespace, each with its IPv4 header and without its IPv6 one.
            Ok((_, n)) if is_reply(&buf[..n], address, reply) => return Ok(true),
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_reply(packet: &[u8], address: IpAddr, reply: &[u8]) -> bool {
    let IpAddr::V4(address) = address else {
        // The kernel makes and checks the checksum, which is over the addresses too (RFC 3542 section 3.1).
        return packet.len() == reply.len() && packet[..2] == reply[..2] && packet[4..] == reply[4..];
    };
    let header = packet.first().map_or(0, |first| usize::from(first & 0xF) * 4);
    packet.get(12..16) == Some(&address.octets()[..]) && packet.get(header..) == Some(reply)
}

/// An echo message: type, code, checksum, identifier, sequence, data.
fn echo(kind: u8, identifier: [u8; 2], sequence: u16, size: usize) -> Vec<u8> {
    let mut message = [[kind, 0], [0, 0], identifier, sequence.to_be_bytes()].concat();
    message.extend(super::payload::Payload::bytes(sequence.into(), size));
    let checksum = checksum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// The Internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = words.map(u32::from).sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits above")]
    let folded = sum as u16;
    !folded
}
