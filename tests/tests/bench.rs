//! `nitrotap bench`: that every measurement runs, gives figures with their units, and leaves nothing behind. Not how fast.

use nitrotap_tests::{
    Finished, Namespace, Process, Scratch, binaries, ordinary, peers, require,
    wait::{self, LATER, SOON},
};
use rustix::process::Signal;
use serde_json::Value;
use std::{fs, path::Path, process::Command};

fn bench(args: &[&str]) -> Finished {
    let mut command = Command::new(binaries::nitrotap());
    command.arg("bench").args(args);
    Process::start("bench", command, &Scratch::new()).finish(LATER)
}

/// Runs a bench and gives what it wrote with `--json -`, checked for what all of them have in common.
fn report(args: &[&str]) -> Value {
    let finished = bench(&[args, &["--quick", "--seconds", "0.2", "--json", "-"]].concat());
    assert_eq!(finished.code(), Some(0), "{args:?}: {}", finished.stderr);
    let report: Value = serde_json::from_str(&finished.stdout).expect("nothing but JSON on standard output");
    assert_eq!(report["schema"], "nitrotap-bench/1");
    assert_eq!(report["bench"], args[0]);
    assert_eq!(report["repetitions"], 1);
    assert!(report["machine"]["cores"].as_u64() > Some(0));
    assert!(!rows(&report).is_empty());
    for row in rows(&report) {
        assert!(row["rate"]["median"].as_f64() > Some(0.0), "moved nothing: {row:#}");
        assert_eq!(row["errors"], 0, "{row:#}");
        assert!(roles(row).contains(&"client"), "{row:#}");
        for time in row["processors"].as_array().expect("a list") {
            assert!(time["cost"]["median"].as_f64() >= Some(0.0) && time["busy_cores"].is_number(), "{time:#}");
        }
        let timed = ["requests", "connections"].contains(&row["unit"].as_str().expect("a name"));
        assert_eq!(row["latency_us"]["p50"].as_f64().is_some_and(|us| us > 0.0), timed, "{row:#}");
    }
    report
}

fn rows(report: &Value) -> &[Value] {
    report["rows"].as_array().expect("a list")
}

fn roles(row: &Value) -> Vec<&str> {
    let processors = row["processors"].as_array().expect("a list");
    processors.iter().map(|time| time["role"].as_str().expect("a name")).collect()
}

fn notes(report: &Value) -> impl Iterator<Item = &str> {
    report["notes"].as_array().expect("a list").iter().map(|note| note.as_str().expect("words"))
}

fn subjects(report: &Value) -> Vec<&str> {
    let mut subjects: Vec<&str> = rows(report).iter().map(|row| row["subject"].as_str().expect("a name")).collect();
    subjects.dedup();
    subjects.sort_unstable();
    subjects.dedup();
    subjects
}

#[test]
fn the_stream_is_measured() {
    let report = report(&["link"]);
    assert_eq!(subjects(&report), ["tcp", "unix"]);
    assert!(rows(&report).iter().any(|row| row["calls_per_second"]["median"].as_f64() > Some(0.0)));
}

#[test]
fn a_stream_is_measured_between_two_of_us() {
    let scratch = Scratch::new();
    let url = format!("unix://{}", scratch.join("peer").display());
    let mut command = Command::new(binaries::nitrotap());
    command.args(["bench", "link", "--serve", &url]);
    let mut peer = Process::start("peer", command, &scratch);
    wait::until("the peer listens", SOON, || scratch.join("peer").exists().then_some(()));
    let report = report(&["link", "--stream", &url]);
    assert_eq!(subjects(&report), ["unix"]);
    assert!(peer.try_wait().is_none());
}

#[test]
fn the_tap_handler_is_measured_alone_with_both_frame_loops() {
    drop(require!(Namespace::new()));
    let report = report(&["tap", "--mtu", "1500", "--streams", "1"]);
    assert_eq!(subjects(&report), ["batched", "single"]);
    for row in rows(&report) {
        assert_eq!(roles(row), ["client", "tap handler", "null host"]);
        assert!(row["frames_per_second"]["median"].as_f64() > Some(0.0), "{row:#}");
    }
}

#[test]
fn the_gateway_is_measured_alone() {
    let report = report(&["host", "--no-peers", "--mtu", "65520", "--streams", "8"]);
    assert_eq!(subjects(&report), ["nitrotap host"]);
    let units: Vec<_> = rows(&report).iter().map(|row| row["unit"].as_str().expect("a name")).collect();
    assert_eq!(units, ["gigabits", "gigabits", "requests", "requests", "connections"]);
}

#[test]
fn a_stock_gateway_is_measured_like_ours() {
    let gvproxy = require!(peers::find("gvproxy"));
    let report = report(&["host", "--gvproxy", gvproxy.to_str().expect("plain"), "--mtu", "1500", "--streams", "1"]);
    assert_eq!(subjects(&report), ["gvproxy", "nitrotap host"]);
}

