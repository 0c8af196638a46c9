//! Bytes as fast as they go, over a number of streams, one thread each.

use super::{
    dial::{dial, read_some, write_all},
    outcome::times,
    window::{Counts, Window},
    wish,
};
use crate::{clock::Clock, endpoint::Endpoint, errors::Error};
use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[arg(long)]
    to: Endpoint,
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Pull instead of push
    #[arg(long)]
    pull: bool,
    /// Bytes per call
    #[arg(long, default_value_t = 128 << 10)]
    size: usize,
    #[command(flatten)]
    window: Window,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let counts: Vec<Counts> = (0..args.streams).map(|_| Counts::default()).collect();
    args.window.run(&Clock::start(), &counts, false, |_, counts, phase| {
        let stream = dial(&args.to)?;
        write_all(&stream, &[if args.pull { wish::SOURCE } else { wish::SINK }])?;
        let mut buffer = vec![0; args.size];
        while !phase.over() {
            let n = if args.pull {
                read_some(&stream, &mut buffer)?
            } else {
                rustix::io::write(&stream, &buffer)
                    .map_err(|e| Error::runtime(format!("the connection failed while writing: {e}")))?
            };
            Counts::add(&counts.bytes, n as u64);
            Counts::add(&counts.calls, 1);
        }
        Ok(times())
    })
}
