//! gvproxy's REST interface: forwards, DNS zones, leases, the switch's table, counters, tunnels.
//!
//! Owns: the connections of its clients. Driven by: hyper on tokio; asks the data thread through [`Handle`].
//! Bounds: [`MAX_CONNECTIONS`], [`MAX_BODY`] bytes of a body, [`PATIENCE`] for a head, a body and a client that does not read.
//!
//! Bodies, types and status codes are those of gvproxy 0.8.1, but for these:
//! - a forward that exists is `proxy already running for tcp on :443`, and a port that is no number
//!   `strconv.ParseUint: …`, as in later versions;
//! - what makes gvproxy end the connection without a word (a remote that is no IPv4 address, a tunnel to none) is 400;
//! - JSON that cannot be read, and a zone that cannot be taken, are 400 with words of their own;
//! - a record without an expression has no `Regexp`, as in later versions;
//! - `expose` for `unix` replaces a dead socket only, where gvproxy removes whatever file is there;
//! - a guest publishes ports of its own addresses only, over TCP and UDP, from 1024 on and none that the operator uses, and sees
//!   and removes what it has published only: else 403, or what gvproxy says about a forward that is not there;
//! - `/stats` has this gateway's counters; redirects for folders are 404.

mod answer;
mod forwarder;
mod json;
mod patient;
mod tunnel;
mod zones;

use super::{
    control::{Handle, Who},
    dns::DnsHandle,
    http_head::Refusal,
    stream::HostStream,
};
use answer::Answer;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, Version,
    body::{Bytes, Incoming},
    header::HOST,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use nitrotap_core::gateway::publishing::Asker;
