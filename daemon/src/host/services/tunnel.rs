//! `/tunnel?ip=&port=`: the client's connection becomes one to a guest's port.

use super::answer::Answer;
use crate::host::{
    control::{Handle, Tunnel},
    services::forwarder::port_number,
    stream::HostStream,
};
use std::net::{IpAddr, SocketAddr};
use tokio::io::AsyncWriteExt as _;

/// Where a query points.
pub(super) fn target(query: &str) -> Result<SocketAddr, Answer> {
    let value = |name: &str| {
        query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name)).map_or("", |(_, v)| v)
    };
    let (ip, port) = (value("ip"), value("port"));
    if ip.is_empty() {
        return Err(Answer::failed("ip is mandatory"));
    }
    let port = port_number(port).map_err(|error| Answer::failed(error.replace("ParseUint", "Atoi")))?;
    let ip: IpAddr =
        ip.parse().map_err(|_| Answer::bad_request(format_args!("ip {ip} is no IP address, such as 192.168.127.2")))?;
    Ok(SocketAddr::new(ip, port))
}

/// Says `OK`, as gvproxy does before it dials, and hands the connection over.
pub(super) async fn open(handle: &Handle, mut stream: HostStream, to: SocketAddr) {
    if let Err(error) = stream.write_all(b"OK").await {
        tracing::debug!(%error, %to, "client of a tunnel lost");
        return;
    }
    let (stream, received) = stream.into_parts();
    if handle.tunnel(Tunnel { stream, to, received }).await.is_err() {
        seldom!(WARN, 0_u32, "tunnel closed: the gateway has stopped", %to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read() {
        assert_eq!(target("ip=192.168.127.2&port=22"), Ok("192.168.127.2:22".parse().unwrap()));
        assert_eq!(target("port=1&x=y&ip=10.0.0.1"), Ok("10.0.0.1:1".parse().unwrap()));
        assert_eq!(target("port=1&ip=fd00::2"), Ok("[fd00::2]:1".parse().unwrap()));
        for (bad, answer) in [
            ("", Answer::failed("ip is mandatory")),
            ("ip=1.2.3.4", Answer::failed("strconv.Atoi: parsing \"\": invalid syntax")),
            ("ip=1.2.3.4&port=x", Answer::failed("strconv.Atoi: parsing \"x\": invalid syntax")),
            ("ip=1.2.3.4&port=70000", Answer::failed("strconv.Atoi: parsing \"70000\": value out of range")),
            ("ip=foo&port=1", Answer::bad_request("ip foo is no IP address, such as 192.168.127.2")),
        ] {
            assert_eq!(target(bad), Err(answer), "{bad}");
        }
    }
}
