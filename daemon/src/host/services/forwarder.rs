//! `/services/forwarder/*`: ports of the host that lead to guests.

use super::{answer::Answer, json};
use crate::{
    endpoint::UNIX_PATH_MAX,
    host::{
        address::any_interface,
        control::{ExposeError, Forward, Handle, Local, Who},
        ports::{self, socket_address},
        socket::{self, InTheWay},
    },
};
use nitrotap_core::gateway::publishing::NotForGuests;
use serde::Serialize;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// How long the name of a local address may take to resolve.
const RESOLVE: Duration = Duration::from_secs(5);

/// Bytes of the local address that a guest gives, which is kept as its forward's name: `[IPV6]:PORT` is shorter.
const MAX_LOCAL: usize = 64;

/// A forward as it is listed.
#[derive(Serialize)]
struct Listed {
    local: String,
    remote: String,
    protocol: &'static str,
}

/// `/services/forwarder/all`
pub(super) async fn all(handle: &Handle, who: Who) -> Answer {
    let list = |forward: Forward| {
        let protocol = forward.local.protocol();
        let scheme = if matches!(forward.local, Local::Unix(_)) { "tcp://" } else { "" };
        Listed { local: forward.name, remote: format!("{scheme}{}", forward.to), protocol }
    };
    match handle.forwards(who).await {
        Ok(forwards) => Answer::json(&forwards.into_iter().map(list).collect::<Vec<_>>()),
        Err(stopped) => Answer::failed(stopped),
    }
}

/// `/services/forwarder/expose`
pub(super) async fn expose(handle: &Handle, who: Who, body: &[u8], peer: Option<IpAddr>) -> Answer {
    let request = match Request::read(body, peer) {
        Ok(request) => request,
        Err(refused) => return refused,
    };
    let local = match request.wanted {
        // Nothing of this host is looked at for a guest: neither its files nor its name servers.
        Wanted::Unix if who != Who::Operator => return Answer::forbidden(NotForGuests::Protocol),
        Wanted::Tcp | Wanted::Udp
            if who != Who::Operator
                && literal(&request.local, request.wanted.name())
                    .filter(|_| request.local.len() <= MAX_LOCAL)
                    .is_none() =>
        {
            return Answer::bad_request("guests give an IP address and a port as local, such as :8080");
        }
        Wanted::Tcp => resolve(&request.local, "tcp").await.map(Local::Tcp).map_err(|e| format!("listen tcp: {e}")),
        Wanted::Udp => resolve(&request.local, "udp").await.map(Local::Udp),
        Wanted::Unix => unix(&request.local),
    };
    let local = match local {
        Ok(local) => local,
        Err(error) => return Answer::failed(error),
    };
    let forward = Forward { name: request.local, local, to: request.to, proxy_protocol: false };
    match handle.expose(who, forward).await {
        Ok(Ok(_)) => Answer::done(),
        Ok(Err(error)) => refused(&error),
        Err(stopped) => Answer::failed(stopped),
    }
}

/// `/services/forwarder/unexpose`
pub(super) async fn unexpose(handle: &Handle, who: Who, body: &[u8]) -> Answer {
    let read = || {
        let object = json::read(body, "UnexposeRequest")?;
        Ok::<_, String>((object.string("local")?.to_owned(), object.string("protocol")?.to_owned()))
    };
    let (local, protocol) = match read() {
        Ok(read) => read,
        Err(error) => return Answer::bad_request(error),
    };
    let protocol = match protocol.as_str() {
        "" | "tcp" => "tcp",
        "udp" => "udp",
        "unix" => "unix",
        _ => return Answer::failed("proxy not found"),
    };
    match handle.unexpose(who, protocol, local).await {
        Ok(true) => Answer::done(),
        Ok(false) => Answer::failed("proxy not found"),
        Err(stopped) => Answer::failed(stopped),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Tcp,
    Udp,
    Unix,
}

impl Wanted {
    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Unix => "unix",
        }
    }
}

/// A request for a forward, as far as it can be judged without the world.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Request {
    local: String,
    to: SocketAddr,
    wanted: Wanted,
}

