//! `nitrotap local`: an app in a pseudo-enclave, as root and as an ordinary user, and nothing left behind.

use nitrotap_tests::{
    Process, Scratch, binaries,
    enclave::{run_outside, serve_outside},
    gateway::{GATEWAY, HOST},
    guest::payload::Digest,
    leftovers::Leftovers,
    ordinary,
    peers::{self, Missing},
    require,
    wait::{self, LATER, SOON},
};
use rustix::process::{Pid, Signal};
use std::{fs, net::TcpListener, path::Path, process::Command};

/// `nitrotap local` about to run.
struct Local {
    command: Command,
    scratch: Scratch,
}

impl Local {
    /// As the user the tests run as.
    fn new() -> Result<Self, Missing> {
        drop(nitrotap_tests::Namespace::new()?);
        let mut command = Command::new(binaries::nitrotap());
        command.arg("local");
        Ok(Self { command, scratch: Scratch::new() })
    }

    /// The same with the real gvproxy as its gateway.
    fn with_gvproxy() -> Result<Self, Missing> {
        let gvproxy = peers::find("gvproxy")?;
        Ok(Self::new()?.args(&["--gateway-command", gvproxy.to_str().expect("our paths are text")]))
    }

    /// As an ordinary user, who finds `/dev/net/tun` with this mode.
    fn ordinary(mode: &str) -> Result<Self, Missing> {
        let scratch = Scratch::new();
        let mut command = ordinary::command(binaries::nitrotap(), mode, false, &scratch)?;
        command.arg("local");
        ordinary::visible(binaries::guest(), &scratch);
        Ok(Self { command, scratch })
    }

    fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    /// Runs the guest program inside.
    fn guest(mut self, args: &[&str]) -> Running {
        let copy = self.scratch.join("nitrotap-test-guest");
        self.command.arg("--").arg(if copy.exists() { copy.as_path() } else { binaries::guest() });
        self.args(args).start()
    }

    /// Runs the guest program with a temporary directory that is already there.
    fn guest_in(mut self, temporary: &Path, args: &[&str]) -> Running {
        let leftovers = Leftovers::watch(&mut self.command, &self.scratch);
        self.command.env("TMPDIR", temporary).arg("--").arg(binaries::guest()).args(args);
        let process = Process::start("local", self.command, &self.scratch);
        Running { process, leftovers, scratch: self.scratch }
    }

    /// Runs a shell script inside.
    fn script(self, text: &str) -> Running {
        self.args(&["--", "sh", "-c", text]).start()
    }

    fn start(mut self) -> Running {
        let leftovers = Leftovers::watch(&mut self.command, &self.scratch);
        let process = Process::start("local", self.command, &self.scratch);
        Running { process, leftovers, scratch: self.scratch }
    }
}

struct Running {
    process: Process,
    leftovers: Leftovers,
    scratch: Scratch,
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("ports are left").port()
}

#[test]
fn the_exit_code_of_the_command_is_ours_and_nothing_is_left_behind() {
    for (args, code) in [(&["exit", "0"][..], 0), (&["exit", "5"], 5), (&["crash"], 128 + 6)] {
        let mut local = require!(Local::new()).guest(args);
        let finished = local.process.finish(SOON);
        assert_eq!(finished.code(), Some(code), "{}", finished.stderr);
        local.leftovers.expect_nothing();
    }
}

#[test]
fn the_command_finds_itself_as_root_in_a_network_of_its_own() {
    let text = "id -u; cut -d: -f1 /proc/self/net/dev | tail -n +3 | tr -d ' ' | sort; grep -v '^#' /etc/resolv.conf";
    let before = fs::read("/etc/resolv.conf").ok();
    let mut local = require!(Local::new()).script(text);
    let finished = local.process.finish(SOON).expect_success();
    assert_eq!(finished.stdout, format!("0\nlo\ntap0\nnameserver {GATEWAY}\n"));
    assert_eq!(fs::read("/etc/resolv.conf").ok(), before);
    local.leftovers.expect_nothing();
}

#[test]
fn the_command_reaches_the_gateway_its_names_and_the_loopback_outside() {
    let scratch = Scratch::new();
    let (_source, port) = serve_outside(&["tcp-source", "127.0.0.1:0", "1000000", "51"], &scratch);
    let guest = binaries::guest().display();
    let text = format!(
        "{guest} ping {GATEWAY} 56 1 && {guest} dns-a gateway.containers.internal {GATEWAY}:53 &&
         {guest} tcp-recv {HOST}:{port}"
    );
    for local in [Local::new(), Local::with_gvproxy()] {
        let mut local = require!(local).script(&text);
        let finished = local.process.finish(SOON).expect_success();
        assert_eq!(finished.value("addresses"), GATEWAY);
        assert!(finished.stdout.ends_with(&format!("received {}\n", Digest::of(51, 1_000_000))), "{}", finished.stdout);
    }
}

