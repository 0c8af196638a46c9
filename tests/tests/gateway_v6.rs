//! IPv6 of the virtual network, with the guest's real kernel on one side and this machine's on the other.

#![expect(clippy::unwrap_used, reason = "tests, though the attribute that says so is in a table")]

use nitrotap_tests::{
    Enclave, Namespace, Process, Scratch, binaries,
    enclave::{run_outside, serve_outside},
    gateway::Kind,
    guest::payload::Digest,
    peers::{self, Missing},
    require,
    wait::{self, LATER, SOON},
};
use std::{
    fs,
    net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
};

const PREFIX: &str = "fd00:1:2:3::/64";
const GATEWAY: &str = "fd00:1:2:3::1";
const HOST: &str = "fd00:1:2:3::fe";
const ROUTER: &str = "fe80::5894:efff:fee4:cdd";
const MEGABYTE: u64 = 1_000_000;
/// What fits one frame of MTU 1500: less the IPv6 and UDP headers.
const DATAGRAM: usize = 1500 - 48;

/// A gateway with IPv6, and an enclave behind it that has its address.
macro_rules! network {
    ($($args:expr),*) => {{
        let gateway = require!(Kind::Ours.options().args(&["--subnet6", PREFIX, $($args),*]).start());
        let enclave = require!(Enclave::linked(Enclave::options(), &gateway.url()));
        let address = own_address(&enclave);
        (gateway, enclave, address)
    }};
}

/// The address that the enclave's kernel has made itself of the prefix, once it is sure of it.
fn own_address(enclave: &Enclave) -> Ipv6Addr {
    wait::until("an address by SLAAC", LATER, || {
        let table = enclave.run("cat", &["/proc/net/if_inet6"]).expect_success().stdout;
        // Address, index, prefix length, scope, flags, device; a flag of 0x40 is an address that is being tried.
        let of_tap = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let found = of_tap
            .filter(|words| words[3] == "00" && words[5] == "tap0")
            .find(|words| u8::from_str_radix(words[4], 16).unwrap() & 0x40 == 0)?;
        Some(Ipv6Addr::from(u128::from_str_radix(found[0], 16).unwrap()))
    })
}

#[test]
fn the_kernel_of_an_enclave_configures_itself_and_pings_the_gateway() {
    let (gateway, enclave, address) = network!();
    assert_eq!(address.segments()[..4], [0xfd00, 1, 2, 3]);
    let routes = enclave.run("cat", &["/proc/net/ipv6_route"]).expect_success().stdout;
    let hex = format!("{:032x}", ROUTER.parse::<Ipv6Addr>().unwrap().to_bits());
    let default = format!("{} 00 ", "0".repeat(32));
    let is_default = |line: &str| line.starts_with(&default) && line.contains(&hex) && line.ends_with("tap0");
    assert!(routes.lines().any(is_default), "a default route to {ROUTER}:\n{routes}");
    for to in [GATEWAY, HOST] {
        for size in [0, 56, DATAGRAM] {
            let pings = enclave.guest(&["ping", to, &size.to_string(), "3"]).expect_success();
            assert_eq!((pings.number("replies"), pings.number("repeated")), (3, 0));
        }
    }
    assert!(gateway.stat("nitrotap_gateway_router_advertisements") >= 1);
    assert_eq!(gateway.stat("nitrotap_gateway_drops,cause=spoofed"), 0);
}

#[test]
fn megabytes_pass_to_the_loopback_of_the_host_and_back_unchanged() {
    let (_gateway, enclave, _) = network!();
    let scratch = Scratch::new();
    let (mut sink, port) = serve_outside(&["tcp-sink", "[::1]:0"], &scratch);
    let bytes = (20 * MEGABYTE).to_string();
    let expected = Digest::of(11, 20 * MEGABYTE).to_string();
    let sent = enclave.guest(&["tcp-send", &format!("[{HOST}]:{port}"), &bytes, "11"]).expect_success();
    assert_eq!(sent.stdout.trim(), format!("sent {expected}"));
    assert_eq!(sink.expect_line("received ", SOON), expected);

    let (_source, port) = serve_outside(&["tcp-source", "[::1]:0", &bytes, "12"], &scratch);
    let received = enclave.guest(&["tcp-recv", &format!("[{HOST}]:{port}")]).expect_success();
    assert_eq!(received.stdout.trim(), format!("received {}", Digest::of(12, 20 * MEGABYTE)));
    assert_eq!(enclave.metrics().losses(), 0);
}

