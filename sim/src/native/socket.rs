//! A stream as the data thread has it: one of the world's, or one of frames, which keeps books and may be spoilt by a fault.

use super::{Host, verify};
use crate::{
    carver::Carver,
    check::Invariant,
    gvproxy::{Foul, frames},
    ledger::Way,
    stream::{Connect, SimStream, errno},
    trace::{Actor, Event, hash_bytes},
    world::ENCLAVE_CID,
};
use nitrotap_core::{
    drive::{Errno, host::Source},
    frame::MIN_FRAME,
    time::Instant,
};
use std::{
    cell::RefCell,
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

/// See the module. It is closed when it is dropped.
pub(super) struct Socket {
    pub(super) end: End,
    /// What it is watched as, and that it is.
    pub(super) source: Option<(Source, Rc<()>)>,
    /// It ends with a reset.
    reset: bool,
    pub(super) frames: Option<Rc<Frames>>,
}

/// How far it has come.
pub(super) enum End {
    /// It was opened, and nothing else.
    New,
    /// It is being connected; `None` where nobody ever answers.
    Connecting(Option<Connect>),
    /// It stands.
    Stream(SimStream),
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(stream) = self.stream() {
            if self.reset {
                stream.abort();
            }
            if let Some(frames) = &self.frames {
                frames.host.ledger.close(stream.peer(), Way::Out);
            }
        }
    }
}

impl Socket {
    pub(super) const fn new(end: End) -> Self {
        Self { end, source: None, reset: false, frames: None }
    }

    /// A stream of frames, of which `received` has been read already.
    pub(super) fn of_frames(stream: SimStream, host: Rc<Host>, received: &[u8]) -> Self {
        let frames = Rc::new(Frames { host, stream: stream.clone(), state: RefCell::default() });
        frames.came(received);
        Self { end: End::Stream(stream), source: None, reset: false, frames: Some(frames) }
    }

    /// The stream below, connected or not.
    pub(super) fn stream(&self) -> Option<&SimStream> {
        match &self.end {
            End::New | End::Connecting(None) => None,
            End::Connecting(Some(connect)) => connect.stream(),
            End::Stream(stream) => Some(stream),
        }
    }

    /// What came of connecting.
    pub(super) fn answer(&mut self) -> Result<(), Errno> {
        match &mut self.end {
            End::Stream(_) => Ok(()),
            End::Connecting(Some(connect)) => match Pin::new(connect).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(stream)) => {
                    self.end = End::Stream(stream);
                    Ok(())
                }
                Poll::Ready(Err(_)) => Err(Errno::CONNREFUSED),
                Poll::Pending => Ok(()),
            },
            End::New | End::Connecting(None) => Err(Errno::INVAL),
        }
    }

    /// A stream between two programs of one machine, which stands as soon as it is made: `socketpair`. Here that takes a
    /// moment, in which there is nothing to read and nothing is taken.
    fn settle(&mut self) -> Result<(), Errno> {
        if matches!(self.end, End::Connecting(_)) { self.answer() } else { Ok(()) }
    }

    pub(super) fn read(&mut self, space: &mut [u8]) -> Result<usize, Errno> {
        self.settle()?;
        let End::Stream(stream) = &self.end else { return Err(Errno::AGAIN) };
        let n = stream.try_recv(space).map_err(|error| errno(&error))?;
        if let Some(frames) = &self.frames {
            frames.came(&space[..n]);
            frames.state.borrow_mut().over |= n == 0;
        }
        Ok(n)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        self.settle()?;
        match (&self.frames, &self.end) {
            (Some(frames), _) => frames.write(bytes),
            (None, End::Stream(stream)) => stream.try_send(bytes).map_err(|error| errno(&error)),
            (None, End::New | End::Connecting(_)) => Err(Errno::AGAIN),
        }
    }

    pub(super) const fn reset(&mut self) {
        self.reset = true;
    }
}

/// The books of a stream of frames.
pub(super) struct Frames {
    host: Rc<Host>,
    stream: SimStream,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    carver: Carver,
    /// What faults have yet to write, and how much of the first is written.
    faults: VecDeque<(Vec<u8>, Foul)>,
    sent: usize,
    came: Carver,
    /// When each frame was read that the gateway has yet to get.
    due: VecDeque<Instant>,
    /// Its end was read.
    over: bool,
}

