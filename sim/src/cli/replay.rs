//! `nitrotap-sim replay`: one plan again, byte for byte.

use super::{Failure, print, seed, write};
use nitrotap_sim::{
    soak::{Plan, Verdict, run},
    trace::CHECKPOINT,
};
use std::{
    fmt::Write as _,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

/// Run one seed or one plan of the soak again
///
/// The same plan gives the same trace, byte for byte, in any build of the same source. Exit code 1 if it breaks an
/// invariant.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
    nitrotap-sim replay 0x2a --trace -\n  \
    nitrotap-sim replay 0x2a --times 50 --hash\n  \
    nitrotap-sim replay sim/regressions/seed-2a.json")]
pub(crate) struct Replay {
    /// A seed, or the file of a plan
    #[arg(value_name = "SEED|FILE")]
    what: String,

    /// Print the plan instead of running it
    #[arg(long)]
    plan: bool,

    /// Write the trace to a file, or with `-` to standard output
    #[arg(long, value_name = "FILE|-")]
    trace: Option<PathBuf>,

    /// Print nothing but the trace's hash and its length
    #[arg(long)]
    hash: bool,

    /// Run it this often, and fail unless every trace is the same
    #[arg(long, value_name = "N", default_value = "1")]
    times: NonZeroU32,
}

impl Replay {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let plan = load(&self.what)?;
        if self.plan {
            return print(&(plan.to_json() + "\n"));
        }
        if self.times.get() == 1 {
            return replay(&plan, self.trace.as_deref(), self.hash, None);
        }
        let first = run(&plan, false);
        for _ in 2..self.times.get() {
            let other = run(&plan, false);
            if other.hash != first.hash {
                let same = first.checkpoints.iter().zip(&other.checkpoints).take_while(|(a, b)| a == b).count() as u64;
                return Err(Failure::Runtime(format!(
                    "seed {:#x}: two runs of one plan part ways between record {} and {}",
                    plan.seed,
                    same * CHECKPOINT,
                    (same + 1) * CHECKPOINT
                )));
            }
        }
        replay(&plan, self.trace.as_deref(), self.hash, Some(first.hash.0))
    }
}

/// Runs `plan`; writes its trace, or only its hash, and fails if an invariant broke or the hash is another one.
pub(crate) fn replay(plan: &Plan, trace: Option<&Path>, hash_only: bool, expected: Option<u64>) -> Result<(), Failure> {
    let verdict = run(plan, trace.is_some());
    if let Some(path) = trace {
        let mut text = String::new();
        for record in &verdict.tail {
            let _ = writeln!(text, "{record}");
        }
        if path == Path::new("-") { print(&text)? } else { write(path, &text)? }
    }
    let (hash, records) = verdict.hash;
    if hash_only {
        print(&format!("{hash:016x} {records}\n"))?;
    } else {
        print(&report(plan, &verdict))?;
    }
    if let Some(first) = verdict.breaks.first() {
        return Err(Failure::Runtime(format!("seed {:#x}: {first}", plan.seed)));
    }
    match expected {
        Some(expected) if expected != hash => {
            Err(Failure::Runtime(format!("the trace has hash {hash:016x}, expected was {expected:016x}")))
        }
        Some(_) | None => Ok(()),
    }
}

/// The plan that `what` names.
pub(crate) fn load(what: &str) -> Result<Plan, Failure> {
    match seed(what) {
        Ok(seed) => Ok(Plan::from_seed(seed)),
        Err(_) if Path::new(what).exists() => {
            Plan::load(Path::new(what)).map_err(|error| Failure::Usage(error.to_string()))
        }
        Err(_) => Err(Failure::Usage(format!(
            "`{what}` is neither a seed, such as 42 or 0x2a, nor the file of a plan, such as sim/regressions/seed-2a.json"
        ))),
    }
}

/// What a person wants to know of a run.
pub(crate) fn report(plan: &Plan, verdict: &Verdict) -> String {
    let mut text = String::new();
    let (hash, records) = verdict.hash;
    let _ = writeln!(
        text,
        "seed {:#x}: {} with {} loads and {} faults, {:.1} s simulated, trace {hash:016x} of {records} records",
        plan.seed,
        plan.scenario,
        plan.loads.len(),
        plan.faults.len(),
        verdict.model.as_secs_f64()
    );
    let counts = &verdict.counts;
    let _ = writeln!(
        text,
        "{} requests, {} right answers and transfers, {} failures, {} checks",
        counts.requests, counts.answers, counts.failures, verdict.checks
    );
    for broken in &verdict.breaks {
        let _ = writeln!(text, "{broken}");
    }
    if verdict.is_ok() {
        let _ = writeln!(text, "every invariant held");
    }
    text
}
