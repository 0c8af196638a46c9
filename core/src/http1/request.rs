//! Where a request's head ends, what its body's framing is, and what is no request at all.
//!
//! Owns: nothing. Driven by: a server that hands one request at a time to its HTTP implementation. The head is parsed
//! with the parser which that implementation uses, so both see it end at the same byte. Bounds: the caller's limits on
//! bytes and fields.
//!
//! Old clients, scripts and devices put `"`, `<`, `>` and Latin-1 letters into targets as they are. Other servers take
//! them; so they are percent-encoded here, where a URI type that refuses them would otherwise end the request.

use super::framing::{Fault, Framing, framing};
use core::{mem::MaybeUninit, ops::Range};

/// What a client of HTTP/2 sends first (RFC 9113 section 3.4).
pub const HTTP_2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest target taken; longer ones are for nobody (section 3 asks for 8000 at least).
const MAX_TARGET: usize = 65_534;

/// Fields that are parsed without an allocation.
const FEW_FIELDS: usize = 100;

/// A complete head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its bytes, the empty line included, and any empty lines in front.
    pub len: usize,
    /// How its body ends; [`Framing::Unstated`] is no body.
    pub framing: Framing,
    /// Whether it is of HTTP/1.0.
    pub http_1_0: bool,
    /// How many fields it has.
    pub fields: usize,
}

/// Why a connection gets an answer, but no request of it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A TLS ClientHello.
    #[error("TLS on a port of plain HTTP")]
    Tls,
    /// HTTP/2 with prior knowledge.
    #[error("HTTP/2 where HTTP/1.1 is spoken")]
    Http2,
    /// Some other version.
    #[error("a version of HTTP other than 1.0 and 1.1")]
    Version,
    /// No HTTP.
    #[error("not an HTTP request: {0}")]
    Malformed(&'static str),
    /// More fields than allowed.
    #[error("too many fields")]
    TooManyFields,
    /// More bytes than allowed.
    #[error("a head that is too large")]
    TooLarge,
    /// A target longer than any path.
    #[error("a target that is too long")]
    TargetTooLong,
    /// The body has no clear end.
    #[error("the end of the request body cannot be told: {0}")]
    Framing(#[from] Fault),
}

/// Looks for a head at the beginning of `bytes`, and percent-encodes its target where that is needed. `seen` bytes have
/// been looked at before, in vain. `None`: there must be more to come.
pub fn head(bytes: &mut Vec<u8>, seen: usize, max_fields: usize) -> Result<Option<Head>, Refusal> {
    if let [0x16, 3, ..] = bytes[..] {
        return Err(Refusal::Tls);
    }
    if bytes.starts_with(b"PRI * HTTP/2.0\r\n") {
        // Whatever comes next, it is no HTTP/1.
        return Err(Refusal::Http2);
    }
    // A trickled head is not parsed again with each byte; what is no HTTP shows in its first piece.
    if seen > 0 && !may_end(&bytes[seen.saturating_sub(3)..]) {
        return Ok(None);
    }
    let target = target(bytes);
    if target.len() > MAX_TARGET {
        return Err(Refusal::TargetTooLong);
    }
    // As long as it may go on, a letter of several bytes may be cut in two.
    if target.end < bytes.len()
        && let Some(encoded) = encoded(&bytes[target.clone()])
    {
        bytes.splice(target, encoded);
    }
    match parse(bytes, &mut [const { MaybeUninit::uninit() }; FEW_FIELDS]) {
        Err(httparse::Error::TooManyHeaders) if max_fields > FEW_FIELDS => {
            judge(parse(bytes, &mut vec![MaybeUninit::uninit(); max_fields]), max_fields)
        }
        parsed => judge(parsed, max_fields),
    }
}

/// Where the target of a request line is, as far as it has arrived, whatever bytes it has.
fn target(bytes: &[u8]) -> Range<usize> {
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    let is_end = |byte: &u8| *byte <= b' ';
    let method = bytes[start..].iter().position(is_end).map_or(bytes.len(), |len| start + len);
    let from = (method + 1).min(bytes.len());
    from..bytes[from..].iter().position(is_end).map_or(bytes.len(), |len| from + len)
}

/// The target percent-encoded where a URI could not have its bytes, and `None` if it could.
fn encoded(target: &[u8]) -> Option<Vec<u8>> {
    let is_ascii = target.is_ascii();
    if is_ascii && !target.iter().any(is_refused) {
        return None;
    }
    let is_text = is_ascii || core::str::from_utf8(target).is_ok();
    if is_text && !target.iter().any(is_refused) {
        return None;
    }
    let mut out = Vec::with_capacity(target.len() + 16);
    for byte in target {
        if is_refused(byte) || (!is_text && !byte.is_ascii()) {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        } else {
            out.push(*byte);
        }
    }
    Some(out)
}

const fn is_refused(byte: &u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'`')
}

/// The essence of what the parser found, free of its borrows.
struct Parsed {
    len: usize,
    http_1_0: bool,
    fields: usize,
    framing: Result<Framing, Fault>,
}

fn parse<'b>(
    bytes: &'b [u8],
    room: &mut [MaybeUninit<httparse::Header<'b>>],
) -> Result<Option<Parsed>, httparse::Error> {
    let mut request = httparse::Request::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, bytes, room)?;
    let httparse::Status::Complete(len) = parsed else { return Ok(None) };
    let http_1_0 = request.version == Some(0);
    let fields = &*request.headers;
    let values = |name: &'static str| {
        fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    };
    // A list of lengths is no length here, though RFC 9110 section 8.6 would allow to take it for one: a server has no
    // good reason to guess.
    let is_list = values("content-length").any(|value| value.contains(&b','));
    let framing = framing(http_1_0, values("transfer-encoding"), values("content-length"));
    let framing = if is_list { framing.and(Err(Fault::Length)) } else { framing };
    Ok(Some(Parsed { len, http_1_0, fields: fields.len(), framing }))
}

