//! The supervised app: its exit code is ours, its output and its signals pass through, its orphans are reaped.

use nitrotap_tests::{
    Enclave, FakeHost, Namespace, binaries, enclave::Options, fakehost::ServedHost, require, wait::SOON,
};
use rustix::process::Signal;
use std::{process::Stdio, time::Duration};

/// `nitrotap enclave` with a shell script as its app; the network plays no part.
fn script(text: &str) -> Options {
    Enclave::options().app(&["sh", "-c", text])
}

/// A host that is there: without one the app would wait for it for a while.
fn host() -> ServedHost {
    FakeHost::new().serve_always()
}

#[test]
fn the_exit_code_of_the_app_is_passed_on() {
    let host = host();
    for code in ["0", "1", "2", "7", "255"] {
        let mut enclave = require!(Enclave::options().guest_app(&["exit", code]).start(host.url()));
        assert_eq!(enclave.process.finish(SOON).code(), code.parse().ok());
    }
}

#[test]
fn an_app_that_a_signal_ends_gives_128_and_the_signal() {
    let host = host();
    let mut crashed = require!(Enclave::options().guest_app(&["crash"]).start(host.url()));
    assert_eq!(crashed.process.finish(SOON).code(), Some(128 + 6));
    let mut killed = require!(script("kill -KILL $$").start(host.url()));
    let killed = killed.process.finish(SOON);
    assert_eq!(killed.code(), Some(128 + 9));
    assert!(killed.stderr.contains("killed by a signal"), "{}", killed.stderr);
}

#[test]
fn an_app_that_cannot_start_is_a_runtime_failure_that_names_it() {
    let host = host();
    for program in ["/nonexistent/app", "no-such-program", "/etc/passwd", "/"] {
        let mut enclave = require!(Enclave::options().app(&[program]).start(host.url()));
        let finished = enclave.process.finish(SOON);
        assert_eq!(finished.code(), Some(1), "{program}: {}", finished.stderr);
        let last = finished.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("nitrotap: ") && last.contains(program), "{}", finished.stderr);
    }
}

#[test]
fn standard_output_and_error_of_the_app_pass_through_and_ours_carries_nothing_else() {
    let host = host();
    let mut enclave = require!(script("echo to-out; echo to-err >&2; printf 'no newline'").start(host.url()));
    let finished = enclave.process.finish(SOON);
    assert_eq!(finished.stdout, "to-out\nno newline");
    assert!(finished.stderr.lines().any(|line| line == "to-err"), "{}", finished.stderr);
}

#[test]
fn a_log_that_nobody_reads_any_more_takes_nothing_down() {
    let namespace = require!(Namespace::new());
    let mut command = namespace.command(binaries::nitrotap());
    command.args(["enclave", "--host", "unix:///nonexistent/net.sock", "--resolv-conf", "none"]);
    command.args(["--", "sh", "-c", "exit 5"]).stderr(Stdio::piped());
    let mut nitrotap = command.spawn().expect("it was built");
    drop(nitrotap.stderr.take());
    assert_eq!(nitrotap.wait().expect("it is our child").code(), Some(5));
}

#[test]
fn arguments_reach_the_app_as_they_are() {
    let host = host();
    let args = ["sh", "-c", "printf '[%s]' \"$@\"", "sh", "--host", "a b", "", "--", "-x", "*"];
    let mut enclave = require!(Enclave::options().app(&args).start(host.url()));
    assert_eq!(enclave.process.finish(SOON).stdout, "[--host][a b][][--][-x][*]");
}

#[test]
fn the_environment_reaches_the_app() {
    let host = host();
    let mut enclave = require!(Enclave::options().guest_app(&["print-env"]).start(host.url()));
    let finished = enclave.process.finish(SOON).expect_success();
    let path = std::env::var("PATH").unwrap();
    assert!(finished.stdout.lines().any(|line| line == format!("PATH={path}")), "{}", finished.stdout);
}

#[test]
fn the_app_runs_without_a_host_too() {
    let mut enclave = require!(script("echo started").start("unix:///nonexistent/host.sock"));
    assert_eq!(enclave.process.finish(SOON).expect_success().stdout, "started\n");
}

#[test]
fn the_app_finds_the_network_ready() {
    let host = host();
    let gateway = "grep -q '^tap0.00000000' /proc/self/net/route && echo ready";
    let mut enclave = require!(script(gateway).start(host.url()));
    assert_eq!(enclave.process.finish(SOON).expect_success().stdout, "ready\n");
}

