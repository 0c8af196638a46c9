//! Predictions beside measurements: how far off each point is, and whether the model is good enough.

use super::{FITTED, FitError, Measured, SCENARIOS, SEED};
use crate::{figure::run_all, measure::Experiment, params::Params};
use serde::Serialize;
use std::fmt::Write as _;

/// One point, measured and predicted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// The way requests took.
    pub scenario: String,
    /// Clients, a connection each.
    pub connections: u32,
    /// Whether the parameters may have seen this row.
    pub fitted: bool,
    /// Answers per second: measured,
    pub measured_per_s: f64,
    /// and predicted.
    pub predicted_per_s: f64,
    /// How much the prediction is above the measurement, in percent.
    pub error_percent: f64,
    /// Median latency in microseconds: measured,
    pub measured_p50_us: f64,
    /// and predicted.
    pub predicted_p50_us: f64,
    /// How much the prediction is above the measurement, in percent.
    pub p50_error_percent: f64,
}

/// What errors are allowed, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Mean absolute error of requests/s over the predicted points.
    pub mean: f64,
    /// Largest error of requests/s of a predicted point.
    pub worst: f64,
    /// Largest error of p50 of a predicted point.
    pub p50: f64,
}

impl Limits {
    /// Those that the simulator's issue sets.
    pub const ISSUE: Self = Self { mean: 10.0, worst: 20.0, p50: 15.0 };
}

/// Every point of a file of real runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The parameters' hash.
    pub parameters_hash: String,
    /// Mean absolute error of requests/s over the points that were not fitted, in percent.
    pub mean_error_percent: f64,
    /// What misses a limit, in words; nothing if the model is good enough.
    pub misses: Vec<String>,
    /// The points, by scenario and connections.
    pub points: Vec<Compared>,
}

impl Comparison {
    /// Predicts every measured point of [`SCENARIOS`]; `done` is called with each scenario and number of connections.
    ///
    /// # Errors
    /// A run that broke an invariant.
    pub fn predict(
        params: &Params,
        measured: &Measured,
        limits: Limits,
        done: impl Fn(&Experiment) + Sync,
    ) -> Result<Self, FitError> {
        let experiments: Vec<Experiment> = SCENARIOS
            .iter()
            .flat_map(|scenario| measured.connections(scenario.name()).into_iter().map(move |n| (*scenario, n)))
            .map(|(scenario, n)| Experiment::new(scenario, n, params.clone(), SEED))
            .collect();
        let mut points = Vec::new();
        for outcome in run_all(&experiments, done)? {
            let point = outcome.point;
            let row = measured.row(&point.scenario, point.connections)?;
            points.push(Compared {
                fitted: FITTED.contains(&point.connections),
                measured_per_s: row.requests_per_s,
                predicted_per_s: point.requests_per_s,
                error_percent: percent(point.requests_per_s, row.requests_per_s),
                measured_p50_us: row.p50_us,
                predicted_p50_us: point.p50_us,
                p50_error_percent: percent(point.p50_us, row.p50_us),
                scenario: point.scenario,
                connections: point.connections,
            });
        }
        Ok(Self::judge(points, limits, params.hash()))
    }

    /// Compares with `limits`.
    fn judge(points: Vec<Compared>, limits: Limits, parameters_hash: String) -> Self {
        let predicted: Vec<&Compared> = points.iter().filter(|point| !point.fitted).collect();
        let mean_error_percent =
            predicted.iter().map(|point| point.error_percent.abs()).sum::<f64>() / predicted.len().max(1) as f64;
        let mut misses = Vec::new();
        if predicted.is_empty() {
            misses.push(format!("there is no point but at {FITTED:?} connections, so nothing was predicted"));
        }
        if mean_error_percent > limits.mean {
            misses.push(format!("the mean error of requests/s is {mean_error_percent:.1} %, above {} %", limits.mean));
        }
        for point in predicted {
            let place = format!("{} at {} connections", point.scenario, point.connections);
            if point.error_percent.abs() > limits.worst {
                misses.push(format!(
                    "requests/s of {place} is off by {:+.1} %, more than {} %",
                    point.error_percent, limits.worst
                ));
            }
            if point.p50_error_percent.abs() > limits.p50 {
                misses.push(format!(
                    "p50 of {place} is off by {:+.1} %, more than {} %",
                    point.p50_error_percent, limits.p50
                ));
            }
        }
        misses.extend(wrong_orders(&points).into_iter().map(|(first, second, n)| {
            format!("at {n} connections {first} is measured above {second} and predicted below it")
        }));
        Self { parameters_hash, mean_error_percent, misses, points }
    }

    /// The point of largest error, by `of`.
    fn worst(&self, of: impl Fn(&Compared) -> f64) -> Option<&Compared> {
        self.points.iter().filter(|point| !point.fitted).max_by(|a, b| of(a).abs().total_cmp(&of(b).abs()))
    }

