//! A name server that answers as the first label of a name asks it to, over UDP and TCP.
//!
//! | name | answer |
//! |---|---|
//! | `ok.…` | A 192.0.2.10, AAAA 2001:db8::10, TXT "text"; of every other type none |
//! | `big.…` | TXT, 40 records of 100 bytes; cut over UDP |
//! | `huge.…` | TXT, 240 records of 250 bytes; cut over UDP |
//! | `nx.…`, `fail.…`, `refuse.…` | NXDOMAIN, SERVFAIL, REFUSED |
//! | `silent.…` | nothing at all |
//! | any other | no record |
//!
//! Each question is printed as `query PROTOCOL NAME TYPE`.

use super::{say, serve_each};
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, RecordType, rdata},
};
use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

const TTL: u32 = 60;
/// What fits a UDP answer without EDNS (RFC 1035, section 2.3.4).
const UDP_MAX: usize = 512;

/// Serves both protocols on one address.
pub fn serve(address: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    std::thread::spawn(move || {
        let mut buf = [0; 4096];
        while let Ok((n, from)) = socket.recv_from(&mut buf) {
            if let Some(answer) = answer(&buf[..n], "udp") {
                // Who asked may be gone.
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    serve_each(address, None, |mut stream| {
        let mut length = [0; 2];
        while stream.read_exact(&mut length).is_ok() {
            let mut question = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut question)?;
            if let Some(answer) = answer(&question, "tcp") {
                let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
                stream.write_all(&[&length.to_be_bytes()[..], &answer].concat())?;
            }
        }
        Ok(())
    })
}

fn answer(question: &[u8], protocol: &str) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).ok()?;
    let query = question.queries.first()?.clone();
    let name = query.name().clone();
    say(format_args!("query {protocol} {name} {}", query.query_type())).ok()?;

    let mut message = Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
    message.metadata.recursion_desired = question.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.add_query(query.clone());
    let text = name.to_ascii().to_ascii_lowercase();
    let (code, data) = match (text.split('.').next()?, query.query_type()) {
        ("silent", _) => return None,
        ("nx", _) => (ResponseCode::NXDomain, vec![]),
        ("fail", _) => (ResponseCode::ServFail, vec![]),
        ("refuse", _) => (ResponseCode::Refused, vec![]),
        ("ok", RecordType::A) => (ResponseCode::NoError, vec![RData::A(Ipv4Addr::new(192, 0, 2, 10).into())]),
        ("ok", RecordType::AAAA) => {
            (ResponseCode::NoError, vec![RData::AAAA(Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 0x10).into())])
        }
        ("ok", RecordType::TXT) => (ResponseCode::NoError, vec![txt("text")]),
        ("big", RecordType::TXT) => (ResponseCode::NoError, (0..40).map(|i| txt(&format!("{i:0100}"))).collect()),
        ("huge", RecordType::TXT) => (ResponseCode::NoError, (0..240).map(|i| txt(&format!("{i:0250}"))).collect()),
        _ => (ResponseCode::NoError, vec![]),
    };
    message.metadata.response_code = code;
    message.answers.extend(data.into_iter().map(|data| Record::from_rdata(name.clone(), TTL, data)));
    let whole = message.to_vec().ok()?;
    if protocol == "tcp" || whole.len() <= UDP_MAX {
        return Some(whole);
    }
    message.metadata.truncation = true;
    message.answers.clear();
    message.to_vec().ok()
}

fn txt(text: &str) -> RData {
    RData::TXT(rdata::TXT::new(vec![text.to_owned()]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::{
        op::{OpCode, Query},
        rr::Name,
    };

    fn ask(name: &str, kind: RecordType, protocol: &str) -> Option<Message> {
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        answer(&question.to_vec().unwrap(), protocol).map(|answer| Message::from_vec(&answer).unwrap())
    }

    #[test]
    fn the_first_label_chooses_the_answer() {
        assert_eq!(ask("ok.test.", RecordType::A, "udp").unwrap().answers.len(), 1);
        assert_eq!(ask("nx.test.", RecordType::A, "udp").unwrap().metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(ask("silent.test.", RecordType::A, "udp"), None);
        assert!(ask("big.test.", RecordType::TXT, "udp").unwrap().metadata.truncation);
        assert_eq!(ask("big.test.", RecordType::TXT, "tcp").unwrap().answers.len(), 40);
        assert_eq!(ask("huge.test.", RecordType::TXT, "tcp").unwrap().answers.len(), 240);
    }
}
