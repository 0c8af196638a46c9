//! The host's own addresses: what the kernel delivers to itself, now and whenever that changes.
//!
//! Owns: a netlink socket that hears of changes. Driven by: the control side. It tells the data thread, whose policy keeps
//! guests from these addresses, and whose sockets may have to leave by another one.
//! Bounds: one look at the kernel's table in [`REST`], however much changes; [`MAX_HOST`] addresses.

use super::control::Handle;
use crate::{errors::Error, sys::readiness};
use ipnet::IpNet;
use nitrotap_core::gateway::policy::{HostAddresses, MAX_HOST};
use rtnetlink::{
    packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use rustix::{
    io::Errno,
    net::{self, RecvFlags, SocketFlags, SocketType, netlink},
};
use std::{io, net::IpAddr, os::fd::OwnedFd, time::Duration};
use tokio::io::{Interest, unix::AsyncFd};

/// How long changes are gathered after one was seen.
const REST: Duration = Duration::from_millis(100);

/// How long to wait after the kernel gave no answer.
const RETRY: Duration = Duration::from_secs(5);

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV6_IFADDR`, `RTNLGRP_IPV6_ROUTE`
/// (`linux/rtnetlink.h`): what may change which addresses are the host's, or by which one it reaches the world.
const GROUPS: u32 = 1 | 1 << 4 | 1 << 6 | 1 << 8 | 1 << 10;

/// `RT_TABLE_LOCAL`.
const LOCAL: u8 = 255;

/// Hears of changes.
#[derive(Debug)]
pub(super) struct Watch {
    events: AsyncFd<OwnedFd>,
}

impl Watch {
    /// Listens, then looks for the first time: no change is lost between the two.
    pub(super) fn start() -> Result<(Self, HostAddresses), Error> {
        let cannot = |error: &io::Error| {
            Error::runtime(format!(
                "cannot learn this host's own addresses, from which guests are kept: {error}; allow AF_NETLINK sockets \
                 (RestrictAddressFamilies= of a systemd unit)"
            ))
        };
        let events = listen().map_err(|e| cannot(&e))?;
        let own = own().map_err(|e| cannot(&e))?;
        Ok((Self { events }, own))
    }

    /// Tells the data thread of every change. Cancelling is the end of it.
    pub(super) async fn run(self, handle: Handle) {
        loop {
            if let Err(error) = self.changed().await {
                tracing::warn!(%error, "cannot hear of changes of this host's addresses");
                tokio::time::sleep(RETRY).await;
            }
            match own() {
                Ok(own) => {
                    if handle.host_addresses(own).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(REST).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot read this host's addresses; the old ones hold");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Waits for a change, and forgets all that have been told.
    async fn changed(&self) -> io::Result<()> {
        let drain = |fd: &OwnedFd| {
            let mut heard = false;
            loop {
                // What has changed is read from the table: a message is a hint, however much of it there is room for.
                match net::recv(fd, &mut [0; 64][..], RecvFlags::empty()) {
                    // Messages were lost, which is news too.
                    Ok(_) | Err(Errno::NOBUFS) => heard = true,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) if heard => return Ok(()),
                    Err(errno) => return Err(errno.into()),
                }
            }
        };
        self.events.async_io(Interest::READABLE, drain).await
    }
}

fn listen() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    // Protocol 0 is `NETLINK_ROUTE`.
    let socket = net::socket_with(net::AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    net::bind(&socket, &netlink::SocketAddrNetlink::new(0, GROUPS))?;
    readiness::register(socket)
}

/// All routes of type `local` but those of the loopback: they are what the kernel looks at when it decides that a packet
/// is for itself.
fn own() -> io::Result<HostAddresses> {
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        match local_routes(family, &mut all) {
            // A kernel without IPv6.
            Err(error) if family == AddressFamily::Inet6 && error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            done => done?,
        }
    }
    if all.len() > MAX_HOST {
        tracing::warn!(
            addresses = all.len(),
            limit = MAX_HOST,
            "this host has too many addresses: some are not known as its own"
        );
    }
    Ok(all.into_iter().collect())
}

fn local_routes(family: AddressFamily, all: &mut Vec<IpNet>) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // Only this table, which a kernel before 4.20 does not know how to do: there, what else comes is left out below.
    let _ = socket.set_netlink_get_strict_chk(true);
    let mut wanted = RouteMessage::default();
    wanted.header.address_family = family;
    wanted.header.table = LOCAL;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(wanted));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
            if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) = &message.payload {
                all.extend(local(route));
            } else if let NetlinkPayload::Error(error) = &message.payload {
                return Err(error.to_io());
            } else if let NetlinkPayload::Done(_) = &message.payload {
                return Ok(());
            }
            // Messages begin at multiples of four bytes (`NLMSG_ALIGN`).
            let len = (message.header.length as usize).next_multiple_of(4).max(16);
            rest = rest.get(len..).unwrap_or_default();
        }
    }
}

/// What a route delivers to the host itself.
fn local(route: &RouteMessage) -> Option<IpNet> {
    if route.header.kind != RouteType::Local {
        return None;
    }
    let destination = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Destination(destination) = attribute { Some(destination) } else { None }
    });
    let address = if let RouteAddress::Inet(address) = destination? {
        IpAddr::from(*address)
    } else if let RouteAddress::Inet6(address) = destination? {
        IpAddr::from(*address)
    } else {
        return None;
    };
    let net = IpNet::new(address, route.header.destination_prefix_length).ok()?;
    (!address.is_loopback()).then_some(net)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nitrotap_core::{
        gateway::policy::{Policy, PolicyConfig, Proto, Reason, Verdict},
        time::Instant,
    };

    #[test]
    fn the_kernel_says_which_addresses_are_its_own() {
        let mut policy = Policy::new(PolicyConfig::default()).unwrap();
        policy.set_host(own().unwrap());
        // The address that a packet to nowhere in particular would have is one of them, where there is a way out at all.
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("192.0.2.1:9").is_ok() {
            let address = socket.local_addr().unwrap().ip();
            let verdict = policy.verdict(Instant::ZERO, Proto::Tcp, address, 22);
            assert_eq!(verdict, Verdict::Deny(Reason::Host), "{address}");
        }
        let elsewhere = "192.0.2.1".parse().unwrap();
        assert_eq!(policy.verdict(Instant::ZERO, Proto::Tcp, elsewhere, 22), Verdict::Allow);
    }

    #[test]
    fn only_routes_to_the_host_itself_count() {
        let route = |kind: RouteType, address: &str, prefix: u8| {
            let mut route = RouteMessage::default();
            route.header.kind = kind;
            route.header.destination_prefix_length = prefix;
            let address: IpAddr = address.parse().unwrap();
            route.attributes.push(RouteAttribute::Destination(address.into()));
            local(&route).map(|net| net.to_string())
        };
        assert_eq!(route(RouteType::Local, "10.0.0.5", 32).as_deref(), Some("10.0.0.5/32"));
        assert_eq!(route(RouteType::Local, "10.8.0.0", 16).as_deref(), Some("10.8.0.0/16"), "a whole network may be");
        assert_eq!(route(RouteType::Local, "fd00::5", 128).as_deref(), Some("fd00::5/128"));
        assert_eq!(route(RouteType::Broadcast, "10.0.0.255", 32), None);
        assert_eq!(route(RouteType::Unicast, "10.0.0.0", 8), None);
        assert_eq!(route(RouteType::Local, "127.0.0.0", 8), None, "the loopback has rules of its own");
        assert_eq!(route(RouteType::Local, "::1", 128), None);
    }
}
