//! The floods, one by one.

use crate::{
    frameclient::{Conversation, Flags, FrameClient, GATEWAY, HOST, Options, Segment, Station},
    world::SILENT,
};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use smoltcp::wire::{EthernetAddress, IpProtocol};
use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

/// What an enclave, or a stranger, does without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// SYNs to hosts that never answer.
    SynSilent,
    /// SYNs to a server, of connections that are never completed.
    SynOpen,
    /// SYNs with 64 KiB of payload, to hosts that never answer.
    SynPayload,
    /// SYNs that are answered with a reset.
    SynRefused,
    /// Datagrams from ever new ports.
    UdpPorts,
    /// Echo requests with ever new identifiers.
    Pings,
    /// Segments of connections that are not there.
    Strays,
    /// Datagrams of strangers to a published port.
    UdpStrangers,
    /// Connections of strangers to a published port.
    TcpStrangers,
    /// Frames to all enclaves.
    Broadcast,
    /// Frames to the neighbour.
    Unicast,
    /// Questions that no name server answers.
    DnsSlow,
    /// Questions whose answers have 64 KiB.
    DnsLarge,
    /// Streams to the name server, as many as it takes, and questions on them.
    DnsTcp,
    /// Connections to one destination that the guest closes first.
    TimeWait,
    /// Links that come and go, with requests that make no sense.
    Links,
}

impl Flood {
    pub const ALL: [Self; 16] = [
        Self::SynSilent,
        Self::SynOpen,
        Self::SynPayload,
        Self::SynRefused,
        Self::UdpPorts,
        Self::Pings,
        Self::Strays,
        Self::UdpStrangers,
        Self::TcpStrangers,
        Self::Broadcast,
        Self::Unicast,
        Self::DnsSlow,
        Self::DnsLarge,
        Self::DnsTcp,
        Self::TimeWait,
        Self::Links,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSilent => "syn-silent",
            Self::SynOpen => "syn-open",
            Self::SynPayload => "syn-payload",
            Self::SynRefused => "syn-refused",
            Self::UdpPorts => "udp-ports",
            Self::Pings => "pings",
            Self::Strays => "strays",
            Self::UdpStrangers => "udp-strangers",
            Self::TcpStrangers => "tcp-strangers",
            Self::Broadcast => "broadcast",
            Self::Unicast => "unicast",
            Self::DnsSlow => "dns-slow",
            Self::DnsLarge => "dns-large",
            Self::DnsTcp => "dns-tcp",
            Self::TimeWait => "time-wait",
            Self::Links => "links",
        }
    }

    pub(super) const fn mtu(self) -> Option<u16> {
        if matches!(self, Self::SynPayload) { Some(65_520) } else { None }
    }

    /// The guest program's command that makes strangers.
    pub(super) const fn strangers(self) -> Option<&'static str> {
        if matches!(self, Self::UdpStrangers | Self::TcpStrangers) { Some(self.name()) } else { None }
    }

    pub(super) const fn needs_strangers(self) -> bool {
        self.strangers().is_some()
    }
}

/// What there is to attack.
pub(super) struct Targets {
    pub(super) socket: PathBuf,
    pub(super) echo: SocketAddrV4,
    pub(super) victim: Station,
}

/// One attacker.
pub(super) struct Attack<'t> {
    flood: Flood,
    targets: &'t Targets,
    client: FrameClient,
    count: u32,
    streams: Vec<Conversation>,
}

/// Where datagrams of floods between enclaves go (RFC 863).
pub(super) const DISCARD: u16 = 9;

/// Frames sent in one go.
const BATCH: u32 = 256;

impl<'t> Attack<'t> {
    pub(super) fn new(flood: Flood, n: u8, targets: &'t Targets) -> Self {
        let client = FrameClient::connect_to(&targets.socket, Station::number(20 + n));
        Self { flood, targets, client, count: 0, streams: Vec::new() }
    }

    /// Goes on for a moment; gives how many frames were sent.
    pub(super) fn step(&mut self) -> u64 {
        match self.flood {
            Flood::UdpStrangers | Flood::TcpStrangers => {
                self.client.run(Duration::from_millis(10));
                self.client.clear_inbox();
                0
            }
            Flood::DnsTcp => self.dns_streams(),
            Flood::TimeWait => self.open_and_close(),
            Flood::Links => self.links(),
            Flood::SynSilent
            | Flood::SynOpen
            | Flood::SynPayload
            | Flood::SynRefused
            | Flood::UdpPorts
            | Flood::Pings
            | Flood::Strays
            | Flood::Broadcast
            | Flood::Unicast
            | Flood::DnsSlow
            | Flood::DnsLarge => {
                for _ in 0..BATCH {
                    let frame = self.frame();
                    self.client.queue(&frame);
                    self.count = self.count.wrapping_add(1);
                }
                self.client.flush();
                self.client.clear_inbox();
                u64::from(BATCH)
            }
        }
    }

