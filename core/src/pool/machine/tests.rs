use super::*;
use core::time::Duration;

#[test]
fn the_newest_idle_connection_is_used_first() {
    let mut t = Tester::new(Limits::default());
    let conns = t.busy(3);
    for &conn in &conns {
        t.pool.handle_done(t.now, conn, Verdict::Reusable);
    }
    let req = t.pool.handle_request(t.now, Want::Any);
    assert_eq!(t.outputs(), [Output::Assign { req, conn: conns[2], reused: true }]);
    assert_eq!(t.pool.counters().reuses, 1);
}

#[test]
fn a_freed_connection_wins_against_a_slow_dial_which_then_becomes_idle() {
    let mut t = Tester::new(Limits::default());
    let busy = t.busy(1)[0];
    let req = t.pool.handle_request(t.now, Want::Any);
    let spare = t.dialled();
    t.pool.handle_done(t.now, busy, Verdict::Reusable);
    assert_eq!(t.outputs(), [Output::Assign { req, conn: busy, reused: true }]);
    t.pool.handle_connected(t.now, spare);
    assert_eq!(t.outputs(), []);
    assert_eq!((t.pool.counters().idle, t.pool.counters().dials_spare), (1, 1));
}

#[test]
fn a_dial_that_lost_its_race_covers_the_next_request() {
    let mut t = Tester::new(Limits::default());
    let busy = t.busy(1)[0];
    let _ = t.pool.handle_request(t.now, Want::Any);
    let spare = t.dialled();
    t.pool.handle_done(t.now, busy, Verdict::Reusable);
    let _ = t.outputs();
    let req = t.pool.handle_request(t.now, Want::Any);
    assert_eq!(t.outputs(), [], "the dial in flight is enough");
    t.pool.handle_connected(t.now, spare);
    assert_eq!(t.outputs(), [Output::Assign { req, conn: spare, reused: false }]);
}

#[test]
fn at_the_limit_requests_wait_in_order_and_one_too_many_is_turned_away() {
    let mut t = Tester::new(Limits { max_conns: 1, max_waiters: 2, ..Limits::default() });
    let busy = t.busy(1)[0];
    let first = t.pool.handle_request(t.now, Want::Any);
    let second = t.pool.handle_request(t.now, Want::Any);
    let third = t.pool.handle_request(t.now, Want::Any);
    assert_eq!(t.outputs(), [Output::Reject { req: third, why: RejectWhy::QueueFull }]);
    for req in [first, second] {
        t.pool.handle_done(t.now, busy, Verdict::Reusable);
        assert_eq!(t.outputs(), [Output::Assign { req, conn: busy, reused: true }]);
    }
}

#[test]
fn a_waiter_at_the_limit_is_told_so_when_its_time_is_up() {
    let mut t = Tester::new(Limits { max_conns: 1, ..Limits::default() });
    t.busy(1);
    let req = t.pool.handle_request(t.now, Want::Any);
    t.outputs();
    assert_eq!(t.pool.poll_timeout(), Some(t.now + Limits::default().wait_timeout));
    t.wait(Limits::default().wait_timeout);
    assert_eq!(t.outputs(), [Output::Reject { req, why: RejectWhy::WaitTimeout }]);
}

#[test]
fn a_wait_that_ends_during_a_dial_blames_the_upstream() {
    let mut t = Tester::new(Limits {
        wait_timeout: Duration::from_secs(1),
        dial_timeout: Duration::from_secs(2),
        ..Limits::default()
    });
    let req = t.pool.handle_request(t.now, Want::Any);
    let dial = t.dialled();
    t.wait(Duration::from_secs(1));
    assert_eq!(t.outputs(), [Output::Reject { req, why: RejectWhy::DialFailed(DialError::TimedOut) }]);
    t.wait(Duration::from_secs(1));
    assert_eq!(t.outputs(), [Output::Close { conn: dial, why: CloseWhy::DialTimeout }]);
}

#[test]
fn one_failed_dial_rejects_one_request_while_others_are_being_served() {
    let mut t = Tester::new(Limits::default());
    t.busy(1);
    let first = t.pool.handle_request(t.now, Want::Any);
    let dial = t.dialled();
    let _second = t.pool.handle_request(t.now, Want::Any);
    t.dialled();
    t.pool.handle_dial_failed(t.now, dial, DialError::Unreachable);
    assert_eq!(t.outputs(), [Output::Reject { req: first, why: RejectWhy::DialFailed(DialError::Unreachable) }]);
    assert_eq!(t.pool.counters().waiting, 1);
}

#[test]
fn when_nothing_is_open_a_failed_dial_rejects_every_waiter_that_no_dial_covers_and_dials_no_more() {
    let mut t = Tester::new(Limits { max_conns: 1, ..Limits::default() });
    let reqs: Vec<ReqId> = (0..3)
        .map(|_| {
            let req = t.pool.handle_request(t.now, Want::Any);
            t.log.extend(std::iter::from_fn(|| t.pool.poll_output()));
            req
        })
        .collect();
    let dial = t.dialled();
    t.pool.handle_dial_failed(t.now, dial, DialError::Unreachable);
    let why = RejectWhy::DialFailed(DialError::Unreachable);
    assert_eq!(t.outputs(), reqs.iter().map(|&req| Output::Reject { req, why }).collect::<Vec<_>>());
    assert!(t.pool.is_quiet());
}

