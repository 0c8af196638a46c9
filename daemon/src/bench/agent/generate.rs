//! A guest made of frames: opens connections through a gateway to a server behind it, and uses them.
//!
//! Owns: the link and its flows, in one thread. Driven by: the link's readiness. Bounds: flows as on the command line.

use super::{
    dial::{dial, write_all},
    outcome::{Latency, Outcome, times},
    window::{Window, finish, say},
    wish,
};
use crate::{
    bench::frames::{Endpoint as Guest, FlowId, Pump, Said},
    clock::Clock,
    endpoint::Endpoint,
    errors::Error,
};
use nitrotap_core::time::Instant;
use std::{collections::BTreeMap, net::SocketAddrV4, process::ExitCode};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Where the gateway takes links
    #[arg(long)]
    to: Endpoint,
    /// What the connections lead to, as the guest sees it
    #[arg(long)]
    target: SocketAddrV4,
    #[arg(long, value_enum)]
    work: Work,
    #[arg(long, default_value_t = 1)]
    flows: usize,
    /// Bytes of a request, and of its answer
    #[arg(long, default_value_t = 100)]
    size: u64,
    #[arg(long, default_value_t = 1500)]
    mtu: u16,
    #[command(flatten)]
    window: Window,
}

/// What the connections do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Work {
    Push,
    Pull,
    /// Requests on connections that stay
    Echo,
    /// A connection for every request
    Connect,
}

const MAC: [u8; 6] = [0xba, 0xaa, 0xad, 0xc0, 0xff, 0xee];
const IP: [u8; 4] = [192, 168, 127, 2];
const GATEWAY: [u8; 4] = [192, 168, 127, 1];
/// Longest wait for the gateway's address, in nanoseconds.
const PATIENCE_NS: u64 = 5_000_000_000;
const ASK_EVERY_NS: u64 = 100_000_000;
/// A gateway that was silent for so long sends nothing any more; and the longest wait for that, both in nanoseconds.
const SILENCE_NS: u64 = 200_000_000;
const FAREWELL_NS: u64 = 2_000_000_000;

/// A flow in use.
struct Use {
    since: Instant,
    have: u64,
}

/// Counts since the start: bytes, operations, errors, frames.
type Totals = [u64; 4];

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let clock = Clock::start();
    let link = dial(&args.to)?;
    write_all(&link, nitrotap_core::link::CONNECT_REQUEST)?;
    let mut pump = Pump::new(link, &[])?;
    let mut guest = Guest::new(MAC, IP, false, args.mtu, std::process::id());
    // A stock gvproxy loses what it reads together with the request: the first question comes later, and again.
    let mut ask_at = clock.now().as_nanos() + ASK_EVERY_NS;
    while !guest.has_peer() {
        let now = clock.now();
        if now.as_nanos() >= ask_at {
            guest.look_for(GATEWAY);
            ask_at = now.as_nanos() + ASK_EVERY_NS;
        }
        if !pump.turn(&mut guest, now)? || now.as_nanos() > PATIENCE_NS {
            return Err(Error::runtime(format!(
                "the gateway at {} does not answer ARP for 192.168.127.1; is it one of gvproxy's kind?",
                args.to
            )));
        }
    }
    let mut run =
        Run { args, clock, guest, uses: BTreeMap::new(), times: times(), operations: 0, errors: 0, pulled: 0 };
    for _ in 0..args.flows {
        run.open()?;
    }
    let (begin, end) = args.window.bounds(clock.now());
    let mut before: Option<(Totals, Instant)> = None;
    loop {
        if !pump.turn(&mut run.guest, clock.now())? {
            return Err(Error::runtime("the gateway closed the link"));
        }
        for (id, said) in run.guest.said() {
            run.took(id, said)?;
        }
        let now = clock.now();
        match &before {
            None if now >= begin => {
                before = Some((run.totals(), now));
                run.times.reset();
                say("begin")?;
            }
            Some((before, began)) if now >= end => {
                say("stop")?;
                let after = run.totals();
                run.leave(&mut pump)?;
                let [bytes, operations, errors, frames] = std::array::from_fn(|i| after[i] - before[i]);
                finish(&Outcome {
                    seconds: now.since(*began).as_secs_f64(),
                    bytes,
                    calls: 0,
                    operations,
                    errors,
                    frames,
                    latency_us: Latency::of(&run.times),
                })?;
                return Ok(ExitCode::SUCCESS);
            }
            None | Some(_) => {}
        }
    }
}

struct Run<'a> {
    args: &'a Args,
    clock: Clock,
    guest: Guest,
    uses: BTreeMap<FlowId, Use>,
    times: super::outcome::Times,
    operations: u64,
    errors: u64,
    pulled: u64,
}

impl Run<'_> {
    fn totals(&self) -> Totals {
        let bytes = if self.args.work == Work::Pull { self.pulled } else { self.guest.acked() };
        [bytes, self.operations, self.errors, self.guest.frames()]
    }

    /// Ends all flows, and keeps the link until nothing comes any more: stock gvproxy 0.8.1 may crash when a link goes away
    /// that it is about to write to (`Switch.txBuf` uses the connection that it has just removed).
    fn leave(&mut self, pump: &mut Pump) -> Result<(), Error> {
        self.guest.reset();
        pump.flush(&mut self.guest)?;
        let start = self.clock.now().as_nanos();
        let (mut frames, mut heard) = (self.guest.frames(), start);
        loop {
            let now = self.clock.now();
            if !pump.turn(&mut self.guest, now)? || now.as_nanos() - start > FAREWELL_NS {
                return Ok(());
            }
            if self.guest.frames() != frames {
                (frames, heard) = (self.guest.frames(), now.as_nanos());
            } else if now.as_nanos() - heard > SILENCE_NS {
                return Ok(());
            }
        }
    }

    fn open(&mut self) -> Result<(), Error> {
        let wish = match self.args.work {
            Work::Push => wish::SINK,
            Work::Pull => wish::SOURCE,
            Work::Echo | Work::Connect => wish::ECHO,
        };
        let target = (self.args.target.ip().octets(), self.args.target.port());
        let id = self.guest.dial(target, wish).ok_or_else(|| Error::runtime("too many connections at once"))?;
        let first = match self.args.work {
            Work::Push => None,
            Work::Pull => Some(1),
            Work::Echo | Work::Connect => Some(1 + self.args.size),
        };
        self.guest.send(id, first);
        self.uses.insert(id, Use { since: self.clock.now(), have: 0 });
        Ok(())
    }

    fn took(&mut self, id: FlowId, said: Said) -> Result<(), Error> {
        match said {
            Said::Bytes { bytes, .. } => {
                self.pulled += bytes;
                let Some(flow) = self.uses.get_mut(&id) else { return Ok(()) };
                flow.have += bytes;
                if !matches!(self.args.work, Work::Echo | Work::Connect) || flow.have < self.args.size {
                    return Ok(());
                }
                let now = self.clock.now();
                let nanos = u64::try_from(now.since(flow.since).as_nanos()).unwrap_or(u64::MAX);
                self.times.saturating_record(nanos.max(1));
                self.operations += 1;
                (flow.have, flow.since) = (0, now);
                if self.args.work == Work::Echo {
                    self.guest.send(id, Some(self.args.size));
                } else {
                    self.guest.finish(id);
                }
                Ok(())
            }
            Said::Finished => {
                self.guest.finish(id);
                Ok(())
            }
            Said::Closed { broken } => {
                self.uses.remove(&id);
                if broken || self.args.work != Work::Connect {
                    self.errors += 1;
                }
                self.open()
            }
        }
    }
}
