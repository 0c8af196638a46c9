//! Fragments: put together what an enclave sends in pieces (RFC 791, RFC 815; IPv6: RFC 8200 section 4.5), and cut what is
//! longer than its MTU. Those of IPv6 are cut where they are sent.
//!
//! TCP never needs this: its ends agree on a segment size. UDP and ICMP do, above an MTU's worth of payload.

mod reassembler;
mod spans;
mod split;

pub use reassembler::{FragmentCounters, MAX_BYTES, MAX_DATAGRAMS, Reassembler, TIMEOUT, is_fragment};
pub use split::{Fragment, Fragments, Header, PayloadTooLong, fragment};

/// Bytes of an IPv4 header without options.
pub const HEADER_LEN: usize = 20;

/// The most payload that an IPv4 packet without options has.
pub const MAX_PAYLOAD: usize = u16::MAX as usize - HEADER_LEN;
