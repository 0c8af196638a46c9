//! `--publish [ADDR:]PORT[:PORT]`: which port outside leads to which port inside.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

/// One published TCP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    /// Where the outside connects; loopback unless an address was given.
    pub(crate) outside: SocketAddr,
    /// The port of the app.
    pub(crate) inside: u16,
}

impl FromStr for Publish {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        // An IPv6 address stands in brackets, so the colons of the rest are counted behind it.
        let (address, ports) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, ports) = rest.split_once("]:").ok_or(PublishError::Form)?;
                (Some(IpAddr::V6(address.parse().map_err(|_| PublishError::Address)?)), ports)
            }
            None => match text.split_once(':') {
                Some((first, rest)) if first.parse::<u16>().is_err() => {
                    (Some(IpAddr::V4(first.parse().map_err(|_| PublishError::Address)?)), rest)
                }
                Some(_) | None => (None, text),
            },
        };
        let (outside, inside) = ports.split_once(':').unwrap_or((ports, ports));
        let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Ok(Self { outside: SocketAddr::new(address, port(outside)?), inside: port(inside)? })
    }
}

fn port(text: &str) -> Result<u16, PublishError> {
    text.parse().ok().filter(|port| *port > 0).ok_or(PublishError::Port)
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.outside, self.inside)
    }
}

/// Why a text publishes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PublishError {
    #[error("expected [ADDR:]PORT[:PORT], such as 8080, 8080:80 or 0.0.0.0:8080:80")]
    Form,
    #[error("the address before the port is neither IPv4 nor IPv6 in brackets; expected [ADDR:]PORT[:PORT]")]
    Address,
    #[error("a port is a number from 1 to 65535; expected [ADDR:]PORT[:PORT]")]
    Port,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_contract_is_read() {
        for (text, read) in [
            ("8080", "127.0.0.1:8080:8080"),
            ("8080:80", "127.0.0.1:8080:80"),
            ("0.0.0.0:8080", "0.0.0.0:8080:8080"),
            ("0.0.0.0:8080:80", "0.0.0.0:8080:80"),
            ("[::1]:8080:80", "[::1]:8080:80"),
        ] {
            assert_eq!(text.parse::<Publish>().unwrap().to_string(), read);
        }
    }

    #[test]
    fn bad_forms_say_what_was_expected() {
        for (text, error) in [
            ("", PublishError::Port),
            ("0", PublishError::Port),
            ("65536", PublishError::Port),
            ("80:", PublishError::Port),
            ("80:90:100", PublishError::Port),
            ("localhost:80", PublishError::Address),
            ("[::1]", PublishError::Form),
            ("[x]:80", PublishError::Address),
        ] {
            assert_eq!(text.parse::<Publish>(), Err(error), "{text}");
        }
    }
}
