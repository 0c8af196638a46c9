//! An accepted connection of any family, with the bytes that were read from it too early.

use crate::sys::readiness;
use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd};

/// Longest write, in bytes: it may be a vsock.
const MAX_WRITE: usize = nitrotap_core::drive::VSOCK_WRITE_MAX;

/// A non-blocking stream socket on a runtime.
#[derive(Debug)]
pub(crate) struct HostStream {
    fd: AsyncFd<OwnedFd>,
    /// Bytes that come before those still in the socket.
    ahead: Vec<u8>,
}

impl HostStream {
    /// Registers `fd`, which must be non-blocking, with the runtime around this call.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { fd: readiness::register(fd)?, ahead: Vec::new() })
    }

    /// Puts `bytes` back, to be read first.
    pub(crate) fn unread(&mut self, bytes: &[u8]) {
        self.ahead.splice(..0, bytes.iter().copied());
    }

    /// The descriptor, registered nowhere any more, and what was read too early.
    pub(crate) fn into_parts(self) -> (OwnedFd, Vec<u8>) {
        (self.fd.into_inner(), self.ahead)
    }
}

impl AsyncRead for HostStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let n = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..n]);
            self.ahead.drain(..n);
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut ready = ready!(self.fd.poll_read_ready(cx))?;
            if let Ok(read) = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), buf.initialize_unfilled())?)) {
                return Poll::Ready(read.map(|n| buf.advance(n)));
            }
        }
    }
}

impl AsyncWrite for HostStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.fd.poll_write_ready(cx))?;
            let part = &buf[..buf.len().min(MAX_WRITE)];
            if let Ok(written) = ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), part)?)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(self.fd.get_ref(), rustix::net::Shutdown::Write).map_err(Into::into))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn what_was_put_back_comes_first_and_leaves_with_the_descriptor() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut stream = HostStream::new(ours.into()).unwrap();
        io::Write::write_all(&mut theirs, b"later").unwrap();
        stream.unread(b"second");
        stream.unread(b"first");
        let mut got = [0; 7];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"firstse");
        stream.write_all(b"reply").await.unwrap();
        let (fd, ahead) = stream.into_parts();
        assert_eq!(ahead, b"cond");
        let mut got = [0; 5];
        io::Read::read_exact(&mut UnixStream::from(fd), &mut got).unwrap();
        assert_eq!(&got, b"later");
        io::Read::read_exact(&mut theirs, &mut got).unwrap();
        assert_eq!(&got, b"reply");
    }
}
