//! What a `Host` field, or the authority of a full URL, may say: `host[:port]` of RFC 3986 section 3.2, without a user.

use core::net::Ipv6Addr;

/// Whether `text` is a host with an optional port, as RFC 9110 section 7.2 asks for.
///
/// Apps build links and choose tenants by it, so nothing passes that two parsers may read differently. A name is not
/// looked at beyond its alphabet: underscores are in use, and a trailing dot is legal.
#[must_use]
pub fn is_valid(text: &[u8]) -> bool {
    let (host, port) = match text {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            if !is_address(&rest[..end]) {
                return false;
            }
            match &rest[end + 1..] {
                [] => return true,
                [b':', port @ ..] => return is_port(port),
                [..] => return false,
            }
        }
        _ => match text.iter().position(|byte| *byte == b':') {
            Some(colon) => (&text[..colon], &text[colon + 1..]),
            None => (text, &[][..]),
        },
    };
    !host.is_empty() && is_name(host) && is_port(port)
}

/// Empty is the scheme's own port (RFC 3986 section 3.2.3).
fn is_port(digits: &[u8]) -> bool {
    let number = digits.iter().take(5).fold(0u32, |number, digit| number * 10 + u32::from(digit.wrapping_sub(b'0')));
    digits.is_empty()
        || (digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit) && (1..=u32::from(u16::MAX)).contains(&number))
}

/// Without a zone: that is of no meaning to anybody else.
fn is_address(text: &[u8]) -> bool {
    core::str::from_utf8(text).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// The bytes that a name has as they are.
const NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"-._~!$&'()*+,;=";
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
};

fn is_name(mut text: &[u8]) -> bool {
    loop {
        match text {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => text = rest,
            [byte, rest @ ..] if NAME[usize::from(*byte)] => text = rest,
            [..] => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_valid;

    #[test]
    fn names_and_addresses_with_and_without_a_port_are_hosts() {
        for good in [
            "a",
            "example.com",
            "example.com.",
            "example.com:8080",
            "a:",
            "a:1",
            "a:65535",
            "my_app.internal",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:8080",
            "[2001:db8::1]:",
            "xn--bcher-kva.example",
            "caf%C3%A9.example",
            "a-b~c",
        ] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
    }

    #[test]
    fn nothing_else_is() {
        for bad in [
            "",
            ":",
            ":80",
            "a b",
            " a",
            "a ",
            "a\t",
            "me@a",
            "me:secret@a",
            "a:b",
            "a:80:80",
            "a:-1",
            "a:+1",
            "a:0",
            "a:65536",
            "a:080000",
            "::1",
            "[::1",
            "::1]",
            "[::1]x",
            "[::1]80",
            "[]",
            "[a]",
            "[fe80::1%25eth0]",
            "[::1]:x",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "http://a",
            "a%",
            "a%2",
            "a%zz",
            "a\"",
            "<a>",
            "a, b",
            "a^b",
            "{a}",
            "caf\u{e9}",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
        assert!(!is_valid(b"caf\xe9") && !is_valid(b"a\0") && !is_valid(b"a\x7f"));
    }
}
