//! A gateway that costs next to nothing, so that what is measured is the TAP handler in front of it.
//!
//! It takes one link at a time (gvproxy's `/connect`), answers ARP for everyone, and is at the other end of every TCP
//! connection itself: a sink, a source or an echo, as its first byte says. Bounds: [`HEAD_MAX`] bytes before the frames.

use super::{window::say, wish};
use crate::{
    bench::{
        frames::{Endpoint, FlowId, Pump, Said},
        options::ServeUrl,
    },
    clock::Clock,
    errors::Error,
};
use rustix::{fd::OwnedFd, io::Errno};
use std::{collections::BTreeMap, process::ExitCode};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[arg(long)]
    listen: ServeUrl,
    #[arg(long, default_value_t = 1500)]
    mtu: u16,
}

const MAC: [u8; 6] = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd];
const IP: [u8; 4] = [192, 168, 127, 1];
const HEAD_MAX: usize = 4096;

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let failed = |e: Errno| Error::runtime(format!("cannot take a link: {e}"));
    let (listener, name) = super::bind(&args.listen)?;
    rustix::io::ioctl_fionbio(&listener, false).map_err(failed)?;
    say(&format!("ready {} {name}", std::process::id()))?;
    let clock = Clock::start();
    loop {
        let link = rustix::net::accept(&listener).map_err(failed)?;
        // Whoever only looks whether we listen is no link.
        let Some(rest) = head(&link) else { continue };
        let mut pump = Pump::new(link, &rest)?;
        let mut endpoint = Endpoint::new(MAC, IP, true, args.mtu, 0);
        let mut seen = BTreeMap::new();
        while pump.turn(&mut endpoint, clock.now())? {
            for (id, said) in endpoint.said() {
                serve(&mut endpoint, &mut seen, id, said);
            }
        }
    }
}

fn serve(endpoint: &mut Endpoint, seen: &mut BTreeMap<FlowId, u64>, id: FlowId, said: Said) {
    match said {
        Said::Bytes { wish, bytes } => {
            let before = seen.entry(id).or_default();
            let opening = *before == 0;
            *before += bytes;
            match wish {
                wish::SOURCE if opening => endpoint.send(id, None),
                wish::ECHO => endpoint.send(id, Some(bytes - u64::from(opening))),
                _ => {}
            }
        }
        Said::Finished => endpoint.finish(id),
        Said::Closed { .. } => _ = seen.remove(&id),
    }
}

/// Reads the request for a link; what was read behind it. `None` if there is none.
fn head(link: &OwnedFd) -> Option<Vec<u8>> {
    let mut have = Vec::new();
    let mut buffer = [0; HEAD_MAX];
    loop {
        let n = rustix::io::read(link, &mut buffer).ok().filter(|n| *n > 0)?;
        have.extend_from_slice(&buffer[..n]);
        if let Some(at) = have.windows(4).position(|four| four == b"\r\n\r\n") {
            return Some(have.split_off(at + 4));
        }
        if have.len() > HEAD_MAX {
            return None;
        }
    }
}
