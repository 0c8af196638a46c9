//! Joining what came in a row, towards the TAP: segments of one TCP flow, or datagrams of one UDP flow, become one packet
//! that the kernel takes as it takes what a network card joined (GRO).
//!
//! Owns: where the pieces of open packets are in the caller's buffer; no bytes. Driven by: `tap::Ingress`, fuzz.
//! Drain: [`Coalescer::offer`] each frame of a read; at its end [`Coalescer::oldest`] and [`Coalescer::close`] until there
//! is none. Nothing waits for another read.
//! Bounds: [`MAX_FLOWS`] packets are open, each of at most [`MAX_PIECES`] frames and 65,535 bytes.
//!
//! Nothing is copied: the pieces are handed out as slices for one gathering write, behind the first frame's headers, which
//! are rewritten in place. Every checksum is verified before; a frame with a wrong one passes as it is, for the kernel to
//! drop and count.

use super::{
    checksum,
    flow::{CWR, FIN, PSH, Seen},
    vnet::{Gso, VnetHeader},
};
use crate::frame::MIN_FRAME as ETHERNET;
use core::ops::Range;

/// Flows that may have an open packet at a time: a 64 KiB read has 43 full frames of an MTU of 1500, of seldom more flows.
pub const MAX_FLOWS: usize = 8;

/// Frames of one packet: what Linux takes of datagrams in one (`UDP_MAX_SEGMENTS`, 64 in its older releases).
pub const MAX_PIECES: usize = 64;

/// Longest IP packet (RFC 791 section 3.1), and frame of it.
const LONGEST: usize = 65_535;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Not joined: hand it on as it is.
    Pass,
    /// Part of an open packet now.
    Kept,
    /// Part of this packet, which is complete: [`Coalescer::close`] it.
    Complete(usize),
    /// Nothing yet: [`Coalescer::close`] this packet, then offer the frame again.
    Behind(usize),
}

/// What may be joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// TCP segments.
    pub tcp: bool,
    /// UDP datagrams: only where the kernel knows `VIRTIO_NET_HDR_GSO_UDP_L4` (6.2). It cuts them again for a socket
    /// that did not ask for long ones.
    pub udp: bool,
}

/// Open packets, and where their pieces are.
#[derive(Debug)]
pub struct Coalescer {
    merge: Merge,
    flows: Box<[Flow; MAX_FLOWS]>,
    /// Open packets, the oldest first: `order[..open]` are indices of `flows`, the others are free ones.
    order: [u8; MAX_FLOWS],
    open: usize,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    /// The first frame, whole.
    start: usize,
    seen: Seen,
    flags: u8,
    /// Payload of all frames.
    payload: usize,
    sequence: u32,
    identification: Option<u16>,
    count: usize,
    /// The first frame, then the payloads of the others.
    pieces: [(u32, u32); MAX_PIECES],
}

/// A closed packet: its header and where its bytes are.
#[derive(Clone, Copy, Debug)]
pub struct Joined<'c> {
    /// What to write before it; the default if the packet is one frame as it came.
    pub header: VnetHeader,
    pieces: &'c [(u32, u32)],
}

impl Joined<'_> {
    /// Frames that went into it.
    #[must_use]
    pub const fn frames(&self) -> usize {
        self.pieces.len()
    }

    /// Its bytes, in order, as ranges of the buffer.
    pub fn pieces(&self) -> impl Iterator<Item = Range<usize>> {
        self.pieces.iter().map(|(from, to)| *from as usize..*to as usize)
    }
}

impl Coalescer {
    /// One with no open packet.
    #[must_use]
    pub fn new(merge: Merge) -> Self {
        let seen = Seen { v6: false, udp: false, l4: 0, head: 0, payload: 0, joinable: false };
        let flow = Flow {
            start: 0,
            seen,
            flags: 0,
            payload: 0,
            sequence: 0,
            identification: None,
            count: 0,
            pieces: [(0, 0); MAX_PIECES],
        };
        let order = core::array::from_fn(|i| i as u8);
        Self { merge, flows: Box::new([flow; MAX_FLOWS]), order, open: 0 }
    }

    /// Looks at the frame in `buf[at]`; the buffer must stay as it is while packets are open, and be no longer than
    /// 4 GiB.
    pub fn offer(&mut self, buf: &[u8], at: Range<usize>) -> Step {
        let frame = &buf[at.clone()];
        let Some(seen) = Seen::parse(frame).filter(|seen| if seen.udp { self.merge.udp } else { self.merge.tcp })
        else {
            return Step::Pass;
        };
        let found = self.order[..self.open].iter().map(|i| usize::from(*i)).find(|i| {
            let flow = &self.flows[*i];
            seen.is_same_flow(frame, &flow.seen, &buf[flow.start..flow.start + flow.seen.head])
        });
        let Some(found) = found else { return self.begin(&seen, frame, at) };
        let flow = &mut self.flows[found];
        if !seen.joinable || !flow.continues_with(&seen, frame, buf) {
            return Step::Behind(found);
        }
        if !seen.is_intact(frame) {
            return Step::Pass;
        }
        flow.append(&seen, frame, (at.start + seen.head) as u32, at.end as u32);
        if flow.is_complete() { Step::Complete(found) } else { Step::Kept }
    }

