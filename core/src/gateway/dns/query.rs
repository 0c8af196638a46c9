//! A client's query: what of it the front needs to know.

use hickory_proto::{
    op::{Header, HeaderCounts, MessageType, Metadata, OpCode, Query},
    rr::{Name, RecordType},
    serialize::binary::{BinDecodable, BinDecoder, DecodeError},
};

/// Bytes of a header (RFC 1035 section 4.1.1).
pub(super) const HEADER: usize = 12;

/// Records of a query, at most: an OPT, a signature, and a SOA for an IXFR are those in use.
const RECORDS: u32 = 16;

/// A header that could be read, and what follows it if that could be read too.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) metadata: Metadata,
    pub(super) question: Option<Question>,
    pub(super) edns: Option<ClientEdns>,
}

/// The one question.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) query: Query,
    /// As it was sent: name, type, class.
    pub(super) bytes: Vec<u8>,
}

/// What the client's OPT record says (RFC 6891).
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientEdns {
    /// Bytes it takes over UDP.
    pub(super) size: u16,
    pub(super) version: u8,
    pub(super) dnssec_ok: bool,
}

/// How far a message is in order.
#[derive(Debug)]
pub(super) enum Parsed {
    /// Not even the header.
    Short,
    /// An answer.
    Response,
    /// An operation other than QUERY; the rest was not looked at.
    Unsupported(Asked),
    /// Not one question, or one that cannot be read, or two OPT records.
    Malformed(Asked),
    /// A query.
    Query(Metadata, Question, Option<ClientEdns>),
}

impl Parsed {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut decoder = BinDecoder::new(bytes);
        let Ok(Header { metadata, counts, .. }) = Header::read(&mut decoder) else { return Self::Short };
        let head = Asked { metadata, question: None, edns: None };
        if metadata.message_type == MessageType::Response {
            return Self::Response;
        }
        if metadata.op_code != OpCode::Query {
            return Self::Unsupported(head);
        }
        // More than one question is an error by now (RFC 9619).
        if counts.queries != 1 {
            return Self::Malformed(head);
        }
        let Ok(query) = Query::read(&mut decoder) else { return Self::Malformed(head) };
        let question = bytes[HEADER..decoder.index()].to_vec();
        // A name that points back into the header; nothing else is there to point at.
        if question.len() != wire_len(query.name()) + 4 {
            return Self::Malformed(head);
        }
        let question = Question { query, bytes: question };
        match edns(&mut decoder, &counts) {
            Ok(edns) => Self::Query(metadata, question, edns),
            Err(_) => Self::Malformed(Asked { question: Some(question), ..head }),
        }
    }
}

/// Bytes of an uncompressed name.
pub(in crate::gateway) fn wire_len(name: &Name) -> usize {
    name.iter().map(|label| 1 + label.len()).sum::<usize>() + 1
}

/// Looks for the OPT record among all others, of which nothing needs to be understood.
fn edns(decoder: &mut BinDecoder<'_>, counts: &HeaderCounts) -> Result<Option<ClientEdns>, DecodeError> {
    let mut found = None;
    let others = u32::from(counts.answers) + u32::from(counts.authorities);
    let all = others + u32::from(counts.additionals);
    if all > RECORDS {
        return Err(DecodeError::InsufficientBytes);
    }
    for i in 0..all {
        let record = RecordHead::read(decoder)?;
        decoder.read_slice(usize::from(record.len))?;
        if i < others || record.kind != u16::from(RecordType::OPT) {
            continue;
        }
        if found.is_some() {
            return Err(DecodeError::DuplicateEdns);
        }
        found = Some(ClientEdns {
            size: record.class,
            version: record.ttl.to_be_bytes()[1],
            dnssec_ok: record.ttl & 0x8000 != 0,
        });
    }
    Ok(found)
}

/// What precedes the data of any record (RFC 1035 section 4.1.3).
pub(super) struct RecordHead {
    pub(super) kind: u16,
    pub(super) class: u16,
    pub(super) ttl: u32,
    /// Bytes of data that follow.
    pub(super) len: u16,
}

impl RecordHead {
    pub(super) fn read(decoder: &mut BinDecoder<'_>) -> Result<Self, DecodeError> {
        Name::read(decoder)?;
        Ok(Self {
            kind: decoder.read_u16()?.unverified(),
            class: decoder.read_u16()?.unverified(),
            ttl: decoder.read_u32()?.unverified(),
            len: decoder.read_u16()?.unverified(),
        })
    }
}
