//! A report as text for a terminal.

use super::report::{Report, Row};
use std::fmt::Write;

/// Rows grouped by work, then what to conclude.
pub(crate) fn text(report: &Report) -> String {
    let mut out = String::new();
    let machine = &report.machine;
    let _ = writeln!(
        out,
        "nitrotap {} bench {}: {} cores, {}, {} {}{}",
        machine.nitrotap,
        report.bench,
        machine.cores,
        machine.processor,
        machine.kernel,
        machine.architecture,
        machine.peers.iter().map(|peer| format!(", {peer}")).collect::<String>()
    );
    let _ = writeln!(
        out,
        "medians of {} x {} s (least..greatest), subjects in turns; steal {:.1} %",
        report.repetitions,
        report.measured_seconds,
        machine.steal_share * 100.0
    );
    let subject = report.rows.iter().map(|row| row.subject.chars().count()).max().unwrap_or(0).max(7);
    let mut groups: Vec<(&str, Option<u16>, u32)> = Vec::new();
    for row in &report.rows {
        let group = (row.work.as_str(), row.mtu_bytes, row.connections);
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    for (work, mtu, connections) in groups {
        let rows = report.rows.iter();
        let rows: Vec<&Row> = rows
            .filter(|row| (row.work.as_str(), row.mtu_bytes, row.connections) == (work, mtu, connections))
            .collect();
        let mtu = mtu.map_or(String::new(), |mtu| format!(", MTU {mtu}"));
        let unit = rows.first().map_or("", |row| row.unit.rate());
        let _ = writeln!(out, "\n{connections} x {work}{mtu}, {unit}");
        for row in rows {
            line(&mut out, row, subject);
        }
    }
    if !report.verdicts.is_empty() {
        let _ = writeln!(out, "\nWhich saturates first (a component's limit is 1 / its processor time per unit)");
    }
    for verdict in &report.verdicts {
        let _ = writeln!(out, "  {}: {}", verdict.about(), verdict.text);
    }
    if !report.notes.is_empty() {
        out.push('\n');
    }
    for note in &report.notes {
        let _ = writeln!(out, "  {note}");
    }
    out
}

fn line(out: &mut String, row: &Row, subject: usize) {
    let range = format!("({}..{})", short(row.rate.min), short(row.rate.max));
    let _ = write!(out, "  {:subject$} {:>8} {range:<17}", row.subject, short(row.rate.median));
    if let Some(latency) = &row.latency_us {
        let _ = write!(
            out,
            " p50 {} p90 {} p99 {} p99.9 {} us;",
            short(latency.p50),
            short(latency.p90),
            short(latency.p99),
            short(latency.p999)
        );
    }
    if let Some(frames) = &row.frames_per_second {
        let _ = write!(out, " {} frames/s;", short(frames.median));
    }
    if let Some(calls) = &row.calls_per_second {
        let _ = write!(out, " {} calls/s;", short(calls.median));
    }
    for (index, time) in row.processors.iter().enumerate() {
        let _ = write!(
            out,
            "{} {} {} {} ({:.0} %)",
            if index == 0 { "" } else { "," },
            time.role,
            short(time.cost.median),
            row.unit.per(),
            time.busy_cores * 100.0
        );
    }
    if row.errors > 0 {
        let _ = write!(out, "; {} FAILED", row.errors);
    }
    out.push('\n');
}

/// Three digits or so.
fn short(value: f64) -> String {
    match value.abs() {
        1e6.. => format!("{:.2}M", value / 1e6),
        1e4.. => format!("{:.1}k", value / 1e3),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{
        machine::Facts,
        report::{Percentiles, SCHEMA, Unit},
        verdict::{GATEWAY, TAP, tests::row, verdicts},
    };

    fn report() -> Report {
        let mut rows = vec![
            row(
                "ours",
                "enclave to host",
                Unit::Gigabits,
                12.345,
                &[("client", 0.1, 0.2), (TAP, 0.5, 0.8), (GATEWAY, 0.25, 0.4)],
            ),
            row(
                "stock",
                "enclave to host",
                Unit::Gigabits,
                1.5,
                &[("client", 0.1, 0.02), (TAP, 1.5, 0.3), (GATEWAY, 6.0, 1.1)],
            ),
            row("ours", "hello-world requests", Unit::Requests, 123_456.0, &[(TAP, 4.0, 0.5), (GATEWAY, 5.0, 0.6)]),
        ];
        rows[0].frames_per_second = rows[1].frames_per_second.clone().or_else(|| Some(rows[0].rate.clone()));
        rows[2].latency_us = Some(Percentiles { p50: 90.0, p90: 100.0, p99: 2000.4, p999: 30_000.0, max: 40_000.0 });
        rows[2].errors = 3;
        let machine = Facts {
            nitrotap: "0.1.0".to_owned(),
            kernel: "Linux 6.1".to_owned(),
            architecture: "x86_64".to_owned(),
            processor: "Test".to_owned(),
            cores: 2,
            steal_share: 0.012,
            peers: vec!["gvproxy: 1".to_owned()],
        };
        Report {
            schema: SCHEMA,
            bench: "e2e",
            machine,
            split_cores: None,
            repetitions: 5,
            warm_up_seconds: 0.75,
            measured_seconds: 3.0,
            verdicts: verdicts(&rows),
            rows,
            notes: vec!["a note".to_owned()],
        }
    }

    #[test]
    fn a_table_shows_rates_times_and_who_saturates_first() {
        insta::assert_snapshot!("a_report_as_a_table", text(&report()));
    }

    #[test]
    fn the_json_names_its_units() {
        insta::assert_snapshot!("a_report_as_json", serde_json::to_string_pretty(&report()).unwrap());
    }
}
