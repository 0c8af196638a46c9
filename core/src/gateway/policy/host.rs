//! The addresses of the host itself, and its control sockets on them.
//!
//! Owns: both lists. Driven by: the gateway's driver, which tells what the kernel says whenever it changes.
//! Bounds: [`MAX_HOST`] addresses and networks.

use super::Proto;
use core::net::{IpAddr, SocketAddr};
use ipnet::IpNet;

/// Addresses and networks of the host at most. What has more is told so by its driver.
pub const MAX_HOST: usize = 65_536;

/// What the kernel takes for the host's own, ready to be looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostAddresses {
    /// In order.
    addresses: Vec<IpAddr>,
    /// Routes of type `local` may be wider than an address; there are few of them.
    networks: Vec<IpNet>,
}

/// Beyond [`MAX_HOST`] the rest is left out.
impl FromIterator<IpNet> for HostAddresses {
    fn from_iter<I: IntoIterator<Item = IpNet>>(all: I) -> Self {
        let mut own = Self::default();
        for net in all.into_iter().take(MAX_HOST) {
            if net.prefix_len() == net.max_prefix_len() {
                own.addresses.push(net.addr().to_canonical());
            } else {
                own.networks.push(net);
            }
        }
        own.addresses.sort_unstable();
        own
    }
}

#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) own: HostAddresses,
    control: Vec<SocketAddr>,
}

impl Host {
    pub(super) fn set_control(&mut self, mut sockets: Vec<SocketAddr>) {
        for socket in &mut sockets {
            socket.set_ip(socket.ip().to_canonical());
        }
        self.control = sockets;
    }

    /// Whether a canonical address is the host's own, its loopback apart.
    pub(super) fn has(&self, addr: IpAddr) -> bool {
        self.own.addresses.binary_search(&addr).is_ok() || self.own.networks.iter().any(|net| net.contains(&addr))
    }

    /// Whether one of the control sockets is there. One on an unspecified address is at all of the host's.
    pub(super) fn controls(&self, proto: Proto, addr: IpAddr, port: u16) -> bool {
        let here = |socket: &SocketAddr| match socket.ip() {
            ip if ip.is_unspecified() => addr.is_loopback() || addr.is_unspecified() || self.has(addr),
            ip => ip == addr,
        };
        proto == Proto::Tcp && self.control.iter().any(|socket| socket.port() == port && here(socket))
    }
}
