//! The first bytes of a response: interim responses in front of it, and fields beyond those that an HTTP implementation
//! has room for.
//!
//! Owns: nothing. Driven by: whoever stands between a server's bytes and the HTTP implementation that reads them. That one
//! needs the fields that frame a message, so they stay; of the others, the first ones do. Bounds: the caller's limits on
//! bytes and fields.

use core::mem::MaybeUninit;

/// Fields that the HTTP implementation takes without an allocation.
pub const FEW_FIELDS: usize = 100;

/// Fields that say where a message ends and what becomes of the connection.
const FRAMING: [&str; 3] = ["connection", "content-length", "transfer-encoding"];

/// A field's name and value.
pub type Field = (String, Vec<u8>);

/// What a server's bytes begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// There must be more to come to tell.
    Partial,
    /// An interim response (RFC 9110 section 15.2), which is no longer there.
    Interim(u16, Vec<Field>),
    /// The head of the response, or what is none. These of its fields are no longer there.
    Final(Vec<Field>),
}

/// Whether `bytes` begin with a complete head of a final response with [`FEW_FIELDS`] at most, as nearly all do.
#[must_use]
pub fn is_plain(bytes: &[u8]) -> bool {
    let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'2'..=b'5', ..] = bytes else { return false };
    for (fields, end) in memchr::memchr_iter(b'\n', bytes).take(FEW_FIELDS + 1).enumerate() {
        if let [b'\n', ..] | [b'\r', b'\n', ..] = bytes[end + 1..] {
            debug_assert!(fields <= FEW_FIELDS);
            return true;
        }
    }
    false
}

/// Takes an interim response, or the fields for which there is no room, off the beginning of `bytes`. A head of more than
/// `max_head` bytes or `max_fields` fields, and what is no head, stays as it is for others to refuse.
pub fn start(bytes: &mut Vec<u8>, max_head: usize, max_fields: usize) -> Start {
    let unsettled = if bytes.len() > max_head { Start::Final(Vec::new()) } else { Start::Partial };
    let mut room = vec![MaybeUninit::uninit(); max_fields];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parsed = config.parse_response_with_uninit_headers(&mut response, bytes, &mut room);
    let len = match parsed {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return unsettled,
        Err(_) => return Start::Final(Vec::new()),
    };
    match response.code {
        Some(status @ (100 | 102..=199)) => {
            let fields = response.headers.iter().map(owned).collect();
            bytes.drain(..len);
            Start::Interim(status, fields)
        }
        _ if response.headers.len() > FEW_FIELDS => {
            let mut others =
                FEW_FIELDS.saturating_sub(response.headers.iter().filter(|field| is_framing(field)).count());
            let mut stays = |field: &&httparse::Header<'_>| {
                let fits = others > 0;
                if !is_framing(field) {
                    others = others.saturating_sub(1);
                }
                fits || is_framing(field)
            };
            let (kept, surplus): (Vec<_>, Vec<_>) = response.headers.iter().partition(|field| stays(field));
            let surplus = surplus.into_iter().map(owned).collect();
            let line = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(0);
            let fields = line + memchr::memchr(b'\n', &bytes[line..]).map_or(0, |end| end + 1);
            let mut head = bytes[line..fields].to_vec();
            for field in kept {
                head.extend_from_slice(field.name.as_bytes());
                head.extend_from_slice(b": ");
                head.extend_from_slice(field.value);
                head.extend_from_slice(b"\r\n");
            }
            head.extend_from_slice(b"\r\n");
            bytes.splice(..len, head);
            Start::Final(surplus)
        }
        _ => Start::Final(Vec::new()),
    }
}

fn is_framing(field: &httparse::Header<'_>) -> bool {
    FRAMING.iter().any(|name| field.name.eq_ignore_ascii_case(name))
}

