//! Segmentation: one long IP packet becomes packets of at most one segment size each, with finished checksums.
//!
//! Owns: the parsed head of the long packet. Driven by: `gateway`, `tap::Egress`. Drain: `write_next` until `false`.
//! Rules (as Linux's `tcp_gso_segment` and `__udp_gso_segment`): sequence numbers advance, PSH and FIN are only on the
//! last packet, CWR only on the first, everything else is copied, the traffic class with its ECN bits too. IPv4
//! identifications count up. A UDP payload becomes datagrams of equal size, with a shorter one at the end.
//! Bounds: nothing is kept but 80 bytes; a payload of n bytes gives n / size packets, rounded up, at least one.

use super::checksum;
use core::ops::Range;

const IP_LEN: Range<usize> = 2..4;
const IP_ID: Range<usize> = 4..6;
const IP_CHECKSUM: Range<usize> = 10..12;
/// IPv6: bytes behind the 40 of the fixed header (RFC 8200 section 3).
const IP6_LEN: Range<usize> = 4..6;
const IP6_HEAD: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_SEQUENCE: Range<usize> = 4..8;
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: Range<usize> = 16..18;
const UDP_HEAD: usize = 8;
const UDP_LEN: Range<usize> = 4..6;
const UDP_CHECKSUM: Range<usize> = 6..8;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Why a packet cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// The first nibble is neither 4 nor 6, it is a fragment or of another protocol, or the headers do not fit.
    #[error("not a whole IP packet of {0} bytes with a TCP or UDP header")]
    Malformed(usize),
    /// An IPv6 header that is followed by this one, which is no TCP and no UDP (IANA protocol numbers).
    #[error("an IPv6 packet whose next header is {0}, neither TCP (6) nor UDP (17)")]
    Extension(u8),
    /// Nothing can be sent in segments of no bytes.
    #[error("a segment size of 0")]
    NoSize,
}

/// Cuts one packet. Its checksums need not be finished; its length fields are not looked at.
#[derive(Debug)]
pub struct Segmenter<'p> {
    packet: &'p [u8],
    plan: Plan,
}

impl<'p> Segmenter<'p> {
    /// Takes an IP packet with TCP or UDP and the longest payload that each packet may carry.
    ///
    /// # Errors
    /// [`SegmentError`] if it is no such packet.
    pub fn new(packet: &'p [u8], mss: usize) -> Result<Self, SegmentError> {
        Ok(Self { packet, plan: Plan::new(packet, mss)? })
    }

    /// Bytes of the next packet; `None` when all are written.
    #[must_use]
    pub fn next_len(&self) -> Option<usize> {
        self.plan.next_len()
    }

    /// Writes the next packet into `out`, which has exactly [`Segmenter::next_len`] bytes; false when none is left.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn write_next(&mut self, out: &mut [u8]) -> bool {
        self.plan.write_next(self.packet, out)
    }
}

/// A [`Segmenter`] that does not hold its packet: for who cuts it with pauses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    v6: bool,
    udp: bool,
    /// Where the TCP or UDP header begins.
    l4: usize,
    head: usize,
    mss: usize,
    /// Bytes of the whole packet.
    total: usize,
    /// Payload bytes already written.
    done: usize,
    /// Packets already written.
    count: u16,
    finished: bool,
    /// Sum of the IPv4 header without length, identification and checksum.
    ip_sum: u64,
    /// Sum of addresses, protocol and TCP or UDP header without what varies.
    l4_sum: u64,
}

