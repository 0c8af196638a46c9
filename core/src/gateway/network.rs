//! The addresses of a virtual network: which are guests', which the gateway's, which the host's.
//!
//! Owns: what the configuration says. Driven by: every part that judges an address.

use super::{
    config::{Config, ConfigError},
    network6::Network6,
};
use core::net::{IpAddr, Ipv4Addr};
use ipnet::Ipv4Net;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network {
    subnet: Ipv4Net,
    gateway: Ipv4Addr,
    host: Ipv4Addr,
    v6: Option<Network6>,
}

impl Network {
    pub(super) fn new(config: &Config) -> Result<Self, ConfigError> {
        Ok(Self { subnet: config.subnet, gateway: config.gateway, host: config.host, v6: config.network6()? })
    }

    /// The IPv6 side, if there is one.
    #[inline]
    pub(super) const fn v6(&self) -> Option<&Network6> {
        self.v6.as_ref()
    }

    /// The gateway's address of IPv4.
    pub(super) const fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// Whether an address may be a guest's: in the virtual network, and nobody else's.
    #[inline]
    pub(super) fn is_guest(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                self.subnet.contains(&address)
                    && address != self.gateway
                    && address != self.host
                    && address != self.subnet.network()
                    && address != self.subnet.broadcast()
            }
            IpAddr::V6(address) => self.v6.is_some_and(|network| network.is_guest(address)),
        }
    }

    /// Whether an address is in the virtual network.
    #[inline]
    pub(super) fn is_inside(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.subnet.contains(&address),
            IpAddr::V6(address) => self.v6.is_some_and(|network| network.subnet.contains(&address)),
        }
    }

    /// Whether an address is reached through the gateway: in another network than this one.
    #[inline]
    pub(super) fn is_beyond(&self, address: IpAddr) -> bool {
        !self.is_inside(address) && !address.is_multicast() && address != Ipv4Addr::BROADCAST
    }

    /// Whether an address is all guests' together: a group, or the broadcast address of the link or of the network.
    pub(super) fn is_group(&self, address: IpAddr) -> bool {
        address.is_multicast() || address == Ipv4Addr::BROADCAST || self.is_broadcast(address)
    }

    /// Whether an address is the network's own broadcast address.
    pub(super) fn is_broadcast(&self, address: IpAddr) -> bool {
        address == self.subnet.broadcast()
    }

    /// Whether an address is the gateway's: not that of the host.
    #[inline]
    pub(super) fn is_gateway(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.gateway,
            IpAddr::V6(address) => self.v6.is_some_and(|network| network.is_gateway(address)),
        }
    }

    /// Whether an address stands for the host's loopback.
    #[inline]
    pub(super) fn is_host(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.host,
            IpAddr::V6(address) => self.v6.is_some_and(|network| network.host == address),
        }
    }

    /// Whether the gateway answers for an address.
    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        self.is_gateway(address) || self.is_host(address)
    }

    /// The gateway's address in the family of another one.
    pub(super) fn gateway_for(&self, address: IpAddr) -> IpAddr {
        match (address, &self.v6) {
            (IpAddr::V6(_), Some(network)) => network.gateway.into(),
            (IpAddr::V4(_) | IpAddr::V6(_), _) => self.gateway.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_partys() {
        let config = Config { subnet6: Some("fd00:1:2:3::/64".parse().unwrap()), ..Config::default() };
        let network = Network::new(&config).unwrap();
        // The address, and whether it is a guest's, the gateway's, the host's, a group's, beyond.
        let table = [
            ("192.168.127.2", [true, false, false, false, false]),
            ("192.168.127.1", [false, true, false, false, false]),
            ("192.168.127.254", [false, false, true, false, false]),
            ("192.168.127.0", [false; 5]),
            ("192.168.127.255", [false, false, false, true, false]),
            ("255.255.255.255", [false, false, false, true, false]),
            ("224.0.0.251", [false, false, false, true, false]),
            ("192.168.128.2", [false, false, false, false, true]),
            ("fd00:1:2:3::2", [true, false, false, false, false]),
            ("fd00:1:2:3::1", [false, true, false, false, false]),
            ("fe80::5894:efff:fee4:cdd", [false, true, false, false, true]),
            ("fd00:1:2:3::fe", [false, false, true, false, false]),
            ("fd00:1:2:3::", [false; 5]),
            ("ff02::1", [false, false, false, true, false]),
            ("2001:db8::2", [false, false, false, false, true]),
        ];
        for (address, [guest, gateway, host, group, beyond]) in table {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(network.is_guest(address), guest, "{address}");
            assert_eq!(network.is_gateway(address), gateway, "{address}");
            assert_eq!(network.is_host(address), host, "{address}");
            assert_eq!(network.is_own(address), gateway || host, "{address}");
            assert_eq!(network.is_group(address), group, "{address}");
            assert_eq!(network.is_beyond(address), beyond, "{address}");
            assert_eq!(network.gateway_for(address).is_ipv4(), address.is_ipv4(), "{address}");
        }
        let without = Network::new(&Config::default()).unwrap();
        assert!(!without.is_guest("fd00:1:2:3::2".parse().unwrap()) && without.v6().is_none());
    }
}
