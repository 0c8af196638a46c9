//! What a connection may cost, whatever its guest does: every short script of segments at awkward moments, and random long
//! ones. The measure is frames and calls, at once and while nothing happens.

#![expect(clippy::unwrap_used, reason = "helpers of tests may")]

#[path = "guest/puppet.rs"]
mod puppet;

use nitrotap_core::gateway::FLUSH_WORK_LIMIT;
use puppet::{ACK, Act, FIN, Puppet, RST, SYN, Toll, Upto};
use quickcheck::{Arbitrary, Gen, QuickCheck};
use std::time::Duration;

/// Frames of one thing that happens, beyond those with all that the world has given so far: an end, an acknowledgement, a
/// probe.
const AT_ONCE: u64 = 4;

/// Calls back for it: for what had not passed yet when it happened.
const CALLS: u64 = 4;

/// Times in a minute in which nothing happens that something is sent again or probed for: after 1, 3, 7, 15 and 31 s.
const PER_MINUTE: u64 = 6;

const MSS: u16 = 536;

const SHORT: usize = 10;
const LONG: usize = 3 * MSS as usize;

/// What there is to happen.
const ACTS: [Act; 22] = [
    Act::Give(SHORT),
    Act::Give(LONG),
    Act::Take,
    Act::Finish,
    Act::Say(ACK, Upto::Before, 0, 0),
    Act::Say(ACK, Upto::Before, 5, 0),
    Act::Say(ACK, Upto::OneMore, 0, 0),
    Act::Say(ACK, Upto::Sent, 0, 0),
    Act::Say(ACK, Upto::Sent, 0xffff, 0),
    Act::Say(ACK, Upto::Given, 0, 0),
    Act::Say(ACK, Upto::Given, 1, 0),
    Act::Say(ACK, Upto::Beyond, 0, 0),
    Act::Say(ACK, Upto::Sent, 0, 100),
    Act::Say(ACK | FIN, Upto::Before, 0, 0),
    Act::Say(ACK | FIN, Upto::Given, 0, 0),
    Act::Say(SYN | ACK, Upto::Sent, 0, 0),
    Act::Ask(0),
    Act::Unlink,
    Act::Link,
    Act::Wait(1),
    Act::Wait(1500),
    Act::Wait(130_000),
];

const LEADING: [Act; 5] = [
    Act::Give(SHORT),
    Act::Finish,
    Act::Say(ACK, Upto::Given, 0, 0),
    Act::Say(ACK | FIN, Upto::Given, 0, 0),
    Act::Wait(1500),
];

/// How a connection comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    Guest,
    World,
    Both,
}

const OPENINGS: [Opening; 3] = [Opening::Guest, Opening::World, Opening::Both];

/// Where scripts begin: what has happened to a connection, by the window that it was opened with.
const BEGINNINGS: [(u16, &[Act]); 6] = [
    (0xffff, &[]),
    (0, &[Act::Give(SHORT)]),
    (5, &[Act::Give(SHORT), Act::Finish]),
    (0, &[Act::Give(LONG), Act::Finish, Act::Say(ACK, Upto::Before, 0, 0)]),
    (0xffff, &[Act::Give(LONG), Act::Finish]),
    (0, &[Act::Give(SHORT), Act::Say(ACK | FIN, Upto::Before, 0, 0), Act::Take]),
];

fn begin(puppet: &mut Puppet, opening: Opening, window: u16) {
    match opening {
        Opening::Guest => puppet.open(window),
        Opening::World => puppet.accept(window, false),
        Opening::Both => puppet.accept(window, true),
    }
}

/// Does one thing, and says what of it is too much.
fn judge(puppet: &mut Puppet, act: Act) -> Result<(), String> {
    let times = if let Act::Wait(ms) = act { (1 + ms / 60_000) * PER_MINUTE } else { 0 };
    let given = if let Act::Give(n) = act { n as u64 } else { 0 };
    let all = (puppet.given() + given) / u64::from(MSS) + AT_ONCE;
    let Toll { frames, wakes } = puppet.act(act);
    let (most_frames, most_wakes) = (all * (1 + times), CALLS + 2 * times);
    let counters = puppet.gateway.counters();
    if frames > most_frames || wakes > most_wakes {
        return Err(format!("{act:?} cost {frames} frames and {wakes} calls: {puppet:?}"));
    }
    if counters.tcp_stuck > 0 || counters.flushes_cut > 0 {
        return Err(format!("{act:?} left a connection stuck: {puppet:?}"));
    }
    Ok(())
}

