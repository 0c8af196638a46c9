//! What the host's side of the link decides.

pub mod fragments;
