//! The life of the stream between enclave and host, from the first dial to the reconnect after a loss.
//!
//! ```text
//!            Dial          Write(/connect)        Probe             Up
//!   Idle ──────────▶ Dialing ──────────▶ Gap ──────────▶ Probing ──────────▶ Up
//!                      │ failed                            │ no answer        │ closed, silent
//!                      ▼                                   ▼                  ▼
//!                    Backoff ◀────────────────────────────────────────────────┘
//! ```
//!
//! Why the gap and the probe: stock gvproxy answers `/connect` with silence and drops whatever bytes had already reached
//! its HTTP reader; the stream is then out of step for good (gvproxy `pkg/virtualnetwork/mux.go`). So nothing is sent for
//! a moment after the request, and then an ARP request for the gateway proves that the switch hears us. It also teaches
//! the switch our MAC. Without an answer the stream is closed and dialled anew, with a longer gap.

mod arp;
mod config;
mod machine;
mod status;

pub use arp::{ARP_FRAME, MacAddr, MacAddrError};
pub use config::Config;
pub use machine::{Link, Output};
pub use status::{DialFailure, Down, Failure, LinkCounters, State, Status};

/// The request that turns a connection to gvproxy into a stream of frames; it is never answered.
///
/// The bytes of gvforwarder and nitriding, but for their name: HTTP/1.1 wants a `Host`, and gvproxy takes it empty.
pub const CONNECT_REQUEST: &[u8] =
    b"POST /connect HTTP/1.1\r\nHost: \r\nUser-Agent: nitrotap\r\nContent-Length: 0\r\n\r\n";
