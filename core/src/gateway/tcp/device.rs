//! smoltcp's device of one connection: the packet at hand, and the queue of a link.
//!
//! Owns: nothing. Driven by: `flow`. Packets are read where they were received and written where they are sent from;
//! long segments are written once, and cut into the queue.

use super::super::{
    queue::{RESERVE, TxQueue},
    wire::{self, ETHERNET, IPV4},
};
use crate::offload::Segmenter;
use core::num::NonZeroUsize;
use smoltcp::{
    phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken},
    time::Instant,
};

/// Longest IPv4 packet, and so the longest segment that is cut.
pub(crate) const LONGEST: usize = 65_535;

/// Room in the queue that the cutting of one long segment may take, with headers and prefixes: 65,495 bytes of payload
/// in parts of an MSS of 536, of which timestamps take 12, each with 14 + 20 + 32 + 4 bytes of head. The one segment of IPv6
/// takes less.
const BURST: usize =
    LONGEST + LONGEST.div_ceil(wire::DEFAULT_MSS - TIMESTAMPS) * (ETHERNET + IPV4 + wire::TCP + TIMESTAMPS + 4);

/// Bytes of the option with timestamps, padded (RFC 7323 appendix A).
pub(crate) const TIMESTAMPS: usize = 12;

/// Where packets go, and what is written around them.
#[derive(Debug)]
pub(crate) struct Emit<'a> {
    /// The link's queue; `None` while there is no link, and packets are lost.
    pub(crate) queue: Option<&'a mut TxQueue>,
    pub(crate) destination: [u8; 6],
    pub(crate) source: [u8; 6],
    /// What all packets are.
    pub(crate) ethertype: [u8; 2],
    pub(crate) mtu: usize,
    /// Bytes of the longest packet that the way to the guest takes.
    pub(crate) path: usize,
    /// Windows are rounded, and one unit of each is kept back: see [`Flow`](super::flow::Flow).
    pub(crate) narrows: bool,
    /// Room for one long segment.
    pub(crate) scratch: &'a mut [u8],
    /// Sequence and acknowledgement number of the last segment sent.
    pub(crate) last: (u32, u32),
    /// The sequence number behind all text that was sent so far.
    pub(crate) sent: u32,
    /// Set when there was something to send and no room.
    pub(crate) exhausted: bool,
    /// What was done, in segments of 512 bytes at most, those included that are lost.
    pub(crate) work: usize,
    /// Packets sent.
    pub(crate) packets: u64,
    /// Bytes of their frames.
    pub(crate) bytes: u64,
}

impl Emit<'_> {
    /// Remembers the numbers of a segment that is sent, and where all text ends once it is; keeps back what it should not
    /// offer, before checksums are written.
    ///
    /// A reset tells nothing: the one that answers a wrong acknowledgement has the guest's number and acknowledges nothing
    /// (RFC 9293 section 3.10.7.4), and the connection goes on.
    #[inline]
    fn note(narrows: bool, last: &mut (u32, u32), sent: &mut u32, packet: &mut [u8]) {
        if narrows {
            wire::narrow_window(packet);
        }
        if let Some((numbers, end)) = wire::numbers_and_end(packet) {
            *last = numbers;
            if end.wrapping_sub(*sent).cast_signed() > 0 {
                *sent = end;
            }
        }
    }

    fn write<R>(&mut self, len: usize, meta: PacketMeta, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        self.work += 1 + len / 512;
        let lost = &mut self.scratch[..len];
        let narrows = self.narrows;
        let Some(queue) = self.queue.as_deref_mut() else {
            let result = fill(lost);
            Self::note(narrows, &mut self.last, &mut self.sent, lost);
            return result;
        };
        let mss = meta.segmentation_offload_size;
        if mss.is_some() || len > self.path {
            let result = fill(lost);
            Self::note(narrows, &mut self.last, &mut self.sent, lost);
            let mss = mss.map_or(usize::MAX, |mss| mss.get().into()).min(wire::payload_within(lost, self.path));
            if let Ok(mut segmenter) = Segmenter::new(lost, mss) {
                while let Some(len) = segmenter.next_len() {
                    // `transmit` made sure that all fit; what did not would be lost and sent again.
                    let Some(slot) = queue.slot(ETHERNET + len) else { break };
                    wire::ethernet(slot, self.destination, self.source, self.ethertype);
                    segmenter.write_next(&mut slot[ETHERNET..]);
                    self.packets += 1;
                    self.bytes += (ETHERNET + len) as u64;
                }
            }
            return result;
        }
        // An answer to a packet gets no look at the room beforehand; lost like any packet.
        let Some(slot) = queue.slot(ETHERNET + len) else {
            let result = fill(lost);
            Self::note(narrows, &mut self.last, &mut self.sent, lost);
            return result;
        };
        wire::ethernet(slot, self.destination, self.source, self.ethertype);
        let packet = &mut slot[ETHERNET..];
        let result = fill(packet);
        Self::note(narrows, &mut self.last, &mut self.sent, packet);
        wire::finish_tcp(packet);
        self.packets += 1;
        self.bytes += (ETHERNET + len) as u64;
        result
    }
}

/// See the module.
pub(crate) struct Wire<'a, 'e> {
    pub(crate) rx: Option<&'a [u8]>,
    pub(crate) emit: &'a mut Emit<'e>,
}

pub(crate) struct Received<'a>(&'a [u8]);

pub(crate) struct Sent<'a, 'e>(&'a mut Emit<'e>, PacketMeta);

/// What smoltcp is told about the link: checksums are not looked at on the way in, and written here on the way out.
pub(crate) fn capabilities(mtu: usize) -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = mtu;
    capabilities.checksum.ipv4 = Checksum::None;
    capabilities.checksum.tcp = Checksum::None;
    // Not `tcpv6`: smoltcp 0.14 then makes long segments of IPv6 too, and does not tell the device their size (`dispatch_ip`).
    capabilities.segmentation.tcpv4 = NonZeroUsize::new(LONGEST);
    capabilities
}

impl<'e> Device for Wire<'_, 'e> {
    type RxToken<'t>
        = Received<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Sent<'t, 'e>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Sent<'_, 'e>)> {
        self.rx.take().map(|packet| (Received(packet), Sent(self.emit, PacketMeta::default())))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sent<'_, 'e>> {
        if self.emit.queue.as_ref().is_some_and(|queue| queue.room() < RESERVE + BURST) {
            self.emit.exhausted = true;
            return None;
        }
        Some(Sent(self.emit, PacketMeta::default()))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(self.emit.mtu)
    }
}

/// Whether a link's queue has room for a connection to go on.
pub(crate) const fn has_room(queue: &TxQueue) -> bool {
    queue.room() >= RESERVE + BURST
}

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl TxToken for Sent<'_, '_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.0.write(len, self.1, f)
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.1 = meta;
    }
}
