//! The points of a figure, and the figure as text: a table for people, CSV and JSON for programs.
//!
//! Owns: [`Point`] and [`Figure`], plain values. Rendering is a function of the value alone, so two runs of one seed
//! give the same bytes.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt::Write as _};

/// What one scenario does at one number of connections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The path that requests take, as it stands in column heads and legends.
    pub scenario: String,
    /// Connections of the closed loop; each has one request outstanding at most.
    pub connections: u32,
    /// Completed requests per second of virtual time, after the warm-up.
    pub requests_per_s: f64,
    /// Median response time, in microseconds of virtual time.
    pub p50_us: f64,
    /// 99th percentile of the response time, in microseconds of virtual time.
    pub p99_us: f64,
    /// Requests that failed; they count in none of the other fields.
    pub errors: u64,
}

/// Points of several scenarios that were run with the same parameters and seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What is shown; contains the word "simulated".
    pub title: String,
    /// Name of the parameter file.
    pub parameters: String,
    /// Hash of the parameter file, which tells apart two files of one name.
    pub parameters_hash: String,
    /// Seed of the runs.
    pub seed: u64,
    /// In the order in which scenarios become columns and legend entries; at most one for each scenario and number of
    /// connections, of several the first is shown.
    pub points: Vec<Point>,
}

impl Figure {
    /// Renders the figure for people: requests/s, then p50 and p99, by connections (rows) and scenario (columns).
    ///
    /// A point that is missing is a `-`. Percentiles from 10 ms up are abbreviated (`12.3k` us). Up to nine scenarios
    /// take 137 columns at most; more continue in a further block. Failed requests are listed at the end, since a
    /// scenario that sheds load looks fast.
    #[must_use]
    pub fn table(&self) -> String {
        let scenarios = self.scenarios();
        let mut out = format!(
            "{}\nparameters {}, hash {}\nseed {}\n",
            self.heading(),
            self.parameters,
            self.parameters_hash,
            self.seed
        );
        for scenarios in scenarios.chunks(BLOCK_SCENARIOS) {
            out.push_str("\nrequests/s\n");
            self.block(&mut out, scenarios, |point| whole(point.requests_per_s));
        }
        for scenarios in scenarios.chunks(BLOCK_SCENARIOS) {
            out.push_str("\np50 / p99 us\n");
            self.block(&mut out, scenarios, |point| format!("{} / {}", short(point.p50_us), short(point.p99_us)));
        }
        let mut failed = self.points.iter().filter(|point| point.errors > 0).peekable();
        if failed.peek().is_some() {
            out.push_str("\nfailed requests\n");
        }
        for point in failed {
            line(&mut out, format_args!("{} at {} connections: {}", point.scenario, point.connections, point.errors));
        }
        out
    }

    /// Renders the figure as CSV (RFC 4180, lines end in CR LF): one head line, one line for each point.
    ///
    /// Each line repeats where it comes from, so that it stays marked when it is pasted below measured ones. Numbers
    /// have one decimal; [`Self::json`] has them in full.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut out = String::from(
            "scenario,connections,requests_per_s,p50_us,p99_us,errors,source,parameters,parameters_hash,seed\r\n",
        );
        let origin = format!("simulated,{},{},{}", field(&self.parameters), field(&self.parameters_hash), self.seed);
        for Point { scenario, connections, requests_per_s, p50_us, p99_us, errors } in &self.points {
            let scenario = field(scenario);
            let numbers = format!("{connections},{requests_per_s:.1},{p50_us:.1},{p99_us:.1},{errors}");
            for part in [&scenario, ",", &numbers, ",", &origin, "\r\n"] {
                out.push_str(part);
            }
        }
        out
    }

    /// Renders the figure as JSON, indented; reading it back gives an equal figure as long as its numbers are finite.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings, numbers and a list of them always have a JSON form")
    }

    /// Scenarios in the order of their first point.
    pub(super) fn scenarios(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for point in &self.points {
            if !names.contains(&point.scenario.as_str()) {
                names.push(&point.scenario);
            }
        }
        names
    }

    /// The title, with "simulated" added should the caller have left it out.
    pub(super) fn heading(&self) -> String {
        if self.title.to_lowercase().contains("simulated") {
            self.title.clone()
        } else {
            format!("{} (simulated)", self.title)
        }
    }

    fn block(&self, out: &mut String, scenarios: &[&str], cell: fn(&Point) -> String) {
        let connections: BTreeSet<u32> = self.points.iter().map(|point| point.connections).collect();
        let mut columns = vec![Column {
            head: vec!["connections".to_owned()],
            cells: connections.iter().map(u32::to_string).collect(),
        }];
        columns.extend(scenarios.iter().map(|scenario| Column {
            head: wrap(scenario, HEAD_WIDTH),
            cells: connections.iter().map(|n| self.point(scenario, *n).map_or_else(|| "-".to_owned(), cell)).collect(),
        }));
        let head_lines = columns.iter().map(|column| column.head.len()).max().unwrap_or(0);
        for row in 0..head_lines + connections.len() {
            let cells: Vec<String> = columns.iter().map(|column| column.padded(row, head_lines)).collect();
            line(out, format_args!("{}", cells.join("  ").trim_end()));
        }
    }

    fn point(&self, scenario: &str, connections: u32) -> Option<&Point> {
        self.points.iter().find(|point| point.scenario == scenario && point.connections == connections)
    }
}

