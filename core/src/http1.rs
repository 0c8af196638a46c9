//! HTTP/1.1 messages as bytes: where they end, and what of them may be passed on.
//!
//! Owns: nothing. Driven by: the reverse proxy, around the HTTP implementation that it uses on both sides. What that
//! implementation leaves to its user, or has no way to express, is decided here. Sections are those of RFC 9112 unless
//! another document is named.

pub mod chunked;
pub mod framing;
pub mod host;
pub mod request;
pub mod response;
pub mod target;
