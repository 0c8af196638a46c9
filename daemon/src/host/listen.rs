//! Listeners for links: `/connect` as gvproxy has it, and the framings that need no request.
//!
//! Owns: the listening sockets and the connections in their handshake; a link goes to the data thread as soon as nothing
//! but frames can follow. Driven by: tokio. Drain: dropping the task closes the listener and what shakes hands.
//! Bounds: per listener [`MAX_HANDSHAKES`], of which one vsock CID or IP address has at most [`MAX_HANDSHAKES_PER_PEER`], each
//! for at most [`HANDSHAKE`]; further connections wait in the listener's backlog, and so do those beyond the rates of
//! [`nitrotap_core::gateway::arrivals`].

mod door;

pub(crate) use door::TurnedAway;

use super::{
    control::{Attach, Handle, LinkKind},
    http_head::{self, Head, MAX_HEAD, Refusal},
    services::Services,
    socket::{Acceptor, Peer},
    stream::HostStream,
};
use door::Door;
use nitrotap_core::frame::Framing;
use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{Semaphore, oneshot},
    task::JoinSet,
};

/// Handshakes at a time on one listener.
const MAX_HANDSHAKES: usize = 256;

/// Handshakes at a time of one enclave, or of one address, so that one that never finishes its own leaves room for the others.
const MAX_HANDSHAKES_PER_PEER: usize = 16;

/// How long a handshake may take: gvproxy's `ReadTimeout`.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Requests on one connection before it is closed: one for a protocol that is not there, one for `/connect`, some to
/// spare.
const MAX_REQUESTS: usize = 8;

/// How long a refused client has to read why.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Tenant numbers of listeners whose peers have no CID; as CIDs they are reserved for the future (`vsock(7)` gives
/// small ones).
const NO_CID: u32 = 0x8000_0000;

/// The number under which everyone on listener `index` runs, if the peer has none of its own.
fn tenant(peer: Peer, index: u32) -> u32 {
    match peer {
        Peer::Vsock { cid, .. } => cid,
        Peer::Ip(_) | Peer::Local => without_cid(index),
    }
}

/// The number of those on listener `index` who have none of their own.
pub(crate) const fn without_cid(index: u32) -> u32 {
    NO_CID | index
}

/// A listener that speaks HTTP until `/connect`.
#[derive(Debug)]
pub(crate) struct LinkListener {
    pub(crate) acceptor: Acceptor,
    /// The number of this listener among all.
    pub(crate) index: u32,
    pub(crate) handle: Handle,
    /// What else is served here; `None` unless `--services-on-listeners`.
    pub(crate) services: Option<Services>,
    pub(crate) turned_away: TurnedAway,
}

impl LinkListener {
    /// Accepts until dropped.
    pub(crate) async fn serve(self) {
        let slots = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        let seats = Seats::default();
        let mut tasks = JoinSet::new();
        let mut door = Door::new(self.acceptor, self.turned_away);
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            while tasks.try_join_next().is_some() {}
            let (fd, peer) = door.next().await;
            let tenant = tenant(peer, self.index);
            let Some(seat) = seats.take(peer) else {
                seldom!(WARN, tenant, "too many handshakes at a time: connection closed", %peer, limit = MAX_HANDSHAKES_PER_PEER);
                continue;
            };
            let (handle, services) = (self.handle.clone(), self.services.clone());
            tasks.spawn(async move {
                let outcome = match HostStream::new(fd) {
                    Ok(stream) => tokio::time::timeout(HANDSHAKE, shake_hands(stream, services.is_some())).await,
                    Err(error) => Ok(Outcome::Failed(error)),
                };
                match outcome {
                    Ok(Outcome::Link(stream)) => {
                        let attach = attach(stream, LinkKind::Stream(Framing::Hyperkit), tenant, peer, None);
                        // The seat is kept until the data thread has room for the link.
                        if handle.attach(attach).await.is_err() {
                            seldom!(WARN, tenant, "link closed: the gateway has stopped", %peer);
                        }
                    }
                    Ok(Outcome::Services(stream)) => {
                        drop((slot, seat));
                        if let Some(services) = services {
                            services.serve_or_turn_away(stream, peer.ip()).await;
                        }
                    }
                    Ok(Outcome::Refused) => tracing::debug!(%peer, "not a link: told so, and closed"),
                    Ok(Outcome::Failed(error)) => tracing::debug!(%peer, %error, "connection lost in its handshake"),
                    Err(_) => tracing::debug!(%peer, timeout = ?HANDSHAKE, "no request in time: connection closed"),
                }
            });
        }
    }
}

/// A listener whose connections are links from the first byte. One peer at a time; the next one waits.
#[derive(Debug)]
pub(crate) struct RawListener {
    pub(crate) acceptor: Acceptor,
    /// The number of this listener among all.
    pub(crate) index: u32,
    pub(crate) handle: Handle,
    pub(crate) kind: LinkKind,
    pub(crate) turned_away: TurnedAway,
}

impl RawListener {
    /// Accepts until dropped.
    pub(crate) async fn serve(self) {
        let mut door = Door::new(self.acceptor, self.turned_away);
        loop {
            let (fd, peer) = door.next().await;
            let (ended, end) = oneshot::channel();
            let Ok(stream) = HostStream::new(fd) else { continue };
            let attach = attach(stream, self.kind, tenant(peer, self.index), peer, Some(ended));
            if self.handle.attach(attach).await.is_err() {
                return;
            }
            tracing::debug!(listener = door.name(), %peer, "link");
            // A sender that was dropped means the same.
            let _ = end.await;
        }
    }
}

