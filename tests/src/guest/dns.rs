//! One DNS query of type A or AAAA over UDP (RFC 1035, RFC 3596), by hand.

use super::say;
use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

const ID: u16 = 0x4E54;
/// The type of a record with an IPv4 address.
pub const TYPE_A: u16 = 1;
/// The type of one with an IPv6 address.
pub const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
const ATTEMPTS: u32 = 10;

/// Asks `server` for the addresses of `name` in records of one type and prints them.
pub fn lookup(name: &str, kind: u16, server: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let query = query(name, kind)?;
    let mut buf = [0; 512];
    for _ in 0..ATTEMPTS {
        socket.send(&query)?;
        if let Ok(n) = socket.recv(&mut buf) {
            let addresses = answers(&buf[..n])?;
            let addresses: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
            return say(format_args!("addresses={}", addresses.join(",")));
        }
    }
    Err(io::Error::other(format!("no answer from {server}")))
}

fn query(name: &str, kind: u16) -> io::Result<Vec<u8>> {
    // Recursion desired, one question.
    let mut message = [ID.to_be_bytes(), [1, 0], [0, 1], [0, 0], [0, 0], [0, 0]].concat();
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length));
        message.push(length.ok_or_else(|| io::Error::other(format!("not a host name: {name:?}")))?);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&CLASS_IN.to_be_bytes());
    Ok(message)
}

/// The addresses in an answer; an error names what is wrong with it.
fn answers(message: &[u8]) -> io::Result<Vec<IpAddr>> {
    let mut at = Cursor { message, position: 0 };
    let (id, flags) = (at.number()?, at.number()?);
    let (questions, records) = (at.number()?, at.number()?);
    at.skip(4)?;
    if id != ID || flags & 0x8000 == 0 {
        return Err(io::Error::other("not the answer to this query"));
    }
    if flags & 0xF != 0 {
        return Err(io::Error::other(format!("the server answered with code {}", flags & 0xF)));
    }
    for _ in 0..questions {
        at.skip_name()?;
        at.skip(4)?;
    }
    let mut addresses = Vec::new();
    for _ in 0..records {
        at.skip_name()?;
        let kind = at.number()?;
        at.skip(6)?;
        let length = at.number()?.into();
        let data = at.take(length)?;
        match (kind, data) {
            (TYPE_A, &[a, b, c, d]) => addresses.push([a, b, c, d].into()),
            (TYPE_AAAA, data) => {
                let octets: [u8; 16] = data.try_into().map_err(|_| io::Error::other("an AAAA record of no address"))?;
                addresses.push(Ipv6Addr::from(octets).into());
            }
            _ => {}
        }
    }
    Ok(addresses)
}

struct Cursor<'a> {
    message: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> io::Result<&'a [u8]> {
        let taken = self.message.get(self.position..self.position + n);
        self.position += n;
        taken.ok_or_else(|| io::Error::other("the answer is cut short"))
    }

    fn skip(&mut self, n: usize) -> io::Result<()> {
        self.take(n).map(drop)
    }

    fn number(&mut self) -> io::Result<u16> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A name ends with an empty label or with a pointer to its rest.
    fn skip_name(&mut self) -> io::Result<()> {
        loop {
            match self.take(1)?[0] {
                0 => return Ok(()),
                pointer if pointer >= 0xC0 => return self.skip(1),
                length => self.skip(length.into())?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_a_compressed_name_gives_its_address() {
        let mut message = query("a.example", TYPE_A).unwrap();
        message[2] = 0x81;
        message[7] = 1;
        message.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 192, 168, 127, 1]);
        assert_eq!(answers(&message).unwrap(), [IpAddr::from([192, 168, 127, 1])]);
        assert!(answers(&message[..message.len() - 1]).is_err());
    }

    #[test]
    fn a_name_that_does_not_exist_is_an_error() {
        let mut message = query("a.example", TYPE_A).unwrap();
        message[2..4].copy_from_slice(&[0x81, 0x83]);
        assert!(answers(&message).unwrap_err().to_string().contains("code 3"));
    }
}
