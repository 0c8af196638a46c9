//! One link: a stream of frames, with what an enclave has begun to send and what is on its way to it.

use super::{
    Host,
    ready::{Event, Ready},
    tenant, verify,
};
use crate::{
    carver::Carver,
    check::Invariant,
    gvproxy::{Foul, frames},
    ledger::Way,
    stream::SimStream,
    trace::{Actor, hash_bytes},
};
use nitrotap_core::{
    frame::{Decoder, Framing},
    gateway::{Gateway, PortId},
    time::Instant,
};
use std::{
    collections::VecDeque,
    io,
    task::{Context, Poll, Waker},
};

/// Bytes asked of a stream at a time.
pub(super) const READ_SIZE: usize = 64 << 10;

/// Longest write on a vsock; see the daemon's endpoint.
const MAX_WRITE: usize = 32 << 10;

pub(super) struct Link {
    pub(super) port: PortId,
    stream: SimStream,
    pub(super) decoder: Decoder,
    /// Nothing is read until then: its enclave has sent others too much, or too much that came to nothing.
    pub(super) rest: Option<Instant>,
    /// The stream has taken everything that it was given.
    pub(super) writable: bool,
    carver: Carver,
    /// What faults have yet to write, and how much of the first is written.
    faults: VecDeque<(Vec<u8>, Foul)>,
    fault_sent: usize,
    wakers: [Waker; 2],
}

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Nothing waits.
    Nothing,
    /// So many bytes of the gateway's queue.
    Some(usize),
    /// Something else than the queue.
    Fault,
    /// The stream takes nothing now.
    Full,
    /// The stream is over.
    Over,
}

impl Link {
    /// Joins the gateway; `None` if there are too many.
    pub(super) fn new(gateway: &mut Gateway, ready: &Ready, stream: SimStream) -> Option<Self> {
        let port = gateway.attach(tenant(stream.peer()), Some(Framing::Hyperkit))?;
        let id = port.to_u64();
        Some(Self {
            port,
            stream,
            decoder: Decoder::new(READ_SIZE),
            rest: None,
            writable: true,
            carver: Carver::default(),
            faults: VecDeque::new(),
            fault_sent: 0,
            wakers: [ready.waker(Event::LinkIn(id)), ready.waker(Event::LinkOut(id))],
        })
    }

    /// Reads once into the decoder: bytes read, 0 at the end.
    pub(super) fn read(&mut self) -> Poll<io::Result<usize>> {
        let read = self.stream.poll_recv(&Context::from_waker(&self.wakers[0]), self.decoder.space());
        if let Poll::Ready(Ok(n)) = read {
            self.decoder.commit(n);
        }
        read
    }

    /// A frame has come; who sends them is known to send no runts.
    pub(super) fn note_received(stream: &SimStream, host: &Host, frame: &[u8]) {
        let now = host.clock.now();
        host.trace.note(
            now,
            Actor::Gateway,
            crate::trace::Event::FrameIn,
            stream.peer().port,
            frame.len() as u64,
            hash_bytes(0, frame),
        );
        host.ledger.received(now, stream.peer(), Way::Out, frame);
    }

    pub(super) const fn stream(&self) -> &SimStream {
        &self.stream
    }

    pub(super) fn add_fault(&mut self, bytes: Vec<u8>, foul: Foul) {
        self.faults.push_back((bytes, foul));
    }

    /// Whether a write could do something.
    pub(super) fn wants_to_write(&self, gateway: &Gateway) -> bool {
        self.writable && !(self.faults.is_empty() && gateway.pending(self.port).is_empty())
    }

    /// Writes once: as many frames as wait, or what a fault wants between two of them.
    pub(super) fn write(&mut self, host: &Host, gateway: &Gateway) -> Written {
        let cx = Context::from_waker(&self.wakers[1]);
        if let Some((bytes, foul)) = self.faults.front()
            && self.carver.is_between_frames()
        {
            if self.fault_sent == 0 {
                if *foul == Foul::Frames {
                    // Runts are skipped by the peer; everything else arrives like a frame of the gateway's.
                    for frame in frames(bytes).filter(|frame| frame.len() >= 14) {
                        host.ledger.sent(self.stream.peer(), Way::In, frame);
                    }
                } else {
                    host.ledger.spoil(self.stream.peer(), Way::In);
                }
            }
            let rest = &bytes[self.fault_sent..];
            return match self.stream.poll_send(&cx, rest) {
                Poll::Ready(Ok(n)) if n < rest.len() => {
                    self.fault_sent += n;
                    Written::Fault
                }
                Poll::Ready(Ok(_)) => {
                    let cut = *foul == Foul::Cut;
                    self.faults.pop_front();
                    self.fault_sent = 0;
                    if cut { Written::Over } else { Written::Fault }
                }
                Poll::Ready(Err(_)) => Written::Over,
                Poll::Pending => {
                    self.writable = false;
                    Written::Full
                }
            };
        }
        let pending = gateway.pending(self.port);
        let most = if self.faults.is_empty() { MAX_WRITE } else { self.carver.missing() };
        let part = &pending[..pending.len().min(most)];
        if part.is_empty() {
            return Written::Nothing;
        }
        match self.stream.poll_send(&cx, part) {
            Poll::Ready(Ok(n)) => {
                let stream = &self.stream;
                self.carver.take(&part[..n], |frame| note_sent(stream, host, frame));
                Written::Some(n)
            }
            Poll::Ready(Err(_)) => Written::Over,
            Poll::Pending => {
                self.writable = false;
                Written::Full
            }
        }
    }
}

/// A frame has left, whole.
fn note_sent(stream: &SimStream, host: &Host, frame: &[u8]) {
    let now = host.clock.now();
    host.trace.note(
        now,
        Actor::Gateway,
        crate::trace::Event::FrameOut,
        stream.peer().port,
        frame.len() as u64,
        hash_bytes(0, frame),
    );
    host.ledger.sent(stream.peer(), Way::In, frame);
    let checked = verify::check(frame, host.mtu);
    host.audit.check(now, Invariant::Frames, checked.is_ok(), || {
        format!("the gateway sent {}", checked.err().unwrap_or_default())
    });
}
