//! Version 2 of the PROXY protocol: who a connection is really from, in front of its first byte.
//!
//! Owns: nothing. Driven by: the gateway's published ports, which send it, and the reverse proxy's listeners, which may
//! demand it. Drain: nothing. Bounds: [`MAX_HEADER`].
//!
//! The format is that of HAProxy's `proxy-protocol.txt`, section 2.2:
//!
//! ```text
//!  0           12          13              14        16           16+addresses   16+len
//!  +-----------+-----------+---------------+---------+------------+--------------+
//!  | signature | 2.command | family.socket | len BE  | src dst    | TLVs         |
//!  +-----------+-----------+---------------+---------+------------+--------------+
//! ```

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What every header begins with; no HTTP, TLS or SSH does.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes in front of the addresses.
pub const FIXED_LEN: usize = 16;

/// The longest header taken, TLVs included: what surely fits the first segment of a connection, which is what the
/// protocol asks of senders (536 bytes, the smallest MSS that hosts must take, RFC 9293 section 3.7.1). Those of cloud
/// load balancers have some 110 bytes. The length could express 65551.
pub const MAX_HEADER: usize = 536;

/// The header of a connection that is its sender's own, a health check for example: the receiver goes by the addresses
/// of the connection itself.
pub const LOCAL: [u8; FIXED_LEN] =
    [b'\r', b'\n', b'\r', b'\n', 0, b'\r', b'\n', b'Q', b'U', b'I', b'T', b'\n', VERSION, 0, 0, 0];

const VERSION: u8 = 0x20;
const COMMAND_PROXY: u8 = 1;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// The TLV with a checksum over the header (section 2.2.3, `PP2_TYPE_CRC32C`), and the length of its value.
const CRC32C: (u8, usize) = (0x03, 4);

/// What a header says about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The sender's own connection: what the receiver knows of it is right.
    Local,
    /// A connection on behalf of somebody without an IP address, or of whom the sender does not know it.
    Unknown,
    /// A connection on behalf of a client.
    Relayed {
        /// Where the client is.
        source: SocketAddr,
        /// What the client connected to.
        destination: SocketAddr,
    },
}

/// What the bytes that have arrived are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header. This many bytes more are part of it for sure: whoever reads no more than them takes
    /// nothing that comes after it.
    Incomplete(usize),
    /// A whole header.
    Complete {
        /// What it says.
        header: Header,
        /// Its length: what follows is the connection's own first byte.
        consumed: usize,
    },
}

/// Why the bytes are no header; nothing that follows mends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Something else than [`SIGNATURE`].
    #[error("it does not begin with the signature of the PROXY protocol, version 2")]
    Signature,
    /// Another version than 2.
    #[error("version {0} of the PROXY protocol, and only 2 is known")]
    Version(u8),
    /// Neither LOCAL nor PROXY.
    #[error("command {0}, and only 0 (LOCAL) and 1 (PROXY) are known")]
    Command(u8),
    /// A family and kind of socket that is not assigned.
    #[error("address family and socket kind {0:#04x} are not assigned")]
    Family(u8),
    /// Longer than [`MAX_HEADER`].
    #[error("a header of {len} bytes, and at most {MAX_HEADER} are taken")]
    TooLong {
        /// Bytes of the whole header.
        len: usize,
    },
    /// Too short for the addresses that it announces.
    #[error("{len} bytes behind the fixed part, and the addresses take {addresses}")]
    TooShort {
        /// Bytes behind the fixed part.
        len: usize,
        /// Bytes of the addresses.
        addresses: usize,
    },
    /// A TLV that reaches beyond the header.
    #[error("a TLV of type {kind:#04x} reaches beyond the header")]
    Tlv {
        /// Its type; 0 if even that is cut off.
        kind: u8,
    },
    /// A checksum that is not that of the header.
    #[error("the checksum says {said:#010x}, and that of the header is {is:#010x}")]
    Checksum {
        /// What the TLV says.
        said: u32,
        /// What it should say.
        is: u32,
    },
}

/// The header of a TCP connection on behalf of `source`. If one address is IPv4 and the other is not, it goes in its
/// IPv4-mapped form; flow labels and scopes of IPv6 have no place in it.
#[must_use]
pub fn encode(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FIXED_LEN + 36);
    bytes.extend(SIGNATURE);
    bytes.push(VERSION | COMMAND_PROXY);
    if let (IpAddr::V4(from), IpAddr::V4(to)) = (source.ip(), destination.ip()) {
        bytes.extend([TCP4, 0, 12]);
        bytes.extend(from.octets());
        bytes.extend(to.octets());
    } else {
        bytes.extend([TCP6, 0, 36]);
        bytes.extend(v6(source.ip()).octets());
        bytes.extend(v6(destination.ip()).octets());
    }
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    bytes
}

const fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Reads a header at the beginning of `bytes`, which may hold more or less than that.
///
/// # Errors
/// [`Error`] as soon as the bytes that are there can be no beginning of a header.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Error> {
    let signature = &bytes[..bytes.len().min(SIGNATURE.len())];
    if !SIGNATURE.starts_with(signature) {
        return Err(Error::Signature);
    }
    let Some((fixed, _)) = bytes.split_first_chunk::<FIXED_LEN>() else {
        return Ok(Parsed::Incomplete(FIXED_LEN - bytes.len()));
    };
    let [.., command, family, high, low] = *fixed;
    if command & 0xf0 != VERSION {
        return Err(Error::Version(command >> 4));
    }
    if command & 0x0f > COMMAND_PROXY {
        return Err(Error::Command(command & 0x0f));
    }
    let consumed = FIXED_LEN + usize::from(u16::from_be_bytes([high, low]));
    if consumed > MAX_HEADER {
        return Err(Error::TooLong { len: consumed });
    }
    // A LOCAL header's family and what follows are to be ignored (section 2.2).
    let local = command & 0x0f != COMMAND_PROXY;
    let addresses = if local { 0 } else { addresses_len(family)? };
    if consumed < FIXED_LEN + addresses {
        return Err(Error::TooShort { len: consumed - FIXED_LEN, addresses });
    }
    if bytes.len() < consumed {
        return Ok(Parsed::Incomplete(consumed - bytes.len()));
    }
    let header = if local {
        Header::Local
    } else {
        check_tlvs(&bytes[..consumed], FIXED_LEN + addresses)?;
        read_addresses(family, &bytes[FIXED_LEN..FIXED_LEN + addresses])
    };
    Ok(Parsed::Complete { header, consumed })
}

/// Bytes of both addresses and ports, for each family and kind of socket that is assigned (section 2.2).
const fn addresses_len(family: u8) -> Result<usize, Error> {
    match family {
        0x00 => Ok(0),
        TCP4 | 0x12 => Ok(12),
        TCP6 | 0x22 => Ok(36),
        // Paths of unix sockets.
        0x31 | 0x32 => Ok(216),
        _ => Err(Error::Family(family)),
    }
}

fn read_addresses(family: u8, bytes: &[u8]) -> Header {
    let ports = |bytes: [u8; 4]| {
        let [a, b, c, d] = bytes;
        (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
    };
    let pair = match family >> 4 {
        1 => halves::<4>(bytes)
            .map(|(from, to, rest)| (Ipv4Addr::from(from).into(), Ipv4Addr::from(to).into(), ports(rest))),
        2 => halves::<16>(bytes)
            .map(|(from, to, rest)| (Ipv6Addr::from(from).into(), Ipv6Addr::from(to).into(), ports(rest))),
        _ => None,
    };
    pair.map_or(Header::Unknown, |(from, to, (from_port, to_port)): (IpAddr, IpAddr, _)| Header::Relayed {
        source: (from, from_port).into(),
        destination: (to, to_port).into(),
    })
}

/// Two addresses of `N` bytes, and their ports.
fn halves<const N: usize>(bytes: &[u8]) -> Option<([u8; N], [u8; N], [u8; 4])> {
    let (from, rest) = bytes.split_first_chunk()?;
    let (to, rest) = rest.split_first_chunk()?;
    Some((*from, *to, *rest.first_chunk()?))
}

/// Walks over the TLVs of a whole header, which begin at `at`; the one that has a meaning here is the checksum.
fn check_tlvs(header: &[u8], mut at: usize) -> Result<(), Error> {
    while at < header.len() {
        let rest = &header[at..];
        let Some(([kind, high, low], value)) = rest.split_first_chunk() else {
            return Err(Error::Tlv { kind: rest[0] });
        };
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let value = value.get(..len).ok_or(Error::Tlv { kind: *kind })?;
        if (*kind, len) == CRC32C {
            let mut plain = header.to_vec();
            plain[at + 3..at + 3 + len].fill(0);
            let is = crc32c(&plain);
            let said = value.iter().fold(0, |said, byte| said << 8 | u32::from(*byte));
            if said != is {
                return Err(Error::Checksum { said, is });
            }
        }
        at += 3 + len;
    }
    Ok(())
}

/// RFC 3385 section 3 and RFC 9260 appendix A: polynomial 0x1edc6f41, bits reversed. A table is not worth its bytes for
/// one header per connection.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

#[cfg(test)]
mod tests;
