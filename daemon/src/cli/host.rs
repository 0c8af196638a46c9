//! `nitrotap host`: the gateway on the EC2 parent, in the place of gvproxy.

mod compat;
mod publish;
mod resolve;
mod yaml;

pub(crate) use compat::rewrite;

use crate::{
    errors::Error,
    host::{
        address::{ListenUrl, Purpose, UrlError},
        config::{MAX_MTU, MIN_MTU},
        control::{Forward, Local},
        pin::Pinned,
        ports::socket_address,
    },
    limits,
    logging::{self, LogFormat},
    sys::activation,
};
use ipnet::{Ipv4Net, Ipv6Net};
use nitrotap_core::{gateway::policy::Rule, link::MacAddr};
use publish::Publish;
use std::{
    net::{Ipv4Addr, SocketAddr},
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
};

/// Run the gateway that enclaves connect to: a drop-in for gvproxy
///
/// Gives every enclave that connects a virtual network (192.168.127.0/24, gateway .1): DHCP, DNS, and TCP, UDP and ping
/// to the world through this host's sockets. Needs no privileges but for ports below 1024. Takes gvproxy's command line
/// (-listen, -mtu, -services, ...) and its configuration file too. Unlike gvproxy it has the REST interface only where
/// --services puts it, forwards no SSH port unless asked, keeps this host's loopback to itself, and ends with exit code
/// 0 on SIGTERM and SIGINT.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
    nitrotap host --listen vsock://:1024\n  \
    nitrotap host --listen vsock://:1024 --publish 0.0.0.0:443=:443\n  \
    nitrotap host --listen vsock://:1024 --services unix:///run/nitrotap/services.sock\n  \
    nitrotap host --listen vsock://:1024 --subnet6 fd00:1:2:3::/64\n  \
    nitrotap host --listen vsock://:1024 --mtu 65520 --allow-imds --metrics 127.0.0.1:9090\n  \
    nitrotap host --listen-qemu unix:///tmp/qemu.sock --pcap /tmp/frames.pcap\n  \
    curl --unix-socket /run/nitrotap/services.sock http://x/services/forwarder/expose \\\n      \
    -d '{\"local\":\":8080\",\"remote\":\"192.168.127.2:80\"}'\n\n\
    systemd may pass sockets: those named services are for the REST interface, all others for links.")]
pub(crate) struct Args {
    /// Take links (/connect) here: vsock://:PORT, vsock://CID:PORT, unix:///PATH or tcp://ADDR:PORT; repeatable
    #[arg(long, value_name = "URL", value_parser = link_url)]
    listen: Vec<ListenUrl>,

    /// Take frames as QEMU sends them (-netdev stream) here, one peer at a time; repeatable
    #[arg(long, value_name = "URL", value_parser = local_url)]
    listen_qemu: Vec<ListenUrl>,

    /// Take frames as messages (SOCK_SEQPACKET) here, one peer at a time: unixpacket:///PATH; repeatable
    #[arg(long, value_name = "URL", value_parser = messages_url)]
    listen_bess: Vec<ListenUrl>,

    /// Serve the REST interface here: unix:///PATH or tcp://ADDR:PORT. It has no password
    #[arg(long, value_name = "URL", value_parser = local_url)]
    services: Option<ListenUrl>,

    /// Serve the REST interface on every --listen too, to everyone who can connect, as gvproxy does
    #[arg(long)]
    services_on_listeners: bool,

    /// Let enclaves publish ports of their own on this host, at http://GATEWAY:80, as gvproxy does: over TCP and UDP, from
    /// port 1024 on, and none that is in use
    #[arg(long)]
    guest_services: bool,

    /// Permissions of socket files
    #[arg(long, value_name = "OCTAL", default_value = "0600", value_parser = socket_mode)]
    socket_mode: u32,

    /// gvproxy's configuration file (YAML); flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Write our process number into this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,

    /// Log into this file instead of standard error
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,

    /// Log more; NITROTAP_LOG says it more finely
    #[arg(long)]
    debug: bool,

    /// Serve metrics (/metrics) and a status for humans (/status) on this address
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,

    /// Write all frames into this file, for Wireshark, up to 4 GiB
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,

    /// Bytes of each frame that --pcap keeps
    #[arg(long, value_name = "N", default_value_t = 65_535, value_parser = clap::value_parser!(u32).range(64..=262_144))]
    pcap_snaplen: u32,

    #[command(flatten)]
    ports: Ports,

    #[command(flatten)]
    network: Network,

    #[command(flatten)]
    policy: Policy,

