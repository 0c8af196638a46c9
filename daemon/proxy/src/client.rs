//! One client connection: its heads, hyper's server half for each request, the timeouts around it, and the turns.
//!
//! hyper has a connection only while requests follow each other closely: it is made when a head is complete, gets the
//! bytes of one request at a time, and is gone after a short pause ([`PAUSE`]). So an idle client costs a socket and a
//! small task.
//!
//! A connection is either serving a request or waiting for one. While it waits, the housekeeper's `check` looks at it
//! four times per [`Config::header_timeout`](crate::Config::header_timeout), so a request costs no timer of its own.

use crate::{
    ahead::ReadAhead,
    budget::Charge,
    config::Config,
    conn::Signals,
    crowd::Seat,
    exchange::{Exchange, HYPER_FIELDS, Side},
    gather::poll_write_gathered,
    lines::What,
    linger, refuse,
    runtime::{Dialer, Runtime},
    service,
    shard::Inner,
    shed,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper::{server::conn::http1::Builder, service::service_fn};
use hyper_util::rt::TokioIo;
use nitrotap_core::{
    http1::{
        framing::Framing,
        request::{self, Head, Refusal},
    },
    pace::{Pace, Patience},
    time::Instant,
};
use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::{Pin, pin},
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// What the shard knows of a client connection.
pub(crate) struct Client {
    /// The peer's address as `X-Forwarded-For` shows it.
    pub(crate) address: HeaderValue,
    /// Place in the shard's list.
    pub(crate) index: Cell<usize>,
    phase: Cell<Phase>,
    order: Cell<Option<Order>>,
    waker: RefCell<Option<Waker>>,
    traffic: Arc<Traffic>,
    /// What the request in hand tells the stream under it.
    pub(crate) side: Arc<Side>,
    /// The request in hand, or the next one on its way, is the last.
    finishing: Cell<bool>,
    /// Bytes written when last checked.
    written: Cell<u64>,
    stage: Cell<Stage>,
    paces: Cell<Paces>,
    /// The paces are those of an earlier request.
    new_request: Cell<bool>,
    /// The upstream connection that serves it now.
    upstream: RefCell<Option<Arc<Signals>>>,
    upload_overdue: Cell<bool>,
    /// The response that may be read ahead.
    ahead: RefCell<Option<Weak<dyn ReadAhead>>>,
    /// The response has something to tell once all before it is written.
    ask_again: Cell<bool>,
    /// hyper's connection is kept for a next request.
    kept: Cell<bool>,
    /// The next request is long in coming, so hyper's connection is not to be kept.
    pausing: Cell<bool>,
    _seat: Option<Seat>,
}

/// What is waited for while a request is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A connection to the upstream, or nothing.
    Queued,
    /// The beginning of the request's body.
    Collecting,
    /// The upstream's answer, and the rest of the request's body before that.
    Sending,
    /// The rest of the response.
    Streaming,
}

/// How the sides of a request keep up.
#[derive(Clone, Copy, Default)]
struct Paces {
    upload: Pace,
    download: Pace,
    upstream: Pace,
}

#[derive(Clone, Copy)]
enum Phase {
    Serving,
    /// No byte of the next request had come when `read` bytes had been read in all.
    Idle {
        since: Instant,
        read: u64,
    },
    /// A request head is due.
    Head {
        since: Instant,
    },
}

/// What the shard tells a client connection to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Finish the request in flight, then close.
    Finish,
    /// Close now.
    Close,
}

/// What comes after a head was waited for.
enum Next {
    Request(Head),
    Refused(Refusal),
    /// There is no memory for it.
    NoMemory,
    /// The client left, or the shard closes the connection.
    Over,
}

/// How hyper's part in a request ended.
enum End {
    /// Another request may follow.
    Next,
    Over(hyper::Result<()>),
    /// The shard said so.
    Closed,
}

/// What becomes of a client's connection after a request.
enum After<S> {
    Next(Exchange<Watched<S>>),
    Linger(Watched<S>),
    Over,
}

/// How long a client may be idle before its hyper connection goes. The housekeeper sees to it, so it can take two of its
/// looks, a second each.
const PAUSE: Duration = Duration::from_millis(500);

