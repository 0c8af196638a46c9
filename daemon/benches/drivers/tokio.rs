//! The same on a runtime with one thread.
#![expect(unsafe_code, reason = "registering a descriptor is a promise about it")]

use crate::{BATCH, LONGEST, prefix};
use rustix::io::Errno;
use std::{io, os::fd::OwnedFd};
use tokio::io::{AsyncWriteExt as _, unix::AsyncFd};

pub(crate) fn drive(tap: OwnedFd, stream: OwnedFd) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(pump(tap, stream))
}

async fn pump(tap: OwnedFd, stream: OwnedFd) -> io::Result<()> {
    // SAFETY: an owned descriptor stays the same file until it is dropped.
    let tap = unsafe { AsyncFd::register(tap)? };
    rustix::io::ioctl_fionbio(&stream, true)?;
    let mut stream = tokio::net::UnixStream::from_std(stream.into())?;
    let mut batch = vec![0; BATCH];
    loop {
        let mut filled = 0;
        let mut ready = tap.readable().await?;
        while filled + LONGEST <= BATCH {
            match rustix::io::read(&tap, &mut batch[filled + 2..]) {
                Ok(0) => return Ok(()),
                Ok(len) => {
                    prefix(&mut batch[filled..], len);
                    filled += 2 + len;
                }
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        drop(ready);
        stream.write_all(&batch[..filled]).await?;
    }
}
