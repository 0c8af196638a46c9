//! One TCP connection of zeros.
//!
//! Bounds: [`IN_FLIGHT_MAX`] bytes in flight; nothing is buffered in either direction.

use super::wire::{ACK, FIN, HEADERS, Header, PSH, Path, RST, SYN, Segment, push_tcp};
use nitrotap_core::time::Instant;

/// Our port and theirs, and their address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::bench) struct FlowId {
    pub(super) our_port: u16,
    pub(super) their_port: u16,
    pub(super) their_ip: [u8; 4],
}

impl FlowId {
    pub(super) const fn of(path: &Path) -> Self {
        Self { our_port: path.our_port, their_port: path.their_port, their_ip: path.their_ip }
    }
}

/// What one flow may have in flight, in bytes; a Linux receiver's window ends near 6 MiB.
const IN_FLIGHT_MAX: u32 = 4 << 20;
/// Our window, after the shift: 8 MiB, since nothing is kept.
const WINDOW: u16 = 65_535;
const SHIFT: u8 = 7;
/// Without an acknowledgement for so long, what is in flight is sent again.
const RESEND_NS: u64 = 200_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    SynSent,
    SynReceived,
    Open,
    /// Over; to be forgotten.
    Closed,
}

#[derive(Debug)]
pub(super) struct Flow {
    path: Path,
    state: State,
    /// Our first sequence number.
    first: u32,
    unacked: u32,
    next: u32,
    /// The highest that was ever sent.
    top: u32,
    window: u32,
    shift: u8,
    /// Largest payload of a segment we send.
    mss: usize,
    expected: u32,
    ack_due: bool,
    /// First byte of our stream.
    opening: u8,
    /// Bytes to send beyond `top`; endless if `None`.
    unsent: Option<u64>,
    fin_wanted: bool,
    fin_sent: bool,
    fin_seen: bool,
    repeated: u8,
    resend_at: Option<Instant>,
    /// Payload that arrived in order since it was last asked.
    fresh: u64,
    first_byte: Option<u8>,
}

impl Flow {
    /// One that we open.
    pub(super) fn dial(path: Path, first: u32, mtu: u16, opening: u8) -> Self {
        Self { opening, ..Self::new(path, State::SynSent, first, mtu) }
    }

    /// One that they opened with `syn`.
    pub(super) fn accept(syn: &Segment, first: u32, mtu: u16) -> Self {
        let mut flow = Self::new(syn.path, State::SynReceived, first, mtu);
        flow.learn(syn);
        flow
    }

    fn new(path: Path, state: State, first: u32, mtu: u16) -> Self {
        Self {
            path,
            state,
            first,
            unacked: first,
            next: first,
            top: first,
            window: 0,
            shift: 0,
            mss: usize::from(mtu) - (HEADERS - 14),
            expected: 0,
            ack_due: false,
            opening: 0,
            unsent: Some(0),
            fin_wanted: false,
            fin_sent: false,
            fin_seen: false,
            repeated: 0,
            resend_at: None,
            fresh: 0,
            first_byte: None,
        }
    }

    fn learn(&mut self, syn: &Segment) {
        self.expected = syn.header.seq.wrapping_add(1);
        self.mss = self.mss.min(usize::from(syn.mss.unwrap_or(536)));
        self.shift = syn.shift.unwrap_or(0);
        // A SYN's window is not shifted.
        self.window = u32::from(syn.header.window);
    }

    pub(super) fn send(&mut self, bytes: u64) {
        if let Some(unsent) = &mut self.unsent {
            *unsent += bytes;
        }
    }

    pub(super) fn send_for_ever(&mut self) {
        self.unsent = None;
    }

    /// Ends our direction after what was sent so far; what would have been endless, now.
    pub(super) fn finish(&mut self) {
        self.unsent.get_or_insert(0);
        self.fin_wanted = true;
    }

    /// Ends it at once, both ways.
    pub(super) fn reset(&mut self, out: &mut Vec<u8>) {
        self.push(out, self.top, RST | ACK, 0);
        self.state = State::Closed;
    }

    /// Of our stream, the first sequence number that was not acknowledged.
    pub(super) const fn unacked(&self) -> u32 {
        self.unacked
    }

    /// Payload that arrived since the last call.
    pub(super) fn take_fresh(&mut self) -> u64 {
        std::mem::take(&mut self.fresh)
    }

