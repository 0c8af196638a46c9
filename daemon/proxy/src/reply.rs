//! Answers the proxy gives itself: plain text for people, without the upstream's address.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use nitrotap_core::http1::{framing::Fault, request::Refusal};

/// A request the proxy does not pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRequest {
    #[error("CONNECT asks for a forward proxy; this is a reverse proxy")]
    Connect,
    #[error("a request needs exactly one Host field")]
    Host,
    #[error("the request target is neither a path nor a full URL")]
    Target,
    #[error("the request body is malformed")]
    Body,
    #[error("the Host is no host name or address with an optional port")]
    HostSyntax,
    #[error("the path has a hidden dot segment, which may lead out of the base path")]
    Path,
    #[error("the end of the request body cannot be told: {0}")]
    Framing(#[from] Fault),
    #[error("TLS on a port of plain HTTP")]
    Tls,
    #[error("HTTP/2 where HTTP/1.1 is spoken")]
    Http2,
    #[error("a version of HTTP other than 1.0 and 1.1")]
    Version,
    #[error("not an HTTP request: {0}")]
    Malformed(&'static str),
    #[error("the head has too many bytes or fields")]
    HeadTooLarge,
    #[error("the target is too long")]
    TargetTooLong,
    #[error("there is another request in the bytes of this one")]
    Stray,
}

impl From<Refusal> for BadRequest {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Tls => Self::Tls,
            Refusal::Http2 => Self::Http2,
            Refusal::Version => Self::Version,
            Refusal::Malformed(what) => Self::Malformed(what),
            Refusal::TooManyFields | Refusal::TooLarge => Self::HeadTooLarge,
            Refusal::TargetTooLong => Self::TargetTooLong,
            Refusal::Framing(fault) => Self::Framing(fault),
        }
    }
}

/// Why the proxy answers instead of the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// 400 or 405.
    Refused(BadRequest),
    /// 408: the client stopped sending its request body.
    BodyTimeout,
    /// 503: no connection to the upstream is free, and no more are allowed.
    Overloaded,
    /// 502: no connection to the upstream could be opened.
    Unreachable,
    /// 502: the upstream closed the connection or spoke something else than HTTP.
    Broken,
    /// 504: the upstream did not answer in time.
    Late,
    /// 502: the end of the upstream's response body cannot be told.
    Misframed,
}

impl Trouble {
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Refused(BadRequest::Connect) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Refused(BadRequest::Framing(Fault::UnknownCoding)) => StatusCode::NOT_IMPLEMENTED,
            Self::Refused(
                BadRequest::Host
                | BadRequest::Target
                | BadRequest::Body
                | BadRequest::HostSyntax
                | BadRequest::Path
                | BadRequest::Framing(Fault::Coding | Fault::CodingTooNew | Fault::Length)
                | BadRequest::Tls
                | BadRequest::Stray
                | BadRequest::Malformed(_),
            ) => StatusCode::BAD_REQUEST,
            Self::Refused(BadRequest::Http2 | BadRequest::Version) => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Refused(BadRequest::HeadTooLarge) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Refused(BadRequest::TargetTooLong) => StatusCode::URI_TOO_LONG,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreachable | Self::Broken | Self::Misframed => StatusCode::BAD_GATEWAY,
            Self::Late => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Refused(BadRequest::Connect) => {
                "405 Method Not Allowed: this is a reverse proxy, it does not tunnel.\n"
            }
            Self::Refused(BadRequest::Host) => "400 Bad Request: a request needs exactly one Host field.\n",
            Self::Refused(BadRequest::Target) => {
                "400 Bad Request: the request target must be a path or a full http URL.\n"
            }
            Self::Refused(BadRequest::Body) => "400 Bad Request: the request body is malformed or broke off.\n",
            Self::Refused(BadRequest::HostSyntax) => {
                "400 Bad Request: the host must be a name or an address, with an optional port.\n"
            }
            Self::Refused(BadRequest::Path) => "400 Bad Request: the path has a hidden dot segment.\n",
            Self::Refused(BadRequest::Framing(Fault::UnknownCoding)) => {
                "501 Not Implemented: the only transfer coding here is chunked.\n"
            }
            Self::Refused(BadRequest::Framing(Fault::Coding | Fault::CodingTooNew)) => {
                "400 Bad Request: Transfer-Encoding must be chunked, once, in HTTP/1.1.\n"
            }
            Self::Refused(BadRequest::Framing(Fault::Length)) => {
                "400 Bad Request: Content-Length must be one number.\n"
            }
            Self::Refused(BadRequest::Tls) => {
                "400 Bad Request: this port speaks plain HTTP and got a TLS handshake; use http://, not https://.\n"
            }
            Self::Refused(BadRequest::Http2 | BadRequest::Version) => {
                "505 HTTP Version Not Supported: HTTP/1.1 and HTTP/1.0 are spoken here.\n"
            }
            Self::Refused(BadRequest::Malformed(_) | BadRequest::Stray) => {
                "400 Bad Request: this is no well-formed HTTP/1.1 request.\n"
            }
            Self::Refused(BadRequest::HeadTooLarge) => {
                "431 Request Header Fields Too Large: the head has too many bytes or fields.\n"
            }
            Self::Refused(BadRequest::TargetTooLong) => "414 URI Too Long: no path is that long.\n",
            Self::BodyTimeout => "408 Request Timeout: the request body stopped arriving.\n",
            Self::Overloaded => "503 Service Unavailable: the service is busy; try again shortly.\n",
            Self::Unreachable => "502 Bad Gateway: the service behind this proxy cannot be reached.\n",
            Self::Broken => "502 Bad Gateway: the service behind this proxy broke off before it answered.\n",
            Self::Misframed => {
                "502 Bad Gateway: the end of the response of the service behind this proxy cannot be told.\n"
            }
            Self::Late => "504 Gateway Timeout: the service behind this proxy did not answer in time.\n",
        }
    }
}

/// The response for `trouble`.
pub(crate) fn answer(trouble: Trouble) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(trouble.text().as_bytes()));
    *response.status_mut() = trouble.status();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    match trouble {
        Trouble::Refused(BadRequest::Connect) => {
            let allowed = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH, TRACE";
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
        }
        Trouble::Overloaded => {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        Trouble::BodyTimeout | Trouble::Refused(BadRequest::Framing(_) | BadRequest::Stray) => {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Trouble::Refused(
            BadRequest::Host
            | BadRequest::Target
            | BadRequest::Body
            | BadRequest::HostSyntax
            | BadRequest::Path
            | BadRequest::Tls
            | BadRequest::Http2
            | BadRequest::Version
            | BadRequest::Malformed(_)
            | BadRequest::HeadTooLarge
            | BadRequest::TargetTooLong,
        )
        | Trouble::Misframed
        | Trouble::Unreachable
        | Trouble::Broken
        | Trouble::Late => {}
    }
    response
}
