//! Enclave to host: frames read from the TAP leave as batches on the stream.
//!
//! Owns: one [`Batch`], and one super-frame while it is cut. Driven by: the daemon's egress thread, fuzz, benches.
//! Drain: while [`Egress::slot`] gives room, read a frame and call [`Egress::handle_frame`] or, with a TAP that has
//! `IFF_VNET_HDR`, [`Egress::handle_offloaded`]; then write [`Egress::pending`] until it is empty.
//! Bounds: see [`Batch`]; one super-frame of [`ROOM`] bytes waits to be cut, and nothing is read meanwhile.
//!
//! What the kernel left to the hardware is done here, with one exception: a TCP frame to the gateway keeps its length and
//! its unfinished checksum. A gvproxy takes frames of any length, ends TCP itself and does not look at checksums
//! (`pkg/tap/link.go`, `CapabilityRXChecksumOffload`), so that one frame costs it what 40 would. Every other machine
//! behind its switch has a kernel that would drop such a frame.

use crate::{
    frame::{Batch, MAX_FRAME, MIN_FRAME, ROOM, Refused, frame_limit},
    link::MacAddr,
    offload::{Gso, Plan, VNET_LEN, VnetHeader, finish_checksum},
};

/// The outbound half of the TAP handler.
#[derive(Debug)]
pub struct Egress {
    batch: Batch,
    limit: usize,
    link_up: bool,
    /// Who takes TCP as it is.
    gateway: Option<MacAddr>,
    strict: bool,
    /// The super-frame that is being cut; empty without offload.
    scratch: Box<[u8]>,
    cut: Option<Cut>,
    counters: EgressCounters,
}

/// How far a super-frame is cut.
#[derive(Debug)]
struct Cut {
    plan: Plan,
    /// Bytes of its Ethernet header.
    link: usize,
    len: usize,
}

impl Egress {
    /// `mtu` is the TAP's IP MTU; `batch` the bytes after which a batch is closed, 0 for one frame per write.
    #[must_use]
    pub fn new(mtu: u16, batch: usize) -> Self {
        let limit = frame_limit(mtu);
        Self {
            batch: Batch::new(batch, limit),
            limit,
            link_up: false,
            gateway: None,
            strict: false,
            scratch: Box::default(),
            cut: None,
            counters: EgressCounters::default(),
        }
    }

