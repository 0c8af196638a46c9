//! One upstream connection: hyper's two halves kept together and polled by whoever uses it.
//!
//! Driven by the task whose request it carries, so that a response reaches its client without a wake-up between
//! tasks; while idle, by the housekeeper.

use crate::{config::Config, runtime::ByteStream};
use bytes::Bytes;
use http::Request;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1::{Builder, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// An open connection to the upstream, between its handshake and its end.
pub(crate) struct Conn<S: ByteStream> {
    pub(crate) sender: SendRequest<UpstreamBody>,
    link: Connection<TokioIo<Metered<S>>, UpstreamBody>,
    pub(crate) signals: Rc<Signals>,
    /// What the connection came to; hyper must not be polled after it.
    ended: Option<Result<(), hyper::Error>>,
}

impl<S: ByteStream> Conn<S> {
    /// Takes over a fresh stream.
    pub(crate) async fn open(stream: S, config: &Config) -> Result<Box<Self>, hyper::Error> {
        let signals = Rc::<Signals>::default();
        let io = TokioIo::new(Metered { stream, signals: signals.clone() });
        let (sender, link) = Builder::new().max_buf_size(config.max_head.max(8192)).handshake(io).await?;
        Ok(Box::new(Self { sender, link, signals, ended: None }))
    }

    /// Moves bytes as far as they go. True once the connection is over: closed, broken or switched to another
    /// protocol.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        if self.ended.is_none()
            && let Poll::Ready(outcome) = self.link.poll_without_shutdown(cx)
        {
            self.ended = Some(outcome);
        }
        self.ended.is_some()
    }

    /// Whether another request may be sent, as far as is known now.
    pub(crate) fn is_ready(&mut self, cx: &mut Context<'_>) -> bool {
        // Driving finds a closed connection and stray bytes, and lets hyper see that the last message has ended.
        !self.drive(cx) && self.sender.is_ready()
    }

    /// The bare stream after an upgrade, and the bytes that hyper read beyond the 101.
    pub(crate) fn into_stream(self) -> (S, Bytes) {
        let parts = self.link.into_parts();
        (parts.io.into_inner().stream, parts.read_buf)
    }
}

/// What the parts of a connection tell each other without a lock, all on one thread.
#[derive(Default)]
pub(crate) struct Signals {
    /// A byte was written since the last [`Self::restart`].
    pub(crate) sent: Cell<bool>,
    /// A byte was read since the last [`Self::restart`].
    pub(crate) received: Cell<bool>,
    /// A part of the request body went out since this was last taken.
    pub(crate) progress: Cell<bool>,
    /// The request body has ended, or there is none.
    pub(crate) body_done: Cell<bool>,
    /// The client's request body could not be read to its end.
    pub(crate) body_failed: Cell<bool>,
    /// The pool gave the request up.
    pub(crate) expired: Cell<bool>,
    /// Whom to wake for `expired`.
    waker: RefCell<Option<Waker>>,
}

impl Signals {
    /// A new request begins.
    pub(crate) fn restart(&self, body_done: bool) {
        self.sent.set(false);
        self.received.set(false);
        self.progress.set(false);
        self.body_done.set(body_done);
        self.body_failed.set(false);
    }

    /// The request's task listens for [`Self::expire`].
    pub(crate) fn listen(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Gives the request up and wakes its task.
    pub(crate) fn expire(&self) {
        self.expired.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// A byte stream that notes whether bytes moved.
pub(crate) struct Metered<S> {
    stream: S,
    signals: Rc<Signals>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.signals.received.set(true);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_write(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S> Metered<S> {
    fn note_write(&self, result: &Poll<io::Result<usize>>) {
        if matches!(result, Poll::Ready(Ok(1..))) {
            self.signals.sent.set(true);
        }
    }
}

/// A request body on its way to the upstream.
pub(crate) struct UpstreamBody {
    /// `None` when there is none, so that a request can be made again from its head alone.
    client: Option<Incoming>,
    signals: Option<Rc<Signals>>,
}

impl UpstreamBody {
    pub(crate) fn new(client: Incoming) -> Self {
        Self { client: (!client.is_end_stream()).then_some(client), signals: None }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.client.is_none()
    }

    /// Reports this body's progress to `signals` from now on.
    pub(crate) fn attach(request: &mut Request<Self>, signals: &Rc<Signals>) {
        let body = request.body_mut();
        signals.restart(body.is_empty());
        body.signals = body.client.as_ref().map(|_| signals.clone());
    }

    /// The same request once more; `None` if it has a body.
    pub(crate) fn repeat(request: &Request<Self>) -> Option<Request<Self>> {
        if !request.body().is_empty() {
            return None;
        }
        let mut copy = Request::new(Self { client: None, signals: None });
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.headers_mut() = request.headers().clone();
        Some(copy)
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(client) = &mut self.client else { return Poll::Ready(None) };
        let frame = Pin::new(client).poll_frame(cx);
        let done = matches!(frame, Poll::Ready(None)) || self.is_end_stream();
        if let Some(signals) = self.signals.as_ref().filter(|_| frame.is_ready()) {
            signals.progress.set(true);
            signals.body_done.set(done);
            signals.body_failed.set(matches!(frame, Poll::Ready(Some(Err(_)))));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.client.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.client.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}
