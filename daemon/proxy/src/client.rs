//! One client connection: hyper's server half, the timeouts around it, and the turns of its requests.
//!
//! A connection is either serving a request or waiting for one. While it waits, the housekeeper's `check` looks at it
//! four times per [`Config::header_timeout`](crate::Config::header_timeout), so a request costs no timer of its own.

use crate::{
    config::Config,
    gather::poll_write_gathered,
    runtime::{Dialer, Runtime},
    service,
    shard::Inner,
};
use http::HeaderValue;
use hyper::{server::conn::http1::Builder, service::service_fn};
use hyper_util::rt::TokioIo;
use nitrotap_core::time::Instant;
use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

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
    /// Bytes written when last checked.
    written: Cell<u64>,
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

/// Why a waiting connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    Head,
    Request,
}

impl Client {
    pub(crate) fn new(address: HeaderValue, now: Instant) -> Rc<Self> {
        Rc::new(Self {
            address,
            index: Cell::new(0),
            // Whoever opens a connection is expected to have something to say.
            phase: Cell::new(Phase::Head { since: now }),
            order: Cell::new(None),
            waker: RefCell::new(None),
            traffic: Arc::default(),
            written: Cell::new(0),
        })
    }

    /// Serves the connection until it ends.
    pub(crate) async fn serve<R: Runtime, D: Dialer, S>(self: Rc<Self>, shard: Rc<Inner<R, D>>, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(Watched { stream, traffic: self.traffic.clone() });
        let config = &shard.upstreams.config;
        let service = service_fn(|request| service::handle(Turn::begin(&shard, &self), request));
        let mut connection = pin!(
            Builder::new()
                .auto_date_header(config.date_header)
                .max_buf_size(config.max_head.max(8192))
                .header_read_timeout(None)
                .serve_connection(io, service)
                .with_upgrades()
        );
        let outcome = poll_fn(|cx| {
            match self.take_order(cx) {
                Some(Order::Finish) => connection.as_mut().graceful_shutdown(),
                Some(Order::Close) => return Poll::Ready(Ok(())),
                None => {}
            }
            connection.as_mut().poll(cx)
        })
        .await;
        if let Err(error) = outcome {
            tracing::debug!(client = ?self.address, cause = %error, "client connection ended early");
        }
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
            Phase::Serving => None,
            Phase::Idle { read, .. } if self.traffic.read.load(Relaxed) != read => {
                self.phase.set(Phase::Head { since: now });
                None
            }
            Phase::Idle { read, .. } if draining => {
                // The client still reads the last response, at its own pace.
                self.phase.set(Phase::Idle { since: now, read });
                None
            }
            Phase::Idle { since, .. } => (now.since(since) >= config.keep_alive_timeout).then_some(Overdue::Request),
            Phase::Head { since } => (now.since(since) >= config.header_timeout).then_some(Overdue::Head),
        };
        if overdue.is_some() {
            self.give(Order::Close);
        }
        overdue
    }

    fn give(&self, order: Order) {
        self.order.set(Some(order));
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
}

impl<R: Runtime, D: Dialer> Turn<R, D> {
    fn begin(shard: &Rc<Inner<R, D>>, client: &Rc<Client>) -> Self {
        client.phase.set(Phase::Serving);
        shard.counters.borrow_mut().requests += 1;
        Self { shard: shard.clone(), client: client.clone(), complete: false }
    }

    /// The response has reached its end.
    pub(crate) const fn complete(&mut self) {
        self.complete = true;
    }

    /// The response was cut short, and not by the client.
    pub(crate) fn upstream_broke_off(&mut self, error: &hyper::Error) {
        self.complete = true;
        self.shard.counters.borrow_mut().upstream_aborts += 1;
        let cause = service::chain(error);
        tracing::warn!(upstream = %self.shard.upstreams.url, cause, "the upstream broke off in the middle of a response");
    }
}

impl<R: Runtime, D: Dialer> Drop for Turn<R, D> {
    fn drop(&mut self) {
        if !self.complete {
            self.shard.counters.borrow_mut().client_aborts += 1;
        }
        let since = self.shard.upstreams.runtime.now();
        self.client.phase.set(Phase::Idle { since, read: self.client.traffic.read.load(Relaxed) });
    }
}

/// Bytes moved on a client connection. Atomic only because hyper's upgrades need a `Send` stream.
#[derive(Default)]
struct Traffic {
    read: AtomicU64,
    written: AtomicU64,
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
        if let Poll::Ready(Ok(n)) = result {
            Traffic::add(&self.traffic.written, *n);
        }
    }
}
