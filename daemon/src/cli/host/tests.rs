//! The command line as a whole: what is written becomes what is run.

use super::*;
use crate::host::config::{Config, DEVICE_MAC, GATEWAY_MAC};
use clap::Parser;
use std::{ffi::OsString, io::Write as _};

#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(clap::Subcommand)]
enum Role {
    Host(Args),
}

fn parse_with(args: &str, activated: bool) -> Result<Config, String> {
    let args = std::iter::once("nitrotap host").chain(args.split(' ').filter(|arg| !arg.is_empty()));
    let args = args.flat_map(|arg| arg.split(' ')).map(OsString::from);
    let args = rewrite(args).map_err(|e| e.to_string())?;
    let Cli { role: Role::Host(args) } = Cli::try_parse_from(args).map_err(|e| e.to_string())?;
    let settings = args.config.as_deref().map(resolve::read_file).transpose().map_err(|e| e.to_string())?;
    resolve::config(args, settings, activated).map_err(|e| e.to_string())
}

fn parse(args: &str) -> Result<Config, String> {
    parse_with(args, false)
}

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 127, last)
}

#[test]
fn defaults_are_gvproxys_but_for_what_is_open() {
    let config = parse("--listen vsock://:1024").unwrap();
    assert_eq!(config.listeners.links[0].to_string(), "vsock://:1024");
    assert_eq!((config.listeners.socket_mode, config.listeners.services.as_ref()), (0o600, None));
    assert!(!config.listeners.services_on_links && !config.listeners.guest_services);
    let network = &config.network;
    assert_eq!((network.mtu, network.gateway_mac), (1500, GATEWAY_MAC));
    assert_eq!((network.gateway_ip, network.device_ip, network.host_ip), (ip(1), ip(2), ip(254)));
    assert_eq!(network.static_leases.get(&ip(2)), Some(&DEVICE_MAC));
    assert!(network.nat.is_empty() && network.zones.len() == 2);
    assert!(config.forwards.is_empty() && !config.policy.imds && !config.policy.host_loopback);
    assert_eq!(config.limits, crate::host::config::Limits::default(), "the defaults of flags and code are the same");
}

#[test]
fn ipv6_is_there_if_it_is_asked_for() {
    assert_eq!(parse("--listen vsock://:1024").unwrap().network.subnet6, None);
    let config = parse("--listen vsock://:1024 --subnet6 fd00:1::/64 --publish 443=[fd00:1::2]:8443").unwrap();
    assert_eq!(config.network.subnet6, Some("fd00:1::/64".parse().unwrap()));
    assert_eq!(config.forwards[0].to, "[fd00:1::2]:8443".parse().unwrap());
    for bad in ["fd00:1::", "10.0.0.0/24", "fd00:1::/129"] {
        assert!(parse(&format!("--listen vsock://:1024 --subnet6 {bad}")).unwrap_err().contains("--subnet6"), "{bad}");
    }
}

#[test]
fn an_address_is_pinned_to_a_cid_or_to_a_listener() {
    use crate::host::pin::Owner;
    let both = "--listen vsock://:1024 --listen unix:///run/a.sock --listen-qemu unix:///run/q.sock";
    let config =
        parse(&format!("{both} --pin 16=192.168.127.2 --pin unix:///run/q.sock=192.168.127.3,02:00:00:00:00:01"))
            .unwrap();
    assert_eq!(config.network.pins[0].owner, Owner::Cid(16));
    let tenants: Vec<u32> =
        config.network.pins.iter().map(|pin| pin.resolve(&config.listeners).unwrap().tenant).collect();
    assert_eq!(tenants, [16, 0x8000_0002], "the third listener");
    assert_eq!(config.network.keep_address.as_secs(), 30);
    assert_eq!(parse(&format!("{both} --keep-address 5")).unwrap().network.keep_address.as_secs(), 5);
    for (flags, error) in [
        ("--pin unix:///run/other.sock=192.168.127.2", "no listener for links has this URL"),
        ("--pin 16=192.168.127.7 --static-lease 192.168.127.7=02:00:00:00:00:07", "write --pin 16=192.168.127.7,"),
        ("--pin 16", "expected CID=IP"),
        ("--keep-address 86401", "86400"),
    ] {
        let said = parse(&format!("{both} {flags}")).unwrap_err();
        assert!(said.contains(error), "{said}");
    }
}

