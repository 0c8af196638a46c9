//! Paths below a base: no spelling of "one level up" may lead out of it.
//!
//! An upstream with a base path offers what is below it and nothing else. Apps normalise paths in many ways before
//! they look anything up: they decode percent-encoding, some of them twice, take a backslash for a slash, and drop the
//! parameters of a segment. So dot segments as RFC 3986 knows them are removed here (its section 5.2.4), and a path
//! that becomes one in any other way is refused.

use std::borrow::Cow;

/// A path that some app may read as one outside the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path has a hidden dot segment")]
pub struct Hidden;

/// How often percent-encoding is taken off in search of a dot segment; what is still encoded after that is a name.
const DEPTH: usize = 3;

/// The `path`, which begins with a slash, without its dot segments; the result stays below `/` for every reader.
pub fn contained(path: &str) -> Result<Cow<'_, str>, Hidden> {
    // Nearly every path has no dot segment in any spelling.
    if !path.bytes().any(|byte| matches!(byte, b'.' | b'%' | b'\\')) {
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
            break;
        }
    }
    Ok(plain)
}

/// Whether an app may take a segment for "one level up": dots, then nothing, parameters, or what is trimmed.
fn may_lead_up(segment: &[u8]) -> bool {
    let segment = segment.split(|byte| *byte == b';').next().unwrap_or_default();
    let is_trimmed = |byte: &u8| *byte <= b' ' || *byte == 0x7f;
    let end = segment.iter().rposition(|byte| !is_trimmed(byte)).map_or(0, |last| last + 1);
    let start = segment.iter().position(|byte| !is_trimmed(byte)).unwrap_or(end);
    // A C string ends at its first zero byte.
    let text = segment[start..end].split(|byte| *byte == 0).next().unwrap_or_default();
    text == b".."
}

/// Takes off one layer of percent-encoding, and the two-byte forms of ASCII that careless decoders accept (`%c0%ae`).
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
            [byte, tail @ ..] => {
                bytes.push(*byte);
                rest = tail;
            }
        }
        if let [.., lead @ (0xc0 | 0xc1), last @ 0x80..=0xbf] = bytes[..] {
            let ascii = (lead & 1) << 6 | last & 0x3f;
            bytes.truncate(bytes.len() - 2);
            bytes.push(ascii);
        }
    }
    bytes
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
        const PARTS: [&str; 17] =
            ["/", "/", ".", ".", "..", "%2e", "%2E", "%2f", "%5c", "\\", ";", "%25", "2e", "2f", "a", "%3b", "%c0%ae"];
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