impl Request {
    fn read(body: &[u8], peer: Option<IpAddr>) -> Result<Self, Answer> {
        let object = json::read(body, "ExposeRequest").map_err(Answer::bad_request)?;
        let string = |name| object.string(name).map(ToOwned::to_owned).map_err(Answer::bad_request);
        let (local, remote, protocol) = (string("local")?, string("remote")?, string("protocol")?);
        if matches!(protocol.as_str(), "unix" | "npipe") {
            let to = tcp_url(&remote)?;
            if protocol == "npipe" {
                return Err(Answer::failed("unknown protocol npipe: named pipes are a thing of Windows; use unix"));
            }
            return Ok(Self { local, to, wanted: Wanted::Unix });
        }
        let remote = remote_with_host(&remote, peer)?;
        let wanted = match protocol.as_str() {
            "" | "tcp" => Wanted::Tcp,
            "udp" => Wanted::Udp,
            _ => return Err(Answer::failed(format_args!("unknown protocol {protocol}"))),
        };
        Ok(Self { local, to: guest(&remote)?, wanted })
    }
}

/// Fills in the host of a remote such as `:6443`: the one who asks.
fn remote_with_host(remote: &str, peer: Option<IpAddr>) -> Result<String, Answer> {
    match split_host_port(remote).map_err(Answer::bad_request)? {
        ("", _) => match peer {
            Some(IpAddr::V6(peer)) => Ok(format!("[{peer}]{remote}")),
            Some(peer) => Ok(format!("{peer}{remote}")),
            None => Err(Answer::bad_request(format_args!(
                "remote {remote} has no IP address, and neither has the client of a unix or vsock socket; \
                 give one, such as 192.168.127.2{remote}"
            ))),
        },
        _ => Ok(remote.to_owned()),
    }
}

/// Go's `net.SplitHostPort`, with its errors.
fn split_host_port(text: &str) -> Result<(&str, &str), String> {
    let error = |why: &str| {
        let of = if text.is_empty() { String::new() } else { format!("address {text}: ") };
        Err(format!("{of}{why}"))
    };
    if let Some(rest) = text.strip_prefix('[') {
        return match rest.split_once(']') {
            None => error("missing ']' in address"),
            Some((host, rest)) => match rest.strip_prefix(':') {
                Some(port) if !port.contains(':') => Ok((host, port)),
                Some(_) => error("too many colons in address"),
                None => error("missing port in address"),
            },
        };
    }
    match text.rsplit_once(':') {
        None => error("missing port in address"),
        Some((host, _)) if host.contains(':') => error("too many colons in address"),
        Some(parts) => Ok(parts),
    }
}

/// `IP:PORT` or `[IPV6]:PORT` of a guest.
fn guest(remote: &str) -> Result<SocketAddr, Answer> {
    if let Some(("", rest)) = remote.split_once('[')
        && let Some((ip, port)) = rest.split_once("]:")
    {
        return guest_parts(ip, port);
    }
    match remote.split(':').collect::<Vec<_>>()[..] {
        [ip, port] => guest_parts(ip, port),
        _ => Err(Answer::failed("invalid remote addr")),
    }
}

fn guest_parts(ip: &str, port: &str) -> Result<SocketAddr, Answer> {
    let port = port_number(port).map_err(Answer::failed)?;
    let ip: IpAddr = ip.parse().map_err(|_| {
        Answer::bad_request(format_args!("the host of remote {ip}:{port} is no IP address, such as 192.168.127.2"))
    })?;
    Ok(SocketAddr::new(ip, port))
}

/// A port in decimal, or the error that Go has for it.
pub(super) fn port_number(text: &str) -> Result<u16, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("strconv.ParseUint: parsing {text:?}: invalid syntax"));
    }
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {text:?}: value out of range"))
}

/// `tcp://IP:PORT` of a guest.
fn tcp_url(remote: &str) -> Result<SocketAddr, Answer> {
    match remote.split_once("://") {
        Some(("tcp", rest)) => {
            let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let (ip, port) = rest.rsplit_once(':').unwrap_or((rest, ""));
            guest_parts(ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip), port)
        }
        Some(("ssh-tunnel", _)) => Err(Answer::failed(
            "ssh-tunnel forwards are not there; let ssh -L with the guest's published port do it, or use tcp://IP:PORT",
        )),
        Some((scheme, _)) => {
            Err(Answer::failed(format_args!("remote protocol for unix forwarder is not implemented: {scheme}")))
        }
        None if remote.contains(':') => Err(Answer::failed(format_args!(
            "failed to parse remote uri :{remote} : parse {remote:?}: first path segment in URL cannot contain colon"
        ))),
        None => Err(Answer::failed("remote protocol for unix forwarder is not implemented: ")),
    }
}

