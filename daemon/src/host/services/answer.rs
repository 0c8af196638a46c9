//! Answers in the form of Go's `net/http`.

use crate::host::{control::Stopped, http_head::Refusal};
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS},
};
use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// An answer that fits in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    status: StatusCode,
    body: String,
}

impl Answer {
    /// 200 without a body.
    pub(super) const fn done() -> Self {
        Self { status: StatusCode::OK, body: String::new() }
    }

    /// 200 with one line of JSON, as Go's encoder writes it: `<`, `>` and `&` as escapes, which may stand in strings only.
    pub(super) fn json(value: &impl Serialize) -> Self {
        let mut body = match serde_json::to_string(value) {
            Ok(body) => body,
            Err(error) => return Self::failed(error),
        };
        for (plain, escape) in
            [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")]
        {
            if body.contains(plain) {
                body = body.replace(plain, escape);
            }
        }
        body.push('\n');
        Self { status: StatusCode::OK, body }
    }

    /// Go's `http.Error`.
    fn error(status: StatusCode, text: impl fmt::Display) -> Self {
        Self { status, body: format!("{text}\n") }
    }

    pub(super) fn bad_request(text: impl fmt::Display) -> Self {
        Self::error(StatusCode::BAD_REQUEST, text)
    }

    pub(super) fn failed(text: impl fmt::Display) -> Self {
        Self::error(StatusCode::INTERNAL_SERVER_ERROR, text)
    }

    pub(super) fn forbidden(text: impl fmt::Display) -> Self {
        Self::error(StatusCode::FORBIDDEN, text)
    }

    pub(super) fn not_found() -> Self {
        Self::error(StatusCode::NOT_FOUND, "404 page not found")
    }

    /// To a request that no HTTP/1.1 server takes.
    pub(super) fn refused(refusal: Refusal) -> Self {
        Self { status: StatusCode::BAD_REQUEST, body: refusal.to_string() }
    }

    pub(super) fn too_large(limit: usize) -> Self {
        Self::error(StatusCode::PAYLOAD_TOO_LARGE, format_args!("the body has more than {limit} bytes"))
    }

    pub(super) fn timeout() -> Self {
        Self::error(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let failed = self.status != StatusCode::OK;
        let typed = !self.body.is_empty();
        let mut response = Response::new(Full::from(self.body));
        *response.status_mut() = self.status;
        if typed {
            // Go calls JSON by this name too: it looks at the first bytes and knows no better.
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        }
        if failed {
            response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        }
        response
    }
}

/// The answer made of what the data thread said.
pub(super) fn of<T>(said: Result<T, Stopped>, json: impl FnOnce(T) -> Value) -> Answer {
    match said {
        Ok(said) => Answer::json(&json(said)),
        Err(stopped) => Answer::failed(stopped),
    }
}
