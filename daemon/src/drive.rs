//! The enclave's end of [`core::drive`](nitrotap_core::drive): one thread per direction for frames, one task for the link, and
//! their system calls. What they do and when is core's.

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
