//! The gateway against a guest that runs smoltcp over IPv6.

#![expect(clippy::unwrap_used, reason = "helpers of tests may")]

use nitrotap_core::{
    frame::Framing,
    gateway::{Closed, Config, DialError, FlowId, FlowStatus, Gateway, Handled, Output, PortId, Target},
    time::Instant,
};
use smoltcp::{
    iface::{Interface, SocketHandle, SocketSet},
    phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::tcp,
    time::Instant as SmolInstant,
    wire::{EthernetAddress, IpCidr},
};
use std::{
    collections::VecDeque,
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

const GUEST: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2);
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1);
const WORLD: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);

/// The guest's end of a link.
struct Cable {
    mtu: usize,
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
        let frame = self.to_guest.pop_front()?;
        Some((Rx(frame), Tx(&mut self.to_gateway)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.to_gateway))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        // All checksums are verified: the gateway must not send a wrong one.
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities
    }
}

struct World {
    gateway: Gateway,
    port: PortId,
    cable: Cable,
    iface: Interface,
    sockets: SocketSet<'static>,
    now: Instant,
    dials: VecDeque<(FlowId, Target)>,
    closed: Vec<(FlowId, Closed)>,
}

impl World {
    fn new(mtu: u16) -> Self {
        let mut gateway =
            Gateway::new(Config { mtu, seed: 5, subnet6: Some("fd00:1::/64".parse().unwrap()), ..Config::default() })
                .unwrap();
        let port = gateway.attach(1, Some(Framing::Hyperkit)).unwrap();
        let mut cable = Cable { mtu: mtu.into(), to_guest: VecDeque::new(), to_gateway: VecDeque::new() };
        let mac = EthernetAddress([0xba, 0xaa, 0xad, 0xc0, 0xff, 0xee]);
        let config = smoltcp::iface::Config::new(mac.into());
        let mut iface = Interface::new(config, &mut cable, SmolInstant::ZERO);
        iface.update_ip_addrs(|addrs| addrs.push(IpCidr::new(GUEST.into(), 64)).unwrap());
        iface.routes_mut().add_default_ipv6_route(GATEWAY).unwrap();
        Self {
            gateway,
            port,
            cable,
            iface,
            sockets: SocketSet::new(Vec::new()),
            now: Instant::from_millis(1000),
            dials: VecDeque::new(),
            closed: Vec::new(),
        }
    }

    fn socket(&mut self, buffer: usize) -> SocketHandle {
        let mut socket =
            tcp::Socket::new(tcp::SocketBuffer::new(vec![0; buffer]), tcp::SocketBuffer::new(vec![0; buffer]));
        socket.set_nagle_enabled(false);
        self.sockets.add(socket)
    }

    /// A guest's socket that connects to an address of the world.
    fn connect(&mut self, port: u16, buffer: usize) -> SocketHandle {
        let handle = self.socket(buffer);
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(self.iface.context(), (WORLD, 80), port).unwrap();
        handle
    }

    fn guest(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// One step of time, in which everybody gets a turn.
    fn step(&mut self) {
        self.now = self.now + Duration::from_millis(1);
        let now = SmolInstant::from_micros((self.now.as_nanos() / 1000) as i64);
        self.iface.poll(now, &mut self.cable, &mut self.sockets);
        while let Some(frame) = self.cable.to_gateway.pop_front() {
            assert_eq!(self.gateway.handle_frame(self.now, self.port, &frame), Handled::Done);
        }
        if self.gateway.poll_timeout().is_some_and(|at| at <= self.now) {
            self.gateway.handle_timeout(self.now);
        }
        self.gateway.flush(self.now);
        while let Some(output) = self.gateway.poll_output() {
            match output {
                Output::Dial { flow, target, guest } => {
                    assert_eq!(guest.ip(), GUEST);
                    self.dials.push_back((flow, target));
                }
                Output::Closed { flow, how } => self.closed.push((flow, how)),
                Output::Flow(_) | Output::SessionClosed(_) => {}
                Output::Frames(port) => {
                    let mut bytes = self.gateway.pending(port).to_vec();
                    self.gateway.consume(port, bytes.len());
                    while !bytes.is_empty() {
                        let len = usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
                        assert!(len <= self.cable.mtu + 14, "a frame of {len} bytes");
                        self.cable.to_guest.push_back(bytes[2..2 + len].to_vec());
                        bytes.drain(..2 + len);
                    }
                    self.gateway.flush(self.now);
                }
            }
        }
    }

    fn until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        for _ in 0..40_000 {
            if condition(self) {
                return;
            }
            self.step();
        }
        panic!("never: {what}");
    }

