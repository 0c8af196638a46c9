//! The body of a response on its way to the client: a text of our own, or what the upstream sends (`ahead`).

use crate::{
    ahead::Ahead,
    client::Turn,
    lease::Lease,
    runtime::{Dialer, Runtime},
};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

/// A response body, with the client's turn that ends when it is dropped.
pub(crate) enum Body<R: Runtime, D: Dialer> {
    Text(Option<Bytes>, #[expect(dead_code, reason = "kept for its drop")] Turn<R, D>),
    Upstream(Rc<Ahead<R, D>>),
}

impl<R: Runtime, D: Dialer> Body<R, D> {
    /// A text known in full, or nothing.
    pub(crate) fn text(text: Bytes, mut turn: Turn<R, D>) -> Self {
        turn.complete();
        Self::Text((!text.is_empty()).then_some(text), turn)
    }

    /// What the upstream sends, ending `lease` with it.
    pub(crate) fn upstream(body: Incoming, lease: Lease<R, D>, turn: Turn<R, D>) -> Self {
        Self::Upstream(Ahead::new(body, lease, turn))
    }
}

impl<R: Runtime, D: Dialer> HttpBody for Body<R, D> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Text(text, _) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Upstream(ahead) => ahead.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text, _) => text.is_none(),
            Self::Upstream(ahead) => ahead.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text, _) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Upstream(ahead) => ahead.size_hint(),
        }
    }
}
