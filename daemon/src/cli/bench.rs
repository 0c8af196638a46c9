//! `nitrotap bench`: the arguments of every measurement.

use crate::{
    bench::{
        options::{ServeUrl, Settings},
        sides::Split,
    },
    endpoint::Endpoint,
    errors::Error,
};
use std::{path::PathBuf, process::ExitCode};

const EXAMPLES: &str = "Examples:
  Which is the worse offender, TAP handler or gateway?
    nitrotap bench e2e
  The same, with processors of its own for each of enclave and host:
    nitrotap bench e2e --split-cores
  Requests per second over connections, as a picture:
    nitrotap bench figure --svg figure.svg
  The TAP handler alone, for programs to read:
    nitrotap bench tap --json -
  A gateway alone:
    nitrotap bench host --gateway-command /opt/gvproxy
  This machine's costs for the simulator:
    nitrotap bench calibrate --out here.toml
    nitrotap-sim figure --calibrate here.toml";

/// What `--json` writes, for those who read it.
const JSON: &str = "What --json writes: an object with schema (nitrotap-bench/1), bench, machine (facts, steal_share from 0 to 1), \
    repetitions, warm_up_seconds, measured_seconds, rows, verdicts and notes; with --split-cores also split_cores \
    (host_side and enclave_side: numbers of processors). A row has subject, work, mtu_bytes, connections, \
    unit (gigabits, requests or connections), rate (of the unit per second), frames_per_second and calls_per_second where they \
    are counted, latency_us (p50, p90, p99, p999, max: medians of the repetitions), errors, and processors: for each role its \
    cost (seconds per 10^9 bytes, or microseconds per request or connection) and busy_cores. rate, cost and the like are \
    median, min, max and mad (median absolute deviation). A verdict has subject, mtu_bytes, unit, worse_offender, \
    times_the_next and text.";

/// Measure every component alone and all together, and name the one that saturates first
///
/// Starts everything that it needs as child processes: gateways, enclaves in network namespaces of their own, servers,
/// load generators. Nothing else has to be installed; gvproxy and gvforwarder take part if they are found. Works as root,
/// and without root where user namespaces and /dev/net/tun are allowed. Subjects take turns within a run, since machines
/// drift: compare within one run only. All traffic stays on the loopback and in the namespaces.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{JSON}"))]
pub(crate) struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(clap::Subcommand, Debug)]
pub(crate) enum Bench {
    Link(LinkArgs),
    Tap(TapArgs),
    Host(HostArgs),
    Proxy(ProxyArgs),
    E2e(E2eArgs),
    Figure(FigureArgs),
    Calibrate(CalibrateArgs),
}

/// How to measure.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Measuring")]
pub(crate) struct Timing {
    /// Repetitions; the median and the least and greatest are told [default: 5, or 1 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: Option<u32>,

    /// Length of each measurement, in seconds [default: 3, or 0.3 with --quick]
    #[arg(long, value_name = "S", value_parser = seconds)]
    seconds: Option<f64>,

    /// Show that it works, in seconds: short, once, and fewer cases. The figures are worth little
    #[arg(long)]
    quick: bool,
}

/// How to measure and where to write.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Measuring")]
pub(crate) struct Common {
    #[command(flatten)]
    timing: Timing,

    /// Write everything as JSON into FILE, or - for standard output instead of the table
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Draw a picture into FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

/// Numbers of connections of a closed loop: those given, or powers of four.
fn powers_of_four(given: &[u32], quick: bool) -> Vec<u32> {
    match (given.is_empty(), quick) {
        (false, _) => given.to_vec(),
        (true, true) => vec![1, 64],
        (true, false) => vec![1, 4, 16, 64, 256, 1024],
    }
}

impl ProxyArgs {
    pub(crate) fn connections(&self) -> Vec<u32> {
        powers_of_four(&self.connections, self.common.quick())
    }
}

impl FigureArgs {
    pub(crate) fn connections(&self) -> Vec<u32> {
        powers_of_four(&self.connections, self.common.quick())
    }
}

impl Common {
    pub(crate) fn settings(&self) -> Settings {
        self.timing.settings()
    }

