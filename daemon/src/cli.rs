//! The command line: one subcommand per role, each in its own file.

pub(crate) mod bench;
mod enclave;
mod host;
mod local;
mod proxy;

use crate::{
    bench::agent::{AGENT, AgentArgs},
    errors::Error,
    init::ExitAction,
    local::namespace,
    logging::{self, LogFormat},
};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Networking for AWS Nitro Enclaves: a TAP device over vsock, gvproxy-compatible, with a reverse proxy.
#[derive(Parser)]
#[command(version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    role: Role,

    /// Log as human text or as one JSON object per line (always to standard error)
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// As the first process of a machine, such as an enclave: what to do at the end, whose exit code is in the last line. For any
    /// other process, those of containers included, it means nothing
    #[arg(long, global = true, value_enum, default_value_t = ExitAction::Poweroff, value_name = "ACTION")]
    exit_action: ExitAction,
}

#[derive(Subcommand)]
enum Role {
    Enclave(enclave::Args),
    Host(Box<host::Args>),
    Proxy(proxy::Args),
    Local(local::Args),
    Bench(bench::Args),
    #[command(name = AGENT, hide = true)]
    BenchAgent(AgentArgs),
    #[command(name = namespace::STAGE, hide = true)]
    LocalStage(namespace::StageArgs),
}

impl Cli {
    /// The command line as clap knows it; gvproxy's flags are understood by `host`.
    pub(crate) fn from_args() -> Result<Self, Error> {
        Ok(Self::parse_from(host::rewrite(std::env::args_os())?))
    }

    pub(crate) fn run(self) -> Result<ExitCode, Error> {
        match self.role {
            // The gateway may log elsewhere, and sees to it itself.
            Role::Host(_) => {}
            // Its gateway has one link, which tells its story at the other end.
            Role::Local(_) => logging::init(self.log_format, "info,nitrotap::host=warn")?,
            Role::Bench(_) | Role::BenchAgent(_) => logging::init_direct(self.log_format, "warn"),
            Role::Enclave(_) | Role::Proxy(_) => logging::init(self.log_format, "info")?,
            // Only a process with a single thread may enter a user namespace.
            Role::LocalStage(_) => logging::init_direct(self.log_format, "info"),
        }
        match self.role {
            Role::Host(args) => host::run(*args, self.log_format),
            Role::Enclave(args) => enclave::run(args),
            Role::Proxy(args) => proxy::run(&args),
            Role::Local(args) => local::run(args),
            Role::Bench(args) => bench::run(args),
            Role::BenchAgent(args) => crate::bench::agent::run(args),
            Role::LocalStage(args) => namespace::run_stage(args),
        }
    }
}
