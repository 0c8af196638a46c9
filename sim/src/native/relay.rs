//! The world's end of one connection: bytes between a stream of the host and the gateway's buffers.

use super::ready::{Event, Ready};
use crate::stream::SimStream;
use nitrotap_core::{
    gateway::{FlowId, Gateway},
    time::Instant,
};
use std::{
    io,
    task::{Context, Poll, Waker},
};

pub(super) struct Relay {
    stream: SimStream,
    /// It had something to read, or its end, when it was last asked.
    pub(super) readable: bool,
    /// It took what it was given.
    pub(super) writable: bool,
    /// The world has closed its half, and the gateway knows.
    ended: bool,
    /// The guest has closed its half, and the world knows.
    finished: bool,
    wakers: [Waker; 3],
}

/// What can be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A read of the world.
    Read,
    /// A write to the world.
    Write,
    /// The world is to be told of the guest's end.
    Finish,
    /// Nothing, until something happens.
    Nothing,
}

impl Relay {
    pub(super) fn new(ready: &Ready, flow: FlowId, stream: SimStream) -> Self {
        let id = flow.to_u64();
        let this = Self {
            stream,
            readable: true,
            writable: true,
            ended: false,
            finished: false,
            wakers: [Event::WorldIn(id), Event::WorldOut(id), Event::WorldGone(id)].map(|event| ready.waker(event)),
        };
        if this.is_reset() {
            ready.push(Event::WorldGone(id));
        }
        this
    }

    /// Whether the world has reset it; if not, that is told when it happens.
    pub(super) fn is_reset(&self) -> bool {
        self.stream.poll_reset(&Context::from_waker(&self.wakers[2])).is_ready()
    }

    pub(super) fn reset(&self) {
        self.stream.abort();
    }

    pub(super) fn next(&self, gateway: &Gateway, flow: FlowId) -> Step {
        let Some(status) = gateway.status(flow) else { return Step::Nothing };
        if self.readable && !self.ended && status.room > 0 {
            Step::Read
        } else if self.writable && status.received > 0 {
            Step::Write
        } else if status.received_all && !self.finished {
            Step::Finish
        } else {
            Step::Nothing
        }
    }

    /// Reads once from the world into the gateway. `Err` if the world has reset the connection.
    pub(super) fn read(&mut self, now: Instant, gateway: &mut Gateway, flow: FlowId) -> io::Result<usize> {
        let (stream, cx) = (&self.stream, Context::from_waker(&self.wakers[0]));
        let mut came = None;
        gateway.write(flow, |room| {
            if room.is_empty() {
                return 0;
            }
            let read = stream.poll_recv(&cx, room);
            let n = if let Poll::Ready(Ok(n)) = read { n } else { 0 };
            came = Some(read);
            n
        });
        match came {
            Some(Poll::Ready(Ok(0))) => {
                self.ended = true;
                gateway.finish(now, flow);
                Ok(0)
            }
            Some(Poll::Ready(result)) => result,
            Some(Poll::Pending) | None => {
                self.readable = false;
                Ok(0)
            }
        }
    }

    /// Writes once from the gateway to the world. `Err` if the world takes no more.
    pub(super) fn write(&mut self, gateway: &mut Gateway, flow: FlowId) -> io::Result<usize> {
        let (stream, cx) = (&self.stream, Context::from_waker(&self.wakers[1]));
        let mut went = None;
        gateway.read(flow, |bytes| {
            if bytes.is_empty() {
                return 0;
            }
            let sent = stream.poll_send(&cx, bytes);
            let n = if let Poll::Ready(Ok(n)) = sent { n } else { 0 };
            went = Some(sent);
            n
        });
        match went {
            Some(Poll::Ready(result)) => result,
            Some(Poll::Pending) | None => {
                self.writable = false;
                Ok(0)
            }
        }
    }

    /// Tells the world that the guest has closed its half.
    pub(super) fn finish(&mut self) {
        self.stream.finish();
        self.finished = true;
    }
}
