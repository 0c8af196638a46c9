//! Which protocols a client may switch to.
//!
//! After a 101 the proxy passes bytes that it does not understand, so it passes only protocols that were allowed. HTTP/2
//! over an upgrade (`h2c`) never is: its requests would go past every check made here.

use http::{HeaderMap, HeaderValue, header::UPGRADE};

/// The protocols that requests may switch to.
#[derive(Clone, Debug)]
pub struct Upgrades(Vec<String>);

impl Default for Upgrades {
    /// WebSocket alone.
    fn default() -> Self {
        Self(vec!["websocket".into()])
    }
}

/// A protocol that cannot be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// Not a name.
    #[error("expected the name of a protocol without version, such as websocket")]
    Name,
    /// HTTP itself, of whatever version.
    #[error("requests inside an upgrade to HTTP or TLS would go past the proxy unseen; it cannot be allowed")]
    Unseen,
}

impl Upgrades {
    /// Allows one more protocol.
    ///
    /// # Errors
    /// If the name is no token of RFC 9110, or names what the proxy never passes.
    pub fn allow(&mut self, name: &str) -> Result<(), UpgradeError> {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(UpgradeError::Name);
        }
        if ["h2c", "h2", "http", "tls"].iter().any(|never| never.eq_ignore_ascii_case(name)) {
            return Err(UpgradeError::Unseen);
        }
        self.0.push(name.to_owned());
        Ok(())
    }

    /// The first allowed protocol that `headers` ask for.
    pub(crate) fn choose(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let tokens = headers.get_all(UPGRADE).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
        let allowed = |token: &&[u8]| self.0.iter().any(|allowed| name(token).eq_ignore_ascii_case(allowed.as_bytes()));
        tokens.map(<[u8]>::trim_ascii).find(allowed).and_then(|token| HeaderValue::from_bytes(token).ok())
    }
}

/// Whether an upstream's 101 switches to the protocol that was asked for.
pub(crate) fn agrees(asked: &HeaderValue, headers: &HeaderMap) -> bool {
    let mut answers = headers.get_all(UPGRADE).iter();
    match (answers.next(), answers.next()) {
        (Some(answer), None) => name(answer.as_bytes()).eq_ignore_ascii_case(name(asked.as_bytes())),
        (_, Some(_)) | (None, None) => false,
    }
}

/// A protocol without its version.
fn name(token: &[u8]) -> &[u8] {
    token.split(|b| *b == b'/').next().unwrap_or(token).trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(UPGRADE, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_allowed_protocols_are_chosen_wherever_they_are_named() {
        let mut upgrades = Upgrades::default();
        for (values, chosen) in [
            (&["websocket"][..], Some("websocket")),
            (&["WebSocket"], Some("WebSocket")),
            (&["websocket/13"], Some("websocket/13")),
            (&["h2c, websocket"], Some("websocket")),
            (&["h2c", " websocket "], Some("websocket")),
            (&["h2c"], None),
            (&["foo"], None),
            (&["websockets"], None),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(upgrades.choose(&headers(values)), chosen.map(HeaderValue::from_static), "{values:?}");
        }
        upgrades.allow("foo").unwrap();
        assert_eq!(upgrades.choose(&headers(&["FOO/2"])).unwrap(), "FOO/2");
    }

    #[test]
    fn http_inside_an_upgrade_cannot_be_allowed() {
        let mut upgrades = Upgrades::default();
        for never in ["h2c", "H2C", "HTTP", "tls"] {
            assert_eq!(upgrades.allow(never), Err(UpgradeError::Unseen));
        }
        for bad in ["", "a b", "TLS/1.0", "a,b"] {
            assert_eq!(upgrades.allow(bad), Err(UpgradeError::Name), "{bad}");
        }
    }

    #[test]
    fn a_101_must_name_the_protocol_that_was_asked_for() {
        let asked = HeaderValue::from_static("websocket");
        assert!(agrees(&asked, &headers(&["WebSocket"])) && agrees(&asked, &headers(&["websocket/13"])));
        for other in [&["h2c"][..], &[], &["websocket", "h2c"], &["websocket, h2c"], &[""]] {
            assert!(!agrees(&asked, &headers(other)), "{other:?}");
        }
    }
}
