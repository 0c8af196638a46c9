//! `nitrotap-sim validate`: predictions beside real runs.

use super::{Failure, print, write};
use indicatif::{ProgressBar, ProgressStyle};
use nitrotap_sim::{
    fit::{Comparison, Limits, Measured, SCENARIOS},
    params::Params,
};
use std::path::PathBuf;

/// Compare predictions with real runs
///
/// Predicts every point of nitrotap-nrp and nitrotap, and of both with `nitrotap host`, that tests/bench/closed_loop.sh
/// measured, and shows how far off each one is. Fails unless, over the points that a fit has not seen, the mean error of
/// requests/s is at most 10 %, none is above 20 %, p50 is within 15 %, and the scenarios are in the right order everywhere.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
    nitrotap-sim validate --measured sim/params/lab.tsv\n  \
    nitrotap-sim validate --measured here.tsv --params here.toml --json here.json")]
pub(crate) struct Validate {
    /// Real runs
    #[arg(long, value_name = "FILE.tsv")]
    measured: PathBuf,

    /// What things cost there
    #[arg(long, value_name = "lab|FILE", default_value = "lab")]
    params: String,

    /// Write the same as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Validate {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let params = Params::load(&self.params).map_err(|error| Failure::Usage(error.to_string()))?;
        let measured = Measured::load(&self.measured).map_err(|error| Failure::Usage(error.to_string()))?;
        let points: usize = SCENARIOS.iter().map(|scenario| measured.connections(scenario.name()).len()).sum();
        let bar = ProgressBar::new(points as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} points, {eta} left") {
            bar.set_style(style);
        }
        let comparison = Comparison::predict(&params, &measured, Limits::ISSUE, |_| bar.inc(1));
        bar.finish_and_clear();
        let comparison = comparison.map_err(|error| error.to_string())?;
        print(&comparison.table())?;
        if let Some(path) = &self.json {
            write(path, &comparison.json())?;
        }
        match comparison.misses.len() {
            0 => Ok(()),
            misses => Err(Failure::Runtime(format!("the model misses {misses} of its limits, named above"))),
        }
    }
}
