//! A connection in the hands of one request, until the response has ended.
//!
//! Dropping a lease closes its connection: an aborted request must not leave half a response for the next one.

use crate::{
    conn::{Conn, Signals, UpstreamBody},
    exchange::Side,
    head,
    runtime::{Dialer, Runtime},
    upstreams::{Grant, Upstreams},
};
use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Frame, Incoming},
    client::conn::TrySendError,
};
use nitrotap_core::pool::ConnId;
use std::{
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
};

/// The use of one upstream connection.
pub(crate) struct Lease<R: Runtime, D: Dialer> {
    upstreams: Rc<Upstreams<R, D>>,
    id: ConnId,
    /// Whether the connection was open before this request needed it.
    pub(crate) reused: bool,
    conn: Option<Box<Conn<D::Stream>>>,
    /// The pool has not been told of the end yet.
    open: bool,
}

/// How sending a request failed.
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    /// Some of the request was written.
    pub(crate) sent: bool,
    /// Some of a response was read.
    pub(crate) received: bool,
    /// The request itself, if hyper did not begin it.
    pub(crate) unsent: Option<Box<Request<UpstreamBody>>>,
}

pub(crate) enum Cause {
    /// The head did not arrive in time although the request had been sent.
    HeadTimeout,
    /// The client stopped sending its body.
    BodyTimeout,
    /// The client's body is malformed or broke off.
    BodyFailed,
    Broken(hyper::Error),
}

impl Failure {
    fn new(cause: Cause, unsent: Option<Box<Request<UpstreamBody>>>, signals: &Signals) -> Self {
        Self { cause, sent: signals.sent.get(), received: signals.received.get(), unsent }
    }
}

impl<R: Runtime, D: Dialer> Lease<R, D> {
    pub(crate) fn new(upstreams: Rc<Upstreams<R, D>>, grant: Grant<D::Stream>) -> Self {
        Self { upstreams, id: grant.id, reused: grant.reused, conn: Some(grant.conn), open: true }
    }

    fn conn(&mut self) -> &mut Conn<D::Stream> {
        self.conn.as_mut().expect("a lease loses its connection only when it is consumed or upgraded")
    }

    /// What the connection tells of its traffic.
    pub(crate) fn signals(&mut self) -> Arc<Signals> {
        self.conn().signals.clone()
    }

    /// Whether the connection is still fit for a request.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.conn().is_ready()
    }

    /// Ends the lease of a connection that the peer closed before it was used.
    pub(crate) fn bury(mut self) {
        self.conn = None;
        self.open = false;
        self.upstreams.closed(self.id);
    }

    /// Sends `request` and waits for the response's head. Interim responses go to `side` as they come.
    pub(crate) fn send(
        &mut self,
        request: Request<UpstreamBody>,
        side: &Side,
    ) -> impl Future<Output = Result<Response<Incoming>, Failure>> {
        let response = self.conn().submit(request);
        let mut patience = self.patience();
        async move {
            let mut response = pin!(response);
            poll_fn(|cx| {
                if patience.as_mut().is_some_and(|patience| patience.as_mut().poll(cx).is_ready()) {
                    patience = None;
                    self.conn().signals.held.set(false);
                }
                self.poll_head(response.as_mut(), side, cx)
            })
            .await
        }
    }

    /// How long the body is held back for want of a `100 Continue`.
    fn patience(&mut self) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
        if !self.conn().signals.held.get() {
            return None;
        }
        let runtime = &self.upstreams.runtime;
        Some(Box::pin(runtime.sleep_until(runtime.now() + self.upstreams.config.continue_timeout)))
    }

    /// Whether the upstream answers without reading the rest of the request's body.
    pub(crate) fn is_early(&mut self, says_close: impl FnOnce() -> bool) -> bool {
        let signals = &self.conn().signals;
        !signals.body_done.get() && (signals.held.get() || signals.deaf.get() || says_close())
    }

    /// Takes how many trailer fields of the request were not passed on.
    pub(crate) fn take_dropped_trailers(&mut self) -> u64 {
        self.conn().signals.dropped_trailers.swap(0, Relaxed)
    }

    fn poll_head(
        &mut self,
        response: Pin<&mut impl Future<Output = Result<Response<Incoming>, TrySendError<Request<UpstreamBody>>>>>,
        side: &Side,
        cx: &Context<'_>,
    ) -> Poll<Result<Response<Incoming>, Failure>> {
        let conn = self.conn.as_mut().expect("a lease loses its connection only when it is consumed or upgraded");
        if conn.signals.expired.get() {
            // Who did not go on: an upstream that does not read its request is late, too.
            let upstream = conn.signals.body_done.get() || conn.signals.write_blocked.get();
            let cause = if upstream { Cause::HeadTimeout } else { Cause::BodyTimeout };
            return Poll::Ready(Err(Failure::new(cause, None, &conn.signals)));
        }
        let ended = conn.drive(cx);
        if let Some((interim, count)) = conn.signals.take_interim() {
            side.push_interim(&interim, count);
        }
        if conn.signals.progress.take() {
            self.upstreams.progress(self.id);
        }
        // Only `drive` can complete it, in this very task: nobody needs to wake us for it.
        match response.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(mut response)) => {
                if let Some(surplus) = conn.signals.take_surplus() {
                    head::append(response.headers_mut(), &surplus);
                }
                self.upstreams.head(self.id);
                Poll::Ready(Ok(response))
            }
            Poll::Ready(Err(mut error)) => {
                let unsent = error.take_message().map(Box::new);
                let client = conn.signals.body_failed.get();
                let cause = if client { Cause::BodyFailed } else { Cause::Broken(error.into_error()) };
                Poll::Ready(Err(Failure::new(cause, unsent, &conn.signals)))
            }
            Poll::Pending => {
                debug_assert!(!ended, "hyper answers every request before it ends");
                Poll::Pending
            }
        }
    }

    /// The next part of the response's body, driving the connection for it.
    pub(crate) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let conn = self.conn();
        let frame = conn.take_frame(body);
        if frame.is_ready() {
            return frame;
        }
        conn.drive(cx);
        conn.take_frame(body)
    }

    /// Ends the lease after a complete response: the connection is kept if it can be.
    pub(crate) fn release(mut self) {
        let conn = self.conn();
        if conn.has_finished() || conn.is_ready() {
            self.open = false;
            let conn = self.conn.take();
            self.upstreams.done(self.id, conn);
        }
    }

    /// The bare stream after a 101, and what was read beyond it. The rest of the lease keeps the pool's count.
    pub(crate) async fn upgraded(&mut self) -> Option<(D::Stream, Bytes)> {
        let conn = self.conn.as_mut()?;
        poll_fn(|cx| if conn.drive(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        self.conn.take().map(|conn| conn.into_stream())
    }
}

impl<R: Runtime, D: Dialer> Drop for Lease<R, D> {
    fn drop(&mut self) {
        self.conn = None;
        if self.open {
            self.upstreams.done(self.id, None);
        }
    }
}
