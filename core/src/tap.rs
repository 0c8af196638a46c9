//! Between a TAP device and a stream: one machine per direction, sharing nothing, so that a thread each can drive them
//! without a lock and a stalled writer never stops a reader.

mod egress;
mod ingress;
mod moderation;
mod wake;

pub use egress::{Egress, EgressCounters};
pub use ingress::{Ingress, IngressCounters, Packet};
pub use wake::{MAX_WOKEN, wake};
