//! The IPv6 side of a virtual network: its prefix, and which addresses in it are whose.
//!
//! Owns: four addresses. Driven by: the machine.

use super::config::ConfigError;
use core::net::Ipv6Addr;
use ipnet::Ipv6Net;

/// The gateway's interface identifier in the prefix.
const GATEWAY: u128 = 0x1;
/// The interface identifier of the address that stands for the host's loopback, as .254 does.
const HOST: u128 = 0xfe;

/// All nodes of a link (RFC 4291 section 2.7.1).
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network6 {
    pub(super) subnet: Ipv6Net,
    /// In the subnet.
    pub(super) gateway: Ipv6Addr,
    pub(super) host: Ipv6Addr,
    /// The gateway's, under which it is a router (RFC 4861 section 6.1.2).
    pub(super) link_local: Ipv6Addr,
}

impl Network6 {
    /// Of a prefix that hosts can make addresses in by themselves (RFC 4862), for a gateway with this hardware address.
    pub(super) fn new(subnet: Ipv6Net, mac: [u8; 6]) -> Result<Self, ConfigError> {
        let network = subnet.network();
        let usable = subnet.prefix_len() == 64
            && !network.is_unspecified()
            && !network.is_multicast()
            && !network.is_unicast_link_local()
            // Addresses there are IPv4's, or lead to them, and are judged as such.
            && !matches!(network.segments(), [0x64, 0xff9b, 0, 0, ..] | [0x64, 0xff9b, 1, ..] | [0x2002, ..] | [0x2001, 0, ..]);
        if !usable {
            return Err(ConfigError::Subnet6(subnet));
        }
        let at = |identifier| Ipv6Addr::from_bits(network.to_bits() | identifier);
        Ok(Self { subnet: subnet.trunc(), gateway: at(GATEWAY), host: at(HOST), link_local: link_local(mac) })
    }

    /// Whether the gateway answers for an address.
    pub(super) fn is_own(&self, address: Ipv6Addr) -> bool {
        self.is_gateway(address) || address == self.host
    }

    /// Whether an address is the gateway's: not that of the host.
    pub(super) fn is_gateway(&self, address: Ipv6Addr) -> bool {
        address == self.gateway || address == self.link_local
    }

    /// Whether an address may be a guest's, and be reached from the world.
    pub(super) fn is_guest(&self, address: Ipv6Addr) -> bool {
        // The first address is that of any router (RFC 4291 section 2.6.1).
        self.subnet.contains(&address) && address != self.subnet.network() && !self.is_own(address)
    }

    /// Whether an address may be a guest's on the link.
    pub(super) fn is_neighbour(&self, address: Ipv6Addr) -> bool {
        self.is_guest(address) || (address.is_unicast_link_local() && !self.is_own(address))
    }
}

/// The gateway's address in a prefix, and the one that stands for the host's loopback; `None` if it cannot be used.
#[must_use]
pub fn own_addresses(subnet: Ipv6Net) -> Option<(Ipv6Addr, Ipv6Addr)> {
    Network6::new(subnet, [0; 6]).ok().map(|network| (network.gateway, network.host))
}

/// The link-local address of a hardware address (RFC 4291 appendix A).
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    let id = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(u64::from_be_bytes(id)))
}

/// The group of those whose addresses end like this one (RFC 4291 section 2.7.1).
pub(super) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// The hardware address of a group (RFC 2464 section 7).
pub(super) const fn group_mac(group: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// The IPv4 address in one that the kernel takes for it: mapped (RFC 4291 section 2.5.5.2) or compatible (2.5.5.1).
pub(super) const fn is_ipv4_in_disguise(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_loopback() && address.to_ipv4().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_follow_from_the_prefix_and_the_hardware_address() {
        let network =
            Network6::new("fd12:3456:789a:1::77/64".parse().unwrap(), [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd]).unwrap();
        assert_eq!(network.subnet.to_string(), "fd12:3456:789a:1::/64");
        assert_eq!(network.gateway, address("fd12:3456:789a:1::1"));
        assert_eq!(network.host, address("fd12:3456:789a:1::fe"));
        assert_eq!(network.link_local, address("fe80::5894:efff:fee4:cdd"));
        for (guest, neighbour, text) in [
            (true, true, "fd12:3456:789a:1::2"),
            (false, false, "fd12:3456:789a:1::"),
            (false, false, "fd12:3456:789a:1::1"),
            (false, false, "fd12:3456:789a:1::fe"),
            (false, false, "fd12:3456:789a:2::2"),
            (false, true, "fe80::2"),
            (false, false, "fe80::5894:efff:fee4:cdd"),
        ] {
            let of = address(text);
            assert_eq!((network.is_guest(of), network.is_neighbour(of)), (guest, neighbour), "{text}");
        }
    }

    #[test]
    fn what_is_no_prefix_for_hosts_is_refused() {
        for bad in [
            "fd00::/63",
            "fd00::/65",
            "::/64",
            "::ffff:1.2.3.4/64",
            "ff02::/64",
            "fe80::/64",
            "febf::/64",
            "64:ff9b::/64",
            "64:ff9b:1:2::/64",
            "2002:a00:1:1::/64",
            "2001:0:1:2::/64",
        ] {
            let subnet = bad.parse().unwrap();
            assert_eq!(Network6::new(subnet, [2; 6]).unwrap_err(), ConfigError::Subnet6(subnet), "{bad}");
        }
        for good in ["fd00::/64", "2001:db8:0:1::/64", "fd00:ec2::/64"] {
            assert!(Network6::new(good.parse().unwrap(), [2; 6]).is_ok(), "{good}");
        }
    }

    #[test]
    fn groups_and_disguises_are_as_the_standards_say() {
        assert_eq!(solicited_node(address("4037::01:800:200e:8c6c")), address("ff02::1:ff0e:8c6c"));
        assert_eq!(group_mac(address("ff02::1:ff0e:8c6c")), [0x33, 0x33, 0xff, 0x0e, 0x8c, 0x6c]);
        assert!(is_ipv4_in_disguise(address("::ffff:10.0.0.1")) && is_ipv4_in_disguise(address("::10.0.0.1")));
        assert!(!is_ipv4_in_disguise(address("::1")) && !is_ipv4_in_disguise(address("64:ff9b::1")));
    }
}
