//! Log output: human text on a terminal, one JSON object per line on request; always on standard error, because
//! standard output belongs to the supervised app.

use crate::errors::Error;
use std::{
    fs::{File, OpenOptions},
    io::IsTerminal,
    path::PathBuf,
    sync::Arc,
};
use tracing_subscriber::{EnvFilter, fmt::writer::BoxMakeWriter};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Where logs go and how much there is, if not as usual.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    /// Added to; made if it is not there.
    pub(crate) file: Option<PathBuf>,
    /// A filter for when `NITROTAP_LOG` is silent.
    pub(crate) level: Option<&'static str>,
}

/// Installs the process-wide subscriber. `NITROTAP_LOG` takes a `tracing` filter such as `debug` or `nitrotap=trace`;
/// `level` is one for when it is silent.
pub(crate) fn init(format: LogFormat, level: &str) {
    install(format, None, level);
}

/// Installs the process-wide subscriber with a target of its own.
pub(crate) fn init_with(format: LogFormat, target: Target) -> Result<(), Error> {
    let open = |path: &PathBuf| {
        OpenOptions::new().append(true).create(true).open(path).map_err(|e| {
            Error::runtime(format!(
                "cannot log into {}: {e}; choose a file that this user may write to",
                path.display()
            ))
        })
    };
    let file = target.file.as_ref().map(open).transpose()?;
    install(format, file, target.level.unwrap_or("info"));
    Ok(())
}

fn install(format: LogFormat, file: Option<File>, level: &str) {
    let filter = EnvFilter::try_from_env("NITROTAP_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let colours = file.is_none() && std::io::stderr().is_terminal();
    let writer = file.map_or_else(|| BoxMakeWriter::new(std::io::stderr), |file| BoxMakeWriter::new(Arc::new(file)));
    // A reader of our log that went away must not take the network with it: lines it cannot have are lost.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
    match format {
        LogFormat::Text => builder.with_target(false).with_ansi(colours).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
