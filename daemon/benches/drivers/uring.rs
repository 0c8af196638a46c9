//! One submission for a turn: a wait for frames if there were none, and as many reads as a batch has room for, each after
//! the one before. A read that finds nothing ends at once.
#![expect(unsafe_code, reason = "the ring's memory is shared with the kernel")]

use crate::{BATCH, LONGEST, prefix, wait};
use io_uring::{IoUring, opcode, squeue, types::Fd};
use rustix::{event::PollFlags, io::Errno};
use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

/// Reads of a turn.
const READS: usize = BATCH / LONGEST;

/// `RWF_NOWAIT` (linux/fs.h): io_uring waits on a non-blocking descriptor too.
const NOWAIT: i32 = 8;

const POLL: u64 = u64::MAX;

pub(crate) fn drive(tap: OwnedFd, stream: OwnedFd) -> io::Result<()> {
    let mut ring: IoUring = IoUring::builder().setup_single_issuer().setup_coop_taskrun().build(64)?;
    let from = Fd(tap.as_raw_fd());
    let mut slots = vec![0; READS * LONGEST];
    let mut batch = Vec::with_capacity(BATCH);
    let mut lens = [0_i32; READS];
    let mut drained = true;
    loop {
        let mut submitted = READS;
        if drained {
            let poll = opcode::PollAdd::new(from, 1).build().user_data(POLL).flags(squeue::Flags::IO_HARDLINK);
            // SAFETY: the entry refers to no memory.
            unsafe { ring.submission().push(&poll) }.map_err(io::Error::other)?;
            submitted += 1;
        }
        for (i, slot) in slots.chunks_mut(LONGEST).enumerate() {
            let linked = if i + 1 < READS { squeue::Flags::IO_HARDLINK } else { squeue::Flags::empty() };
            let read = opcode::Read::new(from, slot[2..].as_mut_ptr(), LONGEST as u32 - 2).rw_flags(NOWAIT);
            // SAFETY: `slots` is neither moved nor looked at before all completions of this turn are there.
            unsafe { ring.submission().push(&read.build().user_data(i as u64).flags(linked)) }
                .map_err(io::Error::other)?;
        }
        ring.submit_and_wait(submitted)?;
        for completion in ring.completion() {
            if completion.user_data() != POLL {
                lens[completion.user_data() as usize] = completion.result();
            }
        }
        batch.clear();
        drained = false;
        for (slot, len) in slots.chunks_mut(LONGEST).zip(lens) {
            match usize::try_from(len) {
                Ok(0) => return write(&stream, &batch),
                Ok(len) => {
                    prefix(slot, len);
                    batch.extend_from_slice(&slot[..2 + len]);
                }
                Err(_) if len == -Errno::AGAIN.raw_os_error() => drained = true,
                Err(_) => return Err(io::Error::from_raw_os_error(-len)),
            }
        }
        write(&stream, &batch)?;
    }
}

fn write(stream: &OwnedFd, mut pending: &[u8]) -> io::Result<()> {
    while !pending.is_empty() {
        match rustix::io::write(stream, pending) {
            Ok(n) => pending = &pending[n..],
            Err(Errno::AGAIN) => wait(stream, PollFlags::OUT)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
