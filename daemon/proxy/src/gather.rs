//! Writing several pieces at once, the cheaper way.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncWrite, ReadBuf};

/// Up to this many bytes are cheaper to copy than to describe to the kernel piece by piece.
const COPY_MAX: usize = 1024;

/// Writes the first bytes of `bufs`, in one piece if there is one or they are few.
///
/// hyper hands over even a lone head as a list, and a head with a small body as two pieces. A vectored write costs the
/// kernel more than a plain send, for most messages of an API more than their bytes do.
pub(crate) fn poll_write_gathered<S: AsyncWrite + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    bufs: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let stream = Pin::new(stream);
    if let [only] = bufs {
        return stream.poll_write(cx, only);
    }
    let total: usize = bufs.iter().map(|buf| buf.len()).sum();
    if total > COPY_MAX {
        return stream.poll_write_vectored(cx, bufs);
    }
    // Not filled with zeroes first.
    let mut room = [const { MaybeUninit::uninit() }; COPY_MAX];
    let mut copy = ReadBuf::uninit(&mut room);
    bufs.iter().for_each(|buf| copy.put_slice(buf));
    stream.poll_write(cx, copy.filled())
}
