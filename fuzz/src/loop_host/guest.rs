//! Guests: small TCPs that say what the script wants, take what they get, and check all of it.
//!
//! They keep to the rules, unlike those of the gateway's target: here it is the loop around the gateway that is looked at.

use super::pattern::{self, Incoming};
use crate::gateway_frames::{GATEWAY_MAC, mac};
use nitrotap_core::{offload::checksum, proxy_protocol, time::Instant};
use std::{
    collections::{BTreeSet, VecDeque},
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);
/// The first port where guests listen; the others follow it.
pub(super) const SERVER: u16 = 8000;
/// The first port of guests for datagrams, and that of the connections that they begin.
pub(super) const DATAGRAMS: u16 = 4000;
const CLIENT: u16 = 20_000;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// How long a guest waits for an answer before it says the same again.
const AGAIN: Duration = Duration::from_millis(500);
const SCALE: u32 = 7;
const WINDOW: u16 = 2048;

pub(super) const fn address(guest: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 127, 3 + guest as u8)
}

/// One connection, as its guest has it.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) guest: usize,
    port: u16,
    remote: SocketAddrV4,
    /// The guest's first number, and the other side's once it is known.
    iss: u32,
    irs: Option<u32>,
    /// Bytes that were acknowledged, were said, and are to be said.
    una: usize,
    next: usize,
    pub(super) total: usize,
    /// The guest wants to end its half; has said so; that was acknowledged.
    pub(super) ends: bool,
    pub(super) ended: bool,
    pub(super) end_heard: bool,
    pub(super) incoming: Incoming,
    /// What is expected ahead of the first byte.
    header: Option<Vec<u8>>,
    /// The other side has ended its half.
    pub(super) peer_ended: bool,
    /// It is over by a reset: the guest's, or one that it got.
    pub(super) reset: Option<ResetBy>,
    window_closed: bool,
    window: usize,
    scale: u32,
    mss: usize,
    owes: bool,
    said: Instant,
    /// The world would not have it.
    pub(super) refused: bool,
    /// Something has happened on the way after which it need not come to a good end.
    pub(super) shaky: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResetBy {
    Guest,
    Gateway,
}

impl Talk {
    pub(super) const fn is_open(&self) -> bool {
        self.irs.is_some() && self.reset.is_none()
    }

    pub(super) const fn is_over(&self) -> bool {
        self.reset.is_some() || self.end_heard && self.peer_ended
    }

    /// The guest has room for more, or for nothing, and says so.
    pub(super) const fn set_window(&mut self, is_closed: bool) {
        self.owes |= self.window_closed != is_closed;
        self.window_closed = is_closed;
    }

    /// Bytes that were acknowledged.
    pub(super) const fn heard(&self) -> usize {
        self.una
    }

    pub(super) const fn irs_is_unknown(&self) -> bool {
        self.irs.is_none()
    }

    const fn wants_to_end(&self) -> bool {
        self.ends && self.next == self.total
    }
}

/// One enclave.
#[derive(Debug, Default)]
pub(super) struct Guest {
    /// Frames that it has to say.
    pub(super) out: VecDeque<Vec<u8>>,
}

/// What all guests together have said and heard.
pub(super) struct Guests {
    pub(super) all: Vec<Guest>,
    /// By their number, which is the name of what they send.
    pub(super) talks: Vec<Talk>,
    /// Datagrams by name that were sent to guests, and have yet to come.
    pub(super) owed: BTreeSet<u16>,
    /// Those who connect to a port get a PROXY header first.
    pub(super) with_header: BTreeSet<u16>,
}

impl Guests {
    pub(super) fn new(count: usize) -> Self {
        let all = (0..count).map(|_| Guest::default()).collect();
        Self { all, talks: Vec::new(), owed: BTreeSet::new(), with_header: BTreeSet::new() }
    }

    /// A guest begins a connection.
    pub(super) fn open(&mut self, now: Instant, guest: usize, to: SocketAddrV4) {
        let number = self.talks.len();
        let mut talk = Talk::new(number, guest, CLIENT + number as u16, to);
        talk.said = now;
        self.all[guest].out.push_back(talk.segment(SYN, 0, &[]));
        self.talks.push(talk);
    }

    pub(super) fn reset(&mut self, number: usize) {
        let talk = &mut self.talks[number];
        if talk.is_open() && !talk.is_over() {
            let segment = talk.segment(RST | ACK, talk.next, &[]);
            talk.reset = Some(ResetBy::Guest);
            self.all[talk.guest].out.push_back(segment);
        }
    }

