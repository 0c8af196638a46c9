//! Laws of segmentation and joining, checked by a second implementation: sums word by word, packets read by smoltcp.

use nitrotap_core::{
    link::MacAddr,
    offload::{Coalescer, Gso, Merge, Segmenter, Step, VnetHeader},
    tap::{Egress, Ingress},
};
use quickcheck::{Arbitrary, Gen, quickcheck};
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, TcpPacket, UdpPacket},
};

const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// RFC 1071, one word after the other: all ones if the bytes with their checksum are unchanged.
fn naive(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    sum as u16
}

/// A long packet as a kernel makes it.
#[derive(Clone, Debug)]
struct Long {
    v6: bool,
    udp: bool,
    port: u8,
    flags: u8,
    ecn: u8,
    options: bool,
    may_fragment: bool,
    payload: Vec<u8>,
    mss: usize,
    to: MacAddr,
}

impl Arbitrary for Long {
    fn arbitrary(g: &mut Gen) -> Self {
        let mss = *g.choose(&[1, 2, 8, 100, 536, 1000, 1208, 1400]).expect("not empty");
        let count = *g.choose(&[1, 2, 3, 20, 43, 44, 60]).expect("not empty");
        let len = (mss * count + usize::arbitrary(g) % mss).clamp(1, 60_000);
        let seed = u8::arbitrary(g);
        Self {
            v6: bool::arbitrary(g),
            udp: bool::arbitrary(g),
            port: u8::arbitrary(g) % 4,
            flags: ACK | (u8::arbitrary(g) & (FIN | PSH | ECE | CWR)),
            ecn: u8::arbitrary(g) % 4,
            options: bool::arbitrary(g),
            may_fragment: bool::arbitrary(g),
            payload: (0..len).map(|i| (i * 7 + i / 251) as u8 ^ seed).collect(),
            mss,
            to: *g.choose(&[GATEWAY, OTHER, MacAddr([0xff; 6])]).expect("not empty"),
        }
    }
}

impl Long {
    fn l4(&self) -> usize {
        14 + if self.v6 { 40 } else { 20 }
    }

    fn head(&self) -> usize {
        self.l4() + if self.udp { 8 } else { 20 + if self.options { 12 } else { 0 } }
    }

    fn gso(&self) -> Gso {
        match (self.udp, self.v6) {
            (true, _) => Gso::Udp,
            (false, false) => Gso::Tcp4,
            (false, true) => Gso::Tcp6,
        }
    }

    fn checksum(&self) -> (u16, u16) {
        (self.l4() as u16, if self.udp { 6 } else { 16 })
    }

