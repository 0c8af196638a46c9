//! Everything that `nitrotap host` was told, checked, as plain data.

use super::{
    address::ListenUrl,
    control::{Forward, Mac},
    pin::Pinned,
};
use ipnet::{Ipv4Net, Ipv6Net};
use nitrotap_core::gateway::{
    dns::{Zone, default_zones},
    own_addresses,
    policy::PolicyConfig,
};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

/// The gateway's hardware address, unless told otherwise: gvproxy's.
pub(crate) const GATEWAY_MAC: Mac = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd];

/// The client that gvproxy leases the device's address to: gvforwarder's default.
pub(crate) const DEVICE_MAC: Mac = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee];

/// The subnet unless told otherwise.
pub(crate) const SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 127, 0), 24);

/// For how long an address is kept unless told otherwise: a link that is only dialled anew is back within a few seconds, and
/// an enclave that is started anew under another CID should not wait for long.
pub(crate) const KEEP_ADDRESS: Duration = Duration::from_secs(30);

/// Smallest MTU: what every IPv4 host must take in one piece (RFC 791 section 3.1).
pub(crate) const MIN_MTU: u16 = 576;

/// Largest MTU: its frames fit the 16-bit length of gvproxy's framing with room for a tag.
pub(crate) const MAX_MTU: u16 = 65520;

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) listeners: Listeners,
    pub(crate) network: Network,
    /// What guests may reach.
    pub(crate) policy: PolicyConfig,
    pub(crate) limits: Limits,
    /// Ports that lead to guests from the start.
    pub(crate) forwards: Vec<Forward>,
    /// Where the servers that DNS queries go to are read from.
    pub(crate) resolv_conf: PathBuf,
    pub(crate) pcap: Option<Pcap>,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) pid_file: Option<PathBuf>,
}

/// What is listened on, apart from what systemd passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listeners {
    /// `/connect`.
    pub(crate) links: Vec<ListenUrl>,
    /// QEMU's framing from the first byte.
    pub(crate) qemu: Vec<ListenUrl>,
    /// One message, one frame.
    pub(crate) bess: Vec<ListenUrl>,
    /// The REST interface.
    pub(crate) services: Option<ListenUrl>,
    /// The REST interface on `links` too, as gvproxy has it.
    pub(crate) services_on_links: bool,
    /// Forwards for guests, at port 80 of the gateway, as gvproxy has it.
    pub(crate) guest_services: bool,
    /// Permissions of socket files.
    pub(crate) socket_mode: u32,
}

/// The virtual network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    /// [`MIN_MTU`] to [`MAX_MTU`].
    pub(crate) mtu: u16,
    pub(crate) subnet: Ipv4Net,
    /// The IPv6 prefix, /64; `None`: guests have no IPv6.
    pub(crate) subnet6: Option<Ipv6Net>,
    pub(crate) gateway_ip: Ipv4Addr,
    /// The guest that publishing means without naming one.
    pub(crate) device_ip: Ipv4Addr,
    /// The address under which guests find this host, if they may.
    pub(crate) host_ip: Ipv4Addr,
    pub(crate) gateway_mac: Mac,
    pub(crate) static_leases: BTreeMap<Ipv4Addr, Mac>,
    /// Destinations outside the subnet that mean others. Being named here is being allowed, also for a loopback address.
    pub(crate) nat: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// Names that the gateway answers itself.
    pub(crate) zones: Vec<Zone>,
    /// Domains that DHCP tells clients to search; `None`: those of `resolv_conf`.
    pub(crate) search_domains: Option<Vec<String>>,
    /// Addresses whose owners are fixed.
    pub(crate) pins: Vec<Pinned>,
    /// For how long nobody but its enclave gets the address of a link that is gone.
    pub(crate) keep_address: Duration,
}

impl Listeners {
    /// The number of a listener for links; those without a CID who come by it are told apart from others by it.
    pub(crate) fn index_of(&self, url: &ListenUrl) -> Option<u32> {
        let at = self.links.iter().chain(&self.qemu).chain(&self.bess).position(|other| other == url)?;
        u32::try_from(at).ok()
    }

