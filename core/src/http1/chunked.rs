//! Where a chunked body ends (section 7.1), without touching its bytes.
//!
//! Owns: a place in the grammar. Driven by: whoever passes the bytes on and must stop behind the last one. Drain:
//! nothing. Bounds: none needed, it stores numbers only.

/// Follows a chunked body to the empty line behind its trailer section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanner(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The first digit of a size is due.
    Start,
    Size(u64),
    /// White space behind a size: no digit may follow it.
    Blank(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// The first byte of a trailer field or of the empty line.
    LineStart,
    Field,
    FieldLf,
    EndLf,
    End,
    /// Not the grammar: the end is nowhere.
    Broken,
}

impl Scanner {
    /// At the first byte of a body.
    #[must_use]
    pub const fn new() -> Self {
        Self(State::Start)
    }

    /// Whether the body's last byte has been seen.
    #[must_use]
    pub const fn is_end(&self) -> bool {
        matches!(self.0, State::End)
    }

    /// Whether the bytes are no chunked body. Then nothing behind the fault is a body or another message: some readers would
    /// see the end there, others later.
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        matches!(self.0, State::Broken)
    }

    /// Follows the body through `bytes`. Gives how many of them belong to it: up to its end, or to its fault.
    pub fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.is_end() || self.is_broken() {
                break;
            }
            if let State::Data(left) = self.0 {
                let step = left.min((bytes.len() - at) as u64);
                // `step` is at most what is there, so it fits.
                at += usize::try_from(step).unwrap_or(usize::MAX);
                self.0 = if step == left { State::DataCr } else { State::Data(left - step) };
            } else {
                self.0 = self.0.after(bytes[at]);
                at += usize::from(!self.is_broken());
            }
        }
        at
    }
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Start, _) => digit(byte).map_or(Self::Broken, Self::Size),
            (Self::Size(size), _) if digit(byte).is_some() => {
                let grown = size.checked_mul(16).zip(digit(byte)).and_then(|(size, digit)| size.checked_add(digit));
                grown.map_or(Self::Broken, Self::Size)
            }
            (Self::Size(size) | Self::Blank(size), b' ' | b'\t') => Self::Blank(size),
            (Self::Size(size) | Self::Blank(size), b';') => Self::Extension(size),
            (Self::Size(size) | Self::Blank(size) | Self::Extension(size), b'\r') => Self::SizeLf(size),
            (Self::Extension(size), _) if byte != b'\n' => Self::Extension(size),
            (Self::SizeLf(0), b'\n') | (Self::FieldLf, b'\n') => Self::LineStart,
            (Self::SizeLf(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Start,
            (Self::LineStart, b'\r') => Self::EndLf,
            (Self::Field, b'\r') => Self::FieldLf,
            (Self::LineStart | Self::Field, _) if byte != b'\n' => Self::Field,
            (Self::EndLf, b'\n') => Self::End,
            _ => Self::Broken,
        }
    }
}

fn digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::QuickCheck;

    fn end_of(bytes: &[u8]) -> Option<usize> {
        let mut scanner = Scanner::new();
        let taken = scanner.advance(bytes);
        scanner.is_end().then_some(taken)
    }

    #[test]
    fn a_body_ends_behind_its_trailer_section() {
        for body in [
            &b"0\r\n\r\n"[..],
            b"2\r\nhi\r\n0\r\n\r\n",
            b"2;a=\"b\"\r\nhi\r\n00 \t;x\r\nX-Sum: 1\r\nY: 2\r\n\r\n",
            b"A\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
        ] {
            let shown = body.escape_ascii();
            assert_eq!(end_of(&[body, b"GET / HTTP/1.1\r\n"].concat()), Some(body.len()), "{shown}");
            assert_eq!(end_of(&body[..body.len() - 1]), None, "{shown}");
        }
    }

    #[test]
    fn what_is_not_the_grammar_has_no_end() {
        for body in [
            &b"\r\n0\r\n\r\n"[..],
            b"x\r\n",
            b"-1\r\n",
            b"0x2\r\nhi\r\n0\r\n\r\n",
            b"2 2\r\n",
            b"2\nhi\r\n0\r\n\r\n",
            b"2\r\nhi0\r\n\r\n",
            b"2\r\nhi\n0\r\n\r\n",
            b"0\r\nX: 1\n\r\n",
            b"0\n\n",
            b"0\r\n\n",
            b"10000000000000000\r\n",
            b"2;a\nb\r\nhi\r\n0\r\n\r\n",
            b"2\r\rhi",
        ] {
            let mut scanner = Scanner::new();
            let fault = scanner.advance(body);
            assert!(scanner.is_broken() && fault < body.len(), "{}", body.escape_ascii());
            assert_eq!(scanner.advance(b"0\r\n\r\n"), 0, "nothing comes behind it");
        }
    }

    #[test]
    fn law_the_end_does_not_depend_on_how_the_bytes_come() {
        fn law(sizes: Vec<u8>, cut: usize, tail: Vec<u8>) -> bool {
            let mut body = Vec::new();
            for size in &sizes {
                body.extend_from_slice(format!("{size:x}\r\n").as_bytes());
                body.extend(std::iter::repeat_n(b'\r', usize::from(*size)));
                body.extend_from_slice(b"\r\n");
                if *size == 0 {
                    break;
                }
            }
            if !sizes.contains(&0) {
                body.extend_from_slice(b"0\r\n\r\n");
            }
            let length = body.len();
            body.extend_from_slice(&tail);
            let cut = cut % (body.len() + 1);
            let mut scanner = Scanner::new();
            let mut taken = scanner.advance(&body[..cut]);
            if taken == cut {
                taken += scanner.advance(&body[cut..]);
            }
            scanner.is_end() && taken == length
        }
        QuickCheck::new().tests(2_000).quickcheck(law as fn(Vec<u8>, usize, Vec<u8>) -> bool);
    }
}
