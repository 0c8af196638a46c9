//! `nitrotap enclave`: TAP, link, reverse proxy and app, in an enclave or any network namespace of its own.

use crate::{
    app::{App, Asked, Ended, Signals, in_terminal_foreground},
    drive::{FrameLoop, Offload, Tunnel, TunnelConfig},
    endpoint::Endpoint,
    errors::Error,
    http::{ProxyFlags, ProxyOptions, ProxyServer, Seconds},
    limits,
    local::namespace,
    metrics::{self, Sources},
    netlink::{Interface, Ipv6},
    procfs,
    resolv::ResolvConf,
    sys::tun,
};
use ipnet::Ipv6Net;
use nitrotap_core::{
    frame::{MAX_MTU, MIN_MTU},
    link::MacAddr,
};
use std::{
    ffi::OsString,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

/// Give an enclave a network: TAP device, link to the host, reverse proxy, and the app
///
/// Makes a TAP device, gives it address and default route, and carries its frames to a gateway on the host (gvproxy, or
/// anything that speaks its /connect). The link is dialled again for ever; the TAP stays. With --listen it also runs the
/// reverse proxy, with a command it runs and supervises the app.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
    nitrotap enclave -- /bin/app --port 8080\n  \
    nitrotap enclave --listen 0.0.0.0:80 --upstream http://127.0.0.1:8080 -- /bin/app\n  \
    nitrotap enclave --host unix:///run/gvproxy.sock --metrics 127.0.0.1:9090")]
pub(crate) struct Args {
    /// Where the host's gateway listens: vsock://CID:PORT, unix:///PATH or tcp://HOST:PORT
    #[arg(long, value_name = "URL", default_value = "vsock://3:1024")]
    host: Endpoint,

    /// Name of the TAP device
    #[arg(long, value_name = "NAME", default_value = "tap0", value_parser = tap_name)]
    tap: String,

    /// Hardware address of the TAP device; must be unique behind one gateway
    #[arg(long, value_name = "MAC", default_value = "ba:aa:ad:c0:ff:ee")]
    mac: MacAddr,

    /// Address of the TAP device and its subnet
    #[arg(long, value_name = "CIDR", default_value = "192.168.127.2/24")]
    address: Cidr,

    /// The gateway: default route and name server
    #[arg(long, value_name = "IP", default_value = "192.168.127.1")]
    gateway: Ipv4Addr,

    /// IPv6 address of the TAP device and its subnet, beside those that the kernel makes itself [default: none]
    #[arg(long, value_name = "CIDR")]
    address6: Option<Ipv6Net>,

    /// The gateway of --address6: default route, where no router advertises itself [default: none]
    #[arg(long, value_name = "IP", requires = "address6")]
    gateway6: Option<Ipv6Addr>,

    /// MTU of the TAP device, in bytes; the gateway's must not be smaller
    #[arg(long, value_name = "N", default_value_t = 1500,
          value_parser = clap::value_parser!(u16).range(i64::from(MIN_MTU)..=i64::from(MAX_MTU)))]
    mtu: u16,

    /// Resolver configuration to write, or `none`; what was there is put back at the end
    #[arg(long, value_name = "PATH|none", default_value = "/etc/resolv.conf")]
    resolv_conf: ResolvTarget,

    /// Serve metrics (/metrics) and a status for humans (/status) on this address
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,

    /// How frames move between TAP and stream
    #[arg(long, value_enum, default_value_t)]
    frame_loop: FrameLoop,

    /// Work that the kernel leaves to us: all, none, or a list of csum, tso, uso, gro. Checksums, long TCP segments and
    /// long UDP datagrams out, joined segments and datagrams in; tso and uso bring csum. What the kernel lacks is off
    #[arg(long, value_name = "all|none|LIST", default_value_t = Offload::ALL)]
    offload: Offload,

    /// Send nothing but what any network takes: segments no longer than the MTU, with checksums. Without it the gateway
    /// gets long TCP segments with checksums left out, which every gvproxy takes, and nobody else does
    #[arg(long)]
    strict: bool,

    /// While much arrives frame by frame, wait up to so many microseconds before a read of the stream, so that it brings
    /// many frames (ethtool calls it rx-usecs); 0 for never. A transfer's first millisecond, and whatever comes now
    /// and then, never wait; where waiting makes nothing better, it ends. No matter with --frame-loop single
    #[arg(long, value_name = "N", default_value_t = RX_USECS, value_parser = clap::value_parser!(u16).range(0..=1000))]
    rx_usecs: u16,

    /// Time that requests in progress, and then the app, get to end after SIGTERM or SIGINT
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    drain_timeout: Seconds,

    /// The app gets Ctrl-C from the terminal itself
    #[arg(long, hide = true)]
    shared_terminal: bool,

    /// PID 1 of the namespaces of nitrotap local
    #[arg(long, hide = true)]
    namespace_init: bool,

    /// The app and its arguments; its exit code becomes ours
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,

    #[command(flatten)]
    proxy: ProxyFlags,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    check_addresses(&args.address, args.gateway)?;
    check_ipv6(args.address6, args.gateway6)?;
    let proxy = args.proxy.options()?;
    if args.namespace_init {
        namespace::prepare_init();
    }
    limits::raise_nofile();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Error::runtime(format!("cannot start the async runtime: {e}")))?;
    runtime.block_on(enclave(args, proxy))
}

