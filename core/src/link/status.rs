//! What a link says of itself: state, the reasons of its failures, counters, and one line for a human.

use crate::time::Instant;
use core::{fmt, time::Duration};

/// Where the link is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started, or stopped.
    Idle,
    /// Waiting for the driver to connect.
    Dialing,
    /// `/connect` was sent; silent on purpose.
    Gap,
    /// Waiting for the gateway's ARP answer.
    Probing,
    /// Frames flow.
    Up,
    /// Waiting for the next dial.
    Backoff,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Dialing => "dialing",
            Self::Gap | Self::Probing => "probing",
            Self::Up => "up",
            Self::Backoff => "waiting to redial",
        })
    }
}

/// Why a dial failed, as the driver saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialFailure {
    /// Nobody listens: `ECONNREFUSED`, or `ECONNRESET` as vsock reports it.
    Refused,
    /// The socket's path does not exist: `ENOENT`.
    NotFound,
    /// No such context identifier or no route: `ENODEV`, `EHOSTUNREACH`, `ENETUNREACH`.
    Unreachable,
    /// `EACCES`, `EPERM`.
    Permission,
    /// No answer in time.
    TimedOut,
    /// This machine has no such kind of socket: `EAFNOSUPPORT`.
    Unsupported,
    /// Any other error number.
    Other(i32),
}

/// Why a link that had a stream no longer has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// The host closed the stream.
    Closed,
    /// The host closed the stream inside a frame.
    Truncated,
    /// Reading or writing failed with this error number.
    Io(i32),
    /// The host did not answer a number of signs of life.
    Silent,
    /// The host sent more than a handshake's worth of bytes without answering the probe.
    Flood,
    /// We are stopping.
    Stopped,
}

/// The latest thing that went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The dial failed.
    Dial(DialFailure),
    /// The stream ended before the gateway answered.
    Handshake(Down),
    /// The stream was there, but the gateway did not answer the ARP request.
    NoProbeAnswer,
    /// A link that was up was lost.
    Lost(Down),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dial(why) => match why {
                DialFailure::Refused => f.write_str("connection refused: nothing listens there"),
                DialFailure::NotFound => f.write_str("no such socket: the host side is not running"),
                DialFailure::Unreachable => f.write_str("no such host or context identifier"),
                DialFailure::Permission => f.write_str("permission denied"),
                DialFailure::TimedOut => f.write_str("no answer to the dial"),
                DialFailure::Unsupported => {
                    f.write_str("this kernel has no such socket family (is the vsock module loaded?)")
                }
                DialFailure::Other(errno) => write!(f, "the dial failed (errno {errno})"),
            },
            Self::Handshake(down) => write!(f, "{down} before the gateway answered"),
            Self::NoProbeAnswer => {
                f.write_str("connected, but the gateway does not answer ARP (is a gvproxy behind it?)")
            }
            Self::Lost(down) => down.fmt(f),
        }
    }
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the host closed the stream"),
            Self::Truncated => f.write_str("the host closed the stream inside a frame"),
            Self::Io(errno) => write!(f, "the stream failed (errno {errno})"),
            Self::Flood => f.write_str("the host sent too much"),
            Self::Silent => f.write_str("the host fell silent"),
            Self::Stopped => f.write_str("stopping"),
        }
    }
}

crate::counters! {
    /// What a link went through.
    pub struct LinkCounters {
        /// Whether frames flow: 1 up, 0 not.
        up: Gauge "nitrotap_link_up" {},
        /// Dials of the host.
        dials: Counter "nitrotap_link_dials" {},
        /// Dials that failed.
        dial_failures: Counter "nitrotap_link_dial_failures" {},
        /// Streams given up because the gateway did not answer the first ARP request.
        probe_failures: Counter "nitrotap_link_probe_failures" {},
        /// Times the link came up.
        ups: Counter "nitrotap_link_ups" {},
        /// Times a link that was up was lost.
        losses: Counter "nitrotap_link_losses" {},
        /// Losses because the host fell silent.
        losses_silent: Counter "nitrotap_link_losses_silent" {},
        /// ARP requests sent to prove that the host hears us.
        probes: Counter "nitrotap_link_probes" {},
        /// Times an input carried an older time than the one before; it was taken as that one.
        clock_regressions: Counter "nitrotap_link_clock_regressions" {},
    }
}

/// A snapshot; its `Display` is one line for a human.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where the link is.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// When the snapshot was taken.
    pub now: Instant,
    /// The latest failure, if any.
    pub last_failure: Option<Failure>,
    /// Failed attempts since the link was last up.
    pub attempts: u32,
    /// All counters.
    pub counters: LinkCounters,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.counters;
        write!(f, "link {} for {}", self.state, Seconds(self.now.since(self.since)))?;
        write!(f, ", {} dials ({} failed), up {} times, lost {}", c.dials, c.dial_failures, c.ups, c.losses)?;
        if self.attempts > 0 {
            write!(f, ", {} attempts since", self.attempts)?;
        }
        match self.last_failure {
            Some(failure) => write!(f, "; last failure: {failure}"),
            None => Ok(()),
        }
    }
}

struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s", self.0.as_secs_f64())
    }
}
