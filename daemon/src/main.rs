//! The `nitrotap` binary: parse the command line, run one role, turn its outcome into an exit code.

mod cli;
mod errors;
mod logging;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    cli.run().unwrap_or_else(|error| errors::report(&error))
}
