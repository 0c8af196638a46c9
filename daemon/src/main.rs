//! The nitrotap binary.
fn main() {}
