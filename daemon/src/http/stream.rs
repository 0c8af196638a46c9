//! A client's connection, whatever the family of its socket.

use crate::sys::readiness;
use std::{
    io::{self, IoSlice},
    net::TcpStream as StdTcpStream,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd},
    net::TcpStream,
};

/// Longest write on a vsock, in bytes: guest kernels with commit 6693731487a8 send larger ones as non-linear buffers,
/// which the Nitro hypervisor corrupts silently.
pub(super) const VSOCK_MAX_WRITE: usize = 32 * 1024;

/// An accepted, non-blocking socket on its way to a worker.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(StdTcpStream),
    /// Any other stream socket, and its longest write.
    Other(OwnedFd, usize),
}

/// A connection at its worker.
#[derive(Debug)]
pub(super) struct ClientStream {
    io: Io,
    _seat: Seat,
}

#[derive(Debug)]
enum Io {
    Tcp(TcpStream),
    Other(AsyncFd<OwnedFd>, usize),
}

impl ClientStream {
    /// Registers `socket` with the runtime around this call.
    pub(super) fn new(socket: Socket, seat: Seat) -> io::Result<Self> {
        let io = match socket {
            Socket::Tcp(stream) => Io::Tcp(TcpStream::from_std(stream)?),
            Socket::Other(fd, max_write) => Io::Other(readiness::register(fd)?, max_write),
        };
        Ok(Self { io, _seat: seat })
    }
}

/// One connection in a worker's count, as long as it lives.
#[derive(Debug)]
pub(super) struct Seat(Arc<AtomicUsize>);

impl Seat {
    pub(super) fn take(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Other(fd, _) => loop {
                let mut ready = ready!(fd.poll_read_ready(cx))?;
                let read = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), buf.initialize_unfilled())?));
                if let Ok(read) = read {
                    return Poll::Ready(read.map(|n| buf.advance(n)));
                }
            },
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Other(fd, max_write) => loop {
                let mut ready = ready!(fd.poll_write_ready(cx))?;
                let part = &buf[..buf.len().min(*max_write)];
                if let Ok(written) = ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), part)?)) {
                    return Poll::Ready(written);
                }
            },
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Io::Other(fd, max_write) => {
                let (parts, count) = limited(bufs, *max_write);
                loop {
                    let mut ready = ready!(fd.poll_write_ready(cx))?;
                    let write = ready.try_io(|fd| Ok(rustix::io::writev(fd.get_ref(), &parts[..count])?));
                    if let Ok(written) = write {
                        return Poll::Ready(written);
                    }
                }
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Other(fd, _) => {
                Poll::Ready(rustix::net::shutdown(fd.get_ref(), rustix::net::Shutdown::Write).map_err(Into::into))
            }
        }
    }
}

/// Pieces of one write: a head, and a few chunks with their sizes.
const MAX_PIECES: usize = 16;

/// The first `max` bytes of `bufs`, as far as they come in [`MAX_PIECES`], and how many pieces they are.
fn limited<'b>(bufs: &'b [IoSlice<'_>], max: usize) -> ([IoSlice<'b>; MAX_PIECES], usize) {
    let mut parts = [IoSlice::new(&[]); MAX_PIECES];
    let mut count = 0;
    let mut left = max;
    for buf in bufs.iter().filter(|buf| !buf.is_empty()) {
        if left == 0 || count == MAX_PIECES {
            break;
        }
        let part = &buf[..buf.len().min(left)];
        parts[count] = IoSlice::new(part);
        left -= part.len();
        count += 1;
    }
    (parts, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_socket_that_is_not_tcp_moves_bytes_both_ways_in_writes_of_bounded_size() {
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let count = Arc::default();
        // Datagrams show the size of each write.
        let mut stream = ClientStream::new(Socket::Other(ours.into(), 4), Seat::take(&count)).unwrap();
        stream.write_all(b"abcdefghij").await.unwrap();
        let mut buf = [0; 16];
        let sizes: Vec<usize> = (0..3).map(|_| theirs.recv(&mut buf).unwrap()).collect();
        assert_eq!(sizes, [4, 4, 2]);
        let pieces = [IoSlice::new(b"a"), IoSlice::new(b""), IoSlice::new(b"bc"), IoSlice::new(b"def")];
        assert_eq!(stream.write_vectored(&pieces).await.unwrap(), 4, "pieces leave together, within the same bound");
        let length = theirs.recv(&mut buf).unwrap();
        assert_eq!(&buf[..length], b"abcd");
        theirs.send(b"hello").unwrap();
        assert_eq!(stream.read(&mut buf).await.unwrap(), 5);
        assert_eq!(count.load(Relaxed), 1);
        drop(stream);
        assert_eq!(count.load(Relaxed), 0);
    }
}