/// Bytes of a head on its way that are nobody's to refuse while there is memory: most heads are never longer.
const SMALL_HEAD: usize = 4096;

/// Most clients of a shard whose hyper connection is kept. An allocator that has given out buffers for each of many
/// clients, with small things of theirs between them, cannot give the pages back.
const MOST_KEPT: usize = 128;

/// One of the shard's [`MOST_KEPT`] places.
struct Place<'a>(&'a Cell<usize>);

impl<'a> Place<'a> {
    fn take(taken: &'a Cell<usize>) -> Option<Self> {
        (taken.get() < MOST_KEPT).then(|| {
            taken.set(taken.get() + 1);
            Self(taken)
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Why a waiting connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    Head,
    Request,
    /// The client sends its request's body too slowly.
    Upload,
    /// The client reads its response too slowly.
    Download,
    /// The upstream stopped in the middle of a response.
    Upstream,
}

impl Client {
    pub(crate) fn new(address: HeaderValue, now: Instant, seat: Option<Seat>) -> Rc<Self> {
        Rc::new(Self {
            address,
            index: Cell::new(0),
            // Whoever opens a connection is expected to have something to say.
            phase: Cell::new(Phase::Head { since: now }),
            order: Cell::new(None),
            waker: RefCell::new(None),
            traffic: Arc::default(),
            side: Arc::default(),
            finishing: Cell::new(false),
            written: Cell::new(0),
            stage: Cell::new(Stage::Queued),
            paces: Cell::default(),
            new_request: Cell::new(true),
            upstream: RefCell::new(None),
            upload_overdue: Cell::new(false),
            ahead: RefCell::new(None),
            ask_again: Cell::new(false),
            kept: Cell::new(false),
            pausing: Cell::new(false),
            _seat: seat,
        })
    }

    /// Serves the connection until it ends.
    pub(crate) async fn serve<R: Runtime, D: Dialer, S>(self: Rc<Self>, shard: Rc<Inner<R, D>>, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = Watched { stream, traffic: self.traffic.clone() };
        let config = &shard.upstreams.config;
        let mut exchange = Exchange::new(stream, self.side.clone(), config.max_head, config.max_fields);
        loop {
            let next = match self.next_head(&shard, &mut exchange).await {
                Next::Request(head) => self.serve_one(&shard, exchange, &head).await,
                Next::Refused(refusal) => {
                    self.refuse(&shard, &mut exchange.stream, refusal).await;
                    After::Linger(exchange.stream)
                }
                Next::NoMemory => {
                    {
                        let mut counters = shard.counters.borrow_mut();
                        counters.heads_refused += 1;
                        counters.count_response(StatusCode::SERVICE_UNAVAILABLE);
                    }
                    self.tell(&mut exchange.stream, shed::FULL).await;
                    After::Linger(exchange.stream)
                }
                Next::Over => return,
            };
            match next {
                After::Next(same) => exchange = same,
                After::Linger(stream) => {
                    self.phase.set(Phase::Serving);
                    let bounds = linger::Bounds::of_served(shard.upstreams.runtime.now());
                    return linger::close(&shard, stream, bounds, |cx| self.is_told_to_end(cx)).await;
                }
                After::Over => return,
            }
        }
    }

    /// Waits for the next head. Until its first byte comes, this is all there is to a connection.
    async fn next_head<R: Runtime, D: Dialer, S: AsyncRead + Unpin>(
        &self,
        shard: &Inner<R, D>,
        exchange: &mut Exchange<Watched<S>>,
    ) -> Next {
        let config = &shard.upstreams.config;
        let mut room = Charge::new(&shard.budget);
        let mut seen = 0;
        if !exchange.ahead.is_empty() {
            // The head has begun already, behind the request before it.
            self.phase.set(Phase::Head { since: shard.upstreams.runtime.now() });
        }
        loop {
            if exchange.ahead.len() > seen {
                match request::head(&mut exchange.ahead, seen, config.max_fields) {
                    Ok(_) if !shard.budget.has_memory() => return Next::NoMemory,
                    Ok(Some(head)) if head.len <= config.max_head => return Next::Request(head),
                    Ok(None) if exchange.ahead.len() < config.max_head => {
                        if !room.grow_to(exchange.ahead.len().saturating_sub(SMALL_HEAD)) {
                            return Next::NoMemory;
                        }
                    }
                    Ok(_) => return Next::Refused(Refusal::TooLarge),
                    Err(refusal) => return Next::Refused(refusal),
                }
                seen = exchange.ahead.len();
            }
            let more = poll_fn(|cx| {
                match self.take_order(cx) {
                    Some(Order::Close) => return Poll::Ready(false),
                    Some(Order::Finish) if exchange.ahead.is_empty() => return Poll::Ready(false),
                    // The request on its way is the last.
                    Some(Order::Finish) => self.finishing.set(true),
                    None => {}
                }
                let mut scratch = shard.scratch.borrow_mut();
                let mut came = ReadBuf::new(&mut scratch);
                ready!(Pin::new(&mut exchange.stream).poll_read(cx, &mut came)).map_or(Poll::Ready(false), |()| {
                    exchange.ahead.extend_from_slice(came.filled());
                    Poll::Ready(!came.filled().is_empty())
                })
            });
            if !more.await {
                return Next::Over;
            }
        }
    }

    /// Serves the request with `head` on a new connection of hyper's, and those that follow it closely.
    async fn serve_one<R: Runtime, D: Dialer, S>(
        self: &Rc<Self>,
        shard: &Rc<Inner<R, D>>,
        mut exchange: Exchange<Watched<S>>,
        head: &Head,
    ) -> After<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        exchange.begin(head);
        let config = &shard.upstreams.config;
        let service = service_fn(|request| {
            let stray = !self.side.serve();
            service::handle(Turn::begin(shard, self, stray), request)
        });
        let mut builder = Builder::new();
        builder.auto_date_header(config.date_header).max_buf_size(config.max_head.max(8192)).header_read_timeout(None);
        if head.fields > HYPER_FIELDS || matches!(head.framing, Framing::Chunked) {
            // Only then, since it costs an allocation for each head.
            builder.max_headers(config.max_fields);
        }
        let mut connection = Box::pin(builder.serve_connection(TokioIo::new(exchange), service).with_upgrades());
        let mut told = false;
        let mut place = None;
        let end = poll_fn(|cx| {
            match self.take_order(cx) {
                Some(Order::Finish) => self.finishing.set(true),
                Some(Order::Close) => return Poll::Ready(End::Closed),
                None => {}
            }
            let pausing = self.pausing.replace(false);
            let mut again = true;
            loop {
                if self.finishing.get() && self.side.is_served() && !told {
                    // Not earlier: it would end a connection without a request at once.
                    connection.as_mut().graceful_shutdown();
                    told = true;
                }
                if let Poll::Ready(outcome) = connection.as_mut().poll(cx) {
                    return Poll::Ready(End::Over(outcome));
                }
                if self.side.is_done() {
                    // Without a body hyper knows at once whether another request may follow; else it must have seen
                    // the body's end.
                    let (idle, may_stay) = (self.side.is_idle(), self.side.may_stay());
                    if idle && may_stay && !pausing && place.is_none() {
                        place = Place::take(&shard.kept);
                        self.kept.set(place.is_some());
                    }
                    if idle && may_stay && !pausing && place.is_some() {
                        // The next request may come.
                    } else if idle || (self.side.is_bodyless() && !may_stay) {
                        return Poll::Ready(End::Next);
                    } else if std::mem::take(&mut again) {
                        continue;
                    } else if self.side.is_bodyless() {
                        return Poll::Ready(End::Next);
                    }
                }
                if self.finishing.get() && self.side.is_served() && !told {
                    continue;
                }
                if self.is_blocked() {
                    self.read_ahead(cx);
                } else if self.ask_again.replace(false) {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
        })
        .await;
        self.kept.set(false);
        drop(place);
        // What hyper has read and not used is the rest of this request's body, and of no further interest.
        let mut exchange = Pin::into_inner(connection).into_parts().map(|parts| parts.io.into_inner());
        if let Some(exchange) = &mut exchange
            && exchange.ahead.is_empty()
        {
            exchange.ahead = Vec::new();
        }
        match (end, exchange) {
            (End::Next, Some(exchange)) => After::Next(exchange),
            (End::Over(outcome), Some(exchange)) => {
                if let Err(error) = outcome {
                    if error.is_parse() && !self.side.is_served() {
                        // Its parts pass, but hyper makes no request of them: it has answered by itself.
                        let mut counters = shard.counters.borrow_mut();
                        counters.refused_request += 1;
                        counters.refused_malformed += 1;
                    }
                    tracing::debug!(client = ?self.address, cause = %error, "client connection ended early");
                }
                if exchange.is_read() && exchange.ahead.is_empty() {
                    After::Over
                } else {
                    After::Linger(exchange.stream)
                }
            }
            (End::Closed, _) | (_, None) => After::Over,
        }
    }

    /// Says why nothing on this connection is served.
    async fn refuse<R: Runtime, D: Dialer, S: AsyncWrite + Unpin>(
        &self,
        shard: &Inner<R, D>,
        stream: &mut S,
        refusal: Refusal,
    ) {
        tracing::debug!(client = ?self.address, cause = %refusal, "request refused");
        {
            let mut counters = shard.counters.borrow_mut();
            counters.refused_request += 1;
            counters.count_refusal(refusal.into());
            counters.count_response(refuse::status(refusal));
        }
        self.tell(stream, &refuse::answer(refusal)).await;
    }

    /// Writes an answer that hyper has no part in.
    async fn tell<S: AsyncWrite + Unpin>(&self, stream: &mut S, answer: &[u8]) {
        let mut write = pin!(stream.write_all(answer));
        // The phase is still that of a head, so a client that does not read is closed in time.
        poll_fn(|cx| if self.is_told_to_end(cx) { Poll::Ready(()) } else { write.as_mut().poll(cx).map(drop) }).await;
    }

    /// Whether the shard wants the connection to end, which is final.
    pub(crate) fn is_told_to_end(&self, cx: &Context<'_>) -> bool {
        if let Some(order) = self.take_order(cx) {
            self.order.set(Some(order));
            return true;
        }
        false
    }

    /// Whether hyper's buffers are kept for a next request.
    #[cfg(test)]
    pub(crate) const fn is_buffered(&self) -> bool {
        self.kept.get()
    }

    /// Lets the request in flight finish, then closes.
    pub(crate) fn finish(&self) {
        self.give(Order::Finish);
    }

    /// Closes the connection if it has waited too long.
    pub(crate) fn check(&self, now: Instant, config: &Config) -> Option<Overdue> {
        let written = self.traffic.written.load(Relaxed);
        let draining = self.written.replace(written) != written;
        let overdue = match self.phase.get() {
            Phase::Serving => self.check_pace(now, config),
            Phase::Idle { read, .. } if self.traffic.read.load(Relaxed) != read => {
                self.phase.set(Phase::Head { since: now });
                None
            }
            Phase::Idle { read, .. } if draining || self.is_blocked() => {
                // The client still reads the last response.
                self.phase.set(Phase::Idle { since: now, read });
                self.check_pace(now, config)
            }
            Phase::Idle { since, .. } => {
                if self.kept.get() && now.since(since) >= PAUSE {
                    self.pausing.set(true);
                    self.wake();
                }
                (now.since(since) >= config.keep_alive_timeout).then_some(Overdue::Request)
            }
            Phase::Head { since } => (now.since(since) >= config.header_timeout).then_some(Overdue::Head),
        };
        match overdue {
            None => {}
            Some(Overdue::Upload) => self.give_upload_up(),
            Some(Overdue::Head | Overdue::Request | Overdue::Download | Overdue::Upstream) => self.give(Order::Close),
        }
        overdue
    }

    /// Looks at who is waited for, and since when in vain.
    fn check_pace(&self, now: Instant, config: &Config) -> Option<Overdue> {
        let mut paces = if self.new_request.replace(false) { Paces::default() } else { self.paces.get() };
        let upstream = self.upstream.borrow();
        let not_reading = self.is_blocked();
        let not_sending = match (self.stage.get(), &*upstream) {
            (Stage::Collecting, _) => true,
            (Stage::Sending, Some(upstream)) => !upstream.body_done.get() && !upstream.write_blocked.get(),
            (Stage::Queued | Stage::Sending | Stage::Streaming, _) => false,
        };
        let streaming = self.stage.get() == Stage::Streaming && upstream.is_some();
        let sent = upstream.as_ref().map_or(0, |upstream| upstream.bytes_read());
        paces.upload.look(now, self.traffic.read.load(Relaxed), not_sending, config.min_rate);
        paces.download.look(now, self.traffic.written.load(Relaxed), not_reading, config.min_rate);
        paces.upstream.look(now, sent, streaming && !not_reading, config.min_rate);
        self.paces.set(paces);
        let patience = |timeout| Patience { timeout, min_rate: config.min_rate };
        if not_sending && !self.upload_overdue.get() && paces.upload.is_overdue(&patience(config.body_timeout)) {
            Some(Overdue::Upload)
        } else if not_reading && paces.download.is_overdue(&patience(config.send_timeout)) {
            Some(Overdue::Download)
        } else if streaming && !not_reading && paces.upstream.silence() >= config.upstream_timeout {
            Some(Overdue::Upstream)
        } else {
            None
        }
    }

    /// Whether it holds an upstream connection, or the shard's memory if `memory` is what lacks, while a slow side is
    /// waited for: whether that is the client, and how long in vain.
    pub(crate) fn holds(&self, memory: bool) -> Option<(bool, Duration)> {
        let paces = self.paces.get();
        if self.new_request.get() {
            return None;
        }
        let not_reading = self.is_blocked();
        match (self.stage.get(), &*self.upstream.borrow()) {
            (Stage::Sending, Some(upstream)) if !upstream.body_done.get() && !upstream.write_blocked.get() => {
                Some((true, paces.upload.debt()))
            }
            (Stage::Streaming, Some(_)) if not_reading => Some((true, paces.download.debt())),
            (Stage::Streaming, Some(_)) => Some((false, paces.upstream.debt())),
            (_, None) if memory && not_reading && self.ahead().is_some_and(|ahead| ahead.holds_bytes()) => {
                Some((true, paces.download.debt()))
            }
            (Stage::Queued | Stage::Collecting | Stage::Sending | Stage::Streaming, _) => None,
        }
    }

    /// Ends its transfer for the sake of others.
    pub(crate) fn evict(&self) {
        match self.stage.get() {
            Stage::Collecting | Stage::Sending => self.give_upload_up(),
            Stage::Queued | Stage::Streaming => self.give(Order::Close),
        }
    }

    /// Whether the rest of the request's body is waited for no longer.
    pub(crate) const fn upload_is_overdue(&self) -> bool {
        self.upload_overdue.get()
    }

    /// Whether the client takes no more bytes at the moment.
    pub(crate) fn is_blocked(&self) -> bool {
        self.traffic.write_blocked.load(Relaxed)
    }

    /// The response is to be polled again once all that came before has been written.
    pub(crate) fn ask_again(&self) {
        self.ask_again.set(true);
    }

    /// Bytes moved so far, in both directions.
    pub(crate) fn bytes_moved(&self) -> u64 {
        self.traffic.read.load(Relaxed).wrapping_add(self.traffic.written.load(Relaxed))
    }

    /// From now on `ahead` is read while the client cannot be written to.
    pub(crate) fn reads_ahead(&self, ahead: Weak<dyn ReadAhead>) {
        *self.ahead.borrow_mut() = Some(ahead);
    }

    fn ahead(&self) -> Option<Rc<dyn ReadAhead>> {
        self.ahead.borrow().as_ref().and_then(Weak::upgrade)
    }

    fn read_ahead(&self, cx: &Context<'_>) {
        if let Some(ahead) = self.ahead() {
            ahead.read_ahead(cx);
        }
    }

    fn give_upload_up(&self) {
        self.upload_overdue.set(true);
        self.wake();
    }

    fn give(&self, order: Order) {
        self.order.set(Some(order));
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    fn take_order(&self, cx: &Context<'_>) -> Option<Order> {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.order.take()
    }
}

/// One request of a client connection, from its head to the end of the response's body.
pub(crate) struct Turn<R: Runtime, D: Dialer> {
    pub(crate) shard: Rc<Inner<R, D>>,
    pub(crate) client: Rc<Client>,
    complete: bool,
    /// hyper found a second request in the bytes of one: what they are is not clear.
    pub(crate) stray: bool,
}

impl<R: Runtime, D: Dialer> Turn<R, D> {
    fn begin(shard: &Rc<Inner<R, D>>, client: &Rc<Client>, stray: bool) -> Self {
        client.phase.set(Phase::Serving);
        client.stage.set(Stage::Queued);
        client.new_request.set(true);
        client.upload_overdue.set(false);
        shard.counters.borrow_mut().requests += 1;
        Self { shard: shard.clone(), client: client.clone(), complete: false, stray }
    }

    /// The request waits for something else from now on.
    pub(crate) fn stage(&self, stage: Stage) {
        self.client.stage.set(stage);
    }

    /// The request goes to a connection of the upstream.
    pub(crate) fn sends(&self, signals: Arc<Signals>) {
        self.client.stage.set(Stage::Sending);
        *self.client.upstream.borrow_mut() = Some(signals);
    }

    /// It has no connection of the upstream any more.
    pub(crate) fn let_go(&self) {
        *self.client.upstream.borrow_mut() = None;
    }

    /// The response has reached its end.
    pub(crate) const fn complete(&mut self) {
        self.complete = true;
    }

    /// Puts `fields` at the end of the response, whose body ends now. HTTP/1.0 has no place for them.
    pub(crate) fn send_trailers(&self, fields: &HeaderMap) {
        let side = &self.client.side;
        let dropped = if side.speaks_http_1_0() { fields.len() as u64 } else { side.trailers.arm(fields) };
        self.shard.counters.borrow_mut().dropped_trailers += dropped;
    }

    /// The response was cut short, and not by the client.
    pub(crate) fn upstream_broke_off(&mut self, error: &hyper::Error) {
        self.complete = true;
        self.shard.counters.borrow_mut().upstream_aborts += 1;
        let cause = service::chain(error);
        self.shard.upstreams.warn(What::BrokeOff, &cause);
        self.let_go();
    }
}

impl<R: Runtime, D: Dialer> Drop for Turn<R, D> {
    fn drop(&mut self) {
        self.client.side.end_turn();
        let interims = self.client.side.take_interims();
        if !self.complete || interims > 0 {
            let mut counters = self.shard.counters.borrow_mut();
            counters.client_aborts += u64::from(!self.complete);
            counters.interim += interims;
        }
        self.let_go();
        self.stage(Stage::Queued);
        *self.client.ahead.borrow_mut() = None;
        let since = self.shard.upstreams.runtime.now();
        self.client.phase.set(Phase::Idle { since, read: self.client.traffic.read.load(Relaxed) });
    }
}

/// Bytes moved on a client connection. Atomic only because hyper's upgrades need a `Send` stream.
#[derive(Default)]
struct Traffic {
    read: AtomicU64,
    written: AtomicU64,
    /// The client takes no more at the moment.
    write_blocked: AtomicBool,
}

impl Traffic {
    /// Adds without a locked instruction: only the connection's own thread writes.
    fn add(counter: &AtomicU64, n: usize) {
        counter.store(counter.load(Relaxed).wrapping_add(n as u64), Relaxed);
    }
}

struct Watched<S> {
    stream: S,
    traffic: Arc<Traffic>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        Traffic::add(&self.traffic.read, buf.filled().len() - before);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
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
        let result = poll_write_gathered(&mut self.stream, cx, bufs);
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

impl<S> Watched<S> {
    fn note_write(&self, result: &Poll<io::Result<usize>>) {
        self.traffic.write_blocked.store(result.is_pending(), Relaxed);
        if let Poll::Ready(Ok(n)) = result {
            Traffic::add(&self.traffic.written, *n);
        }
    }
}
