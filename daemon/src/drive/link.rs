//! The link's task: the calls of [`core::drive::link`](nitrotap_core::drive::link), and its log lines.

use super::mailbox::Mailbox;
use crate::{
    clock::Clock,
    endpoint::{Endpoint, dial_failure},
    logging::may_log,
    procfs,
    sys::{errno, readiness},
};
use nitrotap_core::{
    counters::Shared,
    drive::{
        Errno, Event, egress, ingress,
        link::{News, Notice, World},
    },
    link::{DialFailure, LinkCounters, Status},
    tap::IngressCounters,
    time::Instant,
};
use std::{future::Future, io, net::SocketAddr, os::fd::OwnedFd, pin::Pin, sync::Arc};
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, watch},
};

/// What the task reaches.
pub(super) struct Outside {
    pub(super) endpoint: Endpoint,
    pub(super) clock: Clock,
    pub(super) egress: Mailbox<egress::Order<Arc<OwnedFd>>>,
    pub(super) ingress: Mailbox<ingress::Order<Arc<OwnedFd>>>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) received: Arc<Shared<IngressCounters>>,
    pub(super) shared: Arc<Shared<LinkCounters>>,
    pub(super) status: watch::Sender<Status>,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) dial: Option<Dial>,
}

/// A connection that is being made.
type Dial = Pin<Box<dyn Future<Output = io::Result<OwnedFd>> + Send>>;

impl World for Outside {
    type Stream = AsyncFd<OwnedFd>;
    type Shared = Arc<OwnedFd>;

    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn dial(&mut self) {
        let endpoint = self.endpoint.clone();
        self.dial = Some(Box::pin(async move { endpoint.dial().await }));
    }

    fn forget_dial(&mut self) {
        self.dial = None;
    }

    fn read(&mut self, stream: &AsyncFd<OwnedFd>, space: &mut [u8]) -> Result<usize, Errno> {
        rustix::io::read(stream, space).map_err(errno)
    }

    fn write(&mut self, stream: &AsyncFd<OwnedFd>, bytes: &[u8]) -> Result<usize, Errno> {
        rustix::io::write(stream, bytes).map_err(errno)
    }

    fn share(&mut self, stream: AsyncFd<OwnedFd>) -> Arc<OwnedFd> {
        Arc::new(stream.into_inner())
    }

    fn order_egress(&mut self, order: egress::Order<Arc<OwnedFd>>) {
        self.egress.send(order);
    }

    fn order_ingress(&mut self, order: ingress::Order<Arc<OwnedFd>>) {
        self.ingress.send(order);
    }

    fn received_for_us(&self) -> u64 {
        self.received.latest().for_us
    }

    fn open_connections(&mut self) -> Vec<(SocketAddr, SocketAddr)> {
        procfs::open_tcp()
    }

    fn publish(&mut self, counters: &LinkCounters, status: Status) {
        self.shared.publish(counters);
        self.status.send_replace(status);
    }

    fn tell(&mut self, notice: Notice) {
        let host = &self.endpoint;
        match notice {
            Notice::Up { dials, woken } => seldom!(INFO, 0_u32, "link up", %host, dials, woken),
            Notice::Failed { failure, attempt, loud: true, .. } => {
                // A host that takes us and lets us go again begins anew each time.
                if let Some(left_out) = may_log("no link", 0) {
                    tracing::warn!(%host, attempt, left_out, "no link: {failure}; trying again until there is one");
                }
            }
            Notice::Failed { failure, attempt, retry_in, loud: false } => {
                tracing::debug!(%host, attempt, ?retry_in, "no link: {failure}");
            }
        }
    }

    async fn wait(
        &mut self,
        stream: Option<&mut AsyncFd<OwnedFd>>,
        deadline: Option<Instant>,
    ) -> News<AsyncFd<OwnedFd>> {
        let deadline = deadline.map(|at| self.clock.deadline(at));
        tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => News::Stop,
            Some(event) = self.events.recv() => News::Event(event),
            result = dialed(&mut self.dial) => News::Dialed(register(&self.endpoint, result)),
            () = ready(stream) => News::Readable,
            () = sleep_until(deadline) => News::Timer,
        }
    }
}

fn register(host: &Endpoint, result: io::Result<OwnedFd>) -> Result<AsyncFd<OwnedFd>, DialFailure> {
    let stream = result.map_err(|e| (dial_failure(&e), e)).and_then(|fd| {
        readiness::register(fd).map_err(|e| (DialFailure::Other(e.raw_os_error().unwrap_or_default()), e))
    });
    stream.map_err(|(failure, error)| {
        tracing::debug!(%host, %error, "dial failed");
        failure
    })
}

/// What came of a dial; never resolves without one. Cancelling loses nothing.
async fn dialed(dial: &mut Option<Dial>) -> io::Result<OwnedFd> {
    match dial {
        Some(pending) => {
            let result = pending.await;
            *dial = None;
            result
        }
        None => std::future::pending().await,
    }
}

/// Resolves when the stream has something to say; never without one. Cancelling loses nothing.
async fn ready(stream: Option<&mut AsyncFd<OwnedFd>>) {
    if let Some(stream) = stream
        && let Ok(mut guard) = stream.readable().await
    {
        return guard.clear_ready();
    }
    std::future::pending().await
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
