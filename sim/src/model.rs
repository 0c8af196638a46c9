//! What queueing theory says about a scenario: the check on the simulator, and no part of it.
//!
//! A closed loop of `N` connections visits stations with known service demands. [`mva()`] computes its throughput,
//! response time and queues exactly for exponential service; [`bounds`] holds what no service can exceed. The simulator
//! serves in between, so the two make an [`Envelope`] that its figures must lie in.
//!
//! What the model cannot express, the simulator may leave the envelope for, with a reason: a lock and a core held
//! together, stalls for credit, dials that depend on the state of a pool.
//!
//! Pure functions of their arguments. Demands and times are in microseconds, throughput is in requests per second.

pub mod bounds;
mod mva;

pub use bounds::Envelope;
pub use mva::{Prediction, Station, mva};
