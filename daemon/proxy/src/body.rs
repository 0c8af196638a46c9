//! The body of a response on its way to the client.
//!
//! Streams frame by frame, buffers nothing. With the last byte the upstream connection goes back to the pool, before
//! the client has read it; dropped earlier (the client left), it closes that connection.

use crate::{
    client::Turn,
    lease::Lease,
    runtime::{Dialer, Runtime},
};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
};

/// A response body, with the client's turn that ends when it is dropped.
pub(crate) struct Body<R: Runtime, D: Dialer> {
    source: Source<R, D>,
    turn: Turn<R, D>,
}

enum Source<R: Runtime, D: Dialer> {
    Text(Bytes),
    Upstream(Incoming, Lease<R, D>),
    /// An error to be told at the next poll.
    Broken(Option<hyper::Error>),
    Done,
}

impl<R: Runtime, D: Dialer> Body<R, D> {
    /// A text known in full, or nothing.
    pub(crate) fn text(text: Bytes, mut turn: Turn<R, D>) -> Self {
        turn.complete();
        Self { source: if text.is_empty() { Source::Done } else { Source::Text(text) }, turn }
    }

    /// What the upstream sends, ending `lease` with it.
    pub(crate) fn upstream(body: Incoming, lease: Lease<R, D>, turn: Turn<R, D>) -> Self {
        let mut this = Self { source: Source::Upstream(body, lease), turn };
        this.release_if_ended();
        this
    }

    fn release_if_ended(&mut self) {
        if matches!(&self.source, Source::Upstream(body, _) if body.is_end_stream()) {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Source::Upstream(_, lease) = std::mem::replace(&mut self.source, Source::Done) {
            lease.release();
            self.turn.complete();
        }
    }
}

impl<R: Runtime, D: Dialer> HttpBody for Body<R, D> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = match &mut self.source {
            Source::Done => return Poll::Ready(None),
            Source::Broken(error) => return Poll::Ready(error.take().map(Err)),
            Source::Text(text) => {
                let text = std::mem::take(text);
                self.source = Source::Done;
                return Poll::Ready(Some(Ok(Frame::data(text))));
            }
            Source::Upstream(body, lease) => lease.poll_frame(body, cx),
        };
        if let Poll::Ready(Some(Ok(last))) = &frame
            && let Some(fields) = last.trailers_ref()
        {
            self.turn.send_trailers(fields);
            self.release();
            return Poll::Ready(None);
        }
        match &frame {
            Poll::Pending => {}
            Poll::Ready(None) => self.release(),
            Poll::Ready(Some(Ok(_))) => self.release_if_ended(),
            Poll::Ready(Some(Err(error))) => {
                self.turn.upstream_broke_off(error);
                if let Poll::Ready(Some(Err(error))) = frame {
                    self.source = Source::Broken(Some(error));
                }
                // An error makes hyper drop what it has not written yet: let it write that first.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Done => true,
            Source::Text(_) | Source::Broken(_) => false,
            Source::Upstream(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Done => SizeHint::with_exact(0),
            Source::Text(text) => SizeHint::with_exact(text.len() as u64),
            Source::Upstream(body, _) => body.size_hint(),
            Source::Broken(_) => SizeHint::default(),
        }
    }
}
