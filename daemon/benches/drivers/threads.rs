//! What the daemon does: plain calls on a thread of its own, and `poll` when there is nothing.

use crate::{BATCH, LONGEST, prefix, wait};
use rustix::{event::PollFlags, io::Errno};
use std::{io, os::fd::OwnedFd};

pub(crate) fn drive(tap: OwnedFd, stream: OwnedFd) -> io::Result<()> {
    let mut batch = vec![0; BATCH];
    loop {
        let (mut filled, mut drained) = (0, false);
        while filled + LONGEST <= BATCH {
            match rustix::io::read(&tap, &mut batch[filled + 2..]) {
                Ok(0) => return Ok(()),
                Ok(len) => {
                    prefix(&mut batch[filled..], len);
                    filled += 2 + len;
                }
                Err(Errno::AGAIN) => {
                    drained = true;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let mut pending = &batch[..filled];
        while !pending.is_empty() {
            pending = &pending[rustix::io::write(&stream, pending)?..];
        }
        if drained {
            wait(&tap, PollFlags::IN)?;
        }
    }
}