impl Plan {
    pub(crate) fn new(packet: &[u8], mss: usize) -> Result<Self, SegmentError> {
        let error = SegmentError::Malformed(packet.len());
        if mss == 0 {
            return Err(SegmentError::NoSize);
        }
        let first = *packet.first().ok_or(error)?;
        let (v6, l4, addresses) = match first >> 4 {
            4 => (false, usize::from(first & 0xf) * 4, 12..20),
            6 => (true, IP6_HEAD, 8..40),
            _ => return Err(error),
        };
        if l4 < 20 || packet.len() < l4 + UDP_HEAD || (!v6 && (packet[6] & 0x3f, packet[7]) != (0, 0)) {
            return Err(error);
        }
        let protocol = if v6 { packet[6] } else { packet[9] };
        let udp = protocol == UDP;
        if !udp && protocol != TCP {
            return Err(if v6 { SegmentError::Extension(protocol) } else { error });
        }
        let head = if udp {
            l4 + UDP_HEAD
        } else {
            if packet.len() < l4 + 20 {
                return Err(error);
            }
            l4 + usize::from(packet[l4 + 12] >> 4) * 4
        };
        if packet.len() < head || head < l4 + if udp { UDP_HEAD } else { 20 } {
            return Err(error);
        }
        let mut ip_head = [0; 60];
        if !v6 {
            ip_head[..l4].copy_from_slice(&packet[..l4]);
            for range in [IP_LEN, IP_ID, IP_CHECKSUM] {
                ip_head[range].fill(0);
            }
        }
        let mut l4_head = [0; 60];
        let l4_len = head - l4;
        l4_head[..l4_len].copy_from_slice(&packet[l4..head]);
        if udp {
            l4_head[UDP_LEN].fill(0);
            l4_head[UDP_CHECKSUM].fill(0);
        } else {
            l4_head[TCP_SEQUENCE].fill(0);
            l4_head[TCP_CHECKSUM].fill(0);
            l4_head[TCP_FLAGS] = 0;
        }
        let pseudo = checksum::add(checksum::add(0, &packet[addresses]), &[0, protocol]);
        Ok(Self {
            v6,
            udp,
            l4,
            head,
            mss,
            total: packet.len(),
            done: 0,
            count: 0,
            finished: false,
            ip_sum: checksum::add(0, &ip_head),
            l4_sum: checksum::add(pseudo, &l4_head[..l4_len]),
        })
    }

    /// Whether it is UDP.
    pub(crate) const fn is_udp(&self) -> bool {
        self.udp
    }

    pub(crate) fn next_len(&self) -> Option<usize> {
        (!self.finished).then(|| self.head + self.mss.min(self.total - self.head - self.done))
    }

    /// As [`Segmenter::write_next`]; `packet` is the one that the plan was made of.
    pub(crate) fn write_next(&mut self, packet: &[u8], out: &mut [u8]) -> bool {
        let Some(len) = self.next_len() else { return false };
        assert_eq!(out.len(), len, "the packet and the room for it differ in length");
        let (l4, head) = (self.l4, self.head);
        let chunk = len - head;
        let last = head + self.done + chunk == self.total;
        out[..head].copy_from_slice(&packet[..head]);
        let from = head + self.done;
        out[head..].copy_from_slice(&packet[from..from + chunk]);

        if self.v6 {
            // Checked against the frame's limit by who sends it: no part is longer than 65535 bytes.
            out[IP6_LEN].copy_from_slice(&((len - IP6_HEAD) as u16).to_be_bytes());
        } else {
            let id = u16::from_be_bytes([packet[IP_ID.start], packet[IP_ID.start + 1]]);
            let ip_len = (len as u16).to_be_bytes();
            let id = id.wrapping_add(self.count).to_be_bytes();
            out[IP_LEN].copy_from_slice(&ip_len);
            out[IP_ID].copy_from_slice(&id);
            let ip_sum = checksum::add(checksum::add(self.ip_sum, &ip_len), &id);
            out[IP_CHECKSUM].copy_from_slice(&checksum::finish(ip_sum));
        }

        let segment = &mut out[l4..];
        let l4_len = ((len - l4) as u16).to_be_bytes();
        if self.udp {
            segment[UDP_LEN].copy_from_slice(&l4_len);
            // The length counts twice: in the header and in the pseudo-header (RFC 768).
            let sum = checksum::add(self.l4_sum, &[l4_len[0], l4_len[1], l4_len[0], l4_len[1]]);
            let sum = checksum::add(sum, &segment[head - l4..]);
            segment[UDP_CHECKSUM].copy_from_slice(&checksum::finish_udp(sum));
        } else {
            let sequence = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
            let sequence = sequence.wrapping_add(self.done as u32).to_be_bytes();
            segment[TCP_SEQUENCE].copy_from_slice(&sequence);
            if !last {
                segment[TCP_FLAGS] &= !(FIN | PSH);
            }
            if self.count > 0 {
                segment[TCP_FLAGS] &= !CWR;
            }
            let varying =
                [l4_len[0], l4_len[1], sequence[0], sequence[1], sequence[2], sequence[3], 0, segment[TCP_FLAGS]];
            let sum = checksum::add(checksum::add(self.l4_sum, &varying), &segment[head - l4..]);
            segment[TCP_CHECKSUM].copy_from_slice(&checksum::finish(sum));
        }

        self.done += chunk;
        self.count = self.count.wrapping_add(1);
        self.finished = last;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    /// An IPv4 packet with 12 bytes of TCP options.
    fn packet(flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0xff, 0xfe, 0x40, 0, 64, TCP, 0, 0, 192, 168, 127, 1, 192, 168, 127, 2];
        packet.extend([0, 80, 0x9c, 0x40, 0xff, 0xff, 0xff, 0xf0, 1, 2, 3, 4, 0x80, flags, 1, 0, 0xaa, 0xbb, 0, 0]);
        packet.extend([1, 1, 8, 10, 5, 5, 5, 5, 6, 6, 6, 6]);
        packet.extend(payload);
        packet
    }

