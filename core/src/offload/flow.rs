//! What joining needs to know of a frame: whose it is, whether it may be joined, and to what.
//!
//! Owns: nothing; it looks at bytes. Driven by: `Coalescer`.

use super::checksum;
use crate::frame::MIN_FRAME as ETHERNET;

const IP4_HEAD: usize = 20;
const IP6_HEAD: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;
const UDP_HEAD: usize = 8;
const TCP_HEAD: usize = 20;
pub(super) const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
pub(super) const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;
pub(super) const CWR: u8 = 0x80;
/// The bit "don't fragment" in the seventh byte of the IPv4 header (RFC 791 section 3.1).
const DF: u8 = 0x40;

/// A whole TCP or UDP packet in an untagged frame, without IPv4 options and IPv6 extension headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) v6: bool,
    pub(super) udp: bool,
    /// Where the TCP or UDP header begins in the frame.
    pub(super) l4: usize,
    /// Where the payload begins in the frame.
    pub(super) head: usize,
    /// Bytes of the payload.
    pub(super) payload: usize,
    /// Whether it may be part of a longer packet at all.
    pub(super) joinable: bool,
}

impl Seen {
    /// Looks at a frame; `None` is for what is nobody's flow and is handed on as it is.
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        let kind = frame.get(12..ETHERNET)?;
        let ip = &frame[ETHERNET..];
        let (v6, l4, len, protocol) = match kind {
            [0x08, 0x00] if ip.len() >= IP4_HEAD && ip[0] == 0x45 && (ip[6] & 0x3f, ip[7]) == (0, 0) => {
                (false, IP4_HEAD, usize::from(u16::from_be_bytes([ip[2], ip[3]])), ip[9])
            }
            [0x86, 0xdd] if ip.len() >= IP6_HEAD && ip[0] >> 4 == 6 => {
                (true, IP6_HEAD, IP6_HEAD + usize::from(u16::from_be_bytes([ip[4], ip[5]])), ip[6])
            }
            _ => return None,
        };
        // A frame that was padded to the shortest of Ethernet does not overtake its flow, but goes as it came.
        let padded = len < ip.len();
        let segment = ip.get(l4..len)?;
        let l4 = ETHERNET + l4;
        match protocol {
            TCP if segment.len() >= TCP_HEAD => {
                let head = usize::from(segment[12] >> 4) * 4;
                if head < TCP_HEAD || head > segment.len() {
                    return None;
                }
                let payload = segment.len() - head;
                let joinable = !padded && payload > 0 && segment[13] & (SYN | RST | URG | ACK) == ACK;
                Some(Self { v6, udp: false, l4, head: l4 + head, payload, joinable })
            }
            UDP if segment.len() >= UDP_HEAD => {
                let payload = segment.len() - UDP_HEAD;
                let whole = usize::from(u16::from_be_bytes([segment[4], segment[5]])) == segment.len();
                // Without a checksum there is nothing that proves it, and nothing to restore (RFC 768).
                let joinable = !padded && payload > 0 && whole && segment[6..8] != [0, 0];
                Some(Self { v6, udp: true, l4, head: l4 + UDP_HEAD, payload, joinable })
            }
            _ => None,
        }
    }

    /// Protocol, addresses and ports.
    pub(super) fn is_same_flow(&self, frame: &[u8], other: &Self, of: &[u8]) -> bool {
        let key = self.l4 - if self.v6 { 32 } else { 8 }..self.l4 + 4;
        (self.v6, self.udp) == (other.v6, other.udp) && frame[key.clone()] == of[key]
    }

    /// Whether all headers but lengths, checksums, identification, sequence number and flags are those of the flow's
    /// `first` frame.
    ///
    /// As in Linux's `tcp_gro_receive`, an acknowledgement number, a window or a timestamp that differs ends the packet:
    /// the receiver sees each in its place, and none that a later segment brought.
    pub(super) fn has_headers_of(&self, frame: &[u8], first: &[u8]) -> bool {
        let same = |from: usize, to: usize| frame[from..to] == first[from..to];
        let ip = ETHERNET;
        let network = same(0, ip + 2)
            && if self.v6 { same(ip + 2, ip + 4) && same(ip + 6, ip + 8) } else { same(ip + 6, ip + 9) };
        network
            && (self.udp
                || (same(self.l4 + 8, self.l4 + 13)
                    && same(self.l4 + 14, self.l4 + 16)
                    && same(self.l4 + 18, self.head)))
    }

    /// Whether the flags allow it behind a segment with `before`: only CWR, FIN and PSH may differ, and CWR may not come
    /// later than first.
    pub(super) const fn may_follow(flags: u8, before: u8) -> bool {
        flags & CWR == 0 && (flags ^ before) & !(CWR | FIN | PSH) == 0
    }

    /// The flags of TCP; 0 for UDP.
    pub(super) fn flags(&self, frame: &[u8]) -> u8 {
        if self.udp { 0 } else { frame[self.l4 + 13] }
    }

    /// TCP's sequence number; 0 for UDP.
    pub(super) fn sequence(&self, frame: &[u8]) -> u32 {
        if self.udp {
            return 0;
        }
        let at = self.l4 + 4;
        u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
    }

    /// The identification that an IPv4 packet must count up; `None` where it means nothing (IPv6, and RFC 6864 for
    /// packets that may not be fragmented).
    pub(super) fn identification(&self, frame: &[u8]) -> Option<u16> {
        let meaningless = self.v6 || frame[ETHERNET + 6] & DF != 0;
        (!meaningless).then(|| u16::from_be_bytes([frame[ETHERNET + 4], frame[ETHERNET + 5]]))
    }

    /// The sum of the pseudo-header with a length of the TCP or UDP part.
    pub(super) fn pseudo_header(&self, frame: &[u8], len: usize) -> u64 {
        let addresses = if self.v6 { ETHERNET + 8..ETHERNET + 40 } else { ETHERNET + 12..ETHERNET + 20 };
        let [high, low] = (len as u16).to_be_bytes();
        checksum::add(checksum::add(0, &frame[addresses]), &[0, if self.udp { UDP } else { TCP }, high, low])
    }

    /// Whether all its checksums are right.
    pub(super) fn is_intact(&self, frame: &[u8]) -> bool {
        let pseudo = self.pseudo_header(frame, frame.len() - self.l4);
        checksum::is_valid(checksum::add(pseudo, &frame[self.l4..]))
            && (self.v6 || checksum::is_valid(checksum::add(0, &frame[ETHERNET..self.l4])))
    }
}
