//! Sans-IO networking core of nitrotap: everything that decides, nothing that touches the world.
//!
//! # The contract every machine keeps
//! A machine owns no socket, no thread and no clock. It takes `&mut self`, an input and `now`; it has four families of
//! methods: getters, `handle_*` (the world tells the machine), commands, and `poll_*` (the machine tells the world).
//! After any `handle_*` or command the driver drains the bulk data, then `poll_output` until `None`, then arms one timer
//! from `poll_timeout`. The same object is driven by the daemon, by the simulator, by fuzz targets and by benches.
//!
//! Three outcomes are kept apart: a fault of one frame is counted as a drop, a fault that ends a stream is a typed error
//! with what was seen, and a broken invariant is a panic with its reason.
//!
//! # Map
//! | module | what lives there |
//! |---|---|
//! | [`frame`] | gvproxy's framing: the decoder and the batch |
//! | [`tap`] | the two halves of the TAP handler |
//! | [`link`] | the life of the stream to the host: dial, probe, up, lost, backoff |
//! | [`gateway`] | what the host does with frames: switch, addresses, names, TCP, datagrams, policy |
//! | [`offload`] | checksums and segmentation |
//! | [`http1`] | messages of the reverse proxy as bytes: where they end, what may be passed on |
//! | [`pace`] | how long a slow side of a transfer is waited for |
//! | [`pool`] | the upstream connections of the reverse proxy |
//! | [`proxy_protocol`] | who a connection is really from, in front of its first byte |
//! | [`drive`] | the loops that drive these machines, over a world of calls that never block |
//! | [`watchdog`] | whether a thread still does its work |
//! | [`mod@counters`], [`time`] | what all of them share |
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod counters;
pub mod drive;
pub mod frame;
pub mod gateway;
pub mod http1;
pub mod link;
pub mod offload;
pub mod pace;
pub mod pcap;
pub mod pool;
pub mod proxy_protocol;
pub mod tap;
pub mod time;
pub mod watchdog;
