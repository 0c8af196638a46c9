//! Which addresses an answer gives the name that was asked for.

use super::NameAddress;
use hickory_proto::{
    op::{Header, Query, ResponseCode},
    rr::{Name, RData, Record},
    serialize::binary::{BinDecodable, BinDecoder},
};

/// Aliases followed in a row; resolvers give up at about this many.
const CHAIN_MAX: usize = 16;
/// Records of the answer section looked at.
const RECORDS_MAX: u16 = 128;
/// Bytes of an answer looked at. Both bound what an answer that is made to be slow can cost: its names may be long chains of
/// pointers, each of which leads to an earlier place.
const BYTES_MAX: usize = 8192;

/// The addresses that `answer` gives the name of its question, also by way of aliases (CNAME), and how many seconds each
/// holds: the least time to live on its way.
///
/// The name is in lower case and without a dot at the end. Records of other names, which nobody asked for, do not count. An
/// answer that is an error, or that cannot be read, has none; of a long one, only the first records count.
#[must_use]
pub fn addresses(answer: &[u8]) -> Vec<NameAddress> {
    let Some((question, answers)) = read(answer) else { return Vec::new() };
    let name = text(question.name());
    let mut found = Vec::new();
    let mut owner = question.name().clone();
    let mut ttl = u32::MAX;
    for _ in 0..=CHAIN_MAX {
        let mut alias: Option<(&Name, u32)> = None;
        for record in answers.iter().filter(|record| record.name == owner) {
            if let Some(address) = record.data.ip_addr() {
                found.push((name.clone(), address, record.ttl.min(ttl)));
            } else if let RData::CNAME(target) = &record.data {
                alias = Some((&target.0, record.ttl));
            }
        }
        let Some((target, alias_ttl)) = alias else { break };
        ttl = ttl.min(alias_ttl);
        owner = target.clone();
    }
    found
}

/// The name that `answer` is about, as [`addresses`] gives it; `None` if it is an error, or cannot be read.
#[must_use]
pub fn asked_name(answer: &[u8]) -> Option<String> {
    let mut decoder = BinDecoder::new(&answer[..answer.len().min(BYTES_MAX)]);
    Some(text(question(&mut decoder)?.0.name()))
}

/// The question, and how many records follow it.
fn question(decoder: &mut BinDecoder<'_>) -> Option<(Query, u16)> {
    let Header { metadata, counts, .. } = Header::read(decoder).ok()?;
    if counts.queries != 1 || metadata.response_code != ResponseCode::NoError {
        return None;
    }
    Some((Query::read(decoder).ok()?, counts.answers))
}

/// The question and the answer section: what is wrong behind them does not matter.
fn read(answer: &[u8]) -> Option<(Query, Vec<Record>)> {
    let cut = answer.len() > BYTES_MAX;
    let mut decoder = BinDecoder::new(&answer[..answer.len().min(BYTES_MAX)]);
    let (question, count) = question(&mut decoder)?;
    let mut answers = Vec::new();
    for _ in 0..count.min(RECORDS_MAX) {
        match Record::read(&mut decoder) {
            Ok(record) => answers.push(record),
            Err(_) if cut => break,
            Err(_) => return None,
        }
    }
    Some((question, answers))
}

/// Lower case, without a dot at the end unless it is all there is.
pub(super) fn text(name: &Name) -> String {
    let mut text = name.to_lowercase().to_ascii();
    if text.len() > 1 && text.ends_with('.') {
        text.pop();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;
    use hickory_proto::{
        op::{Message, MessageType, OpCode},
        rr::{
            RecordType,
            rdata::{A, AAAA, CNAME},
        },
    };

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("a name")
    }

    fn alias(from: &str, to: &str, ttl: u32) -> Record {
        Record::from_rdata(name(from), ttl, RData::CNAME(CNAME(name(to))))
    }

    fn v4(owner: &str, last: u8, ttl: u32) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(A::new(203, 0, 113, last)))
    }

    fn answer(records: Vec<Record>, code: ResponseCode) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        message.add_query(Query::query(name("WWW.example.com."), RecordType::A));
        message.metadata.response_code = code;
        message.add_answers(records);
        message.to_vec().expect("an answer")
    }

    fn found(records: Vec<Record>) -> Vec<(IpAddr, u32)> {
        let found = addresses(&answer(records, ResponseCode::NoError));
        assert!(found.iter().all(|(name, ..)| name == "www.example.com"));
        found.into_iter().map(|(_, address, ttl)| (address, ttl)).collect()
    }

    #[test]
    fn addresses_of_the_name_and_of_its_aliases_count_and_others_do_not() {
        let v6 = Record::from_rdata(name("b.example."), 90, RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)));
        let records = vec![
            v4("B.example.", 2, 60),
            alias("a.example.", "b.example.", 30),
            v6,
            alias("www.EXAMPLE.com.", "a.example.", 300),
            v4("evil.example.", 66, 60),
        ];
        assert_eq!(
            found(records),
            [("203.0.113.2".parse().expect("ip"), 30), ("2001:db8::1".parse().expect("ip"), 30)]
        );
        assert_eq!(found(vec![v4("www.example.com.", 9, 5)]), [("203.0.113.9".parse().expect("ip"), 5)]);
    }

    #[test]
    fn what_is_wrong_behind_the_answers_does_not_matter() {
        let mut bytes = answer(vec![v4("www.example.com.", 9, 5)], ResponseCode::NoError);
        bytes[9] = 7;
        bytes.extend([0xff; 9]);
        assert_eq!(addresses(&bytes).len(), 1);
        bytes[7] = 2;
        assert_eq!(addresses(&bytes).len(), 0);
    }

    #[test]
    fn of_a_long_answer_the_first_records_count() {
        let many: Vec<_> = (0..3000).map(|n| v4("www.example.com.", (n % 250) as u8, 60)).collect();
        let bytes = answer(many, ResponseCode::NoError);
        assert!(bytes.len() > 2 * BYTES_MAX);
        assert_eq!(addresses(&bytes).len(), usize::from(RECORDS_MAX));
        // Of long ones, those that are there whole.
        let long = (0..100).map(|n| {
            let owner = format!("{}.{n}.example.", vec!["x".repeat(60); 3].join("."));
            v4(&owner, 1, 60)
        });
        let records = core::iter::once(v4("www.example.com.", 7, 60)).chain(long).collect();
        assert_eq!(addresses(&answer(records, ResponseCode::NoError)).len(), 1);
    }

    #[test]
    fn a_circle_of_aliases_ends() {
        assert_eq!(found(vec![alias("www.example.com.", "a.", 1), alias("a.", "www.example.com.", 1)]), []);
        let chain = |n: usize| {
            let mut records = vec![alias("www.example.com.", "n0.", 9)];
            records.extend((0..n).map(|i| alias(&format!("n{i}."), &format!("n{}.", i + 1), 9)));
            records.push(v4(&format!("n{n}."), 1, 9));
            found(records).len()
        };
        assert_eq!((chain(CHAIN_MAX - 1), chain(CHAIN_MAX)), (1, 0));
    }

    #[test]
    fn an_error_or_noise_has_no_addresses() {
        assert_eq!(addresses(&answer(vec![v4("www.example.com.", 1, 1)], ResponseCode::ServFail)), []);
        assert_eq!(addresses(&[1; 40]), []);
        assert_eq!(addresses(&[]), []);
    }

    #[test]
    fn the_root_is_a_dot() {
        assert_eq!((text(&Name::root()), text(&name("A.B."))), (".".to_owned(), "a.b".to_owned()));
    }
}
