//! A model of stock gvproxy: one write lock, a frame at a time, and the quirks it is known for.
//!
//! Its switch, its `/connect`, its TCP forwarder and its relays are here; DNS, DHCP, ICMP and UDP are not modelled, and
//! frames of those kinds end in its stack's count of what it ignored.

mod connect;
mod relay;
mod switch;

pub(crate) use connect::{READ_TIMEOUT, read_request};
pub(crate) use relay::{Exposed, Resolve};
pub use switch::Quirks;
pub(crate) use switch::{CONNECT_PORT, Config, ENCLAVE, Foul, GATEWAY, GATEWAY_MAC, Gvproxy, HOST, frames};
