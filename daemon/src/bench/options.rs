//! Where a server of a bench listens, and how long things are measured.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

/// `tcp://ADDR:PORT`, `unix:///PATH` or `vsock://:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServeUrl {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Vsock(u32),
}

impl FromStr for ServeUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "expected tcp://ADDR:PORT, unix:///PATH or vsock://:PORT";
        let (scheme, rest) = text.split_once("://").ok_or(FORM)?;
        match scheme {
            "tcp" => rest.parse().map(Self::Tcp).map_err(|_| FORM),
            "unix" if rest.starts_with('/') => Ok(Self::Unix(rest.into())),
            "vsock" => rest.strip_prefix(':').and_then(|port| port.parse().ok()).map(Self::Vsock).ok_or(FORM),
            _ => Err(FORM),
        }
    }
}

impl fmt::Display for ServeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Vsock(port) => write!(f, "vsock://:{port}"),
        }
    }
}

/// How often and how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) repeat: u32,
    pub(crate) warm_up_ms: u64,
    pub(crate) measure_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_read_back_and_bad_ones_do_not() {
        for good in ["tcp://127.0.0.1:0", "tcp://[::1]:80", "unix:///run/a", "vsock://:5"] {
            assert_eq!(good.parse::<ServeUrl>().unwrap().to_string(), good);
        }
        for bad in ["", "tcp://localhost:80", "unix://a", "vsock://3:5", "http://a"] {
            assert!(bad.parse::<ServeUrl>().is_err(), "{bad}");
        }
    }
}
