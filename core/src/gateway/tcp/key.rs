//! What a connection is found by.

use super::super::wire;
use core::{
    hash::{Hash, Hasher},
    net::IpAddr,
};

/// The addresses of a connection, and whose it is. Both are of one family.
#[derive(Clone, Copy, Debug, Eq, PartialOrd, Ord)]
pub(in super::super) struct FlowKey {
    pub(in super::super) tenant: u32,
    pub(in super::super) guest: (IpAddr, u16),
    pub(in super::super) remote: (IpAddr, u16),
}

impl PartialEq for FlowKey {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.tenant == other.tenant && same(self.guest, other.guest) && same(self.remote, other.remote)
    }
}

impl Hash for FlowKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_pair(state, self.tenant, self.guest, self.remote);
    }
}

/// Whether two ends are one, for every packet: as integers, where the derived comparison calls `memcmp`.
#[inline(always)]
pub(in super::super) fn same(a: (IpAddr, u16), b: (IpAddr, u16)) -> bool {
    a.1 == b.1
        && match (a.0, b.0) {
            (IpAddr::V4(a), IpAddr::V4(b)) => a.to_bits() == b.to_bits(),
            (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() == b.to_bits(),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
}

/// Hashes two ends and whose they are in as few words as there are, for every packet: two of IPv4, five of IPv6.
#[inline(always)]
pub(in super::super) fn hash_pair<H: Hasher>(state: &mut H, tenant: u32, guest: (IpAddr, u16), remote: (IpAddr, u16)) {
    let ports = u64::from(guest.1) << 16 | u64::from(remote.1);
    state.write_u64(u64::from(tenant) << 32 | ports);
    match (guest.0, remote.0) {
        (IpAddr::V4(guest), IpAddr::V4(remote)) => {
            state.write_u64(u64::from(guest.to_bits()) << 32 | u64::from(remote.to_bits()));
        }
        (guest, remote) => {
            for address in [guest, remote] {
                state.write_u128(wire::v6(address).to_bits());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::hash::BuildHasher;
    use foldhash::fast::FixedState;
    use quickcheck::quickcheck;
    use std::collections::BTreeSet;

    fn key(tenant: u32, guest: (IpAddr, u16), remote: (IpAddr, u16)) -> FlowKey {
        FlowKey { tenant, guest, remote }
    }

    quickcheck! {
        fn every_part_of_a_key_has_a_say_in_its_hash(tenant: u32, a: u32, b: u32, ports: (u16, u16), six: bool) -> bool {
            let state = FixedState::with_seed(7);
            let address = |n: u32| -> IpAddr {
                if six { core::net::Ipv6Addr::from_bits(0xfd << 120 | u128::from(n)).into() } else { core::net::Ipv4Addr::from_bits(n).into() }
            };
            let of = |tenant, a, p, b, q| state.hash_one(key(tenant, (address(a), p), (address(b), q)));
            let (p, q) = ports;
            let hashes = [
                of(tenant, a, p, b, q),
                of(tenant ^ 1, a, p, b, q),
                of(tenant, a ^ 1, p, b, q),
                of(tenant, a, p ^ 1, b, q),
                of(tenant, a, p, b ^ 1, q),
                of(tenant, a, p, b, q ^ 1),
            ];
            // Two of 64 bits are the same by chance once in an age.
            BTreeSet::from(hashes).len() == hashes.len()
        }
    }
}
