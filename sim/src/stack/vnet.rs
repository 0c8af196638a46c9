//! The virtio-net header as a kernel writes and reads it (`linux/virtio_net.h`, Linux 6.18).
//!
//! None of `core::offload` is used here: what ships is judged by somebody who has no part in it.
//! Owns: nothing. Driven by: `device` on the way out, `host` on the way in, `split`.

use nitrotap_core::offload::VNET_LEN;

/// A frame between a kernel and its TAP, with what is left to do to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// `struct virtio_net_hdr`, little-endian; zeros where nothing is left to do, which is always so in a TAP without headers.
    pub header: [u8; VNET_LEN],
    /// The frame; before a host has put its Ethernet header there, the IP packet.
    pub bytes: Vec<u8>,
}

impl Packet {
    /// A frame that is as it will be.
    #[must_use]
    pub const fn plain(bytes: Vec<u8>) -> Self {
        Self { header: [0; VNET_LEN], bytes }
    }
}

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV4`.
const TCPV4: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_UDP`.
const UFO: u8 = 3;
/// `VIRTIO_NET_HDR_GSO_TCPV6`.
const TCPV6: u8 = 4;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`.
const UDP_L4: u8 = 5;
/// `VIRTIO_NET_HDR_GSO_ECN`.
const ECN: u8 = 0x80;
/// `GSO_BY_FRAGS`.
const BY_FRAGS: u16 = 0xffff;
/// `UDP_MAX_SEGMENTS`.
const UDP_SEGMENTS: usize = 128;

pub(super) const ETHERNET: usize = 14;
const IP4: usize = 20;
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;

/// Longest payload of a super-frame: a TCP stack keeps the room of all its headers free in 64 KiB
/// (`GSO_LEGACY_MAX_SIZE - 1 - MAX_TCP_HEADER`, of which the last is 320 on most kernels).
const LONGEST: usize = (64 << 10) - 1 - 320;

/// Bytes of a super-frame's payload on an interface with this MTU: as many whole segments as fit (`tcp_send_mss`).
pub(super) const fn goal(mtu: usize) -> usize {
    let mss = mtu - IP4 - 20;
    if mss >= LONGEST { mss } else { LONGEST / mss * mss }
}

/// Leaves a TCP packet's checksum to the device, and its segmentation too if `mss` is given: the header that says so.
/// The packet's checksum field becomes the sum of the pseudo-header (`CHECKSUM_PARTIAL`).
pub(super) fn leave(packet: &mut [u8], mss: Option<u16>) -> [u8; VNET_LEN] {
    let sum = pseudo_header(packet, IP4);
    packet[IP4 + 16..IP4 + 18].copy_from_slice(&sum.to_be_bytes());
    let tcp = usize::from(packet[IP4 + 12] >> 4) * 4;
    let (kind, head, size) = match mss {
        Some(mss) => (TCPV4, (ETHERNET + IP4 + tcp) as u16, mss),
        None => (0, 0, 0),
    };
    write(NEEDS_CSUM, kind, [head, size, (ETHERNET + IP4) as u16, TCP_CHECKSUM])
}

/// Leaves a UDP packet's checksum to the device.
pub(super) fn leave_udp(packet: &mut [u8]) -> [u8; VNET_LEN] {
    let sum = pseudo_header(packet, IP4);
    packet[IP4 + 6..IP4 + 8].copy_from_slice(&sum.to_be_bytes());
    write(NEEDS_CSUM, 0, [0, 0, (ETHERNET + IP4) as u16, UDP_CHECKSUM])
}

fn write(flags: u8, kind: u8, fields: [u16; 4]) -> [u8; VNET_LEN] {
    let mut header = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0];
    for (place, field) in header[2..].chunks_exact_mut(2).zip(fields) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    header
}

/// Why a TAP does not take a packet: `EINVAL` of `tun_get_user` and `virtio_net_hdr_to_skb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Shorter than an Ethernet header.
    #[error("a frame of {0} bytes")]
    Short(usize),
    /// Its headers are said to end behind its end, or inside the Ethernet header.
    #[error("headers of {head} bytes in a frame of {len}")]
    Head {
        /// What the header says, or needs at least.
        head: usize,
        /// Bytes of the frame.
        len: usize,
    },
    /// An unknown kind of segmentation, or ECN with one that has none.
    #[error("the segmentation type {0:#04x}")]
    Kind(u8),
    /// A segment size that is none.
    #[error("segments of {0} bytes")]
    Size(u16),
    /// A checksum that ends behind the frame, or begins inside the IP header.
    #[error("a checksum at {start} + {offset} in a frame of {len} bytes")]
    Checksum {
        /// Where what it covers begins.
        start: usize,
        /// Where its field is from there.
        offset: usize,
        /// Bytes of the frame.
        len: usize,
    },
    /// The checksum's field is not where that protocol has it, or a kind that needs it has none left to finish.
    #[error("the segmentation type {kind:#04x} with a checksum at {offset:?} of its header")]
    Field {
        /// The kind of segmentation.
        kind: u8,
        /// Where the field is.
        offset: Option<u16>,
    },
    /// More datagrams than one packet may hold.
    #[error("{0} bytes of datagrams, more than 128 of them")]
    Datagrams(usize),
}

