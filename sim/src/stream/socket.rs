//! A stream as programs see it: tokio's byte stream over one [`Endpoint`].

use super::{
    credit::{Endpoint, Limits, Violation},
    net::Net,
    packet::{Addr, Op, Packet},
};
use crate::{cpu::lock, rng};
use nitrotap_core::drive::Errno;
use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One end of a stream in its machine's table.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) local: Addr,
    pub(super) peer: Addr,
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) endpoint: Endpoint,
    /// Packets of this stream are lost both ways, and nobody is told.
    pub(super) blackholed: bool,
    connected: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Is told of everything, as `epoll` is.
    watcher: Option<Arc<dyn Watcher>>,
    fragment: Option<Fragment>,
}

impl Conn {
    pub(super) fn new(local: Addr, peer: Addr, limits: Limits, fragment: Option<Fragment>) -> Self {
        let endpoint = Endpoint::new(local, peer, limits);
        let state = State {
            endpoint,
            blackholed: false,
            connected: false,
            reader: None,
            writer: None,
            watcher: None,
            fragment,
        };
        Self { local, peer, state: Mutex::new(state) }
    }

    pub(super) fn handle(&self, packet: Packet) -> Result<(), Violation> {
        let mut state = lock(&self.state);
        if state.blackholed {
            return Ok(());
        }
        let full = !state.connected || !state.endpoint.is_writable();
        if matches!(packet.op, Op::Request | Op::Response) {
            state.connected = true;
        }
        let came = matches!(packet.op, Op::Rw | Op::Shutdown | Op::Rst);
        let result = state.endpoint.handle_packet(packet);
        state.wake();
        state.tell(came, full);
        result
    }

    pub(super) fn vanish(&self) {
        let mut state = lock(&self.state);
        state.endpoint.vanish();
        state.wake();
        state.tell(true, true);
    }

    /// It was reset on this side.
    pub(super) fn wake(&self) {
        let mut state = lock(&self.state);
        state.wake();
        state.tell(true, true);
    }

    /// What waits to be sent; nothing if it would be lost.
    pub(super) fn take_packets(&self) -> Vec<Packet> {
        let mut state = lock(&self.state);
        let mut packets = Vec::new();
        while let Some(packet) = state.endpoint.poll_packet() {
            if !state.blackholed {
                packets.push(packet);
            }
        }
        packets
    }
}

impl State {
    fn wake(&mut self) {
        if self.endpoint.is_readable()
            && let Some(waker) = self.reader.take()
        {
            waker.wake();
        }
        if (self.connected || self.endpoint.is_reset())
            && self.endpoint.is_writable()
            && let Some(waker) = self.writer.take()
        {
            waker.wake();
        }
    }

    /// Tells the watcher what has changed: something came, and what was full may not be so any more.
    fn tell(&self, came: bool, was_full: bool) {
        if let Some(watcher) = &self.watcher {
            let edge = self.edge();
            watcher.edge(Edge {
                readable: edge.readable && came,
                writable: edge.writable && was_full,
                hangup: edge.hangup && came,
            });
        }
    }

    fn edge(&self) -> Edge {
        let endpoint = &self.endpoint;
        Edge {
            readable: endpoint.is_readable(),
            writable: (self.connected || endpoint.is_reset()) && endpoint.is_writable(),
            hangup: endpoint.is_reset() || endpoint.peer_ended(),
        }
    }
}

/// A stream's error as Linux numbers it.
pub(crate) fn errno(error: &io::Error) -> Errno {
    let kind = error.kind();
    if kind == io::ErrorKind::WouldBlock {
        Errno::AGAIN
    } else if kind == io::ErrorKind::BrokenPipe {
        Errno::PIPE
    } else {
        Errno::CONNRESET
    }
}

/// What has happened to a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edge {
    /// There is something to read, its end included.
    pub(crate) readable: bool,
    /// It takes bytes, or is connected, or is over.
    pub(crate) writable: bool,
    /// The peer has finished, or the stream was reset.
    pub(crate) hangup: bool,
}

/// Who is told of a stream's edges.
pub(crate) trait Watcher: Send + Sync {
    /// Something has happened; it may be nothing that matters.
    fn edge(&self, edge: Edge);
}

impl fmt::Debug for dyn Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}

/// A connected stream. Clones are handles; when the last one is dropped, the stream is closed.
#[derive(Clone, Debug)]
pub struct SimStream(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    net: Net,
    conn: Arc<Conn>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        lock(&self.conn.state).endpoint.close();
        let packets = self.conn.take_packets();
        self.net.forget(self.conn.local, self.conn.peer);
        if !packets.is_empty() {
            self.net.send(packets);
        }
    }
}