/// How long a frame that was read may wait for the gateway. What is beyond a turn's share is done in the next; only a link that
/// is to rest keeps it for longer.
const MOST_WAIT: Duration = Duration::from_secs(1);

impl Frames {
    /// Puts bytes between two frames that are none of the gateway's.
    pub(super) fn spoil(&self, bytes: Vec<u8>, foul: Foul) {
        self.state.borrow_mut().faults.push_back((bytes, foul));
        self.foul();
    }

    /// Whether a fault waits for room.
    pub(super) fn is_foul(&self) -> bool {
        !self.state.borrow().faults.is_empty()
    }

    /// Bytes that were read.
    fn came(&self, bytes: &[u8]) {
        let now = self.host.clock.now();
        let State { came, due, .. } = &mut *self.state.borrow_mut();
        came.take(bytes, |frame| {
            if frame.len() >= MIN_FRAME {
                due.push_back(now);
            }
        });
    }

    /// The gateway gets a frame.
    pub(super) fn handed(&self, now: Instant) {
        let came = self.state.borrow_mut().due.pop_front();
        // Others than the enclave may have to rest.
        let waited = came.filter(|_| self.stream.peer().cid == ENCLAVE_CID).map_or(Duration::ZERO, |at| now.since(at));
        self.host.audit.check(now, Invariant::Frames, came.is_some() && waited <= MOST_WAIT, || {
            format!("a frame waited for {waited:?} for the gateway; it had come: {}", came.is_some())
        });
    }

    /// The link is given up. If that is because its end was read, what had come before must have reached the gateway.
    pub(super) fn ended(&self) {
        let State { due, over, .. } = &*self.state.borrow();
        self.host.audit.check(self.host.clock.now(), Invariant::Frames, due.is_empty() || !over, || {
            let peer = self.stream.peer();
            format!("stream {peer} has ended, and {} of its frames have not reached the gateway", due.len())
        });
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        self.foul();
        let mut state = self.state.borrow_mut();
        let most = match state.faults.is_empty() {
            true => bytes.len(),
            // A fault that has begun comes first; one that has not waits for the end of a frame.
            false if state.carver.is_between_frames() => return Err(Errno::AGAIN),
            false => state.carver.missing().min(bytes.len()),
        };
        let n = self.stream.try_send(&bytes[..most]).map_err(|error| errno(&error))?;
        state.carver.take(&bytes[..n], |frame| self.note_sent(frame));
        drop(state);
        self.foul();
        Ok(n)
    }

    /// Writes what faults have to write, as far as there is room.
    pub(super) fn foul(&self) {
        let mut state = self.state.borrow_mut();
        let State { carver, faults, sent, .. } = &mut *state;
        while carver.is_between_frames()
            && let Some((bytes, foul)) = faults.front()
        {
            if *sent == 0 {
                let ledger = &self.host.ledger;
                match foul {
                    Foul::Frames => {
                        // Runts are skipped by the peer; everything else arrives like a frame of the gateway's.
                        for frame in frames(bytes).filter(|frame| frame.len() >= MIN_FRAME) {
                            ledger.sent(self.stream.peer(), Way::In, frame);
                        }
                    }
                    Foul::Bytes | Foul::Cut => ledger.spoil(self.stream.peer(), Way::In),
                }
            }
            match self.stream.try_send(&bytes[*sent..]) {
                Ok(n) => *sent += n,
                Err(_) => return,
            }
            if *sent == bytes.len() {
                if *foul == Foul::Cut {
                    self.stream.finish();
                }
                faults.pop_front();
                *sent = 0;
            }
        }
    }

    /// A frame has left, whole.
    fn note_sent(&self, frame: &[u8]) {
        let Self { host, stream, .. } = self;
        let now = host.clock.now();
        let hash = hash_bytes(0, frame);
        host.trace.note(now, Actor::Gateway, Event::FrameOut, stream.peer().port, frame.len() as u64, hash);
        host.ledger.sent(stream.peer(), Way::In, frame);
        let checked = verify::check(frame, host.mtu);
        host.audit.check(now, Invariant::Frames, checked.is_ok(), || {
            format!("the gateway sent {}", checked.err().unwrap_or_default())
        });
    }
}