    /// The first byte of their stream.
    pub(super) const fn first_byte(&self) -> Option<u8> {
        self.first_byte
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    pub(super) const fn has_their_fin(&self) -> bool {
        self.fin_seen
    }

    /// Takes a segment. False if the connection broke.
    pub(super) fn input(&mut self, segment: &Segment) -> bool {
        let Header { seq, ack, flags, window } = segment.header;
        if flags & RST != 0 {
            self.state = State::Closed;
            return false;
        }
        match self.state {
            State::SynSent if flags & (SYN | ACK) == SYN | ACK && ack == self.first.wrapping_add(1) => {
                self.learn(segment);
                self.state = State::Open;
                self.acked(ack);
                self.ack_due = true;
                return true;
            }
            State::SynSent | State::Closed => return true,
            // Our answer was lost.
            State::SynReceived if flags & SYN != 0 => {
                self.next = self.first;
                return true;
            }
            State::SynReceived if flags & ACK != 0 => self.state = State::Open,
            State::SynReceived => return true,
            State::Open if flags & SYN != 0 => {
                self.ack_due = true;
                return true;
            }
            State::Open => {}
        }
        if flags & ACK != 0 {
            let before = self.window;
            self.window = u32::from(window) << self.shift;
            if ack.wrapping_sub(self.unacked) <= self.top.wrapping_sub(self.unacked) && ack != self.unacked {
                self.acked(ack);
            } else if ack == self.unacked && segment.len == 0 && self.window == before && self.next != self.unacked {
                self.repeated = self.repeated.saturating_add(1);
                if self.repeated == 3 {
                    self.next = self.unacked;
                }
            }
        }
        let fin = u32::from(flags & FIN != 0);
        if segment.len + fin == 0 {
            return true;
        }
        self.ack_due = true;
        // How much of the segment is old; a hole before it leaves more than the window.
        let old = self.expected.wrapping_sub(seq);
        if old < segment.len || (old == segment.len && fin == 1 && !self.fin_seen) {
            if self.first_byte.is_none() {
                self.first_byte = segment.first;
            }
            self.fresh += u64::from(segment.len - old);
            self.expected = seq.wrapping_add(segment.len).wrapping_add(fin);
            self.fin_seen |= fin == 1;
        }
        true
    }

    fn acked(&mut self, ack: u32) {
        // What was sent again may have been acknowledged by now.
        if self.top.wrapping_sub(ack) < self.top.wrapping_sub(self.next) {
            self.next = ack;
        }
        self.unacked = ack;
        self.repeated = 0;
        self.resend_at = None;
    }

    /// Sends what may be sent, until `out` holds `limit` bytes, and acknowledges what arrived. Gives the number of frames.
    pub(super) fn output(&mut self, now: Instant, out: &mut Vec<u8>, limit: usize) -> u64 {
        let mut frames = 0;
        if self.resend_at.is_some_and(|at| now >= at) {
            self.next = self.unacked;
            // A probe of a closed window.
            self.window = self.window.max(1);
            self.resend_at = None;
        }
        match self.state {
            State::Closed => return 0,
            State::SynSent | State::SynReceived => {
                if self.next == self.first {
                    self.next = self.first.wrapping_add(1);
                    self.top = self.next;
                    let answer = self.state == State::SynReceived;
                    self.push(out, self.first, if answer { SYN | ACK } else { SYN }, 0);
                    frames += 1;
                }
            }
            State::Open => frames += self.stream(out, limit),
        }
        if self.next != self.unacked || self.waits() {
            self.resend_at = self.resend_at.or_else(|| Some(Instant::from_nanos(now.as_nanos() + RESEND_NS)));
        } else {
            self.resend_at = None;
        }
        if self.ack_due && self.state == State::Open {
            self.push(out, self.next, ACK, 0);
            frames += 1;
        }
        if self.fin_seen && self.fin_wanted && self.next == self.top && self.next == self.unacked && !self.waits() {
            self.state = State::Closed;
        }
        frames
    }

    /// Whether there is something that was never sent.
    fn waits(&self) -> bool {
        self.unsent != Some(0) || (self.fin_wanted && !self.fin_sent)
    }

    fn stream(&mut self, out: &mut Vec<u8>, limit: usize) -> u64 {
        let mut frames = 0;
        let room = self.window.min(IN_FLIGHT_MAX);
        while out.len() < limit {
            let again = self.top.wrapping_sub(self.next);
            let again_data = if self.fin_sent { again.saturating_sub(1) } else { again };
            let data = match self.unsent {
                None => u64::MAX,
                Some(unsent) => u64::from(again_data) + unsent,
            };
            let in_flight = self.next.wrapping_sub(self.unacked);
            let may = data.min(u64::from(room.saturating_sub(in_flight)));
            let len = usize::try_from(may).unwrap_or(usize::MAX).min(self.mss);
            let last = data == len as u64;
            let fin = last && self.fin_wanted && (again > again_data || !self.fin_sent);
            if len == 0 && !fin {
                break;
            }
            // Whole segments only, unless nothing else will come: a small rest waits for room.
            if len < self.mss && data > len as u64 && in_flight > 0 {
                break;
            }
            let flags = ACK | if last { PSH } else { 0 } | if fin { FIN } else { 0 };
            self.push(out, self.next, flags, len);
            frames += 1;
            let len = len as u32;
            self.next = self.next.wrapping_add(len + u32::from(fin));
            if let Some(unsent) = &mut self.unsent {
                *unsent -= u64::from(len.saturating_sub(again_data));
            }
            if again < len + u32::from(fin) {
                self.top = self.next;
            }
            if fin {
                self.fin_sent = true;
                break;
            }
        }
        frames
    }

    fn push(&mut self, out: &mut Vec<u8>, seq: u32, flags: u8, len: usize) {
        let syn = flags & SYN != 0;
        let first = if seq == self.first.wrapping_add(1) { self.opening } else { 0 };
        let ack = if flags & ACK == 0 { 0 } else { self.expected };
        let header = Header { seq, ack, flags, window: WINDOW };
        let [high, low] = (self.mss.min(65_535) as u16).to_be_bytes();
        let options = [2, 4, high, low, 1, 3, 3, SHIFT];
        push_tcp(out, &self.path, header, if syn { &options } else { &[] }, first, len);
        if flags & ACK != 0 {
            self.ack_due = false;
        }
    }
}

#[cfg(test)]
mod tests;
