//! The reverse proxy's view of a server's bytes: what is taken off the beginning of a response does not depend on how it comes,
//! and what is behind it is not touched.

use nitrotap_core::http1::response::{FEW_FIELDS, Start, is_plain, start};

const MAX_HEAD: usize = 2048;
const MAX_FIELDS: usize = 256;

/// The first byte says where the stream is cut in two; the rest is what a server sends. A zero byte in it stands for as many
/// fields as an HTTP implementation has room for.
pub fn http1_response(data: &[u8]) {
    let Some((cut, parts)) = data.split_first() else { return };
    let mut stream = Vec::new();
    for byte in parts {
        match byte {
            0 if stream.len() < 2 * MAX_HEAD => stream.extend_from_slice(&b"a: b\r\n".repeat(FEW_FIELDS)),
            byte => stream.push(*byte),
        }
    }
    let cut = usize::from(*cut).min(stream.len());
    let mut whole = stream.clone();
    let found = start(&mut whole, MAX_HEAD, MAX_FIELDS);
    if is_plain(&stream) && stream.len() <= MAX_HEAD {
        assert_eq!((&found, &whole), (&Start::Final(Vec::new()), &stream), "a plain head needs no second look");
    }
    match &found {
        Start::Partial => assert!(whole == stream && stream.len() <= MAX_HEAD),
        Start::Interim(status, fields) => {
            assert!((100..200).contains(status) && *status != 101 && fields.len() <= MAX_FIELDS);
            assert!(whole.len() < stream.len() && stream.ends_with(&whole));
        }
        Start::Final(surplus) if surplus.is_empty() => assert_eq!(whole, stream),
        Start::Final(surplus) => {
            assert!(surplus.len() <= MAX_FIELDS);
            let framing = |name: &str| {
                ["connection", "content-length", "transfer-encoding"].iter().any(|own| name.eq_ignore_ascii_case(own))
            };
            assert!(!surplus.iter().any(|(name, _)| framing(name)), "what frames a message stays");
            let mut again = whole.clone();
            assert_eq!(start(&mut again, whole.len(), MAX_FIELDS), Start::Final(Vec::new()), "the rest has room");
            assert_eq!(again, whole);
        }
    }
    let mut bytes = stream[..cut].to_vec();
    if start(&mut bytes, MAX_HEAD, MAX_FIELDS) == Start::Partial {
        bytes.extend_from_slice(&stream[cut..]);
        assert_eq!(start(&mut bytes, MAX_HEAD, MAX_FIELDS), found);
        assert_eq!(bytes, whole);
    }
}
