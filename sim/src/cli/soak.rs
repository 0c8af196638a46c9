//! `nitrotap-sim soak`: random worlds under random faults, until something breaks or time is up.

use super::{Failure, print, seed, stopwatch::Stopwatch, write};
use indicatif::{ProgressBar, ProgressStyle};
use nitrotap_sim::soak::{Campaign, FaultKind, Plan, Tally, Verdict};
use std::{
    fmt::Write as _,
    hash::{BuildHasher as _, RandomState},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

/// Run random worlds under random faults and check every invariant
///
/// A seed expands into a plan: topology, loads, faults, times. A plan that breaks an invariant is written to a file, and
/// the command that replays it is printed. Each seed runs twice: with gvproxy on the host, and, as seed plus 2^63, with
/// nitrotap's gateway. Exit code 1 if anything broke.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
    nitrotap-sim soak --seeds 100\n  \
    nitrotap-sim soak --minutes 30 --keep-going --json soak.json")]
pub(crate) struct Soak {
    /// Seeds to run [default: 100, or as many as fit into --minutes]
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,

    /// Stop after this long
    #[arg(long, value_name = "M")]
    minutes: Option<f64>,

    /// The first seed [default: drawn at random, and printed]
    #[arg(long, value_name = "SEED", value_parser = seed)]
    first: Option<u64>,

    /// Threads [default: one per core]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,

    /// Run every seed twice and compare the traces
    #[arg(long)]
    twice: bool,

    /// Go on after a failure
    #[arg(long)]
    keep_going: bool,

    /// Folder for the plans that fail
    #[arg(long, value_name = "DIR", default_value = "sim/regressions")]
    keep: PathBuf,

    /// Write what the seeds add up to as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Soak {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let first = self.first.unwrap_or_else(|| RandomState::new().hash_one(std::process::id()) >> 16);
        let seeds = self.seeds.or_else(|| self.minutes.is_none().then_some(100));
        let limit = match self.minutes {
            Some(minutes) => Some(
                Duration::try_from_secs_f64(minutes * 60.0)
                    .map_err(|_| Failure::Usage(format!("--minutes {minutes} is no stretch of time")))?,
            ),
            None => None,
        };
        let jobs = self.jobs.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let campaign = Campaign { first, seeds, jobs, twice: self.twice, keep_going: self.keep_going };
        let bar = seeds.map_or_else(ProgressBar::no_length, ProgressBar::new);
        let template = "{bar:30} {pos}/{len} seeds, {elapsed} {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let watch = Stopwatch::start();
        let mut reports = Vec::new();
        let tally = campaign.run(
            || limit.is_none_or(|limit| watch.elapsed() < limit),
            |seed, plan, verdict| {
                bar.inc(u64::from(plan.scenario.is_native_host()));
                if !verdict.is_ok() {
                    let report = self.report(seed, plan, verdict);
                    bar.suspend(|| print(&report)).unwrap_or_default();
                    reports.push(seed);
                }
            },
        );
        bar.finish_and_clear();
        print(&summary(&tally, first, watch.elapsed(), jobs))?;
        if let Some(path) = &self.json {
            let json = serde_json::to_string_pretty(&tally).map_err(|error| error.to_string())?;
            write(path, &json)?;
        }
        if !tally.failed.is_empty() {
            return Err(Failure::Runtime(format!(
                "{} of {} plans broke an invariant",
                tally.failed.len(),
                tally.plans
            )));
        }
        let silent = tally.never_fired();
        if tally.seeds >= 1000 && !silent.is_empty() {
            return Err(Failure::Runtime(format!("these faults never fired in 1,000 seeds: {}", silent.join(", "))));
        }
        Ok(())
    }

    fn report(&self, seed: u64, plan: &Plan, verdict: &Verdict) -> String {
        let mut text = format!("seed {seed:#x} fails\n");
        for broken in verdict.breaks.iter().take(3) {
            let _ = writeln!(text, "  {broken}");
        }
        let _ = writeln!(text, "  replay it with: nitrotap-sim replay {seed:#x}");
        match keep(&self.keep, seed, plan) {
            Ok(path) => {
                let _ = writeln!(text, "  or, whatever becomes of seeds: nitrotap-sim replay {}", path.display());
            }
            Err(error) => {
                let _ = writeln!(text, "  its plan could not be kept in {}: {error}", self.keep.display());
            }
        }
        let _ = writeln!(text, "  make it smaller with: nitrotap-sim shrink {seed:#x}");
        text
    }
}

fn keep(folder: &Path, seed: u64, plan: &Plan) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join(format!("seed-{seed:x}.json"));
    std::fs::write(&path, plan.to_json() + "\n")?;
    Ok(path)
}

fn summary(tally: &Tally, first: u64, took: Duration, jobs: usize) -> String {
    let mut text = String::new();
    let wall = took.as_secs_f64().max(1e-9);
    let model = tally.model().as_secs_f64();
    let _ = writeln!(
        text,
        "{} seeds from {first:#x}, {} failed, in {wall:.1} s on {jobs} threads",
        tally.seeds,
        tally.failed.len()
    );
    let _ = writeln!(
        text,
        "simulated {:.1} h: {:.0} times as fast as time, {:.0} per thread; {:.1} seeds/s",
        model / 3600.0,
        model / wall,
        model / wall / jobs as f64,
        tally.seeds as f64 / wall
    );
    let _ = writeln!(
        text,
        "{} requests, {} right answers and transfers, {} failures, {:.1} MB looked at, {} checks",
        tally.requests,
        tally.answers,
        tally.failures,
        tally.bytes as f64 / 1e6,
        tally.checks
    );
    let _ = writeln!(text, "faults that did something, how often:");
    for name in FaultKind::REGISTERED {
        let _ = writeln!(text, "  {name:<18} {:>10}", tally.fired.get(name).copied().unwrap_or(0));
    }
    text
}
