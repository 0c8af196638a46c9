//! A guest that runs smoltcp, and the loop on the other end of its link.

use super::world::Fake;
use crate::{
    drive::{
        block,
        host::{Attach, Config, Host, LinkKind, Ready, Request},
    },
    frame::Framing,
    gateway::{self, Gateway},
    time::Instant,
};
use core::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};
use smoltcp::{
    iface::{Interface, SocketHandle, SocketSet},
    phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::tcp,
    time::Instant as SmolInstant,
    wire::{
        EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpCidr, IpProtocol, Ipv4Packet, Ipv4Repr,
        UdpPacket, UdpRepr,
    },
};
use std::{cell::RefCell, collections::VecDeque, rc::Rc};

pub(super) const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);
const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const MAC: [u8; 6] = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee];
const MTU: usize = 9000;
pub(super) const TENANT: u32 = 16;

struct Cable {
    to_guest: VecDeque<Vec<u8>>,
    to_gateway: VecDeque<Vec<u8>>,
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Cable {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Rx, Tx<'_>)> {
        Some((Rx(self.to_guest.pop_front()?), Tx(&mut self.to_gateway)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.to_gateway))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU + 14;
        capabilities
    }
}

/// A guest, its link and the loop.
pub(super) struct Lab {
    pub(super) host: Host<Fake>,
    pub(super) link: usize,
    pub(super) ended: Rc<RefCell<Option<()>>>,
    news: Vec<Ready>,
    cable: Cable,
    iface: Interface,
    sockets: SocketSet<'static>,
    next_port: u16,
}

impl Lab {
    pub(super) fn new() -> Self {
        Self::with(Config { flow_rate: None, max_forwards: 4 })
    }

    pub(super) fn with(config: Config) -> Self {
        let gateway = Gateway::new(gateway::Config { mtu: MTU as u16, seed: 5, ..gateway::Config::default() }).unwrap();
        let mut world = Fake { now: Instant::from_millis(1000), ..Fake::default() };
        let (link, ended) = (world.stream(), Rc::default());
        world.requests.push_back(attach(link, Vec::new(), Rc::clone(&ended)));
        let mut cable = Cable { to_guest: VecDeque::new(), to_gateway: VecDeque::new() };
        let config_of_guest = smoltcp::iface::Config::new(EthernetAddress(MAC).into());
        let mut iface = Interface::new(config_of_guest, &mut cable, SmolInstant::ZERO);
        iface.update_ip_addrs(|addrs| addrs.push(IpCidr::new(GUEST.into(), 24)).unwrap());
        iface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        let mut lab = Self {
            host: Host::new(world, gateway, config),
            link,
            ended,
            news: Vec::new(),
            cable,
            iface,
            sockets: SocketSet::new(Vec::new()),
            next_port: 40_000,
        };
        lab.turn();
        lab
    }

    pub(super) fn world(&mut self) -> &mut Fake {
        &mut self.host.world
    }

    /// One turn of the loop, and nothing else.
    pub(super) fn turn(&mut self) {
        block(self.host.turn(&mut self.news)).unwrap();
    }

    /// Turns until the loop would sleep.
    pub(super) fn rest(&mut self) {
        for _ in 0..1000 {
            self.turn();
            let busy = !self.host.turns.is_idle() || self.host.left_over || !self.host.world.news.is_empty();
            if !busy {
                return;
            }
        }
        panic!("the loop never rests");
    }

    /// Time passes.
    pub(super) fn pass(&mut self, time: Duration) {
        let world = self.world();
        world.now = world.now + time;
    }

    /// What the guest has to say reaches its link.
    pub(super) fn speak(&mut self) {
        let now = SmolInstant::from_micros((self.host.world.now.as_nanos() / 1000) as i64);
        self.iface.poll(now, &mut self.cable, &mut self.sockets);
        while let Some(frame) = self.cable.to_gateway.pop_front() {
            let bytes = framed(&frame);
            let link = self.link;
            self.world().arrive(link, &bytes);
        }
    }