#[test]
fn signals_reach_the_app_and_its_answer_to_the_last_is_the_exit_code() {
    let host = host();
    let text = "for s in HUP USR1 USR2; do trap \"echo got $s\" $s; done
        trap 'echo got TERM; exit 7' TERM
        echo ready
        while :; do sleep 0.05; done";
    let mut enclave = require!(script(text).start(host.url()));
    enclave.process.expect_line("ready", SOON);
    for (signal, name) in [(Signal::HUP, "HUP"), (Signal::USR1, "USR1"), (Signal::USR2, "USR2")] {
        enclave.process.signal(signal);
        enclave.process.expect_line(&format!("got {name}"), SOON);
    }
    enclave.process.signal(Signal::TERM);
    let finished = enclave.process.finish(SOON);
    assert_eq!(finished.code(), Some(7), "{}", finished.stderr);
    assert!(finished.stdout.ends_with("got TERM\n"), "{}", finished.stdout);
}

#[test]
fn an_interrupt_ends_the_app_like_a_termination() {
    let host = host();
    let mut enclave = require!(script("echo ready; exec sleep 1000").start(host.url()));
    enclave.process.expect_line("ready", SOON);
    enclave.process.signal(Signal::INT);
    // It is told to terminate, whatever we were told.
    assert_eq!(enclave.process.finish(SOON).code(), Some(128 + 15));
}

#[test]
fn an_app_that_does_not_end_when_told_is_killed_after_the_grace() {
    let host = host();
    let options = script("trap '' TERM; echo ready; while :; do sleep 0.05; done").args(&["--drain-timeout", "1"]);
    let mut enclave = require!(options.start(host.url()));
    enclave.process.expect_line("ready", SOON);
    enclave.process.signal(Signal::TERM);
    let finished = enclave.process.finish(SOON);
    assert_eq!(finished.code(), Some(128 + 9), "{}", finished.stderr);
}

#[test]
fn without_an_app_a_termination_is_a_success() {
    let host = host();
    for signal in [Signal::TERM, Signal::INT] {
        let mut enclave = require!(Enclave::linked(Enclave::options(), host.url()));
        enclave.process.signal(signal);
        assert_eq!(enclave.process.finish(SOON).code(), Some(0));
        let devices = enclave.run("cat", &["/proc/self/net/dev"]).expect_success().stdout;
        assert!(!devices.contains("tap0"), "{devices}");
    }
}

/// Ends once none of the processes in `$pids` exists any more, not even as a zombie.
const UNTIL_GONE: &str = "for pid in $pids; do while [ -e /proc/$pid ]; do sleep 0.02; done; done; echo reaped";

#[test]
fn orphans_are_reaped_when_nitrotap_is_pid_1() {
    let host = host();
    let guest = binaries::guest().display();
    let text = format!("[ $PPID = 1 ] && pids=$({guest} spawn-orphans 20 | cut -d' ' -f2) && {UNTIL_GONE}");
    let mut enclave = require!(script(&text).as_pid_1().start(host.url()));
    let finished = enclave.process.finish(SOON).expect_success();
    assert_eq!(finished.stdout, "reaped\n");
}

#[test]
fn the_exit_code_is_passed_on_when_nitrotap_is_pid_1() {
    let host = host();
    for (app, code) in [("exit 3", 3), ("kill -KILL $$", 137)] {
        let mut enclave = require!(script(app).as_pid_1().start(host.url()));
        assert_eq!(enclave.process.finish(SOON).code(), Some(code));
    }
}

#[test]
fn an_orphan_that_outlives_the_app_does_not_hold_its_exit_code_back() {
    let host = host();
    let mut enclave = require!(script("sleep 1000 >/dev/null 2>&1 & exit 4").as_pid_1().start(host.url()));
    assert_eq!(enclave.process.finish(Duration::from_secs(30)).code(), Some(4));
}

#[test]
fn a_crash_of_the_app_takes_the_tap_down_with_it() {
    let host = host();
    let mut enclave = require!(Enclave::options().guest_app(&["crash"]).start(host.url()));
    assert_eq!(enclave.process.finish(SOON).code(), Some(134));
    let devices = enclave.run("cat", &["/proc/self/net/dev"]).expect_success().stdout;
    assert!(!devices.contains("tap0"), "{devices}");
    assert_eq!(enclave.resolv_conf(), "");
}
