use super::*;
use http::Request;

fn to_up(request: request::Builder) -> (request::Parts, Result<Option<HeaderValue>, BadRequest>) {
    to_up_as(request, "http://127.0.0.1:3000", false)
}

fn to_up_as(
    request: request::Builder,
    upstream: &str,
    trust_forwarded: bool,
) -> (request::Parts, Result<Option<HeaderValue>, BadRequest>) {
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    let client = HeaderValue::from_static("192.0.2.7");
    let origin = Origin { client: &client, trust_forwarded, upgrades: &Upgrades::default() };
    let result = to_upstream(&mut parts, &upstream.parse().unwrap(), &origin, true);
    (parts, result)
}

/// Header lines in the order of their names, for comparison at a glance.
fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<String> = headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
    lines.sort();
    lines
}

#[test]
fn a_plain_request_gains_forwarding_fields_and_keeps_its_host() {
    let (parts, result) = to_up(Request::get("/a?b=c").header("host", "example.com").header("accept", "*/*"));
    assert_eq!(result, Ok(None));
    assert_eq!(parts.uri, "/a?b=c");
    assert_eq!(
        lines(&parts.headers),
        [
            "accept: */*",
            "host: example.com",
            "x-forwarded-for: 192.0.2.7",
            "x-forwarded-host: example.com",
            "x-forwarded-proto: http",
        ]
    );
}

#[test]
fn the_client_is_appended_to_every_address_already_named() {
    let request = Request::get("/")
        .header("host", "a")
        .header("x-forwarded-for", "198.51.100.1, 198.51.100.2")
        .header("x-forwarded-for", "198.51.100.3");
    let (parts, _) = to_up(request);
    let all: Vec<_> = parts.headers.get_all("x-forwarded-for").iter().collect();
    assert_eq!(all, ["198.51.100.1, 198.51.100.2, 198.51.100.3, 192.0.2.7"]);
}

#[test]
fn claims_about_host_and_scheme_are_overwritten_unless_trusted() {
    let request = || {
        Request::get("/").header("host", "a").header("x-forwarded-proto", "https").header("x-forwarded-host", "public")
    };
    let (parts, _) = to_up_as(request(), "http://up", false);
    assert_eq!(
        (&parts.headers["x-forwarded-proto"], &parts.headers["x-forwarded-host"]),
        (&"http".parse().unwrap(), &"a".parse().unwrap())
    );
    let (parts, _) = to_up_as(request(), "http://up", true);
    assert_eq!(parts.headers["x-forwarded-proto"], "https");
    assert_eq!(parts.headers["x-forwarded-host"], "public");
}

#[test]
fn fields_of_this_hop_stay_on_this_hop() {
    let request = Request::post("/")
        .header("host", "a")
        .header("connection", "close, X-Private , x-forwarded-for")
        .header("connection", "another")
        .header("x-private", "1")
        .header("another", "2")
        .header("x-forwarded-for", "203.0.113.9")
        .header("keep-alive", "timeout=5")
        .header("proxy-connection", "keep-alive")
        .header("proxy-authorization", "Basic x")
        .header("te", "gzip")
        .header("upgrade", "h2c")
        .header("content-type", "text/plain");
    let (parts, result) = to_up(request);
    assert_eq!(result, Ok(None), "an Upgrade that Connection does not name is none");
    assert_eq!(
        lines(&parts.headers),
        [
            "content-type: text/plain",
            "host: a",
            "x-forwarded-for: 203.0.113.9, 192.0.2.7",
            "x-forwarded-host: a",
            "x-forwarded-proto: http",
        ]
    );
}

#[test]
fn an_upgrade_that_is_not_allowed_is_an_ordinary_request() {
    for protocols in ["h2c", "foo", "h2c, foo"] {
        let request = Request::get("/")
            .header("host", "a")
            .header("connection", "Upgrade, HTTP2-Settings")
            .header("upgrade", protocols)
            .header("http2-settings", "AAMAAABkAAQAAP__");
        let (parts, result) = to_up(request);
        assert_eq!(result, Ok(None));
        assert!(["connection", "upgrade", "http2-settings"].iter().all(|name| !parts.headers.contains_key(*name)));
    }
    let request =
        Request::get("/").header("host", "a").header("connection", "upgrade").header("upgrade", "h2c, websocket");
    let (parts, result) = to_up(request);
    assert_eq!(
        (result.unwrap().unwrap(), &parts.headers["upgrade"]),
        ("websocket".parse().unwrap(), &"websocket".parse().unwrap())
    );
}

