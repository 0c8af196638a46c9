//! What ends the process: one clear line that says what failed, where, and what to do; and its exit code.

use crate::logging::{self, escape::Escape};
use std::{fmt::Write as _, process::ExitCode};

/// A failure that ends the process. The message names what failed and, where one exists, the remedy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The command line is at fault: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The world is at fault: exit code 1.
    #[error("{0}")]
    Runtime(String),
}

impl Error {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub(crate) fn runtime(message: impl Into<String>) -> Self {
        Self::Runtime(message.into())
    }
}

/// Prints `error` as one line on standard error and gives its exit code.
pub(crate) fn report(error: &Error) -> ExitCode {
    // If nobody reads it, the exit code has to do.
    let mut line = String::new();
    let _ = write!(Escape(&mut line), "nitrotap: {error}");
    logging::last_words(&format!("{line}\n"));
    ExitCode::from(match error {
        Error::Usage(_) => 2,
        Error::Runtime(_) => 1,
    })
}
