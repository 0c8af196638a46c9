//! `nitrotap host` under a service manager that watches it (`WatchdogSec=` of systemd.service(5)), which a socket stands for.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use nitrotap_tests::{Process, Scratch, binaries, wait::SOON};
use rustix::process::Signal;
use std::{os::unix::net::UnixDatagram, process::Command};

/// The host, its service manager's socket, and what has to stay for both.
fn start(environment: &[(&str, &str)]) -> (Process, UnixDatagram, Scratch) {
    let scratch = Scratch::new();
    let manager = UnixDatagram::bind(scratch.join("notify")).unwrap();
    manager.set_read_timeout(Some(SOON)).unwrap();
    let mut command = Command::new(binaries::nitrotap());
    command.arg("host").arg("--listen").arg(format!("unix://{}", scratch.join("links").display()));
    command.env("NOTIFY_SOCKET", scratch.join("notify")).envs(environment.iter().copied());
    let process = Process::start("nitrotap-host", command, &scratch);
    (process, manager, scratch)
}

/// The next thing that the service manager is told.
fn told(manager: &UnixDatagram) -> String {
    let mut message = [0; 256];
    let len = manager.recv(&mut message).expect("the service manager is told something");
    String::from_utf8_lossy(&message[..len]).trim_end().to_owned()
}

#[test]
fn its_data_thread_feeds_the_watchdog_from_the_moment_it_is_ready() {
    let (process, manager, _scratch) = start(&[("WATCHDOG_USEC", "300000")]);
    assert_eq!(told(&manager), "READY=1");
    for _ in 0..5 {
        assert_eq!(told(&manager), "WATCHDOG=1");
    }
    process.signal(Signal::TERM);
    let rest: Vec<String> = std::iter::from_fn(|| Some(told(&manager)).filter(|told| told != "STOPPING=1")).collect();
    assert!(rest.iter().all(|told| told == "WATCHDOG=1"), "{rest:?}");
}

#[test]
fn nobody_is_fed_who_does_not_watch_us() {
    // None at all, and one that watches another process.
    for environment in [&[][..], &[("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")]] {
        let (process, manager, _scratch) = start(environment);
        assert_eq!(told(&manager), "READY=1");
        process.signal(Signal::TERM);
        assert_eq!(told(&manager), "STOPPING=1");
    }
}
