//! `nitrotap proxy`: the reverse proxy alone.

use crate::errors::Error;
use std::process::ExitCode;

/// Run the HTTP/1.1 reverse proxy alone
#[derive(clap::Args)]
#[command(after_help = "Example:\n  nitrotap proxy --listen 0.0.0.0:8080 --upstream http://127.0.0.1:3000")]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args) -> Result<ExitCode, Error> {
    Ok(ExitCode::SUCCESS)
}
