//! The loops that bind the core's machines to file descriptors: one thread per direction for frames, one task for the
//! link.

mod egress;
mod ingress;
mod link;
pub(crate) mod mailbox;
mod offload;
mod tap;
mod tunnel;

pub(crate) use offload::Offload;
pub(crate) use tunnel::{FrameLoop, Tunnel, TunnelConfig};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{self, Errno},
};

/// Tells the link's task that a frame thread lost its stream, or worse.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The stream of this number failed.
    StreamLost(u64, nitrotap_core::link::Down),
    /// The TAP is gone: nothing can be done any more.
    TapGone(Errno),
}

/// Waits until one of `fds` is ready.
fn wait(fds: &mut [PollFd<'_>]) -> io::Result<()> {
    loop {
        match poll(fds, None) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn readable<'a>(fd: &'a impl std::os::fd::AsFd) -> PollFd<'a> {
    PollFd::new(fd, PollFlags::IN)
}

fn writable<'a>(fd: &'a impl std::os::fd::AsFd) -> PollFd<'a> {
    PollFd::new(fd, PollFlags::OUT)
}
