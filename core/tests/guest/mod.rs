//! A guest that runs smoltcp, on a link to a gateway whose world is the test.

use nitrotap_core::{
    frame::Framing,
    gateway::{Closed, Config, FlowId, FlowStatus, Gateway, Handled, Output, PortId, Target},
    time::Instant,
};
use smoltcp::{
    iface::{Interface, SocketHandle, SocketSet},
    phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::tcp,
    time::Instant as SmolInstant,
    wire::{EthernetAddress, IpCidr},
};
use std::{collections::VecDeque, net::IpAddr, time::Duration};

/// Who is where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Net {
    pub(crate) guest: IpAddr,
    pub(crate) gateway: IpAddr,
    pub(crate) world: IpAddr,
}

/// The guest's end of a link.
pub(crate) struct Cable {
    mtu: usize,
    pub(crate) to_guest: VecDeque<Vec<u8>>,
    pub(crate) to_gateway: VecDeque<Vec<u8>>,
}

pub(crate) struct Rx(Vec<u8>);
pub(crate) struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

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

pub(crate) struct World {
    net: Net,
    pub(crate) gateway: Gateway,
    pub(crate) port: PortId,
    pub(crate) cable: Cable,
    pub(crate) iface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    pub(crate) now: Instant,
    pub(crate) dials: VecDeque<(FlowId, Target)>,
    pub(crate) closed: Vec<(FlowId, Closed)>,
}

impl World {
    pub(crate) fn new(net: Net, mtu: u16) -> Self {
        Self::with(net, Config { mtu, ..Config::default() })
    }

    pub(crate) fn with(net: Net, config: Config) -> Self {
        let (mtu, subnet6) = (config.mtu, net.guest.is_ipv6().then(|| "fd00:1::/64".parse().unwrap()));
        let mut gateway = Gateway::new(Config { seed: 5, subnet6, ..config }).unwrap();
        let port = gateway.attach(1, Some(Framing::Hyperkit)).unwrap();
        let mut cable = Cable { mtu: mtu.into(), to_guest: VecDeque::new(), to_gateway: VecDeque::new() };
        let mac = EthernetAddress([0xba, 0xaa, 0xad, 0xc0, 0xff, 0xee]);
        let config = smoltcp::iface::Config::new(mac.into());
        let mut iface = Interface::new(config, &mut cable, SmolInstant::ZERO);
        let prefix = if net.guest.is_ipv6() { 64 } else { 24 };
        iface.update_ip_addrs(|addrs| addrs.push(IpCidr::new(net.guest.into(), prefix)).unwrap());
        match net.gateway {
            IpAddr::V4(gateway) => iface.routes_mut().add_default_ipv4_route(gateway).unwrap(),
            IpAddr::V6(gateway) => iface.routes_mut().add_default_ipv6_route(gateway).unwrap(),
        };
        Self {
            net,
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

    pub(crate) fn socket(&mut self, buffer: usize) -> SocketHandle {
        let mut socket =
            tcp::Socket::new(tcp::SocketBuffer::new(vec![0; buffer]), tcp::SocketBuffer::new(vec![0; buffer]));
        socket.set_nagle_enabled(false);
        self.sockets.add(socket)
    }

    /// A guest's socket that connects to an address of the world.
    pub(crate) fn connect(&mut self, port: u16, buffer: usize) -> SocketHandle {
        let handle = self.socket(buffer);
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(self.iface.context(), (self.net.world, 80), port).unwrap();
        handle
    }

    pub(crate) fn guest(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// One step of time, in which everybody gets a turn.
    pub(crate) fn step(&mut self) {
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
                    assert_eq!(guest.ip(), self.net.guest);
                    self.dials.push_back((flow, target));
                }
                Output::Closed { flow, how } => self.closed.push((flow, how)),
                Output::Flow(_) | Output::SessionClosed(_) | Output::SessionRefused(_) => {}
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

    pub(crate) fn until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        for _ in 0..40_000 {
            if condition(self) {
                return;
            }
            self.step();
        }
        panic!("never: {what}");
    }

    /// A connection that the world has accepted.
    pub(crate) fn open(&mut self, port: u16, buffer: usize) -> (SocketHandle, FlowId) {
        let handle = self.connect(port, buffer);
        self.until("a dial", |world| !world.dials.is_empty());
        let (flow, target) = self.dials.pop_front().unwrap();
        assert_eq!(target, Target::Address((self.net.world, 80).into()));
        self.gateway.handle_dialed(self.now, flow, Ok(()));
        self.until("established", |world| world.guest(handle).state() == tcp::State::Established);
        self.until("established here", |world| world.status(flow).established);
        (handle, flow)
    }

    pub(crate) fn status(&self, flow: FlowId) -> FlowStatus {
        self.gateway.status(flow).expect("the connection is there")
    }

    pub(crate) fn read(&mut self, flow: FlowId, most: usize) -> Vec<u8> {
        let mut got = Vec::new();
        self.gateway.read(flow, |bytes| {
            got.extend_from_slice(&bytes[..bytes.len().min(most)]);
            got.len()
        });
        got
    }

    pub(crate) fn write(&mut self, flow: FlowId, data: &[u8]) -> usize {
        self.gateway.write(flow, |room| {
            let n = room.len().min(data.len());
            room[..n].copy_from_slice(&data[..n]);
            n
        })
    }
}

pub(crate) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8).wrapping_add(seed)).collect()
}
