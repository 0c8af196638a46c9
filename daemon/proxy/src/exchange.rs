//! The stream that hyper sees of a client's connection: the bytes of one request, and room for one response.
//!
//! This stream withholds whatever comes behind the request in hand. So it is known where each head begins, which is what
//! a change of its bytes needs. Once the response is written, it takes the next head by itself if that is complete and
//! of the common kind; every other one is left to [`client`](crate::client), which makes hyper a connection that suits
//! it. On the way out it puts in what hyper's server cannot write: interim responses before
//! the response's first byte, and trailers in place of the empty trailer section.
//!
//! Bounds: one read of pipelined requests; [`MAX_INTERIM`] bytes of interim responses that the client does not read.

use crate::trailers::{Section, Trailers};
use nitrotap_core::http1::{
    chunked::Scanner,
    framing::Framing,
    request::{self, Head},
};
use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes of interim responses waiting for the client; more are dropped, since they are only hints.
const MAX_INTERIM: usize = 16 * 1024;

/// Most bytes read ahead while a response is awaited.
const READ_AHEAD: usize = 2048;

/// Fields of a head that hyper takes without an allocation.
pub(crate) const HYPER_FIELDS: usize = 100;

/// The longest request body after which hyper's buffers are worth keeping.
const SMALL_BODY: u64 = 16 * 1024;

/// What the turn of a request tells the stream under it. Atomic only because hyper's upgrades need a `Send` stream.
#[derive(Debug, Default)]
pub(crate) struct Side {
    /// The turn is over: what hyper still writes ends the response.
    over: AtomicBool,
    /// The response is written to its end.
    written: AtomicBool,
    /// The request has been read to its end.
    read: AtomicBool,
    /// hyper has asked for another request.
    idle: AtomicBool,
    /// The connection becomes something else than HTTP.
    raw: AtomicBool,
    /// The request has not come out of hyper yet.
    unserved: AtomicBool,
    /// The request has no body: hyper knows at once whether another request may follow.
    bodyless: AtomicBool,
    /// The same hyper connection may take the next request.
    lasting: AtomicBool,
    /// Bytes have come that the hyper connection is not to take.
    left: AtomicBool,
    /// The client speaks HTTP/1.0: no interim response, no trailers.
    http_1_0: AtomicBool,
    has_interim: AtomicBool,
    interim: Mutex<Vec<u8>>,
    interims: AtomicU64,
    pub(crate) trailers: Trailers,
}

impl Side {
    fn begin(&self, head: &Head) {
        for flag in [&self.over, &self.written, &self.read, &self.idle, &self.raw, &self.has_interim, &self.left] {
            flag.store(false, Relaxed);
        }
        self.unserved.store(true, Relaxed);
        self.bodyless.store(matches!(head.framing, Framing::Unstated | Framing::Length(0)), Relaxed);
        self.lasting.store(is_common(head), Relaxed);
        self.http_1_0.store(head.http_1_0, Relaxed);
        self.trailers.disarm();
    }

    /// The response has been handed to hyper to its end, or there will be none.
    pub(crate) fn end_turn(&self) {
        self.over.store(true, Relaxed);
    }

    /// From here on every byte passes.
    pub(crate) fn become_raw(&self) {
        self.raw.store(true, Relaxed);
    }

    pub(crate) fn speaks_http_1_0(&self) -> bool {
        self.http_1_0.load(Relaxed)
    }

    /// Whether request and response have passed to their ends.
    pub(crate) fn is_done(&self) -> bool {
        self.written.load(Relaxed) && self.read.load(Relaxed) && !self.raw.load(Relaxed)
    }

    /// Whether hyper would take another request after this one.
    pub(crate) fn is_idle(&self) -> bool {
        self.idle.load(Relaxed)
    }

    /// hyper has made a request of the bytes. False if it has done so before with the same ones.
    pub(crate) fn serve(&self) -> bool {
        let first = !self.is_served();
        self.unserved.store(false, Relaxed);
        first
    }