#[test]
fn every_flag_arrives() {
    let config = parse(
        "--listen unix:///run/l.sock --listen vsock://3:1024 --listen-qemu tcp://127.0.0.1:1 --listen-bess unixpacket:///b \
         --services unix:///s --services-on-listeners --guest-services --socket-mode 0660 --pid-file /p --metrics 127.0.0.1:9 \
         --pcap /c --pcap-snaplen 96 --publish udp:0.0.0.0:53=:53 --publish 443=192.168.99.9:8443 --proxy-protocol \
         --mtu 65520 --subnet 192.168.99.0/24 --gateway-ip 192.168.99.3 --device-ip 192.168.99.4 --host-ip 192.168.99.5 \
         --gateway-mac 02:00:00:00:00:01 --static-lease 192.168.99.7=02:00:00:00:00:07 --nat 198.51.100.8=10.1.2.3 \
         --resolv-conf /r --allow example.com:443 --allow 10.0.0.0/8 --deny tcp:any --allow-imds --allow-host-loopback --max-flows 1 \
         --max-flows-per-enclave 2 --max-half-open 3 --max-udp-sessions 4 --max-udp-sessions-per-enclave 6 --connection-rate 5 --rate 6K --memory 7M",
    )
    .unwrap();
    let listeners = &config.listeners;
    assert_eq!((listeners.links.len(), listeners.qemu.len(), listeners.bess.len()), (2, 1, 1));
    assert_eq!(listeners.services.as_ref().unwrap().to_string(), "unix:///s");
    assert!(listeners.services_on_links && listeners.guest_services && listeners.socket_mode == 0o660);
    let network = &config.network;
    assert_eq!((network.mtu, network.gateway_mac), (65520, [2, 0, 0, 0, 0, 1]));
    assert_eq!([network.gateway_ip, network.device_ip, network.host_ip].map(|ip| ip.octets()[3]), [3, 4, 5]);
    assert_eq!(network.static_leases.len(), 2);
    assert_eq!(network.nat.get(&Ipv4Addr::new(198, 51, 100, 8)), Some(&Ipv4Addr::new(10, 1, 2, 3)));
    let [udp, tcp] = &config.forwards[..] else { panic!("{:?}", config.forwards) };
    assert_eq!((udp.to.to_string().as_str(), udp.proxy_protocol), ("192.168.99.4:53", false));
    assert_eq!((tcp.to.to_string().as_str(), tcp.proxy_protocol), ("192.168.99.9:8443", true));
    assert_eq!((config.policy.allow.len(), config.policy.deny.len()), (2, 1));
    assert!(config.policy.imds && config.policy.host_loopback);
    let limits = &config.limits;
    assert_eq!([limits.max_flows, limits.max_flows_per_enclave].map(NonZeroUsize::get), [1, 2]);
    assert_eq!([limits.max_half_open, limits.max_udp_sessions].map(NonZeroUsize::get), [3, 4]);
    assert_eq!(limits.connection_rate.map(NonZeroU32::get), Some(5));
    assert_eq!(limits.flow_rate.map(NonZeroU64::get), Some(6 << 10));
    assert_eq!((limits.max_udp_sessions_per_enclave.get(), limits.memory), (6, 7 << 20));
    assert_eq!(config.pcap.as_ref().map(|pcap| pcap.snaplen), Some(96));
    assert_eq!((config.resolv_conf.to_str(), config.pid_file.as_ref().unwrap().to_str()), (Some("/r"), Some("/p")));
    assert_eq!(config.metrics, Some(([127, 0, 0, 1], 9).into()));
}