    /// As text for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = format!(
            "{:<18}{:>6}{:>12}{:>12}{:>9}{:>12}{:>12}{:>9}\n",
            "scenario", "conns", "measured/s", "predicted/s", "error", "p50 us", "predicted", "error"
        );
        // Writing to a String cannot fail, here and below.
        for point in &self.points {
            let _ = writeln!(
                out,
                "{:<18}{:>6}{:>12.0}{:>12.0}{:>+7.1} %{:>12.0}{:>12.0}{:>+7.1} %{}",
                point.scenario,
                point.connections,
                point.measured_per_s,
                point.predicted_per_s,
                point.error_percent,
                point.measured_p50_us,
                point.predicted_p50_us,
                point.p50_error_percent,
                if point.fitted { "  fitted" } else { "" },
            );
        }
        let _ = writeln!(out, "\nOver the points that were not fitted, parameters {}:", self.parameters_hash);
        let _ = writeln!(out, "  mean absolute error of requests/s  {:.1} %", self.mean_error_percent);
        let place = |point: &Compared| format!("{} at {}", point.scenario, point.connections);
        if let Some(point) = self.worst(|point| point.error_percent) {
            let _ =
                writeln!(out, "  worst                              {:+.1} %, {}", point.error_percent, place(point));
        }
        if let Some(point) = self.worst(|point| point.p50_error_percent) {
            let _ = writeln!(
                out,
                "  worst p50                          {:+.1} %, {}",
                point.p50_error_percent,
                place(point)
            );
        }
        let orders = if wrong_orders(&self.points).is_empty() { "right at every point" } else { "wrong" };
        let _ = writeln!(out, "  order of the scenarios             {orders}");
        for miss in &self.misses {
            let _ = writeln!(out, "MISSED: {miss}");
        }
        out
    }

    /// As text for programs.
    #[must_use]
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// Pairs of scenarios, and the number of connections, where the faster one of the measurement is predicted to be slower.
fn wrong_orders(points: &[Compared]) -> Vec<(&str, &str, u32)> {
    let mut wrong = Vec::new();
    for a in points {
        for b in points.iter().filter(|b| b.connections == a.connections && b.measured_per_s < a.measured_per_s) {
            if b.predicted_per_s >= a.predicted_per_s {
                wrong.push((a.scenario.as_str(), b.scenario.as_str(), a.connections));
            }
        }
    }
    wrong
}

fn percent(predicted: f64, measured: f64) -> f64 {
    (predicted / measured - 1.0) * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(scenario: &str, connections: u32, per_s: [f64; 2], p50_us: [f64; 2]) -> Compared {
        Compared {
            scenario: scenario.to_owned(),
            connections,
            fitted: FITTED.contains(&connections),
            measured_per_s: per_s[0],
            predicted_per_s: per_s[1],
            error_percent: percent(per_s[1], per_s[0]),
            measured_p50_us: p50_us[0],
            predicted_p50_us: p50_us[1],
            p50_error_percent: percent(p50_us[1], p50_us[0]),
        }
    }

    fn judge(points: Vec<Compared>) -> Comparison {
        Comparison::judge(points, Limits::ISSUE, "0123".to_owned())
    }

    #[test]
    fn fitted_points_are_shown_and_not_judged() {
        let comparison = judge(vec![
            point("nitrotap", 1, [100.0, 200.0], [80.0, 40.0]),
            point("nitrotap", 2, [1000.0, 1090.0], [98.0, 88.2]),
            point("nitrotap", 4, [2000.0, 1900.0], [150.0, 165.0]),
        ]);
        insta::assert_snapshot!(comparison.table(), @r"
        scenario           conns  measured/s predicted/s    error      p50 us   predicted    error
        nitrotap               1         100         200 +100.0 %          80          40  -50.0 %  fitted
        nitrotap               2        1000        1090   +9.0 %          98          88  -10.0 %
        nitrotap               4        2000        1900   -5.0 %         150         165  +10.0 %

        Over the points that were not fitted, parameters 0123:
          mean absolute error of requests/s  7.0 %
          worst                              +9.0 %, nitrotap at 2
          worst p50                          +10.0 %, nitrotap at 4
          order of the scenarios             right at every point
        ");
        assert!(comparison.json().contains("\"mean_error_percent\": 7."), "{}", comparison.json());
    }

    #[test]
    fn every_limit_that_is_missed_is_named() {
        let comparison = judge(vec![
            point("nitrotap-nrp", 2, [1000.0, 1250.0], [98.0, 80.0]),
            point("nitrotap", 2, [900.0, 1260.0], [98.0, 98.0]),
        ]);
        assert_eq!(
            comparison.misses,
            [
                "the mean error of requests/s is 32.5 %, above 10 %",
                "requests/s of nitrotap-nrp at 2 connections is off by +25.0 %, more than 20 %",
                "p50 of nitrotap-nrp at 2 connections is off by -18.4 %, more than 15 %",
                "requests/s of nitrotap at 2 connections is off by +40.0 %, more than 20 %",
                "at 2 connections nitrotap-nrp is measured above nitrotap and predicted below it",
            ]
        );
        assert_eq!(judge(Vec::new()).misses.len(), 1);
    }
}
