//! The name server behind the gateway: every name has one IPv4 address, which can be told from it.

use crate::{
    group::Group,
    rng::mix,
    stream::{Listener, SimStream},
    time::Clock,
};
use std::{io, net::Ipv4Addr, time::Duration};

/// The port of the host's own where it takes streams of questions.
pub(super) const STREAMS: u32 = 5353;

/// How long it thinks about a question that came by a stream.
const THINKS: Duration = Duration::from_millis(20);

/// Bytes of a message's header (RFC 1035 section 4.1.1).
const HEADER: usize = 12;

/// The address of a name, as its labels with their lengths.
#[must_use]
pub(crate) fn address(name: &[u8]) -> Ipv4Addr {
    let hash = name.iter().fold(7, |hash, byte| mix(hash ^ u64::from(byte.to_ascii_lowercase())));
    let [a, b, c, ..] = hash.to_be_bytes();
    // Nobody's loopback, nobody's link.
    Ipv4Addr::new(11, a, b, c)
}

/// A question for the address of a name (RFC 1035 section 4.1.2).
#[must_use]
pub(crate) fn question(id: u16, name: &[u8]) -> Vec<u8> {
    let mut message = vec![0; HEADER];
    message[..2].copy_from_slice(&id.to_be_bytes());
    // Recursion is wanted; one question.
    message[2] = 1;
    message[5] = 1;
    message.extend_from_slice(name);
    message.extend([0, 1, 0, 1]);
    message
}

/// Where the first question ends, and its name; `None` if there is none.
fn first(message: &[u8]) -> Option<(&[u8], usize)> {
    let mut at = HEADER;
    loop {
        match *message.get(at)? {
            0 => break,
            label @ 1..64 => at += 1 + usize::from(label),
            _ => return None,
        }
    }
    (message.len() >= at + 5).then(|| (&message[HEADER..=at], at + 5))
}

/// The answer to a question: an address, or a refusal where anything but an address of the Internet is asked for.
#[must_use]
pub(crate) fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let mut answer = query.get(..HEADER)?.to_vec();
    answer[2] |= 0x80;
    answer[3] = answer[3] & 0xf0 | 0x80;
    answer[6..HEADER].fill(0);
    match first(query).filter(|(_, end)| query[end - 4..*end] == [0, 1, 0, 1]) {
        Some((name, end)) => {
            answer[4..8].copy_from_slice(&[0, 1, 0, 1]);
            answer.extend_from_slice(&query[HEADER..end]);
            // The name is that of the question; type A, class IN, a minute, four bytes.
            answer.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(address(name).octets());
        }
        None => {
            answer[3] |= 5;
            answer[4..6].fill(0);
        }
    }
    Some(answer)
}

/// Answers what comes by streams, each question after its length (RFC 1035 section 4.2.2), for ever.
pub(super) async fn serve(listener: Listener, clock: Clock, group: Group) {
    loop {
        let stream = listener.accept().await;
        // Whoever asks may go at any time.
        group.spawn(async move { drop(serve_one(stream, clock).await) });
    }
}

async fn serve_one(stream: SimStream, clock: Clock) -> io::Result<()> {
    let mut buf = [0; 4096];
    let mut held = Vec::new();
    loop {
        let n = stream.recv(&mut buf).await?;
        if n == 0 {
            stream.finish();
            return Ok(());
        }
        held.extend_from_slice(&buf[..n]);
        while let Some((len, rest)) = held.split_first_chunk() {
            let Some(query) = rest.get(..usize::from(u16::from_be_bytes(*len))) else { break };
            let answer = answer(query).unwrap_or_default();
            held.drain(..2 + query.len());
            clock.sleep(THINKS).await;
            stream.send_all(&(answer.len() as u16).to_be_bytes()).await?;
            stream.send_all(&answer).await?;
        }
    }
}

/// What an answer says: its number, and the address or the response code.
#[must_use]
pub(crate) fn read(answer: &[u8]) -> Option<(u16, Result<Ipv4Addr, u8>)> {
    let header = answer.get(..HEADER).filter(|header| header[2] & 0x80 != 0)?;
    let id = u16::from_be_bytes([header[0], header[1]]);
    if header[3] & 0x0f != 0 {
        return Some((id, Err(header[3] & 0x0f)));
    }
    let (_, end) = first(answer)?;
    let record = answer.get(end..end + 16).filter(|record| record[2..6] == [0, 1, 0, 1] && record[10..12] == [0, 4])?;
    Some((id, Ok(Ipv4Addr::new(record[12], record[13], record[14], record[15]))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_address_and_another_another() {
        let (a, b) = (b"\x01a\x07example\0", b"\x01b\x07example\0");
        let query = question(77, a);
        assert_eq!(read(&answer(&query).unwrap()), Some((77, Ok(address(a)))));
        assert_eq!(address(a), address(b"\x01A\x07example\0"));
        assert_ne!(address(a), address(b));
        assert_eq!(read(&query), None, "a question is no answer");
    }

    #[test]
    fn what_is_no_question_for_an_address_is_refused() {
        let mut query = question(77, b"\x01a\0");
        query[HEADER + 4] = 28;
        assert_eq!(read(&answer(&query).unwrap()), Some((77, Err(5))));
        assert_eq!(read(&answer(&query[..HEADER]).unwrap()), Some((77, Err(5))));
        assert_eq!(answer(&query[..HEADER - 1]), None);
    }
}
