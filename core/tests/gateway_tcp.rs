//! The gateway against a guest that runs smoltcp, over links that deliver at random, break and are replaced.

#![expect(clippy::unwrap_used, reason = "helpers of tests may")]

mod guest;

use guest::{Net, World, pattern};
use nitrotap_core::{
    frame::Framing,
    gateway::{Closed, Config, DialError, QUEUE_LIMIT, SourcePortsConfig},
};
use quickcheck::quickcheck;
use smoltcp::{socket::tcp, time::Instant as SmolInstant};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

const GUEST: [u8; 4] = [192, 168, 127, 2];
const GATEWAY: [u8; 4] = [192, 168, 127, 1];

const NET: Net = Net {
    guest: IpAddr::V4(Ipv4Addr::new(192, 168, 127, 2)),
    gateway: IpAddr::V4(Ipv4Addr::new(192, 168, 127, 1)),
    world: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)),
};

#[test]
fn nothing_is_answered_before_the_world_has() {
    let mut world = World::new(NET, 1500);
    let handle = world.connect(40_000, 4096);
    world.until("a dial", |world| !world.dials.is_empty());
    for _ in 0..500 {
        world.step();
    }
    assert_eq!(world.guest(handle).state(), tcp::State::SynSent);
    assert_eq!(world.dials.len(), 1, "a repeated SYN is no second dial");
    let (flow, _) = world.dials.pop_front().unwrap();
    world.gateway.handle_dialed(world.now, flow, Ok(()));
    world.until("established", |world| world.guest(handle).state() == tcp::State::Established);
}

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

#[test]
fn a_world_that_does_not_answer_is_unreachable_after_a_while_and_does_not_stop_others() {
    let mut world = World::new(NET, 1500);
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
    let mut world = World::new(NET, 1500);
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

/// The host's kernel keeps the ports of connections that the host closes first, which it does where the guest does.
#[test]
fn connections_that_the_guest_closes_first_leave_ports_of_the_host_to_others() {
    for (guest_first, expected) in [(true, 7), (false, 20)] {
        let source_ports = SourcePortsConfig { count: 8, ..SourcePortsConfig::default() };
        let mut world = World::with(NET, Config { source_ports, ..Config::default() });
        let answered = |world: &mut World| !world.dials.is_empty() || world.gateway.counters().refused_source_ports > 0;
        let mut opened = 0;
        for port in 40_000..40_020 {
            let handle = world.connect(port, 4096);
            world.until("an answer", answered);
            let Some((flow, _)) = world.dials.pop_front() else { break };
            opened += 1;
            world.gateway.handle_dialed(world.now, flow, Ok(()));
            world.until("established", |world| world.status(flow).established);
            if guest_first {
                world.guest(handle).close();
                world.until("the guest's end", |world| world.status(flow).received_all);
                world.gateway.finish(world.now, flow);
            } else {
                world.gateway.finish(world.now, flow);
                world.until("the world's end", |world| !world.guest(handle).may_recv());
                world.guest(handle).close();
            }
            world.until("both to be over", |world| world.closed.contains(&(flow, Closed::Finished)));
        }
        assert_eq!(opened, expected);
        let counters = world.gateway.counters();
        let refused = u64::from(guest_first);
        assert_eq!((counters.refused_source_ports, counters.icmp_errors_out), (refused, refused));
        // A minute later the kernel has let them go.
        world.now = world.now + Duration::from_secs(70);
        world.connect(41_000, 4096);
        world.until("a dial", |world| !world.dials.is_empty());
    }
}

#[test]
fn resets_pass_both_ways() {
    let mut world = World::new(NET, 1500);
    let (handle, flow) = world.open(40_000, 4096);
    world.gateway.abort(world.now, flow);
    world.until("a reset", |world| world.guest(handle).state() == tcp::State::Closed);
    let (handle, flow) = world.open(40_001, 4096);
    world.guest(handle).abort();
    world.until("a reset", |world| world.closed.contains(&(flow, Closed::Reset)));
}

#[test]
fn a_world_that_takes_nothing_closes_the_window_and_a_guest_that_reads_nothing_stops_the_world() {
    let mut world = World::new(NET, 1500);
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
    let mut world = World::new(NET, 1500);
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
    let mut world = World::new(NET, 1500);
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
    let mut world = World::new(NET, 1500);
    let (handle, old) = world.open(40_000, 4096);
    // It forgets everything, as a machine that was restarted.
    world.sockets.remove(handle);
    let (_, new) = world.open(40_000, 4096);
    assert_ne!(old, new);
    assert!(world.closed.contains(&(old, Closed::Reset)));
}

#[test]
fn a_connection_outlives_its_link() {
    let mut world = World::new(NET, 1500);
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
    let mut world = World::new(NET, 1500);
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
    let mut world = World::new(NET, 1500);
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
    // A second link of the same machine, which another station there has filled with answers that it does not take.
    world.port = world.gateway.attach(guest, Some(Framing::Hyperkit)).unwrap();
    let station = [2, 0, 0, 0, 0, 7];
    let mut question = vec![0xff; 6];
    question.extend(station);
    question.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    question.extend(station);
    question.extend([192, 168, 127, 9, 0, 0, 0, 0, 0, 0, 192, 168, 127, 1]);
    for _ in 0..10_000 {
        world.gateway.handle_frame(world.now, world.port, &question);
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
    let mut world = World::new(NET, 1500);
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
        let mut world = World::new(NET, if big { 65_520 } else { 1500 });
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
