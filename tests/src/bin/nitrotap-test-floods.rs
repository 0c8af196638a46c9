//! What a neighbour notices while other enclaves and strangers flood `nitrotap host`, flood by flood, beside an idle gateway.
//!
//! Needs root, for a network namespace. Ends with 1 if a bound was missed: the neighbour's p99 within five times that of an
//! idle gateway or 5 ms, its throughput at least 0.8 of its fair share. Figures mean something on an idle machine only.

use nitrotap_tests::{
    floods::{Figures, Flood, Plan, measure},
    usage,
};
use std::{
    env,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

const USAGE: &str = "\
usage: nitrotap-test-floods [OPTIONS] [FLOOD]...
  --ours PATH      the nitrotap to measure (the one that is built)
  --seconds N      seconds of pings, and of a download, each (3)
  --attackers N    enclaves that flood at the same time (1)
  --list           name the floods and end
  --json           one JSON object per line instead of a table";

struct Args {
    program: Option<PathBuf>,
    floods: Vec<Flood>,
    plan: Plan,
    list: bool,
    json: bool,
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match parse(&args).and_then(|args| run(&args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "nitrotap-test-floods: {error}");
            ExitCode::from(2)
        }
    }
}

fn parse(words: &[String]) -> io::Result<Args> {
    let mut args = Args { program: None, floods: Vec::new(), plan: Plan::default(), list: false, json: false };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| usage_error(word));
        match word.as_str() {
            "--ours" => args.program = Some(value()?.into()),
            "--seconds" => args.plan.time = Duration::from_secs_f64(number(value()?)?),
            "--attackers" => args.plan.attackers = number(value()?)?,
            "--list" => args.list = true,
            "--json" => args.json = true,
            name => {
                let found = Flood::ALL.into_iter().find(|flood| flood.name() == name);
                args.floods.push(found.ok_or_else(|| usage_error(name))?);
            }
        }
    }
    if args.floods.is_empty() {
        args.floods = Flood::ALL.into();
    }
    if !(1..=100).contains(&args.plan.attackers) {
        return Err(usage_error("attackers are from 1 to 100"));
    }
    Ok(args)
}

fn number<T: FromStr>(word: &str) -> io::Result<T> {
    word.parse().map_err(|_| usage_error(word))
}

fn usage_error(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{what}\n{USAGE}"))
}

/// True if all bounds were kept.
fn run(args: &Args) -> io::Result<bool> {
    let Args { program, floods, plan, list, json } = args;
    let mut out = io::stdout().lock();
    if *list {
        for flood in Flood::ALL {
            writeln!(out, "{}", flood.name())?;
        }
        return Ok(true);
    }
    usage::raise_descriptor_limit();
    if !json {
        writeln!(
            out,
            "{:>14} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>6} {:>10} {:>10} {:>8} {:>9} {:>8}  bounds",
            "flood",
            "idle p50",
            "idle p99",
            "p50",
            "p99",
            "idle MB/s",
            "MB/s",
            "lost",
            "name",
            "turn",
            "work",
            "sent",
            "+KiB",
        )?;
    }
    let mut kept = true;
    for flood in floods {
        let figures = measure(*flood, *plan, program.as_deref())
            .map_err(|missing| io::Error::other(format!("cannot be measured here: {missing:?}")))?;
        kept &= figures.missed().is_empty();
        writeln!(out, "{}", if *json { as_json(&figures) } else { as_row(&figures) })?;
        out.flush()?;
    }
    Ok(kept)
}

fn as_row(figures: &Figures) -> String {
    let Figures { flood, idle, flooded, sent, turn, work, grown, .. } = figures;
    let milliseconds = |time: Duration| format!("{:.3}ms", time.as_secs_f64() * 1e3);
    let name = flooded.name.map_or_else(|| "none".to_owned(), milliseconds);
    let missed = figures.missed();
    let verdict = if missed.is_empty() { "kept".to_owned() } else { format!("MISSED: {}", missed.join(", ")) };
    format!(
        "{:>14} {:>10} {:>10} {:>10} {:>10} {:>10.1} {:>10.1} {:>6} {name:>10} {:>10} {work:>8} {sent:>9} {:>8}  {verdict}",
        flood.name(),
        milliseconds(idle.p50),
        milliseconds(idle.p99),
        milliseconds(flooded.p50),
        milliseconds(flooded.p99),
        idle.throughput / 1e6,
        flooded.throughput / 1e6,
        flooded.lost,
        milliseconds(*turn),
        grown / 1024,
    )
}

fn as_json(figures: &Figures) -> String {
    let Figures { flood, attackers, idle, flooded, sent, turn, work, grown } = figures;
    let seconds = |time: Duration| time.as_secs_f64();
    let name = flooded.name.map_or_else(|| "null".to_owned(), |time| format!("{:.6}", seconds(time)));
    format!(
        r#"{{"flood":"{}","attackers":{attackers},"idle_p50_s":{:.6},"idle_p99_s":{:.6},"p50_s":{:.6},"p99_s":{:.6},"p99_bound_s":{:.6},"lost":{},"idle_bytes_per_s":{:.0},"bytes_per_s":{:.0},"bytes_per_s_bound":{:.0},"name_s":{name},"turn_s":{:.6},"turn_work":{work},"sent":{sent},"grown_bytes":{grown},"kept":{}}}"#,
        flood.name(),
        seconds(idle.p50),
        seconds(idle.p99),
        seconds(flooded.p50),
        seconds(flooded.p99),
        seconds(figures.latency_bound()),
        flooded.lost,
        idle.throughput,
        flooded.throughput,
        figures.throughput_bound(),
        seconds(*turn),
        figures.missed().is_empty(),
    )
}
