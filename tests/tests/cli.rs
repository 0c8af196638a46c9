//! Bad input is refused with one clear line that says what to do: exit code 2 for usage, 1 for what the world refuses.

use nitrotap_tests::{
    Enclave, FakeHost, Finished, Namespace, Process, Scratch, binaries, enclave::METRICS, ordinary, require, wait::SOON,
};
use std::process::Command;

fn nitrotap(args: &[&str]) -> Finished {
    let mut command = Command::new(binaries::nitrotap());
    command.args(args);
    Process::start("nitrotap", command, &Scratch::new()).finish(SOON)
}

/// The clear line: the first one. Usage errors may go on with a tip and where to read more.
fn expect_usage_error(args: &[&str], words: &[&str]) {
    let finished = nitrotap(args);
    let first = finished.stderr.lines().next().unwrap_or_default();
    assert_eq!(finished.code(), Some(2), "{args:?}: {}", finished.stderr);
    assert_eq!(finished.stdout, "", "{args:?}");
    assert!(first.starts_with("error: ") || first.starts_with("nitrotap: "), "{args:?}: {}", finished.stderr);
    for word in words {
        assert!(first.contains(word), "{word} is not in the first line for {args:?}: {}", finished.stderr);
    }
    assert!(!finished.stderr.contains("panicked"), "{args:?}: {}", finished.stderr);
}

/// Something that must be given is not: the lines behind the first name it.
fn expect_missing(args: &[&str], what: &str) {
    expect_usage_error(args, &[]);
    let said = nitrotap(args).stderr;
    assert!(said.contains(what), "{what} is not in: {said}");
}

/// One line, and nothing else.
fn expect_runtime_error(finished: &Finished, words: &[&str]) {
    assert_eq!(finished.code(), Some(1), "{}", finished.stderr);
    let lines: Vec<_> = finished.stderr.lines().collect();
    let [line] = lines[..] else { panic!("one clear line, not {lines:#?}") };
    assert!(line.starts_with("nitrotap: "), "{line}");
    for word in words {
        assert!(line.contains(word), "{word} is not in: {line}");
    }
}

#[test]
fn unknown_flags_and_commands_are_usage_errors() {
    expect_usage_error(&["frobnicate"], &["frobnicate"]);
    for role in ["enclave", "proxy", "local"] {
        expect_usage_error(&[role, "--frobnicate"], &["--frobnicate"]);
    }
    expect_usage_error(&["enclave", "stray"], &["stray"]);
    expect_usage_error(&["--log-format", "xml", "enclave"], &["xml", "--log-format"]);
}

#[test]
fn a_bad_address_is_a_usage_error_that_says_what_was_expected() {
    for bad in ["192.168.127.2", "192.168.127.2/x", "192.168.127/24", "fd00::2/64", "", "x"] {
        expect_usage_error(&["enclave", "--address", bad], &["--address", "192.168.127.2/24"]);
    }
    for bad in [
        "192.168.127.0/24",
        "192.168.127.255/24",
        "192.168.127.2/31",
        "192.168.127.2/32",
        "192.168.127.2/33",
        "1.2.3.4/0",
    ] {
        expect_usage_error(&["enclave", "--address", bad], &["--address"]);
    }
}

#[test]
fn a_bad_gateway_is_a_usage_error() {
    for bad in ["192.168.127", "gateway.example", "fd00::1", ""] {
        expect_usage_error(&["enclave", "--gateway", bad], &["--gateway"]);
    }
    for outside in ["192.168.128.1", "10.0.0.1", "192.168.127.0", "192.168.127.255"] {
        expect_usage_error(&["enclave", "--gateway", outside], &["--gateway", "--address", outside]);
    }
    expect_usage_error(&["enclave", "--gateway", "192.168.127.2"], &["--gateway", "--address"]);
}

#[test]
fn a_bad_mac_is_a_usage_error_that_says_what_was_expected() {
    let longer = "ba:aa:ad:c0:ff:ee:00";
    for bad in ["", "ba:aa:ad:c0:ff", longer, "ba-aa-ad-c0-ff-gg", "baaaadc0ffee", "xx:aa:ad:c0:ff:ee"] {
        expect_usage_error(&["enclave", "--mac", bad], &["--mac", "ba:aa:ad:c0:ff:ee"]);
    }
    for group in ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00"] {
        expect_usage_error(&["enclave", "--mac", group], &["--mac"]);
    }
}

