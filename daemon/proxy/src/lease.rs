//! A connection in the hands of one request, until the response has ended.
//!
//! Dropping a lease closes its connection: an aborted request must not leave half a response for the next one.

use crate::{
    conn::{Conn, UpstreamBody},
    runtime::{Dialer, Runtime},
    upstreams::{Grant, Upstreams},
};
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body as _, Frame, Incoming};
use nitrotap_core::pool::ConnId;
use std::{
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
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

impl<R: Runtime, D: Dialer> Lease<R, D> {
    pub(crate) fn new(upstreams: Rc<Upstreams<R, D>>, grant: Grant<D::Stream>) -> Self {
        Self { upstreams, id: grant.id, reused: grant.reused, conn: Some(grant.conn), open: true }
    }

    fn conn(&mut self) -> &mut Conn<D::Stream> {
        self.conn.as_mut().expect("a lease loses its connection only when it is consumed or upgraded")
    }

    /// Whether the connection is still fit for a request.
    pub(crate) fn is_alive(&mut self, cx: &mut Context<'_>) -> bool {
        self.conn().is_ready(cx)
    }

    /// Ends the lease of a connection that the peer closed before it was used.
    pub(crate) fn bury(mut self) {
        self.conn = None;
        self.open = false;
        self.upstreams.closed(self.id);
    }

    /// Sends `request` and waits for the response's head.
    pub(crate) async fn send(&mut self, mut request: Request<UpstreamBody>) -> Result<Response<Incoming>, Failure> {
        let id = self.id;
        let upstreams = self.upstreams.clone();
        let conn = self.conn();
        let signals = conn.signals.clone();
        UpstreamBody::attach(&mut request, &signals);
        let mut response = pin!(conn.sender.try_send_request(request));
        let outcome = poll_fn(|cx| {
            if signals.expired.get() {
                return Poll::Ready(None);
            }
            signals.listen(cx);
            let ended = conn.drive(cx);
            if signals.progress.take() {
                upstreams.progress(id);
            }
            // Only `drive` can complete it, in this very task: nobody needs to wake us for it.
            let response = response.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            debug_assert!(!ended || response.is_ready(), "hyper answers every request before it ends");
            response.map(Some)
        })
        .await;
        match outcome {
            Some(Ok(response)) => {
                upstreams.head(id);
                Ok(response)
            }
            Some(Err(mut error)) => Err(Failure {
                sent: signals.sent.get(),
                received: signals.received.get(),
                unsent: error.take_message().map(Box::new),
                cause: if signals.body_failed.get() { Cause::BodyFailed } else { Cause::Broken(error.into_error()) },
            }),
            None => Err(Failure {
                sent: signals.sent.get(),
                received: signals.received.get(),
                unsent: None,
                cause: if signals.body_done.get() { Cause::HeadTimeout } else { Cause::BodyTimeout },
            }),
        }
    }

    /// The next part of the response's body, driving the connection for it.
    pub(crate) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let quiet = &mut Context::from_waker(Waker::noop());
        // What `drive` has read already comes first; asking also tells hyper to read on.
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(quiet) {
            return Poll::Ready(frame);
        }
        self.conn().drive(cx);
        Pin::new(body).poll_frame(quiet)
    }

    /// Ends the lease after a complete response: the connection is kept if it can be.
    pub(crate) fn release(mut self, cx: &mut Context<'_>) {
        let reusable = self.conn().sender.is_ready() || self.conn().is_ready(cx);
        if reusable {
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
