//! Model time on a turmoil host, and the dilation between the two.
//!
//! tokio's clock has a grain of one millisecond, so that what a vsock does (microseconds) cannot be told apart at a scale
//! of 1:1. A [`Scale`] says how many nanoseconds of the model one simulated millisecond stands for; everything outside
//! this file speaks model time, as [`Instant`] and [`Duration`].

pub use nitrotap_core::time::Instant;
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

/// How many nanoseconds of the model one simulated millisecond is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Scale(u64);

impl Scale {
    /// For throughput: a grain of 100 ns, ten times finer than the cheapest modelled step.
    pub const FINE: Self = Self(100);
    /// For faults: model time is simulated time, and idle seconds cost little.
    pub const REAL: Self = Self(1_000_000);

    /// The smallest difference in time that this scale can express.
    #[must_use]
    pub const fn grain(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// Simulated time for a stretch of model time, rounded up to whole milliseconds.
    #[must_use]
    pub fn simulated(self, model: Duration) -> Duration {
        let nanos = u64::try_from(model.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_millis(nanos.div_ceil(self.0))
    }
}

/// Reads model time on the turmoil host it was made on.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The host's tokio clock when simulated time was zero.
    origin: tokio::time::Instant,
    scale: Scale,
}

impl Clock {
    /// The clock of the host around this call; its runtime starts anew with each restart, simulated time does not.
    ///
    /// # Panics
    /// Outside a turmoil host.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one reader of the clock below")]
    pub fn here(scale: Scale) -> Self {
        let elapsed = turmoil::sim_elapsed().expect("called inside a turmoil host");
        Self { origin: tokio::time::Instant::now() - elapsed, scale }
    }

    /// Model time now.
    #[must_use]
    pub fn now(&self) -> Instant {
        let millis = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        Instant::from_nanos(millis.saturating_mul(self.scale.0))
    }

    /// The smallest difference in time that this clock shows.
    #[must_use]
    pub const fn grain(&self) -> Duration {
        self.scale.grain()
    }

    /// The deadline of tokio's clock that is nearest to `at`.
    #[must_use]
    pub fn deadline(&self, at: Instant) -> tokio::time::Instant {
        let millis = at.as_nanos().saturating_add(self.scale.0 / 2) / self.scale.0;
        self.origin + Duration::from_millis(millis)
    }

    /// Completes at `at`, to the nearest grain; at once if that is over.
    #[expect(clippy::disallowed_methods, reason = "the one sleeper on the clock below")]
    pub async fn sleep_until(self, at: Instant) {
        let deadline = self.deadline(at);
        if deadline > tokio::time::Instant::now() {
            tokio::time::sleep_until(deadline).await;
        }
    }

    /// Completes when [`Self::now`] shows `at` or later: a machine that is woken earlier would only ask to be woken again.
    pub async fn sleep_past(self, at: Instant) {
        let grain = self.scale.0;
        self.sleep_until(Instant::from_nanos(at.as_nanos().div_ceil(grain).saturating_mul(grain))).await;
    }

    /// Completes after `wait` of model time.
    pub async fn sleep(self, wait: Duration) {
        self.sleep_until(self.now() + wait).await;
    }
}

/// The clock that shipped code is given: model time plus a skew that a fault can change under its feet.
#[derive(Clone, Debug)]
pub struct SkewedClock {
    clock: Clock,
    skew_ns: Arc<AtomicI64>,
}

impl SkewedClock {
    /// A clock without skew.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, skew_ns: Arc::default() }
    }

    /// What the skewed clock shows; never before zero.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::from_nanos(self.clock.now().as_nanos().saturating_add_signed(self.skew_ns.load(Relaxed)))
    }

    /// Completes when the skewed clock, as it runs now, shows `at`. A jump that comes later is not noticed: that is how
    /// timers armed on a monotonic clock behave.
    pub fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send + 'static {
        let Self { clock, skew_ns } = self.clone();
        let at = Instant::from_nanos(at.as_nanos().saturating_add_signed(-skew_ns.load(Relaxed)));
        async move { clock.sleep_past(at).await }
    }

    /// Jumps by this much, forwards or backwards.
    pub fn jump(&self, by_ns: i64) {
        self.skew_ns.fetch_add(by_ns, Relaxed);
    }
}

/// Nanoseconds as a duration.
#[must_use]
pub(crate) const fn ns(nanos: u64) -> Duration {
    Duration::from_nanos(nanos)
}
