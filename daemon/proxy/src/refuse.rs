//! Answers to what is no request that could be served: written without hyper, which would not parse it.
//!
//! Who speaks something else than HTTP/1 is told so in words that its own tools show.

use crate::reply::{self, BadRequest, Trouble};
use http::{StatusCode, header};
use nitrotap_core::http1::request::Refusal;

/// What goes back over the wire before the connection ends.
pub(crate) fn answer(refusal: Refusal) -> Vec<u8> {
    match refusal {
        Refusal::Http2 => go_away(),
        Refusal::Tls
        | Refusal::Version
        | Refusal::Malformed(_)
        | Refusal::TooManyFields
        | Refusal::TooLarge
        | Refusal::TargetTooLong
        | Refusal::Framing(_) => plain(refusal),
    }
}

/// The status that stands for `refusal` in the counters; HTTP/2 has none.
pub(crate) fn status(refusal: Refusal) -> StatusCode {
    Trouble::Refused(BadRequest::from(refusal)).status()
}

fn plain(refusal: Refusal) -> Vec<u8> {
    let response = reply::answer(Trouble::Refused(BadRequest::from(refusal)));
    let (parts, body) = response.into_parts();
    let reason = parts.status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_str()).into_bytes();
    for (name, value) in parts.headers.iter().filter(|(name, _)| *name != header::CONNECTION) {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

const HTTP_2_TEXT: &[u8] = b"this proxy speaks HTTP/1.1 only; use HTTP/1.1, or reach a gRPC service without this proxy";

/// HTTP/2 (RFC 9113): an empty SETTINGS frame, which must come first, and GOAWAY with HTTP_1_1_REQUIRED.
fn go_away() -> Vec<u8> {
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const HTTP_1_1_REQUIRED: u32 = 0xd;
    let mut bytes = Vec::new();
    let mut frame = |kind: u8, payload: &[u8]| {
        let len = u32::try_from(payload.len()).expect("a frame of a few bytes");
        bytes.extend_from_slice(&len.to_be_bytes()[1..]);
        // No flags, stream 0.
        bytes.extend_from_slice(&[kind, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(payload);
    };
    frame(SETTINGS, &[]);
    // The last stream that was looked at: none.
    frame(GOAWAY, &[&0u32.to_be_bytes()[..], &HTTP_1_1_REQUIRED.to_be_bytes(), HTTP_2_TEXT].concat());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_states_its_length_and_its_end() {
        for refusal in [Refusal::Tls, Refusal::Version, Refusal::TooLarge, Refusal::Malformed("x")] {
            let text = String::from_utf8(answer(refusal)).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}\r\nconnection: close", body.len())), "{text}");
            assert!(head.starts_with(&format!("HTTP/1.1 {}", &body[..3])), "{text}");
        }
    }

    #[test]
    fn http_2_hears_in_its_own_frames_that_http_1_1_is_required() {
        let bytes = answer(Refusal::Http2);
        assert_eq!(bytes[..9], [0, 0, 0, 4, 0, 0, 0, 0, 0]);
        let length = u8::try_from(8 + HTTP_2_TEXT.len()).unwrap();
        assert_eq!(bytes[9..26], [0, 0, length, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xd]);
        assert_eq!(&bytes[26..], HTTP_2_TEXT);
    }
}
