use super::*;
use crate::gateway::fragments::{HEADER_LEN, Header, fragment};
use crate::gateway::wire;
use core::net::Ipv4Addr;
use quickcheck::quickcheck;
use smoltcp::wire::IpProtocol;

const NOW: Instant = Instant::from_millis(7);

fn header(ident: u16) -> Header {
    Header {
        src: Ipv4Addr::new(192, 168, 127, 2),
        dst: Ipv4Addr::new(1, 1, 1, 1),
        protocol: IpProtocol::Udp,
        ttl: 61,
        ident,
    }
}

fn payload(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ i >> 8 ^ salt) as u8).collect()
}

fn cut(ident: u16, payload: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    fragment(header(ident), payload, mtu).expect("fits").map(|packet| packet.to_vec()).collect()
}

fn whole(ident: u16, payload: &[u8]) -> Vec<u8> {
    cut(ident, payload, u16::MAX).remove(0)
}

/// A piece with any numbers: `start` in units of 8 bytes.
fn piece(ident: u16, start: u16, payload: &[u8], more: bool) -> Vec<u8> {
    let mut bytes = whole(ident, payload);
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
    packet.set_more_frags(more);
    packet.set_frag_offset((start % 8192) * 8);
    packet.fill_checksum();
    bytes
}

/// Puts the items into an order that depends on `order`.
fn shuffle<T>(items: &mut [T], order: &[u8]) {
    for (i, swap) in order.iter().cycle().take(items.len() * usize::from(!order.is_empty())).enumerate() {
        items.swap(i, (i * 7 + usize::from(*swap)) % items.len());
    }
}

quickcheck! {
    fn what_was_cut_is_put_together_in_any_order_with_repeats_and_among_others(
        lens: Vec<u16>, mtu: u16, order: Vec<u8>, repeats: Vec<u8>
    ) -> bool {
        // As many as fit with certainty, each with the buffer that its length may need.
        let lens: Vec<usize> = lens.iter().take(16).map(|len| usize::from(*len) % (MAX_PAYLOAD + 1)).collect();
        let payloads: Vec<Vec<u8>> = lens.iter().enumerate().map(|(i, len)| payload(*len, i)).collect();
        let mtu = mtu % 3000;
        let cuts: Vec<_> = payloads.iter().enumerate().map(|(i, payload)| cut(i as u16 / 2, payload, mtu)).collect();
        // Two tenants use the same numbers.
        let mut packets: Vec<_> = cuts.iter().enumerate().flat_map(|(i, cut)| cut.iter().map(move |packet| (i, packet))).collect();
        let again: Vec<_> = repeats.iter().filter(|_| !packets.is_empty())
            .map(|at| usize::from(*at) % packets.len())
            // A repeat of the whole would be another datagram.
            .filter(|at| cuts[packets[*at].0].len() > 1)
            .map(|at| packets[at]).collect();
        packets.extend(again);
        shuffle(&mut packets, &order);

        let mut reassembler = Reassembler::new();
        let mut done = vec![false; payloads.len()];
        for (i, packet) in packets {
            if done[i] {
                continue;
            }
            if let Some(packet) = reassembler.handle(NOW, i as u32 % 2, packet) {
                assert_eq!(packet, whole(i as u16 / 2, &payloads[i]));
                done[i] = true;
            }
            assert!(reassembler.bytes() <= MAX_BYTES);
        }
        let counters = reassembler.counters();
        done.iter().all(|done| *done)
            && counters.waiting == 0
            && counters.reassembled == cuts.iter().filter(|cut| cut.len() > 1).count() as u64
            && counters.overlapped + counters.evicted + counters.timed_out + counters.invalid == 0
    }

    fn whatever_comes_the_bounds_hold(script: Vec<(u8, u16, u16, bool)>) -> bool {
        let mut reassembler = Reassembler::new();
        let mut now = NOW;
        script.into_iter().cycle().take(400).all(|(who, start, len, more)| {
            now = now + Duration::from_millis(u64::from(who) * 10);
            let bytes = piece(u16::from(who) % 64, start, &payload(usize::from(len) % 4096, 0), more);
            reassembler.handle(now, u32::from(who) % 3, &bytes);
            reassembler.datagrams.len() <= MAX_DATAGRAMS
                && reassembler.bytes() <= MAX_BYTES
                && reassembler.poll_timeout().is_none_or(|at| at > now && at <= now + TIMEOUT)
        })
    }
}