impl SimStream {
    pub(super) fn new(net: Net, conn: Arc<Conn>) -> Self {
        Self(Arc::new(Handle { net, conn }))
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> Addr {
        self.0.conn.peer
    }

    /// Our own end.
    #[must_use]
    pub fn local(&self) -> Addr {
        self.0.conn.local
    }

    /// Resets the stream at once.
    pub fn abort(&self) {
        lock(&self.0.conn.state).endpoint.abort();
        self.flush();
        self.0.conn.wake();
    }

    /// Whether the peer has ended the stream, or it was reset, as far as this machine knows.
    #[must_use]
    pub fn peer_ended(&self) -> bool {
        let state = lock(&self.0.conn.state);
        state.endpoint.is_finished()
    }

    pub(super) fn flush(&self) {
        let packets = self.0.conn.take_packets();
        if !packets.is_empty() {
            self.0.net.send(packets);
        }
    }

    pub(super) fn poll_connected(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0.conn.state);
        if state.endpoint.is_reset() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into()));
        }
        if state.connected {
            return Poll::Ready(Ok(()));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Completes when a read would give something: bytes, the end, or an error.
    pub fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = lock(&self.0.conn.state);
        if state.endpoint.is_readable() {
            return Poll::Ready(());
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Completes when a write would do something: move bytes, or fail.
    pub(crate) fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = lock(&self.0.conn.state);
        let endpoint = &state.endpoint;
        if endpoint.is_reset() || endpoint.write_closed() || endpoint.credit() > 0 {
            return Poll::Ready(());
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Has `watcher` told of what is the case now, and of everything that happens later.
    pub(crate) fn watch(&self, watcher: Arc<dyn Watcher>) {
        let mut state = lock(&self.0.conn.state);
        watcher.edge(state.edge());
        state.watcher = Some(watcher);
    }

    /// Bytes that a read would give.
    pub(crate) fn held(&self) -> u32 {
        lock(&self.0.conn.state).endpoint.held()
    }

    /// Reads some bytes; 0 at the end.
    ///
    /// # Errors
    /// `ConnectionReset`.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_recv(cx, buf)).await
    }

    /// Reads some bytes if there are any now.
    ///
    /// # Errors
    /// `WouldBlock`, `ConnectionReset`.
    pub fn try_recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self.poll_recv(&Context::from_waker(Waker::noop()), buf) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// [`SimStream::recv`] for whoever polls many streams.
    pub(crate) fn poll_recv(&self, cx: &Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let n = {
            let mut state = lock(&self.0.conn.state);
            if state.endpoint.is_reset() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if !state.endpoint.is_readable() {
                state.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let len = state.fragment.as_mut().map_or(buf.len(), |fragment| fragment.cut(buf.len()));
            state.endpoint.read(&mut buf[..len])
        };
        self.flush();
        Poll::Ready(Ok(n))
    }

    /// Writes some bytes, waiting for credit.
    ///
    /// # Errors
    /// `BrokenPipe` or `ConnectionReset`.
    pub async fn send(&self, buf: &[u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_send(cx, buf)).await
    }

    /// Writes some bytes if there is credit now.
    ///
    /// # Errors
    /// `WouldBlock`, `BrokenPipe` or `ConnectionReset`.
    pub fn try_send(&self, buf: &[u8]) -> io::Result<usize> {
        match self.poll_send(&Context::from_waker(Waker::noop()), buf) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes all of `buf`.
    ///
    /// # Errors
    /// `BrokenPipe` or `ConnectionReset`.
    pub async fn send_all(&self, mut buf: &[u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let n = self.send(buf).await?;
            buf = &buf[n..];
        }
        Ok(())
    }

    /// [`SimStream::send`] for whoever polls many streams.
    pub(crate) fn poll_send(&self, cx: &Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let n = {
            let mut state = lock(&self.0.conn.state);
            if state.endpoint.is_reset() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if state.endpoint.write_closed() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if !buf.is_empty() && state.endpoint.credit() == 0 {
                state.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let len = state.fragment.as_mut().map_or(buf.len(), |fragment| fragment.cut(buf.len()));
            state.endpoint.write(&buf[..len])
        };
        self.flush();
        Poll::Ready(Ok(n))
    }

    /// Finishes sending.
    pub fn finish(&self) {
        lock(&self.0.conn.state).endpoint.shutdown();
        self.flush();
    }
}

impl AsyncRead for SimStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let result = self.poll_recv(cx, buf.initialize_unfilled());
        result.map_ok(|n| buf.advance(n))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

/// Cuts reads and writes short, as a kernel may at any byte.
#[derive(Debug)]
pub(super) struct Fragment(fastrand::Rng);

impl Fragment {
    pub(super) fn new(seed: u64, local: Addr, peer: Addr, id: u32) -> Self {
        Self(rng::stream(seed, &format!("fragment {local} {peer} {id}")))
    }

    /// Half of all calls move everything; a quarter a few bytes; the rest anything in between.
    fn cut(&mut self, len: usize) -> usize {
        if len < 2 {
            return len;
        }
        match self.0.u8(0..4) {
            0 => self.0.usize(1..=len.min(16)),
            1 => self.0.usize(1..=len),
            _ => len,
        }
    }
}
