//! `nitrotap-sim fit`: parameters from real runs.

use super::{Failure, print, write};
use nitrotap_sim::{
    fit::{self, FITTED, Measured},
    params::Params,
};
use std::{
    io::{self, Write as _},
    path::PathBuf,
};

/// Fit the parameters to real runs
///
/// Takes the rows at 1, 8 and 64 connections of nitrotap-nrp and nitrotap, and of both with `nitrotap host` if they are
/// there, from what tests/bench/closed_loop.sh wrote, and prints parameters under which the simulator shows the same
/// throughput, latency and processor time per request there. Takes some minutes. The other rows are left for `validate`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  \
    tests/bench/closed_loop.sh --out here.tsv && nitrotap-sim fit --measured here.tsv --out here.toml")]
pub(crate) struct Fit {
    /// Real runs
    #[arg(long, value_name = "FILE.tsv")]
    measured: PathBuf,

    /// Parameters to begin with: all that the fit does not touch stays as it is there
    #[arg(long, value_name = "lab|FILE", default_value = "lab")]
    start: String,

    /// Write the parameters here instead of to standard output
    #[arg(long, value_name = "FILE.toml")]
    out: Option<PathBuf>,
}

impl Fit {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let start = Params::load(&self.start).map_err(|error| Failure::Usage(error.to_string()))?;
        let measured = Measured::load(&self.measured).map_err(|error| Failure::Usage(error.to_string()))?;
        let mut fitted = fit::fit(start, &measured, |line| {
            // Nobody has to watch.
            let _ = writeln!(io::stderr(), "{line}");
        })
        .map_err(|error| error.to_string())?;
        let name = self.measured.file_name().unwrap_or(self.measured.as_os_str()).to_string_lossy();
        fitted.params.provenance = format!("fitted to {name} at {FITTED:?} connections");
        let head = format!(
            "What things cost, written by `nitrotap-sim fit` from {name}.\n\
             Requests/s and p50 at the fitted points, {FITTED:?} connections, are met to {:.1} % (root mean square).",
            fitted.error * 100.0
        );
        let text = fit::render(&fitted.params, &head);
        match &self.out {
            Some(path) => write(path, &text),
            None => print(&text),
        }
    }
}