#[test]
fn many_connections_at_once_and_segments_of_every_size_arrive_whole() {
    let (_gateway, enclave, _) = network!();
    let scratch = Scratch::new();
    let (_echo, port) = serve_outside(&["tcp-echo", "[::1]:0"], &scratch);
    let to = format!("[{HOST}]:{port}");
    let done = enclave.guest(&["tcp-exchange", &to, "50", "20000", "14"]).expect_success();
    assert_eq!(done.number("good"), 50);
    for bytes in ["0", "1", "1427", "1428", "1429", "1440", "1441"] {
        let done = enclave.guest(&["tcp-exchange", &to, "1", bytes, "15"]).expect_success();
        assert_eq!(done.number("good"), 1, "{bytes} bytes");
    }
}

#[test]
fn datagrams_come_back_from_outside_also_those_in_fragments() {
    let (_gateway, enclave, _) = network!();
    let scratch = Scratch::new();
    let (_echo, port) = serve_outside(&["udp-echo", "[::1]:0"], &scratch);
    for size in [1, 512, DATAGRAM, DATAGRAM + 1, 9000] {
        let to = format!("[{HOST}]:{port}");
        let done = enclave.guest(&["udp-ping", &to, &size.to_string(), "3"]).expect_success();
        assert_eq!((done.number("echoed"), done.number("repeated")), (3, 0), "{size} bytes");
    }
}

