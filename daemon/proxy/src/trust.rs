//! Which fields of a client's head an app may believe: pure functions on header names.
//!
//! Apps behind CGI, WSGI and the like see `X_Forwarded_For`, `X.Forwarded.For` and `X-Forwarded-For` as one variable. So
//! a field whose name reads as a guarded one once everything but letters and digits is taken for `-` is dropped. Claims
//! about where a request came from are dropped too, unless a trusted proxy in front makes them.

use http::{HeaderMap, HeaderName};

/// Fields about the client or the original request that apps believe, beside every `X-Forwarded` one.
const CLAIMS: [&str; 24] = [
    "forwarded",
    "forwarded-for",
    "x-forward-for",
    "x-real-ip",
    "x-client-ip",
    "client-ip",
    "true-client-ip",
    "x-cluster-client-ip",
    "x-original-for",
    "x-original-host",
    "x-original-url",
    "x-rewrite-url",
    "x-remote-ip",
    "x-remote-addr",
    "x-originating-ip",
    "x-host",
    "x-scheme",
    "x-url-scheme",
    "front-end-https",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
    "x-appengine-user-ip",
    "x-envoy-external-address",
];

/// Fields that frame or route a message, or say who speaks.
const FRAMING: [&str; 15] = [
    "host",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "expect",
    "via",
    "authorization",
    "cookie",
    "remote-user",
    "remote-addr",
];

/// Drops what no app may see, from the head of a client's request. Gives the number of dropped names.
pub(crate) fn clean(headers: &mut HeaderMap, trust_forwarded: bool) -> u64 {
    // Almost every request has none, and then nothing is allocated.
    let unwanted = |name: &HeaderName| is_unwanted(name.as_str(), trust_forwarded);
    if !headers.keys().any(unwanted) {
        return 0;
    }
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in &names {
        headers.remove(name);
    }
    names.len() as u64
}

/// Whether `Connection` may not name this field: it is not the sender's to withdraw.
pub(crate) fn is_guarded(name: &str) -> bool {
    is_claim(name) || FRAMING.contains(&name) || name == "proxy" || name.starts_with("proxy-")
}

/// The same for a name that apps may fold onto such a one.
pub(crate) fn reads_as_guarded(name: &str) -> bool {
    is_guarded(name) || (name.bytes().any(is_odd) && is_guarded(&fold(name)))
}

fn is_unwanted(name: &str, trust_forwarded: bool) -> bool {
    if name.bytes().any(is_odd) {
        return is_guarded(&fold(name));
    }
    match name {
        // `Proxy` becomes HTTP_PROXY, where CGI programs look for a proxy of their own (CVE-2016-5385 and its kin).
        // The other belongs to an upgrade to HTTP/2, which never passes.
        "proxy" | "http2-settings" => true,
        // We append to the first and set the others.
        "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" => false,
        _ => !trust_forwarded && is_claim(name),
    }
}

fn is_claim(name: &str) -> bool {
    name.starts_with("x-forwarded") || CLAIMS.contains(&name)
}

const fn is_odd(b: u8) -> bool {
    !b.is_ascii_alphanumeric() && b != b'-'
}

fn fold(name: &str) -> String {
    name.bytes().map(|b| if is_odd(b) { '-' } else { b.to_ascii_lowercase() as char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn left(names: &[&str], trust_forwarded: bool) -> (Vec<String>, u64) {
        let mut headers = HeaderMap::new();
        for name in names {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("x"));
        }
        let dropped = clean(&mut headers, trust_forwarded);
        (headers.keys().map(ToString::to_string).collect(), dropped)
    }

    #[test]
    fn names_that_apps_fold_onto_guarded_ones_are_dropped_whoever_is_trusted() {
        let spoofs = [
            "X_Forwarded_For",
            "X-Forwarded_For",
            "x_forwarded-proto",
            "X.Forwarded.Host",
            "X_Forwarded_Port",
            "X_FORWARDED",
            "X_Real_IP",
            "Forwarded_",
            "Content_Length",
            "Transfer_Encoding",
            "Remote_User",
            "Client_IP",
            "X~Forwarded!For",
            "Proxy_Authorization",
        ];
        for trust in [false, true] {
            for spoof in spoofs {
                // A trailing character folds to a name of its own.
                let expected = if spoof == "Forwarded_" { 0 } else { 1 };
                assert_eq!(left(&[spoof], trust).1, expected, "{spoof}");
            }
        }
    }

    #[test]
    fn other_names_pass_with_their_underscores() {
        let names = ["access_token", "x_custom", "accept", "x-forward", "cookie", "authorization", "x.y"];
        assert_eq!(left(&names, false), (names.map(str::to_owned).to_vec(), 0));
    }

    #[test]
    fn claims_are_believed_only_from_a_trusted_proxy() {
        let claims =
            ["forwarded", "x-real-ip", "x-forwarded-port", "x-forwarded-prefix", "x-forwarded", "x-original-url"];
        assert_eq!(left(&claims, false), (vec![], claims.len() as u64));
        assert_eq!(left(&claims, true).1, 0);
        let ours = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];
        assert_eq!(left(&ours, false).1, 0, "appended to or overwritten later");
    }

    #[test]
    fn what_would_configure_an_app_or_tunnel_past_us_is_never_passed() {
        for trust in [false, true] {
            assert_eq!(left(&["proxy", "http2-settings"], trust), (vec![], 2));
        }
    }
}
