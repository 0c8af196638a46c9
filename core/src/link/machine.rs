//! The state machine of the link.
//!
//! Owns: the state, the backoff, the counters; no stream and no TAP, which therefore outlives every stream.
//! Driven by: the daemon's control task, the simulator, fuzz.
//! Drain: after any `handle_*` or command, [`Link::poll_output`] until `None`, then [`Link::poll_timeout`].
//! Bounds: at most four outputs are queued, because every step queues at most two and a driver drains after each.

use super::{
    ARP_FRAME, CONNECT_REQUEST, Config, DialFailure, Down, Failure, LinkCounters, MacAddr, State, Status, arp,
};
use crate::time::Instant;
use core::time::Duration;
use std::collections::VecDeque;

/// See the [module](crate::link).
#[derive(Debug)]
pub struct Link {
    config: Config,
    phase: Phase,
    since: Instant,
    now: Instant,
    outputs: VecDeque<Output>,
    rng: fastrand::Rng,
    /// Current gap: grows when a host proves slow to take the connection over, and stays grown.
    gap: Duration,
    backoff: Duration,
    attempts: u32,
    last_failure: Option<Failure>,
    gateway: Option<MacAddr>,
    counters: LinkCounters,
}

/// What the driver must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect to the host; answer with [`Link::handle_dialed`] or [`Link::handle_dial_failed`].
    Dial,
    /// Write these bytes to the new stream.
    Write(&'static [u8]),
    /// Send this frame on the stream.
    Probe([u8; ARP_FRAME]),
    /// The switch hears us: hand the stream to the TAP handler.
    Up,
    /// Take the stream back from the TAP handler, if it had it, and close it.
    Close,
    /// Something to tell the operator: this failed, and the next dial follows in `retry_in`.
    Failed {
        /// What went wrong.
        failure: Failure,
        /// Failures in a row, this one included.
        attempt: u32,
        /// Wait before the next dial.
        retry_in: Duration,
    },
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Idle,
    Dialing { deadline: Instant },
    Gap { until: Instant },
    Probing { next: Instant, deadline: Instant },
    Up { received: u64, next: Instant, unanswered: u32 },
    Backoff { until: Instant },
}

