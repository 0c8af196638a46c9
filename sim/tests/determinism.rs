//! A run is a function of its plan: the same in one process twice, in another process, and in another build.
//!
//! `golden.txt` holds what each scenario's trace is, for debug and release builds alike; CI compares it as well, through
//! `nitrotap-sim run --expect-hash`. After a change of the model or of the parameters, write it and the snapshots anew:
//!
//! ```sh
//! UPDATE_GOLDEN=1 INSTA_UPDATE=always cargo test -p nitrotap-sim --test determinism
//! ```

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use nitrotap_sim::{
    figure::{Sweep, run_all},
    measure::Experiment,
    params::Params,
    scenario::Scenario,
};
use std::{fmt::Write as _, fs, path::Path, process::Command};

/// What the golden runs are of; `nitrotap-sim run` has the same defaults.
const CONNECTIONS: u32 = 8;
const SEED: u64 = 1;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden.txt");

const GOLDEN_HEAD: &str = "# Scenario, hash of its trace, number of records: nitrotap-sim run --scenario SCENARIO --hash\n\
                           # Written by: UPDATE_GOLDEN=1 cargo test -p nitrotap-sim --test determinism\n";

fn experiment(scenario: Scenario, seed: u64) -> Experiment {
    Experiment::new(scenario, CONNECTIONS, Params::load("c5").unwrap(), seed)
}

/// Hash and number of records of each scenario's trace, each on a fresh thread.
fn hashes(seed: u64) -> Vec<(Scenario, String)> {
    let points = Scenario::ALL.map(|scenario| experiment(scenario, seed));
    let outcomes = run_all(&points, |_| ()).unwrap_or_else(|error| panic!("{error}"));
    let text = |(hash, count)| format!("{hash:016x} {count}");
    Scenario::ALL.into_iter().zip(outcomes.into_iter().map(|outcome| text(outcome.hash))).collect()
}

/// The same from a process of its own, in directory `cwd` with an environment of `padding` more bytes.
fn hash_of_process(scenario: Scenario, cwd: &Path, padding: usize) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_nitrotap-sim"))
        .args(["run", "--scenario", scenario.name(), "--hash"])
        .args(["--connections", &CONNECTIONS.to_string(), "--seed", &SEED.to_string()])
        .current_dir(cwd)
        // Moves the stack, and with it every address that could slip into a result.
        .env("NITROTAP_SIM_PADDING", "x".repeat(padding))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{scenario}: {}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn a_seed_gives_the_same_trace_in_every_thread_and_process() {
    let (first, second) = (hashes(SEED), hashes(SEED));
    assert_eq!(first, second, "two threads of one process");
    for (scenario, hash) in &first {
        for (cwd, padding) in [(Path::new("/"), 1), (&std::env::temp_dir(), 70_001)] {
            assert_eq!(&hash_of_process(*scenario, cwd, padding), hash, "{scenario}, another process in {cwd:?}");
        }
    }
    for ((scenario, hash), (_, other)) in first.iter().zip(hashes(SEED + 1)) {
        assert_ne!(hash, &other, "{scenario} does not depend on its seed");
    }
}

#[test]
fn every_build_gives_the_committed_traces() {
    let mut text = GOLDEN_HEAD.to_owned();
    for (scenario, hash) in hashes(SEED) {
        writeln!(text, "{scenario} {hash}").unwrap();
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(GOLDEN, &text).unwrap();
    }
    let golden = fs::read_to_string(GOLDEN).unwrap_or_else(|error| panic!("{GOLDEN}: {error}"));
    assert_eq!(golden, text, "the traces are not those in {GOLDEN}; if they ought to differ, see the top of this test");
}

#[test]
fn a_hash_that_was_expected_in_vain_is_an_error_that_shows_both() {
    let sim = |expected: &str| {
        Command::new(env!("CARGO_BIN_EXE_nitrotap-sim"))
            .args(["run", "--scenario", "docker", "--connections", "1", "--hash", "--expect-hash", expected])
            .output()
            .unwrap()
    };
    let wrong = sim("beef");
    let (stdout, stderr) = (String::from_utf8_lossy(&wrong.stdout), String::from_utf8_lossy(&wrong.stderr));
    let hash = stdout.split(' ').next().unwrap();
    assert_eq!(wrong.status.code(), Some(1), "{stderr}");
    for part in ["nitrotap-sim: ", "docker", "seed 1", "000000000000beef", hash] {
        assert!(stderr.contains(part), "{part} is not in: {stderr}");
    }
    assert!(sim(hash).status.success());
}

#[test]
fn the_first_requests_of_a_run_read_as_a_story() {
    let experiment = Experiment::new(Scenario::Nitrotap, 1, Params::load("c5").unwrap(), SEED);
    let outcome = experiment.run_with(|world| world.trace().keep_all());
    let mut text = String::new();
    for record in outcome.tail.iter().take(64) {
        writeln!(text, "{record}").unwrap();
    }
    insta::assert_snapshot!(text);
}

#[test]
fn the_table_of_a_figure_is_reviewable() {
    let sweep = Sweep {
        scenarios: Scenario::ALL.to_vec(),
        connections: vec![1, 8],
        params: Params::load("c5").unwrap(),
        params_name: "c5".to_owned(),
        seed: SEED,
    };
    let figure = sweep.run(|| ()).unwrap_or_else(|error| panic!("{error}"));
    // Blanks at the ends of lines are the table's own, and no editor's business.
    let table: String = figure.table().lines().map(|line| format!("{}\n", line.trim_end())).collect();
    insta::assert_snapshot!(table);
}
