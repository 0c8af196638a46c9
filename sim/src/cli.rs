//! The command line: one subcommand per question, each in its own file.
//!
//! Results go to standard output, progress and errors to standard error. Exit codes: 0 for success, 1 for a broken
//! invariant or another failure, 2 for a command line that is at fault.

mod figure;
mod fit;
mod replay;
mod run;
mod shrink;
mod soak;
mod stopwatch;
mod validate;

use clap::{Parser, Subcommand};
use nitrotap_sim::params::Params;
use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

/// Deterministic simulator of nitrotap: vsock, gvproxy, kernel and app in virtual time, from one seed.
#[derive(Parser)]
#[command(version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Figure(figure::Figure),
    Run(run::Run),
    Soak(soak::Soak),
    Replay(replay::Replay),
    Shrink(shrink::Shrink),
    Fit(fit::Fit),
    Validate(validate::Validate),
}

impl Cli {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Figure(args) => args.run(),
            Command::Run(args) => args.run(),
            Command::Soak(args) => args.run(),
            Command::Replay(args) => args.run(),
            Command::Shrink(args) => args.run(),
            Command::Fit(args) => args.run(),
            Command::Validate(args) => args.run(),
        }
    }
}

/// What ends the process; the message names what failed, and where.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is at fault: exit code 2.
    Usage(String),
    /// A run is: exit code 1.
    Runtime(String),
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Runtime(message)
    }
}

impl Failure {
    /// Prints it as one line on standard error and gives its exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let (message, code) = match self {
            Self::Usage(message) => (message, 2),
            Self::Runtime(message) => (message, 1),
        };
        // If nobody reads it, the exit code has to do.
        let _ = writeln!(io::stderr(), "nitrotap-sim: {message}");
        ExitCode::from(code)
    }
}

/// Which parameters; for every command that measures.
#[derive(clap::Args, Debug)]
pub(crate) struct ParamsFlags {
    /// What things cost: the shipped `lab` or `c5`, or a file like them
    #[arg(long, value_name = "lab|c5|FILE", default_value = "c5")]
    params: String,

    /// Take parameters that were measured and fitted, instead of the shipped ones
    #[arg(long, value_name = "FILE", conflicts_with = "params")]
    calibrate: Option<String>,
}

impl ParamsFlags {
    /// What they are called.
    pub(crate) fn name(&self) -> &str {
        self.calibrate.as_deref().unwrap_or(&self.params)
    }

    pub(crate) fn load(&self) -> Result<Params, Failure> {
        Params::load(self.name()).map_err(|error| Failure::Usage(error.to_string()))
    }
}

/// A seed in decimal, or in hexadecimal behind `0x`.
pub(crate) fn seed(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
}

/// Writes a result to standard output. A reader that has seen enough is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Runtime(format!("cannot write to standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes a result to a file.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|error| Failure::Runtime(format!("cannot write the file {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent_and_every_command_shows_an_example() {
        let mut cli = Cli::command();
        cli.build();
        cli.clone().debug_assert();
        for command in cli.get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let help = command.render_long_help().to_string();
            assert!(help.contains("nitrotap-sim "), "{help}");
            assert!(help.contains("Example"), "{help}");
        }
    }

    #[test]
    fn parameters_come_from_one_place() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["nitrotap-sim", "figure"], args].concat());
        assert!(parse(&["--calibrate", "mine.toml"]).is_ok());
        assert!(parse(&["--calibrate", "mine.toml", "--params", "lab"]).is_err());
    }

    #[test]
    fn seeds_are_decimal_or_hexadecimal() {
        assert_eq!((seed("17"), seed("0xff")), (Ok(17), Ok(255)));
        assert!(seed("ff").is_err() && seed("").is_err() && seed("0x").is_err());
    }
}
