//! Ethernet, ARP (RFC 826), IPv4 (RFC 791) and TCP (RFC 9293), as far as a bench needs them.

/// Who talks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) our_mac: [u8; 6],
    pub(super) their_mac: [u8; 6],
    pub(super) our_ip: [u8; 4],
    pub(super) their_ip: [u8; 4],
    pub(super) our_port: u16,
    pub(super) their_port: u16,
}

/// What of a segment's header changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
}

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;

/// A segment that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) path: Path,
    pub(super) header: Header,
    /// Bytes of payload.
    pub(super) len: u32,
    /// Its first byte.
    pub(super) first: Option<u8>,
    /// Of a SYN's options: largest segment and window shift.
    pub(super) mss: Option<u16>,
    pub(super) shift: Option<u8>,
}

/// A frame that arrived, from our point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Who has `wanted`?
    ArpRequest {
        their_mac: [u8; 6],
        their_ip: [u8; 4],
        wanted: [u8; 4],
    },
    ArpReply {
        their_mac: [u8; 6],
        their_ip: [u8; 4],
    },
    Tcp(Segment),
    Other,
}

const ETHERNET: usize = 14;
const IP: usize = 20;
const TCP: usize = 20;
/// Ethernet, IPv4 and TCP headers without options.
pub(super) const HEADERS: usize = ETHERNET + IP + TCP;

/// Reads a frame; what is none of ours, or broken, is [`Frame::Other`].
pub(super) fn parse(frame: &[u8]) -> Frame {
    match frame.get(12..14) {
        Some([0x08, 0x06]) => arp(frame).unwrap_or(Frame::Other),
        Some([0x08, 0x00]) => tcp(frame).map_or(Frame::Other, Frame::Tcp),
        Some(_) | None => Frame::Other,
    }
}

fn arp(frame: &[u8]) -> Option<Frame> {
    let arp = frame.get(ETHERNET..ETHERNET + 28)?;
    let their_mac = arp[8..14].try_into().ok()?;
    let their_ip = arp[14..18].try_into().ok()?;
    match arp[6..8] {
        [0, 1] => Some(Frame::ArpRequest { their_mac, their_ip, wanted: arp[24..28].try_into().ok()? }),
        [0, 2] => Some(Frame::ArpReply { their_mac, their_ip }),
        _ => None,
    }
}

fn tcp(frame: &[u8]) -> Option<Segment> {
    let ip = frame.get(ETHERNET..)?;
    let (version, total) = (ip.first()?, usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?])));
    let ip_len = usize::from(version & 0x0f) * 4;
    if version >> 4 != 4 || ip_len < IP || *ip.get(9)? != 6 {
        return None;
    }
    let tcp = ip.get(ip_len..total)?;
    let tcp_len = usize::from(*tcp.get(12)? >> 4) * 4;
    if tcp_len < TCP {
        return None;
    }
    let payload = tcp.get(tcp_len..)?;
    let word = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
    let half = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    let header = Header { seq: word(4), ack: word(8), flags: tcp[13], window: half(14) };
    let (mss, shift) = if header.flags & SYN == 0 { (None, None) } else { options(&tcp[TCP..tcp_len]) };
    Some(Segment {
        path: Path {
            our_mac: frame[0..6].try_into().ok()?,
            their_mac: frame[6..12].try_into().ok()?,
            our_ip: ip[16..20].try_into().ok()?,
            their_ip: ip[12..16].try_into().ok()?,
            our_port: half(2),
            their_port: half(0),
        },
        header,
        len: u32::try_from(payload.len()).ok()?,
        first: payload.first().copied(),
        mss,
        shift,
    })
}

/// Largest segment (RFC 9293, 3.7.1) and window shift (RFC 7323, 2.2).
fn options(mut options: &[u8]) -> (Option<u16>, Option<u8>) {
    let (mut mss, mut shift) = (None, None);
    while let [kind, rest @ ..] = options {
        match (kind, rest) {
            (0, _) => break,
            (1, _) => {
                options = rest;
                continue;
            }
            (2, [4, high, low, ..]) => mss = Some(u16::from_be_bytes([*high, *low])),
            (3, [3, by, ..]) => shift = Some((*by).min(14)),
            (_, _) => {}
        }
        let Some(next) = rest.first().and_then(|len| options.get(usize::from((*len).max(2))..)) else { break };
        options = next;
    }
    (mss, shift)
}

/// Appends an ARP request (1) or reply (2), with the length that the stream wants in front.
pub(super) fn push_arp(
    out: &mut Vec<u8>,
    operation: u8,
    (our_mac, our_ip): ([u8; 6], [u8; 4]),
    (their_mac, their_ip): ([u8; 6], [u8; 4]),
) {
    out.extend_from_slice(&(ETHERNET as u16 + 28).to_le_bytes());
    out.extend_from_slice(if operation == 1 { &[0xff; 6] } else { &their_mac });
    out.extend_from_slice(&our_mac);
    out.extend_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation]);
    out.extend_from_slice(&our_mac);
    out.extend_from_slice(&our_ip);
    out.extend_from_slice(if operation == 1 { &[0; 6] } else { &their_mac });
    out.extend_from_slice(&their_ip);
}

