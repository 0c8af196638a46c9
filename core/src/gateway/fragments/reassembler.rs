//! Puts fragments of either family together.
//!
//! Owns: the pieces of datagrams that are not complete. Driven by: the gateway, for what enclaves send.
//! Drain: nothing; a datagram comes out of the call that brings its last piece. Arm a timer from
//! [`Reassembler::poll_timeout`].
//! Bounds: [`MAX_DATAGRAMS`] in progress, [`MAX_BYTES`] of buffers, [`TIMEOUT`] each. Beyond them the oldest datagram goes
//! of the tenant that uses most, so that no tenant can take the room of another that uses less.
//!
//! Pieces that overlap are an attack on whoever looks at packets on the way, or memory gone bad: the datagram is dropped,
//! with what may still come of it (as RFC 5722 section 3 asks for IPv6). The exception is a piece that repeats, to the
//! byte, what is there: a link may duplicate packets.

use super::{
    MAX_PAYLOAD,
    spans::{Arrival, Spans},
};
use crate::{
    gateway::wire::{Chain, IPV6},
    time::Instant,
};
use core::{net::IpAddr, time::Duration};
use smoltcp::wire::Ipv4Packet;
use std::collections::BTreeMap;

/// Datagrams in progress at most, those included that are only remembered to drop the rest of them.
pub const MAX_DATAGRAMS: usize = 32;

/// Bytes of buffers at most, over all datagrams in progress; the 8190 pieces that a datagram can have at most need
/// another quarter for keeping their order, if they come in the worst one.
pub const MAX_BYTES: usize = 1 << 20;

/// How long a datagram may take from its first piece to its last; what Linux waits, and more than the 15 s that RFC 791
/// section 3.2 has as a lower bound.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Where an IPv6 header says what follows it.
const IPV6_NEXT_HEADER: usize = 6;

/// A buffer is never smaller.
const MIN_BUFFER: usize = 2048;

crate::counters! {
    /// What came of fragments.
    pub struct FragmentCounters {
        /// Fragments received.
        fragments: Counter "nitrotap_gateway_fragments" {},
        /// Datagrams put together.
        reassembled: Counter "nitrotap_gateway_reassembled" {},
        /// Datagrams that have some of their fragments.
        waiting: Gauge "nitrotap_gateway_reassembly_waiting" {},
        /// Fragments dropped, by cause.
        invalid: Counter "nitrotap_gateway_fragment_drops" { cause = "invalid" },
        /// Fragments dropped, by cause.
        repeated: Counter "nitrotap_gateway_fragment_drops" { cause = "repeated" },
        /// Fragments dropped, by cause.
        given_up: Counter "nitrotap_gateway_fragment_drops" { cause = "given_up" },
        /// Datagrams dropped before they were complete, by cause.
        overlapped: Counter "nitrotap_gateway_reassembly_drops" { cause = "overlap" },
        /// Datagrams dropped before they were complete, by cause.
        timed_out: Counter "nitrotap_gateway_reassembly_drops" { cause = "timeout" },
        /// Datagrams dropped before they were complete, by cause.
        evicted: Counter "nitrotap_gateway_reassembly_drops" { cause = "evicted" },
    }
}

/// Whether a packet is a piece of a datagram, for [`Reassembler::handle`]; `false` also for what is no IPv4 packet.
#[must_use]
pub fn is_fragment(packet: &[u8]) -> bool {
    Ipv4Packet::new_checked(packet).is_ok_and(|p| p.version() == 4 && (p.more_frags() || p.frag_offset() != 0))
}

/// Datagrams of which some pieces have arrived. See the module for its rules and bounds.
#[derive(Debug, Default)]
pub struct Reassembler {
    now: Instant,
    /// The one whose first piece came first is first, hence also the one that times out first.
    datagrams: Vec<Datagram>,
    counters: FragmentCounters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    tenant: u32,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    ident: u32,
}

#[derive(Debug)]
struct Datagram {
    key: Key,
    deadline: Instant,
    /// `None` once given up.
    pieces: Option<Pieces>,
}

#[derive(Debug, Default)]
struct Pieces {
    /// Header of the piece that starts the datagram, options included; empty until that has come.
    header: Vec<u8>,
    payload: Vec<u8>,
    spans: Spans,
    /// Length of the payload, once the last piece has come.
    len: Option<u16>,
}

/// A piece whose numbers are sane.
struct Piece<'a> {
    header: &'a [u8],
    payload: &'a [u8],
    start: u16,
    end: u16,
    more: bool,
}

impl Reassembler {
    /// One without any pieces.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What has been counted so far.
    #[must_use]
    pub const fn counters(&self) -> &FragmentCounters {
        &self.counters
    }

