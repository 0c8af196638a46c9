use super::*;
use crate::bench::frames::wire::{Frame, parse};

const MTU: u16 = 1500;

fn path() -> Path {
    Path {
        our_mac: [2, 0, 0, 0, 0, 1],
        their_mac: [2, 0, 0, 0, 0, 2],
        our_ip: [10, 0, 0, 1],
        their_ip: [10, 0, 0, 2],
        our_port: 1000,
        their_port: 80,
    }
}

fn segments(mut bytes: &[u8]) -> Vec<Segment> {
    let mut all = Vec::new();
    while let [low, high, rest @ ..] = bytes {
        let (frame, more) = rest.split_at(usize::from(u16::from_le_bytes([*low, *high])));
        let Frame::Tcp(segment) = parse(frame) else { panic!("only TCP is sent") };
        all.push(segment);
        bytes = more;
    }
    all
}

/// Both ends, and a wire between that loses one of `lose` segments, by a fixed sequence; 0 loses none.
struct Pair {
    client: Flow,
    server: Option<Flow>,
    now: Instant,
    lose: u64,
    carried: u64,
    got: [u64; 2],
}

impl Pair {
    fn new(lose: u64) -> Self {
        // Sequence numbers that wrap early.
        let client = Flow::dial(path(), u32::MAX - 5000, MTU, b'E');
        Self { client, server: None, now: Instant::ZERO, lose, carried: 0, got: [0; 2] }
    }

    fn lost(&mut self) -> bool {
        // A linear congruential sequence: a strict pattern could hit the same segment for ever.
        self.carried = self.carried.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.lose > 0 && (self.carried >> 33).is_multiple_of(self.lose)
    }

    /// One exchange; a millisecond passes.
    fn turn(&mut self) {
        self.now = Instant::from_nanos(self.now.as_nanos() + 1_000_000);
        let mut out = Vec::new();
        self.client.output(self.now, &mut out, 32 << 10);
        for segment in segments(&out) {
            if self.lost() {
                continue;
            }
            let server = self.server.get_or_insert_with(|| Flow::accept(&segment, 77, MTU));
            assert!(server.input(&segment));
            self.got[1] += server.take_fresh();
        }
        let Some(server) = &mut self.server else { return };
        let mut out = Vec::new();
        server.output(self.now, &mut out, 32 << 10);
        for segment in segments(&out) {
            if !self.lost() {
                assert!(self.client.input(&segment));
                self.got[0] += self.client.take_fresh();
            }
        }
    }
}

#[test]
fn all_bytes_arrive_once_and_the_flow_closes_whatever_is_lost() {
    for lose in [0, 2, 3, 7, 50] {
        let mut pair = Pair::new(lose);
        pair.client.send(100_001);
        for _ in 0..40_000 {
            pair.turn();
            if pair.got[1] == 100_001 {
                break;
            }
        }
        assert_eq!(pair.got, [0, 100_001], "lose {lose}");
        let server = pair.server.as_mut().unwrap();
        assert_eq!(server.first_byte(), Some(b'E'));
        server.send(5);
        server.finish();
        pair.client.finish();
        for _ in 0..4000 {
            pair.turn();
        }
        assert_eq!(pair.got, [5, 100_001], "lose {lose}");
        if lose == 0 {
            assert!(pair.client.is_closed() && pair.server.unwrap().is_closed());
        }
    }
}

#[test]
fn no_more_is_in_flight_than_the_window_takes() {
    let mut pair = Pair::new(0);
    pair.client.send_for_ever();
    pair.turn();
    pair.client.window = 10_000;
    let mut out = Vec::new();
    pair.client.output(pair.now, &mut out, usize::MAX);
    let sent: u32 = segments(&out).iter().map(|segment| segment.len).sum();
    assert_eq!(sent, 10_000 / 1460 * 1460);
}

#[test]
fn a_closed_window_is_probed() {
    let mut pair = Pair::new(0);
    pair.client.send(10);
    pair.turn();
    pair.client.window = 0;
    let mut out = Vec::new();
    pair.client.output(pair.now, &mut out, usize::MAX);
    assert!(segments(&out).iter().all(|segment| segment.len == 0));
    out.clear();
    pair.client.output(Instant::from_nanos(pair.now.as_nanos() + RESEND_NS), &mut out, usize::MAX);
    assert_eq!(segments(&out).iter().map(|segment| segment.len).sum::<u32>(), 1);
}

#[test]
fn a_reset_ends_it() {
    let mut flow = Flow::dial(path(), 1, MTU, 0);
    let header = Header { seq: 0, ack: 2, flags: RST | ACK, window: 0 };
    assert!(!flow.input(&Segment { path: path(), header, len: 0, first: None, mss: None, shift: None }));
    assert!(flow.is_closed());
}
