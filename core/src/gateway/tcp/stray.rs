//! Segments that belong to no connection.

use super::*;

impl Tcp {
    /// A segment that belongs to nothing: answered like one of a connection that is over, or reset.
    pub(in super::super) fn stray(
        &self,
        now: Instant,
        ctx: &mut Context<'_>,
        (port, mac): (PortId, [u8; 6]),
        key: &FlowKey,
        segment: &Segment,
    ) {
        if segment.flags & RST != 0 {
            return;
        }
        match self.time_wait.get(now, key) {
            // Two ends that answer each acknowledgement with one never stop.
            Some(_) if segment.sequence_len() == 0 => {}
            Some(last) => {
                self.bare(ctx, port, mac, key.guest.0, |packet| {
                    wire::bare_segment(packet, key.remote, key.guest, last.sequence, last.acknowledgement, ACK, 0);
                });
            }
            None => self.reset_stray(ctx, (port, mac), key, segment),
        }
    }

    /// Resets whoever sent a segment.
    pub(in super::super) fn reset_stray(
        &self,
        ctx: &mut Context<'_>,
        (port, mac): (PortId, [u8; 6]),
        key: &FlowKey,
        segment: &Segment,
    ) {
        ctx.counters.tcp_resets_out += 1;
        self.bare(ctx, port, mac, key.guest.0, |packet| wire::reset(packet, key.remote.0, key.guest.0, segment));
    }
}