use patient::Patient;
use std::{
    fmt,
    future::{Future, poll_fn},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt as _,
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Clients at a time. One more waits to be accepted, or is told that it is one too many where it shares a listener with links.
const MAX_CONNECTIONS: usize = 64;

const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 17\r\n\r\ntoo many clients\n";

/// Longest body of a request, in bytes.
const MAX_BODY: usize = 1 << 20;

/// Longest wait for a request on an open connection, for the body of one, and for a client to take its answer: gvproxy's
/// `ReadTimeout`.
const PATIENCE: Duration = Duration::from_secs(10);

/// The interface; clones share its limits.
#[derive(Clone)]
pub(crate) struct Services {
    handle: Handle,
    names: DnsHandle,
    /// A guest sees forwards only, as on port 80 of gvproxy's gateway, and of them its own.
    who: Who,
    places: Arc<Semaphore>,
}

impl Services {
    /// For clients that may do everything.
    pub(crate) fn new(handle: Handle, names: DnsHandle) -> Self {
        Self { handle, names, who: Who::Operator, places: Arc::new(Semaphore::new(MAX_CONNECTIONS)) }
    }

    /// For a guest.
    pub(crate) fn of_guest(&self, asker: Asker) -> Self {
        Self { who: Who::Guest(asker), ..self.clone() }
    }

    /// Waits until one more client can be served.
    pub(crate) async fn place(&self) -> Place {
        // The semaphore is never closed.
        Place(Arc::clone(&self.places).acquire_owned().await.ok())
    }

    /// Serves one client at once, or says that it is one too many.
    pub(crate) async fn serve_or_turn_away(&self, mut stream: HostStream, peer: Option<IpAddr>) {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return self.serve(stream, peer, Place(Some(place))).await;
        }
        seldom!(WARN, 0_u32, "too many clients of the REST interface: one is turned away", limit = MAX_CONNECTIONS);
        // It is gone in either case.
        let _ = tokio::time::timeout(PATIENCE, stream.write_all(BUSY)).await;
    }

    /// Serves one client until it goes away, or its connection has become a tunnel. `peer` is what a remote without an
    /// address means.
    pub(crate) async fn serve(&self, stream: HostStream, peer: Option<IpAddr>, _place: Place) {
        let wanted: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        let service = service_fn(|request: Request<Incoming>| {
            let (services, wanted) = (self.clone(), Arc::clone(&wanted));
            let answer = async move {
                match services.answer(request, peer).await {
                    Routed::Answer(answer) => Ok(answer.into_response()),
                    Routed::Tunnel(to) => {
                        *wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(to);
                        Err(NoAnswer)
                    }
                }
            };
            Box::pin(answer) as Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, NoAnswer>> + Send>>
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).half_close(true).title_case_headers(true);
        let mut connection = http.serve_connection(TokioIo::new(Patient::new(stream, PATIENCE)), service);
        let result = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
        let to = wanted.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (result, to) {
            (_, Some(to)) => {
                let parts = connection.into_parts();
                let mut stream = parts.io.into_inner().into_inner();
                stream.unread(&parts.read_buf);
                tunnel::open(&self.handle, stream, to).await;
            }
            (Err(error), None) => tracing::debug!(%error, "client of the services lost"),
            (Ok(()), None) => {}
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: Option<IpAddr>) -> Routed {
        match (request.headers().get_all(HOST).iter().count(), request.version()) {
            (0, Version::HTTP_11) => return Routed::Answer(Answer::refused(Refusal::NoHost)),
            (0 | 1, _) => {}
            // RFC 9112 section 3.2.
            _ => return Routed::Answer(Answer::refused(Refusal::Malformed)),
        }
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        // No path takes a body but these, and a tunnel's bytes must not be taken for one.
        let body = if let Some(Action::Post(_)) = route(self.who, &path)
            && method == Method::POST
        {
            match read_body(request.into_body()).await {
                Ok(body) => body,
                Err(answer) => return Routed::Answer(answer),
            }
        } else {
            Bytes::new()
        };
        self.dispatch(&method, &path, &query, &body, peer).await
    }

    async fn dispatch(&self, method: &Method, path: &str, query: &str, body: &[u8], peer: Option<IpAddr>) -> Routed {
        let handle = &self.handle;
        Routed::Answer(match route(self.who, path) {
            None => Answer::not_found(),
            Some(Action::Tunnel) => match tunnel::target(query) {
                Ok(to) => return Routed::Tunnel(to),
                Err(answer) => answer,
            },
            Some(Action::Post(_)) if method != Method::POST => Answer::bad_request("post only"),
            Some(Action::Post(Post::Expose)) => forwarder::expose(handle, self.who, body, peer).await,
            Some(Action::Post(Post::Unexpose)) => forwarder::unexpose(handle, self.who, body).await,
            Some(Action::Post(Post::AddZone)) => zones::add(&self.names, body).await,
            Some(Action::Forwards) => forwarder::all(handle, self.who).await,
            Some(Action::Zones) => zones::all(&self.names).await,
            Some(Action::Leases) => answer::of(handle.leases().await, |leases| {
                json::object(leases.into_iter().map(|(ip, mac)| (ip.to_string(), json::mac(mac).into())))
            }),
            Some(Action::Cam) => answer::of(handle.cam().await, |cam| {
                json::object(cam.into_iter().map(|(mac, link)| (json::mac(mac), link.into())))
            }),
            Some(Action::Stats) => answer::of(handle.stats().await, |stats| json::nested(&stats)),
        })
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").field("who", &self.who).finish_non_exhaustive()
    }
}

/// One of the clients that are served at a time.
#[derive(Debug)]
pub(crate) struct Place(#[expect(dead_code, reason = "freed when dropped")] Option<OwnedSemaphorePermit>);

/// What a request gets.
#[derive(Debug)]
enum Routed {
    Answer(Answer),
    /// No answer: the connection becomes a tunnel.
    Tunnel(SocketAddr),
}

/// hyper ends a connection without a word if the service fails, and a tunnel begins without a word.
#[derive(Debug, thiserror::Error)]
#[error("the connection is a tunnel now")]
struct NoAnswer;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Post(Post),
    Forwards,
    Zones,
    Leases,
    Cam,
    Stats,
    Tunnel,
}

/// Actions that change something and have a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Post {
    Expose,
    Unexpose,
    AddZone,
}

fn route(who: Who, path: &str) -> Option<Action> {
    Some(match (path, who) {
        ("/services/forwarder/all", _) => Action::Forwards,
        ("/services/forwarder/expose", _) => Action::Post(Post::Expose),
        ("/services/forwarder/unexpose", _) => Action::Post(Post::Unexpose),
        (_, Who::Guest(_)) => return None,
        ("/services/dns/all", Who::Operator) => Action::Zones,
        ("/services/dns/add", Who::Operator) => Action::Post(Post::AddZone),
        ("/services/dhcp/leases" | "/leases", Who::Operator) => Action::Leases,
        ("/cam", Who::Operator) => Action::Cam,
        ("/stats", Who::Operator) => Action::Stats,
        ("/tunnel", Who::Operator) => Action::Tunnel,
        _ => return None,
    })
}

async fn read_body(body: Incoming) -> Result<Bytes, Answer> {
    match tokio::time::timeout(PATIENCE, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Answer::too_large(MAX_BODY)),
        Ok(Err(error)) => Err(Answer::bad_request(error)),
        Err(_) => Err(Answer::timeout()),
    }
}

#[cfg(test)]
mod tests;
