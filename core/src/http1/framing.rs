//! Where a message's body ends (section 6.3), and which messages nobody should be asked to guess about.
//!
//! A proxy and the app behind it must see the same requests in the same bytes. So a length that can be read in two ways
//! is no length, and a transfer coding that the proxy cannot take off is not passed on as if it had been taken off.

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes follow the head.
    Length(u64),
    /// Chunks follow, the last of them of size 0.
    Chunked,
    /// Nothing says it: no body in a request, everything up to the end of the connection in a response.
    Unstated,
}

/// Why the end of a body cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A coding other than `chunked`; whoever takes it off must know it.
    #[error("a transfer coding other than chunked")]
    UnknownCoding,
    /// `chunked` missing, not the last, or there twice; or a list without a coding.
    #[error("a Transfer-Encoding that does not end in one chunked")]
    Coding,
    /// HTTP/1.0 has no transfer codings (section 6.1).
    #[error("a Transfer-Encoding in HTTP/1.0")]
    CodingTooNew,
    /// Not a number, or several different ones.
    #[error("a Content-Length that is not one number")]
    Length,
}

/// The framing of a message with these values of `Transfer-Encoding` and `Content-Length`, one for each field line.
/// The former overrides the latter.
pub fn framing<'a>(
    http_1_0: bool,
    transfer_encoding: impl IntoIterator<Item = &'a [u8]>,
    content_length: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Framing, Fault> {
    let mut codings = transfer_encoding.into_iter().peekable();
    if codings.peek().is_some() {
        if http_1_0 {
            return Err(Fault::CodingTooNew);
        }
        return chunked_only(codings).map(|()| Framing::Chunked);
    }
    length(content_length).map(|length| length.map_or(Framing::Unstated, Framing::Length))
}

fn chunked_only<'a>(values: impl Iterator<Item = &'a [u8]>) -> Result<(), Fault> {
    let mut chunked = 0;
    let mut other = false;
    for coding in values.flat_map(elements).filter(|coding| !coding.is_empty()) {
        if coding.eq_ignore_ascii_case(b"chunked") {
            chunked += 1;
        } else {
            other = true;
        }
    }
    match (other, chunked) {
        (true, _) => Err(Fault::UnknownCoding),
        (false, 1) => Ok(()),
        (false, _) => Err(Fault::Coding),
    }
}

/// The one length that all values agree on; a list of equal numbers is taken as that number (RFC 9110 section 8.6).
pub fn length<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<u64>, Fault> {
    let mut length = None;
    for value in values.into_iter().flat_map(elements) {
        let number = number(value).ok_or(Fault::Length)?;
        if length.is_some_and(|length| length != number) {
            return Err(Fault::Length);
        }
        length = Some(number);
    }
    Ok(length)
}

/// Digits only: no sign, no blank, nothing that overflows.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// The elements of a comma-separated list without the white space around them, which is blanks and tabs.
fn elements(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(|mut element| {
        while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = element {
            element = rest;
        }
        element
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(coding: &[&str], length: &[&str]) -> Result<Framing, Fault> {
        let bytes = |values: &[&str]| values.iter().map(|v| v.as_bytes().to_vec()).collect::<Vec<_>>();
        let (coding, length) = (bytes(coding), bytes(length));
        framing(false, coding.iter().map(Vec::as_slice), length.iter().map(Vec::as_slice))
    }

    #[test]
    fn a_body_ends_where_its_fields_say() {
        assert_eq!(of(&[], &[]), Ok(Framing::Unstated));
        assert_eq!(of(&[], &["0"]), Ok(Framing::Length(0)));
        assert_eq!(of(&[], &["18446744073709551615"]), Ok(Framing::Length(u64::MAX)));
        assert_eq!(of(&["chunked"], &[]), Ok(Framing::Chunked));
        assert_eq!(of(&["\tCHUNKED , ,"], &["7", "x"]), Ok(Framing::Chunked), "the coding overrides any length");
    }

    #[test]
    fn equal_lengths_are_one_and_anything_else_is_none() {
        for same in [&["2, 2"][..], &["2", "2"], &["2,2 ", "2"]] {
            assert_eq!(of(&[], same), Ok(Framing::Length(2)), "{same:?}");
        }
        for bad in
            ["", " ", "2,", ",2", "2, 3", "+2", "-2", "2 2", "0x2", "2.0", "2\u{b}", "٢", "18446744073709551616", "2;"]
        {
            assert_eq!(of(&[], &[bad]), Err(Fault::Length), "{bad:?}");
        }
        assert_eq!(of(&[], &["2", "3"]), Err(Fault::Length));
        assert_eq!(of(&[], &["2", ""]), Err(Fault::Length));
    }

    #[test]
    fn only_one_chunked_can_be_taken_off() {
        for unknown in [
            "gzip, chunked",
            "gzip",
            "identity",
            "xchunked, chunked",
            "chunked, gzip",
            "chunked;q=1",
            "chunked x",
            "\"chunked\"",
        ] {
            assert_eq!(of(&[unknown], &[]), Err(Fault::UnknownCoding), "{unknown}");
        }
        assert_eq!(of(&["chunked", "gzip"], &[]), Err(Fault::UnknownCoding));
        assert_eq!(
            of(&["\u{b}chunked"], &[]),
            Err(Fault::UnknownCoding),
            "white space of another kind is not taken off"
        );
        for bad in [&["chunked, chunked"][..], &["chunked", "chunked"], &[""], &[","]] {
            assert_eq!(of(bad, &[]), Err(Fault::Coding), "{bad:?}");
        }
        assert_eq!(framing(true, [&b"chunked"[..]], []), Err(Fault::CodingTooNew));
        assert_eq!(framing(true, [], [&b"2"[..]]), Ok(Framing::Length(2)));
    }
}
