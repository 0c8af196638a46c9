//! `nitrotap host`: the gateway that enclaves connect to.
//!
//! [`run`] is the control side: listeners, REST interface, name server, metrics, signals, on tokio. It asks the data thread
//! ([`engine`]) through [`control::Handle`] and never touches a frame.

pub(crate) mod address;
mod addresses;
pub(crate) mod config;
pub(crate) mod control;
mod dns;
mod engine;
#[cfg(test)]
mod fake;
mod gateway;
mod http_head;
mod listen;
mod pid_file;
pub(crate) mod pin;
pub(crate) mod ports;
pub(crate) mod services;
mod socket;
mod stream;
mod watchdog;

use crate::{
    clock::Clock,
    errors::Error,
    logging,
    metrics::{self, Sources},
    procfs,
};
use addresses::Watch;
use config::Config;
use control::{ExposeError, Handle, LinkKind, Stopped, Who};
use dns::DnsHandle;
use gateway::{Guest, Running};
use listen::{LinkListener, RawListener, TurnedAway};
use nitrotap_core::frame::Framing;
use pid_file::PidFile;
use sd_notify::NotifyState;
use services::Services;
use socket::Bound;
use std::{collections::BTreeMap, net::SocketAddr, os::fd::OwnedFd, process::ExitCode, sync::Arc, time::Duration};
use stream::HostStream;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    task::JoinSet,
};

/// Sockets that systemd passed.
#[derive(Debug, Default)]
pub(crate) struct Activated {
    pub(crate) links: Vec<Bound>,
    pub(crate) services: Vec<Bound>,
}

impl Activated {
    /// Sorts them by name: `services` for the REST interface, `link…` and what has no name of its own for links.
    pub(crate) fn sort(sockets: Vec<(OwnedFd, String)>) -> Result<Self, Error> {
        let mut sorted = Self::default();
        for (fd, name) in sockets {
            // Without FileDescriptorName= it is the unit's name; other service managers give none.
            let unnamed = name.is_empty() || name == "unknown" || name.ends_with(".socket");
            let list = match name.as_str() {
                "services" => &mut sorted.services,
                _ if unnamed || name.starts_with("link") => &mut sorted.links,
                _ => {
                    return Err(Error::usage(format!(
                        "systemd passes a socket named {name:?}; write FileDescriptorName=link or FileDescriptorName=services \
                         into its unit"
                    )));
                }
            };
            list.push(Bound::inherited(fd, &name).ok_or_else(|| {
                Error::usage(format!(
                    "systemd passes a socket named {name:?} that does not listen for streams; use ListenStream= and Accept=no"
                ))
            })?);
        }
        Ok(sorted)
    }
}

/// How long the data thread may take to end.
const END: Duration = Duration::from_secs(5);

/// Runs the gateway until SIGINT or SIGTERM, which are a success (gvproxy exits 1), or until the data thread fails.
pub(crate) async fn run(config: Config, activated: Activated) -> Result<ExitCode, Error> {
    let catch = |kind: SignalKind| {
        signal(kind).map_err(|e| Error::runtime(format!("cannot catch signal {}: {e}", kind.as_raw_value())))
    };
    let (mut term, mut int) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    let mut hangup = catch(SignalKind::hangup())?;
    let sources = Sources::default();
    procfs::add_process(&sources);
    let gateway = gateway::start(&config, &sources)?;
    let handle = gateway.handle.clone();
    let told = async {
        loop {
            tokio::select! {
                _ = term.recv() => return,
                _ = int.recv() => return,
                _ = hangup.recv() => {
                    logging::reopen();
                    handle.reopen_capture();
                    tracing::info!("SIGHUP: log and capture are opened anew");
                }
            }
        }
    };
    run_until(told, config, activated, gateway, sources).await?;
    Ok(ExitCode::SUCCESS)
}