/// A local address that needs no look at names.
fn literal(local: &str, protocol: &str) -> Option<SocketAddr> {
    if local.is_empty() { Some(SocketAddr::new(any_interface(), 0)) } else { socket_address(local, protocol) }
}

/// Where a TCP or UDP forward listens. Without a host it is all interfaces, without anything any port of them.
async fn resolve(local: &str, protocol: &str) -> Result<SocketAddr, String> {
    if let Some(address) = literal(local, protocol) {
        return Ok(address);
    }
    let (host, port) = split_host_port(local)?;
    let port = ports::port(port, protocol).ok_or_else(|| format!("lookup {protocol}/{port}: unknown port"))?;
    match tokio::time::timeout(RESOLVE, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(mut addresses)) => addresses.next().ok_or_else(|| format!("lookup {host}: no such host")),
        Ok(Err(error)) => Err(format!("lookup {host}: {error}")),
        Err(_) => Err(format!("lookup {host}: no answer in {} s", RESOLVE.as_secs())),
    }
}

/// Where a forward listens in the file system. Makes room if a dead socket is there; a live one is left for the data
/// thread to meet, which knows whether it is its own.
fn unix(local: &str) -> Result<Local, String> {
    if local.is_empty() || local.len() > UNIX_PATH_MAX || local.contains('\0') {
        return Err(format!("listen unix {local}: the path of a socket has 1 to {UNIX_PATH_MAX} bytes"));
    }
    match socket::clear_stale(Path::new(local)) {
        Ok(()) | Err(InTheWay::Alive) => Ok(Local::Unix(PathBuf::from(local))),
        Err(InTheWay::NoSocket) => Err(format!(
            "listen unix {local}: a file is there that is no socket, and it is not removed; remove it, or choose another path"
        )),
        Err(InTheWay::Io(error)) => Err(format!("listen unix {local}: {}", words(&error))),
    }
}

fn refused(error: &ExposeError) -> Answer {
    match error {
        ExposeError::Bind { protocol, name, error } => {
            Answer::failed(format_args!("listen {protocol} {name}: bind: {}", words(error)))
        }
        ExposeError::NotAGuest(_) => Answer::bad_request(error),
        ExposeError::NotForGuests(why) => Answer::forbidden(why),
        ExposeError::Exists { .. } | ExposeError::TooMany(_) => Answer::failed(error),
    }
}

