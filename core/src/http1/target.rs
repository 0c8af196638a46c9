//! Paths below a base: no spelling of "one level up" may lead out of it.
//!
//! An upstream with a base path offers what is below it and nothing else. Apps normalise paths in many ways before
//! they look anything up: they decode percent-encoding, some of them twice, take a backslash for a slash, and drop the
//! parameters of a segment or control characters in it. Some know `%uXXXX`, or take wide letters for those of ASCII. So dot segments as RFC 3986 knows them are removed here (its section 5.2.4), and a path
//! that becomes one in any other way is refused.

use std::borrow::Cow;

/// A path that some app may read as one outside the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path has a hidden dot segment")]
pub struct Hidden;

/// How often percent-encoding is taken off in search of a dot segment; what is still encoded after that hides something.
const DEPTH: usize = 8;

/// The `path`, which begins with a slash, without its dot segments; the result stays below `/` for every reader.
pub fn contained(path: &str) -> Result<Cow<'_, str>, Hidden> {
    // Nearly every path has no dot segment in any spelling.
    if !path.bytes().any(|byte| matches!(byte, b'.' | b'%' | b'\\') || !byte.is_ascii()) {
        return Ok(Cow::Borrowed(path));
    }
    let plain = remove_dot_segments(path);
    let mut bytes = plain.as_bytes().to_vec();
    for _ in 0..=DEPTH {
        if bytes.split(|byte| matches!(byte, b'/' | b'\\')).any(may_lead_up) {
            return Err(Hidden);
        }
        let before = bytes.len();
        bytes = decoded(&bytes);
        if bytes.len() == before {
            return Ok(plain);
        }
    }
    Err(Hidden)
}

/// Whether an app may take a segment for "one level up": two dots, then nothing or parameters, with what is left out between.
fn may_lead_up(segment: &[u8]) -> bool {
    let segment = segment.split(|byte| *byte == b';').next().unwrap_or_default();
    let is_dots =
        |text: &[u8]| text.iter().filter(|byte| **byte > b' ' && **byte != 0x7f).take(3).eq([b'.', b'.'].iter());
    // A C string ends at its first zero byte.
    is_dots(segment) || is_dots(segment.split(|byte| *byte == 0).next().unwrap_or_default())
}

/// Takes off one layer of percent-encoding, and the longer forms of ASCII that careless decoders accept (`%c0%ae`).
fn decoded(path: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path;
    loop {
        match rest {
            [] => break,
            [b'%', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(hex(*high) << 4 | hex(*low));
                rest = tail;
            }
            // ECMA-262 annex B.2.1, and old servers.
            [b'%', b'u' | b'U', a, b, c, d, tail @ ..]
                if [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()) =>
            {
                let unit = [a, b, c, d].iter().fold(0, |unit, digit| unit << 4 | u32::from(hex(**digit)));
                bytes.extend(
                    char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER).encode_utf8(&mut [0; 4]).bytes(),
                );
                rest = tail;
            }
            [byte, tail @ ..] => {
                bytes.push(*byte);
                rest = tail;
            }
        }
        if let Some((len, ascii)) = longer_form(&bytes) {
            bytes.truncate(bytes.len() - len);
            bytes.extend_from_slice(ascii.as_bytes());
        }
    }
    bytes
}

/// How many bytes at the end of a text some reader takes for a dot or a slash, or another letter of ASCII: forms of UTF-8 that are too
/// long, and what compatibility mappings fold (`FULL STOP` and `SOLIDUS` in other widths, Unicode Standard Annex #15).
fn longer_form(bytes: &[u8]) -> Option<(usize, String)> {
    let ascii = |high: u8, low: u8| char::from((high & 1) << 6 | low & 0x3f).to_string();
    Some(match bytes {
        [.., 0xe0, middle @ (0x80 | 0x81), last @ 0x80..=0xbf] => (3, ascii(*middle, *last)),
        [.., lead @ (0xc0 | 0xc1), last @ 0x80..=0xbf] => (2, ascii(*lead, *last)),
        [.., 0xef, 0xbc, 0x8e] | [.., 0xef, 0xb9, 0x92] | [.., 0xe2, 0x80, 0xa4] => (3, ".".into()),
        [.., 0xe2, 0x80, 0xa5] => (3, "..".into()),
        [.., 0xef, 0xbc, 0x8f] => (3, "/".into()),
        [.., 0xef, 0xbc, 0xbc] | [.., 0xef, 0xb9, 0xa8] => (3, "\\".into()),
        _ => return None,
    })
}

const fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// RFC 3986 section 5.2.4 for a path that begins with a slash. `%2e` is a dot (section 6.2.2.2).
fn remove_dot_segments(path: &str) -> Cow<'_, str> {
    let is_dots = |segment: &str| matches!(dots(segment), Some(1 | 2));
    if !path.split('/').any(is_dots) {
        return Cow::Borrowed(path);
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match dots(segment) {
            Some(1) if !last => {}
            Some(1) => kept.push(""),
            Some(2) => {
                kept.pop();
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    let mut plain = String::with_capacity(path.len());
    for segment in kept {
        plain.push('/');
        plain.push_str(segment);
    }
    Cow::Owned(plain)
}

/// How many dots a segment consists of, if of nothing else and not more than two.
fn dots(segment: &str) -> Option<usize> {
    let mut rest = segment;
    let mut count = 0;
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').or_else(|| rest.strip_prefix("%2e")).or_else(|| rest.strip_prefix("%2E"))?;
        count += 1;
    }
    (1..=2).contains(&count).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::{Gen, QuickCheck};

    #[test]
    fn dot_segments_are_removed_and_never_lead_above_the_root() {
        for (path, plain) in [
            ("/a/b/c/./../../g", "/a/g"),
            ("/../admin", "/admin"),
            ("/a/../../admin", "/admin"),
            ("/%2e%2e/admin", "/admin"),
            ("/.%2e/admin", "/admin"),
            ("/%2E./a/%2e", "/a/"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/..", "/"),
            ("/a//../b", "/a/b"),
        ] {
            assert_eq!(contained(path).as_deref(), Ok(plain), "{path}");
        }
    }

    #[test]
    fn names_with_dots_and_codes_pass_as_they_are() {
        for path in [
            "/",
            "/a.b",
            "/...",
            "/..a/b..",
            "/a%20b",
            "/a%2Fb",
            "/100%25",
            "/caf%e9",
            "/.well-known/x",
            "/a;v=1..2",
            "/a\\b",
            "//",
            "/%",
            "/%2",
            "/%u002",
            "/％/日本/‧",
            "/%25252525",
        ] {
            assert_eq!(contained(path).as_deref(), Ok(path), "{path}");
        }
    }

    #[test]
    fn hidden_dot_segments_are_refused() {
        for path in [
            "/..%2fadmin",
            "/a/..%2F..%2fadmin",
            "/..;/admin",
            "/..;x=y/admin",
            "/x/..\\..\\admin",
            "/..%5cadmin",
            "/%2e%2e%5cadmin",
            "/%252e%252e/admin",
            "/%25252e./admin",
            "/..%252fadmin",
            "/..%00/admin",
            "/..%20/admin",
            "/..%09",
            "/%c0%ae%c0%ae/admin",
            "/..%c0%afadmin",
            "/a/%2e%2e%3b/admin",
            "/..%c1%9cadmin",
            "/%u002e%U002E/admin",
            "/%25u002e./admin",
            "/..%u002fadmin",
            "/..%U005cadmin",
            "/%uff0e%uff0e/admin",
            "/%e0%80%ae%e0%80%ae/admin",
            "/..%e0%80%afadmin",
            "/%ef%bc%8e%ef%bc%8e/admin",
            "/．．/admin",
            "/‥/admin",
            "/..／admin",
            "/..%ef%bc%bcadmin",
            "/.%00./admin",
            "/.%0d%20./admin",
            "/..%00x/admin",
            "/%2525252525252e./admin",
            "/%252525252525252525252525252525252e",
        ] {
            assert_eq!(contained(path), Err(Hidden), "{path}");
        }
    }

    /// What an app without any care of its own makes of a path.
    fn resolved(path: &[u8]) -> Vec<Vec<u8>> {
        let mut at = Vec::new();
        for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
            match segment.split(|byte| *byte == b';').next().unwrap_or_default() {
                b"" | b"." => {}
                b".." => drop(at.pop()),
                name => at.push(name.to_vec()),
            }
        }
        at
    }

    #[test]
    fn law_no_app_is_led_out_of_the_base_however_often_it_decodes() {
        const PARTS: [&str; 21] = [
            "/",
            "/",
            ".",
            ".",
            "..",
            "%2e",
            "%2E",
            "%2f",
            "%5c",
            "\\",
            ";",
            "%25",
            "2e",
            "2f",
            "a",
            "%3b",
            "%c0%ae",
            "%u002e",
            "u002f",
            "%e0%80%ae",
            "．",
        ];
        fn law(choices: Vec<u8>) -> bool {
            let path: String = choices.iter().map(|c| PARTS[*c as usize % PARTS.len()]).collect();
            let Ok(path) = contained(&format!("/{path}")).map(Cow::into_owned) else { return true };
            let mut seen = format!("/base{path}").into_bytes();
            (0..=DEPTH).all(|_| {
                let inside = resolved(&seen).first().is_some_and(|first| first.starts_with(b"base"));
                seen = decoded(&seen);
                inside
            })
        }
        QuickCheck::new().rng(Gen::from_size_and_seed(12, 11)).tests(20_000).quickcheck(law as fn(Vec<u8>) -> bool);
    }
}
