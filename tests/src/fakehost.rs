//! A host under the test's control: it speaks gvproxy's side of the stream on a unix socket, and misbehaves on demand.
//!
//! [`FakeHost::accept`] gives a [`Dial`], a connection that has said nothing yet; [`Dial::serve`] turns it into a
//! [`Session`], which reads frames on a thread of its own, answers ARP for the gateway, and keeps the rest for the test.
//! Like gvproxy, it says nothing in answer to the request and loses what came in one piece with it.

pub mod frames;

use crate::{
    Scratch, http,
    wait::{self, SOON},
};
use frames::on_stream;
use std::{
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread::{self, Thread},
    time::Duration,
};

/// Where enclaves dial.
#[derive(Debug)]
pub struct FakeHost {
    listener: UnixListener,
    path: PathBuf,
    scratch: Option<Scratch>,
}

/// A host that needs no more attention; its path goes with it.
#[derive(Debug)]
pub struct ServedHost {
    url: String,
    _scratch: Option<Scratch>,
}

impl ServedHost {
    /// What to give as `--host`.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// A connection just accepted.
#[derive(Debug)]
pub struct Dial {
    stream: UnixStream,
}

/// What the enclave opened its stream with.
#[derive(Debug)]
pub struct Greeting {
    /// The request, to the empty line.
    pub request: http::Message,
    /// What came in the same read: a stock gvproxy loses it.
    pub early: Vec<u8>,
}

/// A served connection. Dropping it closes the stream.
#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    shared: Arc<Shared>,
    frames: Receiver<Vec<u8>>,
    reader: Thread,
}

#[derive(Debug)]
struct Shared {
    /// Held for a whole piece, so that an answer never lands inside another frame.
    writing: Mutex<UnixStream>,
    answers_arp: AtomicBool,
    reads: AtomicBool,
    /// Whole frames of 14 bytes or more put on the stream so far.
    sent: AtomicU64,
}

impl FakeHost {
    /// Listens on a fresh path.
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let path = scratch.join("host.sock");
        Self { scratch: Some(scratch), ..Self::at(path) }
    }

    /// Listens on this path.
    pub fn at(path: PathBuf) -> Self {
        let listener = UnixListener::bind(&path).expect("nothing is at that path");
        Self { listener, path, scratch: None }
    }

    /// What to give as `--host`.
    pub fn url(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// The next connection.
    pub fn accept(&self) -> Dial {
        self.listener.set_nonblocking(true).expect("own socket");
        let stream = wait::until("the enclave to dial", SOON, || self.listener.accept().ok()).0;
        stream.set_nonblocking(false).expect("own socket");
        Dial { stream }
    }

    /// The next connection that comes up: the enclave asked for the gateway and got its answer.
    pub fn accept_up(&self) -> Session {
        loop {
            let session = self.accept().serve();
            if session.shared.answers_arp.load(Relaxed) && session.recv_matching(frames::is_arp).is_some() {
                return session;
            }
        }
    }

    /// Closes `session` and gives the next one that comes up.
    pub fn accept_up_after(&self, session: Session) -> Session {
        drop(session);
        self.accept_up()
    }

    /// Serves every connection from now on, well behaved, on a thread that ends with the process.
    pub fn serve_always(mut self) -> ServedHost {
        let served = ServedHost { url: self.url(), _scratch: self.scratch.take() };
        thread::spawn(move || {
            let mut sessions = Vec::new();
            while let Ok(dial) = self.accept_blocking() {
                sessions.push(dial.serve());
            }
        });
        served
    }

    fn accept_blocking(&self) -> io::Result<Dial> {
        self.listener.set_nonblocking(false)?;
        Ok(Dial { stream: self.listener.accept()?.0 })
    }
}

impl Default for FakeHost {
    fn default() -> Self {
        Self::new()
    }
}

impl Dial {
    /// Reads the request that opens the stream, with what came in one piece with it.
    pub fn greeting(&mut self) -> io::Result<Greeting> {
        self.stream.set_read_timeout(Some(SOON))?;
        let mut bytes = Vec::new();
        let mut buf = [0; 4096];
        let end = loop {
            match self.stream.read(&mut buf)? {
                0 => return Err(io::Error::other(format!("closed inside the request: {bytes:?}"))),
                n => bytes.extend_from_slice(&buf[..n]),
            }
            if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
        };
        self.stream.set_read_timeout(None)?;
        let early = bytes.split_off(end);
        let request = http::read_head(&mut bytes.as_slice())?.ok_or_else(|| io::Error::other("an empty request"))?;
        Ok(Greeting { request, early })
    }

    /// Reads the request, and serves the frames after it. If the first of them came in one piece with the request, this
    /// dial is lost, as it would be at gvproxy: nothing is answered.
    pub fn serve(mut self) -> Session {
        let greeting = self.greeting();
        let session = self.serve_frames();
        if !greeting.is_ok_and(|greeting| greeting.early.is_empty()) {
            session.stop_answering();
        }
        session
    }