    pub(crate) fn is_served(&self) -> bool {
        !self.unserved.load(Relaxed)
    }

    pub(crate) fn is_bodyless(&self) -> bool {
        self.bodyless.load(Relaxed)
    }

    /// Whether the hyper connection may stay for the next request.
    pub(crate) fn may_stay(&self) -> bool {
        self.lasting.load(Relaxed) && !self.left.load(Relaxed)
    }

    /// Takes how many interim responses have been sent.
    pub(crate) fn take_interims(&self) -> u64 {
        let count = self.interims.load(Relaxed);
        self.interims.store(0, Relaxed);
        count
    }

    /// Sends `count` interim responses before the response. They are dropped for a client that does not know them
    /// (RFC 9110 section 15.2) or does not read.
    pub(crate) fn push_interim(&self, bytes: &[u8], count: u64) {
        let mut interim = self.interim.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.speaks_http_1_0() && interim.len() + bytes.len() <= MAX_INTERIM {
            interim.extend_from_slice(bytes);
            self.has_interim.store(true, Relaxed);
            self.interims.store(self.interims.load(Relaxed) + count, Relaxed);
        }
    }
}

/// Whether any hyper connection may take the request, and others after it.
const fn is_common(head: &Head) -> bool {
    match head.framing {
        Framing::Unstated => head.fields <= HYPER_FIELDS,
        Framing::Length(length) => head.fields <= HYPER_FIELDS && length <= SMALL_BODY,
        Framing::Chunked => false,
    }
}

/// What of the current request is still to be given to hyper.
#[derive(Debug)]
enum Body {
    Length(u64),
    Chunked(Scanner),
}

/// As hyper says it of bodies that it cannot read itself.
fn no_body() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a chunked body")
}

/// A client's stream as one hyper connection sees it.
#[derive(Debug)]
pub(crate) struct Exchange<S> {
    pub(crate) stream: S,
    /// Read from the client and not given to hyper.
    pub(crate) ahead: Vec<u8>,
    head_left: usize,
    body: Body,
    pub(crate) side: Arc<Side>,
    /// hyper has more of the bytes it wrote last.
    mid_write: bool,
    interim_written: usize,
    section: Section,
    /// Most bytes and fields of a head.
    limits: (usize, usize),
}

impl<S> Exchange<S> {
    pub(crate) const fn new(stream: S, side: Arc<Side>, max_head: usize, max_fields: usize) -> Self {
        Self {
            stream,
            ahead: Vec::new(),
            head_left: 0,
            body: Body::Length(0),
            side,
            mid_write: false,
            interim_written: 0,
            section: Section::new(),
            limits: (max_head, max_fields),
        }
    }