    #[command(flatten)]
    limits: Limits,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Published ports")]
struct Ports {
    /// Let a port of this host lead to a guest: PROTO tcp or udp, ADDR 127.0.0.1 unless given (*, 0.0.0.0 and :: in
    /// brackets are all interfaces, with IPv4 and IPv6), PORT a number or a service such as http, GUEST the device unless given, IPv6 in
    /// brackets; repeatable
    #[arg(long, value_name = "[PROTO:][ADDR:]PORT=GUEST:PORT")]
    publish: Vec<Publish>,

    /// Send a PROXY protocol header (version 2) ahead of each connection to a published TCP port
    #[arg(long)]
    proxy_protocol: bool,

    /// gvproxy's flag for --publish PORT=:22; -1 is none, which is our default
    #[arg(long, value_name = "PORT", allow_hyphen_values = true, value_parser = ssh_port)]
    ssh_port: Option<SshPort>,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Virtual network")]
struct Network {
    /// Longest IP packet, in bytes; that of the guest's interface should be the same [default: 1500]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(i64::from(MIN_MTU)..=i64::from(MAX_MTU)))]
    mtu: Option<u16>,

    /// The network, with a prefix length from 8 to 29 [default: 192.168.127.0/24]
    #[arg(long, value_name = "CIDR")]
    subnet: Option<Ipv4Net>,

    /// Give guests IPv6 too, with addresses that they make themselves in this /64: ours, and that of the name server, is its
    /// ::1, and ::fe stands for --host-ip [default: no IPv6]
    #[arg(long, value_name = "PREFIX/64")]
    subnet6: Option<Ipv6Net>,

    /// Our address, and that of the name server [default: first of the subnet]
    #[arg(long, value_name = "IP")]
    gateway_ip: Option<Ipv4Addr>,

    /// The guest's address: first to be leased, and what --publish means without GUEST [default: second of the subnet]
    #[arg(long, value_name = "IP")]
    device_ip: Option<Ipv4Addr>,

    /// What guests call this host [default: last of the subnet]
    #[arg(long, value_name = "IP")]
    host_ip: Option<Ipv4Addr>,

    /// Our hardware address [default: 5a:94:ef:e4:0c:dd]
    #[arg(long, value_name = "MAC")]
    gateway_mac: Option<MacAddr>,

    /// Lease this address to this client only; repeatable
    #[arg(long, value_name = "IP=MAC", value_parser = pair::<MacAddr>)]
    static_lease: Vec<(Ipv4Addr, MacAddr)>,

    /// Fix whose an address is: of the enclave with this CID, or of those who come by the listener with this URL
    /// (--pin unix:///PATH=IP), and with MAC only of that station there. Nobody else gets or uses it, and DHCP gives it to its
    /// owner; repeatable
    #[arg(long, value_name = "CID=IP[,MAC]")]
    pin: Vec<Pinned>,

    /// Keep the addresses of an enclave whose link is gone for it alone, for this many seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = clap::value_parser!(u32).range(0..=86_400))]
    keep_address: u32,

    /// Let connections to the first address go to the second; repeatable
    #[arg(long, value_name = "IP=IP", value_parser = pair::<Ipv4Addr>)]
    nat: Vec<(Ipv4Addr, Ipv4Addr)>,

    /// Where the name servers for DNS queries are read from, now and whenever it changes
    #[arg(long, value_name = "PATH", default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "What guests may reach")]
struct Policy {
    /// Allow destinations, such as tcp:192.0.2.0/24:443: an address, a network, a name, `any`, `host` (this host's own
    /// addresses, which `any` is not) or `enclaves` (each other), with a protocol before it and ports behind it if wanted;
    /// with one of these, all others are denied; repeatable
    #[arg(long, value_name = "RULE")]
    allow: Vec<Rule>,

    /// Deny destinations, whatever is allowed; `enclaves` keeps enclaves from each other; repeatable
    #[arg(long, value_name = "RULE")]
    deny: Vec<Rule>,

    /// Allow the metadata service of EC2, and with it this instance's credentials: 169.254.169.254 and fd00:ec2::254, no other
    /// link-local address
    #[arg(long, alias = "ec2-metadata-access")]
    allow_imds: bool,

    /// Let guests reach this host's 127.0.0.1 as --host-ip, as gvproxy does, and its ::1 as ::fe of --subnet6
    #[arg(long)]
    allow_host_loopback: bool,
}

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Limits")]
struct Limits {
    /// TCP connections
    #[arg(long, value_name = "N", default_value = "16384")]
    max_flows: NonZeroUsize,

    /// TCP connections of one enclave
    #[arg(long, value_name = "N", default_value = "12288")]
    max_flows_per_enclave: NonZeroUsize,

    /// TCP connections of one enclave that are still being opened
    #[arg(long, value_name = "N", default_value = "1024")]
    max_half_open: NonZeroUsize,

    /// UDP sessions and pings
    #[arg(long, value_name = "N", default_value = "8192")]
    max_udp_sessions: NonZeroUsize,