    /// When [`Reassembler::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.datagrams.first().map(|datagram| datagram.deadline)
    }

    /// Drops what has taken too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        while self.datagrams.first().is_some_and(|datagram| datagram.deadline <= self.now) {
            let datagram = self.datagrams.remove(0);
            self.counters.timed_out += u64::from(datagram.pieces.is_some());
        }
        self.recount();
    }

    /// Drops what a tenant has begun.
    pub fn forget(&mut self, tenant: u32) {
        self.datagrams.retain(|datagram| datagram.key.tenant != tenant);
        self.recount();
    }

    /// Takes an IPv4 packet, header first, of a tenant (whatever must not be mixed: one enclave, say). Gives the whole
    /// packet once nothing of it is missing: without fragmentation fields, with the right length and checksum. A packet
    /// that is no fragment is given as it is.
    pub fn handle(&mut self, now: Instant, tenant: u32, packet: &[u8]) -> Option<Vec<u8>> {
        self.handle_timeout(now);
        let parsed = Ipv4Packet::new_checked(packet).ok().filter(|p| p.version() == 4 && p.verify_checksum());
        if let Some(parsed) = &parsed
            && !parsed.more_frags()
            && parsed.frag_offset() == 0
        {
            return Some(packet[..usize::from(parsed.total_len())].to_vec());
        }
        self.counters.fragments += 1;
        let Some((key, piece)) = parsed.and_then(|parsed| check(tenant, packet, &parsed)) else {
            self.counters.invalid += 1;
            return None;
        };
        let whole = self.add(key, &piece);
        self.recount();
        whole
    }

    /// The same for a packet of IPv6 with a fragment header. Other extensions are taken out; of the rest, an end beyond
    /// 65,515 bytes is more than is taken.
    pub(in super::super) fn handle_v6(&mut self, now: Instant, tenant: u32, chain: &Chain<'_>) -> Option<Vec<u8>> {
        let fragment = chain.fragment?;
        self.handle_timeout(now);
        // A fragment that is all there is (RFC 6946).
        if fragment.offset == 0 && !fragment.more {
            return Some(chain.without_extensions());
        }
        self.counters.fragments += 1;
        let (start, more) = (fragment.offset, fragment.more);
        let end = usize::from(start) + chain.payload.len();
        if chain.payload.is_empty() || end > MAX_PAYLOAD || (more && !chain.payload.len().is_multiple_of(8)) {
            self.counters.invalid += 1;
            return None;
        }
        let key = Key {
            tenant,
            src: chain.source.into(),
            dst: chain.destination.into(),
            protocol: chain.protocol,
            ident: fragment.identification,
        };
        let mut header = chain.packet[..IPV6].to_vec();
        header[IPV6_NEXT_HEADER] = chain.protocol;
        let piece = Piece { header: &header, payload: chain.payload, start, end: end as u16, more };
        let whole = self.add(key, &piece);
        self.recount();
        whole
    }

    fn add(&mut self, key: Key, piece: &Piece<'_>) -> Option<Vec<u8>> {
        let mut at = self.datagrams.iter().position(|datagram| datagram.key == key).unwrap_or_else(|| {
            if self.datagrams.len() >= MAX_DATAGRAMS {
                self.evict(None, |_| 1);
            }
            let deadline = self.now + TIMEOUT;
            self.datagrams.push(Datagram { key, deadline, pieces: Some(Pieces::default()) });
            self.datagrams.len() - 1
        });
        let Some(pieces) = &self.datagrams[at].pieces else {
            self.counters.given_up += 1;
            return None;
        };
        // A larger buffer is made room for first, so that the bound holds at any time.
        let capacity = buffer_for(usize::from(piece.end));
        if let Some(growth) = capacity.checked_sub(pieces.payload.capacity()) {
            while self.bytes() + growth > MAX_BYTES {
                self.evict(Some(key), |datagram| datagram.bytes());
            }
            at = self.datagrams.iter().position(|datagram| datagram.key == key)?;
        }
        let datagram = &mut self.datagrams[at];
        match datagram.pieces.as_mut()?.add(piece) {
            Arrival::Known => self.counters.repeated += 1,
            Arrival::Overlap => {
                datagram.pieces = None;
                self.counters.overlapped += 1;
            }
            Arrival::New => {
                if datagram.pieces.as_ref()?.is_complete() {
                    let whole = self.datagrams.remove(at).pieces?.into_packet();
                    let counter = match whole {
                        Some(_) => &mut self.counters.reassembled,
                        None => &mut self.counters.invalid,
                    };
                    *counter += 1;
                    return whole;
                }
            }
        }
        None
    }

    fn bytes(&self) -> usize {
        self.datagrams.iter().map(Datagram::bytes).sum()
    }

    /// Drops the oldest datagram of the tenant whose datagrams weigh most together, but not `except`.
    fn evict(&mut self, except: Option<Key>, weight: impl Fn(&Datagram) -> usize) {
        let mut tenants = BTreeMap::new();
        for datagram in self.datagrams.iter().filter(|datagram| Some(datagram.key) != except) {
            *tenants.entry(datagram.key.tenant).or_insert(0) += weight(datagram);
        }
        let heaviest = tenants.into_iter().max_by_key(|(_, weight)| *weight).map(|(tenant, _)| tenant);
        let victim = self.datagrams.iter().position(|datagram| {
            Some(datagram.key.tenant) == heaviest && Some(datagram.key) != except && weight(datagram) > 0
        });
        if let Some(victim) = victim {
            let datagram = self.datagrams.remove(victim);
            self.counters.evicted += u64::from(datagram.pieces.is_some());
        }
    }

    fn recount(&mut self) {
        self.counters.waiting = self.datagrams.iter().filter(|datagram| datagram.pieces.is_some()).count() as u64;
    }
}