#[test]
fn the_command_has_ipv6_if_it_is_asked_for() {
    let scratch = Scratch::new();
    let (_server, port) = serve_outside(&["http-server", "[::1]:0"], &scratch);
    // The kernel makes itself an address within some seconds.
    let text = format!(
        "until {guest} ping fd00:5::1 56 1 2>/dev/null; do sleep 0.1; done; {guest} http-get http://[fd00:5::fe]:{port}/inside",
        guest = binaries::guest().display()
    );
    let mut local = require!(Local::new()).args(&["--subnet6", "fd00:5::/64"]).script(&text);
    let finished = local.process.finish(LATER).expect_success();
    assert!(finished.stdout.contains("GET /inside HTTP/1.1\n"), "{}", finished.stdout);
    let refused = require!(Local::new()).args(&["--subnet6", "fd00:5::/48"]).guest(&["exit", "0"]).process.finish(SOON);
    assert!(refused.code() == Some(2) && refused.stderr.contains("not a /64"), "{}", refused.stderr);
}

#[test]
fn a_published_port_leads_to_the_command_from_outside() {
    let (same, other) = (free_port(), free_port());
    let publish = [format!("127.0.0.1:{other}:8080"), format!("{same}:8080")];
    let local = require!(Local::new()).args(&["--publish", &publish[0], "--publish", &publish[1]]);
    let mut local = local.guest(&["http-server", "0.0.0.0:8080"]);
    local.process.expect_line("listening on ", SOON);
    for port in [same, other] {
        let url = format!("http://127.0.0.1:{port}/bytes/2000000");
        let page = run_outside(&["http-get", &url], &local.scratch);
        assert_eq!(page.status.code(), Some(0), "{}", page.stderr);
    }
    local.process.signal(Signal::TERM);
    assert_eq!(local.process.finish(SOON).code(), Some(128 + 15));
    local.leftovers.expect_nothing();
}

#[test]
fn an_ordinary_user_gets_the_same() {
    let port = free_port();
    let local = require!(Local::ordinary("0666")).args(&["--publish", &format!("{port}:8080")]);
    let mut local = local.guest(&["http-server", "0.0.0.0:8080"]);
    local.process.expect_line("listening on ", SOON);
    let page = run_outside(&["http-get", &format!("http://127.0.0.1:{port}/hello")], &local.scratch).expect_success();
    assert!(page.stdout.starts_with("GET /hello HTTP/1.1\n"), "{}", page.stdout);
    local.process.signal(Signal::TERM);
    assert_eq!(local.process.finish(SOON).code(), Some(128 + 15));
    local.leftovers.expect_nothing();

    let mut local = require!(Local::ordinary("0666")).script("id -u; exit 9");
    let finished = local.process.finish(SOON);
    assert_eq!((finished.code(), &*finished.stdout), (Some(9), "0\n"), "{}", finished.stderr);
    local.leftovers.expect_nothing();
}

#[test]
fn an_ordinary_user_without_access_to_the_tap_driver_is_told_what_to_do() {
    let mut local = require!(Local::ordinary("0600")).script("exit 0");
    let finished = local.process.finish(SOON);
    assert_eq!(finished.code(), Some(1), "{}", finished.stderr);
    let said: Vec<_> = finished.stderr.lines().collect();
    let [line] = said[..] else { panic!("one clear line, not {said:#?}") };
    assert!(line.starts_with("nitrotap: ") && line.contains("/dev/net/tun"), "{line}");
    assert!(line.contains("chmod") || line.contains("root"), "it says what to do: {line}");
    local.leftovers.expect_nothing();
}

#[test]
fn nothing_but_the_one_binary_is_needed() {
    let mut local = require!(Local::new());
    local.command.env("PATH", "/nonexistent");
    let mut local = local.guest(&["ping", GATEWAY, "56", "1"]);
    local.process.finish(SOON).expect_success();
    local.leftovers.expect_nothing();
}

#[test]
fn a_gateway_command_that_is_none_is_a_runtime_failure() {
    for (gateway, word) in [("/nonexistent/gvproxy", "/nonexistent/gvproxy"), ("false", "the gateway ended")] {
        let mut local = require!(Local::new()).args(&["--gateway-command", gateway]).guest(&["exit", "0"]);
        let finished = local.process.finish(SOON);
        assert_eq!(finished.code(), Some(1), "{gateway}: {}", finished.stderr);
        assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
        assert!(finished.stderr.contains(word), "{}", finished.stderr);
        local.leftovers.expect_nothing();
    }
}

