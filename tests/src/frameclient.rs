//! A client of a gateway's `/connect` that is made of nothing but frames: no TAP, no kernel, no good manners.
//!
//! It sends what a test tells it, byte for byte, and understands enough of the answers to check them: ARP, ICMP echo, UDP
//! with fragments, DHCP, DNS, and TCP by hand ([`Conversation`]). It answers ARP requests for its own address, since a
//! gateway finds its clients that way, unless told not to. It needs no privileges and no namespace.

pub mod conversation;
pub mod packets;
pub mod segment;
pub mod services;
pub mod wire;

pub use conversation::{Answer, Conversation};
pub use packets::{Addresses, Packet, Station};
pub use segment::{Flags, Options, Segment};
pub use wire::Wire;

use crate::{
    gateway::Gateway,
    wait::{self, SOON},
};
use packets::{Fragment, Icmp};
use smoltcp::wire::{ArpOperation, ArpRepr, EthernetAddress, IpProtocol};
use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    time::Duration,
};

/// What the Go clients send before their first frame, in one write, and without waiting for anything after it.
pub const GO_REQUEST: &[u8] =
    b"POST /connect HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 0\r\n\r\n";

/// The gateway's address.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);
/// Reaches the loopback of the machine that the gateway runs on.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 254);

/// How long a question waits for its answer before it is asked again.
pub const AGAIN: Duration = Duration::from_secs(1);

/// Packets that wait to be asked for; the oldest make room.
const INBOX: usize = 8192;

/// Our largest packet.
const MTU: usize = 1500;

/// A station on the virtual network, connected to a gateway.
#[derive(Debug)]
pub struct FrameClient {
    wire: Wire,
    station: Station,
    inbox: VecDeque<Packet>,
    discards: Option<u16>,
    answers_arp: bool,
    frames: u64,
    broken: u64,
    port: u16,
}

impl FrameClient {
    /// Connects as a careful client does: the request, a pause, and a question that proves that the stream is in step. A
    /// stock gateway that lost a byte is dialled again.
    pub fn connect(gateway: &Gateway, station: Station) -> Self {
        Self::connect_to(&gateway.socket(), station)
    }

    /// The same at any socket.
    pub fn connect_to(socket: &Path, station: Station) -> Self {
        wait::until("the gateway to answer an ARP request", SOON, || {
            let mut client = Self::dial(socket, station, GO_REQUEST);
            client.run(Duration::from_millis(100));
            client.arp_request(GATEWAY, AGAIN).map(|_| client)
        })
    }

    /// Connects as the Go clients do, with `frames` right behind the request, in one write.
    pub fn dial_with(gateway: &Gateway, station: Station, frames: &[Vec<u8>]) -> Self {
        let mut client = Self::open(&gateway.socket(), station);
        client.wire.queue_raw(GO_REQUEST);
        client.send_all(frames);
        client
    }

    /// Connects and sends `greeting`, which need not be what a gateway expects.
    pub fn dial(socket: &Path, station: Station, greeting: &[u8]) -> Self {
        let mut client = Self::open(socket, station);
        client.send_raw(greeting);
        client
    }

    fn open(socket: &Path, station: Station) -> Self {
        let wire = Wire::connect(socket).expect("the gateway listens");
        let inbox = VecDeque::new();
        Self { wire, station, inbox, discards: None, answers_arp: true, frames: 0, broken: 0, port: 20_000 }
    }

    pub fn station(&self) -> Station {
        self.station
    }

    /// Throws away datagrams to a port as they come, as a kernel does where nobody listens: they are not looked through again
    /// whenever something else is waited for.
    pub fn discard(&mut self, port: u16) {
        self.discards = Some(port);
    }

    /// Whether the gateway has closed the stream.
    pub fn is_closed(&self) -> bool {
        !self.wire.is_open()
    }

    /// Frames that came so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Frames of the gateway among them that none should send: cut short, or with a wrong checksum.
    pub fn broken(&self) -> u64 {
        self.broken
    }

    /// Leaves ARP requests for our address without an answer.
    pub fn stop_answering_arp(&mut self) {
        self.answers_arp = false;
    }

    /// Reads nothing more: the stream fills up.
    pub fn stop_reading(&mut self) {
        self.wire.set_reading(false);
    }

    /// Reads again.
    pub fn resume_reading(&mut self) {
        self.wire.set_reading(true);
    }

    /// A port that no other conversation of this client has.
    pub fn free_port(&mut self) -> u16 {
        self.port = self.port.checked_add(1).unwrap_or(20_000);
        self.port
    }

