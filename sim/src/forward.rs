//! What moves frames between the TAP and the stream, in the enclave: nitrotap as it ships, and nitriding's loop.

mod egress;
mod events;
mod go;
mod ingress;
mod link;
mod patience;
mod stream;
mod thread;

pub(crate) use go::run as run_go;
pub(crate) use link::{Nitrotap, Port};

use crate::{
    check::Audit,
    ledger::FrameLedger,
    params::ForwarderCosts,
    stack::Stack,
    stream::{Addr, Net},
    tap::Tap,
    time::Clock,
    trace::Trace,
};

/// What every forwarder works with.
#[derive(Clone)]
pub(crate) struct Enclave {
    pub(crate) net: Net,
    pub(crate) host: Addr,
    pub(crate) tap: Tap,
    pub(crate) kernel: Stack,
    pub(crate) clock: Clock,
    pub(crate) trace: Trace,
    pub(crate) audit: Audit,
    pub(crate) ledger: FrameLedger,
    pub(crate) costs: ForwarderCosts,
    pub(crate) mtu: u16,
    /// Its threads stall now and then, from this seed on.
    pub(crate) stalls: Option<u64>,
}
