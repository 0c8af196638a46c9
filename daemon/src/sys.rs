//! The only home of `unsafe`: one system call per wrapper, owned types out.

pub(crate) mod process;
pub(crate) mod readiness;
pub(crate) mod tun;