impl Link {
    /// A link at rest; [`Link::start`] sets it going.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            phase: Phase::Idle,
            since: Instant::ZERO,
            now: Instant::ZERO,
            outputs: VecDeque::with_capacity(4),
            rng: fastrand::Rng::with_seed(config.seed),
            gap: config.gap,
            backoff: config.backoff_min,
            attempts: 0,
            last_failure: None,
            gateway: None,
            counters: LinkCounters::default(),
            config,
        }
    }

    /// Where the link is.
    #[must_use]
    pub const fn state(&self) -> State {
        match self.phase {
            Phase::Idle => State::Idle,
            Phase::Dialing { .. } => State::Dialing,
            Phase::Gap { .. } => State::Gap,
            Phase::Probing { .. } => State::Probing,
            Phase::Up { .. } => State::Up,
            Phase::Backoff { .. } => State::Backoff,
        }
    }

    /// The hardware address that answered for the gateway when the link last came up.
    #[must_use]
    pub const fn gateway(&self) -> Option<MacAddr> {
        self.gateway
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> &LinkCounters {
        &self.counters
    }

    /// A snapshot for humans.
    #[must_use]
    pub const fn status(&self) -> Status {
        Status {
            state: self.state(),
            since: self.since,
            now: self.now,
            last_failure: self.last_failure,
            attempts: self.attempts,
            counters: self.counters,
        }
    }

    /// Begins to dial. Without effect unless idle.
    pub fn start(&mut self, now: Instant) {
        self.advance(now);
        if matches!(self.phase, Phase::Idle) {
            self.dial();
        }
    }

    /// Closes the stream and stays idle until [`Link::start`].
    pub fn stop(&mut self, now: Instant) {
        self.advance(now);
        self.outputs.clear();
        if !matches!(self.phase, Phase::Idle | Phase::Backoff { .. }) {
            self.outputs.push_back(Output::Close);
        }
        self.enter(Phase::Idle);
    }

    /// The dial succeeded. A dial that was given up meanwhile is told to close.
    pub fn handle_dialed(&mut self, now: Instant) {
        self.advance(now);
        match self.phase {
            Phase::Dialing { .. } => {
                self.outputs.push_back(Output::Write(CONNECT_REQUEST));
                self.enter(Phase::Gap { until: self.now + self.gap });
            }
            Phase::Idle | Phase::Backoff { .. } => self.outputs.push_back(Output::Close),
            Phase::Gap { .. } | Phase::Probing { .. } | Phase::Up { .. } => {}
        }
    }

    /// The dial failed.
    pub fn handle_dial_failed(&mut self, now: Instant, why: DialFailure) {
        self.advance(now);
        if matches!(self.phase, Phase::Dialing { .. }) {
            self.counters.dial_failures += 1;
            self.fail(Failure::Dial(why), false);
        }
    }

    /// A frame arrived before the link was up. It belongs to the TAP as any other.
    pub fn handle_frame(&mut self, now: Instant, frame: &[u8]) {
        self.advance(now);
        if matches!(self.phase, Phase::Probing { .. })
            && let Some(gateway) = arp::answerer(frame, self.config.mac, self.config.gateway)
        {
            self.gateway = Some(gateway);
            self.counters.ups += 1;
            self.attempts = 0;
            self.outputs.push_back(Output::Up);
            let next = self.now + self.config.keepalive_idle;
            self.enter(Phase::Up { received: 0, next, unanswered: 0 });
        }
    }

    /// The total so far of frames for us (`IngressCounters::for_us`); any growth is a sign of life. Told at will, at the
    /// latest before [`Link::handle_timeout`].
    pub fn handle_received(&mut self, now: Instant, total: u64) {
        self.advance(now);
        if let Phase::Up { received, next, unanswered } = &mut self.phase
            && total != *received
        {
            *received = total;
            *next = self.now + self.config.keepalive_idle;
            *unanswered = 0;
        }
    }

    /// The stream ended.
    pub fn handle_closed(&mut self, now: Instant, why: Down) {
        self.advance(now);
        match self.phase {
            Phase::Gap { .. } | Phase::Probing { .. } => self.fail(Failure::Handshake(why), true),
            Phase::Up { .. } => self.lose(why),
            Phase::Idle | Phase::Dialing { .. } | Phase::Backoff { .. } => {}
        }
    }

    /// Time has passed. A call before the deadline of [`Link::poll_timeout`] does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        let now = self.now;
        match self.phase {
            Phase::Dialing { deadline } if now >= deadline => {
                self.counters.dial_failures += 1;
                self.fail(Failure::Dial(DialFailure::TimedOut), true);
            }
            Phase::Gap { until } if now >= until => {
                self.probe();
                let next = now + self.config.probe_interval;
                self.enter(Phase::Probing { next, deadline: now + self.config.probe_timeout });
            }
            Phase::Probing { deadline, .. } if now >= deadline => {
                self.counters.probe_failures += 1;
                self.gap = (self.gap * 2).min(self.config.gap_max);
                self.fail(Failure::NoProbeAnswer, true);
            }
            Phase::Probing { next, deadline } if now >= next => {
                self.probe();
                self.phase = Phase::Probing { next: now + self.config.probe_interval, deadline };
            }
            Phase::Up { next, unanswered, .. } if now >= next && unanswered >= self.config.keepalive_probes => {
                self.counters.losses_silent += 1;
                self.lose(Down::Silent);
            }
            Phase::Up { received, next, unanswered } if now >= next => {
                self.probe();
                let next = now + self.config.keepalive_idle;
                self.phase = Phase::Up { received, next, unanswered: unanswered + 1 };
            }
            Phase::Backoff { until } if now >= until => self.dial(),
            Phase::Idle
            | Phase::Dialing { .. }
            | Phase::Gap { .. }
            | Phase::Probing { .. }
            | Phase::Up { .. }
            | Phase::Backoff { .. } => {}
        }
    }

    /// The next thing to do, in order.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Link::handle_timeout`]; `None` means never. At once while there is output to be drained.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.outputs.is_empty() {
            return Some(self.now);
        }
        match self.phase {
            Phase::Idle => None,
            Phase::Dialing { deadline } => Some(deadline),
            Phase::Probing { next, deadline } => Some(next.min(deadline)),
            Phase::Up { next, .. } => Some(next),
            Phase::Gap { until } | Phase::Backoff { until } => Some(until),
        }
    }

    fn dial(&mut self) {
        self.counters.dials += 1;
        self.outputs.push_back(Output::Dial);
        self.enter(Phase::Dialing { deadline: self.now + self.config.dial_timeout });
    }

    fn probe(&mut self) {
        self.counters.probes += 1;
        let frame = arp::request(self.config.mac, self.config.address, self.config.gateway);
        self.outputs.push_back(Output::Probe(frame));
    }

    fn lose(&mut self, why: Down) {
        self.counters.losses += 1;
        if self.now.since(self.since) >= self.config.stable_after {
            self.backoff = self.config.backoff_min;
        }
        self.fail(Failure::Lost(why), true);
    }

    fn fail(&mut self, failure: Failure, close: bool) {
        if close {
            self.outputs.push_back(Output::Close);
        }
        self.attempts = self.attempts.saturating_add(1);
        self.last_failure = Some(failure);
        let retry_in = self.jittered();
        self.backoff = (self.backoff * 2).min(self.config.backoff_max);
        self.outputs.push_back(Output::Failed { failure, attempt: self.attempts, retry_in });
        self.enter(Phase::Backoff { until: self.now + retry_in });
    }

    /// Between half the backoff and all of it.
    fn jittered(&mut self) -> Duration {
        let nanos = u64::try_from(self.backoff.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.u64(nanos / 2..=nanos))
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = self.now;
        self.counters.up = u64::from(matches!(phase, Phase::Up { .. }));
    }

    fn advance(&mut self, now: Instant) {
        if now < self.now {
            self.counters.clock_regressions += 1;
        } else {
            self.now = now;
        }
    }
}

#[cfg(test)]
mod tests;
