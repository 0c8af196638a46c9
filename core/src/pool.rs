//! Decides which upstream connection a request gets. Sans-IO: no sockets, no tasks, no clock.
//!
//! - [`Pool`] hands out open connections newest first, dials when there is none, queues when it may not dial, and
//!   keeps as many idle connections as recent demand needed.
//! - [`retry`] decides whether a failed request may be sent once more.
//!
//! Driven by `nitrotap-proxy` (hyper over real sockets, or over simulated ones) and by scripts in tests.

mod counters;
mod demand;
mod limits;
mod machine;
mod redial;
pub mod retry;
mod table;
mod types;

pub use counters::PoolCounters;
pub use limits::Limits;
pub use machine::Pool;
pub use types::{CloseWhy, ConnId, DialError, Output, RejectWhy, ReqId, Verdict, Want};
