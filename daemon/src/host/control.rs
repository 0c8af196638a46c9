//! What the control side may ask of the data thread, and how.
//!
//! Owns: the sending half of the data thread's mailbox. Driven by: listeners, the REST interface, `nitrotap local`.
//! Bounds: [`MAX_WAITING`] requests; one more waits for room, so that a flood of connections on a listener is held back
//! by the listener's own backlog.

pub(crate) use nitrotap_core::drive::host::{ExposeError, Forward, LinkKind, Local, Mac, Stats, Who};

use super::engine::Kernel;
use crate::drive::mailbox::Mailbox;
use nitrotap_core::{
    drive::host,
    gateway::policy::{HostAddresses, Lesson},
};
use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Requests that may wait for the data thread.
const MAX_WAITING: usize = 1024;

/// An enclave's stream, once it carries nothing but frames.
pub(crate) type Attach = host::Attach<OwnedFd, oneshot::Sender<()>>;

/// A connection that joins a TCP connection to the guest (`/tunnel`, unix forwards).
pub(crate) type Tunnel = host::Tunnel<OwnedFd>;

/// One request to the data thread.
pub(crate) type Request = host::Request<Kernel>;

/// A request in the mailbox; its place is free once it is taken out.
pub(crate) struct Waiting {
    pub(crate) request: Request,
    _place: Option<OwnedSemaphorePermit>,
}

/// The control side's end. Clones share it.
#[derive(Clone)]
pub(crate) struct Handle {
    mailbox: Mailbox<Waiting>,
    places: Arc<Semaphore>,
}

/// The data thread is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gateway has stopped")]
pub(crate) struct Stopped;

impl Handle {
    pub(crate) fn new(mailbox: Mailbox<Waiting>) -> Self {
        Self { mailbox, places: Arc::new(Semaphore::new(MAX_WAITING)) }
    }

    /// Hands over a stream of frames.
    pub(crate) async fn attach(&self, attach: Attach) -> Result<(), Stopped> {
        self.send(Request::Attach(Box::new(attach))).await
    }

    /// Joins a connection to a guest's port.
    pub(crate) async fn tunnel(&self, tunnel: Tunnel) -> Result<(), Stopped> {
        self.send(Request::Tunnel(tunnel)).await
    }

    /// Opens a port; gives the address it listens on (port 0 becomes a real one; 0.0.0.0:0 for unix).
    pub(crate) async fn expose(&self, who: Who, forward: Forward) -> Result<Result<SocketAddr, ExposeError>, Stopped> {
        self.ask(|reply| Request::Expose(who, forward, reply)).await
    }

    /// Closes a port; connections that stand go on. False if there is no such forward.
    pub(crate) async fn unexpose(&self, who: Who, protocol: &'static str, name: String) -> Result<bool, Stopped> {
        self.ask(|reply| Request::Unexpose(who, protocol, name, reply)).await
    }

    /// All forwards, sorted by name, then protocol; for a guest, its own.
    pub(crate) async fn forwards(&self, who: Who) -> Result<Vec<Forward>, Stopped> {
        self.ask(|reply| Request::Forwards(who, reply)).await
    }

    /// Learned MAC addresses and the number of the link each is on.
    pub(crate) async fn cam(&self) -> Result<Vec<(Mac, u64)>, Stopped> {
        self.ask(Request::Cam).await
    }

    /// Addresses given out, with the gateway's and static ones.
    pub(crate) async fn leases(&self) -> Result<BTreeMap<Ipv4Addr, Mac>, Stopped> {
        self.ask(Request::Leases).await
    }

    /// All counters of the gateway.
    pub(crate) async fn stats(&self) -> Result<Stats, Stopped> {
        self.ask(Request::Stats).await
    }

    /// Returns once the data thread has begun another turn.
    pub(crate) async fn alive(&self) -> Result<(), Stopped> {
        self.ask(Request::Alive).await
    }

    /// What a DNS answer opens that a guest is about to see. Dropped if too much waits.
    pub(crate) fn learn(&self, tenant: u32, lesson: Lesson) {
        self.try_send(Request::Learn(tenant, lesson));
    }

    /// A DNS answer; dropped if too much waits, as a datagram would be.
    pub(crate) fn dns_answer(&self, client: u64, answer: Vec<u8>) {
        self.try_send(Request::DnsAnswer { client, answer });
    }

    /// Begins the capture's file anew, if there is one.
    pub(crate) fn reopen_capture(&self) {
        self.try_send(Request::ReopenCapture);
    }

    /// The host's own addresses, as they are now.
    pub(crate) async fn host_addresses(&self, own: HostAddresses) -> Result<(), Stopped> {
        self.send(Request::HostAddresses(own)).await
    }

    /// Where the gateway itself listens over TCP: no link that is attached later ever gets there.
    pub(crate) async fn control_sockets(&self, sockets: Vec<SocketAddr>) -> Result<(), Stopped> {
        self.send(Request::Control(sockets)).await
    }

    /// Ends the data thread.
    pub(crate) fn stop(&self) {
        self.mailbox.send(Waiting { request: Request::Stop, _place: None });
    }

    fn try_send(&self, request: Request) {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            self.mailbox.send(Waiting { request, _place: Some(place) });
        }
    }

    async fn send(&self, request: Request) -> Result<(), Stopped> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| Stopped)?;
        self.mailbox.send(Waiting { request, _place: Some(place) });
        Ok(())
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(request(reply)).await?;
        // The data thread drops its mailbox, and with it all replies, when it ends.
        answer.await.map_err(|_| Stopped)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}
