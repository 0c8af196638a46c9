//! What errors of ICMP do to connections.

use super::*;
use crate::gateway::wire::{Quoted, Verdict};

/// The shortest packets that an error makes of longer ones: Linux's `min_pmtu`, and the smallest MTU of IPv6.
const SHORTEST_V4: u16 = 552;
const SHORTEST_V6: u16 = 1280;

impl Tcp {
    /// A guest says that it was sent a segment that it does not want, or that is too long.
    ///
    /// A connection that is being opened is over with that (RFC 5461 section 2; Linux does the same for every such code); one
    /// that stands takes no notice (RFC 5927 section 5.2), since whoever stopped it on the way is heard of again. Segments
    /// become shorter, down to what every link takes, and never longer again.
    pub(in super::super) fn handle_error(
        &mut self,
        ctx: &mut Context<'_>,
        port: PortId,
        key: &FlowKey,
        verdict: Verdict,
        quoted: &Quoted,
    ) {
        let Some(FlowId(id)) = self.find(key) else { return };
        let Some(entry) = self.flows.get_mut(id).filter(|entry| entry.port == Some(port)) else { return };
        let Phase::Open(flow) = &mut entry.phase else { return };
        if !flow.is_under_way(quoted.sequence) {
            return;
        }
        match verdict {
            Verdict::Refused if !is_open(flow.socket().state()) => {
                ctx.counters.tcp_rejected += 1;
                self.remove(ctx, id, Closed::Reset);
            }
            Verdict::TooLong(mtu) if is_open(flow.socket().state()) => {
                let shortest = if key.guest.0.is_ipv4() { SHORTEST_V4 } else { SHORTEST_V6 };
                // An error about a packet that would have fitted is no error (RFC 5927 section 7.2).
                if quoted.len > mtu.into() {
                    flow.shorten(mtu.max(shortest).into());
                }
            }
            Verdict::Refused | Verdict::TooLong(_) | Verdict::Passing => {}
        }
    }
}