/// A script from its beginning, and the time until a guest that says nothing is given up.
fn play(puppet: &mut Puppet, opening: Opening, (window, before): (u16, &[Act]), script: &[Act]) -> Result<(), String> {
    begin(puppet, opening, window);
    let end = [Act::Wait(100), Act::Wait(400_000)];
    for act in before.iter().chain(script).chain(&end) {
        judge(puppet, *act).map_err(|what| format!("{opening:?} with {window}, {before:?}, {script:?}: {what}"))?;
    }
    Ok(())
}

fn exhaust(v6: bool) {
    let mut puppet = Puppet::new(v6, MSS);
    let mut scripts = 0;
    for opening in OPENINGS {
        for beginning in BEGINNINGS {
            for first in ACTS {
                for second in ACTS {
                    scripts += 1;
                    play(&mut puppet, opening, beginning, &[first, second]).unwrap();
                }
            }
        }
    }
    assert_eq!(scripts, OPENINGS.len() * BEGINNINGS.len() * ACTS.len().pow(2));
}

#[test]
fn no_short_script_of_ipv4_keeps_the_gateway_busy() {
    exhaust(false);
}

#[test]
fn no_short_script_of_ipv6_keeps_the_gateway_busy() {
    exhaust(true);
}

/// The least of it: data and end are acknowledged before they were sent, with a window of zero, and nobody is there any more.
#[test]
fn an_end_acknowledged_with_a_closed_window_leaves_nothing_to_probe() {
    for (v6, upto, unlink) in [(false, Upto::Given, false), (false, Upto::Given, true), (true, Upto::Given, true)] {
        let mut puppet = Puppet::new(v6, MSS);
        puppet.open(0);
        puppet.act(Act::Give(SHORT));
        puppet.act(Act::Finish);
        // It has been probed once.
        puppet.act(Act::Say(ACK, Upto::Before, 0, 0));
        puppet.act(Act::Wait(500));
        assert!(puppet.act(Act::Say(ACK, upto, 0, 0)).frames <= 1);
        if unlink {
            puppet.act(Act::Unlink);
        }
        let toll = puppet.act(Act::Wait(100_000));
        assert!(toll.frames == 0 && toll.wakes <= 3, "{puppet:?}");
        assert_eq!(puppet.gateway.counters().tcp_stuck, 0);
        // It waits for the guest's end, as it should.
        puppet.act(Act::Link);
        puppet.act(Act::Say(ACK | FIN, Upto::Before, 0, 0));
        assert_eq!(puppet.flow, None, "{puppet:?}");
        assert_eq!(puppet.gateway.counters().tcp_time_wait, 1);
    }
}

/// The same with nothing that is against a rule: the last byte and the end go out together as a probe.
#[test]
fn a_probe_that_takes_the_end_with_it_is_the_last() {
    let mut puppet = Puppet::new(false, MSS);
    puppet.open(0);
    puppet.act(Act::Give(1));
    puppet.act(Act::Finish);
    puppet.act(Act::Say(ACK, Upto::Before, 0, 0));
    assert_eq!(puppet.act(Act::Wait(2500)).frames, 1, "the second probe, with the end");
    puppet.act(Act::Say(ACK, Upto::Sent, 0, 0));
    let toll = puppet.act(Act::Wait(100_000));
    assert!(toll.frames == 0 && toll.wakes <= 3, "{puppet:?}");
}

/// A driver has told the world of the guest's end by then, and reads no more.
#[test]
fn what_a_guest_says_behind_its_end_is_nobodys() {
    let end = [Act::Say(ACK | FIN, Upto::Sent, 1000, 8), Act::Take];
    let says = Act::Say(ACK, Upto::Sent, 1000, 16);
    let ends = Act::Say(ACK, Upto::Sent, 1000, 0);
    for (state, script) in [
        ("CLOSE-WAIT", &[says, Act::Finish, ends][..]),
        ("LAST-ACK", &[Act::Finish, Act::Say(ACK, Upto::Before, 1000, 16), ends]),
        ("LAST-ACK, the last word", &[Act::Finish, says]),
    ] {
        for v6 in [false, true] {
            let mut puppet = Puppet::new(v6, MSS);
            puppet.open(1000);
            for act in end {
                puppet.act(act);
            }
            for act in script {
                puppet.act(*act);
                let left = puppet.flow.and_then(|flow| puppet.gateway.status(flow)).map_or(0, |status| status.received);
                assert_eq!(left, 0, "{state} {act:?} {puppet:?}");
            }
            assert_eq!(puppet.flow, None, "{state} {puppet:?}");
        }
    }
    // Both have ended, the world first: CLOSING and TIME-WAIT.
    for v6 in [false, true] {
        for unacknowledged in [false, true] {
            let mut puppet = Puppet::new(v6, MSS);
            puppet.open(1000);
            puppet.act(Act::Finish);
            puppet.act(Act::Say(ACK | FIN, if unacknowledged { Upto::Before } else { Upto::Sent }, 1000, 8));
            puppet.act(Act::Take);
            puppet.act(says);
            puppet.act(says);
            assert_eq!(puppet.flow, None, "{puppet:?}");
            assert_eq!(puppet.gateway.counters().tcp_flows, 0);
        }
    }
}