#[test]
fn a_published_port_leads_to_the_enclave_by_its_ipv6_address() {
    let (gateway, enclave, address) = network!();
    let scratch = Scratch::new();
    let _server = enclave.serve(&["http-server", "[::]:8080"]);
    let local = gateway.expose_tcp_to(SocketAddr::from((address, 8080)));
    let page = run_outside(&["http-get", &format!("http://{local}/some/page")], &scratch);
    let page = page.expect_success().stdout;
    assert!(page.starts_with("GET /some/page HTTP/1.1\n"), "{page}");
    let all = gateway.call("GET", "/services/forwarder/all", "").text();
    assert!(all.contains(&format!("[{address}]:8080")), "{all}");
    // Nobody is there, and the client is told.
    let nobody = gateway.expose_tcp_to(SocketAddr::from((address, 8081)));
    assert_ne!(run_outside(&["http-get", &format!("http://{nobody}/")], &scratch).code(), Some(0));
    let refused = format!(r#"{{"local":"127.0.0.1:0","remote":"[{GATEWAY}]:1","protocol":"tcp"}}"#);
    let answer = gateway.call("POST", "/services/forwarder/expose", &refused).text();
    assert!(answer.contains("is not in the virtual network"), "{answer}");
}

#[test]
fn a_port_that_is_published_from_the_start_hears_who_comes() {
    let free = TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap();
    // The address that every kernel makes of the enclave's default hardware address (RFC 4291 appendix A).
    let publish = format!("{free}=[fd00:1:2:3:b8aa:adff:fec0:ffee]:8080");
    let (_gateway, enclave, address) = network!("--publish", &publish, "--proxy-protocol");
    if address.to_string() != "fd00:1:2:3:b8aa:adff:fec0:ffee" {
        // A kernel with stable privacy addresses (net.ipv6.conf.default.addr_gen_mode) makes another.
        return;
    }
    let mut sink = enclave.serve(&["tcp-sink", "[::]:8080"]);
    let scratch = Scratch::new();
    run_outside(&["tcp-send", &free.to_string(), "1000", "3"], &scratch).expect_success();
    let received = sink.expect_line("received ", SOON);
    // 52 bytes of header with two IPv6 addresses come first.
    assert!(received.contains("bytes=1052"), "{received}");
}

/// A machine with an address of its own, and a net that its administrator forbids.
const MAKE_WORLD: &str = "\
set -e
ip link set lo up
ip address add 2001:db8::1/128 dev lo
ip route add prohibit 2001:db8:bad::/48
echo 0 0 >/proc/sys/net/ipv4/ping_group_range
";
const WORLD: &str = "2001:db8::1";

/// That machine.
fn make_world(scratch: &Scratch) -> Result<Arc<Namespace>, Missing> {
    peers::find("ip")?;
    let namespace = Arc::new(Namespace::new()?);
    let mut command = namespace.command("sh");
    command.args(["-c", MAKE_WORLD]);
    Process::start("make-world", command, scratch).finish(SOON).expect_success();
    Ok(namespace)
}

/// A guest program that serves in the world.
fn serve_in(namespace: &Namespace, args: &[&str], scratch: &Scratch) -> Process {
    let mut command = namespace.command(binaries::guest());
    command.args(args);
    let mut server = Process::start(args[0], command, scratch);
    server.expect_line("listening on ", SOON);
    server
}

#[test]
fn the_world_answers_and_what_it_refuses_is_told_as_what_it_is() {
    let scratch = Scratch::new();
    let world = require!(make_world(&scratch));
    let _tcp = serve_in(&world, &["tcp-echo", "[2001:db8::1]:7"], &scratch);
    let _udp = serve_in(&world, &["udp-echo", "[2001:db8::1]:7"], &scratch);
    // The world's addresses are the host's own here.
    let gateway = require!(
        Kind::Ours.options().args(&["--subnet6", PREFIX, "--allow", "any", "--allow", "host"]).inside(world).start()
    );
    let enclave = require!(Enclave::linked(Enclave::options(), &gateway.url()));
    own_address(&enclave);
    let to = format!("[{WORLD}]:7");
    assert_eq!(enclave.guest(&["tcp-exchange", &to, "3", "100000", "1"]).expect_success().number("good"), 3);
    assert_eq!(enclave.guest(&["udp-ping", &to, "1000", "3"]).expect_success().number("echoed"), 3);
    let pings = enclave.guest(&["ping", WORLD, "56", "3"]).expect_success();
    assert_eq!((pings.number("replies"), pings.number("repeated")), (3, 0));
    for (to, why) in [
        ("[2001:db8::1]:8", "refused"),
        ("[2001:db8:bad::1]:80", "Permission denied"),
        ("[2001:db9::1]:80", "unreachable"),
        // Another way to write an address of IPv4 is no way around what is said about that.
        ("[64:ff9b::127.0.0.1]:7", "refused"),
        ("[64:ff9b::169.254.169.254]:80", "refused"),
    ] {
        let refused = enclave.guest(&["tcp-send", to, "1", "1"]);
        assert!(refused.code() == Some(1) && refused.stderr.contains(why), "{to}: {}", refused.stderr);
    }
}

#[test]
fn an_address_that_was_given_works_beside_those_that_the_kernel_makes() {
    let gateway = require!(Kind::Ours.options().args(&["--subnet6", PREFIX]).start());
    let options = Enclave::options().args(&["--address6", "fd00:1:2:3::42/64", "--gateway6", GATEWAY]);
    let enclave = require!(Enclave::linked(options, &gateway.url()));
    own_address(&enclave);
    let scratch = Scratch::new();
    let _server = enclave.serve(&["http-server", "[::]:8080"]);
    let local = gateway.expose_tcp_to("[fd00:1:2:3::42]:8080".parse().unwrap());
    let page = run_outside(&["http-get", &format!("http://{local}/")], &scratch).expect_success().stdout;
    assert!(page.starts_with("GET / HTTP/1.1\n"), "{page}");
}

#[test]
fn a_published_udp_port_leads_to_the_enclave_by_its_ipv6_address() {
    let (gateway, enclave, address) = network!();
    let scratch = Scratch::new();
    let _echo = enclave.serve(&["udp-echo", "[::]:5353"]);
    let free = UdpSocket::bind("[::1]:0").unwrap().local_addr().unwrap();
    let request = format!(r#"{{"local":"{free}","remote":"[{address}]:5353","protocol":"udp"}}"#);
    let answer = gateway.call("POST", "/services/forwarder/expose", &request);
    assert_eq!(answer.status().unwrap(), 200, "{}", answer.text());
    let done = run_outside(&["udp-ping", &free.to_string(), "1000", "3"], &scratch).expect_success();
    assert_eq!(done.number("echoed"), 3);
}

#[test]
fn names_are_resolved_over_ipv6_and_lead_to_ipv6() {
    let scratch = Scratch::new();
    // An upstream on port 53 needs a machine of its own.
    let namespace = require!(make_world(&scratch));
    let _server = serve_in(&namespace, &["dns-server", "127.0.0.1:53"], &scratch);
    let resolv_conf = scratch.join("upstream.conf");
    fs::write(&resolv_conf, "nameserver 127.0.0.1\n").unwrap();
    let args = ["--subnet6", PREFIX, "--resolv-conf", resolv_conf.to_str().unwrap()];
    let gateway = require!(Kind::Ours.options().args(&args).inside(namespace).start());
    let enclave = require!(Enclave::linked(Enclave::options(), &gateway.url()));
    own_address(&enclave);
    let answer = enclave.guest(&["dns-aaaa", "ok.test", &format!("[{GATEWAY}]:53")]).expect_success();
    assert_eq!(answer.value("addresses"), "2001:db8::10");
    let answer = enclave.guest(&["dns-a", "ok.test", &format!("[{GATEWAY}]:53")]).expect_success();
    assert_eq!(answer.value("addresses"), "192.0.2.10");
}

#[test]
fn what_is_closed_is_refused_at_once() {
    let (gateway, enclave, _) = network!();
    let free = TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap().port();
    for to in [format!("[{HOST}]:{free}"), format!("[{GATEWAY}]:81"), "[fd00:ec2::254]:80".to_owned()] {
        let refused = enclave.guest(&["tcp-send", &to, "1", "1"]);
        assert_eq!(refused.code(), Some(1));
        assert!(refused.stderr.contains("refused"), "{to}: {}", refused.stderr);
    }
    assert_eq!(gateway.stat("nitrotap_gateway_tcp_resets,direction=to_enclave"), 3);
    // Of these, only the port of the loopback was tried.
    assert_eq!(gateway.stat("nitrotap_host_dials,result=refused"), 1);
    assert_eq!(gateway.stat("nitrotap_host_dials,result=unreachable"), 0);
}

#[test]
fn the_loopback_of_the_host_is_closed_unless_it_is_opened() {
    let scratch = Scratch::new();
    let (_sink, port) = serve_outside(&["tcp-sink", "[::1]:0"], &scratch);
    let options = Kind::Ours.options().without_host_loopback().args(&["--subnet6", PREFIX]);
    let gateway = require!(options.start());
    let enclave = require!(Enclave::linked(Enclave::options(), &gateway.url()));
    own_address(&enclave);
    let refused = enclave.guest(&["tcp-send", &format!("[{HOST}]:{port}"), "1", "1"]);
    assert!(refused.code() == Some(1) && refused.stderr.contains("refused"), "{}", refused.stderr);
}

#[test]
fn two_enclaves_reach_each_other_by_ipv6() {
    let (gateway, first, address) = network!();
    let options = Enclave::options().args(&["--mac", "ba:aa:ad:c0:ff:ef", "--address", "192.168.127.3/24"]);
    let second = require!(Enclave::linked(options, &gateway.url()));
    assert_ne!(own_address(&second), address);
    let mut sink = first.serve(&["tcp-sink", "[::]:8080"]);
    second.guest(&["tcp-send", &format!("[{address}]:8080"), "1000000", "5"]).expect_success();
    assert_eq!(sink.expect_line("received ", SOON), Digest::of(5, MEGABYTE).to_string());
    let pings = second.guest(&["ping", &address.to_string(), "56", "3"]).expect_success();
    assert_eq!(pings.number("replies"), 3);
}

#[test]
fn a_gateway_that_is_started_anew_is_found_again() {
    let (mut gateway, mut enclave, _) = network!();
    gateway.restart();
    enclave.wait_until_up();
    let pings = enclave.guest(&["ping", GATEWAY, "56", "3"]).expect_success();
    assert_eq!(pings.number("replies"), 3);
    let scratch = Scratch::new();
    let (mut echo, port) = serve_outside(&["tcp-echo", "[::1]:0"], &scratch);
    let done = enclave.guest(&["tcp-exchange", &format!("[{HOST}]:{port}"), "1", "1000", "1"]).expect_success();
    assert_eq!(done.number("good"), 1);
    assert!(echo.is_running());
}
