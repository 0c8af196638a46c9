//! What the control side may ask of the data thread, and how.
//!
//! Owns: the sending half of the data thread's mailbox. Driven by: listeners, the REST interface, `nitrotap local`.
//! Bounds: [`MAX_WAITING`] requests; one more waits for room, so that a flood of connections on a listener is held back
//! by the listener's own backlog.

use crate::drive::mailbox::Mailbox;
use nitrotap_core::{
    frame::Framing,
    gateway::{
        policy::{HostAddresses, Lesson},
        publishing::{Asker, NotForGuests},
    },
};
use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// Requests that may wait for the data thread.
const MAX_WAITING: usize = 1024;

/// How frames lie on a link's descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkKind {
    /// A byte stream with a length before each frame.
    Stream(Framing),
    /// A socket of type `SOCK_SEQPACKET`: one message is one frame (BESS).
    Messages,
}

/// An enclave's stream, once it carries nothing but frames.
#[derive(Debug)]
pub(crate) struct Attach {
    pub(crate) stream: OwnedFd,
    pub(crate) kind: LinkKind,
    /// Whose it is: the CID of a vsock peer, or a number per listener. Flows and addresses of different tenants are kept
    /// apart, even if their addresses are the same; a tenant may have several streams.
    pub(crate) tenant: u32,
    /// For logs, such as `vsock://16:1024`.
    pub(crate) peer: String,
    /// Bytes that were read behind the handshake; they are the first ones of the first frame.
    pub(crate) received: Vec<u8>,
    /// Told when the stream has ended and is closed.
    pub(crate) ended: Option<oneshot::Sender<()>>,
}

/// A connection that joins a TCP connection to the guest (`/tunnel`, unix forwards).
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) stream: OwnedFd,
    pub(crate) to: SocketAddr,
    /// Bytes that were already read from it.
    pub(crate) received: Vec<u8>,
}

/// Where a forward listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Local {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(PathBuf),
}

/// A port of the host that leads to a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    /// The text by which it is known: gvproxy lists and removes forwards by the very text that made them.
    pub(crate) name: String,
    pub(crate) local: Local,
    pub(crate) to: SocketAddr,
    /// Send a PROXY protocol header (version 2) ahead of each TCP connection's bytes.
    pub(crate) proxy_protocol: bool,
}

impl Local {
    /// The protocol in the REST interface's words.
    pub(crate) const fn protocol(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Udp(_) => "udp",
            Self::Unix(_) => "unix",
        }
    }
}

/// Who asks for a forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Whoever may do everything.
    Operator,
    /// A guest, about its own.
    Guest(Asker),
}

/// Why a port cannot be exposed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExposeError {
    #[error("proxy already running for {protocol} on {name}")]
    Exists { protocol: &'static str, name: String },
    #[error("cannot listen on {protocol} {name}: {error}")]
    Bind { protocol: &'static str, name: String, error: std::io::Error },
    #[error("there are {0} forwards already; unexpose one first")]
    TooMany(usize),
    #[error("{0} is not in the virtual network")]
    NotAGuest(SocketAddr),
    #[error(transparent)]
    NotForGuests(#[from] NotForGuests),
}

/// Numbers for `/stats`.
pub(crate) type Stats = Vec<(String, u64)>;

type Reply<T> = oneshot::Sender<T>;

/// One request to the data thread.
#[derive(Debug)]
pub(crate) enum Request {
    Attach(Box<Attach>),
    Tunnel(Tunnel),
    Expose(Who, Forward, Reply<Result<SocketAddr, ExposeError>>),
    /// Protocol and name; false if there is no such forward.
    Unexpose(Who, &'static str, String, Reply<bool>),
    Forwards(Who, Reply<Vec<Forward>>),
    Cam(Reply<Vec<(Mac, u64)>>),
    Leases(Reply<BTreeMap<Ipv4Addr, Mac>>),
    Stats(Reply<Stats>),
    /// Whether it still goes round.
    Alive(Reply<()>),
    /// What a DNS answer opens that a guest of this tenant is about to see.
    Learn(u32, Lesson),
    /// A DNS answer for a query that the data thread handed out.
    DnsAnswer {
        client: u64,
        answer: Vec<u8>,
    },
    /// Begin the capture's file anew.
    ReopenCapture,
    /// The host's own addresses, or the ways by which it reaches the world, have changed.
    HostAddresses(HostAddresses),
    /// Where the gateway itself listens over TCP.
    Control(Vec<SocketAddr>),
    Stop,
}

/// A request in the mailbox; its place is free once it is taken out.
#[derive(Debug)]
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

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Stopped> {
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
