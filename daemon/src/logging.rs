//! Log output: human text on a terminal, one JSON object per line on request; always on standard error, because
//! standard output belongs to the supervised app.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Installs the process-wide subscriber. `NITROTAP_LOG` takes a `tracing` filter such as `debug` or `nitrotap=trace`.
pub(crate) fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_env("NITROTAP_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // A reader of our log that went away must not take the network with it: lines it cannot have are lost.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    match format {
        LogFormat::Text => builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
