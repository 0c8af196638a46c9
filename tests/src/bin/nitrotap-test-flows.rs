//! How much ten thousand connections cost a gateway, and each packet among them: gvproxy and `nitrotap host` side by side.
//!
//! Frames are made by hand and go straight to the gateway's socket; connections end at an echo server of this process on
//! the loopback. No privileges are needed.

use nitrotap_tests::{
    flows::measure::{Figures, Plan, measure},
    gateway::Kind,
    usage,
};
use std::{
    env,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
};

const USAGE: &str = "\
usage: nitrotap-test-flows [--stock PATH | --ours PATH]... [OPTIONS]
  --stock PATH   a gvproxy to measure      --ours PATH    a nitrotap to measure
  --flows N      connections (10000)       --few N        a few of them, to compare with (10)
  --active N     how many of them are active while the others are idle, before all are (1000)
  --packets N    echoes to count (100000)  --size N       bytes of each (64)
  --opening N    openings at once (8)      --at-once N    echoes at once (64)
  --json         one JSON object per line instead of a table";

struct Args {
    gateways: Vec<(Kind, PathBuf)>,
    plan: Plan,
    json: bool,
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match parse(&args).and_then(|args| run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "nitrotap-test-flows: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[String]) -> io::Result<Args> {
    let mut args = Args { gateways: Vec::new(), plan: Plan::default(), json: false };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| usage_error(word));
        let plan = &mut args.plan;
        match word.as_str() {
            "--stock" => args.gateways.push((Kind::Stock, value()?.into())),
            "--ours" => args.gateways.push((Kind::Ours, value()?.into())),
            "--flows" => plan.many = number(value()?)?,
            "--active" => plan.active = number(value()?)?,
            "--few" => plan.few = number(value()?)?,
            "--packets" => plan.packets = number(value()?)?,
            "--size" => plan.size = number(value()?)?,
            "--opening" => plan.opening = number(value()?)?,
            "--at-once" => plan.at_once = number(value()?)?,
            "--json" => args.json = true,
            other => return Err(usage_error(other)),
        }
    }
    if args.gateways.is_empty() {
        return Err(usage_error("no gateway"));
    }
    Ok(args)
}

fn number<T: FromStr>(word: &str) -> io::Result<T> {
    word.parse().map_err(|_| usage_error(word))
}

fn usage_error(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{what}\n{USAGE}"))
}

fn run(args: &Args) -> io::Result<()> {
    let Args { gateways, plan, json } = args;
    // One descriptor per connection in the gateway, and one here.
    let limit = usage::raise_descriptor_limit();
    if limit < plan.many as u64 + 100 {
        return Err(io::Error::other(format!("only {limit} descriptors are allowed: raise the limit (ulimit -n)")));
    }
    let mut out = io::stdout().lock();
    if !json {
        writeln!(
            out,
            "{:>14} {:>7} {:>7} {:>10} {:>8} {:>11} {:>9} {:>8} {:>10} {:>12}",
            "gateway",
            "flows",
            "active",
            "openings/s",
            "repeats",
            "memory MiB",
            "KiB/flow",
            "if used",
            "echoes/s",
            "us CPU/echo"
        )?;
    }
    for (kind, program) in gateways {
        let gateway =
            kind.options().program(program).start().map_err(|missing| io::Error::other(format!("{missing:?}")))?;
        for figures in measure(&gateway, *plan) {
            writeln!(out, "{}", if *json { as_json(*kind, figures, *plan) } else { as_row(*kind, figures) })?;
        }
    }
    Ok(())
}

fn as_row(kind: Kind, figures: Figures) -> String {
    let Figures { flows, active, openings, repeated, resident, resident_per_flow, used_per_flow, echoes, processor } =
        figures;
    let mebibytes = resident / (1 << 20);
    let (kibibytes, used) = (resident_per_flow / 1024.0, used_per_flow / 1024.0);
    let name = kind.name();
    format!(
        "{name:>14} {flows:>7} {active:>7} {openings:>10.0} {repeated:>8} {mebibytes:>11} {kibibytes:>9.1} {used:>8.1} {echoes:>10.0} {processor:>12.2}"
    )
}

fn as_json(kind: Kind, figures: Figures, plan: Plan) -> String {
    let Figures { flows, active, openings, repeated, resident, resident_per_flow, used_per_flow, echoes, processor } =
        figures;
    let (name, Plan { size, at_once, opening, .. }) = (kind.name(), plan);
    format!(
        r#"{{"gateway":"{name}","flows":{flows},"active":{active},"openings_per_s":{openings:.1},"repeats":{repeated},"resident_bytes":{resident},"resident_bytes_per_flow":{resident_per_flow:.1},"resident_bytes_per_used_flow":{used_per_flow:.1},"echoes_per_s":{echoes:.1},"cpu_us_per_echo":{processor:.3},"size":{size},"at_once":{at_once},"opening":{opening}}}"#
    )
}
