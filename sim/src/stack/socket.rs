//! The host as programs see it: listeners and byte streams, and one task that keeps its time.

use super::{
    datagram::Heard,
    flow::Flow,
    host::{FlowId, Host, HostConfig, HostUsage, Key, Syn},
    vnet::{Packet, Refused},
};
use crate::{
    cpu::lock,
    time::Clock,
    trace::{Actor, Event, Trace, hash_bytes},
};
use nitrotap_core::{offload::VNET_LEN, time::Instant};
use smoltcp::socket::tcp::{RecvError, State};
use std::{
    future::poll_fn,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

/// Where a host's frames go.
pub trait FrameSink: Send + Sync {
    /// Takes a frame, or drops and counts it. Its header says nothing unless the host has [`HostConfig::offload`].
    fn push(&self, now: Instant, packet: Packet);
}

/// A host on a turmoil machine; clones are handles.
#[derive(Clone)]
pub struct Stack(Arc<Shared>);

struct Shared {
    host: Mutex<Host>,
    sink: Box<dyn FrameSink>,
    clock: Clock,
    trace: Trace,
    actor: Actor,
    timer: Notify,
    syns: Notify,
    acceptors: Mutex<Vec<Waker>>,
}

impl Stack {
    /// A host whose frames go to `sink`. Run [`Stack::keep_time`] beside it.
    #[must_use]
    pub fn new(config: HostConfig, clock: Clock, trace: Trace, actor: Actor, sink: Box<dyn FrameSink>) -> Self {
        Self(Arc::new(Shared {
            host: Mutex::new(Host::new(config)),
            sink,
            clock,
            trace,
            actor,
            timer: Notify::new(),
            syns: Notify::new(),
            acceptors: Mutex::default(),
        }))
    }

    /// What it holds.
    #[must_use]
    pub fn usage(&self) -> HostUsage {
        lock(&self.0.host).usage()
    }

    /// Its open TCP connections: own address, and the peer's.
    pub(crate) fn open_connections(&self) -> Vec<(SocketAddr, SocketAddr)> {
        lock(&self.0.host).open_connections()
    }

    /// A frame has arrived.
    pub fn handle_frame(&self, frame: &[u8]) {
        let now = self.0.clock.now();
        self.0.trace.note(now, self.0.actor, Event::FrameIn, 0, frame.len() as u64, hash_bytes(0, frame));
        self.call(|host, now| host.handle_frame(now, frame));
    }

    /// A packet with a virtio-net header has arrived.
    ///
    /// # Errors
    /// [`Refused`] is what Linux answers with `EINVAL`.
    pub fn handle_packet(&self, header: &[u8; VNET_LEN], frame: &[u8]) -> Result<(), Refused> {
        let now = self.0.clock.now();
        let hash = hash_packet(header, frame);
        self.0.trace.note(now, self.0.actor, Event::FrameIn, 0, frame.len() as u64, hash);
        self.call(|host, now| host.handle_packet(now, header, frame))
    }

    /// Makes its timers fire, for ever.
    pub async fn keep_time(&self) {
        loop {
            let next = lock(&self.0.host).poll_timeout();
            match next {
                Some(at) => tokio::select! {
                    biased;
                    () = self.0.clock.sleep_until(at) => {
                        // A coarse clock can be early by half a grain; the deadline is what was waited for.
                        let now = self.0.clock.now().max(at);
                        self.call_at(now, |host, now| host.handle_timeout(now));
                    }
                    () = self.0.timer.notified() => {}
                },
                None => self.0.timer.notified().await,
            }
        }
    }

    /// Takes connections to `port`.
    ///
    /// # Errors
    /// `AddrInUse`.
    pub fn listen(&self, port: u16) -> io::Result<StackListener> {
        if lock(&self.0.host).listen(port) {
            Ok(StackListener { stack: self.clone(), port })
        } else {
            Err(io::ErrorKind::AddrInUse.into())
        }
    }

    /// A port for datagrams and pings that nobody has; `None` if all are taken.
    #[must_use]
    pub fn bind(&self) -> Option<StackDatagrams> {
        let port = self.call(|host, _| host.bind())?;
        Some(StackDatagrams { stack: self.clone(), port })
    }

    /// Opens a connection; bound the wait.
    ///
    /// # Errors
    /// `ConnectionRefused`; `TimedOut` after the host's patience; `OutOfMemory` when the host has no room.
    pub async fn connect(&self, peer: (Ipv4Addr, u16)) -> io::Result<StackStream> {
        let Some(id) = self.call(|host, now| host.connect(now, peer)) else {
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        let stream = StackStream::new(self.clone(), id);
        let begun = self.0.clock.now();
        poll_fn(|cx| stream.poll_established(cx)).await.map_err(|error| {
            let waited = self.0.clock.now().since(begun);
            if waited.as_secs() >= 1 { io::ErrorKind::TimedOut.into() } else { error }
        })?;
        Ok(stream)
    }

    /// The next connection that a guest asks a gateway for.
    pub async fn next_syn(&self) -> Syn {
        loop {
            let syn = lock(&self.0.host).poll_syn();
            match syn {
                Some(syn) => return syn,
                None => self.0.syns.notified().await,
            }
        }
    }

    /// Opens the connection that `syn` asks for; `None` if it is gone or does not come up.
    pub async fn admit(&self, syn: Syn) -> Option<StackStream> {
        let id = self.call(|host, now| host.admit(now, syn.key))?;
        let stream = StackStream::new(self.clone(), id);
        poll_fn(|cx| stream.poll_established(cx)).await.ok()?;
        Some(stream)
    }

    /// Refuses the connection that `syn` asks for.
    pub fn refuse(&self, syn: Syn) {
        self.call(|host, now| host.refuse(now, syn.key));
    }

    fn call<T>(&self, f: impl FnOnce(&mut Host, Instant) -> T) -> T {
        self.call_at(self.0.clock.now(), f)
    }

    fn call_at<T>(&self, now: Instant, f: impl FnOnce(&mut Host, Instant) -> T) -> T {
        let shared = &*self.0;
        let mut host = lock(&shared.host);
        let before = host.poll_timeout();
        let result = f(&mut host, now);
        let after = host.poll_timeout();
        let mut packets = Vec::new();
        while let Some(packet) = host.poll_packet() {
            packets.push(packet);
        }
        let syns = host.has_syns();
        drop(host);
        for packet in packets {
            let hash = hash_packet(&packet.header, &packet.bytes);
            shared.trace.note(now, shared.actor, Event::FrameOut, 0, packet.bytes.len() as u64, hash);
            shared.sink.push(now, packet);
        }
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            shared.timer.notify_one();
        }
        if syns {
            shared.syns.notify_one();
        }
        for waker in std::mem::take(&mut *lock(&shared.acceptors)) {
            waker.wake();
        }
        result
    }
}

/// A frame's hash; one with a header that says nothing has the hash of the frame alone.
fn hash_packet(header: &[u8; VNET_LEN], frame: &[u8]) -> u64 {
    let seed = if *header == [0; VNET_LEN] { 0 } else { hash_bytes(0, header) };
    hash_bytes(seed, frame)
}

/// A port that takes connections, until it is dropped.
pub struct StackListener {
    stack: Stack,
    port: u16,
}

impl StackListener {
    /// The next connection.
    pub async fn accept(&self) -> StackStream {
        let id = poll_fn(|cx| {
            let accepted = lock(&self.stack.0.host).accept(self.port);
            match accepted {
                Some(id) => Poll::Ready(id),
                None => {
                    lock(&self.stack.0.acceptors).push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
        StackStream::new(self.stack.clone(), id)
    }
}

impl Drop for StackListener {
    fn drop(&mut self) {
        self.stack.call(|host, now| host.unlisten(now, self.port));
    }
}

/// A port of UDP, and an identifier of pings, until it is dropped.
pub struct StackDatagrams {
    stack: Stack,
    port: u16,
}

impl StackDatagrams {
    /// Sends a datagram that passes so many links at most (TTL).
    pub fn send_to(&self, to: (Ipv4Addr, u16), hop_limit: u8, payload: &[u8]) {
        self.stack.call(|host, now| host.send_udp(now, self.port, to, hop_limit, payload));
    }

    /// Sends an echo request.
    pub fn ping(&self, to: Ipv4Addr, hop_limit: u8, data: &[u8]) {
        self.stack.call(|host, now| host.ping(now, self.port, to, hop_limit, data));
    }

    /// What comes next; bound the wait.
    pub async fn hear(&self) -> Heard {
        poll_fn(|cx| {
            let heard = lock(&self.stack.0.host).hear(self.port);
            match heard {
                Some(heard) => Poll::Ready(heard),
                None => {
                    lock(&self.stack.0.acceptors).push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl Drop for StackDatagrams {
    fn drop(&mut self) {
        self.stack.call(|host, _| host.unbind(self.port));
    }
}

/// A connection. Clones are handles; when the last one is dropped, it is closed.
#[derive(Clone)]
pub struct StackStream(Arc<Handle>);

struct Handle {
    stack: Stack,
    id: FlowId,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let id = self.id;
        self.stack.call(|host, now| {
            host.with(now, id, |flow| {
                // Unread bytes make it a reset (RFC 2525 section 2.17).
                if flow.socket().can_recv() { flow.socket().abort() } else { flow.close() }
            });
            host.orphan(now, id);
        });
        let now = self.stack.0.clock.now();
        self.stack.note(now, Event::TcpGone, id.key);
    }
}

impl Stack {
    fn note(&self, now: Instant, event: Event, key: Key) {
        self.0.trace.note(now, self.0.actor, event, 0, u64::from(key.local.1), u64::from(key.peer.1));
    }
}

impl StackStream {
    fn new(stack: Stack, id: FlowId) -> Self {
        stack.note(stack.0.clock.now(), Event::TcpOpen, id.key);
        Self(Arc::new(Handle { stack, id }))
    }

    /// The addresses of this connection.
    #[must_use]
    pub fn key(&self) -> Key {
        self.0.id.key
    }

    /// Resets the connection at once.
    pub fn abort(&self) {
        let id = self.0.id;
        self.0.stack.call(|host, now| host.abort(now, id));
    }

    fn poll_established(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let id = self.0.id;
        let mut host = lock(&self.0.stack.0.host);
        let polled = host.peek(id, |flow| {
            if flow.established {
                return Poll::Ready(Ok(()));
            }
            if matches!(flow.state(), State::Closed | State::Listen) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into()));
            }
            flow.writer = Some(cx.waker().clone());
            Poll::Pending
        });
        polled.unwrap_or_else(|| Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())))
    }

    /// Completes when a read would give something: bytes, the end, or an error.
    pub fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        let id = self.0.id;
        let mut host = lock(&self.0.stack.0.host);
        let polled = host.peek(id, |flow| {
            if flow.socket().can_recv() || !flow.socket().may_recv() {
                return Poll::Ready(());
            }
            flow.reader = Some(cx.waker().clone());
            Poll::Pending
        });
        polled.unwrap_or(Poll::Ready(()))
    }

    /// Reads some bytes; 0 at the end.
    ///
    /// # Errors
    /// `ConnectionReset`.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_recv(cx, buf)).await
    }

    fn poll_recv(&self, cx: &Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let id = self.0.id;
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let nothing = lock(&self.0.stack.0.host).peek(id, |flow| {
            let nothing = !flow.socket().can_recv() && flow.socket().may_recv();
            if nothing {
                flow.reader = Some(cx.waker().clone());
            }
            nothing
        });
        if nothing == Some(true) {
            return Poll::Pending;
        }
        let received = self.0.stack.call(|host, now| host.with(now, id, |flow| flow.socket().recv_slice(buf)));
        Poll::Ready(match received {
            Some(Ok(n)) => Ok(n),
            Some(Err(RecvError::Finished)) => Ok(0),
            Some(Err(RecvError::InvalidState)) | None => Err(io::ErrorKind::ConnectionReset.into()),
        })
    }

    /// Writes some bytes, waiting for room.
    ///
    /// # Errors
    /// `BrokenPipe` or `ConnectionReset`.
    pub async fn send(&self, buf: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_send(cx, buf)).await
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

    fn poll_send(&self, cx: &Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let id = self.0.id;
        let full = lock(&self.0.stack.0.host).peek(id, |flow| {
            let full = flow.socket().may_send() && !flow.socket().can_send();
            if full {
                flow.writer = Some(cx.waker().clone());
            }
            full
        });
        if full == Some(true) {
            return Poll::Pending;
        }
        let sent = self.0.stack.call(|host, now| host.with(now, id, |flow| flow.socket().send_slice(buf).ok()));
        Poll::Ready(match sent {
            Some(Some(n)) => Ok(n),
            Some(None) => Err(io::ErrorKind::BrokenPipe.into()),
            None => Err(io::ErrorKind::ConnectionReset.into()),
        })
    }

    /// Finishes sending.
    pub fn finish(&self) {
        let id = self.0.id;
        self.0.stack.call(|host, now| host.with(now, id, Flow::close));
    }
}

impl AsyncRead for StackStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let result = self.poll_recv(cx, buf.initialize_unfilled());
        result.map_ok(|n| buf.advance(n))
    }
}

impl AsyncWrite for StackStream {
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