#[test]
fn an_upstream_that_refuses_is_dialled_again_by_one_until_it_takes_connections_for_all() {
    let mut t = Tester::new(Limits::default());
    let ask = |_| {
        let _ = t.pool.handle_request(t.now, Want::Any);
        t.dialled()
    };
    let dials: Vec<ConnId> = (0..3).map(ask).collect();
    for dial in dials {
        t.pool.handle_dial_failed(t.now, dial, DialError::Refused);
    }
    assert_eq!(t.outputs(), [], "nobody is told yet");
    let mut again = Vec::new();
    while again.len() < 5 {
        let at = t.pool.poll_timeout().unwrap();
        t.wait(at.since(t.now));
        let dial = t.dialled();
        assert_eq!(t.outputs(), [], "one dial at a time");
        again.push(t.now);
        if again.len() < 5 {
            t.pool.handle_dial_failed(t.now, dial, DialError::Refused);
        } else {
            t.pool.handle_connected(t.now, dial);
        }
    }
    assert!(again[4].since(Instant::ZERO) < Duration::from_millis(400), "{again:?}");
    let rest = t.outputs();
    assert!(
        matches!(rest[..], [Output::Assign { reused: false, .. }, Output::Dial { .. }, Output::Dial { .. }]),
        "{rest:?}"
    );
    assert_eq!((t.pool.counters().dials, t.pool.counters().redials, t.pool.counters().waiting), (10, 5, 2));
}

#[test]
fn a_request_waits_no_longer_than_asked_for_an_upstream_that_refuses() {
    let retry = Duration::from_secs(1);
    let mut t = Tester::new(Limits { connect_retry: retry, ..Limits::default() });
    let first = t.pool.handle_request(t.now, Want::Any);
    let mut dial = t.dialled();
    let mut late = None;
    let rejected = loop {
        t.pool.handle_dial_failed(t.now, dial, DialError::Refused);
        let outputs = t.outputs();
        if !outputs.is_empty() {
            break outputs;
        }
        if late.is_none() && t.now.since(Instant::ZERO) > retry / 2 {
            late = Some(t.pool.handle_request(t.now, Want::Any));
        }
        let at = t.pool.poll_timeout().unwrap();
        t.wait(at.since(t.now));
        dial = t.dialled();
    };
    assert_eq!(rejected, [Output::Reject { req: first, why: RejectWhy::DialFailed(DialError::Refused) }]);
    assert!(t.now.since(Instant::ZERO) >= retry && t.now.since(Instant::ZERO) < retry + Duration::from_millis(300));
    assert_eq!(t.pool.counters().waiting, 1, "the later one still has time");
    // Nobody waits: nobody knocks.
    t.pool.handle_cancelled(t.now, late.unwrap());
    assert!(t.outputs().is_empty() && t.pool.poll_timeout().is_none());
}

#[test]
fn a_request_that_leaves_the_queue_lets_its_dial_become_an_idle_connection() {
    let mut t = Tester::new(Limits::default());
    let req = t.pool.handle_request(t.now, Want::Any);
    let dial = t.dialled();
    t.pool.handle_cancelled(t.now, req);
    t.pool.handle_connected(t.now, dial);
    assert_eq!(t.outputs(), []);
    assert_eq!((t.pool.counters().idle, t.pool.counters().cancelled), (1, 1));
}

#[test]
fn a_retry_gets_none_of_the_idle_connections() {
    let mut t = Tester::new(Limits { max_conns: 2, ..Limits::default() });
    let conns = t.busy(2);
    for &conn in &conns {
        t.pool.handle_done(t.now, conn, Verdict::Reusable);
    }
    let req = t.pool.handle_request(t.now, Want::Fresh);
    let outputs = t.outputs();
    assert_eq!(outputs[0], Output::Close { conn: conns[0], why: CloseWhy::Replaced });
    let Output::Dial { conn } = outputs[1] else { panic!("{outputs:?}") };
    t.pool.handle_connected(t.now, conn);
    assert_eq!(t.outputs(), [Output::Assign { req, conn, reused: false }]);
}

#[test]
fn a_retry_waits_for_its_dial_while_a_freed_connection_serves_who_came_later() {
    let mut t = Tester::new(Limits { max_conns: 2, ..Limits::default() });
    let busy = t.busy(1)[0];
    let retry = t.pool.handle_request(t.now, Want::Fresh);
    let dial = t.dialled();
    let other = t.pool.handle_request(t.now, Want::Any);
    t.pool.handle_done(t.now, busy, Verdict::Reusable);
    assert_eq!(t.outputs(), [Output::Assign { req: other, conn: busy, reused: true }]);
    t.pool.handle_connected(t.now, dial);
    assert_eq!(t.outputs(), [Output::Assign { req: retry, conn: dial, reused: false }]);
}

