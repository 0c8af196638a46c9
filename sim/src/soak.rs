//! Random worlds under random faults, every invariant checked, and every failure replayed from its plan.
//!
//! A seed expands into a [`Plan`], which is all that a run gets: topology, loads, faults, times. A run has four parts:
//!
//! ```text
//!  0        faults over          calm                    stop              end
//!  | faults and loads | recovery | loads, nothing may fail | nobody talks: all connections end |
//! ```
//! From the first fault to `calm`, and while the link comes up at boot, a request may fail, with an explicit error; bytes
//! that arrive are right at all times.

mod app;
mod campaign;
mod clients;
mod datagrams;
mod faults;
mod parting;
mod pattern;
mod plan;
mod rogue;
mod run;
mod shrink;

pub use campaign::{Campaign, Tally};
pub use faults::{Fault, FaultKind};
pub use plan::{Load, LoadKind, Plan, PlanError, Transfer};
pub use run::{Counts, Verdict, run};
pub use shrink::{Shrunk, shrink};
