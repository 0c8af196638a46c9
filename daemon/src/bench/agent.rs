//! The processes that a bench is made of: servers, load generators, namespaces. Hidden subcommands of `nitrotap`, so that
//! each has a process, and processor time, of its own.
//!
//! They speak to the bench by lines on standard output: `ready PID ADDRESS...` once they serve; `begin`, `stop` and
//! `end JSON` around what they measured ([`outcome`]). All end with the process that started them.

mod bulk;
mod configure;
mod dial;
mod enter;
mod generate;
mod null_host;
pub(super) mod outcome;
mod ping;
mod pipe;
mod requests;
mod serve;
mod window;

use crate::errors::Error;
use rustix::process::{Signal, set_parent_process_death_signal};
use std::process::ExitCode;

/// Name of the hidden subcommand.
pub(crate) const AGENT: &str = "bench-agent";

/// What to be.
#[derive(clap::Args, Debug)]
pub(crate) struct AgentArgs {
    #[command(subcommand)]
    role: Role,
}

#[derive(clap::Subcommand, Debug)]
enum Role {
    /// Hold a user and a network namespace until standard input ends
    Hold,
    /// Run a command in the namespaces of a process
    Enter(enter::Args),
    /// Give a TAP device the address of an enclave
    Configure(configure::Args),
    /// Sink, source, echo and a tiny web server at once
    Serve(serve::Args),
    /// Push or pull bytes over streams
    Bulk(bulk::Args),
    /// Send a little, wait for as much back, again
    Ping(ping::Args),
    /// Closed-loop HTTP requests
    Requests(requests::Args),
    /// A gateway that acknowledges everything and does nothing
    NullHost(null_host::Args),
    /// A guest made of frames, without a TAP
    Generate(generate::Args),
    /// One end of a stream between two TAPs
    Pipe(pipe::Args),
}

/// The first byte of a connection to [`serve`] says what it wants; `G` of GET is a web server's.
mod wish {
    /// Read and forget.
    pub(super) const SINK: u8 = b'S';
    /// Write for ever.
    pub(super) const SOURCE: u8 = b'R';
    /// Write what was read.
    pub(super) const ECHO: u8 = b'E';
}

pub(super) use serve::bind;
pub(super) fn serve_here(address: &crate::bench::options::ServeUrl) -> Result<ExitCode, Error> {
    serve::run(&serve::Args { listen: vec![address.clone()] })
}

/// Runs one role.
pub(crate) fn run(args: AgentArgs) -> Result<ExitCode, Error> {
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    crate::limits::raise_nofile();
    match args.role {
        Role::Hold => enter::hold(),
        Role::Enter(args) => enter::run(args),
        Role::Configure(args) => configure::run(args),
        Role::Serve(args) => serve::run(&args),
        Role::Bulk(args) => bulk::run(&args),
        Role::Ping(args) => ping::run(&args),
        Role::Requests(args) => requests::run(&args),
        Role::NullHost(args) => null_host::run(&args),
        Role::Generate(args) => generate::run(&args),
        Role::Pipe(args) => pipe::run(&args),
    }
}
