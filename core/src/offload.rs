//! What a network card would do: checksums, the cutting of one long packet into those that fit the MTU, and the joining of
//! those that came in a row.
//!
//! Owns: nothing; functions over the caller's buffers. Driven by: `gateway`, `tap`.

pub mod checksum;
mod coalesce;
mod flow;
mod segment;
mod vnet;

pub use coalesce::{Coalescer, Joined, MAX_FLOWS, MAX_PIECES, Merge, Step};
pub(crate) use segment::Plan;
pub use segment::{SegmentError, Segmenter};
pub use vnet::{Gso, VNET_LEN, VnetError, VnetHeader, finish_checksum};
