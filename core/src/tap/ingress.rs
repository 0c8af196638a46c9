//! Host to enclave: bytes read from the stream leave as frames on the TAP.
//!
//! Owns: one [`Decoder`], and with a TAP that has `IFF_VNET_HDR` one [`Coalescer`].
//! Driven by: the daemon's ingress thread, the link's handshake before it, fuzz, benches.
//! Drain: after [`Ingress::handle_read`], [`Ingress::next_frame`] until `None`, writing each to the TAP; or
//! [`Ingress::next_packet`] in its place, writing header and pieces. Everything a read brought is written before the next.
//! When that emptied the stream, [`Ingress::moderate`] says whether to let more come before the next read.
//! Bounds: see [`Decoder`] and [`Coalescer`].

use super::moderation::{Moderation, Totals};
use crate::{
    frame::{Decoder, Truncated, frame_limit},
    link::MacAddr,
    offload::{Coalescer, Joined, Merge, Step, VNET_LEN, VnetHeader},
    time::Instant,
};
use core::{ops::Range, time::Duration};

/// The inbound half of the TAP handler.
#[derive(Debug)]
pub struct Ingress {
    decoder: Decoder,
    mtu: u16,
    mac: MacAddr,
    coalescer: Coalescer,
    /// A frame that the decoder gave and that was not handed on yet.
    held: Option<Range<usize>>,
    moderation: Moderation,
    /// Of all reads up to the last, before its frames were taken, and that one's bytes.
    read: (Totals, usize),
    counters: IngressCounters,
}

/// What to write to a TAP with `IFF_VNET_HDR`, in one call.
#[derive(Debug)]
pub struct Packet<'i> {
    /// Goes first.
    pub header: [u8; VNET_LEN],
    buf: &'i [u8],
    parts: Parts<'i>,
}

#[derive(Debug)]
enum Parts<'i> {
    Frame(Range<usize>),
    Joined(Joined<'i>),
}

impl Packet<'_> {
    /// Frames of the stream that it carries.
    #[must_use]
    pub const fn frames(&self) -> usize {
        match &self.parts {
            Parts::Frame(_) => 1,
            Parts::Joined(joined) => joined.frames(),
        }
    }

    /// The frame's bytes: [`MAX_PIECES`](crate::offload::MAX_PIECES) pieces at most.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (frame, joined) = match &self.parts {
            Parts::Frame(range) => (Some(range.clone()), None),
            Parts::Joined(joined) => (None, Some(joined.pieces())),
        };
        frame.into_iter().chain(joined.into_iter().flatten()).map(|range| &self.buf[range])
    }
}

impl Ingress {
    /// `mtu` is the TAP's IP MTU and `mac` its hardware address; `read_size` the bytes asked of the stream at a time.
    #[must_use]
    pub fn new(mtu: u16, mac: MacAddr, read_size: usize) -> Self {
        Self {
            decoder: Decoder::new(read_size),
            mtu,
            mac,
            coalescer: Coalescer::new(Merge::default()),
            held: None,
            moderation: Moderation::new(Duration::ZERO),
            read: (Totals::default(), 0),
            counters: IngressCounters::default(),
        }
    }

    /// What [`Ingress::next_packet`] joins; nothing without it.
    #[must_use]
    pub fn with_offload(self, merge: Merge) -> Self {
        Self { coalescer: Coalescer::new(merge), ..self }
    }

    /// How long a busy stream is left alone, so that a read brings many frames; not at all without it.
    #[must_use]
    pub fn with_moderation(self, pause: Duration) -> Self {
        Self { moderation: Moderation::new(pause), ..self }
    }

    /// What was received and dropped so far.
    #[must_use]
    pub const fn counters(&self) -> IngressCounters {
        IngressCounters { dropped_runt: self.decoder.runts(), ..self.counters }
    }

