//! What the host does with an enclave's frames: everything between the frames of links and the sockets of the world.
//!
//! ```text
//!   frames in ──▶ machine ──┬── lan: switch, ARP, NDP, DHCP ───▶ queues of links
//!                           ├── rules: what may lead where
//!                           ├── tcp ─────────────────────────▶ connections of the world
//!                           └── datagrams: UDP, pings, DNS ───▶ datagrams of the world
//! ```
//!
//! It is a drop-in for gvproxy on the wire, with these differences: hardware and IP addresses cannot be taken over by
//! another enclave; nothing one enclave does takes another one's room; half-closed connections stay; errors of the world
//! arrive as what they are; everything is bounded.

mod arena;
pub mod arrivals;
mod asker;
mod config;
mod counters;
mod datagrams;
pub mod dhcp;
pub mod dns;
mod duplicates;
mod floods;
mod foreign;
mod formers;
pub mod fragments;
mod handled;
mod lan;
pub mod limits;
mod machine;
mod meeting;
mod ndp;
mod neighbour;
mod network;
mod network6;
mod output;
mod pins;
pub mod policy;
mod port;
pub mod publishing;
mod queue;
mod rules;
mod session;
mod source_ports;
mod switch;
mod tcp;
mod tenant;
mod timers;
pub mod turns;
mod wire;

pub use asker::port_unreachable;
pub use config::{Allocate, Config, ConfigError};
pub use counters::Counters;
pub use duplicates::{Duplicate, Station};
pub use handled::{DialError, Handled, OpenError, SessionError};
pub use machine::Gateway;
pub use network6::own_addresses;
pub use output::{Closed, Ended, FlowId, Output, SessionId, Target};
pub use pins::{MAX_PINS, Pin};
pub use port::{ANONYMOUS, MAX_PORTS, PortId};
pub use queue::LIMIT as QUEUE_LIMIT;
pub use session::Kind;
pub use source_ports::SourcePortsConfig;
pub use tcp::{FLUSH_WORK_LIMIT, FlowStatus};
pub use tenant::TenantLimits;