async fn run_until(
    told: impl Future<Output = ()>,
    config: Config,
    activated: Activated,
    gateway: Running,
    sources: Sources,
) -> Result<(), Error> {
    let Running { handle, names, guests, mut ended } = gateway;

    let mut tasks = JoinSet::new();
    let outcome = {
        let serving = async {
            let _pid_file = serve(&mut tasks, &config, activated, &handle, &names, guests, sources).await?;
            tell_systemd(NotifyState::Ready);
            if let Some(limit) = sd_notify::watchdog_enabled() {
                tracing::info!(?limit, "the service manager watches the data thread");
                tasks.spawn(watchdog::run(handle.clone(), Clock::start(), limit, || {
                    // A service manager that takes nothing must keep nobody but its messenger.
                    tokio::task::spawn_blocking(|| tell_systemd(NotifyState::Watchdog));
                }));
            }
            std::future::pending::<Result<(), Error>>().await
        };
        tokio::select! {
            // A failure of the data thread tells more than what it makes fail.
            biased;
            end = &mut ended => Err(failure(end)),
            failed = serving => failed,
            () = told => Ok(()),
        }
    };
    tell_systemd(NotifyState::Stopping);
    // Nobody connects any more, and the socket files go.
    tasks.shutdown().await;
    handle.stop();
    outcome?;
    tracing::info!("stopping");
    match tokio::time::timeout(END, ended).await {
        Ok(Ok(end)) => end?,
        // It went without a word: it was told to go.
        Ok(Err(_)) => {}
        Err(_) => tracing::warn!(timeout = ?END, "the data thread did not end in time"),
    }
    Ok(())
}

fn failure(end: Result<Result<(), Error>, oneshot::error::RecvError>) -> Error {
    match end {
        Ok(Err(error)) => error,
        Ok(Ok(())) | Err(_) => Error::runtime("the data thread ended without being told; this is a bug"),
    }
}

/// A gateway inside another role, without signals, systemd and a REST interface. Ended on drop.
#[derive(Debug)]
pub(crate) struct Embedded {
    handle: Handle,
    ended: oneshot::Receiver<Result<(), Error>>,
    _tasks: JoinSet<()>,
}

impl Embedded {
    /// Starts it; when this returns, its listeners listen.
    pub(crate) async fn start(config: Config) -> Result<Self, Error> {
        let sources = Sources::default();
        let Running { handle, names, guests, ended } = gateway::start(&config, &sources)?;
        let mut embedded = Self { handle, ended, _tasks: JoinSet::new() };
        let Self { handle, _tasks: tasks, .. } = &mut embedded;
        serve(tasks, &config, Activated::default(), handle, &names, guests, sources).await?;
        Ok(embedded)
    }

    /// Resolves when the data thread has ended by itself.
    pub(crate) async fn failed(&mut self) -> Error {
        let Self { ended, .. } = self;
        match failure(ended.await) {
            Error::Usage(message) | Error::Runtime(message) => Error::runtime(message),
        }
    }

    pub(crate) const fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.handle.stop();
    }
}

/// Publishes, binds and starts what was asked for. After an error the caller ends the tasks.
async fn serve(
    tasks: &mut JoinSet<()>,
    config: &Config,
    activated: Activated,
    handle: &Handle,
    names: &DnsHandle,
    guests: mpsc::Receiver<Guest>,
    sources: Sources,
) -> Result<Option<PidFile>, Error> {
    publish(config, handle).await?;
    let listeners = &config.listeners;
    let services = || Services::new(handle.clone(), names.clone());
    let full = services();
    let bind = |url| Bound::listen(url, listeners.socket_mode);

    // All are bound before any accepts: no guest may ever be there before it is known where it must not get.
    // What systemd passes has no URL, and comes behind all that has one.
    let mut index = listeners.number()..;
    let links =
        listeners.links.iter().map(|url| Ok((bind(url)?, listeners.index_of(url)))).collect::<Result<Vec<_>, _>>()?;
    let links: Vec<_> = links.into_iter().chain(activated.links.into_iter().map(|bound| (bound, None))).collect();
    let qemu = listeners.qemu.iter().map(|url| (url, LinkKind::Stream(Framing::Qemu)));
    let raw = qemu.chain(listeners.bess.iter().map(|url| (url, LinkKind::Messages)));
    let raw = raw
        .map(|(url, kind)| Ok((bind(url)?, kind, listeners.index_of(url).unwrap_or_default())))
        .collect::<Result<Vec<_>, Error>>()?;
    let own = listeners.services.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
    let own: Vec<Bound> = own.into_iter().chain(activated.services).collect();
    let metrics = match config.metrics {
        Some(address) => Some(metrics::bind(address).await?),
        None => None,
    };
    let bound = links.iter().map(|(bound, _)| bound).chain(raw.iter().map(|(bound, ..)| bound)).chain(&own);
    let metrics_at = metrics.as_ref().and_then(|listener| listener.local_addr().ok());
    keep_guests_out(tasks, handle, bound.filter_map(Bound::tcp).chain(metrics_at).collect()).await?;

    let turned_away = TurnedAway::register(&sources);
    for (bound, own) in links {
        let index = own.or_else(|| index.next()).unwrap_or_default();
        tracing::info!(listener = bound.name(), "listening for links");
        let acceptor = bound.register().map_err(cannot_accept)?;
        let services = listeners.services_on_links.then(|| full.clone());
        let turned_away = turned_away.clone();
        tasks.spawn(LinkListener { acceptor, index, handle: handle.clone(), services, turned_away }.serve());
    }
    for (bound, kind, index) in raw {
        tracing::info!(listener = bound.name(), ?kind, "listening for one link at a time");
        let acceptor = bound.register().map_err(cannot_accept)?;
        let turned_away = turned_away.clone();
        tasks.spawn(RawListener { acceptor, index, handle: handle.clone(), kind, turned_away }.serve());
    }
    for bound in own {
        tracing::info!(listener = bound.name(), "serving the REST interface");
        let acceptor = bound.register().map_err(cannot_accept)?;
        tasks.spawn(serve_services(acceptor, full.clone()));
    }
    if listeners.guest_services {
        tasks.spawn(serve_guests(guests, services()));
    }
    if let Some(listener) = metrics {
        metrics::serve(listener, sources);
    }
    config.pid_file.as_deref().map(PidFile::write).transpose()
}

