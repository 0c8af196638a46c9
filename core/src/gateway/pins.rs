//! Addresses that an operator has fixed: each is one tenant's, and nobody else gets or uses it.
//!
//! Owns: the table. Driven by: the machine, for every claim and, where there are any, for every packet. Bounds: [`MAX_PINS`].

use super::config::ConfigError;
use core::net::{IpAddr, Ipv4Addr};
use std::collections::BTreeMap;

/// Addresses that may be fixed.
pub const MAX_PINS: usize = 4096;

/// An address that belongs to one tenant, there or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Whose it is: a CID, or the number of a listener.
    pub tenant: u32,
    /// The address, of either family.
    pub address: IpAddr,
    /// The only hardware address that may use it, which nobody else may use either.
    pub mac: Option<[u8; 6]>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pins {
    by_address: BTreeMap<IpAddr, (u32, Option<[u8; 6]>)>,
    by_mac: BTreeMap<[u8; 6], u32>,
}

impl Pins {
    /// Each address belongs to one, and so does each hardware address.
    pub(super) fn new(pins: &[Pin], gateway_mac: [u8; 6]) -> Result<Self, ConfigError> {
        if pins.len() > MAX_PINS {
            return Err(ConfigError::Pins(pins.len()));
        }
        let (mut by_address, mut by_mac) = (BTreeMap::new(), BTreeMap::new());
        for Pin { tenant, address, mac } in pins {
            if by_address.insert(*address, (*tenant, *mac)).is_some() {
                return Err(ConfigError::PinnedTwice(*address));
            }
            let Some(mac) = mac else { continue };
            if mac[0] & 1 == 1 || *mac == [0; 6] || *mac == gateway_mac {
                return Err(ConfigError::PinnedMac(*address));
            }
            if by_mac.insert(*mac, *tenant).is_some_and(|other| other != *tenant) {
                return Err(ConfigError::PinnedMacTwice(*address));
            }
        }
        Ok(Self { by_address, by_mac })
    }

    /// Whether there are none: then nothing need be asked.
    pub(super) fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }

    /// Whether a station may use an address.
    pub(super) fn may_use(&self, address: IpAddr, tenant: u32, mac: [u8; 6]) -> bool {
        self.by_address
            .get(&address)
            .is_none_or(|(owner, station)| *owner == tenant && station.is_none_or(|station| station == mac))
    }

    /// Hardware addresses that are one tenant's each, for the switch.
    pub(super) const fn macs(&self) -> &BTreeMap<[u8; 6], u32> {
        &self.by_mac
    }

    /// The addresses of IPv4 that a station may have, those for it alone first.
    pub(super) fn of(&self, tenant: u32, mac: [u8; 6]) -> impl Iterator<Item = Ipv4Addr> {
        let of = move |wanted: Option<[u8; 6]>| {
            self.by_address.iter().filter_map(move |(address, (owner, station))| match address {
                IpAddr::V4(address) if *owner == tenant && *station == wanted => Some(*address),
                IpAddr::V4(_) | IpAddr::V6(_) => None,
            })
        };
        of(Some(mac)).chain(of(None))
    }

    /// All addresses of IPv4.
    pub(super) fn ipv4(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.by_address.keys().filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 99];

    fn pin(tenant: u32, last: u8, mac: Option<[u8; 6]>) -> Pin {
        Pin { tenant, address: [192, 168, 127, last].into(), mac }
    }

    #[test]
    fn an_address_is_its_owners_and_where_a_station_is_named_only_that_ones() {
        let pins = Pins::new(&[pin(16, 2, None), pin(17, 3, Some([2; 6]))], GATEWAY).unwrap();
        let may = |last: u8, tenant, mac| pins.may_use([192, 168, 127, last].into(), tenant, mac);
        assert!(may(2, 16, [4; 6]) && !may(2, 17, [4; 6]));
        assert!(may(3, 17, [2; 6]) && !may(3, 17, [4; 6]) && !may(3, 16, [2; 6]));
        assert!(may(9, 5, [6; 6]));
        assert_eq!(*pins.macs(), BTreeMap::from([([2; 6], 17)]));
        assert_eq!(pins.of(17, [2; 6]).collect::<Vec<_>>(), [Ipv4Addr::new(192, 168, 127, 3)]);
        assert_eq!(pins.of(17, [4; 6]).count(), 0);
        assert_eq!(pins.of(16, [4; 6]).count(), 1);
    }

    #[test]
    fn nothing_is_fixed_twice_and_no_station_is_the_gateway_or_a_group() {
        for bad in [
            vec![pin(1, 2, None), pin(2, 2, None)],
            vec![pin(1, 2, Some(GATEWAY))],
            vec![pin(1, 2, Some([1, 0, 0, 0, 0, 1]))],
            vec![pin(1, 2, Some([2; 6])), pin(2, 3, Some([2; 6]))],
            (0..=MAX_PINS as u32)
                .map(|n| Pin { tenant: 1, address: Ipv4Addr::from_bits(n).into(), mac: None })
                .collect(),
        ] {
            assert!(Pins::new(&bad, GATEWAY).is_err(), "{bad:?}");
        }
        assert!(Pins::new(&[pin(1, 2, Some([2; 6])), pin(1, 3, Some([2; 6]))], GATEWAY).is_ok());
    }
}
