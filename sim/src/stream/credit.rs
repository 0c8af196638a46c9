//! Flow control of one stream, at one of its ends: virtio-vsock's credit (virtio specification 5.10.6.3).
//!
//! Owns: the counters of both directions and the bytes received and not yet read. No socket, no time.
//! Driven by: `socket` and `net`; laws over random scripts.   Drain: after every call, [`Endpoint::poll_packet`].
//! Bounds: never more than [`Limits::buf_alloc`] bytes are held; a peer that sends more is a [`Violation`].

use super::packet::{Addr, Op, Packet, SHUTDOWN_RCV, SHUTDOWN_SEND};
use bytes::{Buf as _, Bytes};
use std::collections::VecDeque;

/// Sizes of one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that may be received and not yet read. 262,144 in Linux (`VIRTIO_VSOCK_DEFAULT_BUF_SIZE`).
    pub buf_alloc: u32,
    /// Longest payload sent in one packet: 65,536 (`VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`), or the 4,096 bytes of a guest's
    /// receive buffers (`VIRTIO_VSOCK_DEFAULT_RX_BUF_SIZE`) towards one.
    pub max_packet: u32,
}

/// The peer broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// More bytes than the credit given.
    #[error("the peer sent {sent} bytes with {allowed} allowed")]
    CreditOverrun {
        /// Bytes of the packet.
        sent: u32,
        /// Bytes that were free.
        allowed: u32,
    },
    /// More consumed than was ever sent.
    #[error("the peer claims to have consumed {claimed} bytes of {sent}")]
    ForwardedTooMuch {
        /// The peer's counter, modulo 2^32.
        claimed: u32,
        /// What was sent, modulo 2^32.
        sent: u32,
    },
    /// A payload longer than any receive buffer.
    #[error("a packet of {0} bytes is longer than the largest there is")]
    TooLong(u32),
}

/// One end of a stream.
#[derive(Debug)]
pub struct Endpoint {
    local: Addr,
    peer: Addr,
    limits: Limits,
    /// Bytes sent, modulo 2^32.
    tx_cnt: u32,
    peer_buf_alloc: u32,
    /// Bytes the peer says it consumed, modulo 2^32; `tx_cnt - peer_fwd_cnt <= peer_buf_alloc`.
    peer_fwd_cnt: u32,
    received: VecDeque<Bytes>,
    /// Bytes in `received`.
    held: u32,
    /// Bytes consumed, modulo 2^32.
    fwd_cnt: u32,
    /// The last `fwd_cnt` the peer was told.
    told_fwd_cnt: u32,
    sent_shutdown: u32,
    peer_shutdown: u32,
    reset: bool,
    out: VecDeque<Packet>,
}

impl Endpoint {
    /// An end that knows nothing of its peer yet, and so may not send.
    #[must_use]
    pub fn new(local: Addr, peer: Addr, limits: Limits) -> Self {
        Self {
            local,
            peer,
            limits,
            tx_cnt: 0,
            peer_buf_alloc: 0,
            peer_fwd_cnt: 0,
            received: VecDeque::new(),
            held: 0,
            fwd_cnt: 0,
            told_fwd_cnt: 0,
            sent_shutdown: 0,
            peer_shutdown: 0,
            reset: false,
            out: VecDeque::new(),
        }
    }

    /// Asks for the stream, or accepts it.
    pub fn open(&mut self, op: Op) {
        self.push(op, 0, Bytes::new());
    }

    /// Bytes that may be sent now.
    #[must_use]
    pub const fn credit(&self) -> u32 {
        self.peer_buf_alloc.saturating_sub(self.tx_cnt.wrapping_sub(self.peer_fwd_cnt))
    }

