//! The stock client itself, unmodified: gvforwarder of gvisor-tap-vsock, where there is one.
//!
//! No distribution that we know packages it for all, so that its absence is told, and never a failure: the loop of one frame
//! per system call in the tables of the other tests stands in for it, and the client made of frames for its first bytes.

use nitrotap_tests::{
    Finished, Gateway, Namespace, Process, Scratch, binaries,
    enclave::{run_outside, serve_outside},
    for_every_host,
    gateway::{GATEWAY, HOST, Kind},
    guest::payload::Digest,
    peers::{self, Missing},
    require, wait,
    wait::{LATER, SOON},
};

for_every_host! {
    gvforwarder_carries_everything_both_ways,
}

/// A namespace with a TAP that gvforwarder serves.
struct Forwarder {
    namespace: Namespace,
    process: Process,
    scratch: Scratch,
}

/// What gvforwarder leaves to others when it is told that the TAP is there.
const PREPARE: &str = "\
set -e
# No frames of its own accord, right behind the request: a stock gateway would lose their bytes.
echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 || true
ip link set lo up
ip tuntap add dev tap0 mode tap
ip link set tap0 address 5a:94:ef:e4:0c:ee up
ip address add 192.168.127.2/24 dev tap0
ip route add default via 192.168.127.1
";

impl Forwarder {
    fn start(gateway: &Gateway) -> Result<Self, Missing> {
        peers::find("ip")?;
        let (namespace, scratch) = (Namespace::new()?, Scratch::new());
        let mut command = namespace.command("sh");
        command.args(["-c", PREPARE]);
        Process::start("prepare", command, &scratch).finish(SOON).expect_success();
        let mut command = namespace.command(peers::find("gvforwarder")?);

        // With a unix socket the request is always for /connect.
        command.args(["-preexisting", "-stop-if-exist", "", "-url", &gateway.url()]);
        let process = Process::start("gvforwarder", command, &scratch);
        process.expect_stderr("waiting for packets", SOON);
        // The same for ours: nobody speaks before a stock gateway has turned to frames.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let mut forwarder = Self { namespace, process, scratch };
        forwarder.wait_until_up();
        Ok(forwarder)
    }

    fn wait_until_up(&mut self) {
        wait::until("gvforwarder to have a gateway", SOON, || {
            assert!(self.process.is_running(), "gvforwarder ended:\n{}", self.process.stderr());
            self.guest(&["ping", GATEWAY, "56", "1"]).status.success().then_some(())
        });
    }

    /// Runs the guest program inside, to its end.
    fn guest(&self, args: &[&str]) -> Finished {
        self.start_guest(args).finish(LATER)
    }

    fn start_guest(&self, args: &[&str]) -> Process {
        let mut command = self.namespace.command(binaries::guest());
        command.args(args);
        Process::start(&format!("inside-{}", args[0]), command, &self.scratch)
    }
}

/// Whether there is a gvforwarder; says so if not.
fn is_there() -> bool {
    peers::find("gvforwarder").inspect_err(Missing::tell).is_ok()
}

fn gvforwarder_carries_everything_both_ways(host: Kind) {
    if !is_there() {
        return;
    }
    const BYTES: u64 = 30_000_000;
    let gateway = require!(host.start());
    let forwarder = require!(Forwarder::start(&gateway));
    let outside = Scratch::new();
    let bytes = BYTES.to_string();

    let names = forwarder.guest(&["dns-a", "host.containers.internal", &format!("{GATEWAY}:53")]).expect_success();
    assert_eq!(names.value("addresses"), HOST);
    for size in ["0", "1472", "1473", "3000"] {
        forwarder.guest(&["ping", GATEWAY, size, "3"]).expect_success();
    }

    let (_source, port) = serve_outside(&["tcp-source", "127.0.0.1:0", &bytes, "61"], &outside);
    let down = forwarder.guest(&["tcp-recv", &format!("{HOST}:{port}")]).expect_success();
    assert_eq!(down.stdout.trim(), format!("received {}", Digest::of(61, BYTES)));
    let (mut sink, port) = serve_outside(&["tcp-sink", "127.0.0.1:0"], &outside);
    forwarder.guest(&["tcp-send", &format!("{HOST}:{port}"), &bytes, "62"]).expect_success();
    assert_eq!(sink.expect_line("received ", SOON), Digest::of(62, BYTES).to_string());
    let (_echo, port) = serve_outside(&["udp-echo", "127.0.0.1:0"], &outside);
    for size in ["1", "1472", "1473", "20000"] {
        forwarder.guest(&["udp-ping", &format!("{HOST}:{port}"), size, "3"]).expect_success();
    }

    let mut server = forwarder.start_guest(&["tcp-echo", "0.0.0.0:7000"]);
    server.expect_line("listening on ", SOON);
    let local = gateway.expose_tcp(7000).to_string();
    let done = run_outside(&["tcp-exchange", &local, "50", "100000", "63"], &outside).expect_success();
    assert_eq!(done.number("good"), 50);
}

/// Not with a stock host: gvforwarder's first frames come right behind its request, stock loses some of their bytes, and the
/// two never find into step again.
#[test]
fn gvforwarder_finds_our_host_again() {
    if !is_there() {
        return;
    }
    let mut gateway = require!(Kind::Ours.start());
    let mut forwarder = require!(Forwarder::start(&gateway));
    for _ in 0..3 {
        gateway.restart();
        forwarder.wait_until_up();
    }
}
