//! Waiting for conditions with a deadline: the only clock of the harness.

use std::time::{Duration, Instant};

/// How long anything may take that takes seconds at most on an idle machine. Long, because it only ends failing tests.
pub const SOON: Duration = Duration::from_secs(60);

/// How long a bulk transfer or a long back-off may take.
pub const LATER: Duration = Duration::from_secs(180);

const POLL: Duration = Duration::from_millis(10);

/// The time from some fixed point, for deadlines and for the few figures that tests report.
#[expect(clippy::disallowed_methods, reason = "tests wait on the real clock, here and nowhere else")]
pub fn now() -> Instant {
    Instant::now()
}

/// Calls `probe` until it gives a value, and panics with `what` once `limit` has passed.
pub fn until<T>(what: &str, limit: Duration, probe: impl FnMut() -> Option<T>) -> T {
    try_until(limit, probe).unwrap_or_else(|| panic!("still waiting after {limit:?}: {what}"))
}

/// Calls `probe` until it gives a value; `None` once `limit` has passed.
pub fn try_until<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let start = now();
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if start.elapsed() >= limit {
            return None;
        }
        std::thread::sleep(POLL);
    }
}
