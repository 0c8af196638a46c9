//! Ethernet frames on a byte stream, as gvproxy's `/connect` carries them: `u16` little-endian length, then the frame.
//!
//! The length counts the frame and not itself. There is no frame check sequence, no padding to 60 bytes and no
//! virtio-net header (gvproxy `pkg/tap/protocols.go`, hyperkit framing). Every byte string is a valid stream: a receiver
//! cannot lose its place unless bytes are missing. Other peers put another prefix in front: see [`Framing`].
//!
//! ```text
//!  0        2                    2+len
//!  +--------+--------------------+--------+-----
//!  | len LE | dst src type  data | len LE | ...
//!  +--------+--------------------+--------+-----
//! ```

mod batch;
mod decoder;
mod framing;

pub use batch::{Batch, ROOM, Refused};
pub use decoder::{Decoder, Truncated};
pub use framing::{FrameTooLong, Framing, MAX_QEMU_FRAME};

/// Bytes of the length prefix of [`Framing::Hyperkit`].
pub const PREFIX_LEN: usize = 2;

/// Shortest frame: destination, source and `EtherType` (IEEE 802.3 clause 3).
///
/// Never send less: stock gvproxy indexes past a frame of 0 to 11 bytes while it holds its switch lock, and every
/// machine behind it loses its network (gvproxy `pkg/tap/switch.go`).
pub const MIN_FRAME: usize = 14;

/// Longest frame the prefix can express, Ethernet header included.
pub const MAX_FRAME: usize = u16::MAX as usize;

/// Bytes an Ethernet header may add to an MTU: 14, and 4 for one 802.1Q tag.
pub const MAX_HEADER: usize = 18;

/// The longest frame an interface of this IP MTU sends.
#[must_use]
pub const fn frame_limit(mtu: u16) -> usize {
    let limit = mtu as usize + MAX_HEADER;
    if limit > MAX_FRAME { MAX_FRAME } else { limit }
}

/// The largest IP MTU whose untagged frames fit [`MAX_FRAME`].
pub const MAX_MTU: u16 = (MAX_FRAME - MIN_FRAME) as u16;

/// The smallest MTU an IPv4 host must support (RFC 791 section 3.2).
pub const MIN_MTU: u16 = 68;
