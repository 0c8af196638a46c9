//! The reverse proxy: hyper on both sides, [`nitrotap_core::pool`] in between, over any byte stream.
//!
//! One [`Shard`] is one single-threaded worker: it serves client connections given to it, and dials its upstream
//! through a [`Dialer`]. It owns no socket, clock or thread: a [`Runtime`] lends it time and tasks, so the daemon's
//! workers and the simulator's hosts run the same code.
//!
//! # One request
//! 1. `client` finds the head, and gives hyper this one request through an `exchange`; hyper hands it to `service`.
//! 2. `head` makes it an upstream request: hop-by-hop fields off, forwarding fields on, the target normalised.
//! 3. `upstreams` asks the pool for a connection and gives out a `Lease` on it, at once or later.
//! 4. `lease` sends the request and drives that upstream connection inside the client's own task until the response
//!    has ended: no task per upstream connection, no wake-up between tasks.
//! 5. `body` streams the response, and returns the connection to the pool with the body's last byte.
//! 6. Whatever goes wrong becomes an answer in `reply`, a counter, and one log line that names the upstream.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod ahead;
mod body;
mod budget;
mod client;
mod config;
mod conn;
mod counters;
mod crowd;
mod exchange;
mod gather;
mod head;
mod housekeeper;
mod interim;
mod lease;
mod lines;
mod linger;
mod race;
mod refuse;
mod repeat;
mod reply;
mod runtime;
mod service;
mod shard;
mod shed;
mod trailers;
mod trust;
mod tunnel;
mod upgrades;
mod upload;
mod upstreams;
mod url;

pub use config::Config;
pub use counters::ProxyCounters;
pub use runtime::{ByteStream, DialFailure, Dialer, Runtime};
pub use shard::{Peer, Shard};
pub use upgrades::{UpgradeError, Upgrades};
pub use url::{UpstreamUrl, UrlError};

#[cfg(test)]
mod tests;
