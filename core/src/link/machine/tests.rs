use super::*;
use crate::link::MacAddr;
use core::{fmt::Write, net::Ipv4Addr};

const MAC: MacAddr = MacAddr([0xba, 0xaa, 0xad, 0xc0, 0xff, 0xee]);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);

fn link() -> Link {
    Link::new(Config::new(MAC, Ipv4Addr::new(192, 168, 127, 2), GATEWAY, 7))
}

fn reply() -> [u8; ARP_FRAME] {
    let mut frame = arp::request(MAC, Ipv4Addr::new(192, 168, 127, 2), GATEWAY);
    frame[21] = 2;
    frame[28..32].copy_from_slice(&GATEWAY.octets());
    frame[32..38].copy_from_slice(&MAC.0);
    frame
}

/// Drains the outputs into one line.
fn drain(link: &mut Link) -> String {
    let mut line = format!("{} {}:", link.now, link.state());
    while let Some(output) = link.poll_output() {
        match output {
            Output::Dial => line.push_str(" dial"),
            Output::Write(bytes) => write!(line, " write({})", bytes.len()).unwrap(),
            Output::Probe(_) => line.push_str(" probe"),
            Output::Up => line.push_str(" up"),
            Output::Close => line.push_str(" close"),
            Output::Failed { failure, attempt, retry_in } => {
                write!(line, " failed({failure}; attempt {attempt}, retry in {retry_in:?})").unwrap();
            }
        }
    }
    line
}

/// Drains, then jumps to the next deadline.
fn wait(link: &mut Link) -> String {
    drain(link);
    let at = link.poll_timeout().expect("a timer is armed");
    link.handle_timeout(at);
    drain(link)
}

fn bring_up(link: &mut Link) {
    link.start(link.now);
    link.handle_dialed(link.now);
    drain(link);
    wait(link);
    link.handle_frame(link.now, &reply());
    drain(link);
    assert_eq!(link.state(), State::Up);
}

#[test]
fn a_life_from_dial_to_loss_and_back() {
    let mut link = link();
    let mut trace = Vec::new();
    link.start(Instant::from_millis(1));
    trace.push(drain(&mut link));
    link.handle_dial_failed(Instant::from_millis(2), DialFailure::NotFound);
    trace.push(drain(&mut link));
    trace.push(wait(&mut link));
    link.handle_dialed(link.now + Duration::from_millis(1));
    trace.push(drain(&mut link));
    trace.push(wait(&mut link));
    link.handle_frame(link.now + Duration::from_millis(1), &reply());
    trace.push(drain(&mut link));
    trace.push(wait(&mut link));
    link.handle_received(link.now + Duration::from_millis(1), 1);
    link.handle_closed(link.now + Duration::from_millis(10), Down::Truncated);
    trace.push(drain(&mut link));
    trace.push(wait(&mut link));
    trace.push(link.status().to_string());
    insta::assert_snapshot!(trace.join("\n"));
}

#[test]
fn an_unanswered_probe_closes_the_stream_and_doubles_the_gap() {
    let mut link = link();
    let mut gaps = Vec::new();
    link.start(Instant::ZERO);
    for _ in 0..7 {
        link.handle_dialed(link.now);
        let dialed = link.now;
        drain(&mut link);
        while link.state() != State::Backoff {
            wait(&mut link);
            if link.state() == State::Probing && link.counters.probes as usize % 4 == 1 {
                gaps.push(link.now.since(dialed).as_millis());
            }
        }
        wait(&mut link);
    }
    assert_eq!(gaps, [50, 100, 200, 400, 800, 1000, 1000]);
    assert_eq!((link.counters.probe_failures, link.counters.probes), (7, 28));
}

#[test]
fn a_silent_host_is_asked_three_times_and_then_lost() {
    let mut link = link();
    bring_up(&mut link);
    let up = link.now;
    let lines: Vec<_> = (0..4).map(|_| wait(&mut link)).collect();
    assert!(lines[..3].iter().all(|l| l.ends_with("up: probe")), "{lines:#?}");
    assert!(lines[3].contains("close failed(the host fell silent"), "{}", lines[3]);
    assert_eq!(link.now.since(up), Duration::from_secs(20));
    assert_eq!(link.counters.losses_silent, 1);
}

#[test]
fn any_received_frame_postpones_the_keepalive() {
    let mut link = link();
    bring_up(&mut link);
    for total in 1..100 {
        link.handle_received(link.now + Duration::from_secs(4), total);
        link.handle_timeout(link.now);
        assert!(link.poll_output().is_none());
    }
    assert_eq!(link.counters.probes, 1);
}

#[test]
fn the_backoff_is_bounded_jittered_and_starts_afresh_after_a_stable_link() {
    let mut link = link();
    link.start(Instant::ZERO);
    let mut waits = Vec::new();
    for _ in 0..12 {
        let before = link.now;
        link.handle_dial_failed(before, DialFailure::Refused);
        wait(&mut link);
        waits.push(link.now.since(before));
    }
    for (i, wait) in waits.iter().enumerate() {
        let full = Duration::from_millis(50 << i.min(5)).min(Duration::from_secs(1));
        assert!(*wait >= full / 2 && *wait <= full, "wait {i} is {wait:?}, expected at most {full:?}");
    }
    link.handle_dialed(link.now);
    drain(&mut link);
    wait(&mut link);
    link.handle_frame(link.now, &reply());
    link.handle_closed(link.now + Duration::from_secs(2), Down::Closed);
    let before = link.now;
    wait(&mut link);
    assert!(link.now.since(before) <= Duration::from_millis(50));
}

#[test]
fn a_host_that_accepts_and_drops_is_not_dialled_in_a_tight_loop() {
    let mut link = link();
    link.start(Instant::ZERO);
    for _ in 0..10 {
        link.handle_dialed(link.now);
        drain(&mut link);
        wait(&mut link);
        link.handle_frame(link.now, &reply());
        link.handle_closed(link.now, Down::Closed);
        drain(&mut link);
        let at = link.poll_timeout().unwrap();
        link.handle_timeout(at);
        drain(&mut link);
    }
    assert!(link.now > Instant::from_millis(3000), "10 drops took {}", link.now);
}

#[test]
fn time_that_runs_backwards_is_counted_and_ignored() {
    let mut link = link();
    link.start(Instant::from_millis(100));
    link.handle_dialed(Instant::from_millis(50));
    assert_eq!(link.poll_timeout(), Some(Instant::from_millis(100)), "output waits");
    drain(&mut link);
    assert_eq!(link.poll_timeout(), Some(Instant::from_millis(150)));
    assert_eq!(link.counters.clock_regressions, 1);
}

#[test]
fn a_timeout_that_comes_early_does_nothing() {
    let mut link = link();
    link.start(Instant::ZERO);
    drain(&mut link);
    link.handle_timeout(Instant::from_millis(4_999));
    assert_eq!(link.state(), State::Dialing);
    assert!(link.poll_output().is_none());
}

#[test]
fn a_dial_that_succeeds_after_it_was_given_up_is_closed() {
    let mut link = link();
    link.start(Instant::ZERO);
    drain(&mut link);
    wait(&mut link);
    link.handle_dialed(link.now);
    assert_eq!(link.poll_output(), Some(Output::Close));
}

#[test]
fn stopping_closes_a_stream_and_arms_no_timer() {
    let mut link = link();
    bring_up(&mut link);
    link.stop(link.now);
    assert_eq!(link.poll_output(), Some(Output::Close));
    assert_eq!((link.poll_output(), link.poll_timeout(), link.state()), (None, None, State::Idle));
    assert_eq!(link.counters.up, 0);
}
