//! What the host does with an enclave's frames.

pub mod dhcp;
pub mod fragments;
