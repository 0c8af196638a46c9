//! Segmentation, joining and the virtio-net header: what comes out against what went in.

use nitrotap_core::{
    frame::{Decoder, MAX_FRAME},
    link::MacAddr,
    offload::{Gso, Merge, Segmenter, VNET_LEN, VnetHeader},
    tap::{Egress, Ingress},
};

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const ETHERNET: usize = 14;
const MTU: u16 = 1500;

/// Two bytes of segment size, then an IP packet: refused, or its payload comes out whole and in order.
pub fn segment(data: &[u8]) {
    let Some((size, packet)) = data.split_first_chunk() else { return };
    let size = usize::from(u16::from_be_bytes(*size));
    let Ok(mut segmenter) = Segmenter::new(packet, size) else { return };
    let (mut payload, mut head) = (Vec::new(), None);
    while let Some(len) = segmenter.next_len() {
        let mut part = vec![0; len];
        assert!(segmenter.write_next(&mut part));
        let head = *head.get_or_insert_with(|| if len == packet.len() { len } else { len - size });
        assert!(len <= head + size);
        payload.extend_from_slice(&part[head.min(len)..]);
        assert!(payload.len() <= packet.len(), "no more comes out than went in");
    }
    let head = head.unwrap_or_else(|| panic!("at least one packet"));
    assert_eq!(payload, packet[head..]);
}

/// A stream of length-prefixed frames, as read at once: what is joined is what came, once it is cut again.
pub fn coalesce(data: &[u8]) {
    let mut plain = Decoder::new(64 << 10);
    let data = &data[..data.len().min(plain.space().len())];
    plain.space()[..data.len()].copy_from_slice(data);
    plain.commit(data.len());
    let mut came = Vec::new();
    while let Some(frame) = plain.next_frame() {
        came.push(comparable(frame));
    }

    let mut ingress = Ingress::new(MTU, MacAddr([2; 6]), 64 << 10).with_offload(Merge { tcp: true, udp: true });
    ingress.space()[..data.len()].copy_from_slice(data);
    ingress.handle_read(data.len());
    let mut went = Vec::new();
    while let Some(packet) = ingress.next_packet() {
        let bytes: Vec<u8> = packet.pieces().flatten().copied().collect();
        let header = VnetHeader::parse(packet.header, bytes.len()).unwrap_or_else(|error| panic!("{error}"));
        if header.gso == Gso::None {
            assert_eq!(packet.frames(), 1);
            went.push(comparable(&bytes));
            continue;
        }
        let (link, ip) = bytes.split_at(ETHERNET);
        let mut segmenter = Segmenter::new(ip, header.size.into()).unwrap_or_else(|error| panic!("{error}"));
        let before = went.len();
        while let Some(len) = segmenter.next_len() {
            let mut frame = link.to_vec();
            frame.resize(ETHERNET + len, 0);
            segmenter.write_next(&mut frame[ETHERNET..]);
            went.push(comparable(&frame));
        }
        assert_eq!(went.len() - before, packet.frames());
    }
    // Flows overtake each other.
    came.sort_unstable();
    went.sort_unstable();
    assert!(came == went, "{} frames came and {} went", came.len(), went.len());
}

/// A frame without what joining may change: the identification of an IPv4 packet that may not be fragmented, and the
/// two ways to write a checksum of zero.
fn comparable(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame.len() >= 34 && frame[12..14] == [8, 0] && frame[20] & 0x40 != 0 {
        frame[18..20].fill(0);
        frame[24..26].fill(0);
    }
    for field in [24, 40, 50, 60, 70] {
        if frame.get(field..field + 2) == Some(&[0xff, 0xff]) {
            frame[field..field + 2].fill(0);
        }
    }
    frame
}

/// A byte of flags (1: strict, 2: no gateway), a virtio-net header, and the frame behind it: refused, or what leaves are
/// frames, none longer than the MTU allows but those to the gateway.
pub fn vnet_header(data: &[u8]) {
    let Some((flags, rest)) = data.split_first() else { return };
    let Some((header, frame)) = rest.split_first_chunk::<VNET_LEN>() else { return };
    let frame = &frame[..frame.len().min(MAX_FRAME)];
    if let Ok(parsed) = VnetHeader::parse(*header, frame.len()) {
        assert_eq!(VnetHeader::parse(parsed.bytes(), frame.len()), Ok(parsed));
    }
    let mut egress = Egress::new(MTU, 32 << 10).with_offload(flags & 1 != 0);
    egress.handle_link_up();
    if flags & 2 == 0 {
        egress.handle_gateway(GATEWAY);
    }
    if let Some(slot) = egress.slot() {
        slot[..frame.len()].copy_from_slice(frame);
    }
    egress.handle_offloaded(*header, frame.len());
    let mut decoder = Decoder::new(64 << 10);
    let mut bytes = 0;
    while !egress.pending().is_empty() {
        let n = egress.pending().len().min(decoder.space().len());
        decoder.space()[..n].copy_from_slice(&egress.pending()[..n]);
        egress.consume(n);
        decoder.commit(n);
        while let Some(frame) = decoder.next_frame() {
            bytes += frame.len() as u64;
            let whole = flags & 3 == 0 && frame.starts_with(&GATEWAY.0);
            assert!(whole || frame.len() <= 1518, "{} bytes", frame.len());
        }
    }
    assert_eq!(decoder.finish(), Ok(()));
    let counters = egress.counters();
    assert_eq!(bytes, counters.bytes);
    let drops = counters.dropped_runt + counters.dropped_oversize + counters.dropped_offload;
    assert!((counters.frames > 0) != (drops > 0), "sent or dropped, and counted: {counters:?}");
}