    /// How many of them there are.
    pub(crate) fn number(&self) -> u32 {
        u32::try_from(self.links.len() + self.qemu.len() + self.bess.len()).unwrap_or(u32::MAX)
    }
}

/// How much of anything there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// TCP connections.
    pub(crate) max_flows: NonZeroUsize,
    /// TCP connections of one tenant.
    pub(crate) max_flows_per_enclave: NonZeroUsize,
    /// TCP connections of one tenant that are still being opened.
    pub(crate) max_half_open: NonZeroUsize,
    /// UDP sessions and pings.
    pub(crate) max_udp_sessions: NonZeroUsize,
    /// UDP sessions and pings of one tenant.
    pub(crate) max_udp_sessions_per_enclave: NonZeroUsize,
    /// New connections per second of one tenant; `None`: as many as it likes.
    pub(crate) connection_rate: Option<NonZeroU32>,
    /// Bytes per second of one flow and direction; `None`: as many as it can.
    pub(crate) flow_rate: Option<NonZeroU64>,
    /// Bytes in the buffers of all TCP connections together.
    pub(crate) memory: u64,
    /// Published ports.
    pub(crate) max_forwards: NonZeroUsize,
}

impl Default for Limits {
    fn default() -> Self {
        const fn at_most(n: usize) -> NonZeroUsize {
            NonZeroUsize::new(n).expect("a limit is not zero")
        }
        Self {
            max_flows: at_most(16_384),
            max_flows_per_enclave: at_most(12_288),
            max_half_open: at_most(1024),
            max_udp_sessions: at_most(8192),
            max_udp_sessions_per_enclave: at_most(2048),
            connection_rate: None,
            flow_rate: None,
            memory: 512 << 20,
            max_forwards: at_most(16_384),
        }
    }
}

/// A capture of all frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pcap {
    pub(crate) file: PathBuf,
    /// Bytes of a frame that are kept.
    pub(crate) snaplen: u32,
}

impl Network {
    /// gvproxy's network in `subnet`: the first address is the gateway's, the second the device's, the last the host's.
    ///
    /// # Errors
    /// A text, if the subnet is too small or no subnet of hosts.
    pub(crate) fn in_subnet(subnet: Ipv4Net) -> Result<Self, String> {
        if !(8..=29).contains(&subnet.prefix_len()) {
            return Err(format!("the subnet {subnet} must have a prefix length from 8 to 29"));
        }
        let subnet = subnet.trunc();
        let first = subnet.network().to_bits();
        let host_ip = Ipv4Addr::from_bits(subnet.broadcast().to_bits() - 1);
        Ok(Self {
            mtu: 1500,
            subnet,
            subnet6: None,
            gateway_ip: Ipv4Addr::from_bits(first + 1),
            device_ip: Ipv4Addr::from_bits(first + 2),
            host_ip,
            gateway_mac: GATEWAY_MAC,
            static_leases: BTreeMap::new(),
            nat: BTreeMap::new(),
            zones: Vec::new(),
            search_domains: None,
            pins: Vec::new(),
            keep_address: KEEP_ADDRESS,
        })
    }

    /// gvproxy's own names, for `gateway_ip` and `host_ip`, and for the same of `subnet6`.
    pub(crate) fn default_zones(&self) -> Vec<Zone> {
        default_zones(self.gateway_ip, self.host_ip, self.subnet6.and_then(own_addresses))
    }

    /// Whether the addresses make sense together; the error names the two that do not.
    pub(crate) fn check(&self) -> Result<(), String> {
        let own = [("gateway", self.gateway_ip), ("device", self.device_ip), ("host", self.host_ip)];
        for (i, (name, ip)) in own.into_iter().enumerate() {
            if !self.is_host(ip) {
                return Err(format!("the {name}'s address {ip} is no host of the subnet {}", self.subnet));
            }
            if let Some((other, _)) = own[..i].iter().find(|(_, before)| *before == ip) {
                return Err(format!("{other} and {name} have the same address {ip}; they must differ"));
            }
        }
        let mut macs = BTreeMap::from([(self.gateway_mac, self.gateway_ip)]);
        for (ip, mac) in &self.static_leases {
            if !self.is_host(*ip) {
                return Err(format!("the lease of {ip} is no host of the subnet {}", self.subnet));
            }
            if *ip == self.gateway_ip {
                return Err(format!("the lease of {ip} is the gateway's own address"));
            }
            if let Some(other) = macs.insert(*mac, *ip) {
                return Err(format!("{other} and {ip} have the same hardware address; they must differ"));
            }
        }
        if let Some(ip) = self.nat.keys().find(|ip| self.subnet.contains(*ip)) {
            return Err(format!(
                "traffic to {ip} cannot be sent elsewhere: it is in the subnet {}, where only the host's address {} is, \
                 which leads to this host's loopback",
                self.subnet, self.host_ip
            ));
        }
        Ok(())
    }