    /// Makes it ready for [`Egress::handle_offloaded`]. With `strict`, nothing unfinished leaves towards anybody.
    #[must_use]
    pub fn with_offload(self, strict: bool) -> Self {
        Self { scratch: vec![0; ROOM].into_boxed_slice(), strict, ..self }
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

    /// The gateway that answered on this stream has this hardware address; forgotten when the link goes down.
    pub fn handle_gateway(&mut self, mac: MacAddr) {
        self.gateway = Some(mac);
    }

    /// The stream is gone: what it did not take is dropped, and so is every frame until the next one is attached.
    ///
    /// A frame kept for later would arrive stale and out of its flow's order; TCP resends, others have moved on.
    pub fn handle_link_down(&mut self) {
        self.link_up = false;
        self.gateway = None;
        self.counters.dropped_link_down += self.batch.clear() + u64::from(self.cut.take().is_some());
    }

    /// Room to read one frame into, or `None` when the batch must be written first.
    pub fn slot(&mut self) -> Option<&mut [u8]> {
        if self.cut.is_some() {
            return None;
        }
        self.batch.slot()
    }

    /// Takes a frame of `len` bytes that was read into [`Egress::slot`].
    pub fn handle_frame(&mut self, len: usize) {
        if !self.link_up {
            self.counters.dropped_link_down += 1;
            return;
        }
        let done = self.batch.commit(len);
        self.count(done, len);
    }

    /// Takes a frame of `len` bytes that was read into [`Egress::slot`] behind this header: finishes it, cuts it, or
    /// leaves it as it is.
    ///
    /// # Panics
    /// Without [`Egress::with_offload`], if a super-frame must be cut.
    pub fn handle_offloaded(&mut self, header: [u8; VNET_LEN], len: usize) {
        if !self.link_up {
            self.counters.dropped_link_down += 1;
            return;
        }
        let taker = if self.strict { None } else { self.gateway };
        // There was room to read it into.
        let Some(room) = self.slot() else { return };
        let Some(frame) = room.get_mut(..len).filter(|_| len <= ROOM) else {
            self.counters.dropped_oversize += 1;
            return;
        };
        let Ok(header) = VnetHeader::parse(header, len) else {
            self.counters.dropped_offload += 1;
            return;
        };
        let takes_tcp = taker.is_some_and(|gateway| frame.starts_with(&gateway.0));
        match (header.gso, header.checksum) {
            (Gso::None, Some((start, TCP_CHECKSUM))) if takes_tcp && is_tcp(frame, start) => {
                self.counters.checksums_left += 1;
                self.handle_frame(len);
            }
            (Gso::None, Some(checksum)) => {
                finish_checksum(frame, checksum);
                self.counters.checksums_finished += 1;
                self.handle_frame(len);
            }
            (Gso::None, None) => self.handle_frame(len),
            (Gso::Tcp4 | Gso::Tcp6, _) if takes_tcp && len <= MAX_FRAME => {
                let done = self.batch.commit_super(len);
                self.counters.super_frames += u64::from(done.is_ok());
                self.count(done, len);
            }
            (gso, _) => self.cut(len, header.size.into(), gso == Gso::Udp),
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
        if self.cut.is_some() && self.batch.pending().is_empty() {
            self.fill();
        }
    }

    fn cut(&mut self, len: usize, size: usize, udp: bool) {
        let Some(slot) = self.batch.slot() else { return };
        let frame = &slot[..len];
        let link = match frame.get(12..MIN_FRAME) {
            Some([0x81, 0x00] | [0x88, 0xa8]) => MIN_FRAME + TAG,
            _ => MIN_FRAME,
        };
        let plan = Plan::new(frame.get(link..).unwrap_or_default(), size).ok().filter(|plan| plan.is_udp() == udp);
        let Some(plan) = plan else {
            self.counters.dropped_offload += 1;
            return;
        };
        if plan.next_len().is_none_or(|first| link + first > self.limit) {
            self.counters.dropped_oversize += 1;
            return;
        }
        self.scratch[..len].copy_from_slice(frame);
        self.counters.segmented += 1;
        self.cut = Some(Cut { plan, link, len });
        self.fill();
    }

    /// Puts the next segments into the batch, as many as fit.
    fn fill(&mut self) {
        while let Some(cut) = &mut self.cut {
            let Some(len) = cut.plan.next_len() else {
                self.cut = None;
                return;
            };
            let Some(slot) = self.batch.slot() else { return };
            slot[..cut.link].copy_from_slice(&self.scratch[..cut.link]);
            let len = cut.link + len;
            cut.plan.write_next(&self.scratch[cut.link..cut.len], &mut slot[cut.link..len]);
            let done = self.batch.commit(len);
            self.counters.segments += 1;
            self.count(done, len);
        }
    }

    fn count(&mut self, done: Result<(), Refused>, len: usize) {
        match done {
            Ok(()) => {
                self.counters.frames += 1;
                self.counters.bytes += len as u64;
            }
            Err(Refused::Runt) => self.counters.dropped_runt += 1,
            Err(Refused::Oversize) => self.counters.dropped_oversize += 1,
        }
    }
}

/// Where the checksum is in a TCP header (RFC 9293 section 3.1); no other protocol has it there.
const TCP_CHECKSUM: u16 = 16;

/// Bytes of an 802.1Q tag.
const TAG: usize = 4;

/// Whether the frame itself is TCP whose header begins at `start`: since Linux 6.17 a TAP is handed tunnels, VXLAN for one,
/// whose inner TCP lacks its checksum, and no gateway would finish that.
fn is_tcp(frame: &[u8], start: u16) -> bool {
    const TCP: u8 = 6;
    match frame.get(12..15) {
        Some([8, 0, first]) => {
            frame.get(23) == Some(&TCP) && usize::from(start) == MIN_FRAME + usize::from(first & 15) * 4
        }
        Some([0x86, 0xdd, _]) => frame.get(20) == Some(&TCP) && usize::from(start) == MIN_FRAME + 40,
        _ => false,
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
        /// Frames dropped, by cause.
        dropped_offload: Counter "nitrotap_drops" { direction = "tx", cause = "offload" },
        /// Super-frames moved whole: sent to the gateway as the kernel made them (tx), or joined for the kernel (rx).
        super_frames: Counter "nitrotap_super_frames" { direction = "tx" },
        /// Super-frames of the kernel that were cut, because not the gateway or no TCP, or with --strict.
        segmented: Counter "nitrotap_super_frames_cut" {},
        /// Frames that they became.
        segments: Counter "nitrotap_segments" { direction = "tx" },
        /// Checksums that the kernel left unfinished and that were finished.
        checksums_finished: Counter "nitrotap_checksums_finished" {},
        /// Checksums of TCP frames to the gateway that were left unfinished.
        checksums_left: Counter "nitrotap_checksums_left" {},
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

    const GATEWAY: MacAddr = MacAddr([2; 6]);

    fn offloading(strict: bool) -> Egress {
        let mut egress = Egress::new(1500, 4096).with_offload(strict);
        egress.handle_link_up();
        egress.handle_gateway(GATEWAY);
        egress
    }

    #[test]
    fn the_tcp_inside_a_tunnel_is_finished_whoever_takes_it() {
        let mut egress = offloading(false);
        let inner = super_frame(MacAddr([7; 6]), 6, 10);
        let mut frame = super_frame(GATEWAY, 17, 8);
        let start = frame.len() + 34;
        frame.extend(&inner);
        egress.slot().expect("room")[..frame.len()].copy_from_slice(&frame);
        let header = VnetHeader { checksum: Some((start as u16, TCP_CHECKSUM)), ..VnetHeader::default() };
        egress.handle_offloaded(header.bytes(), frame.len());
        assert_eq!((egress.counters().checksums_finished, egress.counters().checksums_left), (1, 0));
        assert_ne!(egress.pending()[2 + start + 16..][..2], [0xaa, 0xaa]);
    }

    #[test]
    fn a_super_frame_longer_than_there_is_room_to_cut_is_dropped() {
        let mut egress = Egress::new(1500, 64 << 10).with_offload(false);
        egress.handle_link_up();
        let room = egress.slot().expect("room").len();
        for len in [ROOM + 1, room] {
            let header = VnetHeader { gso: Gso::Tcp4, size: 1460, checksum: Some((34, 16)), ..VnetHeader::default() };
            egress.handle_offloaded(header.bytes(), len);
        }
        assert!(room > ROOM + 1);
        assert_eq!(egress.counters().dropped_oversize, 2);
    }

    /// A TCP or UDP super-frame over IPv4 whose checksum is not finished.
    fn super_frame(to: MacAddr, protocol: u8, payload: usize) -> Vec<u8> {
        let mut frame = [&to.0[..], &[3; 6], &[8, 0]].concat();
        frame.extend([0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        if protocol == 6 {
            frame.extend([0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0xaa, 0xaa, 0, 0]);
        } else {
            frame.extend([0, 80, 0, 81, 0, 0, 0xaa, 0xaa]);
        }
        frame.extend(vec![9; payload]);
        frame
    }

    fn offer(egress: &mut Egress, frame: &[u8], gso: Gso, size: u16) {
        let offset = if frame[23] == 6 { 16 } else { 6 };
        egress.slot().expect("room")[..frame.len()].copy_from_slice(frame);
        let header = VnetHeader { gso, size, checksum: Some((34, offset)), ..VnetHeader::default() };
        egress.handle_offloaded(header.bytes(), frame.len());
    }

    /// The lengths of what leaves.
    fn lens(egress: &mut Egress) -> Vec<usize> {
        let mut lens = Vec::new();
        while let [low, high, ..] = *egress.pending() {
            let len = usize::from(u16::from_le_bytes([low, high]));
            lens.push(len);
            egress.consume(2 + len);
        }
        lens
    }

    #[test]
    fn only_the_gateway_gets_tcp_as_it_is() {
        let frame = super_frame(GATEWAY, 6, 40_000);
        let mut egress = offloading(false);
        offer(&mut egress, &frame, Gso::Tcp4, 1460);
        assert_eq!(egress.pending()[2..], frame);
        assert_eq!(lens(&mut egress), [40_054]);
        offer(&mut egress, &super_frame(MacAddr([4; 6]), 6, 40_000), Gso::Tcp4, 1460);
        assert_eq!(lens(&mut egress).len(), 40_000_usize.div_ceil(1460));
        egress.handle_link_down();
        egress.handle_link_up();
        offer(&mut egress, &frame, Gso::Tcp4, 1460);
        assert_eq!(lens(&mut egress).len(), 40_000_usize.div_ceil(1460), "another stream, and no gateway on it yet");
        let counters = egress.counters();
        assert_eq!((counters.super_frames, counters.segmented, counters.segments), (1, 2, 56));
    }

    #[test]
    fn strict_and_udp_are_cut_whoever_takes_them() {
        for (strict, protocol, gso) in [(true, 6, Gso::Tcp4), (false, 17, Gso::Udp)] {
            let mut egress = offloading(strict);
            offer(&mut egress, &super_frame(GATEWAY, protocol, 30_000), gso, 1000);
            assert_eq!(lens(&mut egress).len(), 30);
        }
    }

    #[test]
    fn a_batch_holds_a_part_of_what_is_cut_and_nothing_is_read_meanwhile() {
        let mut egress = offloading(true);
        offer(&mut egress, &super_frame(GATEWAY, 6, 60_000), Gso::Tcp4, 8);
        assert!(egress.slot().is_none());
        assert!(egress.pending().len() < 4096 + 2 + 62);
        assert_eq!(lens(&mut egress), [62; 7500]);
        assert!(egress.slot().is_some());
        offer(&mut egress, &super_frame(GATEWAY, 6, 60_000), Gso::Tcp4, 8);
        let queued = egress.counters().segments - 7500;
        egress.handle_link_down();
        assert_eq!(egress.counters().dropped_link_down, queued + 1);
    }

    #[test]
    fn a_checksum_is_finished_unless_the_gateway_gets_it_and_it_is_of_tcp() {
        for (to, protocol, left) in [(GATEWAY, 6, true), (GATEWAY, 17, false), (MacAddr([4; 6]), 6, false)] {
            let mut egress = offloading(false);
            let frame = super_frame(to, protocol, 100);
            offer(&mut egress, &frame, Gso::None, 0);
            assert_eq!(egress.pending()[2..] == frame, left, "{to} {protocol}");
            assert_eq!(egress.counters().checksums_left, u64::from(left));
            assert_eq!(egress.counters().checksums_finished, u64::from(!left));
        }
    }

    #[test]
    fn what_cannot_be_cut_is_dropped_and_counted() {
        let mut egress = offloading(false);
        offer(&mut egress, &super_frame(GATEWAY, 1, 3000), Gso::Tcp4, 1460);
        offer(&mut egress, &super_frame(MacAddr([4; 6]), 1, 3000), Gso::Tcp4, 1460);
        offer(&mut egress, &super_frame(MacAddr([4; 6]), 6, 3000), Gso::Tcp4, 1500);
        egress.handle_offloaded([0, 3, 0, 0, 0, 0, 0, 0, 0, 0], 60);
        egress.handle_offloaded([0; VNET_LEN], MAX_FRAME + 1);
        egress.handle_offloaded([0; VNET_LEN], 1 << 20);
        let counters = egress.counters();
        assert_eq!((counters.dropped_offload, counters.dropped_oversize), (2, 3));
    }
}