#[test]
fn a_connection_field_cannot_take_host_or_framing_away() {
    let request = Request::post("/")
        .header("host", "a")
        .header("content-length", "5")
        .header("connection", "host, content-length");
    let (parts, _) = to_up(request);
    assert_eq!(
        (&parts.headers["host"], &parts.headers["content-length"]),
        (&"a".parse().unwrap(), &"5".parse().unwrap())
    );
}

#[test]
fn a_chunked_body_stays_chunked_and_loses_a_contradicting_length() {
    let request =
        Request::get("/").header("host", "a").header("transfer-encoding", "chunked").header("content-length", "5");
    let (parts, _) = to_up(request);
    assert_eq!(parts.headers["transfer-encoding"], "chunked");
    assert!(!parts.headers.contains_key("content-length"));
}

#[test]
fn the_wish_for_trailers_passes_as_our_own() {
    let (parts, _) = to_up(Request::get("/").header("host", "a").header("te", "gzip;q=0.5, trailers"));
    assert_eq!(
        (&parts.headers["te"], &parts.headers["connection"]),
        (&"trailers".parse().unwrap(), &"te".parse().unwrap())
    );
}

#[test]
fn an_upgrade_passes_with_its_protocol_but_not_from_http_1_0() {
    let request = || {
        Request::get("/chat")
            .header("host", "a")
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "websocket")
    };
    let (parts, result) = to_up(request());
    assert_eq!(result, Ok(Some(HeaderValue::from_static("websocket"))));
    assert_eq!(
        (&parts.headers["connection"], &parts.headers["upgrade"]),
        (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
    );
    let (parts, result) = to_up(request().version(Version::HTTP_10));
    assert_eq!(result, Ok(None));
    assert!(!parts.headers.contains_key("upgrade"));
}

#[test]
fn an_absolute_target_becomes_a_path_and_its_host_wins() {
    let (parts, result) = to_up(Request::get("http://real.example:8080/p?q").header("host", "other"));
    assert_eq!(result, Ok(None));
    assert_eq!(parts.uri, "/p?q");
    assert_eq!(parts.headers["host"], "real.example:8080");
    let (parts, _) = to_up(Request::get("http://real.example").header("host", ""));
    assert_eq!((parts.uri.to_string(), &parts.headers["host"]), ("/".into(), &"real.example".parse().unwrap()));
}

#[test]
fn the_upstreams_base_path_comes_first() {
    let (parts, _) = to_up_as(Request::get("/x?y").header("host", "a"), "http://up/base/", false);
    assert_eq!(parts.uri, "/base/x?y");
    let (parts, _) = to_up_as(Request::get("http://a/x").header("host", "a"), "http://up/base", false);
    assert_eq!(parts.uri, "/base/x");
}

#[test]
fn a_path_stays_below_the_base_and_without_a_base_as_it_is() {
    for (target, below, plain) in [
        ("/../admin", Ok("/public/admin"), "/../admin"),
        ("/a/../../admin?x=/../y", Ok("/public/admin?x=/../y"), "/a/../../admin?x=/../y"),
        ("/%2e%2e/admin", Ok("/public/admin"), "/%2e%2e/admin"),
        ("/..%2fadmin", Err(BadRequest::Path), "/..%2fadmin"),
        ("/..;/admin", Err(BadRequest::Path), "/..;/admin"),
        ("/x/..\\..\\admin", Err(BadRequest::Path), "/x/..\\..\\admin"),
        ("http://a/../admin", Ok("/public/admin"), "/../admin"),
        ("http://a?q", Ok("/public/?q"), "/?q"),
    ] {
        let request = || Request::get(target).header("host", "a");
        let (parts, result) = to_up_as(request(), "http://up/public", false);
        assert_eq!(result.map(|_| parts.uri.to_string()), below.map(str::to_owned), "{target}");
        let (parts, result) = to_up(request());
        assert_eq!((result, parts.uri.to_string().as_str()), (Ok(None), plain), "{target}");
    }
}

#[test]
fn the_server_as_a_whole_is_what_is_below_the_base() {
    let options = || Request::options("*").header("host", "a");
    assert_eq!(to_up(options()).0.uri, "*");
    assert_eq!(to_up_as(options(), "http://up/base", false).0.uri, "/base");
    let (_, result) = to_up(Request::get("*").header("host", "a"));
    assert_eq!(result, Err(BadRequest::Target), "only OPTIONS has it (RFC 9112 section 3.2.4)");
}

