//! The end of a connection whose client may still be sending.
//!
//! Closing a socket with unread bytes resets the connection, and a reset takes the answer with it that the client has not
//! read yet. So our direction ends first, and what still comes is read and forgotten (nginx calls it a lingering
//! close). Bounds: the [`Bounds`] of each, no memory beyond the shard's scratch space.

use crate::{
    runtime::{Dialer, Runtime},
    shard::Inner,
};
use nitrotap_core::time::Instant;
use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// How long, and for how many bytes, a client is listened to.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Longest silence of a client that has not closed (up to twice that).
    pub(crate) quiet: Duration,
    /// When it is over at the latest.
    pub(crate) end: Instant,
    /// Most bytes that are read.
    pub(crate) bytes: usize,
}

/// Longest silence of a client that was served.
const QUIET: Duration = Duration::from_secs(5);

/// Longest time for such a client to send what it has begun, as in nginx.
const LONGEST: Duration = Duration::from_secs(30);

impl Bounds {
    /// For a client that was served, from `now` on.
    pub(crate) fn of_served(now: Instant) -> Self {
        Self { quiet: QUIET, end: now + LONGEST, bytes: usize::MAX }
    }
}

/// Ends our direction and waits for the client to end its own, or until `is_told_to_end`.
pub(crate) async fn close<R: Runtime, D: Dialer, S>(
    shard: &Inner<R, D>,
    mut stream: S,
    bounds: Bounds,
    is_told_to_end: impl Fn(&Context<'_>) -> bool,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let runtime = &shard.upstreams.runtime;
    let heard = Cell::new(false);
    let mut goodbye = pin!(async {
        let mut left = bounds.bytes;
        if stream.shutdown().await.is_ok() {
            while left > 0 {
                let came = poll_fn(|cx| poll_sink(&mut stream, &mut shard.scratch.borrow_mut(), cx)).await;
                if came == 0 {
                    break;
                }
                left = left.saturating_sub(came);
                heard.set(true);
            }
        }
    });
    let sleep = || -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(runtime.sleep_until(bounds.end.min(runtime.now() + bounds.quiet)))
    };
    let mut alarm = sleep();
    poll_fn(|cx| {
        if is_told_to_end(cx) || goodbye.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        while alarm.as_mut().poll(cx).is_ready() {
            if !heard.take() || runtime.now() >= bounds.end {
                return Poll::Ready(());
            }
            alarm = sleep();
        }
        Poll::Pending
    })
    .await;
}

/// Reads and forgets. Gives the number of bytes, 0 at the end.
fn poll_sink<S: AsyncRead + Unpin>(stream: &mut S, scratch: &mut [u8], cx: &mut Context<'_>) -> Poll<usize> {
    let mut sink = ReadBuf::new(scratch);
    Pin::new(stream).poll_read(cx, &mut sink).map(|read| if read.is_ok() { sink.filled().len() } else { 0 })
}