    /// A connection that the world has accepted.
    fn open(&mut self, port: u16, buffer: usize) -> (SocketHandle, FlowId) {
        let handle = self.connect(port, buffer);
        self.until("a dial", |world| !world.dials.is_empty());
        let (flow, target) = self.dials.pop_front().unwrap();
        assert_eq!(target, Target::Address(SocketAddr::from((WORLD, 80))));
        self.gateway.dialed(self.now, flow, Ok(()));
        self.until("established", |world| world.guest(handle).state() == tcp::State::Established);
        self.until("established here", |world| world.status(flow).established);
        (handle, flow)
    }

    fn status(&self, flow: FlowId) -> FlowStatus {
        self.gateway.status(flow).expect("the connection is there")
    }

    fn read(&mut self, flow: FlowId, most: usize) -> Vec<u8> {
        let mut got = Vec::new();
        self.gateway.read(flow, |bytes| {
            got.extend_from_slice(&bytes[..bytes.len().min(most)]);
            got.len()
        });
        got
    }

    fn write(&mut self, flow: FlowId, data: &[u8]) -> usize {
        self.gateway.write(flow, |room| {
            let n = room.len().min(data.len());
            room[..n].copy_from_slice(&data[..n]);
            n
        })
    }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8).wrapping_add(seed)).collect()
}

#[test]
fn a_refused_connection_is_reset() {
    let mut world = World::new(1500);
    let handle = world.connect(40_000, 4096);
    world.until("a dial", |world| !world.dials.is_empty());
    let (flow, _) = world.dials.pop_front().unwrap();
    world.gateway.dialed(world.now, flow, Err(DialError::Refused));
    world.until("a reset", |world| world.guest(handle).state() == tcp::State::Closed);
    assert_eq!(world.closed, [(flow, Closed::Reset)]);
    assert_eq!(world.gateway.counters().tcp_flows, 0);
}

/// What the guest has and the world has are passed at the same time.
fn exchange(world: &mut World, handle: SocketHandle, flow: FlowId, len: usize) {
    let (up, down) = (pattern(len, 1), pattern(len, 2));
    let (mut sent, mut written) = (0, 0);
    let (mut at_world, mut at_guest) = (Vec::new(), Vec::new());
    world.until("both ways done", |world| {
        let guest = world.guest(handle);
        if guest.can_send() && sent < len {
            sent += guest.send_slice(&up[sent..]).unwrap();
        }
        if guest.can_recv() {
            guest.recv(|bytes| (bytes.len(), at_guest.extend_from_slice(bytes))).unwrap();
        }
        written += world.write(flow, &down[written..]);
        at_world.extend(world.read(flow, usize::MAX));
        at_world.len() == len && at_guest.len() == len
    });
    assert!(at_world == up && at_guest == down, "every byte in its place");
}

#[test]
fn bytes_pass_both_ways_at_every_mtu_and_either_side_may_close_first() {
    for (mtu, guest_first) in [(1280, true), (1500, false), (9000, true), (65_520, false)] {
        let mut world = World::new(mtu);
        let (handle, flow) = world.open(40_000, 32 << 10);
        exchange(&mut world, handle, flow, 300_000);
        if guest_first {
            world.guest(handle).close();
            world.until("the guest's end", |world| world.status(flow).received_all);
            world.gateway.finish(world.now, flow);
        } else {
            world.gateway.finish(world.now, flow);
            world.until("the world's end", |world| world.guest(handle).state() == tcp::State::CloseWait);
            world.guest(handle).close();
        }
        world.until("it is over", |world| !world.closed.is_empty());
        assert_eq!(world.closed, [(flow, Closed::Finished)]);
        assert_eq!((world.gateway.counters().tcp_flows, world.gateway.counters().tcp_buffer_bytes), (0, 0));
    }
}

#[test]
fn the_world_reaches_a_guest_and_is_told_where_nobody_listens_or_is() {
    let mut world = World::new(1500);
    let handle = world.socket(32 << 10);
    world.guest(handle).listen(443).unwrap();
    let flow = world.gateway.connect(world.now, SocketAddr::from((GUEST, 443))).unwrap();
    world.until("established", |world| world.status(flow).established);
    // A guest is sent one whole segment before it is known to have the connection, and no more.
    let most = 1500 - 40 - 20;
    assert_eq!(world.status(flow).room, most);
    exchange(&mut world, handle, flow, 100_000);
    let refused = world.gateway.connect(world.now, SocketAddr::from((GUEST, 444))).unwrap();
    world.until("a refusal", |world| world.closed.contains(&(refused, Closed::Reset)));
    let nobody = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x77);
    let nobody = world.gateway.connect(world.now, SocketAddr::from((nobody, 1))).unwrap();
    world.until("nobody there", |world| world.closed.contains(&(nobody, Closed::Unreachable)));
}

#[test]
fn a_connection_outlives_its_link() {
    let mut world = World::new(1500);
    let (handle, flow) = world.open(40_000, 32 << 10);
    exchange(&mut world, handle, flow, 10_000);
    world.gateway.detach(world.port);
    world.port = world.gateway.attach(1, Some(Framing::Hyperkit)).unwrap();
    exchange(&mut world, handle, flow, 10_000);
}
