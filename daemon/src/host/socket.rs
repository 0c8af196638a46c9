//! Listening sockets of every family: made or inherited, accepted from, removed at the end.
//!
//! A socket file that nobody listens on is replaced, a live one is an error, and a file that is no socket is never
//! touched.

use super::address::ListenUrl;
use crate::{
    errors::Error,
    http::{bind_tcp, remedy},
    sys::readiness,
};
use rustix::{
    fs::{FileType, Mode, Stat, chmod, fchmod, lstat, unlink},
    io::Errno,
    net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use std::{
    fmt, io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};
use tokio::io::{Interest, unix::AsyncFd};
use tokio_vsock::{VsockAddr, VsockListener};

/// Connections the kernel completes before they are accepted; it caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A bound socket, registered nowhere yet.
#[derive(Debug)]
pub(crate) struct Bound {
    fd: OwnedFd,
    /// For logs: the URL it was made from with the real port, or what an inherited one was called.
    name: String,
    file: Option<SocketFile>,
}

impl Bound {
    /// Binds and listens; `mode` is that of a socket file. A vsock needs a tokio runtime around this call.
    pub(crate) fn listen(url: &ListenUrl, mode: u32) -> Result<Self, Error> {
        let bound = match url {
            ListenUrl::Vsock { cid, port } => {
                VsockListener::bind(VsockAddr::new(*cid, *port)).map(|l| (OwnedFd::from(l), url.to_string(), None))
            }
            ListenUrl::Unix(path) => bind_unix(path, SocketType::STREAM, mode)
                .map(|(fd, file)| (fd, url.to_string(), Some(file)))
                .map_err(Into::into),
            ListenUrl::UnixPacket(path) => bind_unix(path, SocketType::SEQPACKET, mode)
                .map(|(fd, file)| (fd, url.to_string(), Some(file)))
                .map_err(Into::into),
            ListenUrl::Tcp(address) => bind_tcp(*address).map(|(fd, bound)| (fd, format!("tcp://{bound}"), None)),
        };
        let (fd, name, file) = bound.map_err(|error| refused(url, &error))?;
        Ok(Self { fd, name, file })
    }

    /// Takes a socket that systemd listens on; `None` if it is none.
    pub(crate) fn inherited(fd: OwnedFd, name: &str) -> Option<Self> {
        let listens = net::sockopt::socket_acceptconn(&fd).unwrap_or(false);
        let stream = net::sockopt::socket_type(&fd).is_ok_and(|kind| kind == SocketType::STREAM);
        if !listens || !stream {
            return None;
        }
        rustix::io::ioctl_fionbio(&fd, true).ok()?;
        Some(Self { fd, name: format!("systemd socket {name}"), file: None })
    }

    /// What it is called in logs.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens, if over TCP.
    pub(crate) fn tcp(&self) -> Option<SocketAddr> {
        net::getsockname(&self.fd).ok().and_then(|any| SocketAddr::try_from(any).ok())
    }

    /// Starts accepting, on the runtime around this call. The socket file goes when the acceptor does.
    pub(crate) fn register(self) -> io::Result<Acceptor> {
        let vsock = net::sockopt::socket_domain(&self.fd)? == AddressFamily::VSOCK;
        let socket = if vsock {
            // Only this crate can read the address of a vsock peer.
            Family::Vsock(VsockListener::from(self.fd))
        } else {
            Family::Other(readiness::register(self.fd)?)
        };
        Ok(Acceptor { socket, name: self.name, _file: self.file })
    }
}

/// A listening socket on a runtime.
#[derive(Debug)]
pub(crate) struct Acceptor {
    socket: Family,
    name: String,
    _file: Option<SocketFile>,
}

#[derive(Debug)]
enum Family {
    Vsock(VsockListener),
    Other(AsyncFd<OwnedFd>),
}

/// Who connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Vsock {
        cid: u32,
        port: u32,
    },
    Ip(SocketAddr),
    /// A process of this machine.
    Local,
}

impl Acceptor {
    /// The next connection, non-blocking. Cancelling loses none.
    pub(crate) async fn accept(&self) -> io::Result<(OwnedFd, Peer)> {
        match &self.socket {
            Family::Vsock(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((stream.into(), Peer::Vsock { cid: address.cid(), port: address.port() }))
            }
            Family::Other(fd) => {
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                let accept = |fd: &OwnedFd| Ok(net::acceptfrom_with(fd, flags)?);
                let (fd, address) = fd.async_io(Interest::READABLE, accept).await?;
                let address = address.and_then(|any| SocketAddr::try_from(any).ok());
                Ok((fd, address.map_or(Peer::Local, Peer::Ip)))
            }
        }
    }

    /// What it is called in logs.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid, port } => write!(f, "vsock://{cid}:{port}"),
            Self::Ip(address) => write!(f, "tcp://{address}"),
            Self::Local => f.write_str("unix"),
        }
    }
}

/// A socket file that is ours; it is removed on drop, unless somebody has put another one in its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(&lstat(path)?) })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if lstat(&self.path).is_ok_and(|stat| identity(&stat) == self.identity) {
            let _ = unlink(&self.path);
        }
    }
}

const fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// What is in the way of a socket file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InTheWay {
    #[error("a process listens there already")]
    Alive,
    #[error("there is a file that is no socket")]
    NoSocket,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<InTheWay> for io::Error {
    fn from(error: InTheWay) -> Self {
        match error {
            InTheWay::Alive => Errno::ADDRINUSE.into(),
            InTheWay::NoSocket => Self::new(io::ErrorKind::AlreadyExists, error),
            InTheWay::Io(error) => error,
        }
    }
}

