//! Real runs, as `tests/bench/closed_loop.sh` writes them: one line per point, nine fields, tabs between them.

use std::{fs, path::Path};

/// A measured point: medians of several rounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The script's name of the path, which is the scenario's for those that both know.
    pub path: String,
    /// Clients, a connection each.
    pub connections: u32,
    /// Answers per second.
    pub requests_per_s: f64,
    /// Median latency in microseconds.
    pub p50_us: f64,
    /// 99th percentile of the latency in microseconds.
    pub p99_us: f64,
    /// Processor time per request in microseconds: of the load generator,
    pub client_us: f64,
    /// of the gateway on the host,
    pub gateway_us: f64,
    /// of nitrotap, its reverse proxy included,
    pub nitrotap_us: f64,
    /// and of the app.
    pub app_us: f64,
}

/// Every measured point of one file.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    name: String,
    rows: Vec<Row>,
}

/// Why real runs could not be used.
#[derive(Debug, thiserror::Error)]
pub enum MeasuredError {
    /// The file could not be read.
    #[error("cannot read the measured points {path}: {cause}")]
    Read {
        /// Which file.
        path: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A line is not what the script writes.
    #[error("{path}, line {line}: {what}")]
    Line {
        /// Which file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A point is missing.
    #[error(
        "{path} has no row for {scenario} at {connections} connections; measure it with tests/bench/closed_loop.sh"
    )]
    Missing {
        /// Which file.
        path: String,
        /// Of which path.
        scenario: String,
        /// How many clients.
        connections: u32,
    },
}

/// Names of the fields, for errors.
const FIELDS: [&str; 9] =
    ["path", "connections", "requests_per_s", "p50_us", "p99_us", "wrk_us", "gateway_us", "nitrotap_us", "nginx_us"];

impl Measured {
    /// Reads a file.
    ///
    /// # Errors
    /// [`MeasuredError`] names the file, and the line in it.
    pub fn load(path: &Path) -> Result<Self, MeasuredError> {
        let name = path.display().to_string();
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&name, &text),
            Err(cause) => Err(MeasuredError::Read { path: name, cause }),
        }
    }

    /// The same from the text of a file called `name`.
    ///
    /// # Errors
    /// [`MeasuredError::Line`] for the first line that is not understood.
    pub fn parse(name: &str, text: &str) -> Result<Self, MeasuredError> {
        let mut rows: Vec<Row> = Vec::new();
        for (number, line) in
            (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
        {
            let error = |what| MeasuredError::Line { path: name.to_owned(), line: number, what };
            let row = row(line).map_err(error)?;
            if rows.iter().any(|known| (&known.path, known.connections) == (&row.path, row.connections)) {
                return Err(error(format!("{} at {} connections is there twice", row.path, row.connections)));
            }
            rows.push(row);
        }
        Ok(Self { name: name.to_owned(), rows })
    }

    /// The row of a scenario.
    ///
    /// # Errors
    /// [`MeasuredError::Missing`].
    pub fn row(&self, scenario: &str, connections: u32) -> Result<&Row, MeasuredError> {
        let found = self.rows.iter().find(|row| row.path == scenario && row.connections == connections);
        found.ok_or_else(|| MeasuredError::Missing {
            path: self.name.clone(),
            scenario: scenario.to_owned(),
            connections,
        })
    }

    /// The numbers of connections at which this scenario was measured, ascending.
    #[must_use]
    pub fn connections(&self, scenario: &str) -> Vec<u32> {
        let mut all: Vec<u32> =
            self.rows.iter().filter(|row| row.path == scenario).map(|row| row.connections).collect();
        all.sort_unstable();
        all
    }

    /// Only the rows at these numbers of connections.
    ///
    /// # Errors
    /// [`MeasuredError::Missing`] if one of them is not there for a scenario of [`super::SCENARIOS`] that must be.
    pub fn only(&self, connections: &[u32]) -> Result<Self, MeasuredError> {
        for scenario in super::SCENARIOS {
            if scenario.is_native_host() && self.connections(scenario.name()).is_empty() {
                continue;
            }
            for n in connections {
                self.row(scenario.name(), *n)?;
            }
        }
        let rows = self.rows.iter().filter(|row| connections.contains(&row.connections)).cloned().collect();
        Ok(Self { name: self.name.clone(), rows })
    }
}

fn row(line: &str) -> Result<Row, String> {
    let fields: Vec<&str> = line.split('\t').collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("{} fields between tabs instead of {}: {line:?}", fields.len(), FIELDS.len()));
    }
    let bad = |at: usize| format!("{} is {:?}, which is no number of that kind", FIELDS[at], fields[at]);
    let positive = |at: usize| match fields[at].parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        Ok(_) | Err(_) => Err(bad(at)),
    };
    let time = |at: usize| match fields[at].parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        Ok(_) | Err(_) => Err(bad(at)),
    };
    let connections = fields[1].parse().ok().filter(|n| *n > 0).ok_or_else(|| bad(1))?;
    Ok(Row {
        path: fields[0].to_owned(),
        connections,
        requests_per_s: positive(2)?,
        p50_us: positive(3)?,
        p99_us: positive(4)?,
        client_us: time(5)?,
        gateway_us: time(6)?,
        nitrotap_us: time(7)?,
        app_us: time(8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# comment\nnitrotap\t8\t28761.8\t262.0\t920.0\t7.5\t23.8\t20.3\t5.5\n\n\
        nitrotap\t1\t12201.1\t80.0\t137.0\t8.3\t48.2\t33.3\t7.6\n";

    #[test]
    fn rows_are_found_by_scenario_and_connections() {
        let measured = Measured::parse("x.tsv", TEXT).unwrap();
        let row = measured.row("nitrotap", 8).unwrap();
        assert_eq!((row.requests_per_s, row.nitrotap_us, row.app_us), (28761.8, 20.3, 5.5));
        assert_eq!(measured.connections("nitrotap"), [1, 8]);
        let missing = measured.only(&[1]).unwrap_err().to_string();
        assert!(missing.starts_with("x.tsv has no row for nitrotap-nrp at 1 connections"), "{missing}");
    }

    #[test]
    fn errors_name_the_file_and_the_line() {
        let error = |text: &str| Measured::parse("x.tsv", text).unwrap_err().to_string();
        assert!(error("# c\nnitrotap\t8\n").starts_with("x.tsv, line 2: 2 fields between tabs instead of 9"));
        assert_eq!(
            error(&TEXT.replace("262.0", "-3")),
            "x.tsv, line 2: p50_us is \"-3\", which is no number of that kind"
        );
        assert!(error(&TEXT.replace("\t1\t", "\t8\t")).ends_with("line 4: nitrotap at 8 connections is there twice"));
        assert!(Measured::load(Path::new("/nonexistent.tsv")).unwrap_err().to_string().contains("/nonexistent.tsv"));
    }

    #[test]
    fn the_shipped_runs_are_understood() {
        let measured = Measured::parse("lab.tsv", include_str!("../../params/lab.tsv")).unwrap();
        assert!(measured.only(&super::super::FITTED).is_ok());
    }
}
