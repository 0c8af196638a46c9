//! Connections to the upstream: TCP, by address or by name.

use nitrotap_core::pool::DialError;
use nitrotap_proxy::{DialFailure, Dialer, UpstreamUrl};
use std::{io, net::IpAddr};
use tokio::net::{TcpStream, lookup_host};

/// Dials one upstream.
#[derive(Clone, Debug)]
pub(super) struct TcpDialer {
    host: String,
    /// Known when `host` is an address: then no resolver is asked.
    ip: Option<IpAddr>,
    port: u16,
}

impl TcpDialer {
    pub(super) fn new(upstream: &UpstreamUrl) -> Self {
        let host = upstream.host().to_owned();
        Self { ip: host.parse().ok(), host, port: upstream.port() }
    }
}

impl Dialer for TcpDialer {
    type Stream = TcpStream;

    fn dial(&self) -> impl Future<Output = Result<TcpStream, DialFailure>> + 'static {
        let Self { host, ip, port } = self.clone();
        async move {
            let stream = match ip {
                Some(ip) => TcpStream::connect((ip, port)).await?,
                None => connect_by_name(&host, port).await?,
            };
            stream.set_nodelay(true)?;
            Ok(stream)
        }
    }
}

async fn connect_by_name(host: &str, port: u16) -> Result<TcpStream, DialFailure> {
    let unresolved = |cause| DialFailure { kind: DialError::Unresolved, cause };
    let addresses = lookup_host((host, port)).await.map_err(unresolved)?;
    let mut last = unresolved(io::Error::other("the name has no address"));
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}