/// What a TAP has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// The frame with its checksums finished.
    pub(super) frame: Vec<u8>,
    /// Payload bytes of each segment, if it is a super-frame.
    pub(super) size: Option<usize>,
    /// The checksum that was to be finished held something else than the pseudo-header's sum. Linux does not look, as
    /// whoever leaves it is trusted; a wire would have carried a wrong one.
    pub(super) is_wrong: bool,
}

/// Takes a packet as a TAP does, or refuses it.
pub(super) fn take(header: &[u8; VNET_LEN], frame: &[u8]) -> Result<Taken, Refused> {
    let [flags, kind, ..] = *header;
    let field = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let (size, offset) = (field(4), field(8));
    let (mut head, start) = (usize::from(field(2)), usize::from(field(6)));
    let (len, checksum) = (frame.len(), (flags & NEEDS_CSUM != 0).then_some(offset));
    // tun_get_user
    if checksum.is_some() {
        head = head.max(start + usize::from(offset) + 2);
    }
    if len < ETHERNET {
        return Err(Refused::Short(len));
    }
    if head > len || (head > 0 && head < ETHERNET) {
        return Err(Refused::Head { head, len });
    }
    // virtio_net_hdr_to_skb
    let (network, transport, known) = match kind & !ECN {
        TCPV4 => (IP4, 20, Some(TCP_CHECKSUM)),
        TCPV6 => (40, 20, Some(TCP_CHECKSUM)),
        UFO => (IP4, 8, None),
        UDP_L4 if kind == UDP_L4 => (IP4, 8, Some(UDP_CHECKSUM)),
        0 if kind == 0 => (IP4, 0, None),
        _ => return Err(Refused::Kind(kind)),
    };
    if kind != 0 && (size == 0 || size == BY_FRAGS) {
        return Err(Refused::Size(size));
    }
    let payload = match checksum {
        Some(offset) => {
            let needed = start + transport.max(usize::from(offset) + 2);
            if needed > len || start < network {
                return Err(Refused::Checksum { start, offset: offset.into(), len });
            }
            start + transport
        }
        None => network + transport,
    };
    if kind != 0 && payload > len {
        return Err(Refused::Head { head: payload, len });
    }
    let is_udp = kind == UDP_L4;
    if known.is_some_and(|known| checksum.map_or(is_udp, |offset| offset != known)) {
        return Err(Refused::Field { kind, offset: checksum });
    }
    if is_udp && len - payload > usize::from(size) * UDP_SEGMENTS {
        return Err(Refused::Datagrams(len - payload));
    }
    let mut frame = frame.to_vec();
    let is_wrong = checksum.is_some_and(|offset| finish(&mut frame, start, usize::from(offset)));
    // The datagram that UFO cuts has a header only in its first fragment.
    let head = if kind == UFO { payload - transport } else { payload };
    let is_long = kind != 0 && len - head > usize::from(size);
    Ok(Taken { frame, size: is_long.then_some(size.into()), is_wrong })
}

