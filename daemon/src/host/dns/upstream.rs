//! One query to the host's resolvers, one after the other.

use super::resolvers::Plan;
use nitrotap_core::gateway::dns::{Token, Transport, UpstreamFailure};
use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{TcpStream, UdpSocket},
    sync::{Notify, mpsc},
    time::timeout,
};

/// Something that came back, or did not.
#[derive(Debug)]
pub(super) enum Event {
    /// A resolver has sent this. If there are others to ask, tell the [`Notify`] to go on to the next one.
    Answer { token: Token, server: SocketAddr, answer: Vec<u8>, next: Option<Arc<Notify>> },
    /// A resolver cannot be reached, or did not answer in time.
    Silent { server: SocketAddr },
    /// All were asked in vain.
    Failed { token: Token, failure: UpstreamFailure },
}

/// Asks each resolver of `plan` until its time is over, and reports whatever comes back.
///
/// It listens on after an answer, which may be a forged one: who takes an answer aborts this. A resolver that is told to be of no
/// use is not asked again.
pub(super) async fn ask(plan: Plan, token: Token, transport: Transport, query: Vec<u8>, events: mpsc::Sender<Event>) {
    let mut failure = if plan.tries.is_empty() { UpstreamFailure::NoResolvers } else { UpstreamFailure::Unreachable };
    let mut useless = Vec::new();
    for (i, server) in plan.tries.iter().enumerate() {
        if useless.contains(server) {
            continue;
        }
        let others = plan.tries[i + 1..].iter().any(|other| other != server && !useless.contains(other));
        let next = others.then(Arc::<Notify>::default);
        let try_one = Try { server: *server, token, next: next.clone(), events: &events };
        let asking = async {
            match transport {
                Transport::Udp => try_one.udp(&query).await,
                Transport::Tcp => try_one.tcp(&query).await,
            }
        };
        let told = async {
            match &next {
                Some(next) => next.notified().await,
                None => std::future::pending().await,
            }
        };
        let tried = tokio::select! {
            tried = timeout(plan.timeout, asking) => tried,
            () = told => {
                tracing::debug!(%server, "resolver cannot say; asking the next one");
                useless.push(*server);
                continue;
            }
        };
        match tried {
            Ok(Err(error)) => tracing::debug!(%server, %error, "resolver is not reachable"),
            Err(_) => {
                tracing::debug!(%server, "resolver does not answer");
                failure = UpstreamFailure::Timeout;
            }
        }
        let _ = events.send(Event::Silent { server: *server }).await;
    }
    // Who is gone does not want to know.
    let _ = events.send(Event::Failed { token, failure }).await;
}

/// One try with one resolver.
struct Try<'e> {
    server: SocketAddr,
    token: Token,
    next: Option<Arc<Notify>>,
    events: &'e mpsc::Sender<Event>,
}

impl Try<'_> {
    async fn udp(&self, query: &[u8]) -> io::Result<Infallible> {
        let any: SocketAddr = match self.server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        // Connected, so that answers of others and of closed ports are told apart by the kernel.
        let socket = UdpSocket::bind(any).await?;
        socket.connect(self.server).await?;
        socket.send(query).await?;
        loop {
            // A closed port (an ICMP error) does not make the socket readable.
            if socket.ready(Interest::READABLE | Interest::ERROR).await?.is_error() {
                return Err(socket.take_error()?.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into()));
            }
            // Only now, so that waiting queries take no room.
            let mut answer = vec![0; 65535];
            match socket.try_recv(&mut answer) {
                Ok(len) => answer.truncate(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            answer.shrink_to_fit();
            self.tell(answer).await;
        }
    }

    async fn tcp(&self, query: &[u8]) -> io::Result<Infallible> {
        let mut stream = TcpStream::connect(self.server).await?;
        // In one segment, as some resolvers want it (RFC 7766 section 8).
        stream.write_all(&super::stream::framed(query)).await?;
        let len = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(len)];
        stream.read_exact(&mut answer).await?;
        self.tell(answer).await;
        // If it was no answer to the query, another one will not come on this stream.
        std::future::pending().await
    }

    async fn tell(&self, answer: Vec<u8>) {
        let Self { server, token, next, events } = self;
        let _ = events.send(Event::Answer { token: *token, server: *server, answer, next: next.clone() }).await;
    }
}
