//! The reverse proxy on real sockets: listeners, worker threads, counters, drain.
//!
//! [`ProxyServer::start`] binds the listeners and starts the workers. Each worker is one thread with one
//! single-threaded runtime and one `nitrotap_proxy::Shard`; nothing is shared between workers but the count of their
//! connections, by which new ones are dealt out. [`ProxyServer::drain`] ends it all within a bound.

mod dial;
mod flags;
mod listen;
mod proxy_protocol;
mod server;
mod stream;
mod worker;

pub(crate) use flags::{ProxyFlags, Seconds};
pub(crate) use listen::{ListenAddr, bind_tcp, remedy};
pub(crate) use server::{ProxyOptions, ProxyServer};
