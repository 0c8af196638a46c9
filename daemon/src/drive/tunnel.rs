//! The tunnel as a whole: TAP, frame threads and link, started and stopped as one.

use super::{
    egress, ingress,
    link::{Conn, Driver},
    mailbox::Mailbox,
    offload::Offload,
    tap,
};
use crate::{clock::Clock, endpoint::Endpoint, errors::Error, metrics::Sources, netlink::Interface};
use nitrotap_core::{
    counters::Shared,
    frame::{PREFIX_LEN, frame_limit},
    link::{Config, Link, State, Status},
    tap::{Egress, EgressCounters, Ingress, IngressCounters},
};
use std::{sync::Arc, thread, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// How frames move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FrameLoop {
    /// As many frames per system call as are ready
    #[default]
    Batched,
    /// One frame per read and write, as gvforwarder and nitriding do it; for comparison only
    Single,
}

/// What a tunnel needs to know.
#[derive(Clone, Debug)]
pub(crate) struct TunnelConfig {
    pub(crate) interface: Interface,
    pub(crate) host: Endpoint,
    pub(crate) frame_loop: FrameLoop,
    pub(crate) offload: Offload,
    /// Nothing unfinished leaves, towards the gateway neither.
    pub(crate) strict: bool,
    /// How long a busy stream is left alone; zero for not at all.
    pub(crate) rx_pause: Duration,
    /// Seed of the reconnect jitter.
    pub(crate) seed: u64,
}

/// A running tunnel.
pub(crate) struct Tunnel {
    stop: watch::Sender<bool>,
    status: watch::Receiver<Status>,
    task: JoinHandle<Result<(), Error>>,
    egress: Mailbox<egress::Order>,
    ingress: Mailbox<ingress::Order>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// Bytes of a batch, which is closed when another full frame might exceed them. Large enough that a system call's cost is
/// spread over 20 full frames, small enough that the first of them does not wait long for the last.
const BATCH: usize = 32 << 10;

/// Events that may wait for the link's task: each thread sends one per stream and then waits for orders.
const EVENTS: usize = 16;

impl Tunnel {
    /// Makes the TAP and sets it up, then starts the threads and the link; an unreachable host is retried for ever.
    pub(crate) async fn start(config: TunnelConfig, sources: &Sources) -> Result<Self, Error> {
        let interface = &config.interface;
        let single = config.frame_loop == FrameLoop::Single;
        let wanted = if single { Offload::NONE } else { config.offload };
        let (tap, offload) = tap::open(&interface.name, wanted)?;
        let tap = Arc::new(tap);
        crate::netlink::configure(interface).await?;

        let cannot = |what: &str, error: &dyn std::fmt::Display| Error::runtime(format!("cannot {what}: {error}"));
        let egress = Mailbox::new().map_err(|e| cannot("make an event descriptor", &e))?;
        let ingress = Mailbox::new().map_err(|e| cannot("make an event descriptor", &e))?;
        let (events, inbox) = mpsc::channel(EVENTS);
        let sent: Arc<Shared<EgressCounters>> = Arc::default();
        let received: Arc<Shared<IngressCounters>> = Arc::default();

        let batch = if single { 0 } else { BATCH - PREFIX_LEN - frame_limit(interface.mtu).min(BATCH / 2) };
        let mut out = Egress::new(interface.mtu, batch);
        let mut inn = Ingress::new(interface.mtu, interface.mac, ingress::READ_SIZE);
        if let Some(offload) = offload {
            out = out.with_offload(config.strict);
            inn = inn.with_offload(offload.merge());
        }
        if !single {
            inn = inn.with_moderation(config.rx_pause);
        }

        let clock = Clock::start();
        let outbound = egress::Worker {
            tap: Arc::clone(&tap),
            machine: out,
            offload: offload.is_some(),
            max_write: config.host.max_write(),
            orders: egress.clone(),
            events: events.clone(),
            shared: Arc::clone(&sent),
            stream: None,
        };
        let inbound = ingress::Worker {
            tap,
            machine: inn,
            offload: offload.is_some(),
            single,
            clock,
            orders: ingress.clone(),
            events,
            shared: Arc::clone(&received),
            stream: None,
        };

        let link = Link::new(Config::new(interface.mac, interface.address, interface.gateway, config.seed));
        let shared = Arc::default();
        let (status, watch_status) = watch::channel(link.status());
        sources.add_counters(Arc::clone(&sent));
        sources.add_counters(Arc::clone(&received));
        sources.add_counters(Arc::clone(&shared));
        crate::procfs::add_tap_queue(sources, interface.name.clone());
        sources.add_status(status_line(&config, watch_status.clone(), clock));

        let (stop, stopped) = watch::channel(false);
        let driver = Driver {
            link,
            endpoint: config.host,
            clock,
            egress: egress.clone(),
            ingress: ingress.clone(),
            events: inbox,
            received,
            shared,
            status,
            conn: Conn::None,
            number: 0,
            tap: (interface.mac, interface.address.into()),
        };
        let threads = vec![
            spawn("egress", move || outbound.run()).map_err(|e| cannot("start a thread", &e))?,
            spawn("ingress", move || inbound.run()).map_err(|e| cannot("start a thread", &e))?,
        ];
        Ok(Self { stop, status: watch_status, task: tokio::spawn(driver.run(stopped)), egress, ingress, threads })
    }

    /// Resolves when the link is up.
    pub(crate) async fn up(&mut self) {
        if self.status.wait_for(|status| status.state == State::Up).await.is_err() {
            // The task is over; `failed` says why.
            std::future::pending().await
        }
    }

    /// Resolves when the tunnel cannot go on; never while it can.
    pub(crate) async fn failed(&mut self) -> Error {
        match (&mut self.task).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) => Error::runtime("the tunnel ended by itself"),
            Err(error) => Error::runtime(format!("the tunnel's task failed: {error}")),
        }
    }

    /// Closes the stream and the TAP.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        if !self.task.is_finished() {
            let _ = self.task.await;
        }
        self.egress.send(egress::Order::Stop);
        self.ingress.send(ingress::Order::Stop);
        for thread in self.threads {
            // A thread notices its order at once; joining makes sure that the TAP is gone when this returns.
            let _ = thread.join();
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(format!("nitrotap-{name}")).spawn(run)
}

fn status_line(
    config: &TunnelConfig,
    status: watch::Receiver<Status>,
    clock: Clock,
) -> impl Fn() -> String + Send + Sync + 'static {
    let Interface { name, mac, address, prefix, gateway, mtu, ipv6: _ } = config.interface.clone();
    let host = config.host.clone();
    move || {
        let status = Status { now: clock.now(), ..*status.borrow() };
        format!("{status}\nhost {host}\ntap {name} {mac} {address}/{prefix} via {gateway} mtu {mtu}\n")
    }
}
