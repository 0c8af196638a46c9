//! Enclave to host: frames read from the TAP leave as batches on the stream.
//!
//! Owns: one [`Batch`]. Driven by: the daemon's egress thread, fuzz, benches.
//! Drain: while [`Egress::slot`] gives room, read a frame and call [`Egress::handle_frame`]; then write
//! [`Egress::pending`] until it is empty. Bounds: see [`Batch`].

use crate::frame::{Batch, Refused, frame_limit};

/// The outbound half of the TAP handler.
#[derive(Debug)]
pub struct Egress {
    batch: Batch,
    link_up: bool,
    counters: EgressCounters,
}

impl Egress {
    /// `mtu` is the TAP's IP MTU; `batch` the bytes after which a batch is closed, 0 for one frame per write.
    #[must_use]
    pub fn new(mtu: u16, batch: usize) -> Self {
        Self { batch: Batch::new(batch, frame_limit(mtu)), link_up: false, counters: EgressCounters::default() }
    }

    /// What was sent and dropped so far.
    #[must_use]
    pub const fn counters(&self) -> &EgressCounters {
        &self.counters
    }

    /// A stream was attached: frames flow from here on.
    pub fn handle_link_up(&mut self) {
        self.link_up = true;
    }

    /// The stream is gone: what it did not take is dropped, and so is every frame until the next one is attached.
    ///
    /// A frame kept for later would arrive stale and out of its flow's order; TCP resends, others have moved on.
    pub fn handle_link_down(&mut self) {
        self.link_up = false;
        self.counters.dropped_link_down += self.batch.clear();
    }

    /// Room to read one frame into, or `None` when the batch must be written first.
    pub fn slot(&mut self) -> Option<&mut [u8]> {
        self.batch.slot()
    }

    /// Takes a frame of `len` bytes that was read into [`Egress::slot`].
    pub fn handle_frame(&mut self, len: usize) {
        if !self.link_up {
            self.counters.dropped_link_down += 1;
            return;
        }
        match self.batch.commit(len) {
            Ok(()) => {
                self.counters.frames += 1;
                self.counters.bytes += len as u64;
            }
            Err(Refused::Runt) => self.counters.dropped_runt += 1,
            Err(Refused::Oversize) => self.counters.dropped_oversize += 1,
        }
    }

    /// Bytes to write to the stream.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        self.batch.pending()
    }

    /// The stream took the first `n` bytes of [`Egress::pending`].
    pub fn consume(&mut self, n: usize) {
        self.batch.consume(n);
        self.counters.writes += 1;
    }
}

crate::counters! {
    /// What the outbound half did. A frame is counted when it is queued; one that a lost link cut off is then also
    /// counted in `dropped_link_down`.
    pub struct EgressCounters {
        /// Ethernet frames moved between the TAP and the stream; tx is enclave to host.
        frames: Counter "nitrotap_frames" { direction = "tx" },
        /// Bytes of those frames, Ethernet header included, length prefix excluded.
        bytes: Counter "nitrotap_bytes" { direction = "tx" },
        /// System calls that moved bytes on the stream; frames divided by this is the batching achieved.
        writes: Counter "nitrotap_stream_calls" { direction = "tx" },
        /// Frames dropped, by cause.
        dropped_runt: Counter "nitrotap_drops" { direction = "tx", cause = "runt" },
        /// Frames dropped, by cause.
        dropped_oversize: Counter "nitrotap_drops" { direction = "tx", cause = "oversize" },
        /// Frames dropped, by cause.
        dropped_link_down: Counter "nitrotap_drops" { direction = "tx", cause = "link_down" },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(egress: &mut Egress, len: usize) {
        egress.slot().expect("room")[..len].fill(1);
        egress.handle_frame(len);
    }

    #[test]
    fn frames_read_while_the_link_is_down_are_dropped_and_counted() {
        let mut egress = Egress::new(1500, 4096);
        read(&mut egress, 60);
        assert!(egress.pending().is_empty());
        egress.handle_link_up();
        read(&mut egress, 60);
        assert_eq!(egress.pending().len(), 62);
        egress.handle_link_down();
        assert!(egress.pending().is_empty());
        assert_eq!(egress.counters().dropped_link_down, 2);
        assert_eq!((egress.counters().frames, egress.counters().bytes), (1, 60));
    }

    #[test]
    fn a_tagged_frame_of_full_mtu_passes_and_one_byte_more_does_not() {
        let mut egress = Egress::new(1500, 4096);
        egress.handle_link_up();
        read(&mut egress, 1518);
        read(&mut egress, 1519);
        read(&mut egress, 13);
        let counters = egress.counters();
        assert_eq!((counters.frames, counters.dropped_oversize, counters.dropped_runt), (1, 1, 1));
    }
}
