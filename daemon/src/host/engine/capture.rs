//! The capture: frames as they pass, written to a file by a thread of its own.
//!
//! Bounds: [`WAITING`] blocks wait for the disk; beyond that frames are dropped from the capture and counted, never from
//! the network.

use crate::errors::Error;
use nitrotap_core::{
    frame::Framing,
    pcap::{Capture, CaptureCounters},
    time::Instant,
};
use std::{
    fs::File,
    io::Write,
    path::PathBuf,
    sync::mpsc::{SyncSender, TrySendError, sync_channel},
    thread,
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

/// See the module.
pub(super) struct Recorder {
    capture: Capture,
    block: Vec<u8>,
    blocks: SyncSender<Vec<u8>>,
    /// Wall-clock time of [`Instant::ZERO`], in nanoseconds since 1970.
    epoch: u64,
    lost: u64,
}

impl Recorder {
    /// Creates the file, or truncates it.
    pub(super) fn start(config: CaptureConfig, epoch: u64) -> Result<Self, Error> {
        let CaptureConfig { path, snaplen, budget } = config;
        let cannot = |e: &std::io::Error| Error::runtime(format!("cannot write the capture {}: {e}", path.display()));
        let mut file = File::create(&path).map_err(|e| cannot(&e))?;
        let capture = Capture::new(snaplen, budget);
        file.write_all(&capture.file_header()).map_err(|e| cannot(&e))?;
        let (blocks, inbox) = sync_channel::<Vec<u8>>(WAITING);
        let name = path.clone();
        thread::Builder::new()
            .name("nitrotap-capture".to_owned())
            .spawn(move || {
                for block in inbox {
                    if let Err(error) = file.write_all(&block) {
                        tracing::error!(path = %name.display(), %error, "the capture ends here");
                        return;
                    }
                }
            })
            .map_err(|e| cannot(&e))?;
        Ok(Self { capture, block: Vec::with_capacity(BLOCK), blocks, epoch, lost: 0 })
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
        if let Err(TrySendError::Full(_)) = self.blocks.try_send(block) {
            self.lost += 1;
        }
    }

    /// Blocks that the disk was too slow for.
    pub(super) const fn lost(&self) -> u64 {
        self.lost
    }

    pub(super) const fn counters(&self) -> &CaptureCounters {
        self.capture.counters()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let block = std::mem::take(&mut self.block);
        // The end of a capture is worth the wait; the thread may be gone, and has said why.
        let _ = self.blocks.send(block);
    }
}
