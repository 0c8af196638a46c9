//! A response that is read ahead of a slow client, so that its upstream connection is free before the client has read it.
//!
//! As long as the client keeps up, frames pass one by one and nothing is kept. While the client's socket takes no more,
//! its task reads on into a bounded queue: [`Config::response_buffer`] for one response, the shard's budget for all.
//!
//! [`Config::response_buffer`]: crate::Config::response_buffer

use crate::{
    budget::Held,
    client::Turn,
    lease::Lease,
    runtime::{Dialer, Runtime},
};
use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    task::{Context, Poll},
};

/// What a client's task does for its response while it cannot write.
pub(crate) trait ReadAhead {
    /// Reads on as far as the upstream has sent and there is room.
    fn read_ahead(&self, cx: &Context<'_>);

    /// Whether it keeps something.
    fn holds_bytes(&self) -> bool;
}

/// A response body on its way from the upstream, with the client's turn that ends when it is dropped.
pub(crate) struct Ahead<R: Runtime, D: Dialer>(RefCell<State<R, D>>);

struct State<R: Runtime, D: Dialer> {
    /// Until the upstream has sent all, or broken off.
    open: Option<(Incoming, Lease<R, D>)>,
    held: Held,
    broken: Option<hyper::Error>,
    /// hyper has had time to write what came before the error.
    warned: bool,
    turn: Turn<R, D>,
}

impl<R: Runtime, D: Dialer> Ahead<R, D> {
    /// Takes the body over, ending `lease` with it.
    pub(crate) fn new(body: Incoming, lease: Lease<R, D>, turn: Turn<R, D>) -> Rc<Self> {
        let held = Held::new(&turn.shard.budget);
        let mut state = State { open: Some((body, lease)), held, broken: None, warned: false, turn };
        state.end_if_complete();
        let client = state.turn.client.clone();
        let reads_ahead = state.open.is_some() && state.limit() > 0;
        let this = Rc::new(Self(RefCell::new(state)));
        if reads_ahead {
            let weak: Weak<Self> = Rc::downgrade(&this);
            client.reads_ahead(weak);
        }
        this
    }

    pub(crate) fn poll_frame(&self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut state = self.0.borrow_mut();
        if let Some(frame) = state.held.pop() {
            return Poll::Ready(state.deliver(frame).map(Ok));
        }
        if state.broken.is_none()
            && let Poll::Ready(frame) = state.read(cx)
        {
            return Poll::Ready(frame.and_then(|frame| state.deliver(frame)).map(Ok));
        }
        if state.broken.is_none() {
            return Poll::Pending;
        }
        // An error makes hyper drop what it has not written yet: the client's task asks again when all is written.
        if !std::mem::replace(&mut state.warned, true) || state.turn.client.is_blocked() {
            state.turn.client.ask_again();
            return Poll::Pending;
        }
        Poll::Ready(state.broken.take().map(Err))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let state = self.0.borrow();
        state.held.is_empty()
            && state.broken.is_none()
            && state.open.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let state = self.0.borrow();
        if state.broken.is_some() {
            return SizeHint::default();
        }
        let rest = state.open.as_ref().map_or_else(|| SizeHint::with_exact(0), |(body, _)| body.size_hint());
        let held = state.held.len();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + held);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + held);
        }
        hint
    }
}

impl<R: Runtime, D: Dialer> ReadAhead for Ahead<R, D> {
    fn read_ahead(&self, cx: &Context<'_>) {
        let mut state = self.0.borrow_mut();
        while state.open.is_some() && state.held.has_room(state.limit()) {
            match state.read(cx) {
                Poll::Ready(Some(frame)) => state.held.push(frame),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
    }

    fn holds_bytes(&self) -> bool {
        !self.0.borrow().held.is_empty()
    }
}

impl<R: Runtime, D: Dialer> State<R, D> {
    fn limit(&self) -> usize {
        self.turn.shard.upstreams.config.response_buffer
    }

    /// The next frame from the upstream. Pending too when it has just broken off.
    fn read(&mut self, cx: &Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        let Some((body, lease)) = &mut self.open else { return Poll::Ready(None) };
        match lease.poll_frame(body, cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.end_if_complete();
                Poll::Ready(Some(frame))
            }
            Poll::Ready(Some(Err(error))) => {
                self.open = None;
                self.turn.upstream_broke_off(&error);
                self.broken = Some(error);
                Poll::Pending
            }
        }
    }

    /// What hyper gets of a frame: trailers go past it, and are the end.
    fn deliver(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let Some(fields) = frame.trailers_ref() else { return Some(frame) };
        self.turn.send_trailers(fields);
        self.end();
        None
    }

    fn end_if_complete(&mut self) {
        if self.open.as_ref().is_some_and(|(body, _)| body.is_end_stream()) {
            self.end();
        }
    }

    /// The upstream has sent all: its connection is free.
    fn end(&mut self) {
        if let Some((_, lease)) = self.open.take() {
            lease.release();
            self.turn.complete();
            self.turn.let_go();
        }
    }
}