#[test]
fn at_the_limit_a_retry_takes_the_place_of_the_next_freed_connection() {
    let mut t = Tester::new(Limits { max_conns: 1, ..Limits::default() });
    let busy = t.busy(1)[0];
    let retry = t.pool.handle_request(t.now, Want::Fresh);
    assert_eq!(t.outputs(), []);
    t.pool.handle_done(t.now, busy, Verdict::Reusable);
    let outputs = t.outputs();
    assert_eq!(outputs[0], Output::Close { conn: busy, why: CloseWhy::Replaced });
    let Output::Dial { conn } = outputs[1] else { panic!("{outputs:?}") };
    t.pool.handle_connected(t.now, conn);
    assert_eq!(t.outputs(), [Output::Assign { req: retry, conn, reused: false }]);
}

#[test]
fn a_spike_is_forgotten_after_the_demand_window_and_its_connections_close_oldest_first() {
    let limits = Limits { min_idle: 2, idle_timeout: Duration::from_secs(600), ..Limits::default() };
    let mut t = Tester::new(limits);
    let conns = t.busy(5);
    for &conn in &conns {
        t.pool.handle_done(t.now, conn, Verdict::Reusable);
    }
    t.wait(Duration::from_secs(25));
    assert_eq!(t.outputs(), [], "the spike is still in the window");
    t.wait(Duration::from_secs(10));
    let why = CloseWhy::Surplus;
    assert_eq!(t.outputs(), conns[..3].iter().map(|&conn| Output::Close { conn, why }).collect::<Vec<_>>());
    assert_eq!(t.pool.poll_timeout(), Some(Instant::ZERO + limits.idle_timeout));
}

#[test]
fn an_idle_connection_expires_and_then_the_pool_needs_no_timer() {
    let mut t = Tester::new(Limits::default());
    let conn = t.busy(1)[0];
    t.pool.handle_done(t.now, conn, Verdict::Reusable);
    t.wait(Duration::from_secs(60));
    assert_eq!(t.outputs(), [Output::Close { conn, why: CloseWhy::IdleTimeout }]);
    assert_eq!(t.pool.poll_timeout(), None);
}

#[test]
fn a_late_response_head_frees_the_connection_and_progress_postpones_it() {
    let mut t = Tester::new(Limits::default());
    let conns = t.busy(2);
    t.wait(Duration::from_secs(50));
    t.pool.handle_progress(t.now, conns[0]);
    t.wait(Duration::from_secs(10));
    assert_eq!(t.outputs(), [Output::Close { conn: conns[1], why: CloseWhy::HeadTimeout }]);
    t.pool.handle_head(t.now, conns[0]);
    t.wait(Duration::from_secs(1000));
    assert_eq!(t.outputs(), []);
    t.pool.handle_done(t.now, conns[1], Verdict::Reusable);
    assert_eq!((t.pool.counters().active, t.pool.counters().idle), (1, 0), "a forgotten id changes nothing");
}

#[test]
fn a_draining_pool_serves_those_who_wait_and_keeps_nothing() {
    let mut t = Tester::new(Limits { max_conns: 2, ..Limits::default() });
    let conns = t.busy(2);
    t.pool.handle_done(t.now, conns[0], Verdict::Reusable);
    t.pool.drain(t.now);
    assert_eq!(t.outputs(), [Output::Close { conn: conns[0], why: CloseWhy::Drained }]);
    t.pool.handle_done(t.now, conns[1], Verdict::Reusable);
    assert_eq!(t.outputs(), [Output::Close { conn: conns[1], why: CloseWhy::Drained }]);
    assert!(t.pool.is_quiet());
}

#[test]
fn time_that_runs_backwards_is_counted_and_ignored() {
    let mut t = Tester::new(Limits::default());
    t.wait(Duration::from_secs(1));
    t.pool.handle_timeout(Instant::ZERO);
    assert_eq!(t.pool.counters().clock_backwards, 1);
}

struct Tester {
    pool: Pool,
    now: Instant,
    log: Vec<Output>,
}

impl Tester {
    fn new(limits: Limits) -> Self {
        Self { pool: Pool::new(limits), now: Instant::ZERO, log: Vec::new() }
    }

    fn wait(&mut self, d: Duration) {
        self.now = self.now + d;
        self.pool.handle_timeout(self.now);
    }

    /// Opens `n` connections, each carrying a request.
    fn busy(&mut self, n: usize) -> Vec<ConnId> {
        (0..n)
            .map(|_| {
                let _ = self.pool.handle_request(self.now, Want::Any);
                let conn = self.dialled();
                self.pool.handle_connected(self.now, conn);
                let assigned = self.outputs();
                assert!(matches!(assigned[..], [Output::Assign { conn: c, reused: false, .. }] if c == conn));
                conn
            })
            .collect()
    }

    /// The only dial asked for.
    fn dialled(&mut self) -> ConnId {
        let outputs = self.outputs();
        let [Output::Dial { conn }] = outputs[..] else { panic!("{outputs:?}") };
        conn
    }

    fn outputs(&mut self) -> Vec<Output> {
        self.log.extend(std::iter::from_fn(|| self.pool.poll_output()));
        std::mem::take(&mut self.log)
    }
}