    /// With the sum of the pseudo-header where the checksum belongs.
    fn frame(&self) -> Vec<u8> {
        let mut frame = [&self.to.0[..], &US.0].concat();
        let protocol = if self.udp { 17 } else { 6 };
        let l4_len = (self.head() - self.l4() + self.payload.len()) as u16;
        let addresses: Vec<u8> = if self.v6 {
            frame.extend([0x86, 0xdd, 0x60, self.ecn << 4, 1, 2]);
            frame.extend(l4_len.to_be_bytes());
            frame.extend([protocol, 64]);
            (0..32).map(|i| if i % 16 == 0 { 0xfd } else { i }).collect()
        } else {
            frame.extend([8, 0, 0x45, self.ecn]);
            frame.extend((20 + l4_len).to_be_bytes());
            frame.extend([0xff, 0xf0, if self.may_fragment { 0 } else { 0x40 }, 0, 64, protocol, 0, 0]);
            vec![192, 168, 127, 2, 192, 168, 127, 1]
        };
        frame.extend(&addresses);
        if !self.v6 {
            let sum = !naive(&[&frame[14..34]]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        let pseudo = naive(&[&addresses, &[0, protocol], &l4_len.to_be_bytes()]).to_be_bytes();
        frame.extend([0x9c, self.port, 0x1f, 0x90]);
        if self.udp {
            frame.extend(l4_len.to_be_bytes());
            frame.extend(pseudo);
        } else {
            let words = if self.options { 0x80 } else { 0x50 };
            frame.extend([0xff, 0xff, 0xf0, 0, 1, 2, 3, 4, words, self.flags, 1, 0, pseudo[0], pseudo[1], 0, 0]);
            if self.options {
                frame.extend([1, 1, 8, 10, 5, 5, 5, 5, 6, 6, 6, 6]);
            }
        }
        frame.extend(&self.payload);
        frame
    }

    fn header(&self) -> VnetHeader {
        VnetHeader { gso: self.gso(), size: self.mss as u16, checksum: Some(self.checksum()), ..VnetHeader::default() }
    }
}

/// Reads a frame with smoltcp, which checks lengths, and sums it up here.
fn assert_finished(frame: &[u8]) {
    let (packet, protocol, addresses) = if frame[12] == 8 {
        let packet = Ipv4Packet::new_checked(&frame[14..]).expect("a whole IPv4 packet");
        Ipv4Repr::parse(&packet, &ChecksumCapabilities::default()).expect("with a right checksum");
        assert_eq!(usize::from(packet.total_len()), frame.len() - 14);
        assert_eq!(naive(&[&frame[14..34]]), 0xffff);
        (&frame[34..], packet.next_header(), &frame[26..34])
    } else {
        let packet = Ipv6Packet::new_checked(&frame[14..]).expect("a whole IPv6 packet");
        assert_eq!(packet.total_len(), frame.len() - 14);
        (&frame[54..], packet.next_header(), &frame[22..54])
    };
    if protocol == IpProtocol::Udp {
        let packet = UdpPacket::new_checked(packet).expect("a whole datagram");
        assert_ne!(packet.checksum(), 0, "that would be none");
    } else {
        assert_eq!(protocol, IpProtocol::Tcp);
        TcpPacket::new_checked(packet).expect("a whole segment");
    }
    let len = (packet.len() as u16).to_be_bytes();
    assert_eq!(naive(&[addresses, &[0, protocol.into()], &len, packet]), 0xffff, "a right checksum");
}

fn cut(long: &Long) -> Vec<Vec<u8>> {
    let frame = long.frame();
    let mut segmenter = Segmenter::new(&frame[14..], long.mss).expect("a packet that can be cut");
    let mut parts = Vec::new();
    while let Some(len) = segmenter.next_len() {
        let mut part = frame[..14].to_vec();
        part.resize(14 + len, 0);
        assert!(segmenter.write_next(&mut part[14..]));
        parts.push(part);
    }
    parts
}

/// What an ingress makes of a stream, given in reads of at most 64 KiB.
fn join(frames: &[Vec<u8>], merge: Merge) -> (Vec<(VnetHeader, Vec<u8>)>, Ingress) {
    let stream: Vec<u8> = frames.iter().flat_map(|f| [&(f.len() as u16).to_le_bytes()[..], f].concat()).collect();
    let mut ingress = Ingress::new(1500, US, 64 << 10).with_offload(merge);
    let mut packets = Vec::new();
    for chunk in stream.chunks(64 << 10) {
        ingress.space()[..chunk.len()].copy_from_slice(chunk);
        ingress.handle_read(chunk.len());
        while let Some(packet) = ingress.next_packet() {
            let bytes: Vec<u8> = packet.pieces().flatten().copied().collect();
            packets.push((VnetHeader::parse(packet.header, bytes.len()).expect("a header of ours"), bytes));
        }
    }
    (packets, ingress)
}

const BOTH: Merge = Merge { tcp: true, udp: true };

/// Cuts what was joined again, with the sizes that its header tells.
fn cut_again((header, bytes): &(VnetHeader, Vec<u8>)) -> Vec<Vec<u8>> {
    if header.gso == Gso::None {
        return vec![bytes.clone()];
    }
    let mut segmenter = Segmenter::new(&bytes[14..], header.size.into()).expect("a packet that can be cut");
    let mut parts = Vec::new();
    while let Some(len) = segmenter.next_len() {
        let mut part = bytes[..14].to_vec();
        part.resize(14 + len, 0);
        segmenter.write_next(&mut part[14..]);
        parts.push(part);
    }
    parts
}

quickcheck! {
    fn every_segment_is_whole_and_verifies(long: Long) -> bool {
        let parts = cut(&long);
        parts.iter().for_each(|part| assert_finished(part));
        parts.iter().all(|part| part.len() <= long.head() + long.mss)
            && parts.iter().flat_map(|part| &part[long.head()..]).eq(&long.payload)
    }

    fn cutting_then_joining_is_the_identity(long: Long) -> bool {
        let parts = cut(&long);
        let (packets, ingress) = join(&parts, BOTH);
        let rejoined: Vec<u8> = packets.iter().flat_map(|(_, bytes)| &bytes[long.head()..]).copied().collect();
        assert!(rejoined == long.payload, "the payload");
        let frames = packets.iter().map(|(header, bytes)| match header.gso {
            Gso::None => 1,
            Gso::Tcp4 | Gso::Tcp6 | Gso::Udp => (bytes.len() - long.head()).div_ceil(header.size.into()),
        });
        assert_eq!(frames.sum::<usize>(), parts.len());
        // One packet, if it is of few enough pieces and was read in one piece.
        let whole: usize = parts.iter().map(|part| part.len() + 2).sum();
        if parts.len() <= 64 && parts.len() > 1 && whole <= 64 << 10 {
            let [(header, bytes)] = &packets[..] else { panic!("{} packets", packets.len()) };
            assert_eq!((header.gso, usize::from(header.size)), (long.gso(), long.mss));
            assert_eq!(header.checksum, Some(long.checksum()));
            assert_eq!(header.ecn, !long.udp && long.flags & CWR != 0);
            assert_eq!(ingress.counters().joined, parts.len() as u64);
            return *bytes == long.frame();
        }
        true
    }

    fn joining_then_cutting_is_the_identity(longs: Vec<Long>) -> bool {
        // Flows interleave in a fixed order: each next frame is of the next one that has any.
        let mut queues: Vec<_> = longs.iter().take(10).enumerate().map(|(i, long)| {
            let frames = cut(long);
            frames.into_iter().map(|mut frame| { frame[11] = i as u8; frame }).collect::<Vec<_>>().into_iter()
        }).collect();
        let mut stream = Vec::new();
        loop {
            let before = stream.len();
            stream.extend(queues.iter_mut().filter_map(Iterator::next));
            if stream.len() == before {
                break;
            }
        }
        let (packets, _) = join(&stream, BOTH);
        let mut out: Vec<Vec<u8>> = packets.iter().flat_map(cut_again).collect();
        let count = out.len();
        // Within a flow the order stays; between flows it does not matter.
        out.sort_by_key(|frame| frame[11]);
        stream.sort_by_key(|frame| frame[11]);
        count == stream.len() && out == stream
    }

    fn a_wrong_byte_is_never_hidden(long: Long, at: usize, bit: u8) -> bool {
        let mut parts = cut(&long);
        let which = at % parts.len();
        let part = &mut parts[which];
        // Anywhere that a checksum covers; TTL, lengths and addresses included.
        let byte = 14 + at / 7 % (part.len() - 14);
        if long.v6 && !(22..).contains(&byte) {
            return true;
        }
        part[byte] ^= 1 << (bit % 8);
        let wrong = part.clone();
        let (packets, _) = join(&parts, BOTH);
        packets.iter().any(|(header, bytes)| *header == VnetHeader::default() && *bytes == wrong)
    }

    fn anything_else_passes_unchanged(frames: Vec<Vec<u8>>) -> bool {
        let frames: Vec<Vec<u8>> = frames.into_iter().map(|f| [&US.0[..], &GATEWAY.0, &f].concat()).filter(|f| f.len() >= 14).collect();
        let (packets, _) = join(&frames, BOTH);
        packets.iter().map(|(header, bytes)| { assert_eq!(*header, VnetHeader::default()); bytes }).eq(&frames)
    }

    fn nothing_unfinished_leaves_but_tcp_to_the_gateway(longs: Vec<Long>, strict: bool, known: bool, single: bool) -> bool {
        let mut egress = Egress::new(1500, 32 << 10).with_offload(strict);
        egress.handle_link_up();
        if known {
            egress.handle_gateway(GATEWAY);
        }
        let mut stream = Vec::new();
        let mut payload = 0;
        for long in &longs {
            let mut long = long.clone();
            let header = if single {
                long.payload.truncate(1000);
                VnetHeader { checksum: Some(long.checksum()), ..VnetHeader::default() }
            } else {
                long.header()
            };
            payload += long.payload.len();
            while !egress.pending().is_empty() {
                let n = egress.pending().len().min(1000);
                stream.extend_from_slice(&egress.pending()[..n]);
                egress.consume(n);
            }
            let frame = long.frame();
            egress.slot().expect("all is written")[..frame.len()].copy_from_slice(&frame);
            egress.handle_offloaded(header.bytes(), frame.len());
        }
        while !egress.pending().is_empty() {
            stream.extend_from_slice(egress.pending());
            egress.consume(egress.pending().len());
        }
        let mut rest = &stream[..];
        while let [low, high, tail @ ..] = rest {
            let (frame, tail) = tail.split_at(usize::from(u16::from_le_bytes([*low, *high])));
            rest = tail;
            let tcp = frame[if frame[12] == 8 { 23 } else { 20 }] == 6;
            let l4 = if frame[12] == 8 { 34 } else { 54 };
            payload -= frame.len() - if tcp { l4 + usize::from(frame[l4 + 12] >> 4) * 4 } else { l4 + 8 };
            if strict || !known || !tcp || !frame.starts_with(&GATEWAY.0) {
                assert!(frame.len() <= 1518);
                assert_finished(frame);
            }
        }
        payload == 0
    }
}

/// A single frame with a finished checksum.
fn single(udp: bool, payload: usize) -> Vec<u8> {
    let long = Long {
        v6: false,
        udp,
        port: 1,
        flags: ACK,
        ecn: 0,
        options: false,
        may_fragment: false,
        payload: vec![7; payload],
        mss: payload,
        to: US,
    };
    cut(&long).remove(0)
}

#[test]
fn frames_too_long_for_one_packet_together_go_alone() {
    for (udp, payload) in [(true, 40_000), (false, 40_000), (false, 65_480), (true, 33_000)] {
        let first = single(udp, payload);
        let mut second = first.clone();
        if !udp {
            second[38..42].copy_from_slice(
                &(u32::from_be_bytes([0xff, 0xff, 0xf0, 0]).wrapping_add(payload as u32)).to_be_bytes(),
            );
        }
        let (packets, _) = join(&[first.clone(), second.clone()], BOTH);
        let bytes: Vec<_> = packets.iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(bytes.len(), 2, "{payload}");
        assert!(*bytes[0] == first && *bytes[1] == second, "{payload}");
    }
}

#[test]
fn a_padded_frame_stays_behind_its_flow() {
    let first = single(true, 100);
    let mut last = single(true, 10);
    last.resize(60, 0);
    let (packets, _) = join(&[first.clone(), first, last.clone()], BOTH);
    assert_eq!(packets.iter().map(|(header, _)| header.gso).collect::<Vec<_>>(), [Gso::Udp, Gso::None]);
    assert!(packets[1].1 == last);
}

#[test]
fn a_ninth_flow_closes_the_oldest_and_a_pure_acknowledgement_closes_its_own() {
    let long = |port: u8, payload: usize| Long {
        v6: false,
        udp: false,
        port,
        flags: ACK,
        ecn: 0,
        options: true,
        may_fragment: false,
        payload: vec![port; payload],
        mss: 100,
        to: US,
    };
    let mut coalescer = Coalescer::new(BOTH);
    let mut buf = Vec::new();
    let mut ranges = Vec::new();
    for port in 0..9 {
        let part = cut(&long(port, 100)).remove(0);
        assert_finished(&part);
        ranges.push(buf.len()..buf.len() + part.len());
        buf.extend(part);
    }
    for range in &ranges[..8] {
        assert_eq!(coalescer.offer(&buf, range.clone()), Step::Kept);
    }
    let Step::Behind(oldest) = coalescer.offer(&buf, ranges[8].clone()) else { panic!("eight are open") };
    let joined = coalescer.close(&mut buf, oldest);
    assert_eq!(joined.pieces().collect::<Vec<_>>(), [ranges[0].clone()]);
    assert_eq!(joined.header, VnetHeader::default());
    assert_eq!(coalescer.offer(&buf, ranges[8].clone()), Step::Kept);

    let mut ack = buf[ranges[3].clone()].to_vec();
    ack.truncate(66);
    ack[16..18].copy_from_slice(&52_u16.to_be_bytes());
    let at = buf.len()..buf.len() + ack.len();
    buf.extend(ack);
    let Step::Behind(third) = coalescer.offer(&buf, at.clone()) else { panic!("its flow is open") };
    assert_eq!(coalescer.close(&mut buf, third).pieces().collect::<Vec<_>>(), [ranges[3].clone()]);
    assert_eq!(coalescer.offer(&buf, at), Step::Pass);
}