    pub(crate) const fn quick(&self) -> bool {
        self.timing.quick
    }
}

impl Timing {
    pub(crate) fn settings(&self) -> Settings {
        let measure = self.seconds.unwrap_or(if self.quick { 0.3 } else { 3.0 });
        let measure_ms = (measure * 1000.0) as u64;
        Settings {
            repeat: self.repeat.unwrap_or(if self.quick { 1 } else { 5 }),
            warm_up_ms: (measure_ms / 4).clamp(100, 1000),
            measure_ms,
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        Ok(_) | Err(_) => Err("expected a number of seconds from 0.1 to 3600".to_owned()),
    }
}

/// What runs on which processors.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Cores {
    /// Keep the host's side (gateways, clients of requests, servers of bulk transfers) on the first half of the processors
    /// and the enclave's side (everything else) on the second, as the two machines that they are in the field
    #[arg(long, help_heading = "Measuring")]
    split_cores: bool,
}

impl Cores {
    /// A usage error where there are too few.
    pub(crate) fn split(self) -> Result<Option<Split>, Error> {
        self.split_cores.then(Split::here).transpose()
    }
}

/// Programs to measure beside ours.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Peers {
    /// The stock gateway [default: gvproxy, if it is on PATH]
    #[arg(long, value_name = "PATH")]
    pub(crate) gvproxy: Option<PathBuf>,

    /// The stock TAP handler [default: gvforwarder, if it is on PATH]
    #[arg(long, value_name = "PATH")]
    pub(crate) gvforwarder: Option<PathBuf>,

    /// Measure ours only
    #[arg(long, conflicts_with_all = ["gvproxy", "gvforwarder"])]
    pub(crate) no_peers: bool,
}

/// The raw stream: what no frame path over it can exceed
///
/// Sends bytes over a unix socket and over TCP on the loopback, in writes of 1.5 to 64 KiB, and small messages back and
/// forth. For vsock, run it with --serve on the other side first.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
    nitrotap bench link\n  \
    nitrotap bench link --serve vsock://:5000\n  \
    nitrotap bench link --stream vsock://3:5000 --json link.json")]
pub(crate) struct LinkArgs {
    /// Measure the stream to this peer, which runs with --serve: vsock://CID:PORT, unix:///PATH or tcp://HOST:PORT
    #[arg(long, value_name = "URL", conflicts_with = "serve")]
    pub(crate) stream: Option<Endpoint>,

    /// Be the other side, until interrupted: vsock://:PORT, unix:///PATH or tcp://ADDR:PORT
    #[arg(long, value_name = "URL")]
    pub(crate) serve: Option<ServeUrl>,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// The TAP handler alone: kernel TCP over a real TAP device, and a gateway behind it that costs next to nothing
///
/// The null host is a process that ends every TCP connection itself, with payload that nobody looks at and one
/// acknowledgement for all that a read brought: cheaper than any gateway that forwards, and than a second kernel with a
/// TAP. Both frame loops take turns: `batched` is ours, `single` moves one frame per system call and stands in for the
/// loops of gvforwarder and nitriding.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  nitrotap bench tap\n  nitrotap bench tap --mtu 1500 --streams 1,8 --seconds 5")]
pub(crate) struct TapArgs {
    /// MTUs, in bytes
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1500,65520", value_parser = mtu())]
    pub(crate) mtu: Vec<u16>,

    /// Numbers of TCP connections
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,8", value_parser = many())]
    pub(crate) streams: Vec<u32>,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// The gateway alone: a guest made of frames, without a TAP device or a kernel behind it
///
/// Opens TCP connections through the gateway to a server on this machine's loopback, and counts bytes both ways, requests
/// on open connections, and new connections. Ours and, if it is found, stock gvproxy take turns.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
    nitrotap bench host\n  \
    nitrotap bench host --gateway-command '/opt/gvproxy -debug'\n  \
    nitrotap bench host --host unix:///run/gvproxy.sock --gateway-pid 1234 --mtu 1500")]
pub(crate) struct HostArgs {
    /// Measure this running gateway only; it must let guests reach its loopback as 192.168.127.254
    #[arg(long, value_name = "URL", conflicts_with_all = ["gateway_command", "gvproxy"])]
    pub(crate) host: Option<Endpoint>,

