//! `nitrotap-sim figure`: requests per second of every scenario over the number of connections.

use super::{Failure, ParamsFlags, print, seed, write};
use indicatif::{ProgressBar, ProgressStyle};
use nitrotap_sim::{
    figure::{CONNECTIONS, Sweep},
    report::svg,
    scenario::Scenario,
};
use std::path::PathBuf;

/// Compute requests per second of every scenario by connections
///
/// A closed loop of 1 to 1,024 connections asks a hello-world app, through each scenario's path, in virtual time. The
/// table goes to standard output. All figures are simulated: they hold for the parameters that they name.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
    nitrotap-sim figure\n  \
    nitrotap-sim figure --scenario nitriding --scenario nitrotap --connections 1,8,64 --svg figure.svg")]
pub(crate) struct Figure {
    #[command(flatten)]
    params: ParamsFlags,

    /// Seed of every random draw
    #[arg(long, default_value = "1", value_parser = seed)]
    seed: u64,

    /// Scenario to show; give it once for each [default: all]
    #[arg(long = "scenario", value_name = "NAME")]
    scenarios: Vec<Scenario>,

    /// Numbers of connections
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_values_t = CONNECTIONS,
        value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: Vec<u32>,

    /// Write the points as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write the points as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,

    /// Draw the picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Figure {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let sweep = Sweep {
            params: self.params.load()?,
            params_name: self.params.name().to_owned(),
            scenarios: if self.scenarios.is_empty() { Scenario::ALL.to_vec() } else { self.scenarios },
            connections: self.connections,
            seed: self.seed,
        };
        let bar = ProgressBar::new(sweep.experiments().len() as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} points, {eta} left") {
            bar.set_style(style);
        }
        let figure = sweep.run(|| bar.inc(1));
        bar.finish_and_clear();
        let figure = figure.map_err(|error| error.to_string())?;
        print(&figure.table())?;
        if let Some(path) = &self.json {
            write(path, &figure.json())?;
        }
        if let Some(path) = &self.csv {
            write(path, &figure.csv())?;
        }
        if let Some(path) = &self.svg {
            let picture = svg(&figure).map_err(|error| format!("cannot draw {}: {error}", path.display()))?;
            write(path, &picture)?;
        }
        Ok(())
    }
}
