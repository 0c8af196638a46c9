//! What a network card would do: checksums, and the cutting of one long TCP segment into those that fit the MTU.
//!
//! Owns: nothing; functions over the caller's buffers. Driven by: `gateway`.

pub mod checksum;
mod segment;

pub use segment::{SegmentError, Segmenter};