async fn enclave(args: Args, proxy: Option<ProxyOptions>) -> Result<ExitCode, Error> {
    let mut signals = Signals::catch(args.shared_terminal || in_terminal_foreground())?;
    let sources = Sources::default();
    procfs::add_process(&sources);
    let config = TunnelConfig {
        interface: Interface {
            name: args.tap,
            mac: args.mac,
            address: args.address.address,
            prefix: args.address.prefix,
            gateway: args.gateway,
            mtu: args.mtu,
            ipv6: Ipv6 { address: args.address6.map(|net| (net.addr(), net.prefix_len())), gateway: args.gateway6 },
        },
        host: args.host,
        frame_loop: args.frame_loop,
        offload: args.offload,
        strict: args.strict,
        rx_pause: Duration::from_micros(args.rx_usecs.into()),
        seed: seed(),
    };
    let mut tunnel = Tunnel::start(config, &sources).await?;
    let outcome = serve(
        &mut tunnel,
        &mut signals,
        sources,
        &Rest {
            gateway: args.gateway,
            resolv_conf: args.resolv_conf,
            metrics: args.metrics,
            drain: args.drain_timeout.0,
            proxy,
            command: args.command,
        },
    )
    .await;
    linger().await;
    tunnel.stop().await;
    outcome
}

