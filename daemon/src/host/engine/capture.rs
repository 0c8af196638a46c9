//! The capture: frames as they pass, written to a file by a thread of its own.
//!
//! Bounds: [`WAITING`] blocks wait for the disk, or for whoever reads a FIFO; beyond that frames are dropped from the capture
//! and counted, never from the network. The file has at most so many bytes, from each SIGHUP on again.
//!
//! A FIFO is waited for by that thread alone, until somebody reads it. Each reader gets a capture from its beginning, if it
//! comes after the end of the one before was noticed: with the next frame, or within [`LOOK`].

use crate::{errors::Error, files};
use nitrotap_core::{
    frame::Framing,
    pcap::{Capture, CaptureCounters},
    time::Instant,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileTypeExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

/// What to capture.
#[derive(Clone, Debug)]
pub(crate) struct CaptureConfig {
    pub(crate) path: PathBuf,
    /// Bytes kept of each frame.
    pub(crate) snaplen: u32,
    /// Bytes of the file at most.
    pub(crate) budget: u64,
}

/// Blocks that may wait for the disk.
const WAITING: usize = 256;
/// Bytes of a block.
const BLOCK: usize = 64 << 10;
/// How long the end waits for what is still to be written.
const END: Duration = Duration::from_secs(1);

/// How often the thread looks whether a FIFO's reader is still there, while no frames pass.
const LOOK: Duration = Duration::from_millis(100);

/// What the thread is told.
enum Order {
    /// Whole records.
    Write(Vec<u8>),
    /// Open the file anew; what comes is for the new one.
    Reopen,
}

/// See the module.
pub(super) struct Recorder {
    capture: Capture,
    fifo: bool,
    block: Vec<u8>,
    /// `None` once it is to end.
    orders: Option<SyncSender<Order>>,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
    /// Wall-clock time of [`Instant::ZERO`], in nanoseconds since 1970.
    epoch: u64,
    lost: Arc<AtomicU64>,
}

impl Recorder {
    /// Makes the file, for nobody else to read, in the place of one that was there; a FIFO is opened by the thread, which waits for its reader.
    pub(super) fn start(config: CaptureConfig, epoch: u64) -> Result<Self, Error> {
        let CaptureConfig { path, snaplen, budget } = config;
        let cannot = |e: &io::Error| Error::runtime(format!("cannot write the capture {}: {e}", path.display()));
        let fifo = fs::symlink_metadata(&path).is_ok_and(|file| file.file_type().is_fifo());
        // What goes through a FIFO fills no disk.
        let capture = Capture::new(snaplen, if fifo { u64::MAX } else { budget });
        let (orders, inbox) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let header = capture.file_header().to_vec();
        let mut file = CaptureFile { path: path.clone(), fifo, header, open: None, inbox, lost: Arc::clone(&lost) };
        if !fifo {
            file.open().map_err(|e| cannot(&e))?;
        }
        let (end, ended) = sync_channel(0);
        thread::Builder::new()
            .name("nitrotap-capture".to_owned())
            .spawn(move || {
                file.serve();
                drop(end);
            })
            .map_err(|e| cannot(&e))?;
        let block = Vec::with_capacity(BLOCK);
        Ok(Self { capture, fifo, block, orders: Some(orders), ended, epoch, lost })
    }

    /// A frame passes.
    pub(super) fn frame(&mut self, now: Instant, frame: &[u8]) {
        let Some(record) = self.capture.record(self.epoch + now.as_nanos(), frame) else { return };
        self.block.extend_from_slice(&record.header);
        self.block.extend_from_slice(record.data);
        if self.block.len() >= BLOCK {
            self.flush();
        }
    }

    /// Frames wait for a link, with their prefixes; the first `captured` bytes of them have been seen. Gives how many have
    /// been seen now.
    pub(super) fn pending(&mut self, now: Instant, pending: &[u8], captured: usize, framing: Framing) -> usize {
        let mut at = captured;
        while let Some((frame, len)) = pending.get(at..).and_then(|rest| framing.split(rest)) {
            self.frame(now, frame);
            at += len;
        }
        at
    }

    /// Hands what there is to the disk; called when nothing else is to be done, so that a capture can be watched.
    pub(super) fn flush(&mut self) {
        if self.block.is_empty() {
            return;
        }
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        self.order(Order::Write(block));
    }

    /// Begins the file anew, as `logrotate` wants it: whatever was there has been moved away, or is truncated.
    pub(super) fn reopen(&mut self) {
        if !self.fifo {
            self.flush();
            self.capture.begin();
            self.order(Order::Reopen);
        }
    }

    fn order(&self, order: Order) {
        let Some(orders) = &self.orders else { return };
        if let Err(TrySendError::Full(_)) = orders.try_send(order) {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Blocks that the disk, or the reader, was too slow for.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    pub(super) const fn counters(&self) -> &CaptureCounters {
        self.capture.counters()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.flush();
        self.orders = None;
        // The end of a capture is worth a short wait; a reader that does not read is not.
        let _ = self.ended.recv_timeout(END);
    }
}

/// The thread's end.
struct CaptureFile {
    path: PathBuf,
    fifo: bool,
    header: Vec<u8>,
    open: Option<File>,
    inbox: Receiver<Order>,
    lost: Arc<AtomicU64>,
}

impl CaptureFile {
    /// May wait, for the reader of a FIFO.
    fn open(&mut self) -> io::Result<&mut File> {
        if self.open.is_none() {
            if !files::is_special(&self.path) {
                let file = files::replace(&self.path, files::PRIVATE, &self.header)?;
                return Ok(self.open.insert(file));
            }
            let mut file = files::append(&self.path)?;
            if self.fifo {
                // A reader wants what passes from now on, and not what nobody has read.
                self.lost.fetch_add(self.inbox.try_iter().count() as u64, Relaxed);
            }
            file.write_all(&self.header)?;
            self.open = Some(file);
        }
        self.open.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn serve(mut self) {
        while let Err(error) = self.write() {
            if error.kind() != io::ErrorKind::BrokenPipe {
                tracing::error!(path = %self.path.display(), %error, "the capture ends here");
                return;
            }
            tracing::info!(path = %self.path.display(), "nobody reads the capture any more; waiting for the next reader");
            self.open = None;
        }
    }

    /// Writes until there is nothing more to come.
    fn write(&mut self) -> io::Result<()> {
        // A reader wants the header at once, not with the first frame.
        self.open()?;
        while let Some(order) = self.next()? {
            match order {
                Order::Write(block) => {
                    if let Err(error) = self.open()?.write_all(&block) {
                        // Closed before the loss can be seen: whoever opens a FIFO then waits for the next header.
                        self.open = None;
                        self.lost.fetch_add(1, Relaxed);
                        return Err(error);
                    }
                }
                Order::Reopen => {
                    self.open = None;
                    self.open()?;
                }
            }
        }
        Ok(())
    }

    /// The next order; `None` at the end. A broken pipe if the FIFO's reader has gone.
    fn next(&self) -> io::Result<Option<Order>> {
        let Some(fifo) = self.open.as_ref().filter(|_| self.fifo) else { return Ok(self.inbox.recv().ok()) };
        loop {
            match self.inbox.recv_timeout(LOOK) {
                Ok(order) => return Ok(Some(order)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if reader_is_gone(fifo)? => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// The writing end of a FIFO has an error condition when nobody has it open for reading, poll(2).
fn reader_is_gone(fifo: &File) -> io::Result<bool> {
    let mut fds = [PollFd::new(fifo, PollFlags::empty())];
    // Without a wait, no signal interrupts it.
    poll(&mut fds, Some(&Timespec::default()))?;
    Ok(fds[0].revents().contains(PollFlags::ERR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode};
    use std::{io::Read, path::Path};

    const FRAME: [u8; 60] = [7; 60];
    const HEADER: usize = 24;

    fn config(path: &Path) -> CaptureConfig {
        CaptureConfig { path: path.to_owned(), snaplen: 65_535, budget: 1 << 20 }
    }

    fn fifo() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        (dir, path)
    }

    #[test]
    fn a_fifo_without_a_reader_costs_the_capture_and_nobodys_time() {
        let (_dir, path) = fifo();
        // None of this would end if it waited for a reader, nor would the drop.
        let mut recorder = Recorder::start(config(&path), 0).unwrap();
        for n in 0..=WAITING as u64 + 5 {
            recorder.frame(Instant::from_millis(n), &FRAME);
            recorder.flush();
        }
        assert!(recorder.lost() > 0);
        drop(recorder);
    }

    #[test]
    fn each_reader_of_a_fifo_gets_a_capture_from_its_beginning() {
        let (_dir, path) = fifo();
        let mut recorder = Recorder::start(config(&path), 0).unwrap();
        for _ in 0..2 {
            let mut reader = File::open(&path).unwrap();
            let mut bytes = [0; HEADER + 16 + 60];
            reader.read_exact(&mut bytes[..HEADER]).unwrap();
            assert_eq!(bytes[..HEADER], Capture::new(65_535, 1).file_header()[..]);
            recorder.frame(Instant::ZERO, &FRAME);
            recorder.flush();
            reader.read_exact(&mut bytes[HEADER..]).unwrap();
            assert_eq!(bytes[HEADER + 16..], FRAME);
            drop(reader);
            // The thread notices with the next block, which is for nobody.
            let lost = recorder.lost();
            recorder.frame(Instant::ZERO, &FRAME);
            recorder.flush();
            while recorder.lost() == lost {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn the_next_reader_needs_no_frame_to_get_its_header() {
        let (_dir, path) = fifo();
        let _recorder = Recorder::start(config(&path), 0).unwrap();
        let is_open = || {
            fs::read_dir("/proc/self/fd")
                .unwrap()
                .flatten()
                .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == path))
        };
        for _ in 0..2 {
            let mut reader = File::open(&path).unwrap();
            let mut header = [0; HEADER];
            reader.read_exact(&mut header).unwrap();
            assert_eq!(header[..], Capture::new(65_535, 1).file_header()[..]);
            drop(reader);
            while is_open() {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn a_file_that_was_moved_away_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("a.pcap"), dir.path().join("a.pcap.1"));
        let mut recorder = Recorder::start(config(&path), 0).unwrap();
        recorder.frame(Instant::ZERO, &FRAME);
        fs::rename(&path, &old).unwrap();
        recorder.reopen();
        recorder.frame(Instant::ZERO, &FRAME);
        recorder.frame(Instant::ZERO, &FRAME);
        assert_eq!(recorder.counters().captured, 3);
        drop(recorder);
        let len = |path: &Path| fs::metadata(path).unwrap().len() as usize;
        assert_eq!((len(&old), len(&path)), (HEADER + 76, HEADER + 2 * 76));
    }
}