    /// A frame reaches a guest.
    pub(super) fn hear(&mut self, now: Instant, guest: usize, frame: &[u8]) {
        let me = address(guest).octets();
        match (frame[12], frame[13]) {
            // Who has the guest's address?
            (8, 6) if frame[21] == 1 && frame[38..42] == me => {
                let mut answer = [&frame[6..12], &mac_of(guest), &frame[12..21], &[2]].concat();
                answer.extend([&mac_of(guest)[..], &me, &frame[22..32]].concat());
                self.all[guest].out.push_back(answer);
            }
            (8, 0) if frame[30..34] == me => {
                let len = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
                let ip = &frame[14..14 + len];
                match ip[9] {
                    6 => self.hear_segment(now, guest, ip),
                    17 if !(ip[20] == 0 && ip[21] == 53) => {
                        let name = u16::from_be_bytes([ip[28], ip[29]]);
                        assert!(pattern::is(name, 0, &ip[28..]), "a datagram that nobody sent");
                        assert!(self.owed.remove(&name), "datagram {name} came twice, or was never sent");
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn hear_segment(&mut self, now: Instant, guest: usize, ip: &[u8]) {
        let number = |at: usize| u32::from_be_bytes([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
        let word = |at: usize| u16::from_be_bytes([ip[at], ip[at + 1]]);
        let remote = SocketAddrV4::new(Ipv4Addr::from_bits(number(12)), word(20));
        let (port, flags, sequence) = (word(22), ip[33], number(24));
        let head = 20 + usize::from(ip[32] >> 4) * 4;
        let is_it = |talk: &Talk| talk.guest == guest && talk.port == port && talk.remote == remote;
        let found = self.talks.iter().rposition(is_it);
        let anew = flags & (SYN | ACK) == SYN && found.is_none_or(|n| self.talks[n].irs != Some(sequence));
        let at = match found {
            Some(at) if !anew => at,
            _ if flags & (SYN | RST) == SYN && (SERVER..CLIENT).contains(&port) => {
                let mut talk = Talk::new(self.talks.len(), guest, port, remote);
                talk.header = self.with_header.contains(&port).then(Vec::new);
                self.talks.push(talk);
                self.talks.len() - 1
            }
            _ => return,
        };
        let out = &mut self.all[guest].out;
        let talk = &mut self.talks[at];
        if talk.reset.is_some() {
            if flags & (RST | ACK) == ACK {
                let at = number(28).wrapping_sub(talk.iss).wrapping_sub(1) as usize;
                out.push_back(talk.segment(RST | ACK, at, &[]));
            }
            return;
        }
        if flags & RST != 0 {
            talk.reset = if talk.is_over() { None } else { Some(ResetBy::Gateway) };
            return;
        }
        if flags & SYN != 0 {
            talk.options(&ip[40..head]);
            let first = talk.irs.replace(sequence).is_none();
            if flags & ACK == 0 {
                talk.said = now;
                return out.push_back(talk.segment(SYN | ACK, 0, &[]));
            }
            talk.owes = true;
            if !first {
                return;
            }
        }
        let Some(irs) = talk.irs else { return };
        if flags & ACK != 0 {
            let mut heard = number(28).wrapping_sub(talk.iss).wrapping_sub(1) as usize;
            if talk.ended && heard == talk.total + 1 {
                talk.end_heard = true;
                heard -= 1;
            }
            if heard <= talk.total {
                talk.una = talk.una.max(heard);
                talk.next = talk.next.max(heard);
                let scale = if flags & SYN == 0 { talk.scale } else { 0 };
                talk.window = usize::from(word(34)) << scale;
            }
        }
        let payload = &ip[head..];
        let at = sequence.wrapping_sub(irs).wrapping_sub(1).wrapping_add(u32::from(flags & SYN != 0)).cast_signed();
        let header = talk.header.as_ref().map_or(0, Vec::len);
        let skip = (header + talk.incoming.got) as i64 - i64::from(at);
        if !payload.is_empty() || flags & FIN != 0 {
            talk.owes = true;
        }
        let Some(fresh) = usize::try_from(skip).ok().and_then(|skip| payload.get(skip..)) else { return };
        if talk.peer_ended {
            // A question whether somebody is there still has a byte in the place of the end.
            assert!(fresh.len() <= 1, "bytes behind the end");
            return;
        }
        talk.take(fresh);
        talk.peer_ended |= flags & FIN != 0;
    }

    /// What the guests have to say now becomes frames.
    pub(super) fn speak(&mut self, now: Instant) {
        for (number, talk) in self.talks.iter_mut().enumerate() {
            let out = &mut self.all[talk.guest].out;
            let late = now.since(talk.said) >= AGAIN;
            if talk.reset.is_some() || talk.irs.is_none() {
                if talk.reset.is_none() && late {
                    talk.said = now;
                    out.push_back(talk.segment(SYN, 0, &[]));
                }
                continue;
            }
            if late && (talk.una < talk.next || talk.ended && !talk.end_heard) {
                (talk.next, talk.owes) = (talk.una, true);
            }
            let probe = late && talk.window == 0 && talk.una == talk.next && talk.next < talk.total;
            let window = talk.window.max(usize::from(probe));
            while talk.next < talk.total && talk.next - talk.una < window {
                let n = talk.mss.min(talk.total - talk.next).min(window - (talk.next - talk.una));
                let mut payload = vec![0; n];
                pattern::fill(number as u16, talk.next, &mut payload);
                out.push_back(talk.segment(ACK, talk.next, &payload));
                talk.next += n;
                (talk.owes, talk.said) = (false, now);
            }
            if talk.wants_to_end() && (!talk.ended || late && !talk.end_heard) {
                out.push_back(talk.segment(FIN | ACK, talk.next, &[]));
                (talk.ended, talk.owes, talk.said) = (true, false, now);
            }
            if std::mem::take(&mut talk.owes) {
                let next = talk.next + usize::from(talk.ended && talk.next == talk.total);
                out.push_back(talk.segment(ACK, next, &[]));
            }
        }
    }

    /// A datagram of a guest, and its name if it leads to the world.
    pub(super) fn datagram(&mut self, guest: usize, protocol: u8, to: SocketAddrV4, hops: u8, body: &[u8]) {
        let from = SocketAddrV4::new(address(guest), DATAGRAMS + guest as u16);
        let mut payload = if protocol == 17 {
            let [high, low] = (8 + body.len() as u16).to_be_bytes();
            [&from.port().to_be_bytes()[..], &to.port().to_be_bytes(), &[high, low, 0, 0], body].concat()
        } else {
            [&[8, 0, 0, 0, 0, 7, 0, 1], body].concat()
        };
        if protocol == 1 {
            let sum = checksum::finish(checksum::add(0, &payload));
            payload[2..4].copy_from_slice(&sum);
        }
        let frame = packet(guest, protocol, *from.ip(), *to.ip(), hops, &payload);
        self.all[guest].out.push_back(frame);
    }
}

impl Talk {
    fn new(number: usize, guest: usize, port: u16, remote: SocketAddrV4) -> Self {
        Self {
            guest,
            port,
            remote,
            iss: 1000 + 7_000_000 * number as u32,
            irs: None,
            una: 0,
            next: 0,
            total: 0,
            ends: false,
            ended: false,
            end_heard: false,
            incoming: Incoming::default(),
            header: None,
            peer_ended: false,
            reset: None,
            window_closed: false,
            window: 0,
            scale: 0,
            mss: 536,
            owes: false,
            said: Instant::ZERO,
            refused: false,
            shaky: false,
        }
    }

    /// Bytes that have come, in order.
    fn take(&mut self, mut bytes: &[u8]) {
        const HEADER: usize = 28;
        if let Some(header) = self.header.as_mut().filter(|header| header.len() < HEADER) {
            let (first, rest) = bytes.split_at(bytes.len().min(HEADER - header.len()));
            header.extend(first);
            bytes = rest;
            if header.len() == HEADER {
                let parsed = proxy_protocol::parse(header);
                let Ok(proxy_protocol::Parsed::Complete { header, .. }) = parsed else { panic!("{parsed:?}") };
                let proxy_protocol::Header::Relayed { source, .. } = header else { panic!("{header:?}") };
                self.incoming.name = Some(source.port());
            }
        }
        self.incoming.take(bytes);
    }

    fn options(&mut self, mut options: &[u8]) {
        while let [kind, rest @ ..] = options {
            options = match (kind, rest) {
                (1, rest) => rest,
                (0, _) | (_, []) => return,
                (kind, [len, value @ ..]) => {
                    match (kind, value) {
                        (2, [high, low, ..]) => self.mss = usize::from(u16::from_be_bytes([*high, *low])).min(1460),
                        (3, [scale, ..]) => self.scale = u32::from(*scale),
                        _ => {}
                    }
                    rest.get(usize::from(*len).max(2) - 1..).unwrap_or(&[])
                }
            };
        }
    }

    /// A segment at an offset of what the guest says.
    fn segment(&self, flags: u8, offset: usize, payload: &[u8]) -> Vec<u8> {
        let sequence = self.iss.wrapping_add(offset as u32).wrapping_add(u32::from(flags & SYN == 0));
        let heard = self.header.as_ref().map_or(0, Vec::len) + self.incoming.got + usize::from(self.peer_ended);
        let acknowledges = self.irs.map_or(0, |irs| irs.wrapping_add(1).wrapping_add(heard as u32));
        let window = if self.window_closed { 0 } else { WINDOW };
        let options: &[u8] = if flags & SYN == 0 { &[] } else { &[2, 4, 5, 180, 3, 3, SCALE as u8, 0] };
        let mut tcp = [self.port.to_be_bytes(), self.remote.port().to_be_bytes()].concat();
        tcp.extend(sequence.to_be_bytes());
        tcp.extend(acknowledges.to_be_bytes());
        tcp.extend([(5 + options.len() as u8 / 4) << 4, flags]);
        tcp.extend([&window.to_be_bytes(), &[0; 4][..], options, payload].concat());
        packet(self.guest, 6, address(self.guest), *self.remote.ip(), 64, &tcp)
    }
}

/// A packet for the gateway in a frame. Nobody looks at the checksums of a link.
fn packet(guest: usize, protocol: u8, from: Ipv4Addr, to: Ipv4Addr, hops: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (20 + payload.len() as u16).to_be_bytes();
    let head = [8, 0, 0x45, 0, high, low, 0, 1, 0, 0, hops, protocol, 0, 0];
    [&GATEWAY_MAC[..], &mac_of(guest), &head, &from.octets(), &to.octets(), payload].concat()
}

fn mac_of(guest: usize) -> [u8; 6] {
    let mut address = mac(0);
    address[5] = 3 + guest as u8;
    address
}
