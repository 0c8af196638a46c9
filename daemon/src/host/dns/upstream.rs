//! One query to the host's resolvers, one after the other.

use super::resolvers::Plan;
use nitrotap_core::gateway::dns::{Token, Transport, UpstreamFailure};
use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{TcpStream, UdpSocket},
    sync::mpsc,
    time::timeout,
};

/// Something that came back, or that nothing will.
pub(super) type Event = (Token, Result<Vec<u8>, UpstreamFailure>);

/// Asks each resolver of `plan` until its time is over, and reports whatever comes back.
///
/// It listens on after an answer, which may be a forged one: who takes an answer aborts this.
pub(super) async fn ask(plan: Plan, token: Token, transport: Transport, query: Vec<u8>, events: mpsc::Sender<Event>) {
    let mut failure = if plan.tries.is_empty() { UpstreamFailure::NoResolvers } else { UpstreamFailure::Unreachable };
    for server in plan.tries {
        let tried = match transport {
            Transport::Udp => timeout(plan.timeout, udp(server, token, &query, &events)).await,
            Transport::Tcp => timeout(plan.timeout, tcp(server, token, &query, &events)).await,
        };
        match tried {
            Ok(Err(error)) => tracing::debug!(%server, %error, "resolver is not reachable"),
            Err(_) => {
                tracing::debug!(%server, "resolver does not answer");
                failure = UpstreamFailure::Timeout;
            }
        }
    }
    // Who is gone does not want to know.
    let _ = events.send((token, Err(failure))).await;
}

async fn udp(server: SocketAddr, token: Token, query: &[u8], events: &mpsc::Sender<Event>) -> io::Result<Infallible> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // Connected, so that answers of others and of closed ports are told apart by the kernel.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
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
        let _ = events.send((token, Ok(answer))).await;
    }
}

async fn tcp(server: SocketAddr, token: Token, query: &[u8], events: &mpsc::Sender<Event>) -> io::Result<Infallible> {
    let mut stream = TcpStream::connect(server).await?;
    // In one segment, as some resolvers want it (RFC 7766 section 8).
    stream.write_all(&super::stream::framed(query)).await?;
    let len = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(len)];
    stream.read_exact(&mut answer).await?;
    let _ = events.send((token, Ok(answer))).await;
    // If it was no answer to the query, another one will not come on this stream.
    std::future::pending().await
}