#[test]
fn a_bad_host_url_is_a_usage_error_that_names_the_forms() {
    let bad = [
        "",
        "gvproxy",
        "3:1024",
        "http://127.0.0.1",
        "vsock://",
        "vsock://3",
        "vsock://3:",
        "vsock://x:1024",
        "vsock://3:x",
        "vsock://3:1024/connect",
        "unix://",
        "unix://relative/path",
        "tcp://127.0.0.1",
        "tcp://:80",
        "tcp://127.0.0.1:70000",
        "vsock://4294967296:1",
    ];
    for bad in bad {
        expect_usage_error(&["enclave", "--host", bad], &["--host"]);
    }
    expect_usage_error(&["enclave", "--host", "gvproxy"], &["vsock://", "unix://", "tcp://"]);
}

#[test]
fn a_bad_mtu_is_a_usage_error_that_gives_the_range() {
    for bad in ["0", "67", "65522", "1500.0", "-1", "x", ""] {
        expect_usage_error(&["enclave", &format!("--mtu={bad}")], &["--mtu"]);
    }
    expect_usage_error(&["enclave", "--mtu", "65522"], &["68", "65521"]);
}

#[test]
fn a_bad_interface_name_is_a_usage_error() {
    for bad in ["", "sixteen-letters-", "a/b", "a b", "tap%d", ".."] {
        expect_usage_error(&["enclave", "--tap", bad], &["--tap"]);
    }
}

#[test]
fn other_bad_values_are_usage_errors_that_name_the_flag() {
    for (flag, bad) in [
        ("--metrics", "9100"),
        ("--metrics", "localhost"),
        ("--metrics", "127.0.0.1:70000"),
        ("--resolv-conf", "relative/resolv.conf"),
        ("--drain-timeout", "soon"),
    ] {
        expect_usage_error(&["enclave", flag, bad], &[flag, bad]);
    }
}

#[test]
fn a_bad_upstream_or_listener_is_a_usage_error() {
    for role in ["proxy", "enclave"] {
        for bad in [
            "",
            "app",
            "ftp://127.0.0.1:80",
            "https://127.0.0.1",
            "http://",
            "http://:80",
            "http://a b/",
            "127.0.0.1:80",
        ] {
            expect_usage_error(&[role, "--listen", "127.0.0.1:0", "--upstream", bad], &["--upstream"]);
        }
        for bad in
            ["", "80", "localhost:80", "127.0.0.1", "127.0.0.1:x", "vsock://3:80", "vsock://:x", "http://127.0.0.1:80"]
        {
            expect_usage_error(&[role, "--listen", bad, "--upstream", "http://127.0.0.1:80"], &["--listen"]);
        }
        expect_missing(&[role, "--listen", "127.0.0.1:0"], "--upstream <");
        expect_missing(&[role, "--upstream", "http://127.0.0.1:80"], "--listen <");
    }
    expect_missing(&["proxy"], "--listen");
}

#[test]
fn a_port_that_the_proxy_cannot_have_is_a_runtime_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let finished = nitrotap(&["proxy", "--listen", &address, "--upstream", "http://127.0.0.1:80"]);
    expect_runtime_error(&finished, &[&address, "choose another port"]);
}

#[test]
fn local_without_a_command_or_with_a_bad_port_is_a_usage_error() {
    expect_missing(&["local"], "<CMD>");
    expect_missing(&["local", "--"], "<CMD>");
    for bad in ["", "0", "70000", "x", "80:", ":80", "80:90:100", "host:80:80", "127.0.0.1:"] {
        expect_usage_error(&["local", "--publish", bad, "--", "true"], &["--publish"]);
    }
}

#[test]
fn without_a_command_it_shows_how_it_is_used() {
    let finished = nitrotap(&[]);
    assert_eq!(finished.code(), Some(2));
    assert!(finished.stderr.contains("Usage: nitrotap"), "{}", finished.stderr);
}

/// The subcommands, each with the examples of its help.
fn examples() -> Vec<(String, Vec<String>)> {
    let help = nitrotap(&["--help"]).expect_success().stdout;
    let commands = help.split_once("Commands:\n").expect("a list of commands").1;
    // Continuation lines are indented further than names.
    let names = commands.lines().take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    let roles = names.filter_map(|line| line.split_ascii_whitespace().next()).filter(|name| *name != "help");
    let examples = |role: &str| {
        let help = nitrotap(&[role, "--help"]).expect_success().stdout;
        let examples = help.split_once("Example").unwrap_or_else(|| panic!("no example for {role}:\n{help}")).1;
        let start = format!("nitrotap {role} ");
        examples.lines().filter_map(|line| line.trim().strip_prefix(&start)).map(str::to_owned).collect()
    };
    roles.map(|role| (role.to_owned(), examples(role))).collect()
}

#[test]
fn the_help_of_every_role_has_examples() {
    let examples = examples();
    assert!(examples.len() >= 3, "{examples:?}");
    for (role, examples) in examples {
        assert!(!examples.is_empty(), "no example for {role}");
    }
}