    /// Whether a write could do anything: send, or fail.
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.credit() > 0 || self.write_closed()
    }

    /// Whether writing is over.
    #[must_use]
    pub const fn write_closed(&self) -> bool {
        self.reset || self.sent_shutdown & SHUTDOWN_SEND != 0 || self.peer_shutdown & SHUTDOWN_RCV != 0
    }

    /// Whether a read could do anything: give bytes, the end, or an error.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        !self.received.is_empty() || self.reset || self.peer_shutdown & SHUTDOWN_SEND != 0
    }

    /// Whether the stream was reset.
    #[must_use]
    pub const fn is_reset(&self) -> bool {
        self.reset
    }

    /// Whether the peer has finished sending, whatever is still to be read.
    #[must_use]
    pub const fn peer_ended(&self) -> bool {
        self.peer_shutdown & SHUTDOWN_SEND != 0
    }

    /// Whether the peer has finished sending and everything of it was read.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.received.is_empty() && (self.reset || self.peer_shutdown & SHUTDOWN_SEND != 0)
    }

    /// Bytes received and not yet read.
    #[must_use]
    pub const fn held(&self) -> u32 {
        self.held
    }

    /// Whether both directions are over.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.reset || (self.sent_shutdown & SHUTDOWN_SEND != 0 && self.peer_shutdown & SHUTDOWN_SEND != 0)
    }

    /// Sends as much of `bytes` as there is credit for, and says how much that was.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        if self.write_closed() {
            return 0;
        }
        let total = bytes.len().min(self.credit() as usize);
        for chunk in bytes[..total].chunks(self.limits.max_packet.max(1) as usize) {
            self.tx_cnt = self.tx_cnt.wrapping_add(chunk.len() as u32);
            self.push(Op::Rw, 0, Bytes::copy_from_slice(chunk));
        }
        total
    }

    /// Reads into `buf` what there is, and says how much that was.
    pub fn read(&mut self, buf: &mut [u8]) -> usize {
        let mut n = 0;
        while n < buf.len() {
            let Some(front) = self.received.front_mut() else { break };
            let part = front.len().min(buf.len() - n);
            buf[n..n + part].copy_from_slice(&front[..part]);
            front.advance(part);
            n += part;
            if front.is_empty() {
                self.received.pop_front();
            }
        }
        self.held -= n as u32;
        self.fwd_cnt = self.fwd_cnt.wrapping_add(n as u32);
        self.tell_credit();
        n
    }

    /// Linux tells the peer once the space that it sees falls below one maximal packet
    /// (`virtio_transport_stream_do_dequeue`).
    fn tell_credit(&mut self) {
        let untold = self.fwd_cnt.wrapping_sub(self.told_fwd_cnt);
        let seen_free = self.limits.buf_alloc.saturating_sub(self.held + untold);
        if untold > 0 && seen_free < (64 << 10).min(self.limits.buf_alloc) && !self.reset {
            self.push(Op::CreditUpdate, 0, Bytes::new());
        }
    }

    /// Finishes sending; what was sent before still arrives.
    pub fn shutdown(&mut self) {
        self.say_shutdown(SHUTDOWN_SEND);
    }

    /// Closes: with unread bytes that is a reset, as for TCP (RFC 2525 section 2.17) and for vsock alike.
    pub fn close(&mut self) {
        if self.reset || self.is_over() && self.received.is_empty() {
            return;
        }
        if self.received.is_empty() {
            self.say_shutdown(SHUTDOWN_SEND | SHUTDOWN_RCV);
        } else {
            self.abort();
        }
    }

    /// Ends the stream at once, both ways.
    pub fn abort(&mut self) {
        if !self.reset {
            self.push(Op::Rst, 0, Bytes::new());
            self.vanish();
        }
    }

    /// The stream is gone without a word to the peer.
    pub fn vanish(&mut self) {
        self.reset = true;
        self.received.clear();
        self.held = 0;
    }

    fn say_shutdown(&mut self, flags: u32) {
        if !self.reset && self.sent_shutdown | flags != self.sent_shutdown {
            self.sent_shutdown |= flags;
            self.push(Op::Shutdown, self.sent_shutdown, Bytes::new());
        }
    }

    /// A packet of the peer.
    ///
    /// # Errors
    /// [`Violation`] if the peer broke the rules; the packet is not taken.
    pub fn handle_packet(&mut self, packet: Packet) -> Result<(), Violation> {
        if self.reset {
            return Ok(());
        }
        if packet.op != Op::Rst {
            let in_flight = self.tx_cnt.wrapping_sub(packet.fwd_cnt);
            if in_flight > self.tx_cnt.wrapping_sub(self.peer_fwd_cnt) {
                return Err(Violation::ForwardedTooMuch { claimed: packet.fwd_cnt, sent: self.tx_cnt });
            }
            self.peer_fwd_cnt = packet.fwd_cnt;
            self.peer_buf_alloc = packet.buf_alloc;
        }
        match packet.op {
            Op::Rw => {
                let len = packet.payload.len() as u32;
                let allowed = self.limits.buf_alloc - self.held;
                if len > 64 << 10 {
                    return Err(Violation::TooLong(len));
                }
                if len > allowed {
                    return Err(Violation::CreditOverrun { sent: len, allowed });
                }
                if self.sent_shutdown & SHUTDOWN_RCV != 0 {
                    // Nobody will read it.
                    self.abort();
                } else {
                    self.held += len;
                    self.received.push_back(packet.payload);
                }
            }
            Op::Shutdown => self.peer_shutdown |= packet.flags,
            Op::Rst => self.vanish(),
            Op::Request | Op::Response | Op::CreditUpdate => {}
        }
        Ok(())
    }

    /// The next packet for the peer.
    #[must_use]
    pub fn poll_packet(&mut self) -> Option<Packet> {
        self.out.pop_front()
    }

    fn push(&mut self, op: Op, flags: u32, payload: Bytes) {
        self.told_fwd_cnt = self.fwd_cnt;
        self.out.push_back(Packet {
            src: self.local,
            dst: self.peer,
            op,
            flags,
            buf_alloc: self.limits.buf_alloc,
            fwd_cnt: self.fwd_cnt,
            payload,
        });
    }
}

#[cfg(test)]
mod tests;
