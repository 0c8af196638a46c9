//! What a proxy changes in message heads: pure functions on headers.
//!
//! Hop-by-hop fields go (RFC 9110 section 7.6.1), forwarding fields come, the target becomes what the upstream
//! expects (RFC 9112 section 3.2). Everything else passes as it came.

use crate::{reply::BadRequest, trust, upgrades::Upgrades, url::UpstreamUrl};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING,
        UPGRADE,
    },
    request, response,
    uri::{PathAndQuery, Scheme},
};
use nitrotap_core::http1::{
    framing::{self, Fault},
    host,
    response::Field,
    target,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Who asks, as far as forwarding fields are concerned.
pub(crate) struct Origin<'a> {
    /// The client's address as text, or `unknown`.
    pub(crate) client: &'a HeaderValue,
    /// Keep `X-Forwarded-Proto` and `X-Forwarded-Host` as they came.
    pub(crate) trust_forwarded: bool,
    /// What it may switch to.
    pub(crate) upgrades: &'a Upgrades,
}

/// Makes the head of a client's request the head of the upstream's. Gives the protocol the client wants to switch to.
pub(crate) fn to_upstream(
    parts: &mut request::Parts,
    upstream: &UpstreamUrl,
    origin: &Origin<'_>,
    has_body: bool,
) -> Result<Option<HeaderValue>, BadRequest> {
    if parts.method == Method::CONNECT {
        return Err(BadRequest::Connect);
    }
    let http_1_0 = parts.version == Version::HTTP_10;
    let here = Here::of(&parts.headers);
    if here.has(Here::TRANSFER_ENCODING | Here::CONTENT_LENGTH) {
        framing::framing(http_1_0, values(&parts.headers, TRANSFER_ENCODING), values(&parts.headers, CONTENT_LENGTH))?;
    }
    let host = normalise_target(parts, upstream)?;
    let wanted = if here.has(Here::UPGRADE) { origin.upgrades.choose(&parts.headers) } else { None };
    let hop = strip_hop_by_hop(&mut parts.headers, here);
    if hop.trailers_accepted {
        parts.headers.insert(TE, HeaderValue::from_static("trailers"));
        parts.headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if has_body && hop.chunked {
        // Kept explicitly, because hyper sends a GET without a stated length as one without a body.
        parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if http_1_0 {
        // It cannot be meant (RFC 9110 section 10.1.1).
        parts.headers.remove(EXPECT);
    }
    add_forwarding_fields(&mut parts.headers, origin, host, here);
    let protocol = hop.upgrade.and(wanted).filter(|_| parts.version == Version::HTTP_11);
    if let Some(protocol) = &protocol {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, protocol.clone());
    }
    parts.version = Version::HTTP_11;
    Ok(protocol)
}

/// Whether the upstream ends its connection with this response.
pub(crate) fn says_close(response: &response::Parts) -> bool {
    let mut tokens = values(&response.headers, CONNECTION).flat_map(|value| value.split(|byte| *byte == b','));
    response.version == Version::HTTP_10 || tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// Makes the headers of the upstream's response those of the client's, except for a 101.
pub(crate) fn to_client(headers: &mut HeaderMap, status: StatusCode) {
    let hop = strip_hop_by_hop(headers, Here::of(headers));
    if status == StatusCode::UPGRADE_REQUIRED
        && let Some(protocol) = hop.upgrade
    {
        // RFC 9110 section 15.5.22: a 426 is pointless without it.
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

/// Makes the headers of an upstream's 101 the client's: the upgrade is what both hops agree on.
pub(crate) fn to_client_upgraded(headers: &mut HeaderMap) {
    if let Some(protocol) = strip_hop_by_hop(headers, Here::of(headers)).upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

/// Makes sure that the end of a response's body can be told, and states it once.
pub(crate) fn check_response(headers: &mut HeaderMap, has_body: bool) -> Result<(), Fault> {
    let here = Here::of(headers);
    if here.has(Here::TRANSFER_ENCODING) {
        // Without a body there is nothing to take the coding off; the field goes with those of its hop.
        return if has_body {
            framing::framing(false, values(headers, TRANSFER_ENCODING), []).map(drop)
        } else {
            Ok(())
        };
    }
    if !here.has(Here::CONTENT_LENGTH) {
        return Ok(());
    }
    let mut stated = headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    if let (Some(only), None) = (stated.next(), stated.next())
        && (1..20).contains(&only.len())
        && only.iter().all(u8::is_ascii_digit)
    {
        // One number that no type is too small for.
        return Ok(());
    }
    let Some(length) = framing::length(values(headers, CONTENT_LENGTH))? else { return Ok(()) };
    let mut stated = headers.get_all(CONTENT_LENGTH).iter();
    if stated.next().is_some_and(|value| !value.as_bytes().iter().all(u8::is_ascii_digit)) || stated.next().is_some() {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(())
}

/// Adds fields that were read as bytes. What no field can be is left out.
pub(crate) fn append(headers: &mut HeaderMap, fields: &[Field]) {
    for (name, value) in fields {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
}

fn values(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes)
}

/// Gives the request a target below the upstream's base path, and exactly one `Host`, which it returns.
fn normalise_target(parts: &mut request::Parts, upstream: &UpstreamUrl) -> Result<HeaderValue, BadRequest> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, mut stated) = match (hosts.next(), hosts.next()) {
        (Some(host), None) => (host.clone(), true),
        (None, _) if parts.version == Version::HTTP_10 => (upstream.authority().clone(), false),
        // RFC 9112 section 3.2: also if a full URL names the host.
        (Some(_), Some(_)) | (None, _) => return Err(BadRequest::Host),
    };
    let host = match parts.uri.authority() {
        // RFC 9112 section 3.2.2: the target's host wins over the field.
        Some(authority) => {
            let scheme = parts.uri.scheme().ok_or(BadRequest::Target)?;
            if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS {
                return Err(BadRequest::Target);
            }
            stated = false;
            HeaderValue::try_from(authority.as_str()).map_err(|_| BadRequest::HostSyntax)?
        }
        None => host,
    };
    if !host::is_valid(host.as_bytes()) {
        return Err(BadRequest::HostSyntax);
    }
    if !stated {
        parts.headers.insert(HOST, host.clone());
    }
    let path = parts.uri.path_and_query().ok_or(BadRequest::Target)?;
    if path.as_str() == "*" {
        if parts.method != Method::OPTIONS {
            return Err(BadRequest::Target);
        }
        if !upstream.base().is_empty() {
            // The server as a whole is what is below the base.
            parts.uri = PathAndQuery::try_from(upstream.base()).map_err(|_| BadRequest::Target)?.into();
        }
    } else if !upstream.base().is_empty() {
        let contained = target::contained(path.path()).map_err(|_| BadRequest::Path)?;
        let (question, query) = path.query().map_or(("", ""), |query| ("?", query));
        let joined = format!("{}{contained}{question}{query}", upstream.base());
        parts.uri = PathAndQuery::try_from(joined).map_err(|_| BadRequest::Target)?.into();
    } else if parts.uri.authority().is_some() {
        parts.uri = Uri::from(path.clone());
    }
    Ok(host)
}

/// Hop-by-hop facts worth keeping after their fields are gone.
#[derive(Default)]
struct Hop {
    chunked: bool,
    trailers_accepted: bool,
    /// The protocol of an upgrade that `Connection` also names.
    upgrade: Option<HeaderValue>,
}

/// Which fields of interest a head has: looking at each name once is cheaper than a lookup for each of these.
#[derive(Clone, Copy)]
struct Here(u16);

impl Here {
    const CONNECTION: u16 = 1;
    const TE: u16 = 1 << 1;
    const TRANSFER_ENCODING: u16 = 1 << 2;
    const UPGRADE: u16 = 1 << 3;
    const PROXY_AUTHENTICATE: u16 = 1 << 4;
    const PROXY_AUTHORIZATION: u16 = 1 << 5;
    const KEEP_ALIVE: u16 = 1 << 6;
    const PROXY_CONNECTION: u16 = 1 << 7;
    /// All of the above.
    const HOP_BY_HOP: u16 = (1 << 8) - 1;
    const CONTENT_LENGTH: u16 = 1 << 8;
    const X_FORWARDED: u16 = 1 << 9;

    fn of(headers: &HeaderMap) -> Self {
        Self(headers.keys().fold(0, |here, name| here | Self::bit(name)))
    }

    fn bit(name: &HeaderName) -> u16 {
        match *name {
            CONNECTION => Self::CONNECTION,
            TE => Self::TE,
            TRANSFER_ENCODING => Self::TRANSFER_ENCODING,
            UPGRADE => Self::UPGRADE,
            PROXY_AUTHENTICATE => Self::PROXY_AUTHENTICATE,
            PROXY_AUTHORIZATION => Self::PROXY_AUTHORIZATION,
            CONTENT_LENGTH => Self::CONTENT_LENGTH,
            _ => match name.as_str() {
                "keep-alive" => Self::KEEP_ALIVE,
                "proxy-connection" => Self::PROXY_CONNECTION,
                "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" => Self::X_FORWARDED,
                _ => 0,
            },
        }
    }

    /// Whether one of `fields` is there.
    const fn has(self, fields: u16) -> bool {
        self.0 & fields != 0
    }
}

fn strip_hop_by_hop(headers: &mut HeaderMap, here: Here) -> Hop {
    let mut hop = Hop::default();
    if !here.has(Here::HOP_BY_HOP) {
        return hop;
    }
    let mut named = Vec::new();
    let mut upgrade_named = false;
    if here.has(Here::CONNECTION) {
        for value in headers.get_all(CONNECTION) {
            for token in value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                upgrade_named |= token.eq_ignore_ascii_case(b"upgrade");
                // `close` and `keep-alive` are the two that name no field of interest.
                if !(token.eq_ignore_ascii_case(b"close") || token.eq_ignore_ascii_case(b"keep-alive")) {
                    named.extend(HeaderName::from_bytes(token));
                }
            }
        }
    }
    hop.trailers_accepted = here.has(Here::TE)
        && headers.get_all(TE).iter().any(|value| {
            value.as_bytes().split(|b| *b == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
        });
    if upgrade_named && here.has(Here::UPGRADE) {
        hop.upgrade = headers.get(UPGRADE).cloned();
    }
    hop.chunked = here.has(Here::TRANSFER_ENCODING);
    if hop.chunked {
        // RFC 9112 section 6.3: the transfer coding overrides it; passing both on invites request smuggling.
        headers.remove(CONTENT_LENGTH);
    }
    for name in named {
        // Framing, routing and forwarding are not the sender's to withdraw.
        if !trust::is_guarded(name.as_str()) {
            headers.remove(name);
        }
    }
    for (bit, name) in [
        (Here::CONNECTION, CONNECTION),
        (Here::KEEP_ALIVE, KEEP_ALIVE),
        (Here::PROXY_CONNECTION, PROXY_CONNECTION),
        (Here::TE, TE),
        (Here::TRANSFER_ENCODING, TRANSFER_ENCODING),
        (Here::UPGRADE, UPGRADE),
        (Here::PROXY_AUTHENTICATE, PROXY_AUTHENTICATE),
        (Here::PROXY_AUTHORIZATION, PROXY_AUTHORIZATION),
    ] {
        if here.has(bit) {
            headers.remove(name);
        }
    }
    hop
}

fn add_forwarding_fields(headers: &mut HeaderMap, origin: &Origin<'_>, host: HeaderValue, here: Here) {
    let forwarded = here.has(Here::X_FORWARDED);
    let client = if forwarded && headers.contains_key(X_FORWARDED_FOR) {
        let mut list = Vec::new();
        for value in headers.get_all(X_FORWARDED_FOR) {
            list.extend_from_slice(value.as_bytes());
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(origin.client.as_bytes());
        HeaderValue::from_bytes(&list).unwrap_or_else(|_| origin.client.clone())
    } else {
        origin.client.clone()
    };
    headers.insert(X_FORWARDED_FOR, client);
    let kept = forwarded && origin.trust_forwarded;
    if !(kept && headers.contains_key(X_FORWARDED_PROTO)) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !(kept && headers.contains_key(X_FORWARDED_HOST)) {
        headers.insert(X_FORWARDED_HOST, host);
    }
}

#[cfg(test)]
mod tests;
