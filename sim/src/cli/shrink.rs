//! `nitrotap-sim shrink`: the smallest plan that still fails in the same way.

use super::{
    Failure, print,
    replay::{load, report},
    stopwatch::Stopwatch,
    write,
};
use indicatif::ProgressBar;
use nitrotap_sim::soak::shrink;
use std::{path::PathBuf, time::Duration};

/// Make a failing plan smaller
///
/// Takes away faults, loads, clients, bytes and time for as long as the same invariant breaks.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  nitrotap-sim shrink 0x2a --out small.json")]
pub(crate) struct Shrink {
    /// A seed, or the file of a plan
    #[arg(value_name = "SEED|FILE")]
    what: String,

    /// Longest time to try
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,

    /// Write the smaller plan to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Shrink {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let plan = load(&self.what)?;
        let watch = Stopwatch::start();
        let limit = Duration::from_secs(self.seconds);
        let bar = ProgressBar::new_spinner();
        let shrunk = shrink(&plan, |tried| {
            bar.set_message(format!("{tried} plans tried"));
            bar.tick();
            watch.elapsed() < limit
        });
        bar.finish_and_clear();
        let Some(shrunk) = shrunk else {
            return Err(Failure::Runtime(format!("{} breaks no invariant: there is nothing to shrink", self.what)));
        };
        if let Some(path) = &self.out {
            write(path, &(shrunk.plan.to_json() + "\n"))?;
        } else {
            print(&(shrunk.plan.to_json() + "\n"))?;
        }
        print(&report(&shrunk.plan, &shrunk.verdict))?;
        print(&format!(
            "{} events left of {}, {} plans tried in {:.1} s\n",
            shrunk.plan.events(),
            plan.events(),
            shrunk.tried,
            watch.elapsed().as_secs_f64()
        ))
    }
}
