//! What an ICMP error quotes of a session's datagram, and what an echo is called in each family.

use crate::gateway::{
    session::{Kind, SessionKey},
    wire::{self, UDP},
};
use core::net::IpAddr;

/// The head of a session's datagram, which is gone: what an error quotes of it is its addresses (RFC 792), which say whose it
/// was, and of a ping its sequence number, by which programs know which one it was.
pub(super) fn quoted(key: &SessionKey, message: &[u8]) -> Vec<u8> {
    let head = wire::head(key.guest.0);
    let mut quoted = vec![0; head + UDP];
    let echo = echo(key.guest.0);
    match key.kind {
        Kind::Udp => wire::udp(&mut quoted[head..], key.guest, key.remote),
        Kind::Ping => {
            quoted[head] = echo.request;
            quoted[head + 4..head + 6].copy_from_slice(&key.guest.1.to_be_bytes());
            if let Some(sequence) = message.get(6..8) {
                quoted[head + 6..head + 8].copy_from_slice(sequence);
            }
        }
    }
    let protocol = if key.kind == Kind::Udp { wire::PROTO_UDP } else { echo.protocol };
    wire::ip(&mut quoted, key.guest.0, key.remote.0, protocol);
    quoted
}

/// What an echo is called in the family of an address.
pub(super) struct Echo {
    pub(super) protocol: u8,
    pub(super) request: u8,
    pub(super) reply: u8,
}

/// RFC 792, RFC 4443 section 4.
pub(super) const fn echo(address: IpAddr) -> Echo {
    match address {
        IpAddr::V4(_) => Echo { protocol: wire::PROTO_ICMP, request: 8, reply: 0 },
        IpAddr::V6(_) => Echo { protocol: wire::PROTO_ICMPV6, request: 128, reply: 129 },
    }
}
