//! The only place that reads a clock.

use nitrotap_core::time::Instant;

/// `CLOCK_MONOTONIC` since the process began to care.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: std::time::Instant,
    /// What the clock on the wall said then.
    wall: std::time::SystemTime,
}

#[expect(clippy::disallowed_methods, reason = "here the world's time becomes an argument")]
impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: std::time::Instant::now(), wall: std::time::SystemTime::now() }
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Nanoseconds from 1970-01-01 00:00 UTC to [`Instant::ZERO`]; 0 where the wall's clock is before that.
    pub(crate) fn epoch(&self) -> u64 {
        let since = self.wall.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The tokio deadline that corresponds to `at`.
    pub(crate) fn deadline(&self, at: Instant) -> tokio::time::Instant {
        (self.start + at.since(Instant::ZERO)).into()
    }
}
