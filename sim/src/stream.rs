//! Byte streams between modelled machines: vsock, and sockets of kernels that are not modelled frame by frame.
//!
//! One machine for all of them, because they differ in figures only: a stream is packets under credit-based flow control,
//! as virtio-vsock has it. What leaves the machine travels over a turmoil TCP connection, which is nothing but its
//! carrier; what stays inside is handed over at once.

mod carrier;
mod credit;
mod net;
mod packet;
mod socket;

pub use carrier::{Held, Wire, WireParams};
pub(crate) use carrier::{accept, dial};
pub use credit::{Endpoint, Limits, Violation};
pub use net::{Connect, Listener, Net, NetLimits, Role, Usage};
pub use packet::{Addr, HEADER, Op, Packet};
pub use socket::SimStream;
pub(crate) use socket::{Edge, Watcher, errno};
