//! Captures for tcpdump and Wireshark: the bytes of a classic pcap file, without writing them anywhere.
//!
//! Owns: numbers only. Driven by: whoever has frames and a file; the wall clock is an argument. Drain: nothing.
//! Bounds: a byte budget. The first frame that does not fit ends the capture, and it and all later ones are counted as
//! skipped: a file without holes up to its end is worth more than one with the small frames of what followed.
//!
//! The format is that of draft-ietf-opsawg-pcap, with times in nanoseconds (magic `0xa1b23c4d`), in little-endian.

/// Bytes of [`Capture::file_header`].
pub const FILE_HEADER_LEN: usize = 24;

/// Bytes of a record's header.
pub const RECORD_HEADER_LEN: usize = 16;

/// The largest snaplen; what tcpdump takes (`MAXIMUM_SNAPLEN`).
pub const MAX_SNAPLEN: u32 = 262_144;

const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const VERSION: (u16, u16) = (2, 4);
const LINKTYPE_ETHERNET: u32 = 1;

crate::counters! {
    /// What became of the frames offered to a capture.
    pub struct CaptureCounters {
        /// Frames captured.
        captured: Counter "nitrotap_capture_frames" { result = "captured" },
        /// Frames captured, but cut to the snaplen.
        cut: Counter "nitrotap_capture_frames" { result = "cut" },
        /// Frames not captured, since the capture has its size.
        skipped: Counter "nitrotap_capture_frames" { result = "skipped" },
        /// Bytes of the capture, headers included.
        bytes: Counter "nitrotap_capture_bytes" {},
    }
}

/// A capture of Ethernet frames with a size limit.
#[derive(Debug)]
pub struct Capture {
    snaplen: u32,
    budget: u64,
    /// Bytes before this file.
    before: u64,
    full: bool,
    counters: CaptureCounters,
}

/// One record: write `header`, then `data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Time and lengths.
    pub header: [u8; RECORD_HEADER_LEN],
    /// The beginning of the frame.
    pub data: &'a [u8],
}

impl Capture {
    /// A capture that keeps the first `snaplen` bytes of each frame (1 to [`MAX_SNAPLEN`], taken as the nearer end beyond
    /// that) and has at most `budget` bytes, the file's header included; below [`FILE_HEADER_LEN`] that header alone is
    /// written.
    #[must_use]
    pub fn new(snaplen: u32, budget: u64) -> Self {
        let counters = CaptureCounters { bytes: FILE_HEADER_LEN as u64, ..CaptureCounters::default() };
        Self { snaplen: snaplen.clamp(1, MAX_SNAPLEN), budget, before: 0, full: false, counters }
    }

    /// Another file begins, with a budget of its own. Write its [`Capture::file_header`] first.
    pub const fn begin(&mut self) {
        self.before = self.counters.bytes;
        self.counters.bytes += FILE_HEADER_LEN as u64;
        self.full = false;
    }

    /// What the file begins with.
    #[must_use]
    pub fn file_header(&self) -> [u8; FILE_HEADER_LEN] {
        let mut bytes = [0; FILE_HEADER_LEN];
        bytes[0..4].copy_from_slice(&MAGIC_NANOSECONDS.to_le_bytes());
        bytes[4..6].copy_from_slice(&VERSION.0.to_le_bytes());
        bytes[6..8].copy_from_slice(&VERSION.1.to_le_bytes());
        // Two reserved fields, in 8..16, are zero.
        bytes[16..20].copy_from_slice(&self.snaplen.to_le_bytes());
        bytes[20..24].copy_from_slice(&LINKTYPE_ETHERNET.to_le_bytes());
        bytes
    }

    /// The record of a frame seen `wall_nanos` nanoseconds after 1970-01-01 00:00 UTC (in 2106 the seconds of the format
    /// end, and stay at their end); `None` once the budget is spent.
    pub fn record<'a>(&mut self, wall_nanos: u64, frame: &'a [u8]) -> Option<Record<'a>> {
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let kept = len.min(self.snaplen);
        let after = self.counters.bytes + RECORD_HEADER_LEN as u64 + u64::from(kept);
        self.full |= after - self.before > self.budget;
        if self.full {
            self.counters.skipped += 1;
            return None;
        }
        self.counters.bytes = after;
        *(if kept < len { &mut self.counters.cut } else { &mut self.counters.captured }) += 1;
        let header = record_header(wall_nanos, kept, len);
        Some(Record { header, data: &frame[..kept as usize] })
    }

    /// What has been counted so far.
    #[must_use]
    pub const fn counters(&self) -> &CaptureCounters {
        &self.counters
    }
}

fn record_header(wall_nanos: u64, kept: u32, len: u32) -> [u8; RECORD_HEADER_LEN] {
    let secs = u32::try_from(wall_nanos / 1_000_000_000).unwrap_or(u32::MAX);
    // Below 10^9.
    let nanos = (wall_nanos % 1_000_000_000) as u32;
    let mut bytes = [0; RECORD_HEADER_LEN];
    for (place, value) in bytes.chunks_exact_mut(4).zip([secs, nanos, kept, len]) {
        place.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_the_format_says_byte_for_byte() {
        let mut capture = Capture::new(5, 1000);
        assert_eq!(
            capture.file_header(),
            [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0]
        );
        // 2024-01-01 00:00:00.000000007 UTC is 0x65920080 seconds and 7 ns.
        let record = capture.record(1_704_067_200_000_000_007, &[1, 2, 3, 4, 5, 6, 7]).expect("there is room");
        assert_eq!(record.header, [0x80, 0x00, 0x92, 0x65, 7, 0, 0, 0, 5, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(record.data, [1, 2, 3, 4, 5]);
        let record = capture.record(999_999_999, &[9; 5]).expect("there is room");
        assert_eq!(record.header, [0, 0, 0, 0, 0xff, 0xc9, 0x9a, 0x3b, 5, 0, 0, 0, 5, 0, 0, 0]);
        assert_eq!(record.data, [9; 5]);
        let counters = CaptureCounters { captured: 1, cut: 1, skipped: 0, bytes: 24 + 2 * 21 };
        assert_eq!(*capture.counters(), counters);
    }

    #[test]
    fn the_budget_is_never_exceeded_and_nothing_follows_the_first_frame_that_is_skipped() {
        let mut capture = Capture::new(MAX_SNAPLEN, 24 + 16 + 60 + 16 + 14);
        assert!(capture.record(0, &[0; 60]).is_some());
        assert!(capture.record(0, &[0; 15]).is_none());
        assert!(capture.record(0, &[0; 14]).is_none(), "it would have fitted");
        assert_eq!((capture.counters().skipped, capture.counters().bytes), (2, 100));
        let mut exact = Capture::new(MAX_SNAPLEN, 24 + 16 + 60);
        assert!(exact.record(0, &[0; 60]).is_some());
        assert!(Capture::new(1, 0).record(0, &[0; 60]).is_none());
    }

    #[test]
    fn numbers_beyond_the_format_stay_at_its_ends() {
        assert_eq!(Capture::new(0, 0).file_header()[16..20], 1_u32.to_le_bytes());
        assert_eq!(Capture::new(u32::MAX, 0).file_header()[16..20], MAX_SNAPLEN.to_le_bytes());
        let record = record_header(u64::MAX, 1, 2);
        assert_eq!(record[..4], [0xff; 4]);
    }
}