#[test]
fn a_published_port_that_is_taken_is_a_runtime_failure_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut local = require!(Local::new()).args(&["--publish", &port]).guest(&["exit", "0"]);
    let finished = local.process.finish(SOON);
    assert_eq!(finished.code(), Some(1), "{}", finished.stderr);
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    assert!(finished.stderr.contains(&port), "{}", finished.stderr);
    local.leftovers.expect_nothing();
}

#[test]
fn a_command_that_cannot_start_is_a_runtime_failure_that_names_it() {
    let mut local = require!(Local::new()).args(&["--", "/nonexistent/app"]).start();
    let finished = local.process.finish(SOON);
    assert_eq!(finished.code(), Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("/nonexistent/app"), "{}", finished.stderr);
    local.leftovers.expect_nothing();
}

#[test]
fn standard_input_and_output_belong_to_the_command() {
    let mut local = require!(Local::new()).args(&["--", "cat"]);
    let leftovers = Leftovers::watch(&mut local.command, &local.scratch);
    let input = local.scratch.join("input");
    fs::write(&input, "one\ntwo").unwrap();
    let stdin = fs::File::open(&input).unwrap().into();
    let mut process = Process::start_with_stdin("local", local.command, &local.scratch, stdin);
    assert_eq!(process.finish(SOON).expect_success().stdout, "one\ntwo");
    leftovers.expect_nothing();
}

#[test]
fn signals_reach_the_command() {
    let text = "trap 'echo got USR1' USR1; trap 'echo got TERM; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let mut local = require!(Local::new()).script(text);
    local.process.expect_line("ready", SOON);
    local.process.signal(Signal::USR1);
    local.process.expect_line("got USR1", SOON);
    local.process.signal(Signal::TERM);
    let finished = local.process.finish(SOON);
    assert_eq!(finished.code(), Some(3), "{}", finished.stderr);
    local.leftovers.expect_nothing();
}

#[test]
fn daemons_of_the_command_end_with_it() {
    let mut local = require!(Local::new()).script("sleep 1000 >/dev/null 2>&1 & setsid sleep 1000 & exit 6");
    assert_eq!(local.process.finish(SOON).code(), Some(6));
    local.leftovers.expect_nothing();
}

#[test]
fn nothing_outlives_a_nitrotap_that_is_killed_and_the_next_one_sweeps_up() {
    let local = require!(Local::with_gvproxy());
    let mut running = local.script("echo ready; sleep 1000");
    running.process.expect_line("ready", SOON);
    assert!(running.leftovers.processes().iter().any(|(name, _)| name == "gvproxy"));
    running.process.kill();
    running.leftovers.expect_no_process();

    let mut next = require!(Local::new()).guest_in(running.leftovers.temporary(), &["exit", "0"]);
    next.process.finish(SOON).expect_success();
    assert_eq!(running.leftovers.files(), Vec::<String>::new(), "the folder of the killed one is still there");
}

#[test]
fn a_gateway_that_dies_ends_the_command_with_a_runtime_failure() {
    let mut local = require!(Local::with_gvproxy()).script("echo ready; sleep 1000");
    local.process.expect_line("ready", SOON);
    let gateway = local.leftovers.processes().into_iter().find(|(name, _)| name == "gvproxy").expect("it runs");
    let pid = i32::try_from(gateway.1).ok().and_then(Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, Signal::KILL).expect("it runs");
    let finished = local.process.finish(SOON);
    assert_eq!(finished.code(), Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("gateway"), "{}", finished.stderr);
    local.leftovers.expect_nothing();
}

#[test]
fn two_pseudo_enclaves_live_side_by_side() {
    let ports = [free_port(), free_port()];
    let start = |port: u16| {
        let local = Local::new()?.args(&["--publish", &format!("{port}:8080")]);
        Ok::<_, Missing>(local.guest(&["http-server", "0.0.0.0:8080"]))
    };
    let mut both = require!(ports.iter().map(|port| start(*port)).collect::<Result<Vec<_>, _>>());
    for (local, port) in both.iter_mut().zip(ports) {
        local.process.expect_line("listening on ", SOON);
        let get = || run_outside(&["http-get", &format!("http://127.0.0.1:{port}/")], &local.scratch);
        wait::until("an answer", LATER, || get().status.success().then_some(()));
    }
}
