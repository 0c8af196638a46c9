//! Names of DNS as rules see them.

use super::rule::{ENCLAVES, HOST};
use core::fmt;

/// Longest name in its text form without the dot at its end (RFC 1035 section 2.3.4: 255 octets on the wire).
pub const MAX_NAME: usize = 253;

/// Longest label (RFC 1035 section 2.3.4).
pub const MAX_LABEL: usize = 63;

/// `example.com`, which is that name alone, or `*.example.com`, which is every name below it at any depth, but not
/// itself. In lower case, without a dot at its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamePattern {
    pub(super) name: String,
    pub(super) below: bool,
}

impl NamePattern {
    /// Whether a name, as [`normal`] gives it, is meant.
    pub(super) fn matches(&self, name: &str) -> bool {
        if self.below {
            name.strip_suffix(&self.name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        } else {
            name == self.name
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keyword = !self.below && [HOST, ENCLAVES].contains(&&*self.name);
        write!(f, "{}{}{}", if self.below { "*." } else { "" }, self.name, if keyword { "." } else { "" })
    }
}

/// A name in lower case and without the dot at its end.
pub(super) fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Whether a name is made of letters, digits, hyphens, underscores and the dots between labels. Anything else is written
/// with a backslash, and a dot that belongs to a label must not pass for one that ends it.
pub(super) fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| is_label_byte(byte) || byte == b'.')
}

pub(super) const fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}