#[test]
fn the_examples_of_the_help_are_accepted_as_written() {
    for (role, examples) in examples() {
        for example in examples {
            // With --help behind its flags a command line is parsed to its end, and nothing is run.
            let words = words(&example);
            let flags = words.iter().map(String::as_str).take_while(|word| *word != "--");
            let args: Vec<_> = [&*role].into_iter().chain(flags).chain(["--help"]).collect();
            assert_eq!(nitrotap(&args).code(), Some(0), "{example}");
        }
    }
}

/// The words of a command line, of which single quotes may hold blanks together.
fn words(line: &str) -> Vec<String> {
    let pieces = line.split('\'').enumerate();
    pieces
        .flat_map(|(i, piece)| match i % 2 {
            0 => piece.split_ascii_whitespace().map(str::to_owned).collect(),
            _ => vec![piece.to_owned()],
        })
        .collect()
}

#[test]
fn the_version_is_told() {
    let version = nitrotap(&["--version"]).expect_success().stdout;
    assert_eq!(version, format!("nitrotap {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_tap_name_that_is_taken_is_a_runtime_error_that_names_it() {
    let host = FakeHost::new().serve_always();
    let mut first = require!(Enclave::linked(Enclave::options(), host.url()));
    let mut second = Enclave::options().start_in(&first.namespace, host.url(), &first.scratch);
    let finished = second.finish(SOON);
    expect_runtime_error(&finished, &["tap0", "--tap"]);
    // The first one does not notice.
    assert!(first.process.is_running() && first.metrics().link_is_up());
}

#[test]
fn a_tap_name_that_another_kind_of_interface_has_is_a_runtime_error() {
    let namespace = require!(Namespace::new());
    let scratch = Scratch::new();
    let options = Enclave::options().args(&["--tap", "lo"]);
    let finished = options.start_in(&namespace, "unix:///nonexistent/host.sock", &scratch).finish(SOON);
    expect_runtime_error(&finished, &["lo", "--tap"]);
}

#[test]
fn a_metrics_port_that_is_taken_is_a_runtime_error_that_names_it() {
    let namespace = require!(Namespace::new());
    let scratch = Scratch::new();
    let mut taken = namespace.command(binaries::guest());
    taken.args(["tcp-echo", &METRICS.replace("127.0.0.1", "0.0.0.0")]);
    let mut taken = Process::start("taken", taken, &scratch);
    taken.expect_line("listening on ", SOON);
    let finished = Enclave::options().start_in(&namespace, "unix:///nonexistent/host.sock", &scratch).finish(SOON);
    assert_eq!(finished.code(), Some(1), "{}", finished.stderr);
    // The link may have had its say before.
    let last = finished.stderr.lines().last().unwrap_or_default();
    assert!(last.contains(METRICS) && last.contains("--metrics"), "{}", finished.stderr);
}

#[test]
fn an_enclave_without_the_right_to_make_a_tap_is_told_what_it_needs() {
    let scratch = Scratch::new();
    for (mode, words) in [("0600", ["/dev/net/tun"]), ("0666", ["CAP_NET_ADMIN"])] {
        let mut command = require!(ordinary::command(binaries::nitrotap(), mode, true, &scratch));
        command.args(["enclave", "--host", "unix:///nonexistent/host.sock", "--resolv-conf", "none"]);
        let finished = Process::start("nitrotap", command, &scratch).finish(SOON);
        expect_runtime_error(&finished, &words);
    }
}

#[test]
fn a_resolver_configuration_that_cannot_be_written_is_a_warning_and_no_end() {
    let host = FakeHost::new().serve_always();
    let options = Enclave::options().args(&["--resolv-conf", "/proc/nope/resolv.conf"]).app(&["echo", "ran"]);
    let mut enclave = require!(options.start(host.url()));
    let finished = enclave.process.finish(SOON).expect_success();
    assert_eq!(finished.stdout, "ran\n");
    assert!(finished.stderr.lines().any(|line| line.contains("WARN") && line.contains("/proc/nope/resolv.conf")));
}

#[test]
fn logs_can_be_json_one_object_per_line() {
    let host = FakeHost::new().serve_always();
    let options = Enclave::options().args(&["--log-format", "json"]).app(&["true"]);
    let mut enclave = require!(options.start(host.url()));
    let finished = enclave.process.finish(SOON).expect_success();
    assert!(finished.stderr.lines().count() >= 1);
    for line in finished.stderr.lines() {
        assert!(line.starts_with('{') && line.ends_with('}') && line.contains("\"level\":"), "{line}");
    }
}
