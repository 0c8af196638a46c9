//! What an asker of a published port is told where the guest has nobody there: the answer of a host with a closed port.

use super::wire::{self, IPV4, IPV6, UDP, Unreachable};
use core::net::SocketAddr;

/// The packet by which the host says to `asker` that nobody is at `asked` (RFC 1122 section 4.1.3.1): an ICMP or ICMPv6 error that
/// quotes the head of what was sent. `None` if the two are not of one family.
#[must_use]
pub fn port_unreachable(asked: SocketAddr, asker: SocketAddr) -> Option<Vec<u8>> {
    let (from, to) = (asked.ip().to_canonical(), asker.ip().to_canonical());
    let head = match (from.is_ipv4(), to.is_ipv4()) {
        (true, true) => IPV4,
        (false, false) => IPV6,
        _ => return None,
    };
    let mut quoted = vec![0; head + UDP];
    wire::udp(&mut quoted[head..], (to, asker.port()), (from, asked.port()));
    wire::ip(&mut quoted, to, from, wire::PROTO_UDP);
    let mut message = wire::unreachable(&quoted, Unreachable::Port);
    let protocol = wire::finish_error(&mut message, from, to);
    let mut packet = vec![0; head];
    packet.append(&mut message);
    wire::ip(&mut packet, from, to, protocol);
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::wire::{Ip, Verdict, read_error};

    #[test]
    fn it_is_read_as_what_it_is() {
        for (asked, asker) in [("10.9.0.1:53", "198.51.100.4:4000"), ("[fd99::1]:53", "[2001:db8::4]:4000")] {
            let (asked, asker): (SocketAddr, SocketAddr) = (asked.parse().unwrap(), asker.parse().unwrap());
            let packet = port_unreachable(asked, asker).unwrap();
            let v6 = || wire::chain(&packet).and_then(|chain| chain.plain());
            let ip = if asked.is_ipv4() { Ip::parse_v4(&packet) } else { v6() }.unwrap();
            assert_eq!((ip.source, ip.destination), (asked.ip(), asker.ip()));
            assert_eq!(ip.payload[..2], if asked.is_ipv4() { [3, 3] } else { [1, 4] });
            let (verdict, quoted) = read_error(&ip).unwrap();
            assert_eq!(verdict, Verdict::Refused);
            assert_eq!(quoted.source, (asker.ip(), asker.port()));
            assert_eq!(quoted.destination, (asked.ip(), asked.port()));
            let mut again = ip.payload.to_vec();
            wire::finish_error(&mut again, ip.source, ip.destination);
            assert_eq!(again, ip.payload, "its checksum is right");
        }
        let mapped = port_unreachable("[::ffff:10.9.0.1]:53".parse().unwrap(), "[::ffff:10.9.0.2]:9".parse().unwrap());
        assert_eq!(mapped.map(|packet| packet[0]), Some(0x45));
        assert_eq!(port_unreachable("10.9.0.1:53".parse().unwrap(), "[fd99::1]:9".parse().unwrap()), None);
    }
}
