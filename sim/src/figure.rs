//! The whole figure: every scenario at every number of connections, on all cores.
//!
//! A point runs on a fresh thread of its own: the trap and what else lives in thread-locals start anew, and a point is the
//! same whatever ran before it. The longest points start first, so that no core waits for a straggler; results come back
//! in the order of the figure.
//! Bound: as many points at a time as there are cores.

use crate::{
    measure::{Experiment, Outcome},
    params::Params,
    report::Figure,
    scenario::Scenario,
};
use std::{
    cmp::Reverse,
    num::NonZero,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

/// Numbers of connections of the shipped figure.
pub const CONNECTIONS: [u32; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// What the figure is made of.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// Columns.
    pub scenarios: Vec<Scenario>,
    /// Rows.
    pub connections: Vec<u32>,
    /// What things cost.
    pub params: Params,
    /// What the parameters are called.
    pub params_name: String,
    /// Of every random draw.
    pub seed: u64,
}

/// A point that cannot be trusted.
#[derive(Debug, thiserror::Error)]
#[error("{scenario} at {connections} connections, seed {seed}: {what}")]
pub struct PointError {
    /// The way requests took.
    pub scenario: Scenario,
    /// How many clients.
    pub connections: u32,
    /// The seed that shows it again.
    pub seed: u64,
    /// What broke.
    pub what: String,
}

impl Sweep {
    /// The experiments, in the order of the figure; nothing twice.
    #[must_use]
    pub fn experiments(&self) -> Vec<Experiment> {
        let mut scenarios: Vec<Scenario> = Vec::new();
        for scenario in &self.scenarios {
            if !scenarios.contains(scenario) {
                scenarios.push(*scenario);
            }
        }
        let mut connections = self.connections.clone();
        connections.sort_unstable();
        connections.dedup();
        let point = |scenario, n: &u32| Experiment::new(scenario, *n, self.params.clone(), self.seed);
        scenarios.iter().flat_map(|scenario| connections.iter().map(|n| point(*scenario, n))).collect()
    }

    /// Runs them all; `done` is called after each.
    ///
    /// # Errors
    /// The first point, in the order of the figure, that broke an invariant.
    pub fn run(&self, done: impl Fn() + Sync) -> Result<Figure, PointError> {
        let outcomes = run_all(&self.experiments(), |_| done())?;
        Ok(Figure {
            title: "Requests per second by connections, simulated".to_owned(),
            parameters: self.params_name.clone(),
            parameters_hash: self.params.hash(),
            seed: self.seed,
            points: outcomes.into_iter().map(|outcome| outcome.point).collect(),
        })
    }
}

/// Runs experiments on all cores, the longest first; outcomes in the order of the experiments. `done` is called after
/// each.
///
/// # Errors
/// The first, in that order, that broke an invariant.
pub fn run_all(experiments: &[Experiment], done: impl Fn(&Experiment) + Sync) -> Result<Vec<Outcome>, PointError> {
    let mut order: Vec<usize> = (0..experiments.len()).collect();
    order.sort_by_key(|index| Reverse(length(&experiments[*index])));
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let workers = thread::available_parallelism().map_or(1, NonZero::get).min(experiments.len());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(index) = order.get(next.fetch_add(1, Relaxed)) {
                    let result = run_alone(&experiments[*index]);
                    done(&experiments[*index]);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((*index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Runs an experiment on a fresh thread.
///
/// # Errors
/// [`PointError`] if it broke an invariant.
pub fn run_alone(experiment: &Experiment) -> Result<Outcome, PointError> {
    let error = |what| PointError {
        scenario: experiment.scenario,
        connections: experiment.connections,
        seed: experiment.seed,
        what,
    };
    let outcome = thread::scope(|scope| scope.spawn(|| experiment.run()).join());
    let outcome = outcome.map_err(|_| error("the simulator panicked; the message is above".to_owned()))?;
    match outcome.breaks.first() {
        None => Ok(outcome),
        Some(first) => Err(error(first.to_string())),
    }
}

/// How long an experiment takes, roughly: its window, and how much happens in it.
fn length(experiment: &Experiment) -> u128 {
    let window = experiment.window.warm_up + experiment.window.measured;
    let scenario = experiment.scenario;
    let hops = 2 + u128::from(scenario.has_tap()) * 2 + u128::from(scenario.proxy().is_some());
    window.as_micros() * hops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_come_once_and_in_the_order_of_the_figure() {
        let sweep = Sweep {
            scenarios: vec![Scenario::Nitrotap, Scenario::Docker, Scenario::Nitrotap],
            connections: vec![2, 1, 2],
            params: Params::load("c5").unwrap(),
            params_name: "c5".to_owned(),
            seed: 1,
        };
        let (points, count) = (sweep.experiments(), AtomicUsize::new(0));
        let names: Vec<_> = points.iter().map(|point| (point.scenario.name(), point.connections)).collect();
        assert_eq!(names, [("nitrotap", 1), ("nitrotap", 2), ("docker", 1), ("docker", 2)]);
        let figure = sweep.run(|| _ = count.fetch_add(1, Relaxed)).unwrap();
        let got: Vec<_> = figure.points.iter().map(|point| (point.scenario.as_str(), point.connections)).collect();
        assert_eq!((got, count.into_inner()), (names, 4));
    }
}
