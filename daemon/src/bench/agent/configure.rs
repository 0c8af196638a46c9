//! The address of an enclave for a TAP device that another program has made.

use crate::{
    errors::Error,
    netlink::{Interface, Ipv6, configure},
};
use nitrotap_core::link::MacAddr;
use std::{net::Ipv4Addr, process::ExitCode};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[arg(long)]
    tap: String,
    #[arg(long)]
    mac: MacAddr,
    #[arg(long)]
    mtu: u16,
}

pub(super) fn run(args: Args) -> Result<ExitCode, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::runtime(format!("cannot start the async runtime: {e}")))?;
    runtime.block_on(configure(&Interface {
        name: args.tap,
        mac: args.mac,
        address: Ipv4Addr::new(192, 168, 127, 2),
        prefix: 24,
        gateway: Ipv4Addr::new(192, 168, 127, 1),
        mtu: args.mtu,
        ipv6: Ipv6::default(),
    }))?;
    super::window::say("ready")?;
    Ok(ExitCode::SUCCESS)
}