    /// Room to read the stream into; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        self.decoder.space()
    }

    /// Bytes the unfinished frame lacks; see [`Decoder::missing`].
    #[must_use]
    pub fn missing(&self) -> usize {
        self.decoder.missing()
    }

    /// Takes `n` bytes that were read into [`Ingress::space`].
    pub fn handle_read(&mut self, n: usize) {
        self.decoder.commit(n);
        self.counters.reads += 1;
        self.note_read(n);
    }

    // Inlined, it costs every frame four instructions.
    #[inline(never)]
    fn note_read(&mut self, n: usize) {
        let bytes = self.read.0.bytes + n as u64;
        self.read = (Totals { bytes, reads: self.counters.reads, frames: self.counters.frames }, n);
    }

    /// After a read that emptied the stream, and all it brought is written: how long to leave the stream alone.
    pub fn moderate(&mut self, now: Instant) -> Option<Duration> {
        let (totals, n) = self.read;
        let pause = self.moderation.after(now, totals, n, self.counters.frames > totals.frames)?;
        self.counters.moderated += 1;
        Some(pause)
    }

    /// The next frame for the TAP.
    ///
    /// Runts are skipped and counted. A frame above the MTU is counted and handed on: Linux takes longer datagrams than
    /// its own MTU from a link, and a gvproxy with a larger `-mtu` sends them; dropping them would be a black hole.
    pub fn next_frame(&mut self) -> Option<&[u8]> {
        let range = self.next_range()?;
        Some(&self.decoder.bytes()[range])
    }

    /// The next packet for a TAP that takes a header before it: a frame as it came, or several that were joined.
    ///
    /// Frames are counted and skipped as by [`Ingress::next_frame`].
    pub fn next_packet(&mut self) -> Option<Packet<'_>> {
        let closed = loop {
            let Some(range) = self.held.take().or_else(|| self.next_range()) else { break self.coalescer.oldest()? };
            match self.coalescer.offer(self.decoder.bytes(), range.clone()) {
                Step::Pass => {
                    let header = VnetHeader::default().bytes();
                    return Some(Packet { header, buf: self.decoder.bytes(), parts: Parts::Frame(range) });
                }
                Step::Kept => {}
                Step::Complete(which) => break which,
                Step::Behind(which) => {
                    self.held = Some(range);
                    break which;
                }
            }
        };
        let joined = self.coalescer.close(self.decoder.bytes(), closed);
        if joined.frames() > 1 {
            self.counters.super_frames += 1;
            self.counters.joined += joined.frames() as u64;
        }
        Some(Packet { header: joined.header.bytes(), buf: self.decoder.bytes(), parts: Parts::Joined(joined) })
    }

    // For every frame, from two places.
    #[inline(always)]
    fn next_range(&mut self) -> Option<Range<usize>> {
        let range = self.decoder.next_range()?;
        let frame = &self.decoder.bytes()[range.clone()];
        self.counters.frames += 1;
        self.counters.bytes += frame.len() as u64;
        self.counters.over_mtu += u64::from(frame.len() > frame_limit(self.mtu));
        self.counters.for_us += u64::from(is_for(self.mac, frame));
        Some(range)
    }

    /// The TAP refused `frames` of the frames handed out.
    pub fn handle_tap_refused(&mut self, frames: u64) {
        self.counters.dropped_tap_write += frames;
    }

    /// The stream ended: forgets its unfinished frame, ready for the next stream.
    ///
    /// # Errors
    /// [`Truncated`] if it ended inside a frame.
    pub fn handle_stream_end(&mut self) -> Result<(), Truncated> {
        let end = self.decoder.finish();
        self.decoder.reset();
        self.counters.truncated += u64::from(end.is_err());
        end
    }
}

/// Whether a frame's destination is `mac` or everybody: gvproxy's switch sends nothing else (`pkg/tap/switch.go`).
///
/// After bytes that were no frame, anything may be taken for a length, and what was a frame's middle becomes a frame: the
/// host is alive, but nothing of it arrives any more. Such frames are for nobody.
fn is_for(mac: MacAddr, frame: &[u8]) -> bool {
    frame.starts_with(&mac.0) || frame.starts_with(&[0xff; 6])
}

