//! Interface, address and route set-up over rtnetlink (`linux/rtnetlink.h`), without shelling out.

use crate::errors::Error;
use nitrotap_core::{
    frame::{MAX_FRAME, MAX_HEADER, MIN_FRAME},
    link::MacAddr,
};
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder,
    packet_route::link::{LinkAttribute, LinkMessage},
};
use rustix::io::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How the TAP interface is to look.
#[derive(Clone, Debug)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) mac: MacAddr,
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) mtu: u16,
    pub(crate) ipv6: Ipv6,
}

/// What it gets of IPv6 beyond what the kernel makes itself of router advertisements.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ipv6 {
    pub(crate) address: Option<(Ipv6Addr, u8)>,
    pub(crate) gateway: Option<Ipv6Addr>,
}

/// Frames the kernel keeps for us while we write: enough for a 4 MiB window of 1448-byte segments several times over.
///
/// The default of 1000 is less than one window of stock gvproxy; its overflow is a loss that TCP takes for congestion.
/// Super-frames count as one each, so that offload makes the queue longer still in bytes; senders' windows bound those.
const TX_QUEUE_LEN: u32 = 10_000;

/// Bytes of a super-frame from which on the kernel cuts it itself (`netif_skb_features` compares with the Ethernet header
/// and without a tag, which is added later): less than one frame of the stream with its tag.
const GSO_MAX_SIZE: u32 = (MAX_FRAME - (MAX_HEADER - MIN_FRAME)) as u32;

/// Brings `lo` and the TAP up, gives the TAP its address and makes it the default route.
pub(crate) async fn configure(interface: &Interface) -> Result<(), Error> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|e| Error::runtime(format!("cannot open a netlink socket: {e}")))?;
    let connection = tokio::spawn(connection);
    let done = Set { handle, interface }.all().await;
    connection.abort();
    done
}

struct Set<'a> {
    handle: Handle,
    interface: &'a Interface,
}

impl Set<'_> {
    async fn all(&self) -> Result<(), Error> {
        let Interface { name, mac, address, prefix, gateway, mtu, ipv6 } = self.interface;
        let lo = index("lo")?;
        self.link(by_index(lo).up().build()).await.map_err(|e| failed("bring lo up", &e))?;

        let tap = index(name)?;
        let look = by_index(tap).address(mac.0.to_vec()).mtu(u32::from(*mtu)).txqueuelen(TX_QUEUE_LEN);
        self.link(look.build())
            .await
            .map_err(|e| failed(&format!("set hardware address {mac} and MTU {mtu} on {name}"), &e))?;
        // A kernel that cannot be told makes longer ones, and those are cut here.
        let mut longest = by_index(tap).build();
        longest.attributes.extend([
            LinkAttribute::GsoMaxSize(GSO_MAX_SIZE),
            // Its own limit since Linux 6.3; unknown attributes are passed over.
            LinkAttribute::GsoIpv4MaxSize(GSO_MAX_SIZE),
        ]);
        if let Err(error) = self.link(longest).await {
            tracing::debug!(%error, "cannot set the longest super-frame of {name} to {GSO_MAX_SIZE} bytes");
        }
        self.link(by_index(tap).up().build()).await.map_err(|e| failed(&format!("bring {name} up"), &e))?;

        let add = self.handle.address().add(tap, IpAddr::V4(*address), *prefix).replace();
        add.execute().await.map_err(|e| failed(&format!("add address {address}/{prefix} to {name}"), &e))?;

        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(*gateway).output_interface(tap).build();
        self.handle.route().add(route).execute().await.map_err(|e| match errno(&e) {
            Some(Errno::EXIST) => Error::runtime(
                "there already is a default route, so this is not an enclave: run it in one, or in a network namespace \
                 of its own (nitrotap local -- CMD makes one)",
            ),
            _ => failed(&format!("make {gateway} the default route"), &e),
        })?;
        self.ipv6(tap, *ipv6).await
    }

    async fn ipv6(&self, tap: u32, Ipv6 { address, gateway }: Ipv6) -> Result<(), Error> {
        if let Some((address, prefix)) = address {
            let add = self.handle.address().add(tap, IpAddr::V6(address), prefix).replace();
            add.execute().await.map_err(|e| failed(&format!("add address {address}/{prefix}"), &e))?;
        }
        if let Some(gateway) = gateway {
            let route = RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).output_interface(tap).build();
            let add = self.handle.route().add(route).execute().await;
            add.map_err(|e| failed(&format!("make {gateway} the default route"), &e))?;
        }
        Ok(())
    }

    async fn link(&self, message: LinkMessage) -> Result<(), rtnetlink::Error> {
        self.handle.link().set(message).execute().await
    }
}

fn by_index(index: u32) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_index(index)
}

fn index(name: &str) -> Result<u32, Error> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None);
    socket
        .and_then(|socket| rustix::net::netdevice::name_to_index(&socket, name))
        .map_err(|e| Error::runtime(format!("cannot find interface {name}: {e}")))
}

fn failed(what: &str, error: &rtnetlink::Error) -> Error {
    let hint = match errno(error) {
        Some(Errno::PERM) => "; run as root, with CAP_NET_ADMIN, or through nitrotap local",
        _ => "",
    };
    match errno(error) {
        Some(errno) => Error::runtime(format!("cannot {what}: {errno}{hint}")),
        None => Error::runtime(format!("cannot {what}: {error}")),
    }
}

fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    if let rtnetlink::Error::NetlinkError(message) = error {
        return Some(Errno::from_raw_os_error(-message.raw_code()));
    }
    None
}
