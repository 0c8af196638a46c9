//! The tunnel as a whole: TAP, frame threads and link, started and stopped as one.

use super::{egress, ingress, link, mailbox::Mailbox, offload::Offload, tap};
use crate::{clock::Clock, endpoint::Endpoint, errors::Error, metrics::Sources, netlink::Interface};
use nitrotap_core::{
    counters::Shared,
    drive,
    link::{Config, Link, State, Status},
    tap::{Egress, EgressCounters, Ingress, IngressCounters},
};
use std::{os::fd::OwnedFd, sync::Arc, thread, time::Duration};
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
    egress: Mailbox<drive::egress::Order<Arc<OwnedFd>>>,
    ingress: Mailbox<drive::ingress::Order<Arc<OwnedFd>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

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

        let batch = if single { 0 } else { drive::egress::batch(interface.mtu) };
        let mut out = Egress::new(interface.mtu, batch);
        let mut inn = Ingress::new(interface.mtu, interface.mac, drive::ingress::READ_SIZE);
        if let Some(offload) = offload {
            out = out.with_offload(config.strict);
            inn = inn.with_offload(offload.merge());
        }
        if !single {
            inn = inn.with_moderation(config.rx_pause);
        }

        let clock = Clock::start();
        let outbound = egress::Outside {
            tap: Arc::clone(&tap),
            orders: egress.clone(),
            events: events.clone(),
            shared: Arc::clone(&sent),
        };
        let outbound = drive::egress::Loop::new(outbound, out, offload.is_some(), config.host.max_write());
        let inbound = ingress::Outside { tap, clock, orders: ingress.clone(), events, shared: Arc::clone(&received) };
        let inbound = drive::ingress::Loop::new(inbound, inn, offload.is_some(), single);

        let link = Link::new(Config::new(interface.mac, interface.address, interface.gateway, config.seed));
        let shared = Arc::default();
        let (status, watch_status) = watch::channel(link.status());
        sources.add_counters(Arc::clone(&sent));
        sources.add_counters(Arc::clone(&received));
        sources.add_counters(Arc::clone(&shared));
        crate::procfs::add_tap_queue(sources, interface.name.clone());
        sources.add_status(status_line(&config, watch_status.clone(), clock));

        let (stop, stopped) = watch::channel(false);
        let outside = link::Outside {
            endpoint: config.host,
            clock,
            egress: egress.clone(),
            ingress: ingress.clone(),
            events: inbox,
            received,
            shared,
            status,
            stop: stopped,
            dial: None,
        };
        let link = drive::link::Loop::new(outside, link, (interface.mac, interface.address.into()));
        let threads = vec![
            spawn("egress", move || drive::block(outbound.run())).map_err(|e| cannot("start a thread", &e))?,
            spawn("ingress", move || {
                ingress::sharpen_timers();
                drive::block(inbound.run());
            })
            .map_err(|e| cannot("start a thread", &e))?,
        ];
        let task = async move {
            link.run().await.map_err(|errno| {
                Error::runtime(format!("the TAP device is gone: {errno}; start again to make a new one"))
            })
        };
        Ok(Self { stop, status: watch_status, task: tokio::spawn(task), egress, ingress, threads })
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
        self.egress.send(drive::egress::Order::Stop);
        self.ingress.send(drive::ingress::Order::Stop);
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
