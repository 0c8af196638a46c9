//! TCP made of frames, as cheap as it can be: the null host of `bench tap` and the guest of `bench host`.
//!
//! Both stand at the other end of the component that is measured, and must cost less than it does. So payload is zeros
//! that nobody looks at, a received segment is only counted, everything that one read brought is acknowledged at once, and
//! checksums are computed for what leaves (zeros add nothing to them) and not verified on what arrives: frames come over
//! a local stream that does not corrupt. Loss is repaired (go back to the first unacknowledged byte), since the kernel
//! behind a TAP may drop.

mod endpoint;
mod flow;
mod pump;
mod wire;

pub(super) use endpoint::{Endpoint, Said};
pub(super) use flow::FlowId;
pub(super) use pump::Pump;
