//! The reverse proxy's view of a client's bytes: where a head ends, and a chunked body, does not depend on how they come.

use nitrotap_core::http1::{chunked::Scanner, request::head};

/// The first byte says where the stream is cut in two; the rest is a head, or the body behind one.
pub fn http1_request(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else { return };
    let cut = usize::from(*cut).min(stream.len());
    head_law(stream, cut);
    chunked_law(stream, cut);
}

fn head_law(stream: &[u8], cut: usize) {
    let mut whole = stream.to_vec();
    let at_once = head(&mut whole, 0, 200);
    let mut bytes = stream[..cut].to_vec();
    if let Ok(None) = head(&mut bytes, 0, 200) {
        let seen = bytes.len();
        bytes.extend_from_slice(&stream[cut..]);
        let in_two = head(&mut bytes, seen, 200);
        if at_once.is_ok() {
            assert_eq!(in_two, at_once);
        }
        if in_two.is_ok() && at_once.as_ref().is_ok_and(Option::is_some) {
            assert_eq!(bytes, whole);
        }
    }
    if let Ok(Some(found)) = at_once {
        assert!(found.len <= whole.len() && whole.len() >= stream.len());
        let behind = whole.len() - found.len;
        assert_eq!(whole[found.len..], stream[stream.len() - behind..], "what comes behind a head is not touched");
        // What has been found is found again, and has nothing left to encode.
        let mut again = whole[..found.len].to_vec();
        assert_eq!(head(&mut again, 0, 200), Ok(Some(found)));
        assert_eq!(again, whole[..again.len()]);
    }
}

fn chunked_law(stream: &[u8], cut: usize) {
    let mut whole = Scanner::new();
    let taken = whole.advance(stream);
    let mut parts = Scanner::new();
    let mut in_two = parts.advance(&stream[..cut]);
    if in_two == cut {
        in_two += parts.advance(&stream[cut..]);
    }
    assert_eq!((taken, whole), (in_two, parts));
    assert!(whole.is_end() || whole.is_broken() || taken == stream.len());
}