#[test]
fn a_gvproxy_command_line_runs_unchanged() {
    let config = parse(
        "-listen vsock://:1024 -listen unix:///run/gvproxy.sock -mtu 65000 -ssh-port 2222 -pid-file /run/p -debug \
         -log-file=/l -ec2-metadata-access -subnet 10.9.0.0/16 -gatewayIP 10.9.0.7",
    )
    .unwrap();
    assert_eq!((config.listeners.links.len(), config.network.mtu), (2, 65000));
    assert!(config.policy.imds);
    assert_eq!(config.network.gateway_ip, Ipv4Addr::new(10, 9, 0, 7));
    assert_eq!(config.forwards[0].name, "127.0.0.1:2222");
    assert_eq!(config.forwards[0].to.to_string(), "10.9.0.2:22");
    assert!(parse("-listen vsock://:1024 -ssh-port -1").unwrap().forwards.is_empty());
    assert!(parse("--listen vsock://:1024 --ssh-port -1").unwrap().forwards.is_empty());
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    for (args, words) in [
        ("", "no enclave could connect"),
        ("--services unix:///s", "no enclave could connect"),
        ("--listen http://x", "vsock://:PORT"),
        ("--listen unixpacket:///x", "expected vsock://:PORT, unix:///PATH"),
        ("--listen unix:///a --listen unix:///a", "two listeners"),
        ("--listen unix:///a --services unix:///a", "two listeners"),
        ("--listen unix:///a --mtu 575", "576..=65520"),
        ("--listen unix:///a --mtu 65521", "576..=65520"),
        ("--listen unix:///a --subnet 10.0.0.0/30", "prefix length"),
        ("--listen unix:///a --gateway-ip 10.0.0.1", "no host of the subnet"),
        ("--listen unix:///a --device-ip 192.168.127.1", "same address"),
        ("--listen unix:///a --static-lease 192.168.127.3", "expected an IPv4 address, ="),
        ("--listen unix:///a --static-lease 192.168.127.3=x", "\"x\""),
        (
            "--listen unix:///a --static-lease 192.168.127.3=02:00:00:00:00:01 --static-lease 192.168.127.3=02:00:00:00:00:02",
            "twice",
        ),
        ("--listen unix:///a --nat 192.168.127.3=host", "\"host\""),
        ("--listen unix:///a --nat 192.168.127.3=10.0.0.1", "traffic to 192.168.127.3"),
        ("--listen unix:///a --nat 192.168.127.254=10.0.0.1", "choose another --host-ip"),
        ("--listen unix:///a --allow 10.0.0.0/33", "--allow"),
        ("--listen unix:///a --publish 80", "expected [PROTO:]"),
        ("--listen unix:///a --publish 80=:1 --publish 80=:2", "published twice"),
        ("--listen unix:///a --socket-mode 888", "octal"),
        ("--listen unix:///a --ssh-port 22", "1024 to 65535"),
        ("--listen unix:///a --memory 1K", "from 1M on"),
        ("--listen unix:///a --max-flows 0", "max-flows"),
        ("--listen unix:///a --config /nowhere/x.yaml", "/nowhere/x.yaml"),
        ("--listen unix:///a -listen-vfkit unixgram:///v", "--listen-qemu"),
        ("--listen unix:///a -x", "unexpected argument"),
    ] {
        let error = parse(args).unwrap_err();
        assert!(error.contains(words), "{args}: {error}");
    }
    parse_with("", true).unwrap();
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(
        b"listen: [vsock://:1]\npid-file: /file\nstack:\n  mtu: 9000\n  subnet: 10.0.0.0/24\n  nat: {10.0.0.254: 127.0.0.1}\n  \
          forwards: {\"127.0.0.1:2222\": 10.0.0.2:22}\n",
    )
    .unwrap();
    let path = file.path().display();
    let config = parse(&format!("--config {path}")).unwrap();
    assert_eq!((config.listeners.links[0].to_string().as_str(), config.network.mtu), ("vsock://:1", 9000));
    assert_eq!(config.forwards.len(), 1);
    // As in gvproxy, what a file does not say is not there.
    assert!(config.network.static_leases.is_empty() && config.network.zones.is_empty());
    assert_eq!(config.network.search_domains, Some(Vec::new()));
    assert!(config.policy.host_loopback && config.network.nat.is_empty(), "gvproxy's way to allow it");
    let config = parse(&format!(
        "--config {path} --listen unix:///a --mtu 1400 --pid-file /flag --publish 1=:1 --static-lease 10.0.0.9=02:00:00:00:00:09"
    ))
    .unwrap();
    assert_eq!((config.listeners.links.len(), config.network.mtu, config.forwards.len()), (1, 1400, 2));
    assert_eq!(config.listeners.links[0].to_string(), "unix:///a");
    assert_eq!(config.pid_file.as_ref().unwrap().to_str(), Some("/flag"));
    assert_eq!(config.network.static_leases.len(), 1);
    let twice = parse(&format!("--config {path} --publish 2222=:1")).unwrap_err();
    assert!(twice.contains("published twice"), "{twice}");
}

#[test]
fn a_bad_file_is_named_with_key_and_line() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"listen: [vsock://:1]\nstak:\n  mtu: 1\n").unwrap();
    let error = parse(&format!("--config {}", file.path().display())).unwrap_err();
    let path = file.path().display().to_string();
    assert!(error.contains(&path) && error.contains("stak") && error.contains("line 2"), "{error}");
    file.as_file_mut().set_len(yaml::MAX_FILE + 1).unwrap();
    let error = parse(&format!("--config {path}")).unwrap_err();
    assert!(error.contains("more than 1048576 bytes"), "{error}");
}

#[test]
fn numbers_of_bytes_have_units() {
    for (text, read) in [("1", Some(1)), ("2k", Some(2048)), ("3M", Some(3 << 20)), ("1G", Some(1 << 30))] {
        assert_eq!(bytes(text), read, "{text}");
    }
    for bad in ["", "K", "-1", "1T", "1.5M", "18446744073709551615K", "M1"] {
        assert_eq!(bytes(bad), None, "{bad}");
    }
}