/// Finishes a checksum; true if what it held was not the sum of an IPv4 packet's pseudo-header.
fn finish(frame: &mut [u8], start: usize, offset: usize) -> bool {
    let at = start + offset;
    let held = u16::from_be_bytes([frame[at], frame[at + 1]]);
    let is_ip4 = frame[12..14] == [8, 0] && start >= ETHERNET + IP4;
    let is_wrong = is_ip4 && fold(pseudo_header(&frame[ETHERNET..], start - ETHERNET).into()) != fold(held.into());
    let sum = match !fold(sum(&frame[start..])) {
        // Which stands for no checksum at all (RFC 768).
        0 if offset == usize::from(UDP_CHECKSUM) => 0xffff,
        sum => sum,
    };
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    is_wrong
}

/// The sum of an IPv4 packet's pseudo-header (RFC 9293 section 3.1), whose TCP or UDP header begins at `transport`.
fn pseudo_header(packet: &[u8], transport: usize) -> u16 {
    let len = u16::from_be_bytes([packet[2], packet[3]]).wrapping_sub(transport as u16);
    fold(sum(&packet[12..20]) + u64::from(packet[9]) + u64::from(len))
}

/// The 16-bit words of `bytes` added up (RFC 1071), two at a time.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().chain([&last]).map(|word| u64::from(u32::from_be_bytes(*word))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use nitrotap_core::offload::{VnetHeader, finish_checksum};
    use quickcheck::quickcheck;

    /// An IPv4 packet in a frame, with a TCP header of 20 bytes or one of UDP, and a checksum of the pseudo-header alone.
    pub(in crate::stack) fn frame(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = [&[2; 6][..], &[3; 6], &[8, 0]].concat();
        let transport = if protocol == 6 { 20 } else { 8 };
        let len = (20 + transport + payload.len()) as u16;
        frame.extend([0x45, 0, len.to_be_bytes()[0], len.to_be_bytes()[1], 0xff, 0xff, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        let checksum = !fold(sum(&frame[14..]));
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        frame.extend([0, 80, 0, 81]);
        if protocol == 6 {
            frame.extend([0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 2, 0x50, 0x99, 1, 0, 0, 0, 0, 0]);
        } else {
            let [high, low] = (len - 20).to_be_bytes();
            frame.extend([high, low, 0, 0]);
        }
        frame.extend(payload);
        let at = if protocol == 6 { 50 } else { 40 };
        let sum = pseudo_header(&frame[14..], 20);
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    fn is_right(frame: &[u8]) -> bool {
        let pseudo = u64::from(pseudo_header(&frame[14..], 20));
        fold(sum(&frame[34..]) + pseudo) == 0xffff && fold(sum(&frame[14..34])) == 0xffff
    }

    #[test]
    fn what_is_left_to_the_device_is_laid_out_as_in_the_header_file() {
        let mut packet = frame(6, &[7; 5000])[14..].to_vec();
        let sum = packet[36..38].to_vec();
        packet[36..38].fill(0);
        assert_eq!(leave(&mut packet, Some(1460)), [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0]);
        assert_eq!(packet[36..38], sum);
        assert_eq!(leave(&mut packet, None), [1, 0, 0, 0, 0, 0, 34, 0, 16, 0]);
    }

    #[test]
    fn a_super_frame_has_as_many_whole_segments_as_linux_gives_it() {
        assert_eq!([1500, 9001, 65_520].map(goal), [44 * 1460, 7 * 8961, 65_480]);
    }

    #[test]
    fn what_linux_refuses_is_refused() {
        let (tcp, udp) = (frame(6, &[0; 3000]), frame(17, &[0; 3000]));
        let refused = |frame: &[u8], flags, kind, fields| take(&write(flags, kind, fields), frame).unwrap_err();
        assert_eq!(refused(&tcp[..13], 0, 0, [0; 4]), Refused::Short(13));
        assert_eq!(refused(&tcp[..60], 0, 0, [61, 0, 0, 0]), Refused::Head { head: 61, len: 60 });
        assert_eq!(refused(&tcp, 0, 0, [13, 0, 0, 0]), Refused::Head { head: 13, len: 3054 });
        assert_eq!(refused(&tcp[..51], 1, 0, [0, 0, 34, 16]), Refused::Head { head: 52, len: 51 });
        assert_eq!(refused(&tcp[..30], 0, 1, [0, 1, 0, 0]), Refused::Head { head: 40, len: 30 });
        assert_eq!(refused(&tcp, 1, 2, [54, 1460, 34, 16]), Refused::Kind(2));
        assert_eq!(refused(&tcp, 0, 0x80, [0; 4]), Refused::Kind(0x80));
        assert_eq!(refused(&udp, 1, 0x85, [42, 1000, 34, 6]), Refused::Kind(0x85));
        assert_eq!(refused(&tcp, 1, 1, [54, 0, 34, 16]), Refused::Size(0));
        assert_eq!(refused(&tcp, 1, 1, [54, 0xffff, 34, 16]), Refused::Size(0xffff));
        assert_eq!(refused(&tcp, 1, 0, [0, 0, 19, 16]), Refused::Checksum { start: 19, offset: 16, len: 3054 });
        assert_eq!(refused(&tcp, 1, 4, [0, 99, 39, 16]), Refused::Checksum { start: 39, offset: 16, len: 3054 });
        assert_eq!(refused(&tcp[..53], 1, 1, [0, 99, 34, 16]), Refused::Checksum { start: 34, offset: 16, len: 53 });
        assert_eq!(refused(&tcp, 1, 1, [54, 1460, 34, 6]), Refused::Field { kind: 1, offset: Some(6) });
        assert_eq!(refused(&udp, 0, 5, [42, 1000, 0, 0]), Refused::Field { kind: 5, offset: None });
        assert_eq!(refused(&udp, 1, 5, [42, 23, 34, 6]), Refused::Datagrams(3000));
    }

    #[test]
    fn what_linux_takes_is_taken_and_its_checksum_finished() {
        let (tcp, udp) = (frame(6, &[1; 3000]), frame(17, &[1; 3000]));
        for (frame, header, size) in [
            (&tcp, write(1, 1, [54, 1460, 34, 16]), Some(1460)),
            (&tcp, write(1, 0x81, [0, 1460, 34, 16]), Some(1460)),
            // No longer than one segment.
            (&tcp, write(1, 1, [54, 3000, 34, 16]), None),
            (&tcp, write(1, 0, [0, 0, 34, 16]), None),
            (&udp, write(1, 5, [42, 24, 34, 6]), Some(24)),
        ] {
            let taken = take(&header, frame).unwrap();
            assert_eq!((taken.size, taken.is_wrong), (size, false));
            assert!(is_right(&taken.frame), "{header:?}");
        }
        // DATA_VALID says nothing to a TAP.
        for flags in [0, 2] {
            let taken = take(&write(flags, 1, [0, 1460, 0, 0]), &tcp).unwrap();
            assert_eq!(taken, Taken { frame: tcp.clone(), size: Some(1460), is_wrong: false });
        }
        let mut wrong = tcp;
        wrong[51] ^= 1;
        let taken = take(&write(1, 1, [54, 1460, 34, 16]), &wrong).unwrap();
        assert!(taken.is_wrong && !is_right(&taken.frame));
    }

    quickcheck! {
        fn any_packet_is_refused_or_finished_as_core_finishes_it(header: Vec<u8>, payload: Vec<u8>, udp: bool, cut: u8) -> bool {
            let mut frame = frame(if udp { 17 } else { 6 }, &payload);
            frame.truncate(frame.len() - usize::from(cut % 64).min(frame.len()));
            let mut bytes = [0; VNET_LEN];
            for (i, (to, from)) in bytes.iter_mut().zip(header).enumerate() {
                // Half of them make sense.
                *to = match (i, from % 2) { (0, 0) => 1, (1, 0) => [0, 1, 4, 5][usize::from(from / 2 % 4)], (3 | 5 | 7 | 9, 0) => 0, _ => from };
            }
            let Ok(taken) = take(&bytes, &frame) else { return true };
            let Ok(header) = VnetHeader::parse(bytes, frame.len()) else { return bytes[1] & 0x7f == UFO };
            if let Some(checksum) = header.checksum {
                finish_checksum(&mut frame, checksum);
            }
            taken.frame == frame
        }
    }
}
