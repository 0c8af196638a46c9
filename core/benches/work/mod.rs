//! The hot loops, each over a fixed amount of work: what `speed` times and `instructions` counts.
//!
//! Every piece of work gives the bytes or items that it went through, so that no compiler can leave it out and every bench
//! can say what it did.

pub(crate) mod codec;
pub(crate) mod drive;
pub(crate) mod gateway;
pub(crate) mod offload;
pub(crate) mod pool;

/// Bytes of an Ethernet frame at an MTU of 1500.
pub(crate) const FULL: usize = 1514;

/// Bytes that are neither all the same nor compressible by accident.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}
