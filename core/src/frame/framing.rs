//! The length prefixes of gvproxy's protocols.

use super::{MAX_FRAME, MIN_FRAME, PREFIX_LEN, Refused};
use core::fmt;

/// The longest frame taken with [`Framing::Qemu`], Ethernet header included: the size of the buffer that QEMU itself
/// has for a frame (`NET_BUFSIZE` in its `include/net/net.h`), which is [`MAX_FRAME`] and 4097 bytes.
///
/// The prefix could express 4 GiB, and stock gvproxy 0.8.1 allocates whatever it says.
pub const MAX_QEMU_FRAME: usize = 4096 + 65536;

/// How the length of a frame is put in front of it. A SEQPACKET or datagram socket needs none of this: there one
/// message is one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// `u16` little-endian, at most [`MAX_FRAME`]: gvproxy's `/connect`, stdio and vpnkit (hyperkit's framing).
    #[default]
    Hyperkit,
    /// `u32` big-endian, at most [`MAX_QEMU_FRAME`]: QEMU's `-netdev stream` and `-netdev socket`, and libkrun.
    Qemu,
}

impl Framing {
    /// Bytes of the prefix, 2 or 4.
    #[must_use]
    pub const fn prefix_len(self) -> usize {
        match self {
            Self::Hyperkit => PREFIX_LEN,
            Self::Qemu => 4,
        }
    }

    /// The longest frame that is sent or taken, Ethernet header included.
    #[must_use]
    pub const fn max_frame(self) -> usize {
        match self {
            Self::Hyperkit => MAX_FRAME,
            Self::Qemu => MAX_QEMU_FRAME,
        }
    }

    /// The prefix of a frame of `len` bytes: the first [`Framing::prefix_len`] bytes of the array, given as the second
    /// value.
    ///
    /// # Errors
    /// [`Refused`] if the frame is shorter than [`MIN_FRAME`] or longer than [`Framing::max_frame`]; a length never
    /// wraps.
    pub fn prefix(self, len: usize) -> Result<([u8; 4], usize), Refused> {
        if len < MIN_FRAME {
            return Err(Refused::Runt);
        }
        if len > self.max_frame() {
            return Err(Refused::Oversize);
        }
        match self {
            Self::Hyperkit => {
                let [low, high] = u16::try_from(len).map_err(|_| Refused::Oversize)?.to_le_bytes();
                Ok(([low, high, 0, 0], self.prefix_len()))
            }
            Self::Qemu => {
                let prefix = u32::try_from(len).map_err(|_| Refused::Oversize)?.to_be_bytes();
                Ok((prefix, self.prefix_len()))
            }
        }
    }

    /// The frame at the head of `pending`, and how many bytes it takes up with its prefix; `None` if it is not all there.
    #[must_use]
    pub fn split(self, pending: &[u8]) -> Option<(&[u8], usize)> {
        let (head, len) = (self.prefix_len(), self.frame_len(pending)?);
        let frame = pending.get(head..)?.get(..len)?;
        Some((frame, head + len))
    }

    /// The length of the frame at the head of `pending`, which may exceed [`Framing::max_frame`]; `None` while its
    /// prefix is not complete.
    #[inline]
    pub(super) fn frame_len(self, pending: &[u8]) -> Option<usize> {
        match self {
            Self::Hyperkit => pending.first_chunk().map(|prefix| usize::from(u16::from_le_bytes(*prefix))),
            // A length that the platform cannot express is beyond any limit.
            Self::Qemu => {
                pending.first_chunk().map(|prefix| usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX))
            }
        }
    }
}

/// A prefix announced a frame that no peer of good faith sends; the stream cannot be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameTooLong {
    /// What the prefix said, in bytes.
    pub len: usize,
    /// The longest that is taken, in bytes.
    pub limit: usize,
}

impl fmt::Display for FrameTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the peer announced a frame of {} bytes, and at most {} are taken", self.len, self.limit)
    }
}

impl core::error::Error for FrameTooLong {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_what_the_protocols_say() {
        assert_eq!(Framing::Hyperkit.prefix(0x0102), Ok(([2, 1, 0, 0], 2)));
        assert_eq!(Framing::Qemu.prefix(0x0102), Ok(([0, 0, 1, 2], 4)));
        assert_eq!(Framing::Qemu.prefix(MAX_QEMU_FRAME), Ok(([0, 1, 0x10, 0], 4)));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_never_wraps() {
        for framing in [Framing::Hyperkit, Framing::Qemu] {
            assert_eq!(framing.prefix(MIN_FRAME - 1), Err(Refused::Runt));
            assert!(framing.prefix(framing.max_frame()).is_ok());
            assert_eq!(framing.prefix(framing.max_frame() + 1), Err(Refused::Oversize));
            assert_eq!(framing.prefix((1 << 32) + 60), Err(Refused::Oversize));
        }
    }
}
