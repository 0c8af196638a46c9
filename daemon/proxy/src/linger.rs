//! The end of a connection whose client may still be sending.
//!
//! Closing a socket with unread bytes resets the connection, and a reset takes the answer with it that the client has not
//! read yet. So our direction ends first, and what still comes is read and forgotten (nginx calls it a lingering
//! close). Bounds: [`QUIET`] (up to twice that) without a byte, [`LONGEST`] in all, no memory beyond the shard's scratch space.

use crate::{
    client::Client,
    runtime::{Dialer, Runtime},
    shard::Inner,
};
use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// Longest silence of a client that has not closed.
const QUIET: Duration = Duration::from_secs(5);

/// Longest time for a client to send what it has begun, as in nginx.
const LONGEST: Duration = Duration::from_secs(30);

/// Ends our direction and waits for the client to end its own.
pub(crate) async fn close<R: Runtime, D: Dialer, S>(shard: &Rc<Inner<R, D>>, client: &Client, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let runtime = &shard.upstreams.runtime;
    let end = runtime.now() + LONGEST;
    let heard = Cell::new(false);
    let mut goodbye = pin!(async {
        if stream.shutdown().await.is_ok() {
            while poll_fn(|cx| poll_sink(&mut stream, &mut shard.scratch.borrow_mut(), cx)).await {
                heard.set(true);
            }
        }
    });
    let sleep =
        || -> Pin<Box<dyn Future<Output = ()>>> { Box::pin(runtime.sleep_until(end.min(runtime.now() + QUIET))) };
    let mut alarm = sleep();
    poll_fn(|cx| {
        if client.is_told_to_end(cx) || goodbye.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        while alarm.as_mut().poll(cx).is_ready() {
            if !heard.take() || runtime.now() >= end {
                return Poll::Ready(());
            }
            alarm = sleep();
        }
        Poll::Pending
    })
    .await;
}

/// Reads and forgets. False at the end.
fn poll_sink<S: AsyncRead + Unpin>(stream: &mut S, scratch: &mut [u8], cx: &mut Context<'_>) -> Poll<bool> {
    let mut sink = ReadBuf::new(scratch);
    Pin::new(stream).poll_read(cx, &mut sink).map(|read| read.is_ok() && !sink.filled().is_empty())
}