    /// Serves frames from the next byte on.
    pub fn serve_frames(self) -> Session {
        Session::new(self.stream)
    }

    /// Takes `n` bytes off the stream and forgets them.
    pub fn lose(&mut self, n: usize) -> io::Result<()> {
        self.stream.read_exact(&mut vec![0; n])
    }
}

impl Session {
    fn new(stream: UnixStream) -> Self {
        let clone = || stream.try_clone().expect("descriptors are left");
        let shared = Arc::new(Shared {
            writing: Mutex::new(clone()),
            answers_arp: AtomicBool::new(true),
            reads: AtomicBool::new(true),
            sent: AtomicU64::new(0),
        });
        let (sender, frames) = channel();
        let (mut reading, of_reader) = (clone(), shared.clone());
        let reader = thread::spawn(move || {
            while let Ok(frame) = read_frame(&mut reading) {
                let reply = frames::arp_reply(&frame).filter(|_| of_reader.answers_arp.load(Relaxed));
                if let Some(reply) = reply {
                    // The enclave may be gone, which the next read tells.
                    let _ = of_reader.writer().write_all(&on_stream(&reply));
                    of_reader.sent.fetch_add(1, Relaxed);
                }
                if sender.send(frame).is_err() {
                    return;
                }
                while !of_reader.reads.load(Relaxed) {
                    thread::park();
                }
            }
        });
        Self { stream, shared, frames, reader: reader.thread().clone() }
    }

    /// Puts bytes on the stream as they are, in one piece.
    pub fn send_raw(&self, bytes: &[u8]) {
        self.shared.writer().write_all(bytes).expect("the enclave reads");
    }

    /// Puts a frame on the stream.
    pub fn send(&self, frame: &[u8]) {
        self.send_raw(&on_stream(frame));
        self.count(frame);
    }

    /// Puts frames on the stream in one piece.
    pub fn send_all(&self, frames: &[Vec<u8>]) {
        self.send_raw(&frames.iter().flat_map(|frame| on_stream(frame)).collect::<Vec<u8>>());
        frames.iter().for_each(|frame| self.count(frame));
    }

    fn count(&self, frame: &[u8]) {
        self.shared.sent.fetch_add(u64::from(frame.len() >= frames::HEADER), Relaxed);
    }

    /// Whole frames that were sent and are no runts, the answers to ARP included.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Relaxed)
    }

    /// Puts a frame on the stream in two pieces, the first `at` bytes long, with a chance for the reader in between.
    pub fn send_split(&self, frame: &[u8], at: usize) {
        let bytes = on_stream(frame);
        let mut writer = self.shared.writer();
        writer.write_all(&bytes[..at]).expect("the enclave reads");
        // Nothing depends on it: only without a pause the two pieces would nearly always be read as one.
        thread::sleep(Duration::from_millis(1));
        writer.write_all(&bytes[at..]).expect("the enclave reads");
        self.count(frame);
    }

    /// The next frame that satisfies `wanted`, without those before it; `None` when the stream ends first.
    pub fn recv_matching(&self, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        match self.recv_before(SOON, wanted) {
            Ok(frame) => Some(frame),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("still waiting for a frame after {SOON:?}"),
        }
    }

    /// The same, if it comes within `limit`.
    pub fn recv_within(&self, limit: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        self.recv_before(limit, wanted).ok()
    }

    fn recv_before(&self, limit: Duration, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, RecvTimeoutError> {
        let start = wait::now();
        loop {
            let frame = self.frames.recv_timeout(limit.saturating_sub(start.elapsed()))?;
            if wanted(&frame) {
                return Ok(frame);
            }
        }
    }

    /// Waits until the enclave has closed the stream.
    pub fn wait_until_closed(&self) {
        while self.recv_matching(|_| true).is_some() {}
    }

    /// Reads on, but leaves ARP requests without an answer.
    pub fn stop_answering(&self) {
        self.shared.answers_arp.store(false, Relaxed);
    }

    /// Answers ARP requests again.
    pub fn answer(&self) {
        self.shared.answers_arp.store(true, Relaxed);
    }

    /// Reads nothing more after the next frame: the stream fills up.
    pub fn stop_reading(&self) {
        self.shared.reads.store(false, Relaxed);
    }

    /// Reads again.
    pub fn resume_reading(&self) {
        self.shared.reads.store(true, Relaxed);
        self.reader.unpark();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Ends the reading thread too. A stream that is already closed is as good.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.resume_reading();
    }
}

impl Shared {
    fn writer(&self) -> MutexGuard<'_, UnixStream> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_frame(from: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    from.read_exact(&mut length)?;
    let mut frame = vec![0; u16::from_le_bytes(length).into()];
    from.read_exact(&mut frame)?;
    Ok(frame)
}
