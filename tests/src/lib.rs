//! End-to-end harness: the built `nitrotap` in namespaces, beside real peers or a scripted fake host.
//!
//! A test takes what it needs ([`Gateway`], [`FakeHost`], an [`Enclave`]) through [`require!`], which prints a loud
//! `SKIPPED` line where the machine cannot provide it, and fails instead where `CI` or `NITROTAP_REQUIRE_PEERS` is set.
//! Programs inside and outside the namespace are the same small tool, `nitrotap-test-guest`, whose parts are in
//! [`guest`]. Everything that a test starts ends with it, by pid, also when the test panics.
//!
//! [`require!`]: crate::require

#![expect(clippy::unwrap_in_result, reason = "a harness panics: its errors are only what a test skips for")]

pub mod binaries;
pub mod enclave;
pub mod fakehost;
pub mod floods;
pub mod flows;
pub mod frameclient;
pub mod gateway;
pub mod guest;
pub mod http;
pub mod leftovers;
pub mod metrics;
pub mod namespace;
pub mod ordinary;
pub mod peers;
pub mod process;
pub mod scratch;
pub mod usage;
pub mod vm;
pub mod wait;
pub mod world;

pub use enclave::Enclave;
pub use fakehost::FakeHost;
pub use frameclient::FrameClient;
pub use gateway::Gateway;
pub use metrics::Metrics;
pub use namespace::Namespace;
pub use process::{Finished, Process};
pub use scratch::Scratch;
pub use world::World;