/// Lets the kernel send what apps left in their sockets when they ended: the network goes with us.
async fn linger() {
    let sent = async {
        while procfs::unfinished_tcp() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(LINGER, sent).await.is_err() {
        tracing::warn!(connections = procfs::unfinished_tcp(), "ending with TCP connections that are not finished");
    }
}

/// How long a busy stream is left alone by default, in microseconds.
const RX_USECS: u16 = nitrotap_core::drive::ingress::RX_PAUSE.as_micros() as u16;

/// Longest wait until TCP connections are finished; a peer that does not acknowledge in this time is not there.
const LINGER: Duration = Duration::from_secs(2);

/// How long the app waits for the first link. A host that is there answers in a tenth of a second.
const LINK_PATIENCE: Duration = Duration::from_secs(2);

/// What is needed once the tunnel is there.
struct Rest {
    gateway: Ipv4Addr,
    resolv_conf: ResolvTarget,
    metrics: Option<SocketAddr>,
    drain: Duration,
    proxy: Option<ProxyOptions>,
    command: Vec<OsString>,
}

async fn serve(tunnel: &mut Tunnel, signals: &mut Signals, sources: Sources, rest: &Rest) -> Result<ExitCode, Error> {
    let proxy = rest.proxy.as_ref().map(ProxyServer::start).transpose()?;
    if let Some(proxy) = &proxy {
        proxy.register(&sources);
    }
    let _resolv_conf = write_resolv_conf(&rest.resolv_conf, rest.gateway);
    if let Some(address) = rest.metrics {
        metrics::serve(metrics::bind(address).await?, sources);
    }
    // An app that dials out at once would lose its first packet and wait a second for TCP to send it again.
    if tokio::time::timeout(LINK_PATIENCE, tunnel.up()).await.is_err() {
        tracing::warn!("starting without a link: the network comes when the host does");
    }
    let mut app = if rest.command.is_empty() { None } else { Some(App::start(&rest.command)?) };
    let told = loop {
        tokio::select! {
            ended = app_ended(&mut app) => return Ok(ended.code()),
            error = tunnel.failed() => {
                if let Some(app) = &mut app {
                    app.stop(rest.drain).await;
                }
                return Err(error);
            }
            asked = signals.next() => match asked {
                Asked::End { told } => break told,
                Asked::Pass(signal) => if let Some(app) = &mut app {
                    app.signal(signal);
                },
            },
        }
    };
    tracing::info!("stopping");
    if let Some(proxy) = proxy {
        // The app still serves what was accepted.
        let cut = proxy.drain(rest.drain).await;
        if cut > 0 {
            tracing::warn!(connections = cut, "connections cut short at the end of the drain timeout");
        }
    }
    let Some(app) = &mut app else { return Ok(ExitCode::SUCCESS) };
    end_app(app, signals, told, rest.drain).await
}

/// Lets the app end: it was told by the terminal, or is told now. A second request reaches it at once.
async fn end_app(app: &mut App, signals: &mut Signals, told: bool, grace: Duration) -> Result<ExitCode, Error> {
    if told && let Ok(ended) = tokio::time::timeout(grace, app.ended()).await {
        return Ok(ended.code());
    }
    let stop = app.stop(grace);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            ended = &mut stop => return Ok(ended.code()),
            _ = signals.next() => tracing::info!("still waiting for the app to end"),
        }
    }
}

async fn app_ended(app: &mut Option<App>) -> Ended {
    match app {
        Some(app) => app.ended().await,
        None => std::future::pending().await,
    }
}

fn write_resolv_conf(target: &ResolvTarget, server: Ipv4Addr) -> Option<ResolvConf> {
    let ResolvTarget::Path(path) = target else { return None };
    ResolvConf::write(path, server)
        .inspect_err(|error| {
            tracing::warn!(
                path = %path.display(), %error,
                "cannot write the resolver configuration: names will not resolve unless the app has its own; \
                 name another file with --resolv-conf, or none"
            );
        })
        .ok()
}

/// Jitter wants to differ between enclaves started at once; nothing secret depends on it.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

/// An IPv4 address with the length of its subnet's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cidr {
    address: Ipv4Addr,
    prefix: u8,
}

impl Cidr {
    const fn mask(self) -> u32 {
        u32::MAX << (32 - self.prefix)
    }

    const fn contains(self, other: Ipv4Addr) -> bool {
        self.address.to_bits() & self.mask() == other.to_bits() & self.mask()
    }

    const fn is_host(self, host: Ipv4Addr) -> bool {
        self.contains(host) && host.to_bits() & !self.mask() != 0 && host.to_bits() | self.mask() != u32::MAX
    }
}

