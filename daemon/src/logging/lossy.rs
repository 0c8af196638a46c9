//! A log that never makes anybody wait: lines go into a bounded queue, and a thread of its own writes them.
//!
//! Owns: the queue, the file or standard error behind it, and how many lines were lost. Driven by: whoever logs
//! ([`Lossy::write_line`]), the one who ends the process ([`Lossy::flush`]), and SIGHUP ([`Lossy::reopen`]).
//! Bounds: [`QUEUE`] bytes wait. Once a line does not fit, all are lost until the writer has taken what waits: then it says how
//! many they were, in the place where they are missing. [`LINE`] bytes of one line are kept.
//!
//! It is not `tracing-appender`: that bounds lines and not bytes, does not tell in the log that lines were lost, and cannot open a
//! file anew.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{self, Errno},
};
use std::{
    cell::Cell,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Bytes that wait for whoever reads the log.
const QUEUE: usize = 1 << 20;
/// Bytes of one line that are kept: no field of ours is longer, but a path or a name that a stranger gives may be.
const LINE: usize = 8 << 10;
/// What the writer itself may add beyond the queue, to say how many lines were lost.
const RESERVE: usize = LINE;
/// Bytes that a pipe takes without waiting if it is writable at all (`PIPE_BUF`, pipe(7)).
const PIPE: usize = 4096;

thread_local! {
    /// Whether this thread writes a log: it may use the reserve.
    static WRITER: Cell<bool> = const { Cell::new(false) };
}

/// What is behind the queue.
pub(super) trait Sink: Send + 'static {
    /// Where to write; it may wait.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Opens it anew, if it can be.
    fn reopen(&mut self);
}

/// See the module. Clones share it.
#[derive(Clone)]
pub(super) struct Lossy(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something for the writer.
    more: Condvar,
    /// The writer has written what it had taken.
    written: Condvar,
    /// Lines lost so far.
    lost: AtomicU64,
}

#[derive(Default)]
struct State {
    queue: Vec<u8>,
    /// Lines lost since the writer last said so.
    untold: u64,
    writing: bool,
    reopen: bool,
}

impl Lossy {
    /// Starts the writer. `tell` logs that so many lines were lost.
    pub(super) fn start(sink: impl Sink, tell: fn(u64)) -> std::io::Result<Self> {
        let log = Self(Arc::default());
        let shared = Arc::clone(&log.0);
        thread::Builder::new().name("nitrotap-log".to_owned()).spawn(move || shared.write(sink, tell))?;
        Ok(log)
    }

    /// Leaves a line with its end. Never waits for a reader.
    pub(super) fn write_line(&self, line: &[u8]) {
        let room = if WRITER.get() { QUEUE + RESERVE } else { QUEUE };
        let cut = line.len().saturating_sub(LINE);
        let (kept, end): (_, &[u8]) = if cut == 0 { (line, b"") } else { (&line[..LINE - 4], b"...\n") };
        let mut state = self.0.lock();
        // After the first that is lost none is taken, so that what is missing is missing in one place.
        if (state.untold > 0 && !WRITER.get()) || state.queue.len() + kept.len() + end.len() > room {
            state.untold += 1;
            self.0.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.queue.extend_from_slice(kept);
        state.queue.extend_from_slice(end);
        self.0.more.notify_one();
    }

    /// Lines lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Has the file opened anew before the next line is written.
    pub(super) fn reopen(&self) {
        self.0.lock().reopen = true;
        self.0.more.notify_one();
    }

    /// Waits until everything is written, but for `patience` at most; true if it is.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let state = self.0.lock();
        let waits = |state: &mut State| state.writing || !state.queue.is_empty() || state.untold > 0;
        let waited = self.0.written.wait_timeout_while(state, patience, waits);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer's life, which ends with the process.
    fn write(&self, mut sink: impl Sink, tell: fn(u64)) {
        WRITER.set(true);
        let mut taken = Vec::new();
        loop {
            let mut state = self.lock();
            state.writing = false;
            self.written.notify_all();
            while state.queue.is_empty() && state.untold == 0 && !state.reopen {
                state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.writing = true;
            let reopen = std::mem::take(&mut state.reopen);
            std::mem::swap(&mut state.queue, &mut taken);
            let untold = std::mem::take(&mut state.untold);
            drop(state);
            if reopen {
                sink.reopen();
            }
            if let Err(lines) = write_all(sink.fd(), &taken) {
                self.lost.fetch_add(lines, Ordering::Relaxed);
            }
            taken.clear();
            // A burst takes memory once, not for ever.
            taken.shrink_to(LINE);
            if untold > 0 {
                tell(untold);
            }
        }
    }
}

/// Writes all of it, waiting as long as it takes; else how many lines went nowhere.
fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), u64> {
    while !bytes.is_empty() {
        match io::write(fd, bytes) {
            Ok(n) if n > 0 => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            // Somebody who shares it does not want to wait; this thread does.
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None)),
            // The reader is gone, or the disk is full: the next lines may fare better.
            Ok(_) | Err(_) => return Err(bytes.iter().filter(|byte| **byte == b'\n').count() as u64),
        }
    }
    Ok(())
}