    /// Lets the request pass whose head has been read ahead. False if there is none, or none that hyper may have now.
    fn begin_next(&mut self) -> bool {
        let (max_head, max_fields) = self.limits;
        match request::head(&mut self.ahead, 0, max_fields) {
            Ok(Some(head)) if head.len <= max_head && is_common(&head) => {
                self.begin(&head);
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    /// Lets the request with `head` pass, which is what has been read ahead begins with.
    pub(crate) fn begin(&mut self, head: &Head) {
        self.side.begin(head);
        self.side.interim.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.head_left = head.len;
        self.body = match head.framing {
            Framing::Length(length) => Body::Length(length),
            Framing::Unstated => Body::Length(0),
            Framing::Chunked => Body::Chunked(Scanner::new()),
        };
        self.mid_write = false;
        self.interim_written = 0;
    }

    /// How many of `bytes` belong to the request; they count as given to hyper.
    fn take(&mut self, bytes: &[u8]) -> usize {
        if self.side.raw.load(Relaxed) {
            return bytes.len();
        }
        let head = self.head_left.min(bytes.len());
        self.head_left -= head;
        let body = &bytes[head..];
        let body = match &mut self.body {
            Body::Length(left) => {
                let part = (*left).min(body.len() as u64);
                *left -= part;
                usize::try_from(part).unwrap_or(usize::MAX)
            }
            Body::Chunked(scanner) => scanner.advance(body),
        };
        if self.is_read() {
            self.side.read.store(true, Relaxed);
        }
        head + body
    }

    /// Whether the end of the body cannot be told: hyper, which would take some of the faults, gets none.
    const fn is_broken(&self) -> bool {
        matches!(&self.body, Body::Chunked(scanner) if scanner.is_broken())
    }

    /// Whether the request has been given to hyper to its end.
    pub(crate) fn is_read(&self) -> bool {
        self.head_left == 0
            && match &self.body {
                Body::Length(left) => *left == 0,
                Body::Chunked(scanner) => scanner.is_end(),
            }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Exchange<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let raw = this.side.raw.load(Relaxed);
        if !this.ahead.is_empty() {
            return this.poll_ahead(buf);
        }
        if !raw && this.is_read() {
            return if this.side.written.load(Relaxed) { this.poll_next(cx, buf) } else { this.poll_client_gone(cx) };
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let came = buf.filled()[before..].len();
        if came > 0 && !raw {
            let taken = this.take(&buf.filled()[before..]);
            this.ahead.extend_from_slice(&buf.filled()[before + taken..]);
            buf.set_filled(before + taken);
            if taken == 0 {
                debug_assert!(this.is_broken(), "there was something left to read");
                return Poll::Ready(Err(no_body()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> Exchange<S> {
    /// Gives what has been read ahead, as far as it belongs to the request.
    fn poll_ahead(&mut self, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut ahead = std::mem::take(&mut self.ahead);
        let some = &ahead[..ahead.len().min(buf.remaining())];
        let taken = self.take(some);
        buf.put_slice(&some[..taken]);
        ahead.drain(..taken);
        self.ahead = ahead;
        if taken == 0 && self.is_broken() {
            return Poll::Ready(Err(no_body()));
        }
        if taken == 0 {
            // It belongs to the next request, which has to wait; it also says that the client is there.
            self.side.idle.store(self.side.written.load(Relaxed), Relaxed);
            self.side.left.store(true, Relaxed);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// The response is written, and hyper asks for another request.
    fn poll_next(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.side.idle.store(true, Relaxed);
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() == before {
            return Poll::Ready(Ok(()));
        }
        self.ahead.extend_from_slice(&buf.filled()[before..]);
        buf.set_filled(before);
        if self.side.may_stay() && self.begin_next() {
            return self.poll_ahead(buf);
        }
        self.side.left.store(true, Relaxed);
        Poll::Pending
    }

    /// Nothing of this request is left to read, but hyper wants to know whether the client has gone.
    fn poll_client_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [const { MaybeUninit::uninit() }; READ_AHEAD];
        let mut early = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut early))?;
        if early.filled().is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.ahead.extend_from_slice(early.filled());
        self.side.left.store(true, Relaxed);
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> Exchange<S> {
    /// Writes waiting interim responses, which belong in front of what hyper writes next.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.mid_write || !self.side.has_interim.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let side = self.side.clone();
        let mut interim = side.interim.lock().unwrap_or_else(PoisonError::into_inner);
        while self.interim_written < interim.len() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &interim[self.interim_written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim_written += n;
        }
        self.interim_written = 0;
        *interim = Vec::new();
        side.has_interim.store(false, Relaxed);
        Poll::Ready(Ok(()))
    }

    /// Accounts for a write of hyper's.
    fn note(&mut self, result: Poll<io::Result<usize>>, of: usize) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = &result {
            self.mid_write = *n < of;
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Exchange<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_interim(cx))?;
        let total = bufs.iter().map(|buf| buf.len()).sum();
        let side = this.side.clone();
        let result = this.section.poll_write(&side.trailers, &mut this.stream, cx, bufs);
        this.note(result, total)
    }

    fn is_write_vectored(&self) -> bool {
        // hyper then never puts two responses into one buffer.
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // hyper flushes the stream when it has nothing left to write.
        this.mid_write = false;
        ready!(this.poll_interim(cx))?;
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        if this.side.over.load(Relaxed) {
            this.side.written.store(true, Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