#[test]
fn the_reverse_proxy_is_measured_beside_no_proxy() {
    let report = report(&["proxy", "--connections", "1,8"]);
    assert_eq!(subjects(&report), ["direct", "nitrotap proxy"]);
}

#[test]
fn the_worse_offender_is_named_for_stock_and_for_ours() {
    drop(require!(Namespace::new()));
    let gvproxy = require!(peers::find("gvproxy"));
    let gvproxy = gvproxy.to_str().expect("plain");
    let report = report(&["e2e", "--gvproxy", gvproxy, "--mtu", "1500", "--streams", "1", "--connections", "8"]);
    let pairs = ["nitrotap + gvproxy", "nitrotap + nitrotap host", "single-frame loop + gvproxy"];
    assert_eq!(subjects(&report), [&[KERNEL], &pairs[..], &["the stream alone"]].concat());
    // At each number of connections, beside its bytes.
    let raw = rows(&report).iter().filter(|row| row["subject"] == "the stream alone");
    let raw: Vec<_> = raw.map(|row| (row["unit"].as_str().expect("a name"), row["connections"].as_u64())).collect();
    assert_eq!(raw, [("gigabits", Some(1)), ("requests", Some(8))]);
    let verdicts = report["verdicts"].as_array().expect("a list");
    // For bulk, and for requests.
    assert_eq!(verdicts.len(), 2 * pairs.len());
    for verdict in verdicts {
        let text = verdict["text"].as_str().expect("words");
        assert!(text.contains("worse offender: "), "{text}");
        assert!(["tap handler", "gateway"].contains(&verdict["worse_offender"].as_str().expect("a role")));
        assert!(verdict["times_the_next"].as_f64() > Some(0.0), "{verdict:#}");
    }
}

/// Needs nothing installed and has no verdict: nobody ships it.
const KERNEL: &str = "kernel TCP at both ends";

#[test]
fn two_kernels_with_a_stream_between_are_measured_beside_ours() {
    drop(require!(Namespace::new()));
    let report = report(&["e2e", "--no-peers", "--mtu", "1500,65520", "--streams", "1", "--connections", "1"]);
    let kernels: Vec<_> = rows(&report).iter().filter(|row| row["subject"] == KERNEL).collect();
    // Two directions and requests, at each MTU.
    assert_eq!(kernels.len(), 2 * 3, "{:#}", report["notes"]);
    for row in kernels {
        assert_eq!(roles(row), ["client", "tap handler", "far end", "app"]);
        assert!(row["frames_per_second"]["median"].as_f64() > Some(0.0), "{row:#}");
    }
    let verdicts = report["verdicts"].as_array().expect("a list");
    assert!(verdicts.iter().all(|verdict| verdict["subject"] == "nitrotap + nitrotap host"), "{verdicts:#?}");
    for mtu in [1500, 65520] {
        let share = format!("nitrotap + nitrotap host at MTU {mtu}, of what {KERNEL} does: enclave to host ");
        assert!(notes(&report).any(|note| note.starts_with(&share)), "{:#}", report["notes"]);
        let p50 = format!("p50 of nitrotap + nitrotap host at 1 connection and MTU {mtu} is ");
        assert!(notes(&report).any(|note| note.starts_with(&p50)), "{:#}", report["notes"]);
    }
}

#[test]
fn enclave_and_host_have_processors_of_their_own_if_asked() {
    drop(require!(Namespace::new()));
    for bench in ["e2e", "figure"] {
        let mut args = vec![bench, "--split-cores", "--no-peers", "--mtu", "1500", "--connections", "1"];
        if bench == "e2e" {
            args.extend(["--streams", "1"]);
        }
        if std::thread::available_parallelism().expect("the kernel tells").get() < 2 {
            let finished = self::bench(&args);
            assert_eq!(finished.code(), Some(2), "{}", finished.stderr);
            assert!(finished.stderr.contains("--split-cores needs at least 2 processors"), "{}", finished.stderr);
            continue;
        }
        let report = report(&args);
        let side = |name: &str| report["split_cores"][name].as_array().expect("a list").clone();
        let (host, enclave) = (side("host_side"), side("enclave_side"));
        assert!(!host.is_empty() && !enclave.is_empty(), "{host:?} {enclave:?}");
        assert!(host.iter().all(|processor| !enclave.contains(processor)), "{host:?} {enclave:?}");
        // A machine may have a single core, whose threads are all there is to split.
        let shared = report["split_cores"]["shares_a_core"].as_bool().expect("yes or no");
        let how = if shared { ", which are threads of one core" } else { ", as two machines" };
        assert!(notes(&report).any(|note| note.ends_with(how)), "{:#}", report["notes"]);
    }
    let whole = report(&["link"]);
    assert!(whole.get("split_cores").is_none());
}

