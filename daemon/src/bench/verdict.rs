//! Which component saturates first, in words, from what each spends per unit of work.
//!
//! A component that spends `s` seconds of processor time per unit moves at most `1/s` units per second on a core of its
//! own. Of those in a row, the one with the greatest `s` is the first to be full, whatever else shares the machine. What
//! the load generators and the app spend is no component's fault and is left out.

use super::{
    report::{Row, Unit},
    stats::geometric_mean,
};
use serde::Serialize;
use std::fmt::Write;

/// Of one subject at one MTU, doing one kind of work.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mtu_bytes: Option<u16>,
    /// Of the works that this is about.
    pub(crate) unit: Unit,
    /// The component that costs most.
    pub(crate) worse_offender: String,
    /// Its cost over that of the next, as the geometric mean of these works; `None` if it is alone.
    pub(crate) times_the_next: Option<f64>,
    /// The answer in words.
    pub(crate) text: String,
}

impl Verdict {
    /// Who and what it is about.
    pub(crate) fn about(&self) -> String {
        let mtu = self.mtu_bytes.map_or(String::new(), |mtu| format!(", MTU {mtu}"));
        let work = match self.unit {
            Unit::Gigabits => "bulk",
            Unit::Requests => "requests",
            Unit::Connections => "new connections",
        };
        format!("{}{mtu}, {work}", self.subject)
    }
}

/// Components that people can do something about, as roles.
pub(crate) const TAP: &str = "tap handler";
pub(crate) const GATEWAY: &str = "gateway";
pub(crate) const PROXY: &str = "proxy";
/// Of two kernels with a stream between, the one outside.
pub(crate) const FAR_END: &str = "far end";
const COMPONENTS: [&str; 3] = [TAP, GATEWAY, PROXY];

/// From here on a process counts as one that keeps a core busy, in cores: ticks and the window's ends cost the rest.
const FULL: f64 = 0.95;

/// One verdict for each subject, MTU and unit with a component, in the order of the rows.
pub(crate) fn verdicts(rows: &[Row]) -> Vec<Verdict> {
    let mut subjects: Vec<(&str, Option<u16>, Unit)> = Vec::new();
    for row in rows {
        let subject = (row.subject.as_str(), row.mtu_bytes, row.unit);
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
    }
    subjects
        .into_iter()
        .filter_map(|(subject, mtu, unit)| {
            let of = |row: &&Row| (row.subject.as_str(), row.mtu_bytes, row.unit) == (subject, mtu, unit);
            of_subject(subject, mtu, unit, &rows.iter().filter(of).collect::<Vec<_>>())
        })
        .collect()
}

fn of_subject(subject: &str, mtu_bytes: Option<u16>, unit: Unit, rows: &[&Row]) -> Option<Verdict> {
    // Both ends are the same, and nobody ships them: there is no offender.
    if rows.iter().any(|row| row.role(FAR_END).is_some()) {
        return None;
    }
    let cost = |row: &Row, role: &str| row.role(role).map(|time| time.cost.median).filter(|cost| *cost > 0.0);
    let mut present: Vec<&str> =
        COMPONENTS.into_iter().filter(|role| rows.iter().any(|row| cost(row, role).is_some())).collect();
    // How much dearer one is than another over all works that show both.
    let ratio = |one: &str, other: &str| {
        let ratios: Vec<f64> = rows.iter().filter_map(|row| Some(cost(row, one)? / cost(row, other)?)).collect();
        geometric_mean(&ratios)
    };
    present.sort_by(|a, b| ratio(b, a).unwrap_or(1.0).total_cmp(&1.0));
    let worst = *present.first()?;
    let next = present.get(1).copied();
    let times = next.and_then(|next| ratio(worst, next));
    let mut text = match (next, times) {
        (Some(next), Some(times)) => format!("worse offender: {worst}, {times:.1}x the {next}"),
        _ => format!("{worst} alone"),
    };
    if let Some(row) = telling(rows, worst) {
        let _ = write!(text, ". {}", capacities(row, &present));
    }
    let full = rows.iter().filter_map(|row| row.role(worst)).filter(|time| time.busy_cores >= FULL).count();
    if full > 0 {
        let _ = write!(text, "; the {worst} kept a core or more busy in {full} of {} works", rows.len());
    }
    Some(Verdict {
        subject: subject.to_owned(),
        mtu_bytes,
        unit,
        worse_offender: worst.to_owned(),
        times_the_next: times,
        text,
    })
}