#[derive(Clone, Debug)]
struct Script {
    v6: bool,
    opening: Opening,
    window: u16,
    acts: Vec<Act>,
}

impl Arbitrary for Script {
    fn arbitrary(g: &mut Gen) -> Self {
        let act = |g: &mut Gen| match u8::arbitrary(g) % 4 {
            0 => {
                let upto = [Upto::Before, Upto::OneMore, Upto::Sent, Upto::Given, Upto::Beyond];
                let flags = [ACK, ACK, ACK, ACK | FIN, ACK | SYN, SYN, ACK | RST];
                let window = [0, 0, 1, 5, 536, 0xffff];
                Act::Say(
                    *g.choose(&flags).unwrap(),
                    *g.choose(&upto).unwrap(),
                    *g.choose(&window).unwrap(),
                    *g.choose(&[0, 0, 0, 1, 500]).unwrap(),
                )
            }
            // What has led further than others.
            1 => *g.choose(&LEADING).unwrap(),
            _ => *g.choose(&ACTS).unwrap(),
        };
        let acts = (0..u8::arbitrary(g) % 24).map(|_| act(g)).collect();
        let window = *g.choose(&[0, 1, 5, 0xffff]).unwrap();
        Self { v6: bool::arbitrary(g), opening: *g.choose(&OPENINGS).unwrap(), window, acts }
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = Self>> {
        let own = self.clone();
        Box::new((0..self.acts.len()).map(move |at| {
            let mut shorter = own.clone();
            shorter.acts.remove(at);
            shorter
        }))
    }
}

#[test]
fn no_long_script_keeps_the_gateway_busy() {
    fn law(script: Script) -> Result<(), String> {
        let mut puppet = Puppet::new(script.v6, MSS);
        play(&mut puppet, script.opening, (script.window, &[]), &script.acts)
    }
    QuickCheck::new().tests(4000).quickcheck(law as fn(Script) -> Result<(), String>);
}

/// More is due at once than one call may send: it sends its share, says that there is more, and the next ones send that.
#[test]
fn a_flush_ends_however_much_is_due() {
    let mut puppet = Puppet::new(false, 1460);
    // So many links that no queue is full.
    let flows: Vec<_> = (0..300)
        .map(|n| {
            if n % 5 == 0 {
                puppet.elsewhere(2 + n / 5);
            }
            puppet.open(0xffff);
            puppet.flow.take().unwrap()
        })
        .collect();
    for flow in flows {
        assert_eq!(puppet.gateway.write(flow, |room| room.len().min(0xffff)), 0xffff);
    }
    let mut calls = 0;
    while puppet.gateway.poll_timeout().is_some_and(|at| at <= puppet.now) || calls == 0 {
        calls += 1;
        puppet.gateway.handle_timeout(puppet.now);
        puppet.gateway.flush(puppet.now);
        assert!(calls < 100, "{puppet:?}");
    }
    // 300 times 128 units of 512 bytes, and a look at each; 16,384 of them at a time.
    assert_eq!(calls, 3);
    let counters = puppet.gateway.counters();
    assert_eq!(counters.flushes_cut, 2);
    assert!((16_384..=FLUSH_WORK_LIMIT).contains(&counters.flush_work_max), "{counters:?}");
}

/// The deadlines of many connections come at once: each call looks at a part of them, and the next ones at the others.
#[test]
fn a_timeout_ends_however_many_deadlines_have_come() {
    let mut puppet = Puppet::new(false, 1460);
    for _ in 0..3000 {
        puppet.dial(0xffff);
        puppet.flow = None;
    }
    puppet.now = puppet.now + Duration::from_secs(100);
    for call in 1..=12_u64 {
        assert!(puppet.gateway.poll_timeout().is_some_and(|at| at <= puppet.now));
        puppet.gateway.handle_timeout(puppet.now);
        assert_eq!(puppet.gateway.counters().tcp_flows, 3000_u64.saturating_sub(call * 256));
    }
    assert!(puppet.gateway.poll_timeout().is_none_or(|at| at > puppet.now));
}
