//! `--publish [PROTO:][ADDR:]PORT=GUEST:PORT`: a port of the host that leads to a guest from the start.

use crate::host::{
    address::any_interface,
    control::{Forward, Local},
    ports,
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

/// One published port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Publish {
    udp: bool,
    local: SocketAddr,
    /// The text of the local part without the protocol, by which the REST interface knows it.
    name: String,
    /// `None`: the device's address.
    guest: Option<IpAddr>,
    port: u16,
}

impl Publish {
    /// A TCP port of the loopback that leads to a port of the device.
    pub(super) fn on_loopback(local: u16, port: u16) -> Self {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, local));
        Self { udp: false, local, name: local.to_string(), guest: None, port }
    }

    /// The forward, where `device` is the guest that was not named.
    pub(super) fn forward(self, device: Ipv4Addr, proxy_protocol: bool) -> Forward {
        let local = if self.udp { Local::Udp(self.local) } else { Local::Tcp(self.local) };
        let to = SocketAddr::new(self.guest.unwrap_or(IpAddr::V4(device)), self.port);
        Forward { name: self.name, local, to, proxy_protocol: proxy_protocol && !self.udp }
    }
}

impl FromStr for Publish {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        let (local, remote) = text.split_once('=').ok_or(PublishError::Form)?;
        let (udp, local) = match local.split_once(':') {
            Some(("udp", rest)) => (true, rest),
            Some(("tcp", rest)) => (false, rest),
            Some(_) | None => (false, local),
        };
        let (guest, guest_port) = remote.rsplit_once(':').ok_or(PublishError::Form)?;
        let guest = match guest {
            "" => None,
            _ => Some(match in_brackets(guest) {
                Some(inside) => IpAddr::V6(inside.parse().map_err(|_| PublishError::Guest)?),
                None => IpAddr::V4(guest.parse().map_err(|_| PublishError::Guest)?),
            }),
        };
        let (address, local_port) = local.rsplit_once(':').map_or((None, local), |(a, p)| (Some(a), p));
        let ip = match address {
            None => Ipv4Addr::LOCALHOST.into(),
            Some("" | "*") => any_interface(),
            Some(address) => match in_brackets(address) {
                Some(inside) => IpAddr::V6(inside.parse().map_err(|_| PublishError::Address)?),
                None => IpAddr::V4(address.parse().map_err(|_| PublishError::Address)?),
            },
        };
        let protocol = if udp { "udp" } else { "tcp" };
        let port = |text: &str| ports::port(text, protocol).filter(|port| *port > 0).ok_or(PublishError::Port);
        let bound = SocketAddr::new(ip, port(local_port)?);
        let name = match address {
            // Known as gvproxy would know it.
            Some("" | "*") => format!(":{}", bound.port()),
            Some(_) | None => bound.to_string(),
        };
        Ok(Self { udp, local: bound, name, guest, port: port(guest_port)? })
    }
}

fn in_brackets(text: &str) -> Option<&str> {
    text.strip_prefix('[')?.strip_suffix(']')
}

/// Why a text publishes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PublishError {
    #[error("expected [PROTO:][ADDR:]PORT=GUEST:PORT, such as 443=:8443 or udp:0.0.0.0:53=192.168.127.2:53")]
    Form,
    #[error(
        "the address before the port is neither IPv4 nor IPv6 in brackets; expected [tcp:|udp:][ADDR:]PORT=GUEST:PORT"
    )]
    Address,
    #[error(
        "the guest behind = is neither an IPv4 address nor an IPv6 one in brackets; leave it out for the device: 443=:8443"
    )]
    Guest,
    #[error("a port is a number from 1 to 65535 or a service such as http; expected [PROTO:][ADDR:]PORT=GUEST:PORT")]
    Port,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 2);

    #[test]
    fn every_form_of_the_contract_is_read() {
        for (text, local, name, to) in [
            ("443=192.168.127.9:8443", "tcp 127.0.0.1:443", "127.0.0.1:443", "192.168.127.9:8443"),
            ("443=:8443", "tcp 127.0.0.1:443", "127.0.0.1:443", "192.168.127.2:8443"),
            ("tcp:443=:443", "tcp 127.0.0.1:443", "127.0.0.1:443", "192.168.127.2:443"),
            ("udp:53=:53", "udp 127.0.0.1:53", "127.0.0.1:53", "192.168.127.2:53"),
            ("0.0.0.0:80=:80", "tcp 0.0.0.0:80", "0.0.0.0:80", "192.168.127.2:80"),
            ("443=[fd00::2]:8443", "tcp 127.0.0.1:443", "127.0.0.1:443", "[fd00::2]:8443"),
            ("udp:[::1]:53=:53", "udp [::1]:53", "[::1]:53", "192.168.127.2:53"),
            ("http=:https", "tcp 127.0.0.1:80", "127.0.0.1:80", "192.168.127.2:443"),
            ("udp:0.0.0.0:domain=:53", "udp 0.0.0.0:53", "0.0.0.0:53", "192.168.127.2:53"),
        ] {
            let forward = text.parse::<Publish>().unwrap().forward(DEVICE, false);
            let bound = match &forward.local {
                Local::Tcp(address) | Local::Udp(address) => format!("{} {address}", forward.local.protocol()),
                Local::Unix(path) => panic!("{}", path.display()),
            };
            assert_eq!((bound.as_str(), forward.name.as_str(), forward.to.to_string().as_str()), (local, name, to));
        }
        for all in [":443=:1", "*:443=:1"] {
            let forward = all.parse::<Publish>().unwrap().forward(DEVICE, true);
            assert!(matches!(forward.local, Local::Tcp(a) if a.ip().is_unspecified()) && forward.proxy_protocol);
            assert_eq!(forward.name, ":443");
        }
        assert!(!"udp:1=:1".parse::<Publish>().unwrap().forward(DEVICE, true).proxy_protocol, "it is TCP's alone");
    }

    #[test]
    fn bad_forms_say_what_was_expected() {
        for (text, error) in [
            ("", PublishError::Form),
            ("443", PublishError::Form),
            ("443=8443", PublishError::Form),
            ("0=:1", PublishError::Port),
            ("1=:65536", PublishError::Port),
            ("x=:1", PublishError::Port),
            ("+1=:1", PublishError::Port),
            ("udp:nosuchservice=:1", PublishError::Port),
            ("sctp:1=:1", PublishError::Address),
            ("localhost:1=:1", PublishError::Address),
            ("::1:80=:1", PublishError::Address),
            ("1=host:1", PublishError::Guest),
            ("1=fd00::1:1", PublishError::Guest),
        ] {
            assert_eq!(text.parse::<Publish>(), Err(error), "{text}");
        }
    }
}
