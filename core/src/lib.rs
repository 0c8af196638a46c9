//! Sans-IO networking core of nitrotap.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod counters;
pub mod time;
