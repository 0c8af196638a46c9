//! Blocking connections to any [`Endpoint`].

use crate::{endpoint::Endpoint, errors::Error};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Connects to each of `count` times, blocking descriptors out.
pub(super) fn dial(to: &Endpoint) -> Result<OwnedFd, Error> {
    let cannot = |e: &dyn std::fmt::Display| Error::runtime(format!("cannot connect to {to}: {e}"));
    let fd = match to {
        Endpoint::Tcp(address) => {
            let stream = std::net::TcpStream::connect(address).map_err(|e| cannot(&e))?;
            stream.set_nodelay(true).map_err(|e| cannot(&e))?;
            stream.into()
        }
        Endpoint::Unix(path) => std::os::unix::net::UnixStream::connect(path).map_err(|e| cannot(&e))?.into(),
        Endpoint::Vsock { .. } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| cannot(&e))?;
            let fd = runtime.block_on(to.dial()).map_err(|e| cannot(&e))?;
            rustix::io::ioctl_fionbio(&fd, false).map_err(|e| cannot(&e))?;
            fd
        }
    };
    Ok(fd)
}

/// Writes all of `bytes` to a blocking descriptor.
pub(super) fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::runtime(format!("the connection failed while writing: {errno}"))),
        }
    }
    Ok(())
}

/// Reads once from a blocking descriptor; the end of the stream is an error, since no server of ours closes first.
pub(super) fn read_some(fd: &OwnedFd, into: &mut [u8]) -> Result<usize, Error> {
    loop {
        match rustix::io::read(fd, &mut *into) {
            Ok(0) => return Err(Error::runtime("the connection was closed")),
            Ok(n) => return Ok(n),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::runtime(format!("the connection failed while reading: {errno}"))),
        }
    }
}
