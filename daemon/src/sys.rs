//! The only home of `unsafe`: one system call per wrapper, owned types out.

pub(crate) mod activation;
pub(crate) mod alloc;
mod errno;
pub(crate) mod errqueue;
pub(crate) mod fork;
pub(crate) mod pktinfo;
pub(crate) mod process;
pub(crate) mod readiness;
pub(crate) mod standard;
pub(crate) mod tun;
pub(crate) mod vsock;

pub(crate) use errno::errno;
