//! Many seeds on several threads, and what they add up to.

use super::{
    faults::FaultKind,
    plan::Plan,
    run::{Verdict, run},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// What seeds add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Seeds run.
    pub seeds: u64,
    /// Plans run: two of each seed.
    pub plans: u64,
    /// Seeds of plans that broke an invariant.
    pub failed: Vec<u64>,
    /// Model time, in milliseconds.
    pub model_ms: u64,
    /// HTTP requests sent.
    pub requests: u64,
    /// Answers and transfers that were right.
    pub answers: u64,
    /// Failures seen by clients; one that no fault excuses also breaks an invariant.
    pub failures: u64,
    /// Bytes that came back and were looked at.
    pub bytes: u64,
    /// Checks of invariants.
    pub checks: u64,
    /// How often each registered fault did something.
    pub fired: BTreeMap<String, u64>,
}

impl Tally {
    fn add(&mut self, seed: u64, verdict: &Verdict) {
        self.plans += 1;
        if !verdict.is_ok() {
            self.failed.push(seed);
        }
        self.model_ms += u64::try_from(verdict.model.as_millis()).unwrap_or(u64::MAX);
        self.requests += verdict.counts.requests;
        self.answers += verdict.counts.answers;
        self.failures += verdict.counts.failures;
        self.bytes += verdict.counts.bytes;
        self.checks += verdict.checks;
        for (name, times) in &verdict.counts.fired {
            *self.fired.entry(name.clone()).or_default() += times;
        }
    }

    /// Model time in all.
    #[must_use]
    pub const fn model(&self) -> Duration {
        Duration::from_millis(self.model_ms)
    }

    /// Registered faults that did nothing in any seed.
    #[must_use]
    pub fn never_fired(&self) -> Vec<&'static str> {
        FaultKind::REGISTERED.into_iter().filter(|name| !self.fired.contains_key(*name)).collect()
    }
}

/// A campaign over seeds, each once with gvproxy and once with nitrotap's gateway on the host.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// The first seed; the others follow it.
    pub first: u64,
    /// How many; `None` for as many as there is time for.
    pub seeds: Option<u64>,
    /// Threads.
    pub jobs: usize,
    /// Run each seed twice and compare the traces.
    pub twice: bool,
    /// Go on after a failure.
    pub keep_going: bool,
}

impl Campaign {
    /// Runs it. `more` is asked before each seed whether there is time; `done` is told of each plan that has run, in the
    /// order in which they end, with its seed and verdict.
    pub fn run(self, more: impl Fn() -> bool + Sync, done: impl FnMut(u64, &Plan, &Verdict) + Send) -> Tally {
        let next = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let books = Mutex::new((Tally::default(), done));
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Relaxed);
                        if stop.load(Relaxed) || self.seeds.is_some_and(|seeds| index >= seeds) || !more() {
                            break;
                        }
                        let seed = self.first.wrapping_add(index);
                        for seed in [seed, Plan::other_host(seed)] {
                            let plan = Plan::from_seed(seed);
                            let verdict = self.judge(&plan);
                            let mut books = crate::cpu::lock(&books);
                            let (tally, done) = &mut *books;
                            tally.add(seed, &verdict);
                            done(seed, &plan, &verdict);
                            if !verdict.is_ok() && !self.keep_going {
                                stop.store(true, Relaxed);
                            }
                        }
                        crate::cpu::lock(&books).0.seeds += 1;
                    }
                });
            }
        });
        let (mut tally, _) = books.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        tally.failed.sort_unstable();
        tally
    }

    fn judge(self, plan: &Plan) -> Verdict {
        let mut verdict = run(plan, false);
        if self.twice {
            let again = run(plan, false);
            if again.hash != verdict.hash {
                verdict.breaks.push(crate::check::Break {
                    at_ns: 0,
                    invariant: crate::check::Invariant::Isolation,
                    detail: format!("two runs of one plan differ: {:x?} and {:x?}", verdict.hash, again.hash),
                });
            }
        }
        verdict
    }
}
