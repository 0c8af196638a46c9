//! Interim responses (1xx) as bytes: hyper's server has no way to write one.

use crate::head;
use http::{HeaderMap, StatusCode};
use nitrotap_core::http1::response::Field;

/// The head of an interim response as the client gets it.
pub(crate) fn encoded(status: StatusCode, fields: &[Field]) -> Vec<u8> {
    let mut headers = HeaderMap::new();
    head::append(&mut headers, fields);
    head::to_client(&mut headers, status);
    let reason = status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
    for (name, value) in &headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}
