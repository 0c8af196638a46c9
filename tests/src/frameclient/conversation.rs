//! TCP by hand: one connection whose every segment the test decides on.
//!
//! It keeps the numbers, acknowledges what comes in order, and sends again what was not acknowledged; nothing else: no
//! congestion control, no timers of its own, no respect for the peer's window. So it can also misbehave.

use super::{AGAIN, Flags, FrameClient, Options, Packet, Segment};
use crate::wait;
use std::{net::SocketAddrV4, time::Duration};

/// The largest payload that we send.
const MSS: usize = 1460;

/// What a SYN led to.
#[derive(Debug)]
pub enum Answer {
    Open(Conversation),
    Refused(Segment),
    Silent,
}

impl Answer {
    pub fn expect_open(self) -> Conversation {
        match self {
            Self::Open(conversation) => conversation,
            Self::Refused(segment) => panic!("refused: {segment:?}"),
            Self::Silent => panic!("nobody answered the SYN"),
        }
    }

    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Silent)
    }
}

/// A connection that was opened.
#[derive(Debug)]
pub struct Conversation {
    pub local: u16,
    pub remote: SocketAddrV4,
    /// The peer's SYN, or SYN and ACK.
    pub opening: Segment,
    /// All that came, in order.
    pub received: Vec<u8>,
    /// The peer has ended its direction.
    pub ended: bool,
    /// The peer has reset the connection.
    pub reset: bool,
    /// The window of the next segment, as it stands in the header.
    window: u16,
    /// The first sequence number that the peer has not acknowledged, and what is sent from there on.
    acked: u32,
    pending: Vec<u8>,
    /// Our end is sent, stands behind `pending`, and is not acknowledged.
    ending: bool,
    /// The next sequence number of the peer.
    expected: u32,
}

impl FrameClient {
    /// Opens a connection as Linux would, repeating the SYN each second.
    pub fn tcp_connect(&mut self, to: SocketAddrV4, limit: Duration) -> Answer {
        self.tcp_connect_with(to, Options::LINUX, u16::MAX, limit)
    }

    /// The same with other options, and another window in all segments from the SYN on.
    pub fn tcp_connect_with(&mut self, to: SocketAddrV4, options: Options, window: u16, limit: Duration) -> Answer {
        let local = self.free_port();
        let seq = u32::from(local) << 12;
        let syn = Segment { from: local, to: to.port(), seq, flags: Flags::SYN, window, options, ..Segment::default() };
        let start = wait::now();
        while let Some(left) = limit.checked_sub(start.elapsed()) {
            self.send(&self.station().tcp(*to.ip(), &syn));
            let answer = self.find(left.min(AGAIN), |packet| segment_of(packet, local, to));
            match answer {
                Some(segment) if segment.flags.has(Flags::RST) => return Answer::Refused(segment),
                Some(segment) if segment.flags.has(Flags::SYN | Flags::ACK) => {
                    let mut conversation = Conversation::new(local, to, segment, window, seq);
                    conversation.acknowledge(self);
                    return Answer::Open(conversation);
                }
                Some(_) | None => {}
            }
        }
        Answer::Silent
    }

    /// Waits for a connection to one of our ports, and answers its SYN.
    pub fn tcp_accept(&mut self, port: u16, limit: Duration) -> Option<Conversation> {
        let (remote, opening) = self.tcp_syn(port, limit)?;
        let seq = 77 << 12;
        let syn_ack = Segment {
            from: port,
            to: remote.port(),
            seq,
            ack: opening.seq.wrapping_add(1),
            flags: Flags::SYN | Flags::ACK,
            window: u16::MAX,
            options: Options { sack_permitted: false, ..Options::LINUX },
            ..Segment::default()
        };
        self.send(&self.station().tcp(*remote.ip(), &syn_ack));
        Some(Conversation::new(port, remote, opening, u16::MAX, seq))
    }

    /// Waits for a SYN to one of our ports, and leaves it without an answer.
    pub fn tcp_syn(&mut self, port: u16, limit: Duration) -> Option<(SocketAddrV4, Segment)> {
        self.find(limit, |packet| {
            let (addresses, segment) = packet.as_tcp()?;
            let opens = segment.to == port && segment.flags.has(Flags::SYN) && !segment.flags.has(Flags::ACK);
            opens.then(|| (SocketAddrV4::new(addresses.from, segment.from), segment.clone()))
        })
    }
}

/// The segment in a packet, if it belongs to this connection.
fn segment_of(packet: &Packet, local: u16, remote: SocketAddrV4) -> Option<Segment> {
    let (addresses, segment) = packet.as_tcp()?;
    let ours = SocketAddrV4::new(addresses.from, segment.from) == remote && segment.to == local;
    ours.then(|| segment.clone())
}

impl Conversation {
    fn new(local: u16, remote: SocketAddrV4, opening: Segment, window: u16, seq: u32) -> Self {
        Self {
            local,
            remote,
            received: Vec::new(),
            ended: false,
            reset: false,
            window,
            acked: seq.wrapping_add(1),
            pending: Vec::new(),
            ending: false,
            expected: opening.seq.wrapping_add(1),
            opening,
        }
    }