#[test]
fn the_figure_has_every_way_and_a_picture() {
    drop(require!(Namespace::new()));
    let scratch = Scratch::new();
    let svg = scratch.join("figure.svg");
    let report = report(&["figure", "--no-peers", "--connections", "1,4", "--svg", svg.to_str().expect("plain")]);
    assert_eq!(
        subjects(&report),
        [
            "direct (loopback)",
            "direct on the stream (unix)",
            "nitrotap + nitrotap host",
            "nitrotap + nitrotap host, reverse proxy"
        ]
    );
    let svg = fs::read_to_string(svg).expect("it was written");
    assert!(svg.starts_with("<svg ") && svg.contains("requests/s"));
}

#[test]
fn the_figure_tells_what_ours_answers_in_times_the_stand_in_for_the_go_pair() {
    drop(require!(Namespace::new()));
    let gvproxy = require!(peers::find("gvproxy"));
    let report = report(&["figure", "--gvproxy", gvproxy.to_str().expect("plain"), "--connections", "64"]);
    for with in ["with", "without"] {
        let start = format!("nitrotap + nitrotap host at 64 connections, {with} reverse proxy: ");
        let note = notes(&report).find(|note| note.starts_with(&start)).expect("a note");
        assert!(note.ends_with(" times the requests/s of single-frame loop + gvproxy"), "{note}");
    }
}

#[test]
fn the_simulator_reads_what_calibrate_writes() {
    drop(require!(Namespace::new()));
    let scratch = Scratch::new();
    let costs = scratch.join("here.toml");
    let finished = bench(&["calibrate", "--no-peers", "--quick", "--out", costs.to_str().expect("plain")]);
    assert_eq!(finished.code(), Some(0), "{}", finished.stderr);
    let mut command = Command::new(binaries::simulator());
    command.args(["run", "--scenario", "nitrotap", "--connections", "1", "--calibrate"]).arg(&costs);
    let simulated = Process::start("simulator", command, &scratch).finish(LATER);
    assert_eq!(simulated.code(), Some(0), "{}", simulated.stderr);
    assert!(fs::read_to_string(&costs).expect("it was written").contains("\nprovenance = \"nitrotap "));
}

#[test]
fn an_ordinary_user_needs_a_tap_device_that_may_be_opened() {
    drop(require!(Namespace::new()));
    let scratch = Scratch::new();
    let run = |mode: &str| {
        let command = ordinary::command(binaries::nitrotap(), mode, false, &scratch);
        command.map(|mut command| {
            command.args(["bench", "tap", "--quick", "--mtu", "1500", "--streams", "1"]);
            Process::start("bench", command, &scratch).finish(LATER)
        })
    };
    let open = require!(run("0666"));
    assert_eq!(open.code(), Some(0), "{}", open.stderr);
    assert!(open.stdout.contains("tap handler"), "{}", open.stdout);
    let closed = require!(run("0600"));
    assert_eq!(closed.code(), Some(1), "{}", closed.stderr);
    assert!(closed.stderr.contains("/dev/net/tun") && closed.stderr.contains("0666"), "{}", closed.stderr);
}

#[test]
fn a_killed_bench_leaves_no_process() {
    drop(require!(Namespace::new()));
    let scratch = Scratch::new();
    // Of its own, so that nobody else runs it.
    let copy = ordinary::visible(binaries::nitrotap(), &scratch);
    let mut command = Command::new(&copy);
    command.args(["bench", "tap", "--mtu", "1500"]);
    let bench = Process::start("bench", command, &scratch);
    // Two null hosts, namespaces, TAP handlers and apps.
    wait::until("the bench is built", SOON, || (running(&copy) > 8).then_some(()));
    bench.signal(Signal::KILL);
    wait::until("all are gone", SOON, || (running(&copy) == 0).then_some(()));
}

/// Processes that run this very file.
fn running(program: &Path) -> usize {
    let exe = |entry: fs::DirEntry| fs::read_link(entry.path().join("exe")).ok();
    fs::read_dir("/proc").expect("/proc is mounted").flatten().filter_map(exe).filter(|path| path == program).count()
}

#[test]
fn bad_arguments_are_usage_errors() {
    for (args, word) in [
        (&["tap", "--seconds", "0"][..], "--seconds"),
        (&["tap", "--seconds", "x"], "--seconds"),
        (&["tap", "--repeat", "0"], "--repeat"),
        (&["tap", "--mtu", "67"], "--mtu"),
        (&["e2e", "--connections", "0"], "--connections"),
        (&["host", "--host", "gvproxy"], "--host"),
        (&["link", "--serve", "vsock://3:1"], "--serve"),
        (&["frobnicate"], "frobnicate"),
        (&["e2e", "--gvproxy", "/nonexistent/gvproxy"], "/nonexistent/gvproxy"),
    ] {
        let finished = bench(args);
        let first = finished.stderr.lines().next().unwrap_or_default();
        assert_eq!(finished.code(), Some(2), "{args:?}: {}", finished.stderr);
        assert!(first.contains(word), "{args:?}: {first}");
    }
}