fn judge(parsed: Result<Option<Parsed>, httparse::Error>, max_fields: usize) -> Result<Option<Head>, Refusal> {
    let parsed = match parsed {
        Ok(Some(parsed)) => parsed,
        Ok(None) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooManyFields),
        Err(httparse::Error::Version) => return Err(Refusal::Version),
        Err(httparse::Error::HeaderName) => return Err(Refusal::Malformed("a field name has a byte it cannot have")),
        Err(httparse::Error::HeaderValue) => return Err(Refusal::Malformed("a field value has a byte it cannot have")),
        Err(httparse::Error::NewLine) => return Err(Refusal::Malformed("a line ends in the wrong way")),
        Err(httparse::Error::Token | httparse::Error::Status) => {
            return Err(Refusal::Malformed("the request line has a byte it cannot have"));
        }
    };
    if parsed.fields > max_fields {
        return Err(Refusal::TooManyFields);
    }
    Ok(Some(Head { len: parsed.len, framing: parsed.framing?, http_1_0: parsed.http_1_0, fields: parsed.fields }))
}

fn may_end(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &[u8]) -> Result<Option<Head>, Refusal> {
        head(&mut text.to_vec(), 0, 200)
    }

    #[test]
    fn a_head_ends_at_its_empty_line() {
        let text = b"\r\nPOST /a HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: 3\r\n\r\nabcGET /";
        let found = of(text).unwrap().unwrap();
        assert_eq!(
            (found.len, found.framing, found.fields, found.http_1_0),
            (text.len() - 8, Framing::Length(3), 2, false)
        );
        for end in 0..found.len {
            assert_eq!(of(&text[..end]), Ok(None), "{end}");
        }
        let bare = of(b"GET / HTTP/1.0\nA: b\n\nx").unwrap().unwrap();
        assert_eq!((bare.len, bare.framing, bare.http_1_0), (21, Framing::Unstated, true), "a bare LF ends a line too");
        let chunked =
            of(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n").unwrap().unwrap();
        assert_eq!(chunked.framing, Framing::Chunked);
    }

    #[test]
    fn a_trickled_head_is_found_at_its_last_byte() {
        for text in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"GET / HTTP/1.1\nHost: a\n\n",
            b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        ] {
            let mut bytes = Vec::new();
            for (seen, byte) in text.iter().enumerate() {
                bytes.push(*byte);
                let found = head(&mut bytes, seen, 200).unwrap();
                assert_eq!(found.is_some(), bytes.len() == text.len(), "{}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_no_request_is_refused_by_what_it_is() {
        let many = |n: usize| ["GET / HTTP/1.1\r\n".to_owned(), "A: b\r\n".repeat(n), "\r\n".to_owned()].concat();
        for (text, why) in [
            (&b"\x16\x03\x01\x02\x00"[..], Refusal::Tls),
            (HTTP_2_PREFACE, Refusal::Http2),
            (b"GET / HTTP/2.0\r\n\r\n", Refusal::Version),
            (b"GET / HTTP/0.9\r\n\r\n", Refusal::Version),
            (b"SSH-2.0-OpenSSH\r\n", Refusal::Malformed("the request line has a byte it cannot have")),
            (b"GET / HTTP/1.1\r\nA b: c\r\n\r\n", Refusal::Malformed("a field name has a byte it cannot have")),
            (b"GET / HTTP/1.1\r\nA: b\0\r\n\r\n", Refusal::Malformed("a field value has a byte it cannot have")),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", Refusal::Framing(Fault::UnknownCoding)),
            (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal::Framing(Fault::CodingTooNew)),
            (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", Refusal::Framing(Fault::Length)),
            (b"POST / HTTP/1.1\r\nContent-Length: 2, 2\r\n\r\n", Refusal::Framing(Fault::Length)),
            (many(201).as_bytes(), Refusal::TooManyFields),
        ] {
            assert_eq!(of(text), Err(why), "{}", text.escape_ascii());
        }
        for n in [0, 100, 101, 200] {
            assert_eq!(of(many(n).as_bytes()).unwrap().unwrap().fields, n);
        }
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(MAX_TARGET));
        assert_eq!(of(long.as_bytes()), Err(Refusal::TargetTooLong));
    }

    #[test]
    fn a_target_is_encoded_where_a_uri_cannot_have_it_and_nothing_else_is() {
        for (target, becomes) in [
            (&b"/q?a=\"b\""[..], &b"/q?a=%22b%22"[..]),
            (b"/a<b>`", b"/a%3Cb%3E%60"),
            (b"/q?name=caf\xe9", b"/q?name=caf%E9"),
            (b"/\xc3\xa9?\xff", b"/%C3%A9?%FF"),
            (b"/caf\xc3\xa9", b"/caf\xc3\xa9"),
            (b"/q?a|b^c{d}\\%3c%zz", b"/q?a|b^c{d}\\%3c%zz"),
        ] {
            let rest = b" HTTP/1.1\r\nA: \"<\xe9>\"\r\n\r\n\"<\xe9>";
            let mut bytes = [b"\r\nGET ", target, rest].concat();
            let found = head(&mut bytes, 0, 200).unwrap().unwrap();
            assert_eq!(bytes, [b"\r\nGET ", becomes, rest].concat(), "{}", bytes.escape_ascii());
            assert_eq!(found.len, bytes.len() - 4);
        }
        let mut cut = b"GET /caf\xc3".to_vec();
        assert_eq!(head(&mut cut, 0, 200), Ok(None));
        assert_eq!(cut, b"GET /caf\xc3", "the rest of the letter may come yet");
    }
}