/// Removes the socket file at `path` if nobody listens on it; nothing there is fine too.
pub(crate) fn clear_stale(path: &Path) -> Result<(), InTheWay> {
    let stat = match lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(InTheWay::Io(errno.into())),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(InTheWay::NoSocket);
    }
    let probe = unix_socket(SocketType::STREAM)?;
    let address = SocketAddrUnix::new(path).map_err(io::Error::from)?;
    match net::connect(&probe, &address) {
        // Nobody has it open (unix(7)).
        Err(Errno::CONNREFUSED) => unlink(path).map_err(|errno| InTheWay::Io(errno.into())),
        // It went by itself.
        Err(Errno::NOENT) => Ok(()),
        // Also EAGAIN (its backlog is full) and EPROTOTYPE (it is of another type): somebody is there.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(InTheWay::Alive),
        Err(errno) => Err(InTheWay::Io(errno.into())),
    }
}

fn unix_socket(kind: SocketType) -> io::Result<OwnedFd> {
    Ok(net::socket_with(AddressFamily::UNIX, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?)
}

fn bind_unix(path: &Path, kind: SocketType, mode: u32) -> Result<(OwnedFd, SocketFile), InTheWay> {
    clear_stale(path)?;
    let fd = unix_socket(kind)?;
    let mode = Mode::from_raw_mode(mode);
    let bind = || {
        // The file takes its mode from the socket, less the umask: it is at no time more open than asked for.
        fchmod(&fd, mode)?;
        net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        let file = SocketFile::of(path)?;
        // What the umask took.
        chmod(path, mode)?;
        net::listen(&fd, BACKLOG)?;
        io::Result::Ok(file)
    };
    let file = bind()?;
    Ok((fd, file))
}

fn refused(url: &ListenUrl, error: &io::Error) -> Error {
    let file = matches!(url, ListenUrl::Unix(_) | ListenUrl::UnixPacket(_));
    let remedy = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ADDRINUSE) if file => "a process listens there already; stop it, or choose another path",
        Some(Errno::NOENT) if file => "make its folder first",
        Some(Errno::ACCESS | Errno::PERM) if file => "choose a folder that this user may write to",
        Some(Errno::ROFS) => "choose a folder on a file system that can be written to",
        None if file => "remove it, or choose another path",
        Some(Errno::ADDRNOTAVAIL) if matches!(url, ListenUrl::Vsock { .. }) => {
            "this machine does not have that CID; vsock://:PORT takes whatever it has"
        }
        Some(_) | None => remedy(error),
    };
    Error::runtime(format!("cannot listen on {url}: {error}; {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::{
            fs::{MetadataExt as _, PermissionsExt as _},
            net::{UnixDatagram, UnixListener},
        },
    };

    fn listen(path: &Path) -> Result<Bound, String> {
        Bound::listen(&ListenUrl::Unix(path.to_owned()), 0o600).map_err(|e| e.to_string())
    }

    #[test]
    fn a_socket_file_has_the_mode_that_was_asked_for_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for mode in [0o600, 0o666] {
            let bound = Bound::listen(&ListenUrl::Unix(path.clone()), mode).unwrap();
            assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            drop(bound);
            assert!(!path.exists());
        }
    }

    #[test]
    fn what_has_taken_the_place_of_our_socket_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let bound = listen(&path).unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        fs::write(&path, "not ours").unwrap();
        drop(bound);
        assert_eq!(fs::read_to_string(&path).unwrap(), "not ours");
    }

    #[test]
    fn a_dead_socket_is_replaced_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let live = UnixListener::bind(&path).unwrap();
        let inode = fs::symlink_metadata(&path).unwrap().ino();
        let error = listen(&path).unwrap_err();
        assert!(error.contains("a process listens there already"), "{error}");
        assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), inode, "the live socket is still there");
        drop(live);
        assert!(path.exists(), "the dead one is too");
        let _bound = listen(&path).unwrap();
        UnixListener::bind(&path).unwrap_err();
    }

    #[test]
    fn a_live_socket_of_another_type_is_alive_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _live = UnixDatagram::bind(&path).unwrap();
        assert!(matches!(clear_stale(&path), Err(InTheWay::Alive)));
    }

    #[test]
    fn a_file_that_is_no_socket_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "data").unwrap();
        let error = listen(&path).unwrap_err();
        assert!(error.contains("no socket") && error.contains("remove it"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }

    #[test]
    fn a_missing_folder_is_named_as_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let error = listen(&dir.path().join("none/s")).unwrap_err();
        assert!(error.contains("make its folder first"), "{error}");
    }

    #[test]
    fn only_a_listening_stream_socket_can_be_inherited() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(Bound::inherited(a.into(), "link").is_none());
        assert!(Bound::inherited(UnixDatagram::unbound().unwrap().into(), "link").is_none());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(Bound::inherited(listener.into(), "link").is_some());
    }

    #[tokio::test]
    async fn peers_are_told_apart_and_their_sockets_do_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let unix = listen(&dir.path().join("s")).unwrap().register().unwrap();
        let _client = std::os::unix::net::UnixStream::connect(dir.path().join("s")).unwrap();
        let (fd, peer) = unix.accept().await.unwrap();
        assert_eq!(peer, Peer::Local);
        assert_eq!(rustix::io::read(&fd, &mut [0; 1]).unwrap_err(), Errno::AGAIN);

        let tcp = Bound::listen(&"tcp://127.0.0.1:0".parse().unwrap(), 0o600).unwrap();
        let address: SocketAddr = tcp.name().strip_prefix("tcp://").unwrap().parse().unwrap();
        let tcp = tcp.register().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let (_fd, peer) = tcp.accept().await.unwrap();
        assert_eq!(peer, Peer::Ip(client.local_addr().unwrap()));
    }
}