/// The row to tell limits from: of bulk, that in which `role` costs most; of requests, the fastest, in which nobody sleeps
/// much, since a wake-up for each request is no limit.
fn telling<'a>(rows: &[&'a Row], role: &str) -> Option<&'a Row> {
    let weight = |row: &Row| match row.unit {
        Unit::Gigabits => row.role(role).map_or(0.0, |time| time.cost.median),
        Unit::Requests | Unit::Connections => row.rate.median,
    };
    rows.iter().copied().max_by(|a, b| weight(a).total_cmp(&weight(b)))
}

/// What each would move on a core of its own.
fn capacities(row: &Row, roles: &[&str]) -> String {
    let mut parts = Vec::new();
    for role in roles {
        let Some(cost) = row.role(role).map(|time| time.cost.median).filter(|cost| *cost > 0.0) else { continue };
        parts.push(match row.unit {
            Unit::Gigabits => format!("{role} {:.1} Gbit/s ({cost:.2} s/GB)", 8.0 / cost),
            Unit::Requests => format!("{role} {:.0} requests/s ({cost:.1} us each)", 1e6 / cost),
            Unit::Connections => format!("{role} {:.0} connections/s ({cost:.1} us each)", 1e6 / cost),
        });
    }
    let own = if parts.len() == 1 { "On a core of its own" } else { "With a core for each" };
    format!("{own}, {} x {}: {}", row.connections, row.work, parts.join(", "))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::bench::{report::RoleTime, stats::Spread};

    /// A row as no machine measured it.
    pub(crate) fn row(subject: &str, work: &str, unit: Unit, rate: f64, roles: &[(&str, f64, f64)]) -> Row {
        let spread = |median: f64| Spread { median, min: median * 0.9, max: median * 1.1, mad: median * 0.05 };
        Row {
            subject: subject.to_owned(),
            work: work.to_owned(),
            mtu_bytes: Some(1500),
            connections: 8,
            unit,
            rate: spread(rate),
            frames_per_second: None,
            calls_per_second: None,
            latency_us: None,
            errors: 0,
            processors: roles
                .iter()
                .map(|(role, cost, busy)| RoleTime { role: (*role).to_owned(), cost: spread(*cost), busy_cores: *busy })
                .collect(),
        }
    }

    #[test]
    fn the_component_that_costs_most_is_named_with_its_ratio() {
        let rows = [
            row("stock", "send", Unit::Gigabits, 1.0, &[(TAP, 4.0, 0.5), (GATEWAY, 8.0, 1.0), ("client", 50.0, 0.9)]),
            row("stock", "receive", Unit::Gigabits, 1.0, &[(TAP, 8.0, 0.5), (GATEWAY, 8.0, 0.6)]),
            row("ours", "send", Unit::Gigabits, 1.0, &[(TAP, 1.0, 0.95), (GATEWAY, 0.5, 0.6)]),
            row("ours", "ask", Unit::Requests, 1.0, &[(TAP, 1.0, 0.5), (GATEWAY, 3.0, 0.6)]),
        ];
        let verdicts = verdicts(&rows);
        let text: Vec<_> = verdicts.iter().map(|v| format!("{}: {}", v.about(), v.text)).collect();
        insta::assert_snapshot!("the_worse_offender_in_words", text.join("\n"));
    }

    #[test]
    fn a_component_alone_is_no_offender_and_none_is_no_verdict() {
        let alone = [row("ours", "ask", Unit::Requests, 1.0, &[(PROXY, 20.0, 0.4), ("app", 90.0, 0.4)])];
        insta::assert_snapshot!("a_component_alone_in_words", verdicts(&alone)[0].text);
        assert_eq!(verdicts(&[row("x", "ask", Unit::Requests, 1.0, &[("app", 1.0, 1.0)])]), []);
        assert_eq!(verdicts(&[row("x", "send", Unit::Gigabits, 1.0, &[(TAP, 2.0, 1.0), (FAR_END, 1.0, 1.0)])]), []);
    }
}
