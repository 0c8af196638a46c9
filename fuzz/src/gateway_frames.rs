//! The whole gateway under a script of frames from two enclaves and of what the world says. Inputs of an odd length have
//! IPv6 too. No input may keep the gateway busy: what it does in one go, and while time passes, is bounded.

mod talk;

use nitrotap_core::{
    frame::Framing,
    gateway::{
        Config, DialError, FLUSH_WORK_LIMIT, FlowId, Gateway, Handled, Output, PortId, QUEUE_LIMIT, SessionError,
        SessionId, Target, TenantLimits,
    },
    offload::checksum,
    time::Instant,
};
use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use talk::{Key, SYN, Talk, Talks};

const MTU: u16 = 1500;
/// Calls back that time alone may cost, and more for each second of it: each connection and session has a timer.
const CALLS: u64 = 100;
const CALLS_PER_SECOND: u64 = 2 * (FLOWS + SESSIONS) as u64;
/// Outputs of one input: what is there is told of, and a connection's buffers fill a link's queue a few times.
const OUTPUTS: u32 = 1000;
const FLOWS: usize = 6;
const SESSIONS: usize = 6;
/// Ethernet and IPv4 headers, and with IPv6.
const HEADS: usize = 14 + 20;
const HEADS_V6: usize = 14 + 40;
pub(crate) const GATEWAY_MAC: [u8; 6] = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd];
const PREFIX: u128 = 0xfd00_0001 << 96;
const LINK_LOCAL: u128 = 0xfe80 << 112;

struct World {
    gateway: Gateway,
    now: Instant,
    links: [PortId; 2],
    dials: VecDeque<FlowId>,
    flows: VecDeque<FlowId>,
    sessions: VecDeque<SessionId>,
    questions: VecDeque<u64>,
    ipv6: bool,
    /// What the gateway's last segment acknowledged, and its own next number: where a guest goes on.
    next: (u32, u32),
    talks: Talks,
    /// Whose connections the world's are.
    keys: BTreeMap<FlowId, Key>,
}

/// A script of steps: a byte whose lower three bits say what is done and whose upper five say how, and what that takes.
pub fn gateway_frames(data: &[u8]) {
    let tenant = TenantLimits { flows: FLOWS, half_open: FLOWS, sessions: SESSIONS, rate: None };
    let memory = FLOWS * (16 << 10) + (8 << 20);
    let ipv6 = data.len() % 2 == 1;
    let Ok(subnet6) = "fd00:1::/64".parse() else { unreachable!("a well-formed prefix") };
    let config = Config {
        tenant,
        max_flows: FLOWS,
        max_sessions: SESSIONS,
        memory,
        mtu: MTU,
        seed: 1,
        subnet6: ipv6.then_some(subnet6),
        ..Config::default()
    };
    let Ok(mut gateway) = Gateway::new(config) else { unreachable!("this gateway can be") };
    let mut attach = |tenant| gateway.attach(tenant, Some(Framing::Hyperkit));
    let (Some(a), Some(b)) = (attach(1), attach(0x8000_0000)) else { unreachable!("two links are few") };
    let mut world = World {
        gateway,
        now: Instant::from_millis(1),
        links: [a, b],
        dials: VecDeque::new(),
        flows: VecDeque::new(),
        sessions: VecDeque::new(),
        questions: VecDeque::new(),
        ipv6,
        next: (1000, 0),
        talks: Talks::default(),
        keys: BTreeMap::new(),
    };
    let mut rest = data;
    while let [step, tail @ ..] = rest {
        rest = world.step(step & 7, step >> 3, tail);
        world.settle();
    }
}

