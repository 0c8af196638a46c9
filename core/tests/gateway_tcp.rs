//! The gateway against a guest that runs smoltcp, over links that deliver at random, break and are replaced.

#![expect(clippy::unwrap_used, reason = "helpers of tests may")]

use nitrotap_core::{
    frame::Framing,
    gateway::{Closed, Config, DialError, FlowId, FlowStatus, Gateway, Handled, Output, PortId, QUEUE_LIMIT, Target},
    time::Instant,
};
use quickcheck::quickcheck;
use smoltcp::{
    iface::{Interface, SocketHandle, SocketSet},
    phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::tcp,
    time::Instant as SmolInstant,
    wire::{EthernetAddress, IpCidr, Ipv4Address},
};
use std::{collections::VecDeque, net::SocketAddr, time::Duration};

const GUEST: [u8; 4] = [192, 168, 127, 2];
const GATEWAY: [u8; 4] = [192, 168, 127, 1];

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
        let mut gateway = Gateway::new(Config { mtu, seed: 5, ..Config::default() }).unwrap();
        let port = gateway.attach(1, Some(Framing::Hyperkit)).unwrap();
        let mut cable = Cable { mtu: mtu.into(), to_guest: VecDeque::new(), to_gateway: VecDeque::new() };
        let mac = EthernetAddress([0xba, 0xaa, 0xad, 0xc0, 0xff, 0xee]);
        let config = smoltcp::iface::Config::new(mac.into());
        let mut iface = Interface::new(config, &mut cable, SmolInstant::ZERO);
        iface.update_ip_addrs(|addrs| addrs.push(IpCidr::new(Ipv4Address::from(GUEST).into(), 24)).unwrap());
        iface.routes_mut().add_default_ipv4_route(GATEWAY.into()).unwrap();
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
        socket.connect(self.iface.context(), (Ipv4Address::new(203, 0, 113, 9), 80), port).unwrap();
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
                    assert_eq!(guest.ip(), std::net::IpAddr::from(GUEST));
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
        assert_eq!(target, Target::Address(([203, 0, 113, 9], 80).into()));
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
fn nothing_is_answered_before_the_world_has() {
    let mut world = World::new(1500);
    let handle = world.connect(40_000, 4096);
    world.until("a dial", |world| !world.dials.is_empty());
    for _ in 0..500 {
        world.step();
    }
    assert_eq!(world.guest(handle).state(), tcp::State::SynSent);
    assert_eq!(world.dials.len(), 1, "a repeated SYN is no second dial");
    let (flow, _) = world.dials.pop_front().unwrap();
    world.gateway.dialed(world.now, flow, Ok(()));
    world.until("established", |world| world.guest(handle).state() == tcp::State::Established);
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

#[test]
fn a_world_that_does_not_answer_is_unreachable_after_a_while_and_does_not_stop_others() {
    let mut world = World::new(1500);
    for n in 0..20 {
        world.connect(40_000 + n, 4096);
    }
    world.until("all dials", |world| world.dials.len() == 20);
    world.dials.clear();
    world.open(50_000, 4096);
    world.until("errors", |world| world.gateway.counters().icmp_errors_out == 20);
    assert_eq!(world.gateway.counters().tcp_flows, 1);
}

#[test]
fn either_side_may_close_first_and_the_other_goes_on() {
    let mut world = World::new(1500);
    let data = pattern(300_000, 1);
    for guest_first in [true, false] {
        let (handle, flow) = world.open(40_000 + u16::from(guest_first), 8192);
        let mut got: Vec<u8> = Vec::new();
        if guest_first {
            world.guest(handle).close();
            world.until("the end", |world| world.status(flow).received_all);
            let mut sent = 0;
            world.until("the rest", |world| {
                sent += world.write(flow, &data[sent..]);
                let _ = world.guest(handle).recv(|bytes| {
                    got.extend_from_slice(bytes);
                    (bytes.len(), ())
                });
                got.len() == data.len()
            });
            world.gateway.finish(world.now, flow);
        } else {
            world.gateway.finish(world.now, flow);
            world.until("the end", |world| !world.guest(handle).may_recv());
            let mut sent = 0;
            world.until("the rest", |world| {
                let _ = world.guest(handle).send_slice(&data[sent..]).map(|n| sent += n);
                got.extend(world.read(flow, 10_000));
                got.len() == data.len()
            });
            world.guest(handle).close();
        }
        assert_eq!(got, data);
        world.until("both to be over", |world| world.closed.contains(&(flow, Closed::Finished)));
        assert!(world.gateway.status(flow).is_none());
    }
    // Who closes first remembers the connection: the guest the first, we the second.
    assert_eq!(world.gateway.counters().tcp_time_wait, 1);
    assert_eq!(world.gateway.counters().tcp_buffer_bytes, 0);
}

#[test]
fn resets_pass_both_ways() {
    let mut world = World::new(1500);
    let (handle, flow) = world.open(40_000, 4096);
    world.gateway.abort(world.now, flow);
    world.until("a reset", |world| world.guest(handle).state() == tcp::State::Closed);
    let (handle, flow) = world.open(40_001, 4096);
    world.guest(handle).abort();
    world.until("a reset", |world| world.closed.contains(&(flow, Closed::Reset)));
}

#[test]
fn a_world_that_takes_nothing_closes_the_window_and_a_guest_that_reads_nothing_stops_the_world() {
    let mut world = World::new(1500);
    let (handle, flow) = world.open(40_000, 1 << 20);
    let data = pattern(1 << 20, 3);
    let mut sent = 0;
    for _ in 0..2000 {
        let _ = world.guest(handle).send_slice(&data[sent..]).map(|n| sent += n);
        world.step();
    }
    let held = world.status(flow).received;
    assert!((1..=512 << 10).contains(&held), "{held} bytes held");
    let mut got: Vec<u8> = Vec::new();
    world.until("all of it", |world| {
        got.extend(world.read(flow, 100_000));
        let _ = world.guest(handle).send_slice(&data[sent..]).map(|n| sent += n);
        got.len() == data.len()
    });
    assert_eq!(got, data);

    let mut given = 0;
    for _ in 0..2000 {
        given += world.write(flow, &pattern(10_000, 1));
        world.step();
    }
    assert!(given <= (1 << 20) + (512 << 10), "{given} bytes taken from the world");
    assert_eq!(world.status(flow).room, 0);
}

#[test]
fn a_connection_to_a_guest_finds_it_by_arp_and_is_refused_by_it() {
    let mut world = World::new(1500);
    let listening = world.socket(4096);
    world.guest(listening).listen(443).unwrap();
    let flow = world.gateway.connect(world.now, SocketAddr::from((GUEST, 443))).unwrap();
    world.until("established", |world| world.status(flow).established);
    let refused = world.gateway.connect(world.now, SocketAddr::from((GUEST, 444))).unwrap();
    world.until("refused", |world| world.closed.contains(&(refused, Closed::Reset)));
    let nobody = world.gateway.connect(world.now, SocketAddr::from(([192, 168, 127, 77], 1))).unwrap();
    world.until("nobody there", |world| world.closed.contains(&(nobody, Closed::Unreachable)));
    for wrong in [GATEWAY, [192, 168, 127, 254], [192, 168, 127, 255], [10, 0, 0, 1]] {
        assert!(world.gateway.connect(world.now, SocketAddr::from((wrong, 1))).is_err());
    }
}

/// Linux answers with SYN cookies when a backlog is full, and then resets what is behind a first segment that it dropped.
#[test]
fn a_guest_gets_nothing_behind_its_first_segment_before_that_is_answered() {
    let mut world = World::new(1500);
    let listening = world.socket(65_536);
    world.guest(listening).listen(443).unwrap();
    let flow = world.gateway.connect(world.now, SocketAddr::from((GUEST, 443))).unwrap();
    world.until("established", |world| world.status(flow).established);
    let sent = pattern(20_000, 3);
    assert_eq!(world.status(flow).room, 1460);
    let first = world.write(flow, &sent[..400]) + world.write(flow, &sent[400..]);
    assert_eq!((first, world.status(flow).room), (1460, 0));
    world.until("an answer", |world| world.status(flow).room > 20_000);
    let rest = world.write(flow, &sent[first..]);
    assert_eq!(rest, 20_000 - first);
    world.until("all", |world| world.guest(listening).recv_queue() == 20_000);

    // A guest that speaks first has the connection.
    let listening = world.socket(65_536);
    world.guest(listening).listen(444).unwrap();
    let flow = world.gateway.connect(world.now, SocketAddr::from((GUEST, 444))).unwrap();
    world.until("established", |world| world.guest(listening).state() == tcp::State::Established);
    world.guest(listening).send_slice(b"220 ready").unwrap();
    world.until("a greeting", |world| world.status(flow).received == 9);
    assert!(world.status(flow).room > 20_000);
}

#[test]
fn a_guest_that_starts_anew_with_the_same_port_gets_a_new_connection() {
    let mut world = World::new(1500);
    let (handle, old) = world.open(40_000, 4096);
    // It forgets everything, as a machine that was restarted.
    world.sockets.remove(handle);
    let (_, new) = world.open(40_000, 4096);
    assert_ne!(old, new);
    assert!(world.closed.contains(&(old, Closed::Reset)));
}

#[test]
fn a_connection_outlives_its_link() {
    let mut world = World::new(1500);
    let (handle, flow) = world.open(40_000, 4096);
    world.gateway.detach(world.port);
    world.write(flow, b"lost on the way, and sent again");
    for _ in 0..100 {
        world.gateway.flush(world.now);
        world.now = world.now + Duration::from_millis(1);
    }
    world.port = world.gateway.attach(1, Some(Framing::Hyperkit)).unwrap();
    world.guest(handle).send_slice(b"x").unwrap();
    let mut got: Vec<u8> = Vec::new();
    world.until("the bytes", |world| {
        let _ = world.guest(handle).recv(|bytes| {
            got.extend_from_slice(bytes);
            (bytes.len(), ())
        });
        got == b"lost on the way, and sent again"
    });
    assert_eq!(world.read(flow, 10), b"x");
}

#[test]
fn a_guest_that_only_listens_gets_its_bytes_over_the_next_link() {
    let mut world = World::new(1500);
    let (handle, flow) = world.open(40_000, 4096);
    world.gateway.detach(world.port);
    world.write(flow, b"news");
    for _ in 0..100 {
        world.step();
    }
    world.port = world.gateway.attach(1, Some(Framing::Hyperkit)).unwrap();
    // All that the gateway hears of the guest is the question with which a link begins.
    let mut ask = vec![0xff; 6];
    ask.extend([0xba, 0xaa, 0xad, 0xc0, 0xff, 0xee, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 0xba, 0xaa, 0xad, 0xc0, 0xff, 0xee]);
    ask.extend(GUEST);
    ask.extend([0; 6]);
    ask.extend(GATEWAY);
    world.gateway.handle_frame(world.now, world.port, &ask);
    let mut got: Vec<u8> = Vec::new();
    world.until("the bytes", |world| {
        let _ = world.guest(handle).recv(|bytes| {
            got.extend_from_slice(bytes);
            (bytes.len(), ())
        });
        got == b"news"
    });
}

#[test]
fn a_connection_that_waited_for_a_link_waits_for_the_next_one_where_it_is() {
    let mut world = World::new(1500);
    let (handle, flow) = world.open(40_000, 1 << 20);
    let full = |world: &World, port| QUEUE_LIMIT - world.gateway.pending(port).len() < 140_000;
    let pattern = pattern(100_000, 1);
    // The link takes nothing; what the guest would acknowledge does not reach it.
    let fill = |world: &mut World| {
        for _ in 0..20 {
            world.write(flow, &pattern);
            world.gateway.flush(world.now);
        }
    };
    fill(&mut world);
    let (old, guest) = (world.port, 1);
    assert!(full(&world, old) && world.status(flow).room < 300_000);
    // A second link of the same machine, which somebody else has filled.
    let stranger = world.gateway.attach(2, Some(Framing::Hyperkit)).unwrap();
    world.port = world.gateway.attach(guest, Some(Framing::Hyperkit)).unwrap();
    let mut noise = vec![0xff; 6];
    noise.extend([2, 0, 0, 0, 0, 7, 0x08, 0x00]);
    // An IPv4 packet of a protocol for experiments, from a guest of its own.
    let [high, low] = (60_000_u16 - 14).to_be_bytes();
    noise.extend([0x45, 0, high, low, 0, 0, 0, 0, 64, 253, 0, 0, 192, 168, 127, 9, 192, 168, 127, 255]);
    noise.resize(60_000, 0);
    for _ in 0..20 {
        world.gateway.handle_frame(world.now, stranger, &noise);
    }
    assert!(full(&world, world.port));
    // The guest speaks on it, and so it is where the connection goes on.
    world.guest(handle).send_slice(b"x").unwrap();
    let now = SmolInstant::from_micros((world.now.as_nanos() / 1000) as i64);
    world.iface.poll(now, &mut world.cable, &mut world.sockets);
    while let Some(frame) = world.cable.to_gateway.pop_front() {
        world.gateway.handle_frame(world.now, world.port, &frame);
    }
    world.gateway.flush(world.now);
    let waiting = world.gateway.pending(world.port).len();
    assert!(world.gateway.consume(world.port, waiting), "it waits for this link");
    world.gateway.flush(world.now);
    assert!(!world.gateway.pending(world.port).is_empty(), "it goes on");
}

#[test]
fn a_guest_that_has_forgotten_a_connection_over_its_last_link_is_asked_over_the_next() {
    let mut world = World::new(1500);
    let (handle, flow) = world.open(40_000, 4096);
    world.gateway.detach(world.port);
    world.sockets.remove(handle);
    world.port = world.gateway.attach(1, Some(Framing::Hyperkit)).unwrap();
    world.connect(40_001, 4096);
    for _ in 0..130_000 {
        world.step();
    }
    assert!(world.closed.contains(&(flow, Closed::Reset)), "{:?}", world.closed);
}

quickcheck! {
    /// What goes in at one side comes out at the other, both ways at once, whatever sizes everybody takes.
    fn bytes_arrive_in_order(sizes: Vec<u16>, big: bool, seed: u8) -> bool {
        let mut world = World::new(if big { 65_520 } else { 1500 });
        let (handle, flow) = world.open(40_000, 300_000);
        let up = pattern(200_000 + usize::from(seed) * 999, seed);
        let down = pattern(350_000 - usize::from(seed) * 999, seed.wrapping_add(9));
        let (mut up_sent, mut down_sent) = (0, 0);
        let (mut up_got, mut down_got): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
        let mut sizes = sizes.iter().map(|n| 1 + usize::from(*n)).chain([70_000, 50_000]).collect::<Vec<_>>().into_iter().cycle();
        world.until("everything", |world| {
            let n = sizes.next().unwrap();
            let end = (up_sent + n).min(up.len());
            let _ = world.guest(handle).send_slice(&up[up_sent..end]).map(|n| up_sent += n);
            let end = (down_sent + n).min(down.len());
            down_sent += world.write(flow, &down[down_sent..end]);
            let n = sizes.next().unwrap();
            up_got.extend(world.read(flow, n));
            let _ = world.guest(handle).recv(|bytes| {
                let n = bytes.len().min(n);
                down_got.extend_from_slice(&bytes[..n]);
                (n, ())
            });
            up_got.len() == up.len() && down_got.len() == down.len()
        });
        up_got == up && down_got == down
    }
}
