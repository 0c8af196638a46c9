//! The `nitrotap-sim` binary: parse the command line, run one command, turn its outcome into an exit code.

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::Cli::parse().run().map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}
