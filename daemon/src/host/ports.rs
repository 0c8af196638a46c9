//! Ports by number or by the name of their service, as Go's `net.LookupPort` has them: `/etc/services`, and the usual ones where
//! there is no such file.
//!
//! Bounds: [`MAX_FILE`] bytes of the file.

use super::address::any_interface;
use std::{
    fs::File,
    io::Read as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

const FILE: &str = "/etc/services";
const MAX_FILE: u64 = 1 << 20;

/// Go's own, of TCP and with `domain` of UDP.
const USUAL: &[(&str, u16)] = &[
    ("domain", 53),
    ("ftp", 21),
    ("ftps", 990),
    ("http", 80),
    ("https", 443),
    ("imap2", 143),
    ("imap3", 220),
    ("imaps", 993),
    ("pop3", 110),
    ("pop3s", 995),
    ("smtp", 25),
    ("submissions", 465),
    ("ssh", 22),
    ("telnet", 23),
];

/// A port in decimal, or that of a service; `protocol` is `tcp` or `udp`.
pub(crate) fn port(text: &str, protocol: &str) -> Option<u16> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok();
    }
    let mut services = String::new();
    // Without the file the usual ones do.
    let _ = File::open(FILE).and_then(|file| file.take(MAX_FILE).read_to_string(&mut services));
    of_service(text, protocol, &services)
}

fn of_service(name: &str, protocol: &str, services: &str) -> Option<u16> {
    let of_line = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let official = words.next()?;
        let (port, of) = words.next()?.split_once('/')?;
        let named = std::iter::once(official).chain(words).any(|word| word.eq_ignore_ascii_case(name));
        (of == protocol && named).then(|| port.parse().ok()).flatten()
    };
    let usual = || {
        let known = USUAL.iter().find(|(usual, _)| usual.eq_ignore_ascii_case(name));
        known.filter(|(usual, _)| protocol == "tcp" || *usual == "domain").map(|(_, port)| *port)
    };
    services.lines().find_map(of_line).or_else(usual)
}

/// `ADDR:PORT` with a number or a service, where ADDR may be `localhost`, or nothing for all interfaces.
pub(crate) fn socket_address(text: &str, protocol: &str) -> Option<SocketAddr> {
    let (host, service) = text.rsplit_once(':')?;
    let ip = match host {
        "" => any_interface(),
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        _ => match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) => IpAddr::V6(host.parse().ok()?),
            None => IpAddr::V4(host.parse().ok()?),
        },
    };
    Some(SocketAddr::new(ip, port(service, protocol)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: &str = "\
        # comment\n\
        tcpmux 1/tcp # http 7/tcp\n\
        web\t8080/tcp  www WebCache\n\
        web 8081/udp\n\
        broken\n\
        odd 99999/tcp\n\
        http 81/tcp\n";

    #[test]
    fn services_have_ports_by_protocol_and_by_every_name() {
        for (name, protocol, port) in [
            ("web", "tcp", Some(8080)),
            ("web", "udp", Some(8081)),
            ("webcache", "tcp", Some(8080)),
            ("WWW", "tcp", Some(8080)),
            ("www", "udp", None),
            ("http", "tcp", Some(81)),
            ("https", "tcp", Some(443)),
            ("https", "udp", None),
            ("domain", "udp", Some(53)),
            ("broken", "tcp", None),
            ("odd", "tcp", None),
            ("nobody", "tcp", None),
            ("#", "tcp", None),
            ("", "tcp", None),
        ] {
            assert_eq!(of_service(name, protocol, SERVICES), port, "{name} {protocol}");
        }
        assert_eq!(of_service("HTTP", "tcp", ""), Some(80));
    }

    #[test]
    fn numbers_are_ports_and_signs_are_not() {
        assert_eq!((port("0", "tcp"), port("65535", "udp")), (Some(0), Some(65535)));
        for bad in ["65536", "+80", "-1", " 80", "", "0x50"] {
            assert_eq!(port(bad, "tcp"), None, "{bad:?}");
        }
    }

    #[test]
    fn addresses_are_read_with_either() {
        for (text, address) in [
            ("127.0.0.1:8080", Some("127.0.0.1:8080")),
            ("[::1]:https", Some("[::1]:443")),
            ("localhost:ssh", Some("127.0.0.1:22")),
            ("::1:80", None),
            ("[127.0.0.1]:80", None),
            ("host:80", None),
            ("80", None),
        ] {
            assert_eq!(socket_address(text, "tcp"), address.map(|address| address.parse().unwrap()), "{text}");
        }
        let all = socket_address(":http", "tcp").unwrap();
        assert!(all.ip().is_unspecified() && all.port() == 80);
    }
}
