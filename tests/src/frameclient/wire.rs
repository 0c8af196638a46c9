//! The stream itself: frames out in as few writes as they need, frames in, and neither ever waits for the other.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// The most that is read at once.
const CHUNK: usize = 256 * 1024;

/// A connection to a gateway: bytes to send wait in a buffer, bytes that came are cut into frames.
#[derive(Debug)]
pub struct Wire {
    stream: UnixStream,
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    chunk: Vec<u8>,
    open: bool,
    reads: bool,
}

impl Wire {
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_nonblocking(true)?;
        let (out, input) = (Vec::new(), Vec::new());
        Ok(Self { stream, out, sent: 0, input, chunk: vec![0; CHUNK], open: true, reads: true })
    }

    /// Appends a frame, with its length in two bytes in front, to what is to be sent.
    pub fn queue(&mut self, frame: &[u8]) {
        let length = u16::try_from(frame.len()).expect("a frame is at most 65,535 bytes");
        self.queue_raw(&length.to_le_bytes());
        self.queue_raw(frame);
    }

    /// Appends bytes as they are.
    pub fn queue_raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// How many bytes wait to be sent.
    pub fn queued(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Whether the gateway has not closed the stream, as far as we have read.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether turns read. A client that does not fills the stream up.
    pub fn set_reading(&mut self, reads: bool) {
        self.reads = reads;
    }

    /// Waits for at most `limit` until bytes can be read, or written if some wait; does both, and hands out the frames that
    /// are whole. Gives whether anything moved.
    pub fn turn(&mut self, limit: Duration, mut on_frame: impl FnMut(&[u8])) -> bool {
        if !self.open {
            return false;
        }
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, self.reads);
        wanted.set(PollFlags::OUT, self.queued() > 0);
        let mut fds = [PollFd::new(&self.stream, wanted)];
        let limit = Timespec::try_from(limit).expect("tests wait for minutes at most");
        match poll(&mut fds, Some(&limit)) {
            Ok(0) | Err(Errno::INTR) => return false,
            Ok(_) => {}
            Err(error) => panic!("poll on our own descriptor: {error}"),
        }
        let ready = fds[0].revents();
        let mut moved = false;
        if ready.intersects(PollFlags::OUT | PollFlags::ERR | PollFlags::HUP) && self.queued() > 0 {
            moved |= self.write();
        }
        if self.reads && ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            moved |= self.read();
            self.carve(&mut on_frame);
        }
        moved
    }

    fn write(&mut self) -> bool {
        match self.stream.write(&self.out[self.sent..]) {
            Ok(n) => {
                self.sent += n;
                if self.queued() == 0 {
                    self.out.clear();
                    self.sent = 0;
                }
                n > 0
            }
            Err(error) => self.after(&error),
        }
    }

    fn read(&mut self) -> bool {
        match self.stream.read(&mut self.chunk) {
            Ok(0) => {
                self.open = false;
                true
            }
            Ok(n) => {
                self.input.extend_from_slice(&self.chunk[..n]);
                true
            }
            Err(error) => self.after(&error),
        }
    }

    /// An error other than "not now" is the end of the stream.
    fn after(&mut self, error: &io::Error) -> bool {
        self.open = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
        !self.open
    }

    fn carve(&mut self, on_frame: &mut impl FnMut(&[u8])) {
        let mut rest = &self.input[..];
        while let Some((length, after)) = rest.split_first_chunk::<2>() {
            let Some((frame, after)) = after.split_at_checked(u16::from_le_bytes(*length).into()) else { break };
            on_frame(frame);
            rest = after;
        }
        let consumed = self.input.len() - rest.len();
        self.input.drain(..consumed);
    }
}
