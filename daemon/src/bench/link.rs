//! `nitrotap bench link`: the stream alone.

use super::{
    cases::{Case, Load, measure, report},
    lab::Lab,
    options::ServeUrl,
    report::{Report, Unit},
    sides::Side,
    usage::Machine,
};
use crate::{cli::bench::LinkArgs, errors::Error};
use std::process::ExitCode;

/// Bytes per write: a frame of MTU 1500 with its length, and powers of two up to the largest that we use.
const SIZES: [u32; 5] = [1516, 4 << 10, 16 << 10, 32 << 10, 64 << 10];

/// The other side, until it is interrupted.
pub(crate) fn serve(url: &ServeUrl) -> Result<ExitCode, Error> {
    super::agent::serve_here(url)
}

pub(crate) fn run(args: &LinkArgs) -> Result<Report, Error> {
    let (settings, since) = (args.common.settings(), Machine::now());
    let lab = Lab::new()?;
    let unix = format!("unix://{}", lab.path("sink").display());
    let server =
        if args.stream.is_none() { Some(lab.server(Side::Host, &[&unix, "tcp://127.0.0.1:0"])?) } else { None };
    let (streams, app) = match (&args.stream, &server) {
        (Some(stream), _) => {
            let text = stream.to_string();
            let name = text.split_once(':').map_or("stream", |(scheme, _)| scheme).to_owned();
            (vec![(name, text)], None)
        }
        (None, Some(server)) => {
            let names = ["unix", "tcp"].map(str::to_owned).into_iter();
            (names.zip(server.addresses.iter().cloned()).collect(), Some(server.child.pid()))
        }
        (None, None) => (Vec::new(), None),
    };
    let sizes: &[u32] = if args.common.quick() { &[1516, 64 << 10] } else { &SIZES };
    let mut cases = Vec::new();
    for (name, to) in &streams {
        let mut case = |work: String, unit: Unit, load: Vec<String>| {
            cases.push(Case {
                subject: name.clone(),
                work,
                mtu: None,
                connections: 1,
                unit,
                load: Load::new(load),
                watch: app.map(|pid| ("app", pid)).into_iter().collect(),
                frames: None,
            });
        };
        let to = ["--to".to_owned(), to.clone()];
        for size in sizes {
            let args = [vec!["bulk".to_owned(), "--size".to_owned(), size.to_string()], to.to_vec()].concat();
            case(format!("writes of {size} B"), Unit::Gigabits, args);
        }
        for size in [1, 100] {
            let args = [vec!["ping".to_owned(), "--size".to_owned(), size.to_string()], to.to_vec()].concat();
            case(format!("ping-pong of {size} B"), Unit::Requests, args);
        }
    }
    let rows = measure(&lab, &cases, settings)?;
    let notes = vec!["sender and receiver share this machine's cores; `app` is the receiver".to_owned()];
    Ok(report("link", settings, rows, since, Vec::new(), notes))
}
