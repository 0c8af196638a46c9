//! One upstream connection: hyper's two halves kept together and polled by whoever uses it.
//!
//! Driven by the task whose request it carries, so that a response reaches its client without a wake-up between
//! tasks; while idle, by the housekeeper.

use crate::{
    budget::{Budget, Held},
    config::Config,
    interim,
    runtime::ByteStream,
    trailers::{Section, Trailers},
};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header::EXPECT};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::{
        TrySendError,
        http1::{Builder, Connection, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use nitrotap_core::http1::response::{self, Field, Start};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// An open connection to the upstream, between its handshake and its end.
pub(crate) struct Conn<S: ByteStream> {
    sender: SendRequest<UpstreamBody>,
    link: Connection<TokioIo<Metered<S>>, UpstreamBody>,
    pub(crate) signals: Arc<Signals>,
    /// Reaches whichever task drives the connection; the stream and hyper's channels know only this one.
    waker: Waker,
    /// What the connection came to; hyper must not be polled after it.
    ended: Option<Result<(), hyper::Error>>,
}

impl<S: ByteStream> Conn<S> {
    /// Takes over a fresh stream.
    pub(crate) async fn open(stream: S, config: &Config) -> Result<Box<Self>, hyper::Error> {
        let signals = Arc::<Signals>::default();
        let io = TokioIo::new(Metered::new(stream, signals.clone(), (config.max_head, config.max_fields)));
        let mut builder = Builder::new();
        builder.max_buf_size(config.max_head.max(8192));
        let (sender, link) = builder.handshake(io).await?;
        let waker = Waker::from(signals.clone());
        Ok(Box::new(Self { sender, link, signals, waker, ended: None }))
    }

    /// Moves bytes as far as they go, and wakes the current task when there is more to do. True once the connection is
    /// over: closed, broken or switched to another protocol.
    pub(crate) fn drive(&mut self, cx: &Context<'_>) -> bool {
        if self.ended.is_none() {
            self.signals.lead_to(cx.waker());
            if let Poll::Ready(outcome) = self.link.poll_without_shutdown(&mut Context::from_waker(&self.waker)) {
                self.ended = Some(outcome);
            }
        }
        self.ended.is_some()
    }

    /// Puts a request before hyper; `drive` sends it and completes the future, in the task that awaits it.
    pub(crate) fn submit(
        &mut self,
        mut request: Request<UpstreamBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<UpstreamBody>>>> + use<S> {
        UpstreamBody::attach(&mut request, &self.signals);
        let sender = &mut self.sender;
        self.signals.quietly(|| sender.try_send_request(request))
    }

    /// The next frame that `drive` has read. Asking tells hyper to read on, but only `drive` does.
    pub(crate) fn take_frame(&self, body: &mut Incoming) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let nobody = &mut Context::from_waker(Waker::noop());
        self.signals.quietly(|| Pin::new(body).poll_frame(nobody))
    }

    /// Whether another request may be sent, as far as is known now.
    pub(crate) fn is_ready(&mut self) -> bool {
        // Driving finds a closed connection and stray bytes, and lets hyper see that the last message has ended. Who
        // uses the connection next drives it again, so nobody is to be woken until then.
        !self.drive(&Context::from_waker(Waker::noop())) && self.sender.is_ready() && !self.signals.deaf.get()
    }

    /// Whether hyper has seen the last message's end already.
    pub(crate) fn has_finished(&self) -> bool {
        self.ended.is_none() && self.sender.is_ready() && !self.signals.deaf.get()
    }

    /// The bare stream after an upgrade, and the bytes that hyper read beyond the 101.
    pub(crate) fn into_stream(self) -> (S, Bytes) {
        let parts = self.link.into_parts();
        let io = parts.io.into_inner();
        let beyond =
            if io.early.is_empty() { parts.read_buf } else { [&parts.read_buf[..], &io.early].concat().into() };
        (io.stream, beyond)
    }
}

/// What the parts of a connection tell each other, and the waker that all of them know.
///
/// The waker reaches the task that drives the connection, unless that task is at work on it and caused the wake-up
/// itself: handing hyper a request and taking a frame from it both wake the connection's driver. That is us, about to
/// drive it anyway or done with it; without this, every request would cost two idle polls of its whole task.
#[derive(Default)]
pub(crate) struct Signals {
    /// A byte was written since the request was submitted.
    pub(crate) sent: Flag,
    /// A byte was read since the request was submitted.
    pub(crate) received: Flag,
    /// A part of the request body went out since this was last taken.
    pub(crate) progress: Flag,
    /// The request body has ended, or there is none.
    pub(crate) body_done: Flag,
    /// The client's request body could not be read to its end.
    pub(crate) body_failed: Flag,
    /// The upstream takes no more bytes at the moment.
    pub(crate) write_blocked: Flag,
    /// Bytes read so far.
    read: AtomicU64,
    /// The pool gave the request up.
    pub(crate) expired: Flag,
    /// The request's body is held back until the upstream says `100 Continue`.
    pub(crate) held: Flag,
    /// The upstream takes no more bytes; it may have answered before that.
    pub(crate) deaf: Flag,
    /// Interim responses for the client, and how many they are.
    interim: Mutex<(Vec<u8>, u64)>,
    has_interim: Flag,
    /// The first bytes of a response are due.
    at_head: Flag,
    /// Fields of the response that hyper has no room for.
    surplus: Mutex<Vec<Field>>,
    has_surplus: Flag,
    trailers: Trailers,
    /// Trailer fields of the request that were not passed on.
    pub(crate) dropped_trailers: AtomicU64,
    /// Wake-ups are our own doing.
    quiet: Flag,
    driver: Mutex<Option<Waker>>,
}

impl Signals {
    /// A new request begins.
    fn restart(&self, body_done: bool, held: bool) {
        self.held.set(held);
        self.trailers.disarm();
        self.sent.set(false);
        self.received.set(false);
        self.progress.set(false);
        self.body_done.set(body_done);
        self.body_failed.set(false);
        self.at_head.set(true);
        self.has_surplus.set(false);
    }

    /// Takes the fields of the response's head that hyper had no room for.
    pub(crate) fn take_surplus(&self) -> Option<Vec<Field>> {
        self.has_surplus
            .take()
            .then(|| std::mem::take(&mut *self.surplus.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// An interim response came.
    fn inform(&self, status: u16, fields: &[Field]) {
        let Ok(status) = StatusCode::from_u16(status) else { return };
        if status == StatusCode::CONTINUE {
            // Asking the client for its body makes hyper's server send it one of its own, if it waits for it.
            self.held.set(false);
            return;
        }
        let mut interim = self.interim.lock().unwrap_or_else(PoisonError::into_inner);
        if interim.0.len() < MAX_INTERIM {
            interim.0.extend_from_slice(&interim::encoded(status, fields));
            interim.1 += 1;
            self.has_interim.set(true);
        }
    }

    /// Takes the interim responses that have come.
    pub(crate) fn take_interim(&self) -> Option<(Vec<u8>, u64)> {
        self.has_interim
            .take()
            .then(|| std::mem::take(&mut *self.interim.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Bytes the upstream has sent so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// Gives the request up and wakes its task.
    pub(crate) fn expire(&self) {
        self.expired.set(true);
        self.wake_driver();
    }

    fn lead_to(&self, waker: &Waker) {
        let mut driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        if !driver.as_ref().is_some_and(|driver| driver.will_wake(waker)) {
            *driver = Some(waker.clone());
        }
    }

    /// Ignores wake-ups during `f`. No other can come in between: a shard and what wakes it share a thread.
    fn quietly<T>(&self, f: impl FnOnce() -> T) -> T {
        self.quiet.set(true);
        let value = f();
        self.quiet.set(false);
        value
    }

    fn wake_driver(&self) {
        if !self.quiet.get()
            && let Some(driver) = self.driver.lock().unwrap_or_else(PoisonError::into_inner).as_ref()
        {
            driver.wake_by_ref();
        }
    }
}

impl Wake for Signals {
    fn wake(self: Arc<Self>) {
        self.wake_driver();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_driver();
    }
}

/// A flag of one thread, in the shape that a waker needs.
#[derive(Default)]
pub(crate) struct Flag(AtomicBool);

impl Flag {
    pub(crate) fn get(&self) -> bool {
        self.0.load(Relaxed)
    }

    pub(crate) fn set(&self, value: bool) {
        self.0.store(value, Relaxed);
    }

    pub(crate) fn take(&self) -> bool {
        let value = self.get();
        self.set(false);
        value
    }
}

/// Most bytes of interim responses kept between two looks at them.
const MAX_INTERIM: usize = 16 * 1024;

/// A byte stream that notes whether bytes moved.
///
/// An app may answer before it has read the request, and close: then writing fails while its answer waits to be read.
/// So a failed write is only noted; what ends the connection is what reading finds.
///
/// Interim responses, and fields for which hyper has no room, go past hyper: to be told of the former costs it four
/// allocations for each request, and room for the latter two for each response.
pub(crate) struct Metered<S> {
    stream: S,
    signals: Arc<Signals>,
    section: Section,
    /// Read and not given to hyper: the beginning of a response that is not plain. Bounded by a head's length and a read.
    early: Vec<u8>,
    /// Most bytes and fields of a head.
    limits: (usize, usize),
}

impl<S> Metered<S> {
    const fn new(stream: S, signals: Arc<Signals>, limits: (usize, usize)) -> Self {
        Self { stream, signals, section: Section::new(), early: Vec::new(), limits }
    }

    /// Takes out what goes past hyper. True once the rest is hyper's.
    fn sort_early(&mut self) -> bool {
        loop {
            match response::start(&mut self.early, self.limits.0, self.limits.1) {
                Start::Partial => return false,
                Start::Interim(status, fields) => self.signals.inform(status, &fields),
                Start::Final(surplus) => {
                    if !surplus.is_empty() {
                        *self.signals.surplus.lock().unwrap_or_else(PoisonError::into_inner) = surplus;
                        self.signals.has_surplus.set(true);
                    }
                    return true;
                }
            }
        }
    }

    fn give_early(&mut self, buf: &mut ReadBuf<'_>) {
        let some = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early[..some]);
        self.early.drain(..some);
        if self.early.is_empty() {
            self.early = Vec::new();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.early.is_empty() && !this.signals.at_head.get() {
            this.give_early(buf);
            return Poll::Ready(Ok(()));
        }
        loop {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let came = &buf.filled()[before..];
            if !came.is_empty() {
                this.signals.received.set(true);
                // Only the connection's own thread writes.
                this.signals.read.store(this.signals.bytes_read().wrapping_add(came.len() as u64), Relaxed);
            }
            if !this.signals.at_head.get() {
                return Poll::Ready(Ok(()));
            }
            let ended = came.is_empty();
            if this.early.is_empty() && (ended || response::is_plain(came)) {
                this.signals.at_head.set(false);
                return Poll::Ready(Ok(()));
            }
            this.early.extend_from_slice(came);
            buf.set_filled(before);
            if ended || this.sort_early() {
                this.signals.at_head.set(false);
                this.give_early(buf);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.as_mut().poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if !this.signals.deaf.get() {
            let written = this.section.poll_write(&this.signals.trailers, &mut this.stream, cx, bufs);
            let gone = match &written {
                Poll::Ready(Err(error)) => is_deaf(error),
                Poll::Ready(Ok(_)) | Poll::Pending => false,
            };
            if !gone {
                this.signals.write_blocked.set(written.is_pending());
                if matches!(written, Poll::Ready(Ok(1..))) {
                    this.signals.sent.set(true);
                }
                return written;
            }
            this.signals.deaf.set(true);
            tracing::debug!("the upstream takes no more of the request");
        }
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        // hyper then shows all that it has not written with each write.
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.signals.deaf.get() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Whether the peer has closed or reset the connection.
fn is_deaf(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::BrokenPipe | Kind::ConnectionReset | Kind::ConnectionAborted | Kind::NotConnected)
}

/// A request body on its way to the upstream.
pub(crate) struct UpstreamBody {
    /// Its beginning, where that was read already.
    held: Option<Held>,
    /// `None` when there is none or all of it is held, so that a request can be made again.
    client: Option<Incoming>,
    signals: Option<Arc<Signals>>,
}

impl UpstreamBody {
    pub(crate) fn new(client: Incoming) -> Self {
        Self { held: None, client: (!client.is_end_stream()).then_some(client), signals: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.client.is_none() && self.held_is_empty()
    }

    /// Keeps what comes next.
    pub(crate) fn begin_holding(&mut self, budget: &Rc<Budget>) {
        self.held = Some(Held::new(budget));
    }

    /// Whether more of it may be kept.
    pub(crate) fn has_room(&self, limit: usize) -> bool {
        self.held.as_ref().is_some_and(|held| held.has_room(limit))
    }

    /// Keeps the next part. False after the last.
    pub(crate) fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, hyper::Error>> {
        let (Some(client), Some(held)) = (&mut self.client, &mut self.held) else { return Poll::Ready(Ok(false)) };
        let more = match ready!(Pin::new(&mut *client).poll_frame(cx)) {
            Some(frame) => {
                held.push(frame?);
                !client.is_end_stream()
            }
            None => false,
        };
        // With nothing in it, hyper must still see a body, so that it is sent as one.
        if !more && !held.is_empty() {
            self.client = None;
        }
        Poll::Ready(Ok(more))
    }

    fn held_is_empty(&self) -> bool {
        self.held.as_ref().is_none_or(Held::is_empty)
    }

    fn note(&self, frame: &Poll<Option<Result<Frame<Bytes>, hyper::Error>>>) {
        let done = matches!(frame, Poll::Ready(None)) || self.is_end_stream();
        if let Some(signals) = self.signals.as_ref().filter(|_| frame.is_ready()) {
            signals.progress.set(true);
            signals.body_done.set(done);
            signals.body_failed.set(matches!(frame, Poll::Ready(Some(Err(_)))));
        }
    }

    /// Reports this body's progress to `signals` from now on.
    fn attach(request: &mut Request<Self>, signals: &Arc<Signals>) {
        let waits =
            request.headers().get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let body = request.body_mut();
        let empty = body.is_empty();
        signals.restart(empty, waits && !empty);
        body.signals = (!empty).then(|| signals.clone());
    }

    /// A body of what is held, or none.
    pub(crate) const fn of_held(held: Option<Held>) -> Self {
        Self { held, client: None, signals: None }
    }

    /// What is held once more; `None` if that is not all.
    pub(crate) fn repeat_held(&self) -> Option<Option<Held>> {
        if self.client.is_some() {
            return None;
        }
        match &self.held {
            Some(held) => held.repeat().map(Some),
            None => Some(None),
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        if this.signals.as_ref().is_some_and(|signals| signals.held.get() || signals.deaf.get()) {
            // Driving the connection asks again.
            return Poll::Pending;
        }
        let mut frame = match (this.held.as_mut().and_then(Held::pop), &mut this.client) {
            (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
            (None, Some(client)) => Pin::new(client).poll_frame(cx),
            (None, None) => return Poll::Ready(None),
        };
        if let Poll::Ready(Some(Ok(last))) = &frame
            && let Some(fields) = last.trailers_ref()
        {
            if let Some(signals) = &this.signals {
                signals.dropped_trailers.fetch_add(signals.trailers.arm(fields), Relaxed);
            }
            frame = Poll::Ready(None);
        }
        self.note(&frame);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.held_is_empty() && self.client.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.client.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint);
        let Some(held) = &self.held else { return rest };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + held.len());
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + held.len());
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// An app that has answered and reads no more.
    struct Answered(&'static [u8]);

    impl AsyncRead for Answered {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            buf.put_slice(self.0);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Answered {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_write_that_fails_hides_no_answer_and_counts_as_nothing_sent() {
        let signals = Arc::<Signals>::default();
        let mut stream = Metered::new(Answered(b"HTTP/1.1 413"), signals.clone(), (8192, 256));
        stream.write_all(b"body").await.unwrap();
        stream.flush().await.unwrap();
        assert!(signals.deaf.get() && !signals.sent.get());
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 413");
        assert!(signals.received.get());
    }
}
