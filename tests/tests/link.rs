//! The link when there is no host, or one that comes late: no reason to exit, one clear line, a metric, and retries.

use nitrotap_tests::{
    Enclave, FakeHost, Scratch,
    enclave::METRICS,
    peers, require,
    wait::{self, SOON},
};
use std::{fs, time::Duration};

#[test]
fn an_unreachable_host_is_dialled_until_it_appears() {
    let scratch = Scratch::new();
    let path = scratch.join("late.sock");
    let mut enclave = require!(Enclave::options().start(&format!("unix://{}", path.display())));
    let metrics = enclave.wait_for_metrics("retries", |metrics| metrics.dials() >= 5);
    assert!(!metrics.link_is_up());
    assert_eq!((metrics.losses(), metrics.probe_failures()), (0, 0));

    // One line that names the host and what is wrong with it, not one per dial.
    let said = enclave.process.stderr();
    let lines: Vec<_> = said.lines().filter(|line| line.contains("no link")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].contains("late.sock"), "{said}");

    let host = FakeHost::at(path);
    let _session = host.accept_up();
    enclave.wait_until_up();
    enclave.process.expect_stderr("link up", SOON);
}

#[test]
fn the_status_page_says_in_words_whether_there_is_a_link() {
    let host = FakeHost::new();
    let mut enclave = require!(Enclave::options().start(&host.url()));
    let status = |enclave: &Enclave| {
        enclave.guest(&["http-get", &format!("http://{METRICS}/status")]).expect_success().stdout.to_lowercase()
    };
    enclave.wait_for_metrics("itself", |_| true);
    assert!(!status(&enclave).contains("link up for"), "{}", status(&enclave));
    let _session = host.accept_up();
    enclave.wait_until_up();
    assert!(status(&enclave).contains("link up for"), "{}", status(&enclave));
}

#[test]
fn a_host_that_hangs_up_at_once_is_not_dialled_in_a_tight_loop() {
    let host = FakeHost::new();
    let mut enclave = require!(Enclave::options().start(&host.url()));
    // The pause doubles from 50 ms to 1 s and is jittered down to its half at most. It begins when we hang up.
    for _ in 0..6 {
        drop(host.accept());
    }
    let mut dial = host.accept();
    for _ in 0..3 {
        let start = wait::now();
        drop(dial);
        dial = host.accept();
        let pause = start.elapsed();
        assert!(pause >= Duration::from_millis(500), "dialled again after {pause:?}");
    }
    drop(dial);
    let _session = host.accept_up();
    enclave.wait_until_up();
}

#[test]
fn the_network_is_set_up_whether_or_not_there_is_a_host() {
    let mut enclave = require!(Enclave::options().start("unix:///nonexistent/host.sock"));
    enclave.wait_for_metrics("itself", |_| true);
    let routes = enclave.run("cat", &["/proc/self/net/route"]).expect_success().stdout;
    let default = routes.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let default = default.filter(|fields| fields[1] == "00000000").collect::<Vec<_>>();
    assert_eq!(default.len(), 1, "{routes}");
    // The gateway's address as the kernel prints it: hexadecimal, in network order read by a little-endian machine.
    assert_eq!(
        (default[0][0], u32::from_str_radix(default[0][2], 16)),
        ("tap0", Ok(0x017F_A8C0_u32.to_le())),
        "{routes}"
    );
    // The loopback is up: the metrics were read through it. The TAP has its address.
    let addresses = enclave.run("cat", &["/proc/self/net/fib_trie"]).expect_success().stdout;
    assert!(addresses.contains("192.168.127.2"), "{addresses}");
    assert!(enclave.resolv_conf().contains("nameserver 192.168.127.1"));
    let index = enclave.tap_index();
    let finished = enclave.stop();
    assert_eq!(finished.code(), Some(0), "{}", finished.stderr);
    let devices = enclave.run("cat", &["/proc/self/net/dev"]).expect_success().stdout;
    assert!(!devices.contains("tap0"), "tap0 with index {index} is still there: {devices}");
    assert_eq!(enclave.resolv_conf(), "", "the resolver configuration goes with its writer");
}

#[test]
fn every_address_and_name_can_be_chosen() {
    let args = [
        ["--tap", "enclave7"],
        ["--mac", "02:00:00:00:00:07"],
        ["--address", "10.7.0.9/16"],
        ["--gateway", "10.7.255.1"],
        ["--mtu", "4000"],
    ];
    let mut enclave = require!(Enclave::options().args(&args.concat()).start("unix:///nonexistent/host.sock"));
    enclave.wait_for_metrics("itself", |_| true);
    require!(peers::find("ip"));
    let link = enclave.run("ip", &["-brief", "-4", "address", "show", "enclave7"]);
    assert!(link.stdout.contains("10.7.0.9/16"), "{link:?}");
    let link = enclave.run("ip", &["link", "show", "enclave7"]);
    assert!(link.stdout.contains("mtu 4000") && link.stdout.contains("02:00:00:00:00:07"), "{link:?}");
    let route = enclave.run("ip", &["route", "get", "192.0.2.1"]);
    assert!(route.stdout.contains("via 10.7.255.1 dev enclave7"), "{route:?}");
    assert!(enclave.resolv_conf().contains("nameserver 10.7.255.1"));
}

#[test]
fn a_resolver_configuration_that_is_a_dangling_link_is_written_through_and_put_back() {
    let scratch = Scratch::new();
    let link = scratch.join("etc-resolv.conf");
    std::os::unix::fs::symlink("run/resolvconf/resolv.conf", &link).unwrap();
    let args = ["--resolv-conf", link.to_str().unwrap()];
    let mut enclave = require!(Enclave::options().args(&args).start("unix:///nonexistent/host.sock"));
    enclave.wait_for_metrics("itself", |_| true);
    assert!(fs::read_to_string(&link).unwrap().contains("nameserver 192.168.127.1\n"));
    assert_eq!(enclave.stop().code(), Some(0));
    assert!(fs::read_to_string(&link).is_err(), "what was not there before is gone");
    assert!(fs::symlink_metadata(&link).is_ok(), "the link itself stays");
}
