//! The loops that ship: what a frame thread, the link's task and the host's data thread do, turn by turn.
//!
//! A loop owns its machines and drives them; what it does to the world it does through a trait, its `World`. The daemon
//! implements that trait with system calls, the simulator with modelled kernels in virtual time, a fuzz target with bytes.
//! So the loop that is simulated is the loop that ships, and an implementation of a world decides nothing that a user could
//! notice.
//!
//! # The shape
//! Operations never block: they do what can be done now or say [`Errno::AGAIN`]. Two things take time, and those are `async`:
//! - `wait`: until one of several things is ready, an order has come or a deadline is over. The daemon blocks there in
//!   `poll` or `epoll_wait`, and its future is ready when first polled.
//! - `elapse`: the time that the operations since the last call took. It has passed already in a real world, where this does
//!   nothing; the simulator's processors are busy meanwhile, and other threads get on.
//!
//! Where no `wait` pends, as in the daemon's threads, a loop is a plain function: [`block`] runs it.

pub mod egress;
mod errno;
pub mod host;
pub mod ingress;
pub mod link;

pub use errno::Errno;

use crate::link::Down;
use core::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

/// Runs a loop whose world never pends: its operations block where they wait.
///
/// # Panics
/// If the world pends all the same, as then nobody would ever go on.
pub fn block<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a world that blocks where it waits has nothing to pend for"),
    }
}

/// Longest write on a vsock, in bytes. Guest kernels with commit 6693731487a8 send larger ones as non-linear buffers, which the
/// Nitro hypervisor corrupts silently; and the host is a guest of it too.
pub const VSOCK_WRITE_MAX: usize = 32 << 10;

/// What a frame loop tells the link's loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The stream with this number failed.
    StreamLost(u64, Down),
    /// The TAP is gone: nothing can be done any more.
    TapGone(Errno),
}
