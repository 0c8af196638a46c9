//! The PROXY protocol's header: what is read does not depend on how it comes, and only what belongs to it is taken.

use nitrotap_core::proxy_protocol::{Header, MAX_HEADER, Parsed, encode, parse};

/// The input is what arrives on a connection. Since hardly any input begins with the signature, the same bytes are also
/// tried behind it.
pub fn proxy_protocol(data: &[u8]) {
    check(data);
    check(&[&nitrotap_core::proxy_protocol::SIGNATURE, data].concat());
}

fn check(stream: &[u8]) {
    let whole = parse(stream);
    // As a receiver reads it: no more than it is told to.
    let mut have = 0;
    let by_steps = loop {
        match parse(&stream[..have]) {
            Ok(Parsed::Incomplete(need)) if have < stream.len() => {
                assert!(need > 0);
                have += need.min(stream.len() - have);
                assert!(have <= MAX_HEADER);
            }
            other => break other,
        }
    };
    assert_eq!(whole, by_steps);
    if let Ok(Parsed::Complete { header, consumed }) = whole {
        assert_eq!(have, consumed, "nothing behind the header was asked for");
        if let Header::Relayed { source, destination } = header {
            let bytes = encode(source, destination);
            assert_eq!(parse(&bytes), Ok(Parsed::Complete { header, consumed: bytes.len() }));
        }
    }
}