fn attach(stream: HostStream, kind: LinkKind, tenant: u32, peer: Peer, ended: Option<oneshot::Sender<()>>) -> Attach {
    let (stream, received) = stream.into_parts();
    Attach { stream, kind, tenant, peer: peer.to_string(), received, ended }
}

/// The next connection, however long errors keep it.
pub(crate) async fn accept(acceptor: &Acceptor) -> (OwnedFd, Peer) {
    loop {
        match acceptor.accept().await {
            Ok((fd, peer)) => {
                if let Peer::Ip(_) = peer {
                    // Frames and answers leave in writes of their own size, so waiting for more only delays; a peer that
                    // vanished is noticed after two minutes.
                    let _ = rustix::net::sockopt::set_tcp_nodelay(&fd, true);
                }
                return (fd, peer);
            }
            // The client has gone already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                seldom!(WARN, 0_u32, "cannot accept a connection", listener = acceptor.name(), %error);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What became of a connection.
#[derive(Debug)]
enum Outcome {
    /// From here on there are only frames.
    Link(HostStream),
    /// A request for something else, still unread.
    Services(HostStream),
    Refused,
    Failed(io::Error),
}

async fn shake_hands(mut stream: HostStream, services: bool) -> Outcome {
    match negotiate(&mut stream, services).await {
        Ok(Next::Link) => Outcome::Link(stream),
        Ok(Next::Services) => Outcome::Services(stream),
        Ok(Next::Close) => {
            // Bytes that nobody read would turn the end into a reset, and a reset takes the answer with it.
            if stream.shutdown().await.is_ok() {
                let (mut rest, mut nowhere) = (stream.take(64 << 10), tokio::io::sink());
                let _ = tokio::time::timeout(LAST_WORDS, tokio::io::copy(&mut rest, &mut nowhere)).await;
            }
            Outcome::Refused
        }
        Err(error) => Outcome::Failed(error),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Link,
    Services,
    Close,
}

/// Reads requests until one is for `/connect`. Leaves every byte behind it in `stream`.
///
/// A protocol of our own will have a path of its own and answer 101; until then it gets gvproxy's 404, and the client may
/// ask for `/connect` on the same connection.
async fn negotiate(stream: &mut HostStream, services: bool) -> io::Result<Next> {
    let mut bytes = Vec::new();
    for request in 1..=MAX_REQUESTS {
        let head = match read_head(stream, &mut bytes).await? {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(Next::Close),
            Err(refusal) => {
                stream.write_all(refusal.answer().as_bytes()).await?;
                return Ok(Next::Close);
            }
        };
        if head.path == "/connect" {
            if head.body {
                // Its bytes would be taken for frames.
                stream.write_all(Refusal::Malformed.answer().as_bytes()).await?;
                return Ok(Next::Close);
            }
            stream.unread(&bytes[head.len..]);
            return Ok(Next::Link);
        }
        if services {
            stream.unread(&bytes);
            return Ok(Next::Services);
        }
        hint(&head.path);
        let close = head.body || request == MAX_REQUESTS;
        stream.write_all(http_head::not_found(close).as_bytes()).await?;
        if close {
            return Ok(Next::Close);
        }
        bytes.drain(..head.len);
    }
    Ok(Next::Close)
}

/// Who comes from gvproxy looks for the REST interface here. Said once: strangers must not fill the log.
fn hint(path: &str) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if (path.starts_with("/services/") || path == "/tunnel") && !SAID.swap(true, Relaxed) {
        tracing::warn!(
            path,
            "the REST interface is not on listeners for links; see --services and --services-on-listeners"
        );
    }
}

/// Reads until `bytes` begin with a whole head; `None` if the client went away without one.
async fn read_head(stream: &mut HostStream, bytes: &mut Vec<u8>) -> io::Result<Result<Option<Head>, Refusal>> {
    loop {
        match http_head::parse(bytes) {
            Ok(None) => {}
            decided => return Ok(decided),
        }
        let room = MAX_HEAD.saturating_sub(bytes.len());
        let mut more = vec![0; room];
        match stream.read(&mut more).await? {
            0 => return Ok(Ok(None)),
            n => bytes.extend_from_slice(&more[..n]),
        }
    }
}

/// Whose handshakes count together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Cid(u32),
    Address(IpAddr),
}

impl Whose {
    /// `None` if nothing tells it from others.
    fn of(peer: Peer) -> Option<Self> {
        match peer {
            Peer::Vsock { cid, .. } => Some(Self::Cid(cid)),
            Peer::Ip(address) => Some(Self::Address(address.ip().to_canonical())),
            Peer::Local => None,
        }
    }
}

/// Handshakes under way by peer.
#[derive(Clone, Debug, Default)]
struct Seats {
    taken: Arc<Mutex<BTreeMap<Whose, usize>>>,
}

impl Seats {
    fn take(&self, peer: Peer) -> Option<Seat> {
        let Some(whose) = Whose::of(peer) else { return Some(Seat { of: None }) };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(whose).or_insert(0);
        if *count >= MAX_HANDSHAKES_PER_PEER {
            return None;
        }
        *count += 1;
        Some(Seat { of: Some((self.clone(), whose)) })
    }
}

/// One handshake in the count, as long as it lives.
#[derive(Debug)]
struct Seat {
    of: Option<(Seats, Whose)>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((seats, whose)) = &self.of else { return };
        let mut taken = seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(whose) {
            *count -= 1;
            if *count == 0 {
                taken.remove(whose);
            }
        }
    }
}

impl Peer {
    /// Its IP address, for forwards that name none.
    pub(crate) fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip().to_canonical()),
            Self::Vsock { .. } | Self::Local => None,
        }
    }
}

#[cfg(test)]
mod tests;