#[test]
fn a_packet_that_is_no_fragment_is_given_as_it_is_without_what_follows_it() {
    let mut reassembler = Reassembler::new();
    let packet = whole(1, &[1, 2, 3]);
    let padded = [&packet[..], &[0; 20]].concat();
    assert!(!is_fragment(&padded));
    assert_eq!(reassembler.handle(NOW, 0, &padded), Some(packet));
    assert_eq!(*reassembler.counters(), FragmentCounters::default());
}

#[test]
fn the_header_of_the_first_piece_counts_with_its_options() {
    let mut reassembler = Reassembler::new();
    let mut first = vec![0x46, 0, 0, 32, 0, 1, 0x20, 0, 9, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 0];
    first.extend([5; 8]);
    Ipv4Packet::new_unchecked(&mut first).fill_checksum();
    let mut last = vec![0x45, 0, 0, 21, 0, 1, 0, 1, 200, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 6];
    Ipv4Packet::new_unchecked(&mut last).fill_checksum();
    assert!(is_fragment(&first) && is_fragment(&last));
    assert_eq!(reassembler.handle(NOW, 0, &last), None);
    let packet = reassembler.handle(NOW, 0, &first).expect("complete");
    let parsed = Ipv4Packet::new_checked(&packet[..]).expect("well formed");
    assert!(parsed.verify_checksum() && !parsed.more_frags() && parsed.frag_offset() == 0);
    assert_eq!((parsed.header_len(), parsed.total_len(), parsed.hop_limit()), (24, 33, 9));
    assert_eq!(parsed.payload(), [5, 5, 5, 5, 5, 5, 5, 5, 6]);
}

#[test]
fn pieces_that_overlap_cost_the_datagram_and_all_that_still_comes_of_it() {
    let overlaps = [
        piece(1, 1, &[8; 16], true),
        piece(1, 0, &[9; 16], true),
        piece(1, 0, &[7; 24], true),
        // The same bytes in part, which another receiver may take otherwise.
        piece(1, 1, &[7; 16], true),
    ];
    for overlap in overlaps {
        let mut reassembler = Reassembler::new();
        assert_eq!(reassembler.handle(NOW, 0, &piece(1, 0, &[7; 16], true)), None);
        assert_eq!(reassembler.handle(NOW, 0, &overlap), None);
        assert_eq!((reassembler.counters().overlapped, reassembler.bytes()), (1, 0));
        assert_eq!(reassembler.handle(NOW, 0, &piece(1, 2, &[7; 16], false)), None);
        assert_eq!((reassembler.counters().given_up, reassembler.counters().waiting), (1, 0));
        // After its time the number is free for another datagram.
        let later = NOW + TIMEOUT;
        assert_eq!(reassembler.handle(later, 0, &piece(1, 0, &[7; 16], true)), None);
        assert!(reassembler.handle(later, 0, &piece(1, 2, &[7; 16], false)).is_some());
        assert_eq!(reassembler.counters().timed_out, 0, "it was counted as overlapped");
    }
}

#[test]
fn two_ends_or_bytes_behind_the_end_are_an_overlap_too() {
    for second in [piece(1, 4, &[7; 8], false), piece(1, 2, &[7; 3], false), piece(1, 4, &[7; 8], true)] {
        let mut reassembler = Reassembler::new();
        assert_eq!(reassembler.handle(NOW, 0, &piece(1, 2, &[7; 9], false)), None);
        assert_eq!(reassembler.handle(NOW, 0, &second), None);
        assert_eq!(reassembler.counters().overlapped, 1);
    }
}

#[test]
fn fragments_with_impossible_numbers_are_counted_and_change_nothing() {
    let mut broken_checksum = piece(1, 0, &[7; 16], true);
    broken_checksum[10] ^= 1;
    let bad = [
        piece(1, 0, &[7; 15], true),
        piece(1, 3, &[], false),
        // Beyond what a packet can have.
        piece(1, 8191, &[7; 8], false),
        broken_checksum,
        piece(1, 0, &[7; 16], true)[..30].to_vec(),
        piece(1, 0, &[7; 16], true)[..HEADER_LEN - 1].to_vec(),
        Vec::new(),
    ];
    let mut reassembler = Reassembler::new();
    for (i, packet) in bad.iter().enumerate() {
        assert_eq!(reassembler.handle(NOW, 0, packet), None);
        assert_eq!(reassembler.counters().invalid, i as u64 + 1);
    }
    assert_eq!(reassembler.poll_timeout(), None);
}