impl Datagram {
    /// What its buffer takes of [`MAX_BYTES`].
    fn bytes(&self) -> usize {
        self.pieces.as_ref().map_or(0, |pieces| pieces.payload.capacity())
    }
}

impl Pieces {
    fn add(&mut self, piece: &Piece<'_>) -> Arrival {
        // Two ends, or a byte behind the end.
        let end = self.len.unwrap_or(u16::MAX);
        if piece.end > end
            || !piece.more && (self.len.is_some_and(|len| len != piece.end) || self.spans.end() > piece.end)
        {
            return Arrival::Overlap;
        }
        let place = usize::from(piece.start)..usize::from(piece.end);
        match self.spans.add(piece.start, piece.end) {
            Arrival::New => {}
            Arrival::Overlap => return Arrival::Overlap,
            Arrival::Known if self.payload[place] == *piece.payload => return Arrival::Known,
            Arrival::Known => return Arrival::Overlap,
        }
        if self.payload.len() < place.end {
            let capacity = buffer_for(place.end);
            self.payload.reserve_exact(capacity.saturating_sub(self.payload.len()));
            self.payload.resize(place.end, 0);
        }
        self.payload[place].copy_from_slice(piece.payload);
        if piece.start == 0 {
            self.header = piece.header.to_vec();
        }
        if !piece.more {
            self.len = Some(piece.end);
        }
        Arrival::New
    }

    fn is_complete(&self) -> bool {
        self.len.is_some_and(|len| self.spans.are_exactly(len))
    }

    /// `None` if the options of the first piece leave too little room for the rest.
    fn into_packet(self) -> Option<Vec<u8>> {
        let mut bytes = self.header;
        bytes.extend(&self.payload);
        if bytes.first()? >> 4 == 6 {
            bytes[4..6].copy_from_slice(&(self.payload.len() as u16).to_be_bytes());
            return Some(bytes);
        }
        let total = u16::try_from(bytes.len()).ok()?;
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
        packet.set_total_len(total);
        packet.clear_flags();
        packet.set_frag_offset(0);
        packet.fill_checksum();
        Some(bytes)
    }
}

/// Twice as much each time, so that many small pieces in order do not mean as many moves.
fn buffer_for(end: usize) -> usize {
    end.next_power_of_two().clamp(MIN_BUFFER, MAX_PAYLOAD)
}

/// `None` for an empty piece, a piece that ends at no multiple of 8 and is not the last, and one that reaches beyond
/// what a packet can have.
fn check<'a>(tenant: u32, packet: &'a [u8], parsed: &Ipv4Packet<&'a [u8]>) -> Option<(Key, Piece<'a>)> {
    let (header, payload) = packet[..usize::from(parsed.total_len())].split_at(usize::from(parsed.header_len()));
    let start = parsed.frag_offset();
    let end = usize::from(start) + payload.len();
    let more = parsed.more_frags();
    if payload.is_empty() || end > MAX_PAYLOAD || (more && !payload.len().is_multiple_of(8)) {
        return None;
    }
    let key = Key {
        tenant,
        src: parsed.src_addr().into(),
        dst: parsed.dst_addr().into(),
        protocol: parsed.next_header().into(),
        ident: parsed.ident().into(),
    };
    Some((key, Piece { header, payload, start, end: end as u16, more }))
}

#[cfg(test)]
mod tests;
