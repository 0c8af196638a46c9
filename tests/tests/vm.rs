//! In an emulated enclave: a real kernel, real AF_VSOCK, the statically linked program, and each gateway outside.

#![expect(clippy::print_stdout, reason = "the guest's log is what a run by hand is for")]

use nitrotap_tests::{
    Metrics, Scratch, enclave, for_every_host,
    gateway::{HOST, Kind},
    guest::http_client,
    http::Message,
    require,
    vm::Emulation,
    wait,
};
use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// How long the guest gets for anything: it boots in two seconds where nothing else runs, and in many on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The app's exit code, to be told from everybody else's.
const APP_CODE: u8 = 7;

for_every_host! {
    an_app_in_an_emulated_enclave_serves_and_fetches,
}

/// Both ends of nitrotap in one guest, over its loopback vsock: the host's listener on AF_VSOCK too is a real one.
#[test]
fn our_host_listens_on_real_vsock() {
    let emulation = require!(Emulation::find());
    let nobody = Scratch::new();
    let log = emulation.boot(BOTH_ENDS, &[], &nobody.join("nobody")).finish(PATIENCE).stdout;
    println!("{log}");
    expect(&log, "fetch: GET /over/vsock HTTP/1.1");
    for step in ["dns", "fetch", "exchange", "published", "bench"] {
        expect(&log, &format!("{step} exits with 0"));
    }
    assert!(!log.contains("cannot set the stream's buffer"), "the kernel refuses the size of the buffer");
    expect(&log, "enclave exits with 143");
    expect(&log, "host exits with 0");
}

fn an_app_in_an_emulated_enclave_serves_and_fetches(kind: Kind) {
    let emulation = require!(Emulation::find());
    let mut gateway = require!(kind.start());
    let outside = Scratch::new();
    let (_http, http_port) = enclave::serve_outside(&["http-server", "127.0.0.1:0"], &outside);
    let (_echo, echo_port) = enclave::serve_outside(&["tcp-echo", "127.0.0.1:0"], &outside);

    let app = APP.replace("@HTTP@", &format!("{HOST}:{http_port}")).replace("@ECHO@", &format!("{HOST}:{echo_port}"));
    let mut vm = emulation.boot(INIT, &[("app", &app)], &gateway.socket());
    vm.expect_line("app: ready", PATIENCE);
    the_guest_reached_the_world(&vm.log());

    // In by the gateway's forward, the TAP and the reverse proxy.
    let front = gateway.expose_tcp(80);
    let answer = http_client::exchange(&mut connect(front), &request()).expect("the app answers");
    it_came_through_the_proxy(&answer, "192.168.127.1");

    // In by a vsock stream of its own, straight to the reverse proxy.
    let mut stream = wait::until("the proxy to listen on vsock", wait::SOON, || vm.connect(PROXY_PORT).ok());
    let answer = http_client::exchange(&mut stream, &request()).expect("the app answers");
    it_came_through_the_proxy(&answer, "unknown");

    // The host's side goes and comes back: the same guest, the same TAP, a new link. On a busy machine the emulated device
    // has been seen to keep the end of the stream to itself; then the link notices by the silence, half a minute later.
    gateway.restart();
    let front = gateway.expose_tcp(80);
    let answer = wait::until("the app to be reachable again", PATIENCE, || {
        http_client::exchange(&mut connect(front), &request()).ok()
    });
    it_came_through_the_proxy(&answer, "192.168.127.1");

    drop(connect(gateway.expose_tcp(STOP_PORT)));
    let log = vm.finish(PATIENCE).stdout;
    println!("{log}");
    it_ended_in_good_order(&log);
}

fn the_guest_reached_the_world(log: &str) {
    expect(log, "resolv: nameserver 192.168.127.1");
    expect(log, "dns: addresses=192.168.127.254");
    expect(log, "fetch: GET /from/the/guest HTTP/1.1");
    for step in ["resolv", "dns", "fetch", "exchange"] {
        expect(log, &format!("{step} exits with 0"));
    }
}

fn it_came_through_the_proxy(answer: &Message, client: &str) {
    assert_eq!(answer.status().expect("a status"), 200, "{}", answer.text());
    let seen = answer.text().to_ascii_lowercase();
    expect(&seen, "get /from/outside http/1.1");
    expect(&seen, &format!("x-forwarded-for: {client}"));
    expect(&seen, "x-forwarded-proto: http");
    expect(&seen, "x-forwarded-host: enclave.test");
}

fn it_ended_in_good_order(log: &str) {
    let page: String =
        log.lines().filter_map(|line| line.strip_prefix("metrics: ")).flat_map(|line| [line, "\n"]).collect();
    let metrics = Metrics::parse(&page);
    assert!(metrics.link_is_up());
    assert!(metrics.losses() >= 1, "the restarted gateway was not noticed");
    expect(log, "app: told to end");
    expect(log, &format!("nitrotap exits with {APP_CODE}"));
    expect(log, "resolv.conf is dangling again");
}

/// Panics unless `text` has that line.
fn expect(text: &str, line: &str) {
    assert!(text.lines().any(|other| other == line), "no line {line:?} in:\n{text}");
}

