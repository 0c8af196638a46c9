//! What the world holds: streams, sockets of datagrams and published ports, each with what waits to be read.

use super::pattern::Incoming;
use nitrotap_core::{
    drive::{
        Errno,
        host::{Complaint, Ready, Source},
    },
    frame::Framing,
    gateway::Kind,
    time::Instant,
};
use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::{Rc, Weak},
    time::Duration,
};

/// What the loop holds of something: its number. When it lets go of it, it is closed.
pub(super) type Handle = Rc<usize>;

/// All handles that there ever were.
#[derive(Clone, Debug, Default)]
pub(super) struct Handles(Rc<RefCell<Vec<Weak<usize>>>>);

impl Handles {
    pub(super) fn make(&self, number: usize) -> (Handle, Weak<usize>) {
        let handle = Rc::new(number);
        let weak = Rc::downgrade(&handle);
        self.0.borrow_mut().push(weak.clone());
        (handle, weak)
    }

    /// Those that are held still.
    pub(super) fn held(&self) -> usize {
        self.0.borrow().iter().filter(|handle| handle.strong_count() > 0).count()
    }
}

/// How a connection to the world is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dial {
    /// The loop does not ask for it.
    Stands,
    /// Nobody has answered yet; `true`: soon somebody will.
    Begun(bool),
    /// The loop was told, and has not asked how it went.
    Answered(Result<(), Errno>),
    Failed,
}

/// Of a link: whose, and how frames lie on it; `None` where each message is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct OfLink {
    pub(super) guest: usize,
    pub(super) framing: Option<Framing>,
}

/// A stream.
#[derive(Debug)]
pub(super) struct End {
    pub(super) handle: Weak<usize>,
    pub(super) link: Option<OfLink>,
    pub(super) source: Option<Source>,
    pub(super) dial: Dial,
    /// What a link has to read.
    pub(super) input: VecDeque<u8>,
    pub(super) messages: VecDeque<Vec<u8>>,
    /// Bytes on their way, of which so many wait for more.
    pub(super) staged: Vec<u8>,
    pub(super) slack: usize,
    /// Frames that the loop has yet to look at, and those that it has shown and the guest has yet to get.
    pub(super) coming: VecDeque<Vec<u8>>,
    pub(super) shown: VecDeque<Vec<u8>>,
    /// What was written to a link and nobody has looked at.
    pub(super) output: Vec<u8>,
    /// Bytes that the world has given to a connection, and those that were read.
    pub(super) given: usize,
    pub(super) taken: usize,
    pub(super) incoming: Incoming,
    /// The other side has closed its half, or all with an error.
    pub(super) end: bool,
    pub(super) error: Option<Errno>,
    /// A write was told of the error: reading gives an end, as the kernel tells of it once.
    pub(super) eaten: bool,
    /// An end was read, or an error.
    pub(super) read_end: bool,
    pub(super) read_error: bool,
    pub(super) room: usize,
    /// It did not take all of the last write: it is told of when it has room again.
    pub(super) full: bool,
    /// Nobody reads what is written.
    pub(super) refuses: bool,
    pub(super) refused: bool,
    pub(super) finished: bool,
    pub(super) reset: bool,
    /// Its closing was looked at.
    pub(super) seen_closed: bool,
    /// When there was no memory for the last time.
    pub(super) shortage: Option<Instant>,
    /// Since when something waits although nobody is told of it, and how much had passed then.
    pub(super) waits: Option<(Instant, usize)>,
    /// Bytes of a link so far, in both directions.
    pub(super) passed: usize,
    /// For how long frames of a link have waited on their way to the loop, and on their way out of it.
    pub(super) inwards: Delay,
    pub(super) outwards: Delay,
}

/// For how long something could not go on, in all.
#[derive(Debug, Default)]
pub(super) struct Delay {
    since: Option<Instant>,
    sum: Duration,
}

impl Delay {
    /// Half of what the gateway waits for a handshake.
    const LONG: Duration = Duration::from_secs(5);

