//! Packets of a stream: the header of virtio-vsock, plus the stamp of the simulated wire.
//!
//! ```text
//!  0          8         16        24        28        32     36    38   40     44           48        52 52+len
//!  | deliver_at | src_cid | dst_cid | src_port | dst_port | len | type | op | flags | buf_alloc | fwd_cnt | ...
//! ```
//! All little endian. The 44 bytes from `src_cid` on are `struct virtio_vsock_hdr` (linux/virtio_vsock.h); `deliver_at`
//! is in nanoseconds of the model.

use bytes::{Buf as _, Bytes};
use nitrotap_core::time::Instant;
use std::fmt;

/// Bytes in front of the payload: the stamp and `struct virtio_vsock_hdr`.
pub const HEADER: usize = 8 + 44;

/// One end of a stream: a machine and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Addr {
    /// Context identifier: 1 the client, 3 the EC2 host (as on Nitro), 4 the enclave.
    pub cid: u32,
    /// Port.
    pub port: u32,
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.cid, self.port)
    }
}

/// What a packet is for (`enum virtio_vsock_op`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Asks for a stream.
    Request = 1,
    /// Accepts it.
    Response = 2,
    /// Refuses it, or ends it at once.
    Rst = 3,
    /// Says that no more will be sent (flag 2), or received either (flag 1).
    Shutdown = 4,
    /// Carries payload.
    Rw = 5,
    /// Tells how much was consumed.
    CreditUpdate = 6,
}

/// `VIRTIO_VSOCK_SHUTDOWN_RCV`: the sender of this will not read any more.
pub(super) const SHUTDOWN_RCV: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_SEND`: the sender of this will not write any more.
pub(super) const SHUTDOWN_SEND: u32 = 2;

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sends it.
    pub src: Addr,
    /// Who gets it.
    pub dst: Addr,
    /// What it is for.
    pub op: Op,
    /// Only for [`Op::Shutdown`].
    pub flags: u32,
    /// The sender's receive buffer, in bytes.
    pub buf_alloc: u32,
    /// Bytes the sender has consumed so far, modulo 2^32.
    pub fwd_cnt: u32,
    /// Only for [`Op::Rw`].
    pub payload: Bytes,
}

impl Packet {
    /// Appends the packet to `out` as it travels.
    pub(super) fn encode(&self, deliver_at: Instant, out: &mut Vec<u8>) {
        out.extend(deliver_at.as_nanos().to_le_bytes());
        out.extend(u64::from(self.src.cid).to_le_bytes());
        out.extend(u64::from(self.dst.cid).to_le_bytes());
        out.extend(self.src.port.to_le_bytes());
        out.extend(self.dst.port.to_le_bytes());
        out.extend((self.payload.len() as u32).to_le_bytes());
        // VIRTIO_VSOCK_TYPE_STREAM
        out.extend(1_u16.to_le_bytes());
        out.extend((self.op as u16).to_le_bytes());
        out.extend(self.flags.to_le_bytes());
        out.extend(self.buf_alloc.to_le_bytes());
        out.extend(self.fwd_cnt.to_le_bytes());
        out.extend_from_slice(&self.payload);
    }

    /// Takes the packet at the head of `bytes` off, if all of it is there.
    ///
    /// # Panics
    /// On an operation that [`Packet::encode`] never writes: the carrier is ours at both ends.
    pub(super) fn decode(bytes: &mut bytes::BytesMut) -> Option<(Instant, Self)> {
        let header = bytes.first_chunk::<HEADER>()?;
        let len = u32::from_le_bytes([header[32], header[33], header[34], header[35]]) as usize;
        if bytes.len() < HEADER + len {
            return None;
        }
        let mut head = bytes.split_to(HEADER);
        let deliver_at = Instant::from_nanos(head.get_u64_le());
        let (src_cid, dst_cid) = (head.get_u64_le() as u32, head.get_u64_le() as u32);
        let (src_port, dst_port) = (head.get_u32_le(), head.get_u32_le());
        let _len_and_type = (head.get_u32_le(), head.get_u16_le());
        let op = match head.get_u16_le() {
            1 => Op::Request,
            2 => Op::Response,
            3 => Op::Rst,
            4 => Op::Shutdown,
            5 => Op::Rw,
            6 => Op::CreditUpdate,
            other => panic!("operation {other} was never sent"),
        };
        let packet = Self {
            src: Addr { cid: src_cid, port: src_port },
            dst: Addr { cid: dst_cid, port: dst_port },
            op,
            flags: head.get_u32_le(),
            buf_alloc: head.get_u32_le(),
            fwd_cnt: head.get_u32_le(),
            payload: bytes.split_to(len).freeze(),
        };
        Some((deliver_at, packet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_survives_the_carrier_at_every_split() {
        let packet = Packet {
            src: Addr { cid: 4, port: 1025 },
            dst: Addr { cid: 3, port: 1024 },
            op: Op::Rw,
            flags: 0,
            buf_alloc: 262_144,
            fwd_cnt: u32::MAX,
            payload: Bytes::from_static(b"hello"),
        };
        let at = Instant::from_nanos(77);
        let mut encoded = Vec::new();
        packet.encode(at, &mut encoded);
        assert_eq!(encoded.len(), HEADER + 5);
        for cut in 0..encoded.len() {
            let mut bytes = bytes::BytesMut::from(&encoded[..cut]);
            assert_eq!(Packet::decode(&mut bytes), None, "cut at {cut}");
            bytes.extend_from_slice(&encoded[cut..]);
            assert_eq!(Packet::decode(&mut bytes), Some((at, packet.clone())));
            assert!(bytes.is_empty());
        }
    }
}
