//! Bodies of the fuzz targets, so that `cargo test` replays their corpora without a fuzzer.
//!
//! A body takes any bytes and panics if a law is broken.

mod gvproxy_decode;
mod ipv4_reassembly;
mod replay;

pub use gvproxy_decode::{gvproxy_decode, qemu_decode};
pub use ipv4_reassembly::ipv4_reassembly;
pub use replay::replay;
