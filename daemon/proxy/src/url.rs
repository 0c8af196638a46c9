//! Where requests go: `http://HOST:PORT[/BASE]`, parsed once into what each request needs.

use http::{HeaderValue, Uri, uri::Scheme};
use std::{fmt, str::FromStr};

/// An upstream such as `http://127.0.0.1:3000/base`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl {
    host: String,
    port: u16,
    /// Prefix of every request's path: empty, or with a leading and without a trailing slash.
    base: String,
    authority: HeaderValue,
}

/// Why a text is no upstream URL; each message says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not a URL at all.
    #[error("not a URL; write http://HOST:PORT, such as http://127.0.0.1:3000")]
    Malformed,
    /// `https://`.
    #[error("https is not supported yet; the upstream runs beside this proxy, so write http://HOST:PORT")]
    HttpsUnsupported,
    /// Another scheme.
    #[error("unknown scheme `{0}`; write http://HOST:PORT")]
    UnknownScheme(String),
    /// No host.
    #[error("no host; write http://HOST:PORT")]
    NoHost,
    /// A port that is no number from 1 to 65535.
    #[error("the port must be a number from 1 to 65535")]
    BadPort,
    /// `user:password@`.
    #[error("user names and passwords are not supported; remove the part before `@`")]
    HasUser,
    /// `?query`.
    #[error("a query cannot be part of the upstream; remove the part from `?` on")]
    HasQuery,
}

impl UpstreamUrl {
    /// Host name or address; an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What every request's path is prefixed with.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// `HOST:PORT` as a header value, for requests that come without a `Host`.
    pub(crate) const fn authority(&self) -> &HeaderValue {
        &self.authority
    }
}

impl FromStr for UpstreamUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let Some((scheme, rest)) = text.split_once("://") else { return Err(UrlError::Malformed) };
        if scheme.eq_ignore_ascii_case("https") {
            return Err(UrlError::HttpsUnsupported);
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(UrlError::UnknownScheme(scheme.to_owned()));
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(UrlError::HasUser);
        }
        if authority.is_empty() || authority.starts_with(':') {
            return Err(UrlError::NoHost);
        }
        let after_host = authority.rsplit_once(']').map_or(authority, |(_, after)| after);
        let port = match after_host.rsplit_once(':') {
            Some((_, port)) => port.parse().ok().filter(|&p| p != 0).ok_or(UrlError::BadPort)?,
            None => 80,
        };
        let uri: Uri = text.parse().map_err(|_| UrlError::Malformed)?;
        if uri.scheme() != Some(&Scheme::HTTP) || text.contains('#') {
            return Err(UrlError::Malformed);
        }
        if uri.query().is_some() {
            return Err(UrlError::HasQuery);
        }
        let host = uri.host().ok_or(UrlError::NoHost)?;
        Ok(Self {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            base: uri.path().trim_end_matches('/').to_owned(),
            authority: HeaderValue::try_from(authority).map_err(|_| UrlError::Malformed)?,
        })
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority.to_str().unwrap_or_default(), self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_host_port_and_an_optional_base_path() {
        let plain: UpstreamUrl = "http://127.0.0.1:3000".parse().unwrap();
        assert_eq!((plain.host(), plain.port(), plain.base()), ("127.0.0.1", 3000, ""));
        let slash: UpstreamUrl = "http://app.internal/".parse().unwrap();
        assert_eq!((slash.host(), slash.port(), slash.base()), ("app.internal", 80, ""));
        let based: UpstreamUrl = "HTTP://[::1]:80/a/b/".parse().unwrap();
        assert_eq!((based.host(), based.port(), based.base()), ("::1", 80, "/a/b"));
        assert_eq!(based.to_string(), "http://[::1]:80/a/b");
    }

    #[test]
    fn anything_else_is_refused_with_its_reason() {
        for (text, why) in [
            ("127.0.0.1:3000", UrlError::Malformed),
            ("", UrlError::Malformed),
            ("https://127.0.0.1:3000", UrlError::HttpsUnsupported),
            ("ftp://127.0.0.1", UrlError::UnknownScheme("ftp".into())),
            ("http://", UrlError::NoHost),
            ("http://:3000", UrlError::NoHost),
            ("http:///path", UrlError::NoHost),
            ("http://host:", UrlError::BadPort),
            ("http://host:0", UrlError::BadPort),
            ("http://host:65536", UrlError::BadPort),
            ("http://[::1]:x", UrlError::BadPort),
            ("http://me:secret@host:80", UrlError::HasUser),
            ("http://host:80/?q", UrlError::HasQuery),
            ("http://host:80/#f", UrlError::Malformed),
            ("http://ho st:80", UrlError::Malformed),
        ] {
            assert_eq!(text.parse::<UpstreamUrl>(), Err(why), "{text}");
        }
    }
}
