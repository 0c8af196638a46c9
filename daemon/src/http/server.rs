//! The proxy as a whole: start, counters, drain.

use super::{
    listen::{ListenAddr, Listener},
    worker::{Entrance, Phase, Published, Worker},
};
use crate::{clock::Clock, errors::Error, metrics::Sources};
use nitrotap_core::counters::{CounterSet, Desc, Shared};
use nitrotap_proxy::{Config, UpstreamUrl};
use std::{io, num::NonZeroUsize, sync::Arc, thread, time::Duration};
use tokio::sync::{mpsc, watch};

/// What to serve, and how.
#[derive(Clone, Debug)]
pub(crate) struct ProxyOptions {
    pub(crate) listen: Vec<ListenAddr>,
    pub(crate) upstream: UpstreamUrl,
    pub(crate) workers: NonZeroUsize,
    /// Limits of each worker.
    pub(crate) config: Config,
    /// Whether every connection must begin with a PROXY protocol header.
    pub(crate) accept_proxy_protocol: bool,
}

/// A running reverse proxy. Dropping it stops it at once; [`Self::drain`] stops it gently.
#[derive(Debug)]
pub(crate) struct ProxyServer {
    upstream: UpstreamUrl,
    addresses: Vec<ListenAddr>,
    phase: watch::Sender<Phase>,
    ended: mpsc::Receiver<()>,
    published: Arc<[Arc<Published>]>,
}

impl ProxyServer {
    /// Binds every listener and starts the workers. Needs a tokio runtime around it for vsock listeners, and uses
    /// it no further.
    pub(crate) fn start(options: &ProxyOptions) -> Result<Self, Error> {
        let mut listeners =
            options.listen.iter().map(|address| Listener::bind(*address)).collect::<Result<Vec<_>, _>>()?;
        let addresses = listeners.iter().map(Listener::address).collect::<Vec<_>>();
        let clock = Clock::start();
        let (phase, phase_seen) = watch::channel(Phase::Run);
        // Nothing is ever sent: the channel closes when the last worker has ended.
        let (alive, ended) = mpsc::channel(1);
        let (entrances, exits): (Vec<_>, Vec<_>) = (0..options.workers.get()).map(|_| Entrance::new()).unzip();
        let published: Arc<[Arc<Published>]> = exits.iter().map(|_| Arc::default()).collect();
        let no_worker = |error| Error::runtime(format!("cannot start a worker of the proxy: {error}"));
        for (index, clients) in exits.into_iter().enumerate() {
            let worker = Worker {
                options: options.clone(),
                clock,
                // The first worker accepts for all.
                listeners: std::mem::take(&mut listeners),
                entrances: if index == 0 { entrances.clone() } else { Vec::new() },
                clients,
                phase: phase_seen.clone(),
                published: published[index].clone(),
            };
            let (ready, begun) = std::sync::mpsc::sync_channel(1);
            let alive = alive.clone();
            thread::Builder::new()
                .name(format!("proxy-{index}"))
                .spawn(move || {
                    worker.run(&ready);
                    drop(alive);
                })
                .map_err(no_worker)?;
            begun.recv().unwrap_or_else(|gone| Err(io::Error::other(gone))).map_err(no_worker)?;
        }
        for address in &addresses {
            tracing::info!(%address, upstream = %options.upstream, workers = options.workers, "reverse proxy listening");
        }
        Ok(Self { upstream: options.upstream.clone(), addresses, phase, ended, published })
    }

    /// Registers counters and a status with the metrics endpoint.
    pub(crate) fn register(&self, sources: &Sources) {
        let published = self.published.clone();
        sources.add(move |tell| {
            sum(published.iter().map(|p| &p.proxy))
                .chain(sum(published.iter().map(|p| &p.pool)))
                .chain(sum(published.iter().map(|p| &p.headers)))
                .for_each(|(d, v)| tell(d, v));
        });
        let (published, upstream, addresses) = (self.published.clone(), self.upstream.clone(), self.addresses.clone());
        sources.add_status(move || status(&published, &upstream, &addresses));
    }

    /// Stops accepting, lets requests in flight finish for `grace`, then stops. Gives the connections cut short.
    pub(crate) async fn drain(mut self, grace: Duration) -> u64 {
        self.phase.send_replace(Phase::Drain);
        if tokio::time::timeout(grace, self.ended.recv()).await.is_ok() {
            return 0;
        }
        self.phase.send_replace(Phase::Stop);
        self.ended.recv().await;
        sum(self.published.iter().map(|p| &p.proxy))
            .filter(|(desc, _)| matches!(desc.name, "nitrotap_proxy_clients" | "nitrotap_proxy_tunnels"))
            .map(|(_, open)| open)
            .sum()
    }
}

impl Drop for ProxyServer {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Stop);
    }
}

/// The counters of all workers as if they were one.
fn sum<'a, C: CounterSet + 'a>(workers: impl Iterator<Item = &'a Shared<C>>) -> impl Iterator<Item = (Desc, u64)> {
    let mut total = vec![0; C::DESCS.len()];
    for worker in workers {
        for (total, (_, value)) in total.iter_mut().zip(worker.read()) {
            *total += value;
        }
    }
    C::DESCS.iter().copied().zip(total)
}

fn status(published: &[Arc<Published>], upstream: &UpstreamUrl, addresses: &[ListenAddr]) -> String {
    let values: Vec<(Desc, u64)> =
        sum(published.iter().map(|p| &p.proxy)).chain(sum(published.iter().map(|p| &p.pool))).collect();
    let all = |name: &str| values.iter().filter(|(d, _)| d.name == name).map(|(_, v)| v).sum::<u64>();
    let one = |name: &str, label: &str| {
        values
            .iter()
            .filter(|(d, _)| d.name == name && d.labels.iter().any(|l| l.1 == label))
            .map(|(_, v)| v)
            .sum::<u64>()
    };
    let connections = |state| one("nitrotap_pool_connections", state);
    let listening = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    format!(
        "proxy: {listening} to {upstream}, {} workers\n\
         \x20 clients: {} open, {} accepted, {} turned away; {} tunnels\n\
         \x20 requests: {} in all, {} answered by the proxy itself, {} retried, {} left by their clients\n\
         \x20 upstream: {} idle, {} active, {} being dialled; {} requests waiting; {} dials, {} reuses, {} failed dials\n",
        published.len(),
        all("nitrotap_proxy_clients"),
        all("nitrotap_proxy_clients_accepted"),
        all("nitrotap_proxy_clients_shed"),
        all("nitrotap_proxy_tunnels"),
        all("nitrotap_proxy_requests"),
        all("nitrotap_proxy_errors"),
        all("nitrotap_proxy_retries"),
        one("nitrotap_proxy_aborts", "client"),
        connections("idle"),
        connections("active"),
        connections("dialing"),
        all("nitrotap_pool_waiting"),
        all("nitrotap_pool_dials"),
        all("nitrotap_pool_reuses"),
        all("nitrotap_pool_dial_failures"),
    )
}

#[cfg(test)]
mod tests;
