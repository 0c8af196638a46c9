//! Addresses that no rule is needed for.

use super::Reason;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

/// Whether a canonical address is one that [`PolicyConfig::imds`](super::PolicyConfig::imds) is about.
pub(super) fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_link_local(),
        // EC2's local services: metadata, name servers, time, credentials of pods.
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.segments()[..2] == METADATA_V6.segments()[..2],
    }
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
}