impl FromStr for Cidr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "expected an IPv4 address with a prefix length, such as 192.168.127.2/24";
        let (address, prefix) = text.split_once('/').ok_or(FORM)?;
        let cidr = Self { address: address.parse().map_err(|_| FORM)?, prefix: prefix.parse().map_err(|_| FORM)? };
        if !(1..=30).contains(&cidr.prefix) {
            return Err("the prefix length must be from 1 to 30, to hold the gateway and us");
        }
        if !cidr.is_host(cidr.address) {
            return Err("that is the subnet's own or broadcast address; take one in between");
        }
        Ok(cidr)
    }
}

fn check_addresses(us: &Cidr, gateway: Ipv4Addr) -> Result<(), Error> {
    if gateway == us.address {
        return Err(Error::usage(format!("--gateway and --address are both {gateway}; they must differ")));
    }
    if !us.is_host(gateway) {
        return Err(Error::usage(format!(
            "--gateway {gateway} is no host of the subnet of --address {}/{}; give one inside it",
            us.address, us.prefix
        )));
    }
    Ok(())
}

fn check_ipv6(us: Option<Ipv6Net>, gateway: Option<Ipv6Addr>) -> Result<(), Error> {
    let (Some(us), gateway) = (us, gateway) else { return Ok(()) };
    let address = us.addr();
    if address.is_multicast() || address.is_unspecified() || address.is_loopback() {
        return Err(Error::usage(format!("--address6 {address} is no address of an interface")));
    }
    match gateway {
        Some(gateway) if gateway == address => {
            Err(Error::usage(format!("--gateway6 and --address6 are both {gateway}; they must differ")))
        }
        Some(gateway) if !us.contains(&gateway) && !gateway.is_unicast_link_local() => Err(Error::usage(format!(
            "--gateway6 {gateway} is neither in the subnet of --address6 {us} nor an address of the link"
        ))),
        Some(_) | None => Ok(()),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ResolvTarget {
    None,
    Path(PathBuf),
}

impl FromStr for ResolvTarget {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "none" => Ok(Self::None),
            path if Path::new(path).is_absolute() => Ok(Self::Path(path.into())),
            _ => Err("expected an absolute path, or none"),
        }
    }
}

fn tap_name(text: &str) -> Result<String, String> {
    let bad = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
    if text.is_empty() || text.len() > tun::NAME_MAX || text.contains(bad) || text == "." || text == ".." {
        return Err(format!(
            "an interface name has 1 to {} bytes and no space, slash, colon or percent sign",
            tun::NAME_MAX
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_against_their_subnet() {
        let us: Cidr = "192.168.127.2/24".parse().unwrap();
        assert!(check_addresses(&us, Ipv4Addr::new(192, 168, 127, 1)).is_ok());
        for bad in [[192, 168, 127, 2], [192, 168, 127, 0], [192, 168, 127, 255], [10, 0, 0, 1]] {
            assert!(matches!(check_addresses(&us, bad.into()), Err(Error::Usage(_))), "{bad:?}");
        }
        for bad in ["192.168.127.2", "192.168.127.2/31", "192.168.127.2/0", "192.168.127.0/24", "a/24", "1.2.3.4/x"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ipv6_addresses_are_checked_against_their_subnet() {
        let us = Some("fd00::2/64".parse().unwrap());
        for good in [None, Some("fd00::1"), Some("fe80::1")] {
            assert!(check_ipv6(us, good.map(|ip| ip.parse().unwrap())).is_ok(), "{good:?}");
        }
        for bad in ["fd00::2", "fd01::1"] {
            assert!(matches!(check_ipv6(us, Some(bad.parse().unwrap())), Err(Error::Usage(_))), "{bad}");
        }
        for bad in ["ff02::1/64", "::/64", "::1/128"] {
            assert!(matches!(check_ipv6(Some(bad.parse().unwrap()), None), Err(Error::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn interface_names_the_kernel_would_mangle_are_refused() {
        assert!(tap_name("tap0").is_ok());
        for bad in ["", "tap%d", "a/b", "a b", "a:b", "0123456789abcdef", ".."] {
            assert!(tap_name(bad).is_err(), "{bad}");
        }
    }
}
