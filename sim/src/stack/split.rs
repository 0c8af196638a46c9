//! What a wire would have carried in place of a super-frame, for whoever keeps books of frames.
//!
//! smoltcp's views of the headers do the work, none of `core::offload`. Rules as of Linux's `tcp_gso_segment`,
//! `__udp_gso_segment` and `inet_gso_segment`. Owns: nothing.

use super::vnet::{ETHERNET, Refused, take};
use nitrotap_core::offload::VNET_LEN;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket};

/// Why a packet could not be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// No TAP would take it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It is a super-frame of something else than TCP or UDP over IPv4.
    #[error("a super-frame that is neither TCP nor UDP over IPv4")]
    Unknown,
}

/// The frames that a packet with this header stands for, each with finished checksums: itself, if it is none that is cut.
///
/// # Errors
/// [`SplitError`].
pub fn split(header: &[u8; VNET_LEN], frame: &[u8]) -> Result<Vec<Vec<u8>>, SplitError> {
    let taken = take(header, frame)?;
    let Some(size) = taken.size else { return Ok(vec![taken.frame]) };
    let (head, protocol) = parse(&taken.frame).ok_or(SplitError::Unknown)?;
    let end = ETHERNET + usize::from(u16::from_be_bytes([frame[ETHERNET + 2], frame[ETHERNET + 3]]));
    let payload = taken.frame.get(head..end).ok_or(SplitError::Unknown)?;
    let count = payload.len().div_ceil(size);
    let parts = payload.chunks(size).enumerate().map(|(i, part)| {
        let mut out = taken.frame[..head].to_vec();
        out.extend_from_slice(part);
        let len = out.len() - ETHERNET;
        let mut ip = Ipv4Packet::new_unchecked(&mut out[ETHERNET..]);
        // What is sent in one piece is no longer than 65,535 bytes, and so are its parts.
        ip.set_total_len(len as u16);
        ip.set_ident(ip.ident().wrapping_add(i as u16));
        ip.fill_checksum();
        let (from, to): (IpAddress, IpAddress) = (ip.src_addr().into(), ip.dst_addr().into());
        if protocol == IpProtocol::Tcp {
            let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
            tcp.set_seq_number(tcp.seq_number() + i * size);
            let is_last = i + 1 == count;
            tcp.set_fin(tcp.fin() && is_last);
            tcp.set_psh(tcp.psh() && is_last);
            tcp.set_cwr(tcp.cwr() && i == 0);
            tcp.fill_checksum(&from, &to);
        } else {
            let mut udp = UdpPacket::new_unchecked(ip.payload_mut());
            udp.set_len(8 + part.len() as u16);
            udp.fill_checksum(&from, &to);
        }
        out
    });
    Ok(parts.collect())
}

/// Bytes of all headers, and the protocol.
fn parse(frame: &[u8]) -> Option<(usize, IpProtocol)> {
    let ethernet = EthernetFrame::new_checked(frame).ok().filter(|it| it.ethertype() == EthernetProtocol::Ipv4)?;
    let ip = Ipv4Packet::new_checked(ethernet.payload()).ok().filter(|ip| ip.version() == 4)?;
    let head = ETHERNET + usize::from(ip.header_len());
    if ip.next_header() == IpProtocol::Tcp {
        let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
        return Some((head + usize::from(tcp.header_len()), IpProtocol::Tcp));
    }
    (ip.next_header() == IpProtocol::Udp && ip.payload().len() >= 8).then_some((head + 8, IpProtocol::Udp))
}

