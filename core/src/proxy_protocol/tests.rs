use super::*;
use quickcheck::{Arbitrary, Gen, quickcheck};

#[derive(Clone, Copy, Debug)]
struct Address(SocketAddr);

impl Arbitrary for Address {
    fn arbitrary(g: &mut Gen) -> Self {
        let ip = if bool::arbitrary(g) { IpAddr::V4(Ipv4Addr::arbitrary(g)) } else { Ipv6Addr::arbitrary(g).into() };
        Self((ip, u16::arbitrary(g)).into())
    }
}

fn relayed(source: &str, destination: &str) -> Header {
    let address = |text: &str| text.parse().expect("an address");
    Header::Relayed { source: address(source), destination: address(destination) }
}

/// A header with these bytes behind the signature.
fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([command, family]);
    bytes.extend((rest.len() as u16).to_be_bytes());
    bytes.extend(rest);
    bytes
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
}

quickcheck! {
    fn what_is_encoded_is_parsed_at_any_split(source: Address, destination: Address, reads: Vec<u8>, after: Vec<u8>) -> bool {
        let encoded = encode(source.0, destination.0);
        let stream = [&encoded[..], &after].concat();
        let mut have = 0;
        let mut reads = reads.iter().map(|n| usize::from(n % 16));
        let parsed = loop {
            match parse(&stream[..have]).expect("a header") {
                Parsed::Incomplete(need) => {
                    assert!(need > 0 && have + need <= encoded.len(), "nothing behind the header is asked for");
                    have += reads.next().unwrap_or(need).min(stream.len() - have);
                }
                Parsed::Complete { header, consumed } => break (header, consumed),
            }
        };
        let (Header::Relayed { source: from, destination: to }, consumed) = parsed else { return false };
        let same = |one: SocketAddr, other: SocketAddr| {
            (one.ip().to_canonical(), one.port()) == (other.ip().to_canonical(), other.port())
        };
        consumed == encoded.len() && same(from, source.0) && same(to, destination.0)
    }

    fn a_header_is_the_same_whatever_comes_after_it_and_one_byte_less_is_incomplete(family: u8, rest: Vec<u8>) -> bool {
        let bytes = header(0x21, family, &rest);
        match parse(&bytes) {
            Ok(Parsed::Complete { header, consumed }) => {
                consumed == bytes.len()
                    && parse(&[&bytes[..], b"GET /"].concat()) == Ok(Parsed::Complete { header, consumed })
                    && parse(&bytes[..consumed - 1]) == Ok(Parsed::Incomplete(1))
            }
            Ok(Parsed::Incomplete(_)) => false,
            Err(_) => true,
        }
    }
}

#[test]
fn headers_are_what_the_protocol_says_byte_for_byte() {
    let address = |text: &str| text.parse().expect("an address");
    assert_eq!(
        encode(address("192.0.2.7:49152"), address("10.0.0.1:443")),
        *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\x0a\x00\x00\x01\xc0\x00\x01\xbb"
    );
    let six = encode(address("[2001:db8::1]:1"), address("192.0.2.7:2"));
    assert_eq!(six[12..16], [0x21, 0x21, 0, 36]);
    assert_eq!(six[32..48], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 7]);
    assert_eq!(six[48..], [0, 1, 0, 2]);
    assert_eq!(LOCAL, *b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00");
    assert_eq!(LOCAL[..12], SIGNATURE);
    assert_eq!(parse(&LOCAL), Ok(Parsed::Complete { header: Header::Local, consumed: 16 }));
}