    /// The packet that was opened first of those that are open.
    #[must_use]
    pub fn oldest(&self) -> Option<usize> {
        (self.open > 0).then(|| usize::from(self.order[0]))
    }

    /// Closes packet `which`, and makes the headers of its first frame those of the whole.
    ///
    /// # Panics
    /// If it is not open.
    pub fn close(&mut self, buf: &mut [u8], which: usize) -> Joined<'_> {
        let place = self.order[..self.open].iter().position(|i| usize::from(*i) == which);
        let place = place.unwrap_or_else(|| panic!("packet {which} is not open"));
        self.order[place..self.open].rotate_left(1);
        self.open -= 1;
        let flow = &self.flows[which];
        Joined { header: flow.finish(buf), pieces: &flow.pieces[..flow.count] }
    }

    fn begin(&mut self, seen: &Seen, frame: &[u8], at: Range<usize>) -> Step {
        let flags = seen.flags(frame);
        // Of two as long as this one, no length field could tell.
        if !seen.joinable || flags & (FIN | PSH) != 0 || seen.head + 2 * seen.payload > LONGEST {
            return Step::Pass;
        }
        if self.open == MAX_FLOWS {
            return Step::Behind(usize::from(self.order[0]));
        }
        if !seen.is_intact(frame) {
            return Step::Pass;
        }
        let flow = &mut self.flows[usize::from(self.order[self.open])];
        self.open += 1;
        (flow.start, flow.seen, flow.flags, flow.payload, flow.count) = (at.start, *seen, flags, 0, 0);
        flow.append(seen, frame, at.start as u32, at.end as u32);
        Step::Kept
    }
}

impl Flow {
    fn continues_with(&self, seen: &Seen, frame: &[u8], buf: &[u8]) -> bool {
        let first = &buf[self.start..self.start + self.seen.head];
        seen.head == self.seen.head
            && seen.payload <= self.seen.payload
            && seen.has_headers_of(frame, first)
            && Seen::may_follow(seen.flags(frame), self.flags)
            && (seen.udp || seen.sequence(frame) == self.sequence)
            && seen.identification(frame) == self.identification
    }

    fn append(&mut self, seen: &Seen, frame: &[u8], from: u32, to: u32) {
        self.pieces[self.count] = (from, to);
        self.count += 1;
        self.payload += seen.payload;
        self.flags |= seen.flags(frame);
        self.sequence = seen.sequence(frame).wrapping_add(seen.payload as u32);
        self.identification = seen.identification(frame).map(|id| id.wrapping_add(1));
    }

    /// Whether no frame may follow.
    const fn is_complete(&self) -> bool {
        let size = self.seen.payload;
        self.flags & (FIN | PSH) != 0
            || self.payload < size * self.count
            || self.count == MAX_PIECES
            || self.seen.head + self.payload + size > LONGEST
    }

    fn finish(&self, buf: &mut [u8]) -> VnetHeader {
        if self.count == 1 {
            return VnetHeader::default();
        }
        let Seen { v6, udp, l4, head, payload: size, .. } = self.seen;
        let frame = &mut buf[self.start..self.start + head];
        let len = head + self.payload;
        let l4_len = len - l4;
        let ip = ETHERNET;
        if v6 {
            frame[ip + 4..ip + 6].copy_from_slice(&(l4_len as u16).to_be_bytes());
        } else {
            frame[ip + 2..ip + 4].copy_from_slice(&((len - ip) as u16).to_be_bytes());
            frame[ip + 10..ip + 12].fill(0);
            let sum = checksum::finish(checksum::add(0, &frame[ip..l4]));
            frame[ip + 10..ip + 12].copy_from_slice(&sum);
        }
        let partial = checksum::partial(self.seen.pseudo_header(frame, l4_len));
        let offset = if udp {
            frame[l4 + 4..l4 + 6].copy_from_slice(&(l4_len as u16).to_be_bytes());
            6
        } else {
            frame[l4 + 13] = self.flags;
            16
        };
        frame[l4 + offset..l4 + offset + 2].copy_from_slice(&partial);
        let gso = match (udp, v6) {
            (true, _) => Gso::Udp,
            (false, false) => Gso::Tcp4,
            (false, true) => Gso::Tcp6,
        };
        VnetHeader {
            gso,
            ecn: self.flags & CWR != 0,
            head: head as u16,
            size: size as u16,
            checksum: Some((l4 as u16, offset as u16)),
        }
    }
}
