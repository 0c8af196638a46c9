//! A TCP/IP host that speaks Ethernet frames: the enclave's kernel behind its TAP, and gvproxy's stack.
//!
//! TCP is smoltcp, with one small interface per connection that a table finds by its addresses: a smoltcp socket set is
//! searched from end to end for every packet, which would make the model slower with every client.

mod arp;
mod datagram;
mod device;
mod flow;
mod host;
mod socket;
mod split;
#[cfg(test)]
mod tests;
mod vnet;

pub use arp::Mac;
pub use datagram::{Heard, TOO_LONG};
pub use host::{FlowId, Host, HostConfig, HostUsage, Key, Syn};
pub use socket::{FrameSink, Stack, StackDatagrams, StackListener, StackStream};
pub use split::{SplitError, comparable, split};
pub use vnet::{Packet, Refused};