/// A frame without what joining and splitting may change: the identification of an IPv4 packet that may not be fragmented
/// has no meaning (RFC 6864 section 4.1).
#[must_use]
pub fn comparable(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if parse(&frame).is_some() {
        let mut ip = Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]);
        if ip.dont_frag() && ip.verify_checksum() {
            ip.set_ident(0);
            ip.fill_checksum();
        }
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::{super::vnet::tests::frame, *};
    use nitrotap_core::offload::Segmenter;
    use quickcheck::quickcheck;

    /// A header that asks for parts of this size.
    fn header(udp: bool, size: u16) -> [u8; VNET_LEN] {
        let [low, high] = size.to_le_bytes();
        if udp { [1, 5, 42, 0, low, high, 34, 0, 6, 0] } else { [1, 1, 54, 0, low, high, 34, 0, 16, 0] }
    }

    /// Whether smoltcp finds lengths and checksums right.
    fn is_right(frame: &[u8], udp: bool) -> bool {
        let ip = Ipv4Packet::new_checked(&frame[14..]).unwrap();
        let (from, to) = (ip.src_addr().into(), ip.dst_addr().into());
        let right = if udp {
            UdpPacket::new_checked(ip.payload()).unwrap().verify_checksum(&from, &to)
        } else {
            TcpPacket::new_checked(ip.payload()).unwrap().verify_checksum(&from, &to)
        };
        right && ip.verify_checksum() && usize::from(ip.total_len()) == frame.len() - 14
    }

    quickcheck! {
        fn frames_verify_and_hold_the_payload_and_are_those_that_core_cuts(
            payload: Vec<u8>, repeat: u16, size: u16, udp: bool
        ) -> bool {
            let mut payload = payload.repeat(1 + usize::from(repeat % 2000));
            let size = 1 + size % 2000;
            payload.truncate(60_000.min(usize::from(size) * if udp { 128 } else { 2000 }));
            let whole = frame(if udp { 17 } else { 6 }, &payload);
            let head = whole.len() - payload.len();
            let frames = split(&header(udp, size), &whole).unwrap();
            let mut segmenter = Segmenter::new(&whole[14..], size.into()).unwrap();
            let cut = std::iter::from_fn(|| {
                let mut part = vec![0; segmenter.next_len()?];
                segmenter.write_next(&mut part).then(|| [&whole[..14], &part].concat())
            });
            assert!(cut.eq(frames.iter().cloned()));
            assert!(frames.iter().all(|frame| is_right(frame, udp) && frame.len() <= head + usize::from(size)));
            frames.iter().flat_map(|frame| &frame[head..]).eq(&payload)
        }
    }

    #[test]
    fn flags_and_numbers_are_those_of_each_segment() {
        // The flags are CWR, ACK, PSH and FIN; sequence number and identification wrap around.
        let frames = split(&header(false, 1000), &frame(6, &[5; 2500])).unwrap();
        assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [1054, 1054, 554]);
        let seen: Vec<_> = frames.iter().map(|frame| (&frame[18..20], &frame[38..42], frame[47])).collect();
        let expected: [(&[u8], &[u8], u8); 3] = [
            (&[0xff, 0xff], &[0xff, 0xff, 0xff, 0xf0], 0x90),
            (&[0, 0], &[0, 0, 3, 0xd8], 0x10),
            (&[0, 1], &[0, 0, 7, 0xc0], 0x19),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_is_no_super_frame_is_one_frame_with_a_finished_checksum() {
        let short = frame(6, &[5; 100]);
        for header in [header(false, 100), [1, 0, 0, 0, 0, 0, 34, 0, 16, 0]] {
            let frames = split(&header, &short).unwrap();
            assert_eq!(frames.len(), 1);
            assert!(is_right(&frames[0], false) && !is_right(&short, false));
        }
        let mut other = frame(6, &[5; 100]);
        other[23] = 1;
        assert_eq!(split(&header(false, 50), &other), Err(SplitError::Unknown));
        assert_eq!(split(&header(false, 0), &short), Err(SplitError::Refused(Refused::Size(0))));
    }

    #[test]
    fn frames_compare_but_for_an_identification_without_a_meaning() {
        let frames = split(&header(false, 1000), &frame(6, &[5; 2000])).unwrap();
        let mut other = frames[0].clone();
        let mut ip = Ipv4Packet::new_unchecked(&mut other[14..]);
        ip.set_ident(9);
        assert_ne!(comparable(&other), comparable(&frames[0]), "a wrong checksum");
        Ipv4Packet::new_unchecked(&mut other[14..]).fill_checksum();
        assert_eq!(comparable(&other), comparable(&frames[0]));
        let mut ip = Ipv4Packet::new_unchecked(&mut other[14..]);
        ip.set_dont_frag(false);
        ip.fill_checksum();
        assert_eq!(comparable(&other), other);
    }
}