    /// What waits on its link reaches the guest.
    pub(super) fn hear(&mut self) {
        let link = self.link;
        let output = std::mem::take(&mut self.world().ends[link].output);
        let mut rest = &output[..];
        while let Some((frame, len)) = Framing::Hyperkit.split(rest) {
            self.cable.to_guest.push_back(frame.to_vec());
            rest = &rest[len..];
        }
        assert!(rest.is_empty(), "half a frame was written");
    }

    /// A millisecond in which everybody gets a turn.
    pub(super) fn step(&mut self) {
        self.pass(Duration::from_millis(1));
        self.speak();
        self.turn();
        self.hear();
    }

    pub(super) fn until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        for _ in 0..20_000 {
            if condition(self) {
                return;
            }
            self.step();
        }
        panic!("never: {what}");
    }

    pub(super) fn socket(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 512 << 10]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        self.sockets.add(socket)
    }

    pub(super) fn guest(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// The guest begins a connection to the world.
    pub(super) fn connect(&mut self) -> SocketHandle {
        let handle = self.socket();
        self.next_port += 1;
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(self.iface.context(), (IpAddr::V4(WORLD), 80), self.next_port).unwrap();
        handle
    }

    /// A connection that stands, and the world's stream of it.
    pub(super) fn open(&mut self) -> (SocketHandle, usize) {
        let handle = self.connect();
        self.until("a connection", |lab| lab.guest(handle).state() == tcp::State::Established);
        // Its last acknowledgement reaches the loop.
        self.step();
        (handle, *self.world().dialed.last().unwrap())
    }

    /// Everything that the guest has got of a connection.
    pub(super) fn got(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut got = Vec::new();
        let socket = self.guest(handle);
        while socket.can_recv() {
            socket
                .recv(|bytes| {
                    got.extend_from_slice(bytes);
                    (bytes.len(), ())
                })
                .unwrap();
        }
        got
    }
}

pub(super) fn attach(stream: usize, received: Vec<u8>, ended: Rc<RefCell<Option<()>>>) -> Request<Fake> {
    attach_as(LinkKind::Stream(Framing::Hyperkit), stream, received, ended)
}

pub(super) fn attach_as(
    kind: LinkKind,
    stream: usize,
    received: Vec<u8>,
    ended: Rc<RefCell<Option<()>>>,
) -> Request<Fake> {
    let peer = "vsock://16:1".to_owned();
    Request::Attach(Box::new(Attach { stream, kind, tenant: TENANT, peer, received, ended: Some(ended) }))
}

/// A frame as it lies on the link.
pub(super) fn framed(frame: &[u8]) -> Vec<u8> {
    let (prefix, len) = Framing::Hyperkit.prefix(frame.len()).unwrap();
    [&prefix[..len], frame].concat()
}

/// A datagram of the guest for the world.
pub(super) fn datagram(payload: &[u8]) -> Vec<u8> {
    datagram_to(gateway::Config::default().gateway_mac, WORLD, payload)
}

/// A datagram of the guest for all enclaves.
pub(super) fn broadcast(payload: &[u8]) -> Vec<u8> {
    datagram_to([0xff; 6], Ipv4Addr::new(192, 168, 127, 255), payload)
}

fn datagram_to(mac: [u8; 6], to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let checksums = ChecksumCapabilities::default();
    let udp = UdpRepr { src_port: 4000, dst_port: 4000 };
    let len = udp.header_len() + payload.len();
    let ip = Ipv4Repr { src_addr: GUEST, dst_addr: to, next_header: IpProtocol::Udp, payload_len: len, hop_limit: 64 };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(MAC),
        dst_addr: EthernetAddress(mac),
        ethertype: EthernetProtocol::Ipv4,
    };
    let mut frame = vec![0; 14 + 20 + len];
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame));
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &checksums);
    let fill = |space: &mut [u8]| space.copy_from_slice(payload);
    let (from, to) = (IpAddr::V4(GUEST).into(), IpAddr::V4(to).into());
    udp.emit(&mut UdpPacket::new_unchecked(&mut frame[34..]), &from, &to, payload.len(), fill, &checksums);
    frame
}

pub(super) fn port_of_guest() -> SocketAddr {
    (GUEST, 8080).into()
}

/// Bytes that tell where they belong.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8)).collect()
}