#[test]
fn a_request_has_one_host_that_is_one() {
    for target in ["/", "http://real.example/"] {
        let (_, result) = to_up(Request::get(target).header("host", "a").header("host", "a"));
        assert_eq!(result, Err(BadRequest::Host), "{target}");
        let (_, result) = to_up(Request::get(target));
        assert_eq!(result, Err(BadRequest::Host), "{target}");
    }
    for host in ["", "me@a", "a b", "a:x", "a:99999", "[::1"] {
        let (_, result) = to_up(Request::get("/").header("host", host));
        assert_eq!(result, Err(BadRequest::HostSyntax), "{host}");
    }
    for target in ["http://me@real.example/", "http://me:secret@real.example/", "http://a:99999/"] {
        let (_, result) = to_up(Request::get(target).header("host", "real.example"));
        assert_eq!(result, Err(BadRequest::HostSyntax), "{target}");
    }
    let (_, result) = to_up(Request::get("ftp://real.example/").header("host", "real.example"));
    assert_eq!(result, Err(BadRequest::Target));
}

#[test]
fn a_body_in_another_coding_is_not_passed_on_as_if_it_had_none() {
    for (coding, fault) in [
        ("gzip, chunked", Fault::UnknownCoding),
        ("xchunked, chunked", Fault::UnknownCoding),
        ("chunked, chunked", Fault::Coding),
    ] {
        let (_, result) = to_up(Request::post("/").header("host", "a").header("transfer-encoding", coding));
        assert_eq!(result, Err(BadRequest::Framing(fault)), "{coding}");
    }
}

#[test]
fn a_response_states_its_length_once_or_is_none() {
    let checked = |fields: &[(&'static str, &'static str)], has_body| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        check_response(&mut headers, has_body).map(|()| lines(&headers))
    };
    for same in [&[("content-length", "2, 2")][..], &[("content-length", "2"), ("content-length", "2")]] {
        assert_eq!(checked(same, true), Ok(vec!["content-length: 2".to_owned()]), "{same:?}");
    }
    assert_eq!(checked(&[("content-length", "002")], true), Ok(vec!["content-length: 002".to_owned()]));
    assert_eq!(checked(&[("content-length", "2, 3")], false), Err(Fault::Length));
    assert_eq!(checked(&[("transfer-encoding", "gzip, chunked")], true), Err(Fault::UnknownCoding));
    assert_eq!(
        checked(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], true),
        Err(Fault::Coding)
    );
    assert!(checked(&[("transfer-encoding", "gzip")], false).is_ok(), "a response to HEAD has no body to take it off");
}

#[test]
fn a_request_without_host_is_excused_only_in_http_1_0() {
    let (_, result) = to_up(Request::get("/"));
    assert_eq!(result, Err(BadRequest::Host));
    let (parts, result) = to_up(Request::get("/").version(Version::HTTP_10));
    assert_eq!(result, Ok(None));
    assert_eq!(parts.headers["host"], "127.0.0.1:3000");
    assert_eq!(parts.version, Version::HTTP_11);
    let (_, result) = to_up(Request::get("/").header("host", "a").header("host", "b"));
    assert_eq!(result, Err(BadRequest::Host));
}

#[test]
fn connect_and_targets_without_a_path_are_refused() {
    let (_, result) = to_up(Request::builder().method("CONNECT").uri("host:443").header("host", "host"));
    assert_eq!(result, Err(BadRequest::Connect));
    let (_, result) = to_up(Request::get("host:443").header("host", "host"));
    assert_eq!(result, Err(BadRequest::Target));
}

#[test]
fn responses_lose_the_fields_of_their_hop_and_a_426_keeps_its_protocol() {
    let headers = || {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "keep-alive, upgrade, x-hop"), ("upgrade", "TLS/1.2"), ("x-hop", "1"), ("etag", "e")]
        {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers
    };
    let mut ok = headers();
    to_client(&mut ok, StatusCode::OK);
    assert_eq!(lines(&ok), ["etag: e"]);
    let mut required = headers();
    to_client(&mut required, StatusCode::UPGRADE_REQUIRED);
    assert_eq!(lines(&required), ["connection: upgrade", "etag: e", "upgrade: TLS/1.2"]);
    let mut switched = headers();
    to_client_upgraded(&mut switched);
    assert_eq!(lines(&switched), ["connection: upgrade", "etag: e", "upgrade: TLS/1.2"]);
}

#[test]
fn a_response_length_that_fits_in_no_number_is_refused() {
    let mut headers = HeaderMap::new();
    for (length, fits) in
        [("18446744073709551615", true), ("18446744073709551616", false), ("9999999999999999999", true)]
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static(length));
        assert_eq!(check_response(&mut headers, true).is_ok(), fits, "{length}");
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("00000000000000000000000000000001"));
    assert!(check_response(&mut headers, true).is_ok());
}