impl World {
    fn step<'d>(&mut self, what: u8, how: u8, rest: &'d [u8]) -> &'d [u8] {
        let link = self.links[usize::from(how & 1)];
        match what {
            // A frame, byte for byte.
            0 => {
                let (frame, rest) = chunk(rest);
                self.frame(link, frame);
                rest
            }
            // What lies behind an Ethernet header that makes sense.
            1 => {
                let (payload, rest) = chunk(rest);
                if self.ipv6 && how & 8 != 0 {
                    self.frame(link, &ipv6_frame(how, payload));
                    return rest;
                }
                let to = [GATEWAY_MAC, [0xff; 6], mac(how ^ 1)][usize::from(how >> 1) % 3];
                let kind = if how & 16 == 0 { [8, 0] } else { [8, 6] };
                self.frame(link, &[&to[..], &mac(how), &kind, payload].concat());
                rest
            }
            // A TCP segment near where the connection is.
            2 => {
                let [flags, port, sequence, acknowledgement, window, len, rest @ ..] = rest else { return &[] };
                let near = |base: u32, delta: u8| base.wrapping_add((i32::from(delta.cast_signed()).pow(3)) as u32);
                let (len, window) = (usize::from(*len) * 6, if *window == 0 { [0, 0] } else { [*window, 0xff] });
                let six = self.ipv6 && port & 16 != 0;
                let mut packet = if six {
                    let to = 0x2001_0db8 << 96 | u128::from(port >> 5);
                    let head = [0x60, 0, 0, 0, 0, 0, 6, 64];
                    [&head[..], &guest(how).to_be_bytes(), &to.to_be_bytes()].concat()
                } else {
                    let head = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 192, 168, 127, 2 + (how & 1)];
                    [&head[..], &[203, 0, 113, port >> 5]].concat()
                };
                let key = key(&packet, [0, 1 + (port & 3), 0, 80]);
                packet.extend([0, 1 + (port & 3), 0, 80]);
                let say = |world: &mut Self, flags: u8, sequence: u32, acknowledgement: u32, len: usize| {
                    let mut packet = packet.clone();
                    packet.extend(sequence.to_be_bytes());
                    packet.extend(acknowledgement.to_be_bytes());
                    packet.extend([0x60, flags, window[0], window[1], 0, 0, 0, 0, 3, 3, how >> 1, 0]);
                    packet.resize(packet.len() + len, flags);
                    let (at, len, kind) =
                        if six { (4, packet.len() - 40, [0x86, 0xdd]) } else { (2, packet.len(), [8, 0]) };
                    packet[at..at + 2].copy_from_slice(&(len as u16).to_be_bytes());
                    world.frame(link, &[&GATEWAY_MAC[..], &mac(how), &kind, &packet].concat());
                };
                if port & 4 == 0 {
                    // Near the last segment of all.
                    let (sequence, acknowledgement) =
                        (near(self.next.0, *sequence), near(self.next.1, *acknowledgement));
                    say(self, *flags, sequence, acknowledgement, len);
                    return rest;
                }
                if port & 8 != 0 {
                    // A connection from its first segment to its third, if the world wants it.
                    let talk = self.talks.of(key.clone());
                    let first = talk.next;
                    talk.said(first, SYN, 0);
                    say(self, SYN, first, 0, 0);
                    self.settle();
                    self.dialed(Ok(()));
                    self.settle();
                }
                let talk = self.talks.of(key);
                let (sequence, acknowledgement) = (near(talk.next, *sequence), talk.acknowledge(*acknowledgement));
                talk.said(sequence, *flags, len as u32);
                say(self, *flags, sequence, acknowledgement, len);
                rest
            }
            3 => {
                let answers = [Ok(()), Ok(()), Err(DialError::Refused), Err(DialError::HostUnreachable)];
                self.dialed(answers[usize::from(how & 3)]);
                rest
            }
            // The world takes, gives, closes or resets.
            4 => {
                if let Some(flow) = self.flows.pop_front() {
                    let n = usize::from(how) * 1000;
                    match how & 7 {
                        0..3 => drop(self.gateway.read(flow, |bytes| bytes.len().min(n))),
                        3..6 => {
                            let n = self.gateway.write(flow, |room| room.len().min(n));
                            self.talk(flow, |talk| talk.given(n));
                        }
                        6 => {
                            self.gateway.finish(self.now, flow);
                            self.talk(flow, Talk::finished);
                        }
                        _ => self.gateway.abort(self.now, flow),
                    }
                    if self.gateway.status(flow).is_some() {
                        self.flows.push_back(flow);
                    }
                }
                rest
            }
            // The world begins.
            5 => {
                let guest = if self.ipv6 && how & 8 != 0 {
                    SocketAddr::from((Ipv6Addr::from_bits(PREFIX | u128::from(how & 3)), 80))
                } else {
                    SocketAddr::from(([192, 168, 127, how & 3], 80))
                };
                if how & 4 == 0 {
                    self.flows.extend(self.gateway.connect(self.now, guest));
                } else {
                    self.sessions.extend(self.gateway.open_session(self.now, guest, ([9, 9, 9, 9], 9).into()));
                }
                rest
            }
            6 => {
                let time = Duration::from_millis(u64::from(how).pow(4));
                if how & 1 == 0 {
                    // The driver comes late.
                    self.now = self.now + time;
                    self.gateway.handle_timeout(self.now);
                } else {
                    self.wait(time);
                }
                rest
            }
            // Datagrams, answers, errors; a link goes and another comes.
            _ => {
                let (payload, rest) = chunk(rest);
                match (how & 3, self.sessions.front().copied(), self.questions.pop_front()) {
                    (0, Some(session), _) => self.gateway.handle_datagram(self.now, session, payload),
                    (1, Some(session), _) => self.gateway.handle_session_error(session, SessionError::Refused),
                    (2, _, Some(client)) => self.gateway.handle_dns_answer(client, payload),
                    (3, ..) => {
                        self.gateway.detach(link);
                        let tenant = if how & 1 == 0 { 1 } else { 0x8000_0000 };
                        let again = self.gateway.attach(tenant, Some(Framing::Hyperkit));
                        let Some(again) = again else { unreachable!("one has just gone") };
                        self.links[usize::from(how & 1)] = again;
                    }
                    _ => self.sessions.rotate_left(usize::from(self.sessions.len() > 1)),
                }
                rest
            }
        }
    }

    fn frame(&mut self, link: PortId, frame: &[u8]) {
        match self.gateway.handle_frame(self.now, link, frame) {
            // What is for other links is dropped until then.
            Handled::Done | Handled::Rest { .. } => {}
            Handled::Datagram { session, .. } => self.sessions.push_back(session),
            Handled::Dns { client, .. } => self.questions.push_back(client),
        }
    }

    /// The world answers the connection that has waited for the longest time.
    fn dialed(&mut self, result: Result<(), DialError>) {
        if let Some(flow) = self.dials.pop_front() {
            self.gateway.handle_dialed(self.now, flow, result);
            self.flows.push_back(flow);
        }
    }

    fn talk(&mut self, flow: FlowId, f: impl FnOnce(&mut Talk)) {
        if let Some(key) = self.keys.get(&flow) {
            f(self.talks.of(key.clone()));
        }
    }

    /// Time passes, up to a quarter of an hour; the driver is called back whenever the gateway wants it.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        let most = CALLS + CALLS_PER_SECOND * (time.as_secs() + 1);
        let mut calls = 0;
        while let Some(at) = self.gateway.poll_timeout().filter(|at| *at <= end) {
            calls += 1;
            assert!(calls <= most, "called back {calls} times in {time:?}: {:?}", self.gateway.counters());
            self.now = self.now.max(at);
            self.gateway.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
        self.gateway.handle_timeout(self.now);
    }

    /// What every driver does after an input; here what comes out is judged.
    fn settle(&mut self) {
        let mut outputs = 0;
        self.gateway.flush(self.now);
        while let Some(output) = self.gateway.poll_output() {
            outputs += 1;
            assert!(outputs <= OUTPUTS, "it never has enough: {:?}", self.gateway.counters());
            match output {
                Output::Dial { flow, target, guest } => {
                    self.dials.push_back(flow);
                    if let Target::Address(to) = target {
                        self.keys.insert(flow, (end(guest), end(to)));
                    }
                }
                Output::Closed { flow, .. } => {
                    assert!(self.gateway.status(flow).is_none(), "it is over");
                    self.dials.retain(|other| *other != flow);
                    self.flows.retain(|other| *other != flow);
                    self.keys.remove(&flow);
                }
                Output::SessionClosed(session) => self.sessions.retain(|other| *other != session),
                Output::Flow(_) | Output::SessionRefused(_) => {}
                Output::Frames(port) => self.take(port),
            }
        }
        let counters = self.gateway.counters();
        assert!(counters.tcp_flows <= FLOWS as u64 && counters.sessions <= SESSIONS as u64, "{counters:?}");
        assert!(counters.tcp_flows > 0 || counters.tcp_buffer_bytes == 0, "{counters:?}");
        assert!(counters.tcp_stuck == 0, "a connection says the same for ever: {counters:?}");
        assert!(counters.flush_work_max <= FLUSH_WORK_LIMIT, "{counters:?}");
        self.sessions.truncate(64);
        self.questions.truncate(64);
    }

    fn take(&mut self, port: PortId) {
        let mut pending = self.gateway.pending(port).to_vec();
        assert!(pending.len() <= QUEUE_LIMIT, "{} bytes wait", pending.len());
        if self.gateway.consume(port, pending.len()) {
            self.gateway.flush(self.now);
        }
        while let Some((frame, len)) = Framing::Hyperkit.split(&pending) {
            if frame[6..12] == GATEWAY_MAC {
                self.judge(frame);
            } else if frame[12..14] == [0x86, 0xdd] && frame.get(20) == Some(&58) {
                // Of another enclave: only the gateway is a router.
                assert!(!matches!(frame.get(HEADS_V6), Some(134 | 137)), "a rogue router");
            }
            pending.drain(..len);
        }
        assert!(pending.is_empty(), "whole frames");
    }

    /// A frame of the gateway's own.
    fn judge(&mut self, frame: &[u8]) {
        assert!(frame.len() <= 14 + usize::from(MTU), "a frame of {} bytes", frame.len());
        if frame[12..14] == [0x86, 0xdd] {
            return self.judge_v6(frame);
        }
        if frame[12..14] != [8, 0] {
            return;
        }
        assert!(checksum::is_valid(checksum::add(0, &frame[14..HEADS])), "the IPv4 checksum");
        if frame[23] != 6 {
            return;
        }
        let segment = &frame[HEADS..];
        let address = |at: usize| [frame[at], frame[at + 1], frame[at + 2], frame[at + 3]];
        let pseudo = checksum::pseudo_header_v4(address(26), address(30), 6, segment.len() as u16);
        assert!(checksum::is_valid(checksum::add(pseudo, segment)), "the TCP checksum");
        self.follow(&frame[26..HEADS], segment);
    }

    fn judge_v6(&mut self, frame: &[u8]) {
        assert!(self.ipv6, "nobody has asked for it");
        let payload = &frame[HEADS_V6..];
        assert_eq!(payload.len(), usize::from(u16::from_be_bytes([frame[18], frame[19]])), "the length of the packet");
        let protocol = frame[20];
        if protocol == 44 {
            return;
        }
        assert!(checksum::is_valid(sum_v6(&frame[22..HEADS_V6], protocol, payload)), "a checksum over IPv6");
        if protocol == 6 {
            self.follow(&frame[22..HEADS_V6], payload);
        }
    }

    /// Where the gateway is in a connection.
    fn follow(&mut self, addresses: &[u8], segment: &[u8]) {
        let (source, destination) = addresses.split_at(addresses.len() / 2);
        let key = ([destination, &segment[2..4]].concat(), [source, &segment[..2]].concat());
        self.talks.heard(key, segment);
        let number = |at: usize| u32::from_be_bytes([segment[at], segment[at + 1], segment[at + 2], segment[at + 3]]);
        let head = usize::from(segment[12] >> 4) * 4;
        let len = (segment.len() - head) as u32 + u32::from(segment[13] & 2 != 0) + u32::from(segment[13] & 1 != 0);
        self.next = (number(8), number(4).wrapping_add(len));
    }
}