    fn cut(packet: &[u8], mss: usize) -> Vec<Vec<u8>> {
        let mut segmenter = Segmenter::new(packet, mss).unwrap();
        let mut out = Vec::new();
        while let Some(len) = segmenter.next_len() {
            let mut part = vec![0; len];
            assert!(segmenter.write_next(&mut part));
            out.push(part);
        }
        assert!(!segmenter.write_next(&mut []));
        out
    }

    fn verify(part: &[u8]) {
        assert!(checksum::is_valid(checksum::add(0, &part[..20])));
        let pseudo = checksum::pseudo_header_v4(
            part[12..16].try_into().unwrap(),
            part[16..20].try_into().unwrap(),
            TCP,
            (part.len() - 20) as u16,
        );
        assert!(checksum::is_valid(checksum::add(pseudo, &part[20..])));
        assert_eq!(u16::from_be_bytes([part[2], part[3]]) as usize, part.len());
    }

    quickcheck! {
        fn parts_verify_and_join_to_the_whole(payload: Vec<u8>, repeat: u8, mss: u8, flags: u8) -> bool {
            let payload = payload.repeat(1 + usize::from(repeat));
            let payload = &payload[..payload.len().min(60_000)];
            let mss = 1 + usize::from(mss) * 7;
            let whole = packet(flags, payload);
            let parts = cut(&whole, mss);
            let mut joined: Vec<u8> = Vec::new();
            for (i, part) in parts.iter().enumerate() {
                verify(part);
                assert!(part.len() <= 52 + mss);
                let sequence = u32::from_be_bytes(part[24..28].try_into().unwrap());
                assert_eq!(sequence, 0xffff_fff0_u32.wrapping_add(joined.len() as u32));
                assert_eq!(u16::from_be_bytes([part[4], part[5]]), 0xfffe_u16.wrapping_add(i as u16));
                let last = i + 1 == parts.len();
                let expected = flags & if last { 0xff } else { !(FIN | PSH) } & if i == 0 { 0xff } else { !CWR };
                assert_eq!(part[33], expected);
                assert_eq!(part[34..36], whole[34..36], "the window");
                assert_eq!(part[40..52], whole[40..52], "the options");
                joined.extend(&part[52..]);
            }
            joined == payload
        }

        fn arbitrary_bytes_are_refused_or_cut(bytes: Vec<u8>, mss: u8) -> bool {
            match Segmenter::new(&bytes, usize::from(mss)) {
                Ok(_) => !cut(&bytes, usize::from(mss)).is_empty(),
                Err(SegmentError::NoSize) => mss == 0,
                Err(SegmentError::Malformed(len)) => len == bytes.len(),
                Err(SegmentError::Extension(next)) => bytes[0] >> 4 == 6 && bytes[6] == next,
            }
        }
    }

    #[test]
    fn a_packet_without_payload_stays_one() {
        let parts = cut(&packet(0x12, &[]), 1460);
        assert_eq!(parts.len(), 1);
        verify(&parts[0]);
    }
}