fn request() -> Message {
    Message::request("GET", "/from/outside", "enclave.test")
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("gvproxy accepts on what it exposes");
    stream.set_read_timeout(Some(wait::SOON)).expect("a duration above zero");
    stream
}

/// The vsock port of the reverse proxy.
const PROXY_PORT: u32 = 8000;

/// A connection to this port tells the app that the test is over.
const STOP_PORT: u16 = 9000;

/// After the boot, PID 1 does what an enclave image does: it starts nitrotap in front of the app.
const INIT: &str = "
nitrotap enclave --host vsock://2:1024 --metrics 127.0.0.1:9100 \
    --listen 0.0.0.0:80 --listen vsock://:8000 --upstream http://127.0.0.1:8080 -- /bin/app
echo \"nitrotap exits with $?\"
[ -e /etc/resolv.conf ] || echo 'resolv.conf is dangling again'
";

/// Everybody in one guest: a world, our host on vsock port 1024, and an enclave that reaches it as CID 1.
const BOTH_ENDS: &str = "
ip link set lo up
step() {
    name=$1
    shift
    \"$@\" >/tmp/out 2>&1
    code=$?
    sed \"s/^/$name: /\" /tmp/out
    echo \"$name exits with $code\"
}
nitrotap-test-guest http-server 127.0.0.1:8081 &
nitrotap-test-guest tcp-echo 127.0.0.1:8082 &
nitrotap host --listen vsock://:1024 --allow-host-loopback \
    --publish 127.0.0.1:8000=:8083 &
host=$!
NITROTAP_LOG=debug nitrotap enclave --host vsock://1:1024 --resolv-conf none -- nitrotap-test-guest http-server 192.168.127.2:8083 &
enclave=$!
until nitrotap-test-guest http-get http://192.168.127.254:8081/ >/dev/null 2>&1; do sleep 0.1; done
step dns nitrotap-test-guest dns-a host.containers.internal 192.168.127.1:53
step fetch nitrotap-test-guest http-get http://192.168.127.254:8081/over/vsock
step exchange nitrotap-test-guest tcp-exchange 192.168.127.254:8082 4 1000000 5
step published nitrotap-test-guest http-get http://127.0.0.1:8000/
nitrotap bench link --serve vsock://:2048 &
stream=$!
step bench nitrotap bench link --quick --stream vsock://1:2048
kill -TERM $stream
kill -TERM $enclave
wait $enclave
echo \"enclave exits with $?\"
kill -TERM $host
wait $host
echo \"host exits with $?\"
";

/// The app: it tries the network, serves, and asks nitrotap to end when told to.
const APP: &str = "\
#!/bin/busybox sh
step() {
    name=$1
    shift
    \"$@\" >/tmp/out 2>&1
    code=$?
    sed \"s/^/$name: /\" /tmp/out
    echo \"$name exits with $code\"
}
trap 'echo \"app: told to end\"; exit 7' TERM
nitrotap-test-guest http-server 127.0.0.1:8080 &
mkfifo /run/stop
nitrotap-test-guest tcp-sink 0.0.0.0:9000 >/run/stop &

step resolv cat /etc/resolv.conf
step dns nitrotap-test-guest dns-a host.containers.internal 192.168.127.1:53
step fetch nitrotap-test-guest http-get http://@HTTP@/from/the/guest
step exchange nitrotap-test-guest tcp-exchange @ECHO@ 4 1000000 5
echo 'app: ready'

# Its first line says that it listens, its second that somebody connected.
{ read -r listening; read -r connected; } </run/stop
step metrics nitrotap-test-guest http-get http://127.0.0.1:9100/metrics
kill -TERM $PPID
wait
";

/// The end of a first process is the end of its machine, and not the kernel's panic: whatever ended nitrotap, the last line
/// has the code.
#[test]
fn as_the_first_process_nitrotap_ends_the_machine_and_says_with_which_code() {
    let emulation = require!(Emulation::find());
    let nobody = Scratch::new();
    for (script, last) in [
        ("exec nitrotap enclave --host vsock://2:1024 -- /bin/sh -c 'echo app is there; exit 7'", "exit code 7: "),
        ("exec nitrotap enclave --no-such-flag", "exit code 2: "),
        (
            "exec nitrotap enclave --host vsock://2:1024 --exit-action reboot -- /bin/sh -c 'kill -9 $PPID'",
            "exit code 137 ",
        ),
        ("exec nitrotap --version", "exit code 0: "),
        // As where nothing was mounted, and no descriptor is open.
        ("umount /dev; mkdir /gone; mount --bind /gone /dev; exec nitrotap --version <&- >&- 2>&-", ""),
    ] {
        let log = emulation.boot(script, &[], &nobody.join("nobody")).finish(PATIENCE).stdout;
        println!("{log}");
        assert!(!log.contains("Attempted to kill init"), "{script}");
        let found = log.lines().any(|line| line.starts_with(&format!("nitrotap: {last}")));
        assert!(found || last.is_empty(), "{script}: no line says {last:?}");
    }
}
