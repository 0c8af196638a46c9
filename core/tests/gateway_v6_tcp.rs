//! The gateway against a guest that runs smoltcp over IPv6.

#![expect(clippy::unwrap_used, reason = "helpers of tests may")]

mod guest;

use guest::{Net, World, pattern};
use nitrotap_core::{
    frame::Framing,
    gateway::{Closed, DialError, FlowId},
};
use smoltcp::{iface::SocketHandle, socket::tcp};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

const GUEST: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2);
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1);
const WORLD: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);

const NET: Net = Net { guest: IpAddr::V6(GUEST), gateway: IpAddr::V6(GATEWAY), world: IpAddr::V6(WORLD) };

#[test]
fn a_refused_connection_is_reset() {
    let mut world = World::new(NET, 1500);
    let handle = world.connect(40_000, 4096);
    world.until("a dial", |world| !world.dials.is_empty());
    let (flow, _) = world.dials.pop_front().unwrap();
    world.gateway.handle_dialed(world.now, flow, Err(DialError::Refused));
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
        let mut world = World::new(NET, mtu);
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
    let mut world = World::new(NET, 1500);
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
    let mut world = World::new(NET, 1500);
    let (handle, flow) = world.open(40_000, 32 << 10);
    exchange(&mut world, handle, flow, 10_000);
    world.gateway.detach(world.port);
    world.port = world.gateway.attach(1, Some(Framing::Hyperkit)).unwrap();
    exchange(&mut world, handle, flow, 10_000);
}