    /// The next frame of a flood that is made of frames alone.
    fn frame(&self) -> Vec<u8> {
        let (us, n) = (self.client.station(), self.count);
        let port = u16::try_from(1024 + n % 60_000).unwrap_or(1024);
        let silent = SocketAddrV4::new(Ipv4Addr::from_bits(SILENT.to_bits() + n / 60_000 % 100), 80);
        match self.flood {
            Flood::SynSilent => us.tcp(*silent.ip(), &syn(port, silent, n, Vec::new())),
            Flood::SynPayload => us.tcp(*silent.ip(), &syn(port, silent, n, vec![7; 65_000])),
            Flood::SynOpen => us.tcp(HOST, &syn(port, self.targets.echo, n, Vec::new())),
            Flood::SynRefused => us.tcp(HOST, &syn(port, SocketAddrV4::new(HOST, 1), n, Vec::new())),
            Flood::UdpPorts => us.udp(port, silent, b"abc"),
            Flood::Pings => us.echo_request(*silent.ip(), port, 1, &[0; 32]),
            Flood::Strays => us.tcp(
                HOST,
                &Segment { from: port, to: 80, seq: n, ack: n, flags: Flags::ACK, window: 1000, ..Segment::default() },
            ),
            Flood::Broadcast => self.datagram_to(EthernetAddress::BROADCAST, Ipv4Addr::new(192, 168, 127, 255)),
            Flood::Unicast => self.datagram_to(self.targets.victim.mac, self.targets.victim.ip),
            Flood::DnsSlow => us.udp(port, SocketAddrV4::new(GATEWAY, 53), &question(&format!("silent.{n}.test."))),
            Flood::DnsLarge => us.udp(port, SocketAddrV4::new(GATEWAY, 53), &question(&format!("huge.{n}.test."))),
            Flood::UdpStrangers | Flood::TcpStrangers | Flood::DnsTcp | Flood::TimeWait | Flood::Links => {
                unreachable!("not made of frames alone")
            }
        }
    }

    fn datagram_to(&self, mac: EthernetAddress, ip: Ipv4Addr) -> Vec<u8> {
        let us = self.client.station();
        us.ipv4_to(mac, ip, IpProtocol::Udp, &us.datagram(DISCARD, SocketAddrV4::new(ip, DISCARD), &[7; 1400]))
    }

    fn dns_streams(&mut self) -> u64 {
        let server = SocketAddrV4::new(GATEWAY, 53);
        if self.streams.len() < 300 {
            if let crate::frameclient::Answer::Open(stream) = self.client.tcp_connect(server, Duration::from_millis(50))
            {
                self.streams.push(stream);
            }
        } else {
            self.streams.remove(0).abort(&mut self.client);
        }
        self.count = self.count.wrapping_add(1);
        let text = question(&format!("silent.{}.test.", self.count));
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        if let Some(stream) = self.streams.last_mut() {
            stream.send(&mut self.client, &[&length.to_be_bytes()[..], &text].concat());
        }
        self.client.clear_inbox();
        2
    }

    fn open_and_close(&mut self) -> u64 {
        let opened = self.client.tcp_connect(self.targets.echo, Duration::from_millis(50));
        if let crate::frameclient::Answer::Open(mut stream) = opened {
            stream.close(&mut self.client);
            stream.run_to_end(&mut self.client, Duration::from_millis(50));
        }
        self.client.clear_inbox();
        1
    }

    fn links(&mut self) -> u64 {
        for request in
            ["GET /services/forwarder/all HTTP/1.1\r\nHost: x\r\n\r\n", "POST /connect HTTP/1.1\r\nHost: x\r\n\r\n"]
        {
            for _ in 0..8 {
                if let Ok(mut stream) = UnixStream::connect(&self.targets.socket) {
                    // It may be closed already, which is an answer too.
                    let _ = stream.write_all(request.as_bytes());
                }
            }
        }
        self.client.turn(Duration::ZERO);
        self.client.clear_inbox();
        16
    }
}

fn syn(from: u16, to: SocketAddrV4, seq: u32, payload: Vec<u8>) -> Segment {
    let (flags, options) = (Flags::SYN, Options::LINUX);
    Segment { from, to: to.port(), seq, flags, window: u16::MAX, options, payload, ..Segment::default() }
}

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name of our own"), RecordType::TXT));
    message.to_vec().expect("a question fits")
}
