//! nitrotap's gateway on the host: the data thread as it ships ([`nitrotap_core::drive::host`]), in virtual time.
//!
//! ```text
//!   connect ── requests ──▶ Host ──▶ Gateway      one thread, core's: what is ready, then everything that it has made due
//!                            │
//!                          world                  modelled sockets, what calls cost, what invariants look at
//! ```
//! Published ports of UDP are not modelled, nor are links of messages.

mod connect;
pub(crate) mod datagrams;
mod epoll;
pub(crate) mod names;
mod socket;
mod verify;
mod world;

use crate::{
    check::{Audit, Invariant},
    cpu::Process,
    group::Group,
    gvproxy::{CONNECT_PORT, Exposed, Foul, GATEWAY, GATEWAY_MAC, HOST, Resolve},
    ledger::FrameLedger,
    mailbox::Orders,
    params::HostCosts,
    stream::{Addr, Net},
    time::Clock,
    trace::Trace,
};
use nitrotap_core::{
    drive::{
        self,
        host::{Host as Engine, Request},
    },
    gateway::{Config as GatewayConfig, Counters, Gateway, Pin, policy::PolicyConfig},
};
use std::{cell::Cell, io, rc::Rc};

/// A running gateway, as seen from outside; clones are handles.
#[derive(Clone)]
pub(crate) struct Native(Rc<Seen>);

struct Seen {
    counters: Cell<Counters>,
    /// Bytes of TCP buffers that may be promised in all.
    memory: usize,
    /// The most bytes that have waited for a link at the end of a turn.
    fullest: Cell<usize>,
    /// Turns that a timer began and in which nothing was done.
    idle_turns: Cell<u64>,
    /// Connections of the world that the driver holds.
    streams: Cell<usize>,
    links: Cell<usize>,
    orders: Orders<Order>,
}

/// What others ask of the thread.
enum Order {
    /// What the daemon's control side would ask.
    Request(Request<world::Outside>),
    /// Bytes for every link that are none of the gateway's.
    Fault(Vec<u8>, Foul),
}

/// What a gateway is started with.
pub(crate) struct Config {
    pub(crate) net: Net,
    pub(crate) clock: Clock,
    pub(crate) trace: Trace,
    pub(crate) audit: Audit,
    pub(crate) ledger: FrameLedger,
    pub(crate) costs: HostCosts,
    pub(crate) process: Process,
    pub(crate) mtu: u16,
    /// Bytes of the largest TCP buffer.
    pub(crate) largest_buffer: usize,
    /// Bytes per second and direction that one connection may move.
    pub(crate) flow_rate: Option<u64>,
    /// Calls on datagrams fail now and then as they do where something runs short.
    pub(crate) is_short: bool,
    pub(crate) seed: u64,
    pub(crate) exposed: Vec<Exposed>,
    pub(crate) resolve: Resolve,
    pub(crate) pins: Vec<Pin>,
}

/// What the driver works with.
pub(super) struct Host {
    pub(super) net: Net,
    pub(super) clock: Clock,
    pub(super) trace: Trace,
    pub(super) audit: Audit,
    pub(super) ledger: FrameLedger,
    pub(super) costs: HostCosts,
    pub(super) process: Process,
    pub(super) mtu: u16,
    pub(super) resolve: Resolve,
}

impl Native {
    /// Starts it in `group`.
    pub(crate) fn start(config: Config, group: &Group) -> io::Result<Self> {
        let gateway = Gateway::new(GatewayConfig {
            gateway: GATEWAY,
            gateway_mac: GATEWAY_MAC.0,
            host: HOST,
            mtu: config.mtu,
            largest_buffer: config.largest_buffer,
            policy: PolicyConfig { host_loopback: true, ..PolicyConfig::default() },
            seed: config.seed,
            pins: config.pins,
            ..GatewayConfig::default()
        })
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let seen = Rc::new(Seen {
            counters: Cell::default(),
            memory: gateway.config().memory,
            fullest: Cell::default(),
            idle_turns: Cell::default(),
            streams: Cell::default(),
            links: Cell::default(),
            orders: Orders::default(),
        });
        let host = Rc::new(Host {
            net: config.net,
            clock: config.clock,
            trace: config.trace,
            audit: config.audit,
            ledger: config.ledger,
            costs: config.costs,
            process: config.process,
            mtu: config.mtu,
            resolve: config.resolve,
        });
        let listener = host.net.listen(CONNECT_PORT)?;
        group.spawn(connect::serve(listener, host.clone(), seen.orders.clone(), group.clone()));
        group.spawn(names::serve(host.net.listen(names::STREAMS)?, host.clock, group.clone()));
        for exposed in config.exposed {
            connect::publish(exposed, &host, &seen.orders)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no port of TCP"))?;
        }
        let (clock, audit) = (host.clock, host.audit.clone());
        let outlook = datagrams::Outlook::new(config.seed, config.is_short, group.clone());
        let outside = world::Outside::new(host, seen.clone(), seen.orders.clone(), outlook);
        let engine =
            Engine::new(outside, gateway, drive::host::Config { flow_rate: config.flow_rate, max_forwards: 1024 });
        group.spawn(async move {
            let ended = engine.run().await;
            audit.fail(clock.now(), Invariant::Progress, format!("the gateway's thread has ended: {ended:?}"));
        });
        Ok(Self(seen))
    }

    /// Its counters and gauges, for invariants.
    pub(crate) fn counters(&self) -> Counters {
        self.0.counters.get()
    }

    /// Bytes of TCP buffers that it may promise in all.
    pub(crate) fn memory(&self) -> usize {
        self.0.memory
    }

    /// The most bytes that ever waited for a link.
    pub(crate) fn fullest(&self) -> usize {
        self.0.fullest.get()
    }

    /// How often a timer woke its thread for nothing.
    pub(crate) fn idle_turns(&self) -> u64 {
        self.0.idle_turns.get()
    }

    /// Connections of the world that it holds, those that are being dialled included.
    pub(crate) fn streams(&self) -> usize {
        self.0.streams.get()
    }

    /// Whether there is a frame stream.
    pub(crate) fn has_streams(&self) -> bool {
        self.0.links.get() > 0
    }

    /// Puts bytes on every frame stream, between two frames, that are none of the gateway's.
    pub(crate) fn inject(&self, bytes: Vec<u8>, foul: Foul) {
        self.0.orders.send(Order::Fault(bytes, foul));
    }

    /// Ends every frame stream inside a frame.
    pub(crate) fn cut_inside_frame(&self) {
        self.inject(vec![200, 0, 1, 2, 3], Foul::Cut);
    }
}

/// Where a link's stream leads, as the owner of what is behind it: an enclave, whatever port it dialled from.
const fn tenant(peer: Addr) -> u32 {
    peer.cid
}