    /// UDP sessions and pings of one enclave
    #[arg(long, value_name = "N", default_value = "2048")]
    max_udp_sessions_per_enclave: NonZeroUsize,

    /// New connections per second of one enclave [default: no limit]
    #[arg(long, value_name = "N")]
    connection_rate: Option<NonZeroU32>,

    /// Bytes per second of one connection, each way [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = rate)]
    rate: Option<NonZeroU64>,

    /// Bytes in the buffers of all TCP connections together, 16K for each at least; K, M and G are powers of 1024
    #[arg(long, value_name = "BYTES", default_value = "512M", value_parser = memory)]
    memory: u64,

    /// Published ports, each of which needs a descriptor
    #[arg(long, value_name = "N", default_value = "16384")]
    max_forwards: NonZeroUsize,
}

pub(crate) fn run(args: Args, format: LogFormat) -> Result<ExitCode, Error> {
    let sockets = activation::take()
        .map_err(|e| Error::runtime(format!("cannot take the sockets that systemd passes: {e}; see its unit")))?;
    let activated = crate::host::Activated::sort(sockets)?;
    let settings = args.config.as_deref().map(resolve::read_file).transpose()?;
    let log = logging::Target {
        file: args.log_file.clone().or_else(|| settings.as_ref().and_then(|s| s.log_file.clone())),
        level: if args.debug { Some("debug") } else { settings.as_ref().and_then(|s| s.log_level) },
    };
    let config = resolve::config(args, settings, !activated.links.is_empty())?;
    logging::init_with(format, log)?;
    limits::raise_nofile();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Error::runtime(format!("cannot start the async runtime: {e}")))?;
    runtime.block_on(crate::host::run(config, activated))
}

fn link_url(text: &str) -> Result<ListenUrl, UrlError> {
    ListenUrl::for_purpose(text, Purpose::Link)
}

fn local_url(text: &str) -> Result<ListenUrl, UrlError> {
    ListenUrl::for_purpose(text, Purpose::Local)
}

fn messages_url(text: &str) -> Result<ListenUrl, UrlError> {
    ListenUrl::for_purpose(text, Purpose::Messages)
}

fn socket_mode(text: &str) -> Result<u32, &'static str> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777).ok_or("expected an octal number such as 0660")
}

/// What `--ssh-port` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SshPort {
    None,
    Port(u16),
}

fn ssh_port(text: &str) -> Result<SshPort, &'static str> {
    match text.parse::<i32>().map(u16::try_from) {
        Ok(Err(_)) if text == "-1" => Ok(SshPort::None),
        Ok(Ok(port)) if port >= 1024 => Ok(SshPort::Port(port)),
        Ok(_) | Err(_) => Err("expected -1, or a port from 1024 to 65535"),
    }
}

fn pair<V: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<(Ipv4Addr, V), String> {
    let (ip, value) = text.split_once('=').ok_or("expected an IPv4 address, =, and what belongs to it")?;
    let ip = ip.parse().map_err(|_| format!("{ip:?} is no IPv4 address"))?;
    Ok((ip, value.parse().map_err(|error| format!("{value:?}: {error}"))?))
}

/// A number of bytes, with K, M or G for powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let (number, shift) = match text.char_indices().next_back()? {
        (at, 'K' | 'k') => (&text[..at], 10),
        (at, 'M' | 'm') => (&text[..at], 20),
        (at, 'G' | 'g') => (&text[..at], 30),
        _ => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Less than this is not enough for a few connections.
const MIN_MEMORY: u64 = 1 << 20;

fn rate(text: &str) -> Result<NonZeroU64, &'static str> {
    bytes(text).and_then(NonZeroU64::new).ok_or("expected a number of bytes, such as 500K or 10M")
}

fn memory(text: &str) -> Result<u64, &'static str> {
    bytes(text).filter(|n| *n >= MIN_MEMORY).ok_or("expected a number of bytes from 1M on, such as 512M or 1G")
}

/// A forward of gvproxy's configuration: `[udp:]ADDR:PORT` and `IP:PORT`.
fn publish_local(local: &str, remote: &str) -> Result<Forward, &'static str> {
    let (udp, name) = local.strip_prefix("udp:").map_or((false, local), |rest| (true, rest));
    let address = socket_address(name, if udp { "udp" } else { "tcp" })
        .ok_or("expected [udp:]ADDR:PORT before the remote, such as 127.0.0.1:2222")?;
    let to: SocketAddr = remote.parse().map_err(|_| "expected IP:PORT as the remote, such as 192.168.127.2:22")?;
    let local = if udp { Local::Udp(address) } else { Local::Tcp(address) };
    Ok(Forward { name: name.to_owned(), local, to, proxy_protocol: false })
}

#[cfg(test)]
mod tests;
