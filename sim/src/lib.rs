//! Deterministic simulator of nitrotap.
#![warn(missing_docs)]

pub mod app;
mod charged;
pub mod check;
pub mod cpu;
pub mod figure;
pub mod fit;
mod forward;
mod group;
pub mod gvproxy;
pub mod http;
mod ledger;
pub mod load;
mod mailbox;
pub mod measure;
pub mod model;
pub mod params;
mod proxy;
pub mod report;
pub mod rng;
pub mod scenario;
pub mod soak;
pub mod stack;
pub mod stream;
mod tap;
pub mod time;
pub mod trace;
pub mod trap;
pub mod world;