crate::counters! {
    /// What the inbound half did.
    pub struct IngressCounters {
        /// Ethernet frames moved between the TAP and the stream; tx is enclave to host.
        frames: Counter "nitrotap_frames" { direction = "rx" },
        /// Bytes of those frames, Ethernet header included, length prefix excluded.
        bytes: Counter "nitrotap_bytes" { direction = "rx" },
        /// System calls that moved bytes on the stream; frames divided by this is the batching achieved.
        reads: Counter "nitrotap_stream_calls" { direction = "rx" },
        /// Frames dropped, by cause.
        dropped_runt: Counter "nitrotap_drops" { direction = "rx", cause = "runt" },
        /// Frames dropped, by cause.
        dropped_tap_write: Counter "nitrotap_drops" { direction = "rx", cause = "tap_write" },
        /// Frames dropped, by cause.
        truncated: Counter "nitrotap_drops" { direction = "rx", cause = "truncated" },
        /// Received frames longer than the MTU allows; delivered all the same.
        over_mtu: Counter "nitrotap_rx_over_mtu" {},
        /// Super-frames moved whole: sent to the gateway as the kernel made them (tx), or joined for the kernel (rx).
        super_frames: Counter "nitrotap_super_frames" { direction = "rx" },
        /// Frames that were joined into them.
        joined: Counter "nitrotap_joined_frames" {},
        /// Received frames for the TAP's hardware address or for everybody: what shows that the stream is in step.
        for_us: Counter "nitrotap_rx_for_us" {},
        /// Pauses before a read, so that it brings more frames of a busy stream.
        moderated: Counter "nitrotap_rx_moderated" {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([7; 6]);

    fn feed(ingress: &mut Ingress, lens: &[u16]) -> Vec<usize> {
        for len in lens {
            let frame = [&len.to_le_bytes()[..], &vec![7; usize::from(*len)]].concat();
            ingress.space()[..frame.len()].copy_from_slice(&frame);
            ingress.handle_read(frame.len());
        }
        core::iter::from_fn(|| ingress.next_frame().map(<[u8]>::len)).collect()
    }

    #[test]
    fn runts_are_skipped_and_long_frames_delivered_and_both_are_counted() {
        let mut ingress = Ingress::new(1500, MAC, 1 << 17);
        assert_eq!(feed(&mut ingress, &[0, 60, 13, 1518, 1519, 9000]), [60, 1518, 1519, 9000]);
        let counters = ingress.counters();
        assert_eq!((counters.dropped_runt, counters.over_mtu, counters.frames), (2, 2, 4));
        assert_eq!(counters.bytes, 60 + 1518 + 1519 + 9000);
    }

    #[test]
    fn only_frames_for_us_or_for_everybody_count_as_such() {
        let mut ingress = Ingress::new(1500, MAC, 1 << 17);
        for dst in [[7; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1], [7, 7, 7, 7, 7, 8]] {
            let frame = [&[60, 0][..], &dst, &[0; 54]].concat();
            ingress.space()[..frame.len()].copy_from_slice(&frame);
            ingress.handle_read(frame.len());
        }
        while ingress.next_frame().is_some() {}
        let counters = ingress.counters();
        assert_eq!((counters.frames, counters.for_us), (4, 2));
    }

    #[test]
    fn a_new_stream_starts_afresh_behind_a_cut_one() {
        let mut ingress = Ingress::new(1500, MAC, 1 << 17);
        ingress.space()[..5].copy_from_slice(&[60, 0, 1, 2, 3]);
        ingress.handle_read(5);
        assert!(ingress.next_frame().is_none());
        assert!(ingress.handle_stream_end().is_err());
        assert_eq!(feed(&mut ingress, &[60]), [60]);
        assert_eq!(ingress.counters().truncated, 1);
        assert_eq!(ingress.handle_stream_end(), Ok(()));
    }
}