#[test]
fn every_assigned_family_is_taken_and_what_is_no_ip_is_unknown() {
    let four = [192, 0, 2, 7, 10, 0, 0, 1, 0, 80, 1, 187];
    for (command, family, rest, expected) in [
        (0x21, 0x11, &four[..], relayed("192.0.2.7:80", "10.0.0.1:443")),
        (0x21, 0x12, &four[..], relayed("192.0.2.7:80", "10.0.0.1:443")),
        (
            0x21,
            0x22,
            &[1; 36],
            relayed("[101:101:101:101:101:101:101:101]:257", "[101:101:101:101:101:101:101:101]:257"),
        ),
        (0x21, 0x31, &[0; 216], Header::Unknown),
        (0x21, 0x32, &[0; 216], Header::Unknown),
        (0x21, 0x00, &[], Header::Unknown),
        // What a LOCAL header says otherwise is of no account.
        (0x20, 0x11, &four[..], Header::Local),
        (0x20, 0xff, b"rubbish", Header::Local),
    ] {
        let bytes = header(command, family, rest);
        assert_eq!(parse(&bytes), Ok(Parsed::Complete { header: expected, consumed: bytes.len() }));
    }
}

#[test]
fn what_is_no_header_is_known_at_its_first_wrong_byte() {
    for at in 0..12 {
        let mut bytes = SIGNATURE[..=at].to_vec();
        bytes[at] ^= 1;
        assert_eq!(parse(&bytes), Err(Error::Signature));
        assert_eq!(parse(&SIGNATURE[..at]), Ok(Parsed::Incomplete(16 - at)));
    }
    assert_eq!(parse(b"PROXY TCP4 192.0.2.7 10.0.0.1 80 443\r\n"), Err(Error::Signature), "that is version 1");
    assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Err(Error::Signature));
    // The fixed part is enough to refuse the rest.
    for (command, family, len, error) in [
        (0x11, 0x11, 12, Error::Version(1)),
        (0x22, 0x11, 12, Error::Command(2)),
        (0x21, 0x13, 12, Error::Family(0x13)),
        (0x21, 0x41, 12, Error::Family(0x41)),
        (0x21, 0x10, 12, Error::Family(0x10)),
        (0x21, 0x11, 11, Error::TooShort { len: 11, addresses: 12 }),
        (0x21, 0x21, 35, Error::TooShort { len: 35, addresses: 36 }),
        (0x21, 0x11, 521, Error::TooLong { len: 537 }),
        (0x20, 0x00, 0xffff, Error::TooLong { len: 65_551 }),
    ] {
        let bytes = [&SIGNATURE[..], &[command, family], &u16::to_be_bytes(len)].concat();
        assert_eq!(parse(&bytes), Err(error));
    }
}

#[test]
fn tlvs_are_skipped_up_to_the_longest_header_and_must_lie_within_it() {
    let four = [192, 0, 2, 7, 10, 0, 0, 1, 0, 80, 1, 187];
    // As AWS's load balancers send it: the endpoint that the client came through.
    let vpce = tlv(0xea, b"\x01vpce-08d2bf15fac5001c9");
    let fill = 520 - 12 - vpce.len() - 3;
    let bytes = header(0x21, 0x11, &[&four[..], &vpce, &tlv(0x04, &vec![0; fill])].concat());
    assert_eq!(bytes.len(), MAX_HEADER);
    let expected = relayed("192.0.2.7:80", "10.0.0.1:443");
    assert_eq!(parse(&bytes), Ok(Parsed::Complete { header: expected, consumed: MAX_HEADER }));
    assert_eq!(parse(&header(0x21, 0x11, &[&four[..], &[0xea, 0]].concat())), Err(Error::Tlv { kind: 0xea }));
    assert_eq!(parse(&header(0x21, 0x11, &[&four[..], &[0xea, 0, 2, 0]].concat())), Err(Error::Tlv { kind: 0xea }));
}

#[test]
fn a_checksum_is_verified_if_there_is_one() {
    // The check value of the catalogue of CRCs, and a vector of RFC 3720 appendix B.4.
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    let four = [192, 0, 2, 7, 10, 0, 0, 1, 0, 80, 1, 187];
    let mut bytes = header(0x21, 0x11, &[&four[..], &tlv(0x03, &[0; 4]), &tlv(0x04, &[0])].concat());
    let is = crc32c(&bytes);
    bytes[31..35].copy_from_slice(&is.to_be_bytes());
    assert!(parse(&bytes).is_ok());
    bytes[16] ^= 1;
    assert!(matches!(parse(&bytes), Err(Error::Checksum { said, .. }) if said == is));
}