/// Appends a segment with `len` bytes of payload, zeros but for the first, with the length that the stream wants in
/// front. `options` has a multiple of four bytes; the frame must not pass 65535 bytes.
pub(super) fn push_tcp(out: &mut Vec<u8>, path: &Path, header: Header, options: &[u8], first: u8, len: usize) {
    let total = IP + TCP + options.len() + len;
    let tcp_total = TCP + options.len() + len;
    out.extend_from_slice(&((ETHERNET + total) as u16).to_le_bytes());
    out.extend_from_slice(&path.their_mac);
    out.extend_from_slice(&path.our_mac);
    out.extend_from_slice(&[0x08, 0x00]);

    let mut ip = [0_u8; IP];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    // Do not fragment, 64 hops, TCP.
    ip[6..10].copy_from_slice(&[0x40, 0, 64, 6]);
    ip[12..16].copy_from_slice(&path.our_ip);
    ip[16..20].copy_from_slice(&path.their_ip);
    let checksum = !fold(sum(&ip));
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    out.extend_from_slice(&ip);

    let mut tcp = [0_u8; TCP];
    tcp[0..2].copy_from_slice(&path.our_port.to_be_bytes());
    tcp[2..4].copy_from_slice(&path.their_port.to_be_bytes());
    tcp[4..8].copy_from_slice(&header.seq.to_be_bytes());
    tcp[8..12].copy_from_slice(&header.ack.to_be_bytes());
    tcp[12] = (((TCP + options.len()) / 4) as u8) << 4;
    tcp[13] = header.flags;
    tcp[14..16].copy_from_slice(&header.window.to_be_bytes());
    // The payload's first byte stands at an even place, and zeros add nothing.
    let payload = if len > 0 { u32::from(first) << 8 } else { 0 };
    let pseudo = sum(&path.our_ip) + sum(&path.their_ip) + 6 + tcp_total as u32;
    let checksum = !fold(pseudo + sum(&tcp) + sum(options) + payload);
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    out.extend_from_slice(&tcp);
    out.extend_from_slice(options);
    let payload = out.len();
    out.resize(payload + len, 0);
    if len > 0 {
        out[payload] = first;
    }
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two.get(1).copied().unwrap_or(0)]))).sum()
}

const fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: Path = Path {
        our_mac: [2, 0, 0, 0, 0, 1],
        their_mac: [2, 0, 0, 0, 0, 2],
        our_ip: [192, 168, 127, 1],
        their_ip: [192, 168, 127, 2],
        our_port: 80,
        their_port: 40_000,
    };

    #[test]
    fn what_is_written_reads_back_and_verifies() {
        for (options, len) in
            [(&[2_u8, 4, 5, 180, 1, 3, 3, 7][..], 0), (&[][..], 1), (&[][..], 1460), (&[][..], 60_001)]
        {
            let header = Header { seq: 7, ack: u32::MAX, flags: if len == 0 { SYN } else { ACK | PSH }, window: 1234 };
            let mut out = Vec::new();
            push_tcp(&mut out, &PATH, header, options, b'S', len);
            let frame = &out[2..];
            assert_eq!(usize::from(u16::from_le_bytes([out[0], out[1]])), frame.len());
            let Frame::Tcp(segment) = parse(frame) else { panic!("no segment") };
            let turned = Path {
                our_mac: PATH.their_mac,
                their_mac: PATH.our_mac,
                our_ip: PATH.their_ip,
                their_ip: PATH.our_ip,
                our_port: PATH.their_port,
                their_port: PATH.our_port,
            };
            assert_eq!((segment.path, segment.header, segment.len as usize), (turned, header, len));
            assert_eq!(segment.first, (len > 0).then_some(b'S'));
            assert_eq!((segment.mss, segment.shift), if len == 0 { (Some(1460), Some(7)) } else { (None, None) });
            let (ip, tcp) = (&frame[14..34], &frame[34..]);
            assert_eq!(fold(sum(ip)), 0xffff);
            let pseudo = sum(&PATH.our_ip) + sum(&PATH.their_ip) + 6 + tcp.len() as u32;
            assert_eq!(fold(pseudo + sum(tcp)), 0xffff);
        }
    }

    #[test]
    fn arp_reads_back() {
        let mut out = Vec::new();
        let (us, them) = (([2, 0, 0, 0, 0, 1], [10, 0, 0, 1]), ([2, 0, 0, 0, 0, 2], [10, 0, 0, 2]));
        push_arp(&mut out, 1, us, them);
        assert_eq!(parse(&out[2..]), Frame::ArpRequest { their_mac: us.0, their_ip: us.1, wanted: them.1 });
        out.clear();
        push_arp(&mut out, 2, us, them);
        assert_eq!(parse(&out[2..]), Frame::ArpReply { their_mac: us.0, their_ip: us.1 });
    }

    #[test]
    fn short_and_odd_frames_are_nothing() {
        let mut out = Vec::new();
        push_tcp(&mut out, &PATH, Header { seq: 0, ack: 0, flags: SYN, window: 0 }, &[2, 4, 5, 180], 0, 0);
        let mut frame = out.split_off(2);
        for n in 0..frame.len() {
            assert_eq!(parse(&frame[..n]), Frame::Other, "{n}");
        }
        // Options that claim more than there is.
        frame[55] = 40;
        let Frame::Tcp(segment) = parse(&frame) else { panic!("still a segment") };
        assert_eq!(segment.mss, None);
    }
}