    /// A segment of this connection, with the numbers that are due.
    pub fn segment(&self, flags: Flags) -> Segment {
        Segment {
            from: self.local,
            to: self.remote.port(),
            seq: self.next(),
            ack: self.expected,
            flags,
            window: self.window,
            ..Segment::default()
        }
    }

    /// Sends any segment.
    pub fn send_segment(&self, client: &mut FrameClient, segment: &Segment) {
        client.send(&client.station().tcp(*self.remote.ip(), segment));
    }

    /// Sends data, without waiting for room in the peer's window.
    pub fn send(&mut self, client: &mut FrameClient, data: &[u8]) {
        let seq = self.next();
        self.pending.extend_from_slice(data);
        self.transmit(client, seq, data);
    }

    /// Ends our direction.
    pub fn close(&mut self, client: &mut FrameClient) {
        let fin = self.segment(Flags::FIN | Flags::ACK);
        self.ending = true;
        self.send_segment(client, &fin);
    }

    /// Resets the connection.
    pub fn abort(&mut self, client: &mut FrameClient) {
        let rst = self.segment(Flags::RST | Flags::ACK);
        self.send_segment(client, &rst);
    }

    /// Offers another window, and says so.
    pub fn set_window(&mut self, client: &mut FrameClient, window: u16) {
        self.window = window;
        self.acknowledge(client);
    }

    /// Says how far we have received.
    pub fn acknowledge(&mut self, client: &mut FrameClient) {
        let ack = self.segment(Flags::ACK);
        self.send_segment(client, &ack);
    }

    /// Whether all that we sent, our end included, is acknowledged.
    pub fn is_acknowledged(&self) -> bool {
        self.pending.is_empty() && !self.ending
    }

    /// Takes segments until `done` or until `limit` has passed; gives whether it is done. What the peer does not acknowledge
    /// for a while is sent again.
    pub fn run(&mut self, client: &mut FrameClient, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let start = wait::now();
        while !done(self) {
            let Some(left) = limit.checked_sub(start.elapsed()).filter(|_| !client.is_closed()) else { return false };
            let (local, remote) = (self.local, self.remote);
            match client.find(left.min(AGAIN), |packet| segment_of(packet, local, remote)) {
                Some(segment) => self.take(client, &segment),
                None if !self.is_acknowledged() && !self.reset => self.repeat(client),
                None => {}
            }
        }
        true
    }

    /// Takes segments until the peer has ended its direction or reset the connection.
    pub fn run_to_end(&mut self, client: &mut FrameClient, limit: Duration) -> bool {
        self.run(client, limit, |conversation| conversation.ended || conversation.reset)
    }

    /// The sequence number of what we send next.
    fn next(&self) -> u32 {
        let pending = u32::try_from(self.pending.len()).expect("tests send megabytes at most");
        self.acked.wrapping_add(pending).wrapping_add(u32::from(self.ending))
    }

    fn transmit(&self, client: &mut FrameClient, seq: u32, data: &[u8]) {
        let mut seq = seq;
        for piece in data.chunks(MSS) {
            let segment = Segment { seq, payload: piece.to_vec(), ..self.segment(Flags::ACK | Flags::PSH) };
            seq = seq.wrapping_add(segment.sequence_length());
            client.queue(&client.station().tcp(*self.remote.ip(), &segment));
        }
        client.flush();
    }

    fn repeat(&self, client: &mut FrameClient) {
        self.transmit(client, self.acked, &self.pending);
        if self.ending {
            let fin = Segment { seq: self.next().wrapping_sub(1), ..self.segment(Flags::FIN | Flags::ACK) };
            self.send_segment(client, &fin);
        }
    }

    fn take(&mut self, client: &mut FrameClient, segment: &Segment) {
        if segment.flags.has(Flags::RST) {
            self.reset = true;
            return;
        }
        if segment.flags.has(Flags::ACK) {
            self.take_acknowledgement(segment.ack);
        }
        // Data may begin with what we have already.
        let known = self.expected.wrapping_sub(segment.seq) as usize;
        if let Some(new) = segment.payload.get(known..) {
            self.received.extend_from_slice(new);
            self.expected = self.expected.wrapping_add(u32::try_from(new.len()).expect("within one frame"));
            let fin = segment.flags.has(Flags::FIN) && !self.ended;
            self.ended |= fin;
            self.expected = self.expected.wrapping_add(fin.into());
        }
        if segment.sequence_length() > 0 {
            self.acknowledge(client);
        }
    }

    fn take_acknowledgement(&mut self, ack: u32) {
        let newly = ack.wrapping_sub(self.acked) as usize;
        let outstanding = self.next().wrapping_sub(self.acked) as usize;
        if newly > outstanding {
            return;
        }
        self.ending &= newly == 0 || newly < outstanding;
        self.pending.drain(..newly.min(self.pending.len()));
        self.acked = ack;
    }
}