fn owned(field: &httparse::Header<'_>) -> Field {
    (field.name.to_owned(), field.value.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::QuickCheck;

    fn of(bytes: &[u8]) -> (Start, Vec<u8>) {
        let mut bytes = bytes.to_vec();
        (start(&mut bytes, 60_000, 256), bytes)
    }

    fn fields(n: usize) -> String {
        (0..n).map(|i| format!("X-{i}: {i}\r\n")).collect()
    }

    #[test]
    fn a_complete_final_head_with_few_fields_is_plain_and_nothing_else_is() {
        for plain in [
            "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
            "HTTP/1.0 404 Not Found\nA: b\n\nbody\n".to_owned(),
            format!("HTTP/1.1 200 OK\r\n{}\r\n", fields(FEW_FIELDS)),
            format!("HTTP/1.1 503 x\r\nA: b\r\n\r\n{}", "\n".repeat(500)),
        ] {
            assert!(is_plain(plain.as_bytes()), "{plain}");
        }
        for other in [
            String::new(),
            "HTTP/1.1 100 Continue\r\n\r\n".to_owned(),
            "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\nA: b\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\nA: b\r\n\r".to_owned(),
            "\r\nHTTP/1.1 200 OK\r\n\r\n".to_owned(),
            format!("HTTP/1.1 200 OK\r\n{}\r\n", fields(FEW_FIELDS + 1)),
        ] {
            assert!(!is_plain(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn interim_responses_come_off_one_by_one_and_a_101_is_none() {
        let rest = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        let (first, left) = of(&[b"\r\nHTTP/1.1 102 Processing\r\nA: b\r\nC: d\r\n\r\n", &rest[..]].concat());
        let two = vec![("A".to_owned(), b"b".to_vec()), ("C".to_owned(), b"d".to_vec())];
        assert_eq!((first, &left[..]), (Start::Interim(102, two), &rest[..]));
        let (second, left) = of(&left);
        assert_eq!((second, &left[..]), (Start::Interim(103, vec![]), &rest[28..]));
        for last in [&left[..], b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nHTTP/1.1 100 x\r\n\r\n"] {
            assert_eq!(of(last), (Start::Final(vec![]), last.to_vec()));
        }
    }

    #[test]
    fn fields_beyond_the_few_come_off_but_not_those_that_frame() {
        let text = format!("HTTP/1.1 200 Fine\r\n{}Content-LENGTH: 2\r\nconnection: close\r\n\r\nhi", fields(150));
        let (found, left) = of(text.as_bytes());
        let Start::Final(surplus) = found else { panic!("{found:?}") };
        let left = String::from_utf8(left).unwrap();
        assert_eq!(surplus.len(), 150 + 2 - FEW_FIELDS);
        assert_eq!((&*surplus[0].0, &*surplus.last().unwrap().1), ("X-98", &b"149"[..]));
        assert!(left.starts_with("HTTP/1.1 200 Fine\r\nX-0: 0\r\n"), "{left}");
        assert!(left.ends_with("X-97: 97\r\nContent-LENGTH: 2\r\nconnection: close\r\n\r\nhi"), "{left}");
        assert!(is_plain(left.as_bytes()));
    }

    #[test]
    fn what_is_too_large_or_no_response_stays_as_it_is() {
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", fields(257));
        let framing = format!("HTTP/1.1 200 OK\r\n{}", "Connection: a\r\n".repeat(101) + "\r\n");
        for text in [&many, &framing, "SSH-2.0-x\r\n", "HTTP/2.0 200 OK\r\n\r\n", &"x".repeat(60_001)] {
            assert_eq!(of(text.as_bytes()), (Start::Final(vec![]), text.as_bytes().to_vec()), "{text}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(60_000));
        assert_eq!(of(long.as_bytes()).0, Start::Final(vec![]), "an end of the head is not waited for without a bound");
        assert_eq!(of(b"HTTP/1.1 103 Early Hints\r\nA: b\r\n").0, Start::Partial);
    }

    #[test]
    fn law_a_plain_head_is_final_and_whole() {
        const PARTS: [&str; 9] =
            ["HTTP/1.1 ", "200", "103", "\r\n", "\n", "A: b\r\n", "\r\n\r\n", "Content-Length: 1\r\n", " OK"];
        fn law(choices: Vec<u8>, repeat: u8) -> bool {
            let tail: String = choices.iter().map(|c| PARTS[*c as usize % PARTS.len()]).collect();
            let text = format!("HTTP/1.1 200 OK\r\n{}{tail}", "B: c\r\n".repeat(repeat as usize % 120));
            let (found, left) = of(text.as_bytes());
            !is_plain(text.as_bytes()) || (found == Start::Final(vec![]) && left == text.as_bytes())
        }
        QuickCheck::new().tests(20_000).quickcheck(law as fn(Vec<u8>, u8) -> bool);
    }
}