/// Writes to a descriptor that may have no reader, and gives up after `patience` without one.
pub(super) fn write_patiently(fd: impl AsFd, mut bytes: &[u8], patience: Duration) {
    let timeout =
        Timespec { tv_sec: patience.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: patience.subsec_nanos().into() };
    while !bytes.is_empty() {
        let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(n) if n > 0 => {}
            Err(Errno::INTR) => continue,
            Ok(_) | Err(_) => return,
        }
        match io::write(&fd, &bytes[..bytes.len().min(PIPE)]) {
            Ok(n) if n > 0 => bytes = &bytes[n..],
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead, BufReader, PipeReader, pipe},
        os::fd::OwnedFd,
        sync::atomic::AtomicBool,
    };

    struct Pipe(OwnedFd);

    impl Sink for Pipe {
        fn fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }

        fn reopen(&mut self) {}
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    fn silent(_: u64) {}

    fn piped(tell: fn(u64)) -> (Lossy, PipeReader) {
        let (reader, writer) = pipe().unwrap();
        (Lossy::start(Pipe(writer.into()), tell).unwrap(), reader)
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_and_nobodys_time() {
        static TOLD: AtomicU64 = AtomicU64::new(0);
        let (log, reader) = piped(|lines| {
            TOLD.fetch_add(lines, Ordering::SeqCst);
        });
        // Would never end if one of these waited for the reader.
        let lines = 3 * QUEUE as u64 / 100;
        for n in 0..lines {
            log.write_line(format!("{n:099}\n").as_bytes());
        }
        assert!(log.lost() >= lines / 4, "{}", log.lost());
        assert!(!log.flush(Duration::from_millis(10)), "nobody has read yet");
        let mut read = BufReader::new(reader).lines().map(Result::unwrap);
        let mut next = 0;
        let kept = lines - log.lost();
        while next < kept {
            // In order and whole.
            assert_eq!(
                read.next().unwrap().trim_start_matches('0'),
                if next == 0 { String::new() } else { next.to_string() }
            );
            next += 1;
        }
        assert!(log.flush(PATIENCE));
        assert_eq!(TOLD.load(Ordering::SeqCst), log.lost());
        // And from then on nothing is missing.
        let lost = log.lost();
        log.write_line(b"after\n");
        assert_eq!(read.next().unwrap(), "after");
        assert_eq!(log.lost(), lost);
    }

    #[test]
    fn a_line_is_cut_where_it_is_too_long() {
        let (log, reader) = piped(silent);
        let mut read = BufReader::new(reader).lines().map(Result::unwrap);
        thread::spawn(move || {
            log.write_line(&[vec![b'x'; 3 * LINE], b"\n".to_vec()].concat());
            log.write_line(b"next\n");
        });
        let line = read.next().unwrap();
        assert_eq!((line.len(), line.ends_with("x...")), (LINE - 1, true));
        assert_eq!(read.next().unwrap(), "next");
    }

    #[test]
    fn a_reader_that_is_gone_costs_lines_only() {
        let (log, reader) = piped(silent);
        drop(reader);
        log.write_line(b"one\ntwo\n");
        assert!(log.flush(PATIENCE));
        assert_eq!(log.lost(), 2);
    }

    #[test]
    fn what_waits_is_in_the_old_file_or_in_the_new_one_and_never_lost() {
        struct Twice(Vec<OwnedFd>, &'static AtomicBool);
        impl Sink for Twice {
            fn fd(&self) -> BorrowedFd<'_> {
                self.0[0].as_fd()
            }

            fn reopen(&mut self) {
                self.0.remove(0);
                self.1.store(true, Ordering::SeqCst);
            }
        }
        static REOPENED: AtomicBool = AtomicBool::new(false);
        let ((old, old_end), (new, new_end)) = (pipe().unwrap(), pipe().unwrap());
        let log = Lossy::start(Twice(vec![old_end.into(), new_end.into()], &REOPENED), silent).unwrap();
        log.write_line(b"before\n");
        assert!(log.flush(PATIENCE));
        log.reopen();
        log.write_line(b"after\n");
        assert!(log.flush(PATIENCE));
        assert!(REOPENED.load(Ordering::SeqCst));
        // The old end is closed by now.
        let text = std::io::read_to_string(old).unwrap();
        assert_eq!(text, "before\n");
        assert_eq!(BufReader::new(new).lines().next().unwrap().unwrap(), "after");
    }

    #[test]
    fn last_words_do_not_wait_for_a_reader_for_ever() {
        let (reader, writer) = pipe().unwrap();
        // Would never end if it did; what fits is there.
        write_patiently(&writer, &vec![b'x'; QUEUE], Duration::from_millis(1));
        drop(writer);
        let read = std::io::read_to_string(reader).unwrap().len();
        assert!((PIPE..QUEUE).contains(&read), "{read}");
    }
}
