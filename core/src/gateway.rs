//! What the host does with an enclave's frames.

pub mod dhcp;
pub mod fragments;
pub mod limits;
pub mod policy;
pub mod dns;