    /// Its process number, for its processor time
    #[arg(long, value_name = "PID", requires = "host")]
    pub(crate) gateway_pid: Option<u32>,

    /// Measure this gateway besides ours: a gvproxy with arguments separated by blanks
    #[arg(long, value_name = "CMD")]
    pub(crate) gateway_command: Option<String>,

    /// MTUs, in bytes
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1500,65520", value_parser = mtu())]
    pub(crate) mtu: Vec<u16>,

    /// Numbers of TCP connections
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,8", value_parser = many())]
    pub(crate) streams: Vec<u32>,

    #[command(flatten)]
    pub(crate) peers: Peers,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// The reverse proxy alone, between a load generator and a server that are built in
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  nitrotap bench proxy\n  nitrotap bench proxy --connections 1,64,1024 --svg proxy.svg"
)]
pub(crate) struct ProxyArgs {
    /// Numbers of connections [default: 1,4,16,64,256,1024, or 1,64 with --quick]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = many())]
    connections: Vec<u32>,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// Everything together, in namespaces; says which is the worse offender, TAP handler or gateway
///
/// Bulk TCP both ways and hello-world requests through TAP handler and gateway: ours with ours, ours with stock gvproxy,
/// the one-frame-per-call loop with stock gvproxy (the stand-in for the Go pair), and the Go pair itself where gvforwarder
/// is found. Beside them the ceilings: two kernels' TCP with a stream between their TAPs and no gateway, and the stream
/// alone. The answer comes from the processor time that each spends per unit of work.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
    nitrotap bench e2e\n  \
    nitrotap bench e2e --mtu 1500 --streams 1 --connections 64 --gvproxy /opt/gvproxy --json e2e.json")]
pub(crate) struct E2eArgs {
    /// MTUs, in bytes
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1500,65520", value_parser = mtu())]
    pub(crate) mtu: Vec<u16>,

    /// Numbers of TCP connections of bulk transfers
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,8", value_parser = many())]
    pub(crate) streams: Vec<u32>,

    /// Numbers of connections of requests
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,64", value_parser = many())]
    pub(crate) connections: Vec<u32>,

    #[command(flatten)]
    pub(crate) peers: Peers,

    #[command(flatten)]
    pub(crate) cores: Cores,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// Requests per second over connections: direct, direct on the stream, TAP, TAP and reverse proxy
///
/// Closed loop: each connection sends its next request when the last is answered. For ours and, where they are found, the
/// stock pairs; the same axes for all. Notes tell what the reverse proxy costs and, from 64 connections on, how many times the
/// requests of the stand-in for the Go pair ours answers.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
    nitrotap bench figure --svg figure.svg --json figure.json\n  \
    nitrotap bench figure --connections 1,8,64,512 --no-peers")]
pub(crate) struct FigureArgs {
    /// Numbers of connections [default: 1,4,16,64,256,1024, or 1,64 with --quick]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = many())]
    connections: Vec<u32>,

    /// MTU, in bytes
    #[arg(long, value_name = "N", default_value_t = 1500, value_parser = mtu())]
    pub(crate) mtu: u16,

    #[command(flatten)]
    pub(crate) peers: Peers,

    #[command(flatten)]
    pub(crate) cores: Cores,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// Write the costs of this machine as the simulator reads them (nitrotap-sim --calibrate FILE)
///
/// Costs that a running system does not show, and those of programs that are not found, keep the values of the shipped
/// file, and a comment says so.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  nitrotap bench calibrate --out here.toml\n  nitrotap-sim figure --calibrate here.toml"
)]
pub(crate) struct CalibrateArgs {
    /// Where to write, or - for standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) out: PathBuf,

    #[command(flatten)]
    pub(crate) peers: Peers,

    #[command(flatten)]
    pub(crate) timing: Timing,
}

fn mtu() -> clap::builder::RangedI64ValueParser<u16> {
    use nitrotap_core::frame::{MAX_MTU, MIN_MTU};
    clap::value_parser!(u16).range(i64::from(MIN_MTU)..=i64::from(MAX_MTU))
}

fn many() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=4096)
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    crate::bench::run(args.bench)
}
