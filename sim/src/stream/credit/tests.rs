use super::*;
use quickcheck::{QuickCheck, TestResult};

const A: Addr = Addr { cid: 3, port: 1 };
const B: Addr = Addr { cid: 4, port: 2 };

fn pair(buf_alloc: u32, max_packet: u32) -> (Endpoint, Endpoint) {
    let limits = Limits { buf_alloc, max_packet };
    let (mut a, mut b) = (Endpoint::new(A, B, limits), Endpoint::new(B, A, limits));
    a.open(Op::Request);
    carry(&mut a, &mut b, usize::MAX);
    b.open(Op::Response);
    carry(&mut b, &mut a, usize::MAX);
    (a, b)
}

fn carry(from: &mut Endpoint, to: &mut Endpoint, at_most: usize) {
    for _ in 0..at_most {
        let Some(packet) = from.poll_packet() else { break };
        to.handle_packet(packet).expect("honest ends break no rule");
    }
}

#[test]
fn whatever_the_order_of_steps_the_bytes_arrive_in_order_and_within_the_credit() {
    fn law(steps: Vec<(u8, u16)>, buf: u8, packet: u8) -> TestResult {
        let buf_alloc = 1 + u32::from(buf);
        let (mut a, mut b) = pair(buf_alloc, 1 + u32::from(packet));
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        for (what, size) in steps {
            match what % 4 {
                0 => {
                    let bytes: Vec<u8> = (0..size).map(|i| (sent.len() + usize::from(i)) as u8).collect();
                    let n = a.write(&bytes);
                    sent.extend_from_slice(&bytes[..n]);
                }
                1 => carry(&mut a, &mut b, usize::from(size % 5)),
                2 => {
                    let mut buf = vec![0; usize::from(size)];
                    let n = b.read(&mut buf);
                    got.extend_from_slice(&buf[..n]);
                }
                _ => carry(&mut b, &mut a, usize::from(size % 5)),
            }
            if b.held() > buf_alloc || !sent.starts_with(&got) {
                return TestResult::failed();
            }
        }
        a.shutdown();
        // Liveness: with both directions carried and a reader that reads, everything arrives.
        for _ in 0..2 * buf_alloc + 2 {
            carry(&mut a, &mut b, usize::MAX);
            let mut buf = [0; 7];
            let n = b.read(&mut buf);
            got.extend_from_slice(&buf[..n]);
            carry(&mut b, &mut a, usize::MAX);
        }
        TestResult::from_bool(got == sent && b.is_finished())
    }
    QuickCheck::new().tests(2000).quickcheck(law as fn(Vec<(u8, u16)>, u8, u8) -> TestResult);
}

#[test]
fn a_blocked_writer_gets_credit_from_any_reader_that_reads_on() {
    for buf_alloc in [1, 2, 100, 4096, 65_535, 65_536, 65_537, 262_144] {
        let (mut a, mut b) = pair(buf_alloc, 4096);
        let mut moved = 0_usize;
        for _ in 0..10_000 {
            moved += a.write(&[7; 8192]);
            carry(&mut a, &mut b, usize::MAX);
            b.read(&mut [0; 1500]);
            carry(&mut b, &mut a, usize::MAX);
        }
        assert!(moved as u64 > 2 * u64::from(buf_alloc), "with {buf_alloc} bytes of buffer only {moved} moved");
    }
}

#[test]
fn a_peer_that_oversteps_is_told_apart_from_one_that_does_not() {
    let (mut a, mut b) = pair(10, 64);
    assert_eq!(a.write(&[1; 64]), 10);
    let mut packet = a.poll_packet().unwrap();
    packet.payload = Bytes::from_static(&[1; 11]);
    assert_eq!(b.handle_packet(packet.clone()), Err(Violation::CreditOverrun { sent: 11, allowed: 10 }));
    packet.payload = Bytes::from_static(&[1; 10]);
    packet.fwd_cnt = 5;
    let violation = Violation::ForwardedTooMuch { claimed: 5, sent: 0 };
    assert_eq!(b.handle_packet(packet), Err(violation));
}

#[test]
fn counters_wrap() {
    let (mut a, mut b) = pair(1000, 64);
    for end in [&mut a, &mut b] {
        end.tx_cnt = u32::MAX - 5;
        end.peer_fwd_cnt = u32::MAX - 5;
        end.fwd_cnt = u32::MAX - 5;
        end.told_fwd_cnt = u32::MAX - 5;
    }
    for _ in 0..50 {
        assert_eq!(a.write(&[3; 64]), 64);
        carry(&mut a, &mut b, usize::MAX);
        assert_eq!(b.read(&mut [0; 64]), 64);
        carry(&mut b, &mut a, usize::MAX);
    }
}

#[test]
fn half_close_delivers_what_was_sent_and_leaves_the_other_direction_open() {
    let (mut a, mut b) = pair(1000, 64);
    assert_eq!(a.write(b"last words"), 10);
    a.shutdown();
    assert_eq!(a.write(b"more"), 0);
    carry(&mut a, &mut b, usize::MAX);
    assert!(b.is_readable() && !b.is_finished());
    assert_eq!(b.read(&mut [0; 64]), 10);
    assert!(b.is_finished());
    assert_eq!(b.write(b"answer"), 6);
    carry(&mut b, &mut a, usize::MAX);
    assert_eq!(a.read(&mut [0; 64]), 6);
    b.close();
    carry(&mut b, &mut a, usize::MAX);
    assert!(a.is_over() && b.is_over());
}

#[test]
fn closing_with_unread_bytes_resets_and_reading_a_closed_end_does_too() {
    let (mut a, mut b) = pair(1000, 64);
    a.write(b"unread");
    carry(&mut a, &mut b, usize::MAX);
    b.close();
    carry(&mut b, &mut a, usize::MAX);
    assert!(a.is_reset());

    let (mut a, mut b) = pair(1000, 64);
    b.close();
    a.write(b"late");
    carry(&mut a, &mut b, usize::MAX);
    carry(&mut b, &mut a, usize::MAX);
    assert!(a.is_reset() && a.write_closed());
}
