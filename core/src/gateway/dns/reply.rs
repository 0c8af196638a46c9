//! Messages of our own: answers for local names, errors, and answers cut to what a client takes.

use super::{
    UDP_SIZE,
    query::{Asked, HEADER, RecordHead},
};
use core::net::IpAddr;
use hickory_proto::{
    op::{Edns, Header, Message, MessageType, ResponseCode},
    rr::{
        RData, Record, RecordType,
        rdata::{A, AAAA, opt::EdnsOption},
    },
    serialize::binary::{BinDecodable, BinDecoder},
};

/// The option that carries an Extended DNS Error (RFC 8914 section 2).
const EDE: u16 = 15;
/// Bytes of an OPT record without options (RFC 6891 section 6.1.2).
const OPT: usize = 11;

/// Why it is an error (RFC 8914 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Something that has no code: 0.
    Overload,
    /// The name is not to be resolved: 15.
    Blocked,
    /// No resolver answered: 22.
    NoAnswer,
    /// No resolver could be asked: 23.
    Unreachable,
    /// There are no resolvers: 23.
    NoResolvers,
}

impl Why {
    fn option(self) -> EdnsOption {
        let (code, text): (u16, &str) = match self {
            Self::Overload => (0, "too many queries in flight"),
            Self::Blocked => (15, "blocked by egress policy"),
            Self::NoAnswer => (22, "no resolver of the host answered"),
            Self::Unreachable => (23, "no resolver of the host is reachable"),
            Self::NoResolvers => (23, "the host has no resolvers"),
        };
        EdnsOption::Unknown(EDE, [&code.to_be_bytes()[..], text.as_bytes()].concat())
    }
}

/// An answer without records that says `code`.
pub(super) fn code(asked: &Asked, code: ResponseCode, why: Option<Why>) -> Vec<u8> {
    let mut message = head(asked, code);
    if let (Some(why), Some(edns)) = (why, message.edns.as_mut()) {
        edns.options_mut().insert(why.option());
    }
    encode(&message)
}

/// An answer of our own authority: `addresses` of the question's name, not to be kept.
pub(super) fn local(asked: &Asked, code: ResponseCode, addresses: impl Iterator<Item = IpAddr>) -> Vec<u8> {
    let mut message = head(asked, code);
    message.metadata.authoritative = true;
    if let Some(question) = &asked.question {
        message.add_answers(addresses.map(|address| {
            let data = match address {
                IpAddr::V4(address) => RData::A(A(address)),
                IpAddr::V6(address) => RData::AAAA(AAAA(address)),
            };
            Record::from_rdata(question.query.name().clone(), 0, data)
        }));
    }
    encode(&message)
}

fn head(asked: &Asked, code: ResponseCode) -> Message {
    let mut message = Message::new(asked.metadata.id, MessageType::Response, asked.metadata.op_code);
    message.metadata.recursion_desired = asked.metadata.recursion_desired;
    message.metadata.checking_disabled = asked.metadata.checking_disabled;
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.add_queries(asked.question.iter().map(|question| question.query.clone()));
    if let Some(client) = asked.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_SIZE).set_dnssec_ok(client.dnssec_ok);
        message.set_edns(edns);
    }
    message
}

fn encode(message: &Message) -> Vec<u8> {
    message.to_vec().expect("a name that was decoded, and few records, are encodable")
}

/// `answer` without its records, marked as cut: header, question, and what its OPT record says of itself, which is the rest
/// of the response code (RFC 2181 section 9, RFC 6891 section 7).
pub(super) fn cut(answer: &[u8], question: &[u8]) -> Vec<u8> {
    let opt = opt(answer);
    let mut bytes = answer[..HEADER].to_vec();
    bytes[2] |= 0x02;
    bytes[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(opt.is_some())]);
    bytes.extend_from_slice(question);
    bytes.extend(opt.into_iter().flatten());
    bytes
}

/// The OPT record of `answer` without its options.
fn opt(answer: &[u8]) -> Option<[u8; OPT]> {
    let mut decoder = BinDecoder::new(answer);
    let counts = Header::read(&mut decoder).ok()?.counts;
    for _ in 0..counts.queries {
        hickory_proto::op::Query::read(&mut decoder).ok()?;
    }
    let others = u32::from(counts.answers) + u32::from(counts.authorities);
    for i in 0..others + u32::from(counts.additionals) {
        let start = decoder.index();
        let record = RecordHead::read(&mut decoder).ok()?;
        let head = decoder.slice_from(start).ok()?;
        if i >= others && record.kind == u16::from(RecordType::OPT) {
            let mut opt: [u8; OPT] = head.try_into().ok()?;
            opt[OPT - 2..].fill(0);
            return Some(opt);
        }
        decoder.read_slice(usize::from(record.len)).ok()?;
    }
    None
}