#[test]
fn a_datagram_has_thirty_seconds_from_its_first_piece() {
    let mut reassembler = Reassembler::new();
    let pieces = cut(1, &payload(4000, 0), 1500);
    reassembler.handle(NOW, 0, &pieces[0]);
    assert_eq!(reassembler.poll_timeout(), Some(NOW + TIMEOUT));
    reassembler.handle(NOW + Duration::from_secs(29), 0, &pieces[1]);
    assert_eq!(reassembler.poll_timeout(), Some(NOW + TIMEOUT));
    reassembler.handle_timeout(NOW + TIMEOUT);
    assert_eq!((reassembler.poll_timeout(), reassembler.counters().timed_out), (None, 1));
    assert_eq!(reassembler.handle(NOW + TIMEOUT, 0, &pieces[2]), None);
}

#[test]
fn a_tenant_that_fills_the_table_loses_its_own_and_no_other() {
    let mut reassembler = Reassembler::new();
    let modest = cut(9, &payload(3000, 1), 1500);
    reassembler.handle(NOW, 1, &modest[0]);
    for ident in 0..200 {
        reassembler.handle(NOW, 2, &piece(ident, 0, &[1; 8], true));
        // The dearest pieces there are: a few bytes at the very end.
        reassembler.handle(NOW, 3, &piece(ident, 8180, &[1; 8], true));
        assert!(reassembler.datagrams.len() <= MAX_DATAGRAMS && reassembler.bytes() <= MAX_BYTES);
    }
    reassembler.handle(NOW, 1, &modest[1]);
    assert_eq!(reassembler.handle(NOW, 1, &modest[2]), Some(whole(9, &payload(3000, 1))));
    let counters = reassembler.counters();
    assert_eq!(counters.evicted + counters.waiting, 400);
}

/// The pieces of a payload as fragments of IPv6.
fn cut_v6(identification: u32, payload: &[u8], room: usize) -> Vec<Vec<u8>> {
    let count = payload.len().div_ceil(room);
    let pieces = payload.chunks(room).enumerate();
    pieces
        .map(|(n, piece)| {
            let mut packet = vec![0; IPV6 + wire::FRAGMENT + piece.len()];
            let (from, to) = ("fd00::2".parse().unwrap(), "2001:db8::1".parse().unwrap());
            wire::ip(&mut packet, from, to, wire::PROTO_FRAGMENT);
            packet[IPV6] = wire::PROTO_UDP;
            let offset = (n * room) as u16 | u16::from(n + 1 < count);
            packet[IPV6 + 2..][..2].copy_from_slice(&offset.to_be_bytes());
            packet[IPV6 + 4..][..4].copy_from_slice(&identification.to_be_bytes());
            packet[IPV6 + wire::FRAGMENT..].copy_from_slice(piece);
            packet
        })
        .collect()
}

#[test]
fn fragments_of_ipv6_come_together_in_any_order_and_never_overlap() {
    let mut reassembler = Reassembler::new();
    let mut take = |packet: &[u8]| reassembler.handle_v6(NOW, 1, &wire::chain(packet).unwrap());
    let data = payload(5000, 3);
    let mut pieces = cut_v6(7, &data, 1400);
    pieces.reverse();
    let last = pieces.pop().unwrap();
    assert!(pieces.iter().all(|piece| take(piece).is_none()));
    let whole = take(&last).unwrap();
    let ip = wire::chain(&whole).unwrap().plain().unwrap();
    assert_eq!((ip.protocol, ip.payload), (wire::PROTO_UDP, &data[..]));
    assert_eq!(take(&cut_v6(8, b"all there is", 64)[0]).map(|whole| whole.len()), Some(IPV6 + 12));
    // A second first piece that says something else.
    let (ours, theirs) = (cut_v6(9, &data, 1400), cut_v6(9, &payload(5000, 4), 1400));
    for piece in [&ours[0], &theirs[0], &ours[1], &ours[2], &ours[3]] {
        assert_eq!(take(piece), None);
    }
    assert_eq!(reassembler.counters().overlapped, 1);
    let mut odd = cut_v6(10, &data, 1400).swap_remove(0);
    odd.truncate(odd.len() - 1);
    let len = (odd.len() - IPV6) as u16;
    odd[4..6].copy_from_slice(&len.to_be_bytes());
    assert_eq!(reassembler.handle_v6(NOW, 1, &wire::chain(&odd).unwrap()), None);
    assert_eq!(reassembler.counters().invalid, 1);
}
