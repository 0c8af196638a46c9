//! TCP segmentation: one long IPv4 packet becomes packets of at most one MSS each, with finished checksums.
//!
//! Owns: the parsed head of the long packet. Driven by: `gateway`. Drain: [`Segmenter::write_next`] until `false`.
//! Rules (as Linux's `tcp_gso_segment`): sequence numbers advance, PSH and FIN are only on the last packet, CWR only on
//! the first, everything else is copied. IP identifications count up.

use super::checksum;
use core::ops::Range;

const IP_LEN: Range<usize> = 2..4;
const IP_ID: Range<usize> = 4..6;
const IP_CHECKSUM: Range<usize> = 10..12;
const IP_SOURCE: usize = 12;
const IP_DESTINATION: usize = 16;
const TCP: u8 = 6;
const TCP_SEQUENCE: Range<usize> = 4..8;
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: Range<usize> = 16..18;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Why a packet cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// The first nibble is not 4, or the headers do not fit.
    #[error("not a whole IPv4 packet of {0} bytes with a TCP header")]
    NotTcp(usize),
    /// Nothing can be sent in segments of no bytes.
    #[error("a segment size of 0")]
    NoSize,
}

/// Cuts one packet. Its checksums need not be finished; its IP length field is not looked at.
#[derive(Debug)]
pub struct Segmenter<'p> {
    packet: &'p [u8],
    tcp: usize,
    head: usize,
    mss: usize,
    /// Payload bytes already written.
    done: usize,
    /// Packets already written.
    count: u16,
    finished: bool,
    /// Sum of the IP header without length, identification and checksum.
    ip_sum: u64,
    /// Sum of addresses, protocol and TCP header without sequence number, flags and checksum.
    tcp_sum: u64,
}

impl<'p> Segmenter<'p> {
    /// Takes an IPv4 packet with a TCP segment and the longest payload that each packet may carry.
    ///
    /// # Errors
    /// [`SegmentError`] if it is no such packet.
    pub fn new(packet: &'p [u8], mss: usize) -> Result<Self, SegmentError> {
        let error = SegmentError::NotTcp(packet.len());
        if mss == 0 {
            return Err(SegmentError::NoSize);
        }
        let first = *packet.first().ok_or(error)?;
        let tcp = usize::from(first & 0xf) * 4;
        if first >> 4 != 4 || tcp < 20 || packet.len() < tcp + 20 || packet[9] != TCP {
            return Err(error);
        }
        let head = tcp + usize::from(packet[tcp + 12] >> 4) * 4;
        if head < tcp + 20 || packet.len() < head {
            return Err(error);
        }
        let mut ip_head = [0; 60];
        ip_head[..tcp].copy_from_slice(&packet[..tcp]);
        for range in [IP_LEN, IP_ID, IP_CHECKSUM] {
            ip_head[range].fill(0);
        }
        let mut tcp_head = [0; 60];
        let tcp_len = head - tcp;
        tcp_head[..tcp_len].copy_from_slice(&packet[tcp..head]);
        for range in [TCP_SEQUENCE, TCP_CHECKSUM] {
            tcp_head[range].fill(0);
        }
        tcp_head[TCP_FLAGS] = 0;
        let address = |at: usize| [packet[at], packet[at + 1], packet[at + 2], packet[at + 3]];
        let pseudo = checksum::pseudo_header_v4(address(IP_SOURCE), address(IP_DESTINATION), TCP, 0);
        Ok(Self {
            packet,
            tcp,
            head,
            mss,
            done: 0,
            count: 0,
            finished: false,
            ip_sum: checksum::add(0, &ip_head[..tcp]),
            tcp_sum: checksum::add(pseudo, &tcp_head[..tcp_len]),
        })
    }

    /// Bytes of the next packet; `None` when all are written.
    #[must_use]
    pub fn next_len(&self) -> Option<usize> {
        (!self.finished).then(|| self.head + self.mss.min(self.payload() - self.done))
    }

    /// Writes the next packet into `out`, which has exactly [`Segmenter::next_len`] bytes; false when none is left.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn write_next(&mut self, out: &mut [u8]) -> bool {
        let Some(len) = self.next_len() else { return false };
        assert_eq!(out.len(), len, "the packet and the room for it differ in length");
        let chunk = len - self.head;
        let last = self.done + chunk == self.payload();
        let (tcp, head) = (self.tcp, self.head);
        out[..head].copy_from_slice(&self.packet[..head]);
        let from = head + self.done;
        out[head..].copy_from_slice(&self.packet[from..from + chunk]);

        let id = u16::from_be_bytes([self.packet[IP_ID.start], self.packet[IP_ID.start + 1]]);
        // A packet was at most 65535 bytes long, and so is each part.
        let ip_len = (len as u16).to_be_bytes();
        let id = id.wrapping_add(self.count).to_be_bytes();
        out[IP_LEN].copy_from_slice(&ip_len);
        out[IP_ID].copy_from_slice(&id);
        let ip_sum = checksum::add(checksum::add(self.ip_sum, &ip_len), &id);
        out[IP_CHECKSUM].copy_from_slice(&checksum::finish(ip_sum));

        let segment = &mut out[tcp..];
        let sequence = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
        let sequence = sequence.wrapping_add(self.done as u32).to_be_bytes();
        segment[TCP_SEQUENCE].copy_from_slice(&sequence);
        if !last {
            segment[TCP_FLAGS] &= !(FIN | PSH);
        }
        if self.count > 0 {
            segment[TCP_FLAGS] &= !CWR;
        }
        let tcp_len = ((len - tcp) as u16).to_be_bytes();
        let varying =
            [tcp_len[0], tcp_len[1], sequence[0], sequence[1], sequence[2], sequence[3], 0, segment[TCP_FLAGS]];
        let sum = checksum::add(checksum::add(self.tcp_sum, &varying), &segment[head - tcp..]);
        segment[TCP_CHECKSUM].copy_from_slice(&checksum::finish(sum));

        self.done += chunk;
        self.count = self.count.wrapping_add(1);
        self.finished = last;
        true
    }

    const fn payload(&self) -> usize {
        self.packet.len() - self.head
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
                Err(SegmentError::NotTcp(len)) => len == bytes.len(),
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
