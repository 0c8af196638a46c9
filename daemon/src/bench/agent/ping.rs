//! A small message and the same back, over and over: what a hop adds to a response time.

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
    connections: usize,
    /// Bytes each way
    #[arg(long, default_value_t = 100)]
    size: usize,
    #[command(flatten)]
    window: Window,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let counts: Vec<Counts> = (0..args.connections).map(|_| Counts::default()).collect();
    let clock = Clock::start();
    args.window.run(&clock, &counts, true, |_, counts, phase| {
        let stream = dial(&args.to)?;
        write_all(&stream, &[wish::ECHO])?;
        let (message, mut buffer, mut times) = (vec![0; args.size], vec![0; args.size], times());
        while !phase.over() {
            let sent = clock.now();
            write_all(&stream, &message)?;
            let mut have = 0;
            while have < args.size {
                have += read_some(&stream, &mut buffer[have..])?;
            }
            Counts::add(&counts.operations, 1);
            if phase.measuring() {
                let nanos = u64::try_from(clock.now().since(sent).as_nanos()).unwrap_or(u64::MAX);
                times.saturating_record(nanos.max(1));
            }
        }
        Ok(times)
    })
}
