//! Bodies of the fuzz targets, so that `cargo test` replays their corpora without a fuzzer.
//!
//! A body takes any bytes and panics if a law is broken.

mod dhcp_server;
mod dns_front;
mod gateway_frames;
mod gvproxy_decode;
mod http1_request;
mod http1_response;
mod ipv4_reassembly;
mod loop_egress;
mod loop_host;
mod loop_ingress;
mod loop_link;
mod offload;
mod policy_rule;
mod proxy_protocol;
mod replay;
mod world;

pub use dhcp_server::dhcp_server;
pub use dns_front::dns_front;
pub use gateway_frames::gateway_frames;
pub use gvproxy_decode::{gvproxy_decode, qemu_decode};
pub use http1_request::http1_request;
pub use http1_response::http1_response;
pub use ipv4_reassembly::ipv4_reassembly;
pub use loop_egress::loop_egress;
pub use loop_host::loop_host;
pub use loop_ingress::loop_ingress;
pub use loop_link::loop_link;
pub use offload::{coalesce, segment, vnet_header};
pub use policy_rule::policy_rule;
pub use proxy_protocol::proxy_protocol;
pub use replay::replay;