    /// Puts a frame on the stream.
    pub fn send(&mut self, frame: &[u8]) {
        self.wire.queue(frame);
        self.flush();
    }

    /// Puts frames on the stream in one piece.
    pub fn send_all(&mut self, frames: &[Vec<u8>]) {
        frames.iter().for_each(|frame| self.wire.queue(frame));
        self.flush();
    }

    /// Puts bytes on the stream as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.wire.queue_raw(bytes);
        self.flush();
    }

    /// Appends a frame to what the next turn sends.
    pub fn queue(&mut self, frame: &[u8]) {
        self.wire.queue(frame);
    }

    /// How many bytes the gateway has not taken yet.
    pub fn queued(&self) -> usize {
        self.wire.queued()
    }

    /// Sends what is queued, and reads meanwhile. Ends early where the gateway has closed the stream; panics where it takes
    /// nothing for a long time.
    pub fn flush(&mut self) {
        let mut moved = wait::now();
        while self.wire.queued() > 0 && self.wire.is_open() {
            if self.turn(AGAIN) {
                moved = wait::now();
            }
            assert!(moved.elapsed() < SOON, "the gateway reads nothing: {} bytes wait", self.wire.queued());
        }
    }

    /// One turn of the stream: sends and receives what is possible, after at most `limit`. Gives whether anything moved.
    pub fn turn(&mut self, limit: Duration) -> bool {
        let Self { wire, station, inbox, discards, answers_arp, frames, broken, .. } = self;
        let mut replies = Vec::new();
        let moved = wire.turn(limit, |frame| {
            *frames += 1;
            let packet = Packet::parse(frame);
            // What a neighbour sends to everybody is not the gateway's fault.
            let from_gateway = frame.get(6..12).is_none_or(|mac| mac == station.gateway.as_bytes());
            *broken += u64::from(packet == Packet::Broken && from_gateway);
            replies.extend(arp_reply(station, &packet).filter(|_| *answers_arp));
            if discards.is_some_and(|port| matches!(&packet, Packet::Udp(_, datagram) if datagram.to == port)) {
                return;
            }
            if inbox.len() == INBOX {
                inbox.pop_front();
            }
            inbox.push_back(packet);
        });
        replies.iter().for_each(|reply| wire.queue(reply));
        moved
    }

    /// Turns for this long, whatever comes.
    pub fn run(&mut self, time: Duration) {
        let start = wait::now();
        while let Some(left) = time.checked_sub(start.elapsed()).filter(|_| self.wire.is_open()) {
            self.turn(left.max(Duration::from_millis(1)));
        }
    }

    /// Forgets what came and was not asked for, also what is still unread.
    pub fn clear(&mut self) {
        while self.turn(Duration::ZERO) {
            self.inbox.clear();
        }
        self.inbox.clear();
    }

    /// Forgets what was read and not asked for.
    pub fn clear_inbox(&mut self) {
        self.inbox.clear();
    }

    /// Takes the first packet for which `wanted` gives something; those before it wait on. `None` once `limit` has passed
    /// or the stream has ended.
    pub fn find<T>(&mut self, limit: Duration, mut wanted: impl FnMut(&Packet) -> Option<T>) -> Option<T> {
        let start = wait::now();
        loop {
            let found = self.inbox.iter().enumerate().find_map(|(i, packet)| Some((i, wanted(packet)?)));
            if let Some((i, value)) = found {
                self.inbox.remove(i);
                return Some(value);
            }
            let left = limit.checked_sub(start.elapsed()).filter(|_| self.wire.is_open())?;
            self.turn(left);
        }
    }

    /// Asks who has an address, and gives the MAC of who answers.
    pub fn arp_request(&mut self, target: Ipv4Addr, limit: Duration) -> Option<EthernetAddress> {
        self.inbox.retain(|packet| !matches!(packet, Packet::Arp(..)));
        self.send(&self.station.arp_request(target));
        self.find(limit, |packet| {
            let (ArpRepr::EthernetIpv4 { operation, source_hardware_addr, source_protocol_addr, .. }, _) =
                packet.as_arp()?
            else {
                return None;
            };
            let answers = *operation == ArpOperation::Reply && *source_protocol_addr == target;
            answers.then_some(*source_hardware_addr)
        })
    }

    /// Sends one echo request of `size` bytes of data; whether the right reply came.
    pub fn ping(&mut self, to: Ipv4Addr, size: usize, limit: Duration) -> bool {
        let ident = self.free_port();
        let data: Vec<u8> = (0..size).map(|i| i.to_le_bytes()[0]).collect();
        self.send(&self.station.echo_request(to, ident, 1, &data));
        let expected = Icmp::EchoReply { ident, sequence: 1, data };
        self.find(limit, |packet| {
            packet.as_icmp().filter(|(addresses, message)| addresses.from == to && **message == expected).map(|_| ())
        })
        .is_some()
    }

    /// Sends a datagram from a port of its own, in fragments if it is large, and gives the first one that comes back to that
    /// port from there, joined from its fragments.
    pub fn udp_exchange(&mut self, to: SocketAddrV4, payload: &[u8], limit: Duration) -> Option<Vec<u8>> {
        let from = self.free_port();
        self.udp_exchange_from(from, to, payload, limit)
    }

    /// The same from a given port.
    pub fn udp_exchange_from(
        &mut self,
        from: u16,
        to: SocketAddrV4,
        payload: &[u8],
        limit: Duration,
    ) -> Option<Vec<u8>> {
        self.send_udp(from, to, payload);
        self.recv_udp(from, to, limit)
    }

    /// Sends a datagram, in fragments if it is large.
    pub fn send_udp(&mut self, from: u16, to: SocketAddrV4, payload: &[u8]) {
        let datagram = self.station.datagram(from, to, payload);
        self.send_all(&self.station.fragments(*to.ip(), IpProtocol::Udp, &datagram, MTU, from));
    }

    /// The next datagram to this port from there, joined from its fragments.
    pub fn recv_udp(&mut self, port: u16, from: SocketAddrV4, limit: Duration) -> Option<Vec<u8>> {
        let mut pieces = Pieces::default();
        self.find(limit, |packet| {
            let of_fragments = packet
                .as_fragment()
                .filter(|(addresses, _)| addresses.from == *from.ip())
                .and_then(|(addresses, fragment)| pieces.join(*addresses, fragment));
            let (addresses, datagram) = of_fragments.as_ref().unwrap_or(packet).as_udp()?;
            let wanted = SocketAddrV4::new(addresses.from, datagram.from) == from && datagram.to == port;
            wanted.then(|| datagram.payload.clone())
        })
    }
}

