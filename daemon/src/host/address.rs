//! Where the gateway listens: `vsock://:PORT`, `vsock://CID:PORT`, `unix:///PATH`, `unixpacket:///PATH`,
//! `tcp://ADDR:PORT`.

use crate::endpoint::UNIX_PATH_MAX;
use rustix::net::{AddressFamily, SocketType, socket};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};
use tokio_vsock::VMADDR_CID_ANY;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ListenUrl {
    /// `cid` is [`VMADDR_CID_ANY`] if none was given.
    Vsock {
        cid: u32,
        port: u32,
    },
    /// A stream socket in the file system.
    Unix(PathBuf),
    /// A `SOCK_SEQPACKET` socket in the file system.
    UnixPacket(PathBuf),
    Tcp(SocketAddr),
}

/// Which schemes a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// `--listen`: vsock, unix, tcp.
    Link,
    /// `--listen-qemu` and `--services`: unix, tcp.
    Local,
    /// `--listen-bess`: unixpacket.
    Messages,
}

impl ListenUrl {
    /// Reads an address that `purpose` can use.
    pub(crate) fn for_purpose(text: &str, purpose: Purpose) -> Result<Self, UrlError> {
        let url: Self = text.parse()?;
        let fits = match url {
            Self::Vsock { .. } => purpose == Purpose::Link,
            Self::Unix(_) | Self::Tcp(_) => purpose != Purpose::Messages,
            Self::UnixPacket(_) => purpose == Purpose::Messages,
        };
        if fits { Ok(url) } else { Err(UrlError::Purpose(purpose.schemes())) }
    }
}

impl Purpose {
    const fn schemes(self) -> &'static str {
        match self {
            Self::Link => "vsock://:PORT, unix:///PATH or tcp://ADDR:PORT",
            Self::Local => "unix:///PATH or tcp://ADDR:PORT",
            Self::Messages => "unixpacket:///PATH",
        }
    }
}

impl FromStr for ListenUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        match scheme {
            "vsock" => {
                let (cid, port) = rest.split_once(':').ok_or(UrlError::Vsock)?;
                let number = |text: &str| text.parse::<u32>().map_err(|_| UrlError::Vsock);
                let cid = if cid.is_empty() { VMADDR_CID_ANY } else { number(cid)? };
                Ok(Self::Vsock { cid, port: number(port)? })
            }
            "unix" => unix_path(rest).map(Self::Unix),
            "unixpacket" => unix_path(rest).map(Self::UnixPacket),
            "tcp" => socket_address(rest).map(Self::Tcp).ok_or(UrlError::Tcp),
            _ => Err(UrlError::Scheme),
        }
    }
}

fn unix_path(path: &str) -> Result<PathBuf, UrlError> {
    if !path.starts_with('/') || path.contains('\0') {
        return Err(UrlError::Unix);
    }
    if path.len() > UNIX_PATH_MAX {
        return Err(UrlError::UnixTooLong);
    }
    Ok(path.into())
}

/// `ADDR:PORT`, where ADDR may be `localhost`, or nothing for all interfaces.
pub(super) fn socket_address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    match host {
        "" => Some(SocketAddr::new(any_interface(), port)),
        "localhost" => Some((Ipv4Addr::LOCALHOST, port).into()),
        _ => text.parse().ok(),
    }
}

/// All interfaces: `::`, which takes IPv4 as well, or `0.0.0.0` on a kernel without IPv6.
pub(crate) fn any_interface() -> IpAddr {
    match socket(AddressFamily::INET6, SocketType::STREAM, None) {
        Ok(_) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    }
}

impl fmt::Display for ListenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid: VMADDR_CID_ANY, port } => write!(f, "vsock://:{port}"),
            Self::Vsock { cid, port } => write!(f, "vsock://{cid}:{port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::UnixPacket(path) => write!(f, "unixpacket://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// Why a text is no address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UrlError {
    #[error("expected vsock://:PORT, vsock://CID:PORT, unix:///PATH or tcp://ADDR:PORT")]
    Scheme,
    #[error("expected vsock://:PORT or vsock://CID:PORT with numbers, such as vsock://:1024")]
    Vsock,
    #[error("expected an absolute path behind unix://, such as unix:///run/nitrotap.sock")]
    Unix,
    #[error("the path of a unix socket has at most {UNIX_PATH_MAX} bytes")]
    UnixTooLong,
    #[error("expected tcp://ADDR:PORT with an IP address, such as tcp://127.0.0.1:1024 or tcp://[::1]:1024")]
    Tcp,
    #[error("expected {0} here")]
    Purpose(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_urls_read_back_as_written() {
        for good in [
            "vsock://:1024",
            "vsock://3:1024",
            "unix:///run/net.sock",
            "unixpacket:///run/bess.sock",
            "tcp://127.0.0.1:0",
            "tcp://[::1]:65535",
        ] {
            assert_eq!(good.parse::<ListenUrl>().unwrap().to_string(), good);
        }
        assert_eq!("tcp://localhost:7".parse::<ListenUrl>().unwrap().to_string(), "tcp://127.0.0.1:7");
        let all = socket_address(":7").unwrap();
        assert!(all.ip().is_unspecified() && all.port() == 7);
    }

    #[test]
    fn bad_urls_say_what_was_expected() {
        let long = format!("unix:///{}", "x".repeat(107));
        for (bad, error) in [
            ("", UrlError::Scheme),
            (":1024", UrlError::Scheme),
            ("http://x", UrlError::Scheme),
            ("vsock://1024", UrlError::Vsock),
            ("vsock://:-1", UrlError::Vsock),
            ("vsock://:1024/connect", UrlError::Vsock),
            ("vsock://x:1024", UrlError::Vsock),
            ("unix://net.sock", UrlError::Unix),
            ("unix://", UrlError::Unix),
            (long.as_str(), UrlError::UnixTooLong),
            ("tcp://example.com:80", UrlError::Tcp),
            ("tcp://127.0.0.1", UrlError::Tcp),
            ("tcp://127.0.0.1:65536", UrlError::Tcp),
        ] {
            assert_eq!(bad.parse::<ListenUrl>(), Err(error), "{bad}");
        }
    }

    #[test]
    fn a_flag_takes_the_schemes_it_can_use() {
        for (text, link, local, messages) in [
            ("vsock://:1", true, false, false),
            ("unix:///a", true, true, false),
            ("tcp://127.0.0.1:1", true, true, false),
            ("unixpacket:///a", false, false, true),
        ] {
            for (purpose, fits) in [(Purpose::Link, link), (Purpose::Local, local), (Purpose::Messages, messages)] {
                assert_eq!(ListenUrl::for_purpose(text, purpose).is_ok(), fits, "{text} {purpose:?}");
            }
        }
    }
}
