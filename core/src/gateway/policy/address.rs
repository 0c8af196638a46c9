//! Addresses that no rule is needed for.

use super::Reason;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use ipnet::IpNet;

/// The metadata service of EC2 (its user guide, "Access instance metadata"); link-local time and DNS are elsewhere.
const METADATA_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254);

/// The IPv4 address that an IPv6 address stands for: mapped (RFC 4291 section 2.5.5.2), compatible (2.5.5.1) or behind
/// the well-known prefix of translators (RFC 6052 section 2.1). Else the address itself.
pub(super) fn canonical(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V4(_) => addr,
        IpAddr::V6(v6) => embedded(v6).map_or(addr, IpAddr::V4),
    }
}

pub(super) fn embedded(addr: Ipv6Addr) -> Option<Ipv4Addr> {
    if addr.is_unspecified() || addr.is_loopback() {
        return None;
    }
    let bits = addr.to_bits();
    let mapped_or_compatible = matches!(bits >> 32, 0 | 0xffff);
    let translated = bits >> 32 == 0x0064_ff9b_u128 << 64;
    // The cut is the point: the address is in the last 32 bits.
    (mapped_or_compatible || translated).then(|| Ipv4Addr::from_bits(bits as u32))
}

/// The IPv4 addresses to which an IPv6 address may lead in the end, by a translator or a tunnel on the way: what is closed
/// as IPv4 must not be open in these clothes.
///
/// - `64:ff9b:1::/48` (RFC 8215): whoever runs the translator chose the length of its prefix, so that the address is at any
///   of the places of RFC 6052 section 2.2. Those in 0.0.0.0/8 are the zeroes around an address at another place.
/// - `2002::/16`, 6to4 (RFC 3056).
/// - `2001::/32`, Teredo (RFC 4380): the server, and the client, whose bits are inverted.
/// - Interface identifiers of ISATAP (RFC 5214 section 6.1), under any prefix.
pub(in crate::gateway) fn inside(addr: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let bits = addr.to_bits();
    // `length` bits from bit `from` on; the cut is the point.
    let part = |from: u32, length: u32| (bits >> (128 - from - length)) as u32 & u32::MAX >> (32 - length);
    let [a, b, c, ..] = addr.segments();
    let found = match (a, b) {
        // Bits 64 to 71 are skipped by RFC 6052.
        (0x64, 0xff9b) if c == 1 => [
            Some(part(96, 32)),
            Some(part(72, 32)),
            Some(part(56, 8) << 24 | part(72, 24)),
            Some(part(48, 16) << 16 | part(72, 16)),
        ],
        (0x2002, _) => [Some(part(16, 32)), None, None, None],
        (0x2001, 0) => [Some(part(32, 32)), Some(!part(96, 32)), None, None],
        _ if matches!(part(64, 32), 0x5efe | 0x0200_5efe) => [Some(part(96, 32)), None, None, None],
        _ => [None; 4],
    };
    let own = embedded(addr).map(Ipv4Addr::to_bits);
    found.into_iter().flatten().filter(|bits| bits >> 24 != 0).chain(own).map(Ipv4Addr::from_bits)
}

/// Why a canonical address is never a destination.
pub(super) const fn never(addr: IpAddr) -> Option<Reason> {
    match addr {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some(Reason::Unspecified),
        IpAddr::V4(v4) if v4.is_loopback() => Some(Reason::Loopback),
        IpAddr::V4(v4) if v4.is_multicast() => Some(Reason::Multicast),
        IpAddr::V4(v4) if v4.is_broadcast() => Some(Reason::Broadcast),
        IpAddr::V6(v6) if v6.is_unspecified() => Some(Reason::Unspecified),
        IpAddr::V6(v6) if v6.is_loopback() => Some(Reason::Loopback),
        IpAddr::V6(v6) if v6.is_multicast() => Some(Reason::Multicast),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// Whether a canonical address is link-local, or one of EC2's own services beside it: metadata, name servers, time,
/// credentials of containers.
pub(super) fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.segments()[..2] == METADATA_V6.segments()[..2],
    }
}

/// Whether a network has nothing but such addresses: a rule about it is meant for them.
pub(super) fn is_link_local_net(net: &IpNet) -> bool {
    let least = match net {
        IpNet::V4(_) => 16,
        IpNet::V6(net) if net.addr().is_unicast_link_local() => 10,
        IpNet::V6(_) => 32,
    };
    net.prefix_len() >= least && is_link_local(net.addr())
}

/// Whether an address says nothing without an interface, which no guest can name.
pub(super) const fn has_no_scope(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

pub(super) fn is_metadata(addr: IpAddr) -> bool {
    addr == METADATA_V4 || addr == METADATA_V6
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    quickcheck! {
        fn every_form_of_an_ipv4_address_is_that_address(bits: u32) -> bool {
            let v4 = Ipv4Addr::from_bits(bits);
            let translated = Ipv6Addr::from_bits(0x0064_ff9b << 96 | u128::from(bits));
            let compatible = Ipv6Addr::from_bits(u128::from(bits));
            canonical(IpAddr::V4(v4)) == v4
                && canonical(IpAddr::V6(v4.to_ipv6_mapped())) == v4
                && canonical(IpAddr::V6(translated)) == v4
                && (bits < 2 || canonical(IpAddr::V6(compatible)) == v4)
        }

        fn other_ipv6_addresses_stay_what_they_are(bits: u128) -> bool {
            let addr = IpAddr::V6(Ipv6Addr::from_bits(bits | 1 << 127));
            canonical(addr) == addr
        }
    }

    #[test]
    fn loopback_and_unspecified_are_no_ipv4_addresses_in_disguise() {
        for addr in ["::", "::1", "64:ff9c::1.2.3.4", "64:ff9b:0:0:0:1:102:304", "::fffe:1.2.3.4"] {
            let addr: IpAddr = addr.parse().expect("an address");
            assert_eq!(canonical(addr), addr);
        }
    }

    #[test]
    fn what_translators_and_tunnels_lead_to_is_known() {
        for (addr, leads_to) in [
            ("64:ff9b::10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("64:ff9b:1::10.0.0.1", "10.0.0.1"),
            ("64:ff9b:1:fffe::10.0.0.1", "10.0.0.1 254.0.0.0 255.254.0.0"),
            // Prefixes of 64, 56 and 48 bits.
            ("64:ff9b:1:0:a:0:100:0", "1.0.0.0 10.0.0.1"),
            ("64:ff9b:1:a:0:1::", "10.0.0.1"),
            ("64:ff9b:1:a00:0:100::", "10.0.0.1"),
            ("64:ff9b:2::10.0.0.1", ""),
            ("2002:a00:1::1", "10.0.0.1"),
            ("2002:a9fe:a9fe::", "169.254.169.254"),
            ("2001:0:a00:1:0:0:5601:5601", "10.0.0.1 169.254.169.254"),
            ("2001:db8::10.0.0.1", ""),
            ("2001:db8::5efe:10.0.0.1", "10.0.0.1"),
            ("fd00::200:5efe:127.0.0.1", "127.0.0.1"),
            ("fd00::5eff:127.0.0.1", ""),
            ("::1", ""),
            ("::", ""),
        ] {
            let found: Vec<String> = inside(addr.parse().expect("an address")).map(|v4| v4.to_string()).collect();
            assert_eq!(found.join(" "), leads_to, "{addr}");
        }
    }
}