/// An error of the system in Go's words: `strerror`'s, in lower case and without the number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(local: &str, remote: &str, protocol: &str, peer: Option<IpAddr>) -> Result<Request, Answer> {
        let body = format!(r#"{{"local":"{local}","remote":"{remote}","protocol":"{protocol}"}}"#);
        Request::read(body.as_bytes(), peer)
    }

    #[test]
    fn good_requests_are_read() {
        let guest: SocketAddr = "192.168.127.2:443".parse().unwrap();
        let peer = Some(IpAddr::from([192, 168, 127, 2]));
        let six: IpAddr = "fd00::2".parse().unwrap();
        for (remote, protocol) in [("[fd00::2]:443", "udp"), (":443", "tcp"), ("tcp://[fd00::2]:443/", "unix")] {
            let request = read("x", remote, protocol, Some(six)).unwrap();
            assert_eq!(request.to, (six, 443).into(), "{remote}");
        }
        for (remote, protocol, peer, wanted) in [
            ("192.168.127.2:443", "tcp", None, Wanted::Tcp),
            ("192.168.127.2:443", "", None, Wanted::Tcp),
            ("192.168.127.2:443", "udp", None, Wanted::Udp),
            (":443", "tcp", peer, Wanted::Tcp),
            ("tcp://192.168.127.2:443", "unix", None, Wanted::Unix),
            ("tcp://192.168.127.2:443/", "unix", None, Wanted::Unix),
        ] {
            let request = read("x", remote, protocol, peer).unwrap();
            assert_eq!(request, Request { local: "x".into(), to: guest, wanted }, "{remote} {protocol}");
        }
    }

    #[test]
    fn bad_requests_get_gvproxys_words_or_better_ones() {
        for (remote, protocol, answer) in [
            ("192.168.127.2", "tcp", Answer::bad_request("address 192.168.127.2: missing port in address")),
            ("", "tcp", Answer::bad_request("missing port in address")),
            ("a:b:1", "tcp", Answer::bad_request("address a:b:1: too many colons in address")),
            ("[::1", "tcp", Answer::bad_request("address [::1: missing ']' in address")),
            ("[fd00::1]:x", "tcp", Answer::failed("strconv.ParseUint: parsing \"x\": invalid syntax")),
            ("192.168.127.2:x", "tcp", Answer::failed("strconv.ParseUint: parsing \"x\": invalid syntax")),
            ("192.168.127.2:70000", "udp", Answer::failed("strconv.ParseUint: parsing \"70000\": value out of range")),
            ("192.168.127.2:1", "sctp", Answer::failed("unknown protocol sctp")),
            ("foo:70", "tcp", Answer::bad_request("the host of remote foo:70 is no IP address, such as 192.168.127.2")),
            (
                ":70",
                "tcp",
                Answer::bad_request(
                    "remote :70 has no IP address, and neither has the client of a unix or vsock socket; \
                     give one, such as 192.168.127.2:70",
                ),
            ),
            (
                "192.168.127.2:443",
                "unix",
                Answer::failed(
                    "failed to parse remote uri :192.168.127.2:443 : parse \"192.168.127.2:443\": \
                     first path segment in URL cannot contain colon",
                ),
            ),
            ("tcp://192.168.127.2", "unix", Answer::failed("strconv.ParseUint: parsing \"\": invalid syntax")),
            ("http://a", "unix", Answer::failed("remote protocol for unix forwarder is not implemented: http")),
        ] {
            assert_eq!(read("x", remote, protocol, None), Err(answer), "{remote} {protocol}");
        }
    }

    #[tokio::test]
    async fn local_addresses_without_a_host_are_all_interfaces() {
        for (local, port) in [(":443", 443), ("", 0), ("0.0.0.0:7", 7)] {
            let address = resolve(local, "tcp").await.unwrap();
            assert!(address.ip().is_unspecified() && address.port() == port, "{local}");
        }
        assert_eq!(resolve("127.0.0.1:5", "tcp").await, Ok("127.0.0.1:5".parse().unwrap()));
        assert_eq!(resolve("localhost:5", "tcp").await, Ok("127.0.0.1:5".parse().unwrap()));
        assert_eq!(resolve("127.0.0.1:https", "tcp").await, Ok("127.0.0.1:443".parse().unwrap()));
        assert_eq!(resolve("1", "tcp").await.unwrap_err(), "address 1: missing port in address");
        assert_eq!(resolve("127.0.0.1:x", "udp").await.unwrap_err(), "lookup udp/x: unknown port");
    }

    #[test]
    fn a_file_is_not_removed_for_a_forward_but_a_dead_socket_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let text = path.to_str().unwrap();
        std::fs::write(&path, "data").unwrap();
        assert!(unix(text).unwrap_err().contains("no socket"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
        std::fs::remove_file(&path).unwrap();
        let live = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(unix(text), Ok(Local::Unix(path.clone())));
        assert!(path.exists(), "somebody listens there");
        drop(live);
        assert_eq!(unix(text), Ok(Local::Unix(path.clone())));
        assert!(!path.exists());
    }

    #[test]
    fn bind_errors_read_as_gos() {
        let error = ExposeError::Bind {
            protocol: "tcp",
            name: "127.0.0.1:18443".into(),
            error: io::Error::from_raw_os_error(98),
        };
        assert_eq!(refused(&error), Answer::failed("listen tcp 127.0.0.1:18443: bind: address already in use"));
        let error = ExposeError::Exists { protocol: "tcp", name: ":443".into() };
        assert_eq!(refused(&error), Answer::failed("proxy already running for tcp on :443"));
    }
}
