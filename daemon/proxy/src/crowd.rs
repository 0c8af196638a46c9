//! How many connections each client address has. IPv6 counts by /64: a host has at least as many addresses as that. A vsock
//! peer counts by its CID.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    rc::Rc,
};

/// The connections of a shard by client address; entries only for those that have some.
#[derive(Debug, Default)]
pub(crate) struct Crowd(RefCell<HashMap<Key, usize>>);

/// Who counts as one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Ip(IpAddr),
    Cid(u32),
}

impl Key {
    pub(crate) fn of_ip(address: IpAddr) -> Self {
        Self::Ip(match address.to_canonical() {
            v4 @ IpAddr::V4(_) => v4,
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        })
    }
}

/// One connection of an address, as long as it lives.
#[derive(Debug)]
pub(crate) struct Seat {
    crowd: Rc<Crowd>,
    key: Key,
}

impl Crowd {
    /// One more connection of `key`, if it has less than `max`.
    pub(crate) fn enter(self: &Rc<Self>, key: Key, max: usize) -> Option<Seat> {
        let mut counts = self.0.borrow_mut();
        let count = counts.entry(key).or_insert(0);
        if *count >= max {
            if max == 0 {
                counts.remove(&key);
            }
            return None;
        }
        *count += 1;
        Some(Seat { crowd: self.clone(), key })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.crowd.0.borrow_mut();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

/// Whether many clients may stand behind the address: gateways, relays and load balancers in front of an enclave have
/// addresses of private networks.
pub(crate) fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || (a == 100 && b & 0xc0 == 64)
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn key(text: &str) -> Key {
        Key::of_ip(ip(text))
    }

    #[test]
    fn a_cid_is_one_client_and_none_with_an_address() {
        let crowd = Rc::<Crowd>::default();
        let _one = crowd.enter(Key::Cid(3), 1).unwrap();
        assert!(crowd.enter(Key::Cid(3), 1).is_none());
        assert!(crowd.enter(Key::Cid(4), 1).is_some() && crowd.enter(key("0.0.0.3"), 1).is_some());
    }

    #[test]
    fn an_address_has_its_share_and_no_more_and_leaves_no_entry_behind() {
        let crowd = Rc::<Crowd>::default();
        let one = crowd.enter(key("192.0.2.1"), 2);
        let two = crowd.enter(key("::ffff:192.0.2.1"), 2);
        assert!(one.is_some() && two.is_some() && crowd.enter(key("192.0.2.1"), 2).is_none());
        assert!(crowd.enter(key("192.0.2.2"), 2).is_some(), "another address");
        drop(one);
        assert!(crowd.enter(key("192.0.2.1"), 2).is_some());
        drop(two);
        assert!(crowd.enter(key("192.0.2.9"), 0).is_none());
        assert!(crowd.0.borrow().is_empty());
    }

    #[test]
    fn a_slash_64_is_one_client() {
        let crowd = Rc::<Crowd>::default();
        let _one = crowd.enter(key("2001:db8:0:1::1"), 1).unwrap();
        assert!(crowd.enter(key("2001:db8:0:1:ffff:ffff:ffff:ffff"), 1).is_none());
        assert!(crowd.enter(key("2001:db8:0:2::1"), 1).is_some());
    }

    #[test]
    fn private_addresses_may_be_many_clients() {
        for private in [
            "10.1.2.3",
            "172.31.0.1",
            "192.168.127.1",
            "127.0.0.1",
            "100.64.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_private(ip(private)), "{private}");
        }
        for public in ["192.0.2.1", "100.128.0.1", "172.32.0.1", "2001:db8::1", "::ffff:8.8.8.8"] {
            assert!(!is_private(ip(public)), "{public}");
        }
    }
}
