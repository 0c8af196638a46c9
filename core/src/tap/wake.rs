//! Questions to our own kernel, so that its connections notice a host that does not know them.
//!
//! Owns: nothing. Driven by: the link's task, each time that the link is up again. Bounds: [`MAX_WOKEN`] frames.
//!
//! An app that only waits to receive is never told that the host was started anew: the new one knows nothing of the
//! connection, and can only answer a segment. So the kernel is made to send one: it is handed an acknowledgement that seems
//! to come from the peer, with numbers far from the right ones, which it answers with the right ones (RFC 9293 section
//! 3.10.7.4). A host that has the connection takes that as a proof that the guest has it too; one that has not resets it,
//! and so does stock gvproxy. A connection that goes on is not touched. To destroy sockets instead (`SOCK_DESTROY`) one has to
//! know that the host is a new one, and needs a kernel that was built for it.
//! By chance, one time in thousands, a number is right: then the segment says nothing new, and that connection is not woken.

use crate::{frame::PREFIX_LEN, link::MacAddr};
use core::net::{IpAddr, SocketAddr};
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        ETHERNET_HEADER_LEN, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, IpRepr,
        TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
    },
};

/// Connections asked at a time: the TAP's queue holds twice as many answers.
pub const MAX_WOKEN: usize = 4096;

/// For each connection, given by our end and the peer's, one frame from `gateway` to the TAP with address `mac`, with its
/// length in front, as a stream from the host would bring them. Pairs of two families are left out.
#[must_use]
pub fn wake(
    connections: impl Iterator<Item = (SocketAddr, SocketAddr)>,
    mac: MacAddr,
    gateway: MacAddr,
    seed: u64,
) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = Vec::new();
    for (ours, peers) in connections.filter(|(ours, peers)| ours.is_ipv4() == peers.is_ipv4()).take(MAX_WOKEN) {
        let tcp = TcpRepr {
            src_port: peers.port(),
            dst_port: ours.port(),
            control: TcpControl::None,
            seq_number: TcpSeqNumber(rng.i32(..)),
            ack_number: Some(TcpSeqNumber(rng.i32(..))),
            window_len: 0,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let (source, destination): (IpAddr, IpAddr) = (peers.ip(), ours.ip());
        let ip = IpRepr::new(source.into(), destination.into(), IpProtocol::Tcp, tcp.buffer_len(), 64);
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress(gateway.0),
            dst_addr: EthernetAddress(mac.0),
            ethertype: if ours.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 },
        };
        let len = ETHERNET_HEADER_LEN + ip.buffer_len();
        bytes.extend((len as u16).to_le_bytes());
        let start = bytes.len();
        bytes.resize(start + len, 0);
        let mut frame = EthernetFrame::new_unchecked(&mut bytes[start..]);
        ethernet.emit(&mut frame);
        let packet = frame.payload_mut();
        let checksums = ChecksumCapabilities::default();
        ip.emit(&mut *packet, &checksums);
        let segment = &mut packet[ip.header_len()..];
        tcp.emit(&mut TcpPacket::new_unchecked(segment), &source.into(), &destination.into(), &checksums);
    }
    debug_assert!(bytes.len() <= MAX_WOKEN * (PREFIX_LEN + ETHERNET_HEADER_LEN + 60));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{frame::Framing, offload::checksum};

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    #[test]
    fn each_connection_is_asked_from_its_peer_with_a_sound_segment_that_carries_nothing() {
        let connections: [(SocketAddr, SocketAddr); 3] = [
            (([192, 168, 127, 2], 40_000).into(), ([203, 0, 113, 9], 443).into()),
            ("[fd00:1::2]:40001".parse().unwrap(), "[2001:db8::9]:80".parse().unwrap()),
            ("[fd00:1::2]:40001".parse().unwrap(), ([203, 0, 113, 9], 443).into()),
        ];
        let bytes = wake(connections.into_iter(), MAC, GATEWAY, 1);
        let (four, taken) = Framing::Hyperkit.split(&bytes).unwrap();
        let (six, rest) = Framing::Hyperkit.split(&bytes[taken..]).unwrap();
        assert_eq!(taken + rest, bytes.len(), "two families are no connection");
        for (frame, head, kind) in [(four, 20, [8, 0]), (six, 40, [0x86, 0xdd])] {
            assert_eq!((&frame[..6], &frame[6..12], &frame[12..14]), (&MAC.0[..], &GATEWAY.0[..], &kind[..]));
            assert_eq!(frame.len(), 14 + head + 20);
            assert_eq!(frame[14 + head + 13], 0x10, "an acknowledgement and nothing else");
        }
        assert_eq!((&four[26..30], &four[30..34]), (&[203, 0, 113, 9][..], &[192, 168, 127, 2][..]));
        assert_eq!((&four[34..36], &four[36..38]), (&443_u16.to_be_bytes()[..], &40_000_u16.to_be_bytes()[..]));
        let pseudo = checksum::pseudo_header_v4([203, 0, 113, 9], [192, 168, 127, 2], 6, 20);
        assert!(checksum::is_valid(checksum::add(pseudo, &four[34..])));
        assert!(checksum::is_valid(checksum::add(0, &four[14..34])));
    }

    #[test]
    fn their_number_is_bounded() {
        let one = (([192, 168, 127, 2], 40_000).into(), ([203, 0, 113, 9], 443).into());
        let bytes = wake(std::iter::repeat_n(one, 3 * MAX_WOKEN), MAC, GATEWAY, 1);
        assert_eq!(bytes.len(), MAX_WOKEN * (2 + 14 + 40));
    }
}