/// Tells the data thread which addresses are the host's and where the gateway itself listens, before there is any guest.
async fn keep_guests_out(tasks: &mut JoinSet<()>, handle: &Handle, control: Vec<SocketAddr>) -> Result<(), Error> {
    let stopped = |error: Stopped| Error::runtime(error.to_string());
    let (watch, own) = Watch::start()?;
    handle.host_addresses(own).await.map_err(stopped)?;
    handle.control_sockets(control).await.map_err(stopped)?;
    tasks.spawn(watch.run(handle.clone()));
    Ok(())
}

/// Opens the ports that are published from the start.
async fn publish(config: &Config, handle: &Handle) -> Result<(), Error> {
    for forward in &config.forwards {
        let what = format!("{} {} to {}", forward.local.protocol(), forward.name, forward.to);
        let stopped = |error: Stopped| Error::runtime(format!("cannot publish {what}: {error}"));
        match handle.expose(Who::Operator, forward.clone()).await.map_err(stopped)? {
            Ok(_) => {}
            Err(ExposeError::Bind { error, .. }) => {
                let remedy = crate::http::remedy(&error);
                return Err(Error::runtime(format!("cannot publish {what}: {error}; {remedy}")));
            }
            Err(error) => return Err(Error::runtime(format!("cannot publish {what}: {error}"))),
        }
    }
    Ok(())
}

async fn serve_services(acceptor: socket::Acceptor, services: Services) {
    let mut clients = JoinSet::new();
    loop {
        let place = services.place().await;
        while clients.try_join_next().is_some() {}
        let (fd, peer) = listen::accept(&acceptor).await;
        let services = services.clone();
        if let Ok(stream) = HostStream::new(fd) {
            clients.spawn(async move { services.serve(stream, peer.ip(), place).await });
        }
    }
}

/// Clients of one tenant at a time; others have room beside them.
const MAX_GUESTS_PER_TENANT: usize = 8;

async fn serve_guests(mut guests: mpsc::Receiver<Guest>, services: Services) {
    let mut clients = JoinSet::new();
    let mut seats: BTreeMap<u32, Arc<()>> = BTreeMap::new();
    while let Some(Guest { stream, asker }) = guests.recv().await {
        while clients.try_join_next().is_some() {}
        seats.retain(|_, seat| Arc::strong_count(seat) > 1);
        let seat = seats.entry(asker.tenant).or_default();
        if Arc::strong_count(seat) > MAX_GUESTS_PER_TENANT {
            tracing::debug!(guest = %asker.address, limit = MAX_GUESTS_PER_TENANT, "too many clients of one guest: one is closed");
            continue;
        }
        let seat = Arc::clone(seat);
        let place = services.place().await;
        let services = services.of_guest(asker);
        if let Ok(stream) = HostStream::new(stream) {
            clients.spawn(async move {
                services.serve(stream, Some(asker.address), place).await;
                drop(seat);
            });
        }
    }
}

fn cannot_accept(error: std::io::Error) -> Error {
    Error::runtime(format!("cannot accept connections: {error}"))
}

fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd does not listen");
    }
}

#[cfg(test)]
mod tests;
