//! A report as an SVG picture: lines over the number of connections, or bars.
//!
//! Text has the reader's sans-serif font. Nothing is told by colour alone: lines differ in dashes, markers and lightness,
//! bars have their names beside them. A function of the report alone. Bound: [`looks::LOOKS`] lines.

mod axis;
mod bars;
mod canvas;
mod lines;
mod looks;

use super::report::Report;
use plotters::drawing::DrawingAreaErrorKind;

/// Why a report has no picture.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PictureError {
    #[error("there is nothing to draw: no measurement gave a rate above zero")]
    Empty,
    #[error("{0} lines cannot be told apart in one picture; leave some out with --no-peers")]
    TooMany(usize),
    #[error("cannot draw the picture: {0}")]
    Draw(#[from] DrawingAreaErrorKind<std::io::Error>),
}

/// Draws the report as an SVG document.
pub(crate) fn svg(report: &Report) -> Result<String, PictureError> {
    if !report.rows.iter().any(|row| row.rate.median > 0.0) {
        return Err(PictureError::Empty);
    }
    match report.bench {
        "figure" | "proxy" => lines::draw(report),
        _ => bars::draw(report),
    }
}

/// What a picture says about where it comes from.
fn origin(report: &Report) -> String {
    let peers: String = report.machine.peers.iter().map(|peer| format!(", {peer}")).collect();
    format!(
        "nitrotap {} bench {}{peers}; {} cores, {}, {}; medians of {} x {} s, whiskers from least to greatest",
        report.machine.nitrotap,
        report.bench,
        report.machine.cores,
        report.machine.processor,
        report.machine.kernel,
        report.repetitions,
        report.measured_seconds
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{
        machine::Facts,
        report::{Percentiles, SCHEMA, Unit},
        verdict::{GATEWAY, TAP, tests::row},
    };

    pub(super) fn report(bench: &'static str) -> Report {
        let mut rows = Vec::new();
        for (subject, rate) in [("a < b & \"c\"", 1000.0), ("ours", 9000.0)] {
            for n in [1, 64, 1024] {
                let mut row = row(
                    subject,
                    "requests",
                    Unit::Requests,
                    rate * f64::from(n),
                    &[(TAP, 1.0, 0.5), (GATEWAY, 2.0, 1.0)],
                );
                row.connections = n;
                row.latency_us = Some(Percentiles { p50: 90.0, p90: 100.0, p99: 200.0, p999: 300.0, max: 400.0 });
                rows.push(row);
            }
            rows.push(row(subject, "enclave to host", Unit::Gigabits, rate / 1000.0, &[]));
        }
        Report {
            schema: SCHEMA,
            bench,
            machine: Facts {
                nitrotap: "0.1.0".to_owned(),
                kernel: "Linux 6.1".to_owned(),
                architecture: "x86_64".to_owned(),
                processor: "Test".to_owned(),
                cores: 2,
                steal_share: 0.0,
                peers: vec![],
            },
            split_cores: None,
            repetitions: 5,
            warm_up_seconds: 0.5,
            measured_seconds: 3.0,
            rows,
            verdicts: vec![],
            notes: vec![],
        }
    }

    /// One element, text escaped, nothing left open: as much XML as we write.
    fn well_formed(svg: &str) {
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{}", &svg[..80]);
        let mut open = Vec::new();
        for part in svg.split('<').skip(1) {
            let (tag, text) = part.split_once('>').expect("every tag is closed");
            assert!(!text.contains('>') || !text.contains('<'), "{text}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(tag.split_whitespace().next().expect("a tag has a name"));
            }
            for entity in text.split('&').skip(1) {
                assert!(
                    ["lt;", "gt;", "amp;", "quot;", "apos;"].iter().any(|known| entity.starts_with(known)),
                    "{entity}"
                );
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn lines_have_axes_with_units_and_a_legend() {
        let svg = svg(&report("figure")).unwrap();
        well_formed(&svg);
        for text in
            ["requests/s", "p50 (µs)", "p99 (µs)", "connections", "1024", "ours", "a &lt; b &amp; &quot;c&quot;"]
        {
            assert!(svg.contains(text), "{text} is missing");
        }
    }

    #[test]
    fn bars_have_units_and_names() {
        let svg = svg(&report("e2e")).unwrap();
        well_formed(&svg);
        for text in ["Gbit/s", "requests/s", "64 x requests", "enclave to host", "ours", "MTU 1500"] {
            assert!(svg.contains(text), "{text} is missing");
        }
    }

    #[test]
    fn nothing_has_no_picture() {
        let mut report = report("e2e");
        report.rows.clear();
        assert!(matches!(svg(&report), Err(PictureError::Empty)));
    }
}
