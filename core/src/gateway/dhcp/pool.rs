//! Which address belongs to whom, until when.
//!
//! An entry stays when its time is over, so that a client that comes back gets its old address; it is the first to go when
//! addresses run out, oldest first.

use super::{DECLINE_HOLD, DhcpConfig, LEASES_MAX, OFFER_HOLD};
use crate::time::Instant;
use core::net::Ipv4Addr;
use std::collections::{BTreeMap, BTreeSet};

type Mac = [u8; 6];

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// `None` in quarantine.
    mac: Option<Mac>,
    bound: bool,
    until: Instant,
}

/// Invariants: an address is in `fresh` or in `entries`, never in both, and no static, gateway or host address is in either;
/// `by_mac` and `by_time` mirror `entries`.
#[derive(Debug)]
pub(super) struct Pool {
    statics: BTreeMap<Ipv4Addr, Mac>,
    /// Never given out so far, or forgotten.
    fresh: BTreeSet<Ipv4Addr>,
    entries: BTreeMap<Ipv4Addr, Entry>,
    by_mac: BTreeMap<Mac, Ipv4Addr>,
    by_time: BTreeSet<(Instant, Ipv4Addr)>,
}

impl Pool {
    pub(super) fn new(config: &DhcpConfig) -> Self {
        // Of a subnet of 30 bits or less, `hosts` leaves out the network and the broadcast address.
        let fresh = config
            .subnet
            .hosts()
            .filter(|address| *address != config.gateway && *address != config.host)
            .filter(|address| !config.static_leases.contains_key(address))
            .take(LEASES_MAX)
            .collect();
        Self {
            statics: config.static_leases.clone(),
            fresh,
            entries: BTreeMap::new(),
            by_mac: BTreeMap::new(),
            by_time: BTreeSet::new(),
        }
    }

    /// The address that is set aside for `mac`, the lowest if there are several.
    fn fixed(&self, mac: Mac) -> Option<Ipv4Addr> {
        self.statics.iter().find_map(|(address, owner)| (*owner == mac).then_some(*address))
    }

    /// An address for `mac`, and kept for it for a while: its own, the one it wants, a new one, or the longest unused one.
    pub(super) fn offer(&mut self, now: Instant, mac: Mac, wanted: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        if let Some(address) = self.fixed(mac) {
            return Some(address);
        }
        if let Some(address) = self.by_mac.get(&mac).copied() {
            let entry = self.entries[&address];
            if !(entry.bound && entry.until > now) {
                self.put(address, Entry { mac: Some(mac), bound: false, until: now + OFFER_HOLD });
            }
            return Some(address);
        }
        let oldest = || self.by_time.first().filter(|(until, _)| *until <= now).map(|(_, address)| *address);
        let address = wanted
            .filter(|address| self.is_free(now, *address))
            .or_else(|| self.fresh.first().copied())
            .or_else(oldest)?;
        self.put(address, Entry { mac: Some(mac), bound: false, until: now + OFFER_HOLD });
        Some(address)
    }

    /// Gives `address` to `mac` until `until`; false if it belongs to somebody else, or `mac` to another address.
    pub(super) fn bind(&mut self, now: Instant, mac: Mac, address: Ipv4Addr, until: Instant) -> bool {
        if let Some(fixed) = self.fixed(mac) {
            return fixed == address;
        }
        let own = self.by_mac.get(&mac).copied();
        if own != Some(address) {
            if !self.is_free(now, address) {
                return false;
            }
            if let Some(other) = own {
                self.forget(other);
            }
        }
        self.put(address, Entry { mac: Some(mac), bound: true, until });
        true
    }

    /// The client asked another server: what it was offered is free again. A lease stays.
    pub(super) fn withdraw(&mut self, mac: Mac) {
        if let Some(address) = self.by_mac.get(&mac).copied()
            && !self.entries[&address].bound
        {
            self.forget(address);
        }
    }

    /// Ends the lease of `address`; false if `mac` has none.
    pub(super) fn release(&mut self, now: Instant, mac: Mac, address: Ipv4Addr) -> bool {
        let own = self.by_mac.get(&mac) == Some(&address);
        if own {
            self.put(address, Entry { mac: Some(mac), bound: false, until: now });
        }
        own
    }

    /// Nobody gets `address` for a while; false if `mac` has not got it.
    pub(super) fn decline(&mut self, now: Instant, mac: Mac, address: Ipv4Addr) -> bool {
        let own = self.by_mac.get(&mac) == Some(&address);
        if own {
            self.put(address, Entry { mac: None, bound: false, until: now + DECLINE_HOLD });
        }
        own
    }

    /// Running leases and static ones.
    pub(super) fn leases(&self, now: Instant) -> BTreeMap<Ipv4Addr, Mac> {
        let running = self.entries.iter().filter(|(_, entry)| entry.bound && entry.until > now);
        let running = running.filter_map(|(address, entry)| Some((*address, entry.mac?)));
        self.statics.iter().map(|(address, mac)| (*address, *mac)).chain(running).collect()
    }

    fn is_free(&self, now: Instant, address: Ipv4Addr) -> bool {
        self.fresh.contains(&address) || self.entries.get(&address).is_some_and(|entry| entry.until <= now)
    }

    fn put(&mut self, address: Ipv4Addr, entry: Entry) {
        self.forget(address);
        self.fresh.remove(&address);
        if let Some(mac) = entry.mac {
            self.by_mac.insert(mac, address);
        }
        self.by_time.insert((entry.until, address));
        self.entries.insert(address, entry);
    }

    fn forget(&mut self, address: Ipv4Addr) {
        if let Some(old) = self.entries.remove(&address) {
            self.by_time.remove(&(old.until, address));
            if let Some(mac) = old.mac {
                self.by_mac.remove(&mac);
            }
            self.fresh.insert(address);
        }
    }

    #[cfg(test)]
    pub(super) fn check(&self, addresses: usize) {
        assert_eq!(self.fresh.len() + self.entries.len(), addresses);
        assert_eq!(self.by_time.len(), self.entries.len());
        assert_eq!(self.by_mac.len(), self.entries.values().filter(|entry| entry.mac.is_some()).count());
        for (address, entry) in &self.entries {
            assert!(!self.fresh.contains(address) && self.by_time.contains(&(entry.until, *address)));
            assert!(entry.mac.is_none_or(|mac| self.by_mac[&mac] == *address));
        }
    }
}
