//! The enclave's end of a frame stream: the modelled stream, and books of the frames that pass.
//!
//! What leaves is noted when its last byte was taken, what comes when its last byte was given: the bytes are looked at, not
//! what the loops say of them.

use crate::{
    carver::Carver,
    ledger::{FrameLedger, Way},
    stack::comparable,
    stream::{SimStream, errno},
    time::Clock,
    trace::hash_bytes,
};
use nitrotap_core::{drive::Errno, frame::MIN_FRAME, link::CONNECT_REQUEST};
use std::{
    cell::{Cell, RefCell},
    fmt, io,
    rc::{Rc, Weak},
    task::{Context, Poll},
};

/// See the module; clones are handles. The last one closes the stream.
#[derive(Clone)]
pub(super) struct FrameStream(Rc<Inner>);

struct Inner {
    stream: SimStream,
    clock: Clock,
    ledger: FrameLedger,
    out: RefCell<Carver>,
    inn: RefCell<Carver>,
    /// Bytes of the request that have yet to leave; no frame leaves before.
    request: Cell<usize>,
    /// Bytes that it has given.
    given: Cell<usize>,
    /// Frames that it has given, and that nobody has yet to answer for.
    unclaimed: RefCell<Vec<u64>>,
    /// A call has said that it has ended or failed.
    over: Cell<bool>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.ledger.close(self.stream.local(), Way::In);
    }
}

impl fmt::Debug for FrameStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.stream.local().fmt(f)
    }
}

impl FrameStream {
    pub(super) fn new(stream: SimStream, clock: Clock, ledger: FrameLedger) -> Self {
        let request = Cell::new(CONNECT_REQUEST.len());
        Self(Rc::new(Inner {
            stream,
            clock,
            ledger,
            out: RefCell::default(),
            inn: RefCell::default(),
            request,
            given: Cell::default(),
            unclaimed: RefCell::default(),
            over: Cell::default(),
        }))
    }

    pub(super) fn read(&self, space: &mut [u8]) -> Result<usize, Errno> {
        let Inner { stream, clock, ledger, inn, given, unclaimed, .. } = &*self.0;
        let n = self.told(stream.try_recv(space))?;
        if n == 0 && !space.is_empty() {
            self.0.over.set(true);
        }
        given.set(given.get() + n);
        inn.borrow_mut().take(&space[..n], |frame| {
            // Shorter ones are skipped, and who sends them has no books.
            if frame.len() >= MIN_FRAME {
                ledger.received(clock.now(), stream.local(), Way::In, frame);
                unclaimed.borrow_mut().push(identity(frame));
            }
        });
        Ok(n)
    }

    pub(super) fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let Inner { stream, ledger, out, request, .. } = &*self.0;
        let n = self.told(stream.try_send(bytes))?;
        let before = request.get().min(n);
        request.set(request.get() - before);
        out.borrow_mut().take(&bytes[before..n], |frame| ledger.sent(stream.local(), Way::Out, frame));
        Ok(n)
    }

    fn told(&self, result: io::Result<usize>) -> Result<usize, Errno> {
        result.map_err(|error| {
            let errno = errno(&error);
            self.0.over.set(self.0.over.get() || !matches!(errno, Errno::AGAIN | Errno::INTR));
            errno
        })
    }

    /// Bytes that it has given so far.
    pub(super) fn given(&self) -> usize {
        self.0.given.get()
    }

    /// The frames that it has given since this was last asked.
    pub(super) fn claim(&self) -> Vec<u64> {
        self.0.unclaimed.take()
    }

    pub(super) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        self.0.stream.poll_readable(cx)
    }

    pub(super) fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        self.0.stream.poll_writable(cx)
    }

    /// A look at it from outside, which does not keep it open.
    pub(super) fn seen(&self) -> SeenStream {
        SeenStream(Rc::downgrade(&self.0))
    }
}

/// A frame stream as long as somebody else has it.
#[derive(Clone, Default)]
pub(super) struct SeenStream(Weak<Inner>);

impl SeenStream {
    pub(super) fn stream(&self) -> Option<SimStream> {
        self.0.upgrade().map(|inner| inner.stream.clone())
    }

    /// Whether a call on it has said that it has ended or failed.
    pub(super) fn is_over(&self) -> Option<bool> {
        self.0.upgrade().map(|inner| inner.over.get())
    }
}

/// What joining and cutting leave of a frame as it was.
pub(super) fn identity(frame: &[u8]) -> u64 {
    hash_bytes(0, &comparable(frame))
}
