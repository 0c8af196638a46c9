//! Other enclaves that open connections as one does, and then say what nobody would say, at sequence numbers that count: they
//! close their windows at awkward moments, acknowledge what they have not been sent, end twice, and hang up.

use super::pick;
use crate::{gvproxy::GATEWAY_MAC, soak::run::QUOTE, stream::SimStream, world::ClientSide};
use std::{io, time::Duration};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Who they talk to.
const PEER: [u8; 4] = [203, 0, 113, 10];

/// Bytes of headers in front of a segment's options.
const HEADS: usize = 14 + 20 + 20;

/// Longest pause between two segments.
const PAUSE_MS: u64 = 700;

/// One connection, from the guest's side.
struct Talk {
    port: u16,
    to: u16,
    /// The guest's next sequence number.
    next: u32,
    /// What it has acknowledged.
    acknowledged: u32,
    /// Where all ends that it could be sent: what the other side says first, and its end.
    all: u32,
    /// Where all ends that it was sent; `None` before there was anything.
    sent: Option<u32>,
    opened: bool,
}

/// Some connections, for a while.
pub(super) async fn visit(
    side: &ClientSide,
    stream: &SimStream,
    rng: &mut fastrand::Rng,
    mac: [u8; 6],
) -> io::Result<()> {
    let clock = side.clock();
    let address = [192, 168, 127, rng.u8(100..200)];
    let mut talks: Vec<Talk> = (0..rng.u16(1..=4))
        .map(|n| Talk {
            port: 2000 + 10 * rng.u16(0..1000) + n,
            to: pick(rng, &[QUOTE.0, QUOTE.0, QUOTE.0, 7]),
            next: rng.u32(..),
            acknowledged: 0,
            all: 0,
            sent: None,
            opened: false,
        })
        .collect();
    let mut inbox = Vec::new();
    for _ in 0..rng.u32(10..40) {
        let at = rng.usize(0..talks.len());
        let frame = speak(rng, &mut talks[at], address, mac);
        let mut bytes = (frame.len() as u16).to_le_bytes().to_vec();
        bytes.extend(frame);
        tokio::select! {
            biased;
            sent = stream.send_all(&bytes) => sent?,
            () = clock.sleep(Duration::from_secs(1)) => return Ok(()),
        }
        let until = clock.now() + Duration::from_millis(rng.u64(1..PAUSE_MS));
        while clock.now() < until {
            let mut buf = [0; 4096];
            tokio::select! {
                biased;
                read = stream.recv(&mut buf) => match read? {
                    0 => return Ok(()),
                    n => inbox.extend(&buf[..n]),
                },
                () = clock.sleep_until(until) => {}
            }
            hear(&mut inbox, &mut talks, address);
        }
    }
    Ok(())
}

/// Takes whole frames out of what has come.
fn hear(inbox: &mut Vec<u8>, talks: &mut [Talk], address: [u8; 4]) {
    while let Some(len) = inbox.first_chunk::<2>().map(|len| usize::from(u16::from_le_bytes(*len))) {
        if inbox.len() < 2 + len {
            return;
        }
        let frame: Vec<u8> = inbox.drain(..2 + len).skip(2).collect();
        if frame.len() < HEADS || frame[12..15] != [8, 0, 0x45] || frame[23] != 6 || frame[30..34] != address {
            continue;
        }
        let segment = &frame[34..];
        let port = u16::from_be_bytes([segment[2], segment[3]]);
        let Some(talk) = talks.iter_mut().find(|talk| talk.port == port) else { continue };
        let sequence = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
        let (flags, len) = (segment[13], segment.len() - usize::from(segment[12] >> 4) * 4);
        let end = sequence.wrapping_add(len as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0));
        if flags & SYN != 0 {
            talk.sent = Some(end);
            talk.all = end.wrapping_add(QUOTE.1.len() as u32 + 1);
        } else if talk.sent.is_some_and(|sent| end.wrapping_sub(sent).cast_signed() > 0) {
            talk.sent = Some(end);
        }
    }
}

/// The next thing that a guest says.
fn speak(rng: &mut fastrand::Rng, talk: &mut Talk, address: [u8; 4], mac: [u8; 6]) -> Vec<u8> {
    let window = pick(rng, &[0, 0, 0, 1, 5, 100, 0xffff]);
    let Some(sent) = talk.sent else {
        let frame = frame(talk, address, mac, (SYN, window, 0));
        return frame;
    };
    if !std::mem::replace(&mut talk.opened, true) {
        talk.acknowledged = sent;
        talk.next = talk.next.wrapping_add(1);
        return frame(talk, address, mac, (ACK, window, 0));
    }
    let now = talk.acknowledged;
    let upto = pick(rng, &[now, now, now.wrapping_add(1), sent, sent, talk.all, talk.all, talk.all.wrapping_add(1)]);
    if upto.wrapping_sub(now).cast_signed() > 0 {
        talk.acknowledged = upto;
    }
    let flags = pick(rng, &[ACK, ACK, ACK, ACK, ACK, ACK, ACK | PSH, ACK | FIN, ACK | SYN, ACK | RST]);
    let len = if flags == ACK | PSH { rng.usize(1..30) } else { 0 };
    if flags == ACK && rng.u8(0..5) == 0 {
        // As a probe, or a question for a sign of life.
        talk.next = talk.next.wrapping_sub(1);
        let frame = frame(talk, address, mac, (flags, window, 0));
        talk.next = talk.next.wrapping_add(1);
        return frame;
    }
    let frame = frame(talk, address, mac, (flags, window, len));
    talk.next = talk.next.wrapping_add(len as u32 + u32::from(flags & FIN != 0));
    frame
}

/// A frame with a segment: its flags, window and bytes of payload. Its checksums are not looked at.
fn frame(talk: &Talk, address: [u8; 4], mac: [u8; 6], (flags, window, len): (u8, u16, usize)) -> Vec<u8> {
    let mut frame = [&GATEWAY_MAC.0[..], &mac, &[8, 0, 0x45, 0]].concat();
    frame.extend(((20 + 20 + len) as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame.extend(address);
    frame.extend(PEER);
    frame.extend([talk.port, talk.to].iter().flat_map(|port| port.to_be_bytes()));
    frame.extend(talk.next.to_be_bytes());
    frame.extend(if flags & ACK != 0 { talk.acknowledged } else { 0 }.to_be_bytes());
    frame.extend([0x50, flags]);
    frame.extend(window.to_be_bytes());
    frame.resize(HEADS + len, 0);
    frame
}
