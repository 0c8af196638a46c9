//! Two futures, of which the first to end counts.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

/// Which future ended first, and with what.
pub(crate) enum Either<A, B> {
    First(A),
    Second(B),
}

/// Polls `a`, then `b`, until one of them ends; the other is dropped. `a` wins where both are ready.
pub(crate) async fn race<A: Future, B: Future>(a: A, b: B) -> Either<A::Output, B::Output> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|cx| match a.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Either::First(value)),
        Poll::Pending => b.as_mut().poll(cx).map(Either::Second),
    })
    .await
}
