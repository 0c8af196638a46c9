//! The frame codec and the two halves of the TAP handler around it.

use super::{FULL, gateway, pattern};
use nitrotap_core::{
    link::MacAddr,
    offload::{Merge, Segmenter},
    tap::{Egress, Ingress},
};

/// Bytes asked of the stream at a time, as the daemon does.
const READ: usize = 64 << 10;

/// Stream to TAP: one read of 64 KiB, cut into its frames.
pub(crate) struct Inbound {
    machine: Ingress,
    stream: Vec<u8>,
    at: usize,
}

impl Inbound {
    /// Frames of `len` bytes.
    pub(crate) fn new(len: usize) -> Self {
        let frame = [&(len as u16).to_le_bytes()[..], &[7; 6], &pattern(len - 6)].concat();
        Self { machine: Ingress::new(1500, MacAddr([7; 6]), READ), stream: frame.repeat(READ / frame.len() * 4), at: 0 }
    }

    pub(crate) fn run(&mut self) -> usize {
        let space = self.machine.space();
        // The stream begins anew where a frame does.
        let len = READ.min(space.len()).min(self.stream.len() - self.at);
        space[..len].copy_from_slice(&self.stream[self.at..self.at + len]);
        self.at = (self.at + len) % self.stream.len();
        self.machine.handle_read(len);
        let mut bytes = 0;
        while let Some(frame) = self.machine.next_frame() {
            bytes += frame.len();
        }
        bytes
    }
}

/// Stream to TAP with offload: one read of 64 KiB, whose segments of one connection are joined.
pub(crate) struct Joining {
    machine: Ingress,
    stream: Vec<u8>,
}

impl Joining {
    pub(crate) fn new() -> Self {
        let packet = gateway::packet(6, &gateway::segment(40_000, 1, 1, 0x10, &[], &pattern(43 * 1460)));
        let mut segmenter = Segmenter::new(&packet, 1460).expect("a TCP segment");
        let mut stream = Vec::new();
        while let Some(len) = segmenter.next_len() {
            stream.extend((14 + len as u16).to_le_bytes());
            stream.extend([7; 12]);
            stream.extend([8, 0]);
            let at = stream.len();
            stream.resize(at + len, 0);
            segmenter.write_next(&mut stream[at..]);
        }
        let machine = Ingress::new(1500, MacAddr([7; 6]), READ).with_offload(Merge { tcp: true, udp: true });
        Self { machine, stream }
    }

    pub(crate) fn run(&mut self) -> usize {
        self.machine.space()[..self.stream.len()].copy_from_slice(&self.stream);
        self.machine.handle_read(self.stream.len());
        let mut bytes = 0;
        while let Some(packet) = self.machine.next_packet() {
            bytes += packet.pieces().map(<[u8]>::len).sum::<usize>();
        }
        assert_eq!(self.machine.counters().joined, 43 * self.machine.counters().super_frames);
        bytes
    }
}

/// TAP to stream: frames of a full batch, written at once.
pub(crate) struct Outbound {
    machine: Egress,
    frame: Vec<u8>,
}

impl Outbound {
    /// Frames of [`FULL`] bytes.
    pub(crate) fn new() -> Self {
        let mut machine = Egress::new(1500, READ);
        machine.handle_link_up();
        Self { machine, frame: pattern(FULL) }
    }

    pub(crate) fn run(&mut self) -> usize {
        while let Some(slot) = self.machine.slot() {
            slot[..FULL].copy_from_slice(&self.frame);
            self.machine.handle_frame(FULL);
        }
        let len = self.machine.pending().len();
        self.machine.consume(len);
        len
    }
}