fn arp_reply(station: &Station, packet: &Packet) -> Option<Vec<u8>> {
    let (ArpRepr::EthernetIpv4 { operation, source_hardware_addr, source_protocol_addr, target_protocol_addr, .. }, _) =
        packet.as_arp()?
    else {
        return None;
    };
    let asks = *operation == ArpOperation::Request && *target_protocol_addr == station.ip;
    asks.then(|| station.arp_reply(*source_hardware_addr, *source_protocol_addr))
}

/// Fragments of one datagram, in any order and seen any number of times.
#[derive(Debug, Default)]
struct Pieces(Vec<Fragment>);

impl Pieces {
    /// Adds one and gives the whole, once it is.
    fn join(&mut self, addresses: Addresses, fragment: &Fragment) -> Option<Packet> {
        if self.0.first().is_some_and(|first| first.id != fragment.id) {
            self.0.clear();
        }
        if !self.0.contains(fragment) {
            self.0.push(fragment.clone());
        }
        self.0.sort_by_key(|fragment| fragment.offset);
        let mut whole = Vec::new();
        for piece in &self.0 {
            if piece.offset != whole.len() {
                return None;
            }
            whole.extend_from_slice(&piece.payload);
        }
        let last = self.0.last().filter(|last| !last.more)?;
        Packet::transport(addresses, last.protocol, &whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_the_length_that_go_gives_it() {
        assert_eq!(GO_REQUEST.len(), 85);
    }

    #[test]
    fn pieces_join_in_any_order() {
        let us = Station::number(2);
        let to = SocketAddrV4::new(HOST, 9);
        let payload: Vec<u8> = (0..5000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let frames = us.fragments(HOST, IpProtocol::Udp, &us.datagram(7, to, &payload), MTU, 5);
        let mut pieces = Pieces::default();
        let mut joined = None;
        for frame in frames.iter().rev().chain(&frames[1..2]) {
            let Packet::Fragment(addresses, fragment) = Packet::parse(frame) else { panic!("not a fragment") };
            joined = pieces.join(addresses, &fragment).or(joined);
        }
        let Some(Packet::Udp(_, datagram)) = joined else { panic!("not whole: {joined:?}") };
        assert_eq!(datagram.payload, payload);
    }
}
