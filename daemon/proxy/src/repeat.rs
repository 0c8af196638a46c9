//! A request kept for a second attempt: its fields as text in one allocation, which costs a fraction of a copy of the map.

use crate::{budget::Held, conn::UpstreamBody};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

/// What it takes to make a request again.
pub(crate) struct Repeat {
    method: Method,
    uri: Uri,
    /// `name:value\n` of each; no name has a colon, and no value a line feed.
    fields: Vec<u8>,
    held: Option<Held>,
}

impl Repeat {
    /// Keeps `request`; `None` if it has a body that is not held whole.
    pub(crate) fn of(request: &Request<UpstreamBody>) -> Option<Self> {
        let held = request.body().repeat_held()?;
        let length = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 2).sum();
        let mut fields = Vec::with_capacity(length);
        for (name, value) in request.headers() {
            fields.extend_from_slice(name.as_str().as_bytes());
            fields.push(b':');
            fields.extend_from_slice(value.as_bytes());
            fields.push(b'\n');
        }
        Some(Self { method: request.method().clone(), uri: request.uri().clone(), fields, held })
    }

    /// The request once more.
    pub(crate) fn into_request(self) -> Request<UpstreamBody> {
        let mut request = Request::new(UpstreamBody::of_held(self.held));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = fields(&self.fields);
        request
    }
}

fn fields(text: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let name = HeaderName::from_bytes(name).expect("the name of a field that was one");
        fields.append(name, HeaderValue::from_bytes(value).expect("the value of a field that was one"));
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_request_has_every_field_and_value_of_the_first() {
        let mut request = Request::new(UpstreamBody::of_held(None));
        *request.method_mut() = Method::PUT;
        *request.uri_mut() = Uri::from_static("/a?b=c:d");
        for (name, value) in
            [("host", &b"a:80"[..]), ("x", b""), ("x", b"a: b\t\xe9"), ("content-length", b"0"), ("y-_.z", b":")]
        {
            request
                .headers_mut()
                .append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        let again = Repeat::of(&request).unwrap().into_request();
        assert_eq!(
            (again.method(), again.uri(), again.headers()),
            (request.method(), request.uri(), request.headers())
        );
    }
}
