//! What a bench found, as it is written to JSON. Names carry their units.
//!
//! `schema` changes when a field changes its meaning or goes; new fields may come at any time.

use super::{machine::Facts, sides::Split, stats::Spread, verdict::Verdict};
use serde::Serialize;

/// The schema of this form of the report.
pub(crate) const SCHEMA: &str = "nitrotap-bench/1";

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Report {
    pub(crate) schema: &'static str,
    /// `link`, `tap`, `host`, `proxy`, `e2e` or `figure`.
    pub(crate) bench: &'static str,
    pub(crate) machine: Facts,
    /// The processors of each side, if they had not all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) split_cores: Option<Split>,
    pub(crate) repetitions: u32,
    pub(crate) warm_up_seconds: f64,
    pub(crate) measured_seconds: f64,
    pub(crate) rows: Vec<Row>,
    /// Which component saturates first, by subject.
    pub(crate) verdicts: Vec<Verdict>,
    /// What a reader has to know.
    pub(crate) notes: Vec<String>,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    /// Who was measured.
    pub(crate) subject: String,
    /// Doing what.
    pub(crate) work: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mtu_bytes: Option<u16>,
    /// Streams or connections.
    pub(crate) connections: u32,
    pub(crate) unit: Unit,
    /// In the unit, per second.
    pub(crate) rate: Spread,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) frames_per_second: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) calls_per_second: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency_us: Option<Percentiles>,
    /// Operations that failed, in all repetitions.
    pub(crate) errors: u64,
    pub(crate) processors: Vec<RoleTime>,
}

/// What a rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Gigabits,
    Requests,
    Connections,
}

impl Unit {
    /// For people, with its time.
    pub(crate) const fn rate(self) -> &'static str {
        match self {
            Self::Gigabits => "Gbit/s",
            Self::Requests => "requests/s",
            Self::Connections => "connections/s",
        }
    }

    /// What costs are told per: a gigabyte (10^9 bytes), or a million of the others, so that both are seconds.
    pub(crate) const fn per(self) -> &'static str {
        match self {
            Self::Gigabits => "s/GB",
            Self::Requests | Self::Connections => "us each",
        }
    }
}

/// Medians of the repetitions' percentiles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// Processor time of one role.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct RoleTime {
    /// `client`, `tap handler`, `gateway`, `far end`, `null host`, `proxy` or `app`.
    pub(crate) role: String,
    /// Seconds per gigabyte, or microseconds per request or connection.
    pub(crate) cost: Spread,
    /// Median of processor seconds per second: 1 is a whole core.
    pub(crate) busy_cores: f64,
}

impl Row {
    pub(crate) fn role(&self, role: &str) -> Option<&RoleTime> {
        self.processors.iter().find(|time| time.role == role)
    }
}
