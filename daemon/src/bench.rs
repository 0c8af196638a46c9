//! `nitrotap bench`: every component measured alone and together, and which of them saturates first.
//!
//! Owns: nothing but child processes (gateways, enclaves, proxies, servers, load generators), namespaces and a temporary
//! folder; all end with us. The parent only starts, watches and reads processor time: no byte that is measured passes
//! through it. Load generators are `nitrotap` itself under a hidden subcommand ([`agent`]), so that nothing else has to be
//! installed. Driven by: [`run`]. Drain: none; an interrupted bench leaves nothing running.
//! Bounds: one measurement at a time; repetitions, connections and streams as on the command line.

pub(crate) mod agent;
mod calibrate;
mod cases;
mod ceiling;
mod children;
mod e2e;
mod figure;
mod frames;
mod host;
mod lab;
mod link;
mod machine;
pub(crate) mod options;
mod picture;
mod progress;
mod proxy;
mod report;
pub(crate) mod sides;
mod stats;
mod table;
mod tap;
mod usage;
mod verdict;

use crate::{
    cli::bench::{Bench, Common},
    errors::Error,
};
use report::Report;
use std::{fs, io::Write, path::Path, process::ExitCode};

/// Measures what was asked for and prints it.
pub(crate) fn run(bench: Bench) -> Result<ExitCode, Error> {
    crate::limits::raise_nofile();
    let (common, report) = match bench {
        Bench::Link(args) => {
            if let Some(serve) = &args.serve {
                return link::serve(serve);
            }
            (args.common.clone(), link::run(&args)?)
        }
        Bench::Tap(args) => (args.common.clone(), tap::run(&args)?),
        Bench::Host(args) => (args.common.clone(), host::run(&args)?),
        Bench::Proxy(args) => (args.common.clone(), proxy::run(&args)?),
        Bench::E2e(args) => (args.common.clone(), e2e::run(&args)?),
        Bench::Figure(args) => (args.common.clone(), figure::run(&args)?),
        Bench::Calibrate(args) => return calibrate::run(&args),
    };
    give(&common, &report)?;
    Ok(ExitCode::SUCCESS)
}

fn give(common: &Common, report: &Report) -> Result<(), Error> {
    let json_on_stdout = common.json.as_deref().is_some_and(|path| path == Path::new("-"));
    if !json_on_stdout {
        print(&table::text(report))?;
    }
    if let Some(path) = &common.json {
        let mut text = serde_json::to_string_pretty(report)
            .map_err(|e| Error::runtime(format!("cannot write the report as JSON: {e}")))?;
        text.push('\n');
        if json_on_stdout { print(&text)? } else { write(path, &text)? }
    }
    if let Some(path) = &common.svg {
        write(path, &picture::svg(report).map_err(|e| Error::runtime(e.to_string()))?)?;
    }
    Ok(())
}

fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| Error::runtime(format!("cannot write to standard output: {e}")))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|e| Error::runtime(format!("cannot write {}: {e}", path.display())))
}
