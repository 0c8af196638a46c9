//! Where the host is: `vsock://CID:PORT`, `unix:///PATH` or `tcp://HOST:PORT`; and how to get there.

use crate::sys::vsock;
use nitrotap_core::{drive::VSOCK_WRITE_MAX, link::DialFailure};
use rustix::io::Errno;
use std::{fmt, io, os::fd::OwnedFd, path::PathBuf, str::FromStr};
use tokio_vsock::{VsockAddr, VsockStream};

/// A host's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Vsock { cid: u32, port: u32 },
    Unix(PathBuf),
    Tcp(String),
}

impl Endpoint {
    /// Connects; the descriptor is non-blocking and registered nowhere.
    pub(crate) async fn dial(&self) -> io::Result<OwnedFd> {
        Ok(match self {
            Self::Vsock { cid, port } => {
                let stream = VsockStream::connect(VsockAddr::new(*cid, *port)).await?;
                let fd = rustix::io::fcntl_dupfd_cloexec(&stream, 0)?;
                rustix::io::ioctl_fionbio(&fd, true)?;
                grown("vsock", vsock::set_buffer(&fd, BUFFER as u64));
                fd
            }
            Self::Unix(path) => {
                let fd = tokio::net::UnixStream::connect(path).await?.into_std()?.into();
                // Unix streams are bounded by their sender; the kernel cuts it to net.core.wmem_max.
                grown("unix", rustix::net::sockopt::set_socket_send_buffer_size(&fd, BUFFER));
                fd
            }
            Self::Tcp(address) => {
                let stream = tokio::net::TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                stream.into_std()?.into()
            }
        })
    }

    /// The largest write this kind of stream should see, in bytes.
    ///
    /// On vsock [`VSOCK_WRITE_MAX`]; elsewhere it is as good a size as any.
    pub(crate) const fn max_write(&self) -> usize {
        match self {
            Self::Vsock { .. } => VSOCK_WRITE_MAX,
            Self::Unix(_) | Self::Tcp(_) => 64 << 10,
        }
    }
}

/// Bytes that may be under way on a stream, each way: what 10 Gbit/s need at the 750 µs that a vsock round trip takes at
/// its 99th percentile on Nitro, where the default of 256 KiB is enough for 2.8 Gbit/s.
const BUFFER: usize = 1 << 20;

/// A smaller buffer is slower and nothing worse.
fn grown(kind: &str, result: rustix::io::Result<()>) {
    if let Err(errno) = result {
        tracing::debug!(kind, "cannot set the stream's buffer to {BUFFER} bytes: {errno}");
    }
}

/// Sorts an error of [`Endpoint::dial`].
pub(crate) fn dial_failure(error: &io::Error) -> DialFailure {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::CONNREFUSED | Errno::CONNRESET) => DialFailure::Refused,
        Some(Errno::NOENT) => DialFailure::NotFound,
        Some(Errno::NODEV | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::ADDRNOTAVAIL) => DialFailure::Unreachable,
        Some(Errno::ACCESS | Errno::PERM) => DialFailure::Permission,
        Some(Errno::TIMEDOUT) => DialFailure::TimedOut,
        Some(Errno::AFNOSUPPORT) => DialFailure::Unsupported,
        Some(errno) => DialFailure::Other(errno.raw_os_error()),
        // Without a number it was the resolver: the name is unknown.
        None => DialFailure::Unreachable,
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let (scheme, rest) = text.split_once("://").ok_or(EndpointError::Scheme)?;
        match scheme {
            "vsock" => {
                let (cid, port) = rest.split_once(':').ok_or(EndpointError::Vsock)?;
                let number = |text: &str| text.parse::<u32>().map_err(|_| EndpointError::Vsock);
                Ok(Self::Vsock { cid: number(cid)?, port: number(port)? })
            }
            "unix" if rest.starts_with('/') => {
                if rest.len() > UNIX_PATH_MAX {
                    return Err(EndpointError::UnixTooLong);
                }
                Ok(Self::Unix(rest.into()))
            }
            "unix" => Err(EndpointError::Unix),
            "tcp" => match rest.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0) => {
                    Ok(Self::Tcp(rest.to_owned()))
                }
                Some(_) | None => Err(EndpointError::Tcp),
            },
            _ => Err(EndpointError::Scheme),
        }
    }
}

/// Longest path of a unix socket: `sun_path` less its NUL (`linux/un.h`).
pub(crate) const UNIX_PATH_MAX: usize = 107;

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid, port } => write!(f, "vsock://{cid}:{port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// Why a text names no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndpointError {
    #[error("expected vsock://CID:PORT, unix:///PATH or tcp://HOST:PORT")]
    Scheme,
    #[error("expected vsock://CID:PORT with two numbers, such as vsock://3:1024")]
    Vsock,
    #[error("expected an absolute path, such as unix:///run/gvproxy.sock")]
    Unix,
    #[error("the path of a unix socket has at most 107 bytes")]
    UnixTooLong,
    #[error("expected tcp://HOST:PORT with a port from 1 to 65535")]
    Tcp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_urls_read_back_as_written() {
        for good in ["vsock://3:1024", "unix:///run/net.sock", "tcp://127.0.0.1:9", "tcp://[::1]:65535"] {
            assert_eq!(good.parse::<Endpoint>().unwrap().to_string(), good);
        }
    }

    #[test]
    fn bad_urls_say_what_was_expected() {
        let long = format!("unix:///{}", "x".repeat(107));
        for (bad, error) in [
            ("", EndpointError::Scheme),
            ("http://x", EndpointError::Scheme),
            ("vsock://3", EndpointError::Vsock),
            ("vsock://:1024", EndpointError::Vsock),
            ("vsock://3:-1", EndpointError::Vsock),
            ("vsock://3:4294967296", EndpointError::Vsock),
            ("unix://net.sock", EndpointError::Unix),
            (long.as_str(), EndpointError::UnixTooLong),
            ("tcp://:80", EndpointError::Tcp),
            ("tcp://host:0", EndpointError::Tcp),
        ] {
            assert_eq!(bad.parse::<Endpoint>(), Err(error), "{bad}");
        }
    }
}
