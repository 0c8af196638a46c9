//! A byte stream whose reads and writes cost processor time: how code that knows nothing of the model, such as hyper, is
//! charged for what it does.

use crate::{
    cpu::{Process, Work},
    params::Op,
    stack::StackStream,
    stream::SimStream,
    time::Clock,
};
use nitrotap_core::time::Instant;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that can say whether there is something to read.
pub(crate) trait Readable: AsyncRead + AsyncWrite + Unpin {
    /// Completes when a read would give something: bytes, the end, or an error.
    fn poll_readable(&self, cx: &Context<'_>) -> Poll<()>;
}

impl Readable for SimStream {
    fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        Self::poll_readable(self, cx)
    }
}

impl Readable for StackStream {
    fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        Self::poll_readable(self, cx)
    }
}

/// What the calls on a stream cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Price {
    /// A read that gives something.
    pub read: Op,
    /// A write.
    pub write: Op,
    /// Waking the thread that slept in a wait for this stream, in nanoseconds.
    pub wake_ns: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Charged<S> {
    stream: S,
    process: Process,
    clock: Clock,
    price: Price,
    reading: Stage,
    writing: Stage,
}

#[derive(Debug)]
enum Stage {
    Rest,
    /// There is something to read since then, and the thread will see it when it looks.
    Noticed(Instant),
    Working(Work),
}

impl<S: Readable> Charged<S> {
    /// `stream`, used by `process` for `price`.
    pub(crate) fn new(stream: S, process: Process, clock: Clock, price: Price) -> Self {
        Self { stream, process, clock, price, reading: Stage::Rest, writing: Stage::Rest }
    }

    /// The stream itself.
    pub(crate) fn inner(&self) -> &S {
        &self.stream
    }
}

impl Stage {
    /// Waits until the thread looks for news; the wake-up that this takes, in nanoseconds.
    fn poll_notice(&mut self, process: &Process, clock: &Clock, wake_ns: u64, cx: &Context<'_>) -> Poll<u64> {
        let now = clock.now();
        let since = match self {
            Self::Noticed(since) => *since,
            Self::Rest | Self::Working(_) if process.sleeps() => return Poll::Ready(wake_ns),
            Self::Rest | Self::Working(_) => now,
        };
        *self = Self::Noticed(since);
        ready!(process.poll_looks(now, since, cx));
        *self = Self::Rest;
        Poll::Ready(0)
    }

    /// Waits until `cost_ns` of work are done.
    fn poll_work(
        &mut self,
        process: &Process,
        clock: &Clock,
        cost_ns: u64,
        wake_ns: u64,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if !matches!(self, Self::Working(_)) {
            if cost_ns == 0 && wake_ns == 0 {
                *self = Self::Rest;
                return Poll::Ready(());
            }
            *self = Self::Working(process.work(clock.now(), cost_ns, wake_ns));
        }
        if let Self::Working(work) = self {
            ready!(Pin::new(work).poll(cx));
        }
        *self = Self::Rest;
        Poll::Ready(())
    }
}

impl<S: Readable> AsyncRead for Charged<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Price { read, wake_ns, .. } = this.price;
        let mut wake = 0;
        if !matches!(this.reading, Stage::Working(_)) {
            ready!(this.stream.poll_readable(cx));
            wake = ready!(this.reading.poll_notice(&this.process, &this.clock, wake_ns, cx));
        }
        ready!(this.reading.poll_work(&this.process, &this.clock, read.ns, wake, cx));
        let before = buf.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        // Known only now; it delays what comes next.
        if bytes > 0 && read.ps_per_byte > 0 {
            this.process.charge(this.clock.now(), read.bytes(bytes));
        }
        result
    }
}

impl<S: Readable> AsyncWrite for Charged<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let cost = this.price.write.cost(buf.len());
        ready!(this.writing.poll_work(&this.process, &this.clock, cost, 0, cx));
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