struct Column {
    head: Vec<String>,
    cells: Vec<String>,
}

impl Column {
    /// The text of one line, right-aligned: heads end on the line above the first cell.
    fn padded(&self, row: usize, head_lines: usize) -> String {
        let width = self.head.iter().chain(&self.cells).map(|text| text.chars().count()).max().unwrap_or(0);
        let text = match row.checked_sub(head_lines) {
            Some(row) => self.cells.get(row),
            None => (row + self.head.len()).checked_sub(head_lines).and_then(|row| self.head.get(row)),
        };
        format!("{:>width$}", text.map_or("", String::as_str))
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("writing to a String cannot fail");
}

/// Breaks a name into lines of `width` characters at most, after a space or a joining character where there is one.
fn wrap(name: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for part in name.split_inclusive([' ', '-', '_', '/']) {
        if line.chars().count() + part.trim_end().chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        for c in part.chars() {
            if line.chars().count() == width && c != ' ' {
                lines.push(std::mem::take(&mut line));
            }
            line.push(c);
        }
    }
    lines.push(line);
    lines.iter().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

fn whole(value: f64) -> String {
    if value.is_finite() { format!("{value:.0}") } else { "-".to_owned() }
}

/// Five characters at most for anything below 100 s in microseconds.
fn short(us: f64) -> String {
    let us = us.round();
    if !us.is_finite() {
        "-".to_owned()
    } else if us < 10_000.0 {
        format!("{us:.0}")
    } else if us < 99_950.0 {
        format!("{:.1}k", us / 1e3)
    } else if us < 999_500.0 {
        format!("{:.0}k", us / 1e3)
    } else {
        format!("{:.1}M", us / 1e6)
    }
}

/// One field of CSV, quoted where RFC 4180 section 2 asks for it.
fn field(text: &str) -> String {
    if text.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

/// Columns of one block of the table: as many as fit into a wide terminal at [`HEAD_WIDTH`] each.
const BLOCK_SCENARIOS: usize = 9;

/// Longest line of a column's head, in characters: as wide as the widest cell, `9999 / 99.9k`.
const HEAD_WIDTH: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_row_for_each_connection_count_and_a_column_for_each_scenario() {
        let expected = "\
Hello world, keep-alive (simulated)
parameters lab.toml, hash 3f2a91
seed 7

requests/s
                     gvproxy + Go
connections  docker       proxy 2
          1   10107          1215
          8   71500             -
       1000       -         14800

p50 / p99 us
                        gvproxy + Go
connections     docker       proxy 2
          1   90 / 240   812 / 12.6k
          8  104 / 901             -
       1000          -  66.9k / 2.4M

failed requests
gvproxy + Go proxy 2 at 1000 connections: 3
";
        assert_eq!(small().table(), expected);
    }

    #[test]
    fn a_table_of_nine_scenarios_fits_140_columns_and_a_tenth_continues_below() {
        let points = |scenarios: u32| {
            (0..scenarios)
                .map(|i| point(&format!("a quite long name of scenario {i}"), 1024, 99_999.0, 9_999.0, 99_900.0))
                .collect()
        };
        let nine = Figure { points: points(9), ..small() }.table();
        assert!(nine.lines().all(|line| line.len() <= 140), "{nine}");
        assert_eq!(nine.matches("connections").count(), 2);
        let ten = Figure { points: points(10), ..small() }.table();
        assert!(ten.lines().all(|line| line.len() <= 140), "{ten}");
        assert_eq!(ten.matches("connections").count(), 4);
    }

    #[test]
    fn an_empty_figure_and_a_value_that_is_no_number_have_a_table() {
        assert!(Figure { points: Vec::new(), ..small() }.table().contains("seed 7"));
        let table = Figure { points: vec![point("a", 1, f64::NAN, f64::INFINITY, 1.0)], ..small() }.table();
        assert!(table.ends_with("          1  - / 1\n"), "{table}");
    }

    #[test]
    fn every_text_says_simulated_even_if_the_title_does_not() {
        let figure = Figure { title: "Hello world".to_owned(), ..small() };
        assert!(figure.table().starts_with("Hello world (simulated)\n"));
        assert!(figure.csv().lines().skip(1).all(|line| line.contains(",simulated,")));
    }

    #[test]
    fn csv_has_units_in_its_head_and_quotes_what_must_be_quoted() {
        let mut figure = small();
        figure.points.truncate(2);
        figure.points[1].scenario = "TAP, \"plain\"".to_owned();
        let expected = "\
scenario,connections,requests_per_s,p50_us,p99_us,errors,source,parameters,parameters_hash,seed\r
docker,1,10107.4,90.0,240.0,0,simulated,lab.toml,3f2a91,7\r
\"TAP, \"\"plain\"\"\",8,71500.0,104.0,901.0,0,simulated,lab.toml,3f2a91,7\r
";
        assert_eq!(figure.csv(), expected);
    }

    #[test]
    fn json_reads_back_as_it_was() {
        let json = small().json();
        assert_eq!(serde_json::from_str::<Figure>(&json).unwrap(), small());
        assert!(json.contains("\"p50_us\": 90.0"), "{json}");
    }

    #[test]
    fn numbers_of_microseconds_stay_short() {
        let cases = [
            (0.4, "0"),
            (9_999.4, "9999"),
            (9_999.6, "10.0k"),
            (99_949.0, "99.9k"),
            (99_950.0, "100k"),
            (999_499.0, "999k"),
            (999_500.0, "1.0M"),
            (99_900_000.0, "99.9M"),
        ];
        for (us, text) in cases {
            assert_eq!(short(us), text);
        }
    }

    #[test]
    fn names_break_at_joints_and_long_words_anywhere() {
        assert_eq!(wrap("docker", 12), ["docker"]);
        assert_eq!(wrap("gvproxy-proxy-idle2", 12), ["gvproxy-", "proxy-idle2"]);
        assert_eq!(wrap("exactly12345 next", 12), ["exactly12345", "next"]);
        assert_eq!(wrap("abcdefghijklmnop q", 12), ["abcdefghijkl", "mnop q"]);
        assert_eq!(wrap("", 12), [""; 0]);
    }

    fn small() -> Figure {
        let mut points = vec![
            point("docker", 1, 10_107.4, 90.0, 240.0),
            point("docker", 8, 71_500.0, 104.0, 901.0),
            point("gvproxy + Go proxy 2", 1, 1_214.6, 812.0, 12_550.0),
            point("gvproxy + Go proxy 2", 1000, 14_800.0, 66_900.0, 2_400_000.0),
        ];
        points[3].errors = 3;
        Figure {
            title: "Hello world, keep-alive (simulated)".to_owned(),
            parameters: "lab.toml".to_owned(),
            parameters_hash: "3f2a91".to_owned(),
            seed: 7,
            points,
        }
    }

    fn point(scenario: &str, connections: u32, requests_per_s: f64, p50_us: f64, p99_us: f64) -> Point {
        Point { scenario: scenario.to_owned(), connections, requests_per_s, p50_us, p99_us, errors: 0 }
    }
}