    /// Whether it goes on now.
    pub(super) fn note(&mut self, now: Instant, goes_on: bool) {
        self.pass(now);
        self.since = (!goes_on).then_some(now);
    }

    /// Time has passed. True if it has waited for so long that a guest may have been given up.
    pub(super) fn pass(&mut self, now: Instant) -> bool {
        if let Some(since) = &mut self.since {
            self.sum += now.since(*since);
            *since = now;
        }
        self.sum >= Self::LONG
    }
}

impl End {
    /// The frame that the link's kernel is asked to take now was shown behind those that it has taken.
    pub(super) fn forget_shown(&mut self) -> Option<Vec<u8>> {
        let (mut taken, mut rest) = (0, &self.output[..]);
        while let Some((_, len)) = Framing::Qemu.split(rest) {
            (taken, rest) = (taken + 1, &rest[len..]);
        }
        self.shown.remove(taken)
    }

    pub(super) fn new(handle: Weak<usize>, link: Option<OfLink>) -> Self {
        Self {
            handle,
            link,
            source: None,
            dial: Dial::Stands,
            input: VecDeque::new(),
            messages: VecDeque::new(),
            staged: Vec::new(),
            slack: 0,
            coming: VecDeque::new(),
            shown: VecDeque::new(),
            output: Vec::new(),
            given: 0,
            taken: 0,
            incoming: Incoming::default(),
            end: false,
            error: None,
            eaten: false,
            read_end: false,
            read_error: false,
            room: usize::MAX,
            full: false,
            refuses: false,
            refused: false,
            finished: false,
            reset: false,
            seen_closed: false,
            shortage: None,
            waits: None,
            passed: 0,
            inwards: Delay::default(),
            outwards: Delay::default(),
        }
    }

    pub(super) fn is_held(&self) -> bool {
        self.handle.strong_count() > 0
    }

    pub(super) const fn is_gone(&self) -> bool {
        self.end || self.error.is_some()
    }

    /// Whether reading would give something else than [`Errno::AGAIN`].
    pub(super) fn is_readable(&self) -> bool {
        let bytes = self.taken < self.given || !self.input.is_empty() || !self.messages.is_empty();
        bytes || self.is_gone() && !self.read_end && !self.read_error
    }

    /// What the loop is told of when it begins to watch it.
    pub(super) fn state(&self) -> (bool, bool, bool) {
        let connects = matches!(self.dial, Dial::Begun(_));
        (!connects && self.is_readable(), !connects && self.room > 0, self.is_gone())
    }
}

/// A socket of datagrams.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) handle: Weak<usize>,
    pub(super) kind: Kind,
    pub(super) source: Option<Source>,
    pub(super) inbox: VecDeque<Result<Vec<u8>, Errno>>,
    pub(super) complaints: VecDeque<Complaint>,
    pub(super) shortage: Option<Instant>,
}

/// A published port.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) handle: Weak<usize>,
    pub(super) source: Source,
    pub(super) udp: bool,
    pub(super) clients: VecDeque<Result<Handle, Errno>>,
    pub(super) inbox: VecDeque<Result<Vec<u8>, Errno>>,
    pub(super) shortage: Option<Instant>,
}

/// Edge-triggered news: one entry for each source, with all that has happened to it, in the order of its first.
#[derive(Debug, Default)]
pub(super) struct Edges(Vec<Ready>);

impl Edges {
    pub(super) fn tell(&mut self, source: Source, (readable, writable, hangup): (bool, bool, bool)) {
        if !(readable || writable || hangup) {
            return;
        }
        if let Some(ready) = self.0.iter_mut().find(|ready| ready.source == source) {
            ready.readable |= readable;
            ready.writable |= writable;
            ready.hangup |= hangup;
        } else {
            self.0.push(Ready { source, readable, writable, hangup });
        }
    }

    pub(super) fn of(&self, source: Source) -> Option<Ready> {
        self.0.iter().copied().find(|ready| ready.source == source)
    }

    pub(super) fn forget(&mut self, source: Source) {
        self.0.retain(|ready| ready.source != source);
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self) -> Vec<Ready> {
        std::mem::take(&mut self.0)
    }
}
