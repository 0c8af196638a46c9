//! `nitrotap host`: the gateway that enclaves connect to.
//!
//! [`run`] is the control side: listeners, REST interface, metrics, signals, on tokio. It asks the data thread through
//! [`control::Handle`] and never touches a frame.

pub(crate) mod address;
pub(crate) mod config;
pub(crate) mod control;
mod dns;
mod engine;
#[cfg(test)]
mod fake;
mod http_head;
mod listen;
mod pid_file;
pub(crate) mod services;
mod socket;
mod start;
mod stream;

pub(crate) use start::start;

use crate::{
    errors::Error,
    metrics::{self, Sources},
    procfs,
};
use config::Config;
use control::{ExposeError, Handle, LinkKind, Stopped};
use listen::{LinkListener, RawListener};
use nitrotap_core::frame::Framing;
use pid_file::PidFile;
use sd_notify::NotifyState;
use services::{Scope, Services, Zones};
use socket::Bound;
use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::OwnedFd,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use stream::HostStream;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    task::JoinSet,
};

/// A running data thread, as the control side sees it.
pub(crate) struct Engine {
    pub(crate) handle: Handle,
    /// The zones of its name server.
    pub(crate) zones: Arc<dyn Zones>,
    /// What guests open at port 80 of the gateway, non-blocking, and who they are; nothing ever unless
    /// `guest_services`.
    pub(crate) guests: mpsc::Receiver<(OwnedFd, Ipv4Addr)>,
    /// Told when the thread has ended: without an error only after [`Handle::stop`].
    pub(crate) ended: oneshot::Receiver<Result<(), Error>>,
}

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
///
/// `start` starts the data thread and adds its counters to the sources.
pub(crate) async fn run(
    config: Config,
    activated: Activated,
    start: impl FnOnce(&Config, &Sources) -> Result<Engine, Error>,
) -> Result<ExitCode, Error> {
    let catch = |kind: SignalKind| {
        signal(kind).map_err(|e| Error::runtime(format!("cannot catch signal {}: {e}", kind.as_raw_value())))
    };
    let (mut term, mut int) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    let told = async {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    };
    run_until(told, config, activated, start).await?;
    Ok(ExitCode::SUCCESS)
}

async fn run_until(
    told: impl Future<Output = ()>,
    config: Config,
    activated: Activated,
    start: impl FnOnce(&Config, &Sources) -> Result<Engine, Error>,
) -> Result<(), Error> {
    let sources = Sources::default();
    procfs::add_process(&sources);
    let Engine { handle, zones, guests, mut ended } = start(&config, &sources)?;

    let mut tasks = JoinSet::new();
    let outcome = {
        let serving = async {
            let _pid_file = serve(&mut tasks, &config, activated, &handle, &zones, guests, sources).await?;
            tell_systemd(NotifyState::Ready);
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

/// Publishes, binds and starts what was asked for. After an error the caller ends the tasks.
async fn serve(
    tasks: &mut JoinSet<()>,
    config: &Config,
    activated: Activated,
    handle: &Handle,
    zones: &Arc<dyn Zones>,
    guests: mpsc::Receiver<(OwnedFd, Ipv4Addr)>,
    sources: Sources,
) -> Result<Option<PidFile>, Error> {
    publish(config, handle).await?;
    let listeners = &config.listeners;
    let services = |scope| Services::new(handle.clone(), Arc::clone(zones), scope);
    let full = services(Scope::All);
    let bind = |url| Bound::listen(url, listeners.socket_mode);
    let mut index = 0..;
    let mut next = || index.next().unwrap_or_default();

    let links = listeners.links.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
    for bound in links.into_iter().chain(activated.links) {
        tracing::info!(listener = bound.name(), "listening for links");
        let acceptor = bound.register().map_err(cannot_accept)?;
        let services = listeners.services_on_links.then(|| full.clone());
        tasks.spawn(LinkListener { acceptor, index: next(), handle: handle.clone(), services }.serve());
    }
    let qemu = listeners.qemu.iter().map(|url| (url, LinkKind::Stream(Framing::Qemu)));
    for (url, kind) in qemu.chain(listeners.bess.iter().map(|url| (url, LinkKind::Messages))) {
        let bound = bind(url)?;
        tracing::info!(listener = bound.name(), ?kind, "listening for one link at a time");
        let acceptor = bound.register().map_err(cannot_accept)?;
        tasks.spawn(RawListener { acceptor, index: next(), handle: handle.clone(), kind }.serve());
    }
    let own = listeners.services.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
    for bound in own.into_iter().chain(activated.services) {
        tracing::info!(listener = bound.name(), "serving the REST interface");
        let acceptor = bound.register().map_err(cannot_accept)?;
        tasks.spawn(serve_services(acceptor, full.clone()));
    }
    if listeners.guest_services {
        tasks.spawn(serve_guests(guests, services(Scope::Guest)));
    }
    if let Some(address) = config.metrics {
        metrics::serve(address, sources).await?;
    }
    config.pid_file.as_deref().map(PidFile::write).transpose()
}

/// Opens the ports that are published from the start.
async fn publish(config: &Config, handle: &Handle) -> Result<(), Error> {
    for forward in &config.forwards {
        let what = format!("{} {} to {}", forward.local.protocol(), forward.name, forward.to);
        let stopped = |error: Stopped| Error::runtime(format!("cannot publish {what}: {error}"));
        match handle.expose(forward.clone()).await.map_err(stopped)? {
            Ok(address) => tracing::info!(%address, to = %forward.to, "published"),
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
        services.room().await;
        while clients.try_join_next().is_some() {}
        let (fd, peer) = listen::accept(&acceptor).await;
        let services = services.clone();
        if let Ok(stream) = HostStream::new(fd) {
            clients.spawn(async move { services.serve(stream, peer.ip()).await });
        }
    }
}

async fn serve_guests(mut guests: mpsc::Receiver<(OwnedFd, Ipv4Addr)>, services: Services) {
    let mut clients = JoinSet::new();
    while let Some((fd, guest)) = guests.recv().await {
        services.room().await;
        while clients.try_join_next().is_some() {}
        let services = services.clone();
        if let Ok(stream) = HostStream::new(fd) {
            clients.spawn(async move { services.serve(stream, Some(IpAddr::V4(guest))).await });
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
