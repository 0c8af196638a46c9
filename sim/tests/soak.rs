//! The soak: kept plans, some seeds, determinism, and the shrinker.

use nitrotap_sim::{
    check::Invariant,
    soak::{Campaign, Fault, FaultKind, Load, LoadKind, Plan, run, shrink},
};
use std::path::Path;

#[test]
fn every_plan_that_once_failed_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut plans = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let plan = Plan::load(&path).unwrap();
        let verdict = run(&plan, false);
        assert!(verdict.is_ok(), "{}: {}", path.display(), verdict.breaks[0]);
        plans += 1;
    }
    assert!(plans > 0, "{} is empty", folder.display());
}

#[test]
fn some_seeds_hold_and_give_the_same_trace_twice() {
    let campaign = Campaign { first: 1, seeds: Some(12), jobs: 2, twice: true, keep_going: true };
    let mut broken = Vec::new();
    let tally = campaign.run(
        || true,
        |seed, _, verdict| {
            if let Some(first) = verdict.breaks.first() {
                broken.push(format!("seed {seed:#x}: {first}"));
            }
        },
    );
    assert!(broken.is_empty(), "{broken:#?}");
    assert_eq!((tally.seeds, tally.plans), (12, 24));
    assert!(tally.requests > 100 && tally.checks > 1000, "{tally:?}");
}

/// A plan that cannot hold: it promises that nothing fails while gvproxy is down.
fn impossible() -> Plan {
    let mut plan = Plan::from_seed(3);
    let load = |id, kind| Load { id, clients: 3, start_ms: 0, think_ms: 500, kind };
    plan.loads = (0..4).map(|id| load(id, LoadKind::Http { max_body: 5000, unruly_permille: 0 })).collect();
    let fault = |at_ms, kind| Fault { at_ms, for_ms: 3_000, kind };
    plan.faults = vec![
        fault(5_000, FaultKind::ClockJump { by_ms: 100 }),
        fault(10_000, FaultKind::Latency { extra_ms: 50 }),
        fault(20_000, FaultKind::GvproxyRestart),
        fault(30_000, FaultKind::Latency { extra_ms: 50 }),
        fault(35_000, FaultKind::ClockJump { by_ms: 100 }),
    ];
    plan.faults_over_ms = 40_000;
    plan.calm_ms = 2_000;
    plan.stop_ms = 60_000;
    plan.end_ms = 80_000;
    plan
}

#[test]
fn what_fails_shrinks_to_what_makes_it_fail() {
    let plan = impossible();
    let shrunk = shrink(&plan, |tried| tried < 60).expect("the plan cannot hold");
    assert_eq!(shrunk.verdict.breaks[0].invariant, Invariant::Recovery);
    assert_eq!(shrunk.plan.faults.len(), 1, "{}", shrunk.plan.to_json());
    assert_eq!(shrunk.plan.faults[0].kind, FaultKind::GvproxyRestart);
    assert_eq!((shrunk.plan.loads.len(), shrunk.plan.loads[0].clients), (1, 1));
    assert!(shrunk.plan.events() <= 10);
    // The small plan is as good as the large one: it fails again, in the same way, at the same time.
    let again = run(&shrunk.plan, false);
    assert_eq!((again.hash, again.breaks.first()), (shrunk.verdict.hash, shrunk.verdict.breaks.first()));
    assert!(shrink(&Plan { faults: Vec::new(), ..plan }, |_| true).is_none(), "without the fault it holds");
}
