//! The head of an HTTP/1 request on a stream that may carry frames right behind it.
//!
//! Owns: nothing; the caller keeps the bytes, so that none behind the head is lost (stock gvproxy loses them, and the
//! stream is out of step for good). Driven by: the link listeners. Bounds: [`MAX_HEAD`] bytes, [`MAX_HEADERS`] fields.
//! The answers to requests that are none are those of Go's `net/http`, byte for byte.

use hyper::Uri;

/// Longest head, in bytes. Go clients send 85; nothing sensible comes near.
pub(crate) const MAX_HEAD: usize = 8 << 10;

/// Header fields of a head.
const MAX_HEADERS: usize = 64;

/// What the gateway needs to know of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The path without its query.
    pub(crate) path: String,
    /// Whether a body follows.
    pub(crate) body: bool,
    /// Bytes of the head, the empty line included.
    pub(crate) len: usize,
}

/// Why there is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("400 Bad Request")]
    Malformed,
    #[error("400 Bad Request: missing required Host header")]
    NoHost,
    #[error("431 Request Header Fields Too Large")]
    TooLong,
    #[error("505 HTTP Version Not Supported: unsupported protocol version")]
    Version,
}

impl Refusal {
    /// The whole answer, after which the connection is closed.
    pub(crate) fn answer(self) -> String {
        format!("HTTP/1.1 {self}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n{self}")
    }
}

/// gvproxy's answer to a path that is not there. The connection stays open unless `close`.
pub(crate) fn not_found(close: bool) -> String {
    let connection = if close { "Connection: close\r\n" } else { "" };
    format!(
        "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n\
         {connection}Content-Length: 19\r\n\r\n404 page not found\n"
    )
}

/// Reads the head at the start of `bytes`; `None` if its end has not come yet.
///
/// # Errors
/// [`Refusal::TooLong`] for [`MAX_HEAD`] bytes without an end, the others for what no HTTP/1 server takes.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut fields);
    let len = match request.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooLong),
        Err(httparse::Error::Version) => return Err(Refusal::Version),
        Err(_) => return Err(Refusal::Malformed),
    };
    if len > MAX_HEAD {
        return Err(Refusal::TooLong);
    }
    let named = |name: &'static str| {
        request.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    };
    match (named("host").count(), request.version) {
        (0, Some(1)) => return Err(Refusal::NoHost),
        (0 | 1, _) => {}
        _ => return Err(Refusal::Malformed),
    }
    let uri: Uri = request.path.unwrap_or_default().parse().map_err(|_| Refusal::Malformed)?;
    let body = named("transfer-encoding").next().is_some() || named("content-length").any(|value| value != b"0");
    Ok(Some(Head { path: uri.path().to_owned(), body, len }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    /// What gvforwarder and nitriding send.
    const GO: &str = "POST /connect HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 0\r\n\r\n";

    #[test]
    fn the_request_of_a_go_client_is_read_and_its_end_is_known_to_the_byte() {
        let stream = [GO.as_bytes(), &[14, 0, 0xff]].concat();
        let head = parse(&stream).unwrap().unwrap();
        assert_eq!(head, Head { path: "/connect".into(), body: false, len: GO.len() });
        for end in 0..GO.len() {
            assert_eq!(parse(&stream[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn methods_versions_and_forms_that_gvproxy_takes_are_taken() {
        for (text, path) in [
            ("GET /connect HTTP/1.1\r\nHost: a\r\n\r\n", "/connect"),
            ("CONNECT /connect HTTP/1.1\r\nhost:\r\n\r\n", "/connect"),
            ("POST /connect?x=1 HTTP/1.0\r\n\r\n", "/connect"),
            ("POST http://gateway/connect HTTP/1.1\r\nHost: b\r\n\r\n", "/connect"),
            ("POST /connect HTTP/1.1\nHost:\n\n", "/connect"),
            ("GET /connect/ HTTP/1.1\r\nHost:\r\n\r\n", "/connect/"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap().unwrap().path, path, "{text}");
        }
    }

    #[test]
    fn what_is_no_request_gets_the_answer_of_gos_server() {
        let many = format!("GET / HTTP/1.1\r\nHost:\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS));
        let long = format!("GET / HTTP/1.1\r\nHost:\r\na: {}", "b".repeat(MAX_HEAD));
        for (text, refusal, line) in [
            ("POST /connect HTTP/1.1\r\n\r\n", Refusal::NoHost, "400 Bad Request: missing required Host header"),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Refusal::Malformed, "400 Bad Request"),
            ("garbage\r\n\r\n", Refusal::Malformed, "400 Bad Request"),
            ("\0\x0e\r\n\r\n", Refusal::Malformed, "400 Bad Request"),
            (
                "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
                Refusal::Version,
                "505 HTTP Version Not Supported: unsupported protocol version",
            ),
            (&many, Refusal::TooLong, "431 Request Header Fields Too Large"),
            (&long, Refusal::TooLong, "431 Request Header Fields Too Large"),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(refusal), "{text}");
            assert_eq!(
                refusal.answer(),
                format!(
                    "HTTP/1.1 {line}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n{line}"
                )
            );
        }
    }

    #[test]
    fn a_body_is_noticed() {
        for (field, body) in [
            ("Content-Length: 0", false),
            ("Content-Length: 5", true),
            ("Transfer-Encoding: chunked", true),
            ("A: b", false),
        ] {
            let text = format!("POST /connect HTTP/1.1\r\nHost:\r\n{field}\r\n\r\n");
            assert_eq!(parse(text.as_bytes()).unwrap().unwrap().body, body, "{field}");
        }
    }

    quickcheck! {
        /// More bytes never change what fewer bytes already decided.
        fn a_decision_stands(bytes: Vec<u8>, prefix: bool) -> bool {
            let mut bytes = bytes;
            if prefix {
                bytes.splice(..0, *b"POST /connect HTTP/1.1\r\nHost: ");
            }
            let mut decided = None;
            (0..=bytes.len()).all(|end| {
                let now = parse(&bytes[..end]);
                let same = decided.as_ref().is_none_or(|before| *before == now);
                if now != Ok(None) {
                    decided = Some(now);
                }
                same
            })
        }

        /// The head ends within the bytes, and what is behind it does not matter.
        fn bytes_behind_the_head_are_not_looked_at(behind: Vec<u8>) -> bool {
            let stream = [GO.as_bytes(), &behind].concat();
            parse(&stream).is_ok_and(|head| head.is_some_and(|head| head.len == GO.len()))
        }
    }
}