/// The ends of a connection that a packet with these addresses in its header, and these ports behind it, belongs to.
fn key(head: &[u8], ports: [u8; 4]) -> Key {
    let (source, destination) =
        if head[0] >> 4 == 6 { (&head[8..24], &head[24..40]) } else { (&head[12..16], &head[16..20]) };
    ([source, &ports[..2]].concat(), [destination, &ports[2..]].concat())
}

/// One end as it is in a packet.
fn end(address: SocketAddr) -> Vec<u8> {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    [&ip[..], &address.port().to_be_bytes()].concat()
}

/// The sum over the pseudo-header of IPv6 and a payload.
fn sum_v6(addresses: &[u8], protocol: u8, payload: &[u8]) -> u64 {
    let len = (payload.len() as u32).to_be_bytes();
    let pseudo = [addresses, &len, &[0, 0, 0, protocol]].concat();
    checksum::add(checksum::add(0, &pseudo), payload)
}

/// The address of an enclave.
fn guest(how: u8) -> u128 {
    PREFIX | (2 + u128::from(how & 1))
}

/// A frame with IPv6 that makes sense up to its payload: two bytes say from where to where and what, and checksums are
/// right.
fn ipv6_frame(how: u8, payload: &[u8]) -> Vec<u8> {
    let [between, protocol, payload @ ..] = payload else { return Vec::new() };
    let host = [PREFIX | 1, PREFIX | 0xfe, guest(how ^ 1), 0x2001_0db8 << 96 | 9];
    let groups =
        [0xff02 << 112 | 1, 0xff02 << 112 | 2, 0xff02_u128 << 112 | 0x1_ff00_0001, 0xff02_u128 << 112 | 0x1_ff00_0003];
    let to = if between & 4 == 0 { host[usize::from(between & 3)] } else { groups[usize::from(between & 3)] };
    let from = [guest(how), LINK_LOCAL | u128::from(how & 1) | 2, 0, guest(how ^ 1)][usize::from(between >> 3 & 3)];
    let protocol = [17, 58, 44, 0, 60, 58, 58, *protocol][usize::from(protocol & 7)];
    let mut payload = payload.to_vec();
    let hops = if between & 128 == 0 { 255 } else { 64 };
    let len = (payload.len() as u16).to_be_bytes();
    let addresses = [from.to_be_bytes(), to.to_be_bytes()].concat();
    let at = if protocol == 58 { 2..4 } else { 6..8 };
    if matches!(protocol, 17 | 58)
        && let Some(field) = payload.get_mut(at.clone())
    {
        field.fill(0);
        let sum = checksum::finish(sum_v6(&addresses, protocol, &payload));
        payload[at].copy_from_slice(&sum);
    }
    let [.., a, b, c, d] = to.to_be_bytes();
    let station = if between & 4 == 0 {
        [GATEWAY_MAC, mac(how ^ 1)][usize::from(how >> 1 & 1)]
    } else {
        [0x33, 0x33, a, b, c, d]
    };
    let head = [0x86, 0xdd, 0x60, 0, 0, 0, len[0], len[1], protocol, hops];
    [&station[..], &mac(how), &head, &addresses, &payload].concat()
}

/// A length in one byte, in units of two, and so many bytes.
fn chunk(rest: &[u8]) -> (&[u8], &[u8]) {
    let [len, rest @ ..] = rest else { return (&[], &[]) };
    rest.split_at((usize::from(*len) * 2).min(rest.len()))
}

pub(crate) const fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n & 1]
}