    fn is_host(&self, ip: Ipv4Addr) -> bool {
        self.subnet.contains(&ip) && ip != self.subnet.network() && ip != self.subnet.broadcast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_network_is_gvproxys() {
        let network = Network::in_subnet(SUBNET).unwrap();
        let ips = [network.gateway_ip, network.device_ip, network.host_ip].map(|ip| ip.octets()[3]);
        assert_eq!(ips, [1, 2, 254]);
        assert_eq!(network.check(), Ok(()));
        let zones = network.default_zones();
        assert_eq!(zones[1].name, "docker.internal.");
        assert_eq!(zones[1].records[1].ip, network.host_ip);
        assert_eq!(zones[1].records.len(), 2);
        let six = Network { subnet6: Some("fd00:1:2:3::/64".parse().unwrap()), ..network };
        let addresses: Vec<_> =
            six.default_zones()[0].records[2..].iter().map(|record| record.ip.to_string()).collect();
        assert_eq!(addresses, ["fd00:1:2:3::1", "fd00:1:2:3::fe"]);
    }

    #[test]
    fn networks_follow_their_subnet_down_to_the_smallest() {
        let network = Network::in_subnet("10.0.0.77/29".parse().unwrap()).unwrap();
        assert_eq!(network.subnet.to_string(), "10.0.0.72/29");
        assert_eq!([network.gateway_ip, network.device_ip, network.host_ip].map(|ip| ip.octets()[3]), [73, 74, 78]);
        for bad in ["10.0.0.0/30", "0.0.0.0/0", "10.0.0.0/7", "10.0.0.1/32"] {
            assert!(Network::in_subnet(bad.parse().unwrap()).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_that_do_not_fit_are_named() {
        type Spoil = fn(&mut Network);
        let ip = |last| Ipv4Addr::new(192, 168, 127, last);
        let cases: [(Spoil, &str); 8] = [
            (|n| n.gateway_ip = [10, 0, 0, 1].into(), "the gateway's address 10.0.0.1 is no host"),
            (|n| n.device_ip = [192, 168, 127, 255].into(), "the device's address 192.168.127.255 is no host"),
            (|n| n.host_ip = n.gateway_ip, "gateway and host have the same address 192.168.127.1"),
            (|n| n.host_ip = n.device_ip, "device and host have the same address 192.168.127.2"),
            (
                |n| {
                    n.static_leases.insert([10, 0, 0, 1].into(), DEVICE_MAC);
                },
                "the lease of 10.0.0.1 is no host",
            ),
            (
                |n| {
                    n.static_leases.insert(n.gateway_ip, DEVICE_MAC);
                },
                "the gateway's own address",
            ),
            (
                |n| {
                    n.static_leases.insert(n.device_ip, GATEWAY_MAC);
                },
                "the same hardware address",
            ),
            (
                |n| {
                    n.nat.insert([192, 168, 127, 9].into(), Ipv4Addr::LOCALHOST);
                },
                "traffic to 192.168.127.9 cannot be sent elsewhere",
            ),
        ];
        for (spoil, error) in cases {
            let mut network = Network::in_subnet(SUBNET).unwrap();
            spoil(&mut network);
            let said = network.check().unwrap_err();
            assert!(said.contains(error), "{said}");
        }
        let mut network = Network::in_subnet(SUBNET).unwrap();
        network.static_leases = BTreeMap::from([(ip(2), DEVICE_MAC), (ip(3), DEVICE_MAC)]);
        assert!(network.check().unwrap_err().contains("192.168.127.2 and 192.168.127.3"));
    }
}
