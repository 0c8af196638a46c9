//! The model against reality: parameters fitted to real runs, and what they predict compared with other real runs.
//!
//! - [`Measured`] is what `tests/bench/closed_loop.sh` wrote.
//! - [`fit`] sets the costs from the rows at [`FITTED`] connections alone. Demand comes from each process's own processor
//!   time: at one connection every message wakes its reader, at 64 few do; the difference is what wakes cost. What no
//!   process accounts for is searched: time lost to interrupts, Go's spinning, the delay of an idle core, variability.
//! - [`Comparison`] predicts every measured point and says how far off it is.
//!
//! Driven by: the commands `fit` and `validate`. Deterministic: the same build, rows and start give the same figures.

mod comparison;
mod costs;
mod measured;

pub use comparison::{Compared, Comparison, Limits};
pub use costs::render;
pub use measured::{Measured, MeasuredError, Row};

use crate::{
    figure::{PointError, run_all},
    measure::{Experiment, Outcome},
    params::{Machines, Params},
    scenario::Scenario,
};
use costs::Part;

/// The numbers of connections whose rows the fit may look at.
pub const FITTED: [u32; 3] = [1, 8, 64];

/// The scenarios that were measured. Those with `nitrotap host` are looked at if they are there, the others must be.
pub const SCENARIOS: [Scenario; 4] =
    [Scenario::NitrotapNrp, Scenario::Nitrotap, Scenario::NitrotapNrpHost, Scenario::NitrotapHost];

/// Seed of every run here.
pub const SEED: u64 = 1;

/// Why there is no fit.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// A row that is needed is not there.
    #[error("{0}")]
    Measured(#[from] MeasuredError),
    /// A run broke.
    #[error("{0}")]
    Point(#[from] PointError),
}

/// What was found, and how well it meets the rows that it was fitted to.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The parameters.
    pub params: Params,
    /// Root mean square of the relative errors of requests/s and p50 at the fitted points.
    pub error: f64,
}

/// Simulations between two looks at a candidate: its costs settle meanwhile.
const SETTLE_ROUNDS: usize = 2;
/// Rounds in which the costs of the start settle.
const FIRST_ROUNDS: usize = 8;
/// Passes of the search; each halves its steps.
const PASSES: u32 = 4;

/// A parameter that no process's processor time shows.
struct Knob {
    name: &'static str,
    of: fn(&mut Machines) -> &mut u64,
    step: u64,
    max: u64,
}

const KNOBS: [Knob; 4] = [
    Knob { name: "overhead_permille", of: |machines| &mut machines.overhead_permille, step: 32, max: 300 },
    Knob { name: "go_spin_ns", of: |machines| &mut machines.go_spin_ns, step: 4000, max: 20_000 },
    Knob { name: "idle_exit_ns", of: |machines| &mut machines.idle_exit_ns, step: 1000, max: 20_000 },
    Knob { name: "variability_permille", of: |machines| &mut machines.variability_permille, step: 200, max: 1000 },
];

/// Fits `start` to the rows at [`FITTED`] connections; `progress` is told what happens.
///
/// The costs of nitriding's parts were not measured there. They keep their ratio to nitrotap's.
///
/// # Errors
/// A missing row, or a run that broke an invariant.
pub fn fit(start: Params, measured: &Measured, mut progress: impl FnMut(&str)) -> Result<Fitted, FitError> {
    // Everything else is out of reach from here on.
    let measured = measured.only(&FITTED)?;
    let mut best = settle(start, &measured, FIRST_ROUNDS)?;
    progress(&format!("costs settled: error {:.2} %", best.error * 100.0));
    for pass in 0..PASSES {
        for knob in &KNOBS {
            let step = (knob.step >> pass).max(1);
            let now = *(knob.of)(&mut best.params.machines);
            for value in [(now + step).min(knob.max), now.saturating_sub(step)] {
                if value == now {
                    continue;
                }
                let mut params = best.params.clone();
                *(knob.of)(&mut params.machines) = value;
                let candidate = settle(params, &measured, SETTLE_ROUNDS)?;
                let better = candidate.error < best.error;
                progress(&format!(
                    "pass {} of {PASSES}: {} = {value}: error {:.2} %{}",
                    pass + 1,
                    knob.name,
                    candidate.error * 100.0,
                    if better { ", kept" } else { "" }
                ));
                if better {
                    best = candidate;
                    break;
                }
            }
        }
    }
    Ok(best)
}

/// Corrects the costs so many times by what a simulation of the fitted points shows, and judges the result.
fn settle(mut params: Params, measured: &Measured, rounds: usize) -> Result<Fitted, FitError> {
    let mut outcomes = simulate(&params, measured)?;
    for _ in 0..rounds {
        for part in Part::ALL {
            correct(&mut params, part, measured, &outcomes)?;
        }
        outcomes = simulate(&params, measured)?;
    }
    let mut squares = Vec::new();
    for outcome in &outcomes {
        let row = measured.row(&outcome.point.scenario, outcome.point.connections)?;
        squares.push((outcome.point.requests_per_s / row.requests_per_s).ln().powi(2));
        squares.push((outcome.point.p50_us / row.p50_us).ln().powi(2));
    }
    let error = (squares.iter().sum::<f64>() / squares.len() as f64).sqrt();
    Ok(Fitted { params, error })
}

/// Scales the costs of one part: work by its demand where wakes are rare, wakes by what is more where they are not.
fn correct(params: &mut Params, part: Part, measured: &Measured, outcomes: &[Outcome]) -> Result<(), FitError> {
    let [few, .., many] = FITTED;
    let (mut real, mut simulated) = ([0.0; 2], [0.0; 2]);
    for outcome in outcomes {
        let n = outcome.point.connections;
        let Some(at) = [few, many].iter().position(|known| *known == n) else { continue };
        let Some(demand) = part.measured(measured, &outcome.point.scenario, n)? else { continue };
        real[at] += demand;
        simulated[at] += part.simulated(outcome);
    }
    let ratio = |real: f64, simulated: f64| (real.max(0.05) / simulated.max(0.05)).clamp(0.3, 3.0);
    // Damped: the one changes what the other meets.
    let work = ratio(real[1], simulated[1]).powf(0.9);
    let wakes = ratio(real[0] - real[1], simulated[0] - simulated[1]).powf(0.7);
    part.scale(params, work, wakes);
    Ok(())
}

/// Runs the points that were measured.
fn simulate(params: &Params, measured: &Measured) -> Result<Vec<Outcome>, PointError> {
    let experiments: Vec<Experiment> = SCENARIOS
        .iter()
        .flat_map(|scenario| measured.connections(scenario.name()).into_iter().map(move |n| (*scenario, n)))
        .map(|(scenario, n)| Experiment::new(scenario, n, params.clone(), SEED))
        .collect();
    run_all(&experiments, |_| {})
}
