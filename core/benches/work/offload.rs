//! Checksums and segmentation.

use super::{gateway::packet, pattern};
use nitrotap_core::offload::{Segmenter, checksum};

/// The Internet checksum of `len` bytes.
pub(crate) struct Sum(Vec<u8>);

impl Sum {
    pub(crate) fn new(len: usize) -> Self {
        Self(pattern(len))
    }

    pub(crate) fn run(&self) -> usize {
        let sum = checksum::finish(checksum::add(0, &self.0));
        // Whatever it is, the compiler cannot know.
        self.0.len() + usize::from(sum == [1, 2])
    }
}

/// One packet of 64 KiB cut into segments of 1460 bytes.
pub(crate) struct Segmentation {
    packet: Vec<u8>,
    out: Vec<u8>,
}

impl Segmentation {
    pub(crate) fn new() -> Self {
        Self {
            packet: packet(6, &super::gateway::segment(40_000, 1, 1, 0x18, &[], &pattern(64_000))),
            out: vec![0; 1500],
        }
    }

    pub(crate) fn run(&mut self) -> usize {
        let Ok(mut segmenter) = Segmenter::new(&self.packet, 1460) else { return 0 };
        let mut bytes = 0;
        while let Some(len) = segmenter.next_len() {
            segmenter.write_next(&mut self.out[..len]);
            bytes += len;
        }
        bytes
    }
}
