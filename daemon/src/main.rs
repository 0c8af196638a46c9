//! The `nitrotap` binary: parse the command line, run one role, turn its outcome into an exit code.

#[macro_use]
mod logging;

mod app;
mod bench;
mod cli;
mod clock;
mod drive;
mod endpoint;
mod errors;
mod files;
mod host;
mod http;
mod init;
mod limits;
mod local;
mod metrics;
mod netlink;
mod procfs;
mod resolv;
mod sys;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: sys::alloc::Allocator = sys::alloc::Allocator;

fn main() -> ExitCode {
    init::run(|| {
        sys::alloc::save_address_space();
        let code = cli::Cli::from_args().and_then(cli::Cli::run).unwrap_or_else(|error| errors::report(&error));
        logging::flush();
        code
    })
}
