//! Which address belongs to whom, until when.
//!
//! An entry stays when its time is over, so that a client that comes back gets its old address; it is the first to go when
//! addresses run out, oldest first. A holder (a machine, or a link of a listener) has at most its share of the addresses, a
//! tenant with many links at most three quarters, and when only a quarter is left it is for holders that have none.

use super::{Client, DECLINE_HOLD, DhcpConfig, DhcpDrop, LEASES_MAX, OFFER_HOLD};
use crate::{
    gateway::neighbour::{is_scarce, share_of},
    time::Instant,
};
use core::{net::Ipv4Addr, time::Duration};
use std::collections::{BTreeMap, BTreeSet};

type Mac = [u8; 6];

/// Tenant, and what [`Client::holder`] says.
type Holder = (u32, u64);

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// `None` in quarantine.
    mac: Option<Mac>,
    bound: bool,
    until: Instant,
    holder: Holder,
    link: u64,
    /// Until when its client was told that it has it; `until` is earlier when its link is gone.
    promised: Instant,
}

/// Invariants: an address is in `fresh` or in `entries`, never in both, and no static, pinned, gateway or host address is in
/// either; `by_mac` mirrors `entries`, and so do `running` and `over` together; `held` counts what is in `running`.
#[derive(Debug)]
pub(super) struct Pool {
    statics: BTreeMap<Ipv4Addr, Mac>,
    /// Who was last given an address that is pinned, and until when.
    pinned: BTreeMap<Ipv4Addr, Option<(Mac, Instant)>>,
    /// Never given out so far, or forgotten.
    fresh: BTreeSet<Ipv4Addr>,
    entries: BTreeMap<Ipv4Addr, Entry>,
    by_mac: BTreeMap<Mac, Ipv4Addr>,
    /// Entries by their end, those of which it had not come when that was last looked at.
    running: BTreeSet<(Instant, Ipv4Addr)>,
    /// The others.
    over: BTreeSet<(Instant, Ipv4Addr)>,
    held: BTreeMap<Holder, usize>,
    total: usize,
    keep: Duration,
    /// Links that are gone since the last call that said what time it is.
    gone: Vec<u64>,
}

impl Pool {
    pub(super) fn new(config: &DhcpConfig) -> Self {
        // Of a subnet of 30 bits or less, `hosts` leaves out the network and the broadcast address.
        let fresh: BTreeSet<Ipv4Addr> = config
            .subnet
            .hosts()
            .filter(|address| *address != config.gateway && *address != config.host)
            .filter(|address| !config.static_leases.contains_key(address) && !config.pinned.contains(address))
            .take(LEASES_MAX)
            .collect();
        Self {
            statics: config.static_leases.clone(),
            pinned: config.pinned.iter().map(|address| (*address, None)).collect(),
            total: fresh.len(),
            fresh,
            entries: BTreeMap::new(),
            by_mac: BTreeMap::new(),
            running: BTreeSet::new(),
            over: BTreeSet::new(),
            held: BTreeMap::new(),
            keep: config.keep_address,
            gone: Vec::new(),
        }
    }

    /// The address that is the client's whatever it asks for: pinned, or set aside for `mac` and nobody else's; the lowest if
    /// there are several.
    fn fixed(&self, client: &Client<'_>, mac: Mac) -> Option<Ipv4Addr> {
        let mut statics = self.statics.iter();
        client.pinned.or_else(|| {
            statics.find_map(|(address, owner)| (*owner == mac && (client.may_have)(*address)).then_some(*address))
        })
    }

    /// An address for `mac`, and kept for it for a while: its own, the one it wants, a new one, or the longest unused one.
    pub(super) fn offer(
        &mut self,
        now: Instant,
        client: &Client<'_>,
        mac: Mac,
        wanted: Option<Ipv4Addr>,
    ) -> Result<Ipv4Addr, DhcpDrop> {
        self.pass(now);
        if let Some(address) = self.fixed(client, mac) {
            return Ok(address);
        }
        let own = self.by_mac.get(&mac).copied().filter(|address| (client.may_have)(*address));
        if let Some(address) = own {
            let entry = self.entries[&address];
            let holds = entry.until > now && entry.holder == client.holder();
            if !holds {
                self.check_share(client)?;
            }
            if !(holds && entry.bound) {
                self.put(now, address, Entry::offer(now, client, mac));
            }
            return Ok(address);
        }
        self.check_share(client)?;
        let free = |address: &&Ipv4Addr| (client.may_have)(**address);
        let address = wanted
            .filter(|address| self.is_free(*address) && free(&address))
            .or_else(|| self.fresh.iter().find(free).copied())
            .or_else(|| self.over.iter().map(|(_, address)| address).find(free).copied())
            .ok_or(DhcpDrop::Exhausted)?;
        if let Some(other) = self.by_mac.get(&mac).copied() {
            self.forget(other);
        }
        self.put(now, address, Entry::offer(now, client, mac));
        Ok(address)
    }

    /// Gives `address` to `mac` until `until`; false if it belongs to somebody else, or `mac` to another address.
    pub(super) fn bind(
        &mut self,
        now: Instant,
        client: &Client<'_>,
        mac: Mac,
        address: Ipv4Addr,
        until: Instant,
    ) -> Result<bool, DhcpDrop> {
        self.pass(now);
        if let Some(fixed) = self.fixed(client, mac) {
            if let Some(last) = self.pinned.get_mut(&address).filter(|_| fixed == address) {
                *last = Some((mac, until));
            }
            return Ok(fixed == address);
        }
        if !(client.may_have)(address) {
            return Ok(false);
        }
        let own = self.by_mac.get(&mac).copied();
        if own != Some(address) && !self.is_free(address) {
            return Ok(false);
        }
        let holds = own
            .and_then(|own| self.entries.get(&own))
            .is_some_and(|entry| entry.until > now && entry.holder == client.holder());
        if !holds {
            self.check_share(client)?;
        }
        if let Some(other) = own.filter(|own| *own != address) {
            self.forget(other);
        }
        let entry = Entry { bound: true, until, promised: until, ..Entry::offer(now, client, mac) };
        self.put(now, address, entry);
        Ok(true)
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
        self.pass(now);
        let own = self.by_mac.get(&mac) == Some(&address);
        if let Some(entry) = self.entries.get(&address).copied().filter(|_| own) {
            self.put(now, address, Entry { bound: false, until: now, promised: now, ..entry });
        }
        own
    }

    /// Nobody gets `address` for a while; false if `mac` has not got it. It still counts as its holder's: a client that finds
    /// fault with every address is left with fewer.
    pub(super) fn decline(&mut self, now: Instant, mac: Mac, address: Ipv4Addr) -> bool {
        self.pass(now);
        let own = self.by_mac.get(&mac) == Some(&address);
        if let Some(entry) = self.entries.get(&address).copied().filter(|_| own) {
            let until = now + DECLINE_HOLD;
            self.put(now, address, Entry { mac: None, bound: false, until, promised: until, ..entry });
        }
        own
    }

    /// Whoever has `address` gives way to who had it before.
    pub(super) fn give_way(&mut self, address: Ipv4Addr) {
        self.forget(address);
    }

    /// A client was heard of with its address on another link of its tenant, without asking again: its lease goes on.
    pub(super) fn moved(&mut self, now: Instant, client: &Client<'_>, mac: Mac, address: Ipv4Addr) {
        self.pass(now);
        let Some(entry) = self.entries.get(&address).copied() else { return };
        if entry.mac == Some(mac) && entry.bound && entry.holder.0 == client.tenant && entry.promised > now {
            let entry = Entry { holder: client.holder(), link: client.link, until: entry.promised, ..entry };
            self.put(now, address, entry);
        }
    }

    /// A link is gone, and soon its leases are.
    pub(super) fn detach(&mut self, link: u64) {
        if self.entries.values().any(|entry| entry.link == link) {
            self.gone.push(link);
        }
    }

    /// Running leases, static and pinned ones.
    pub(super) fn leases(&self, now: Instant) -> BTreeMap<Ipv4Addr, Mac> {
        let running = self.entries.iter().filter(|(_, entry)| entry.bound && entry.until > now);
        let running = running.filter_map(|(address, entry)| Some((*address, entry.mac?)));
        let pinned = self.pinned.iter().filter_map(|(address, last)| Some((*address, (*last)?)));
        let pinned = pinned.filter(|(_, (_, until))| *until > now).map(|(address, (mac, _))| (address, mac));
        self.statics.iter().map(|(address, mac)| (*address, *mac)).chain(running).chain(pinned).collect()
    }

    /// Whether one more address may be a client's.
    fn check_share(&self, client: &Client<'_>) -> Result<(), DhcpDrop> {
        let own = self.held.get(&client.holder()).copied().unwrap_or(0);
        let of_tenant: usize = self.held.range((client.tenant, 0)..=(client.tenant, u64::MAX)).map(|(_, n)| n).sum();
        let too_many = own >= share_of(self.total)
            || is_scarce(self.total, of_tenant)
            || (own > 0 && is_scarce(self.total, self.running.len()));
        if too_many { Err(DhcpDrop::Share) } else { Ok(()) }
    }

    fn is_free(&self, address: Ipv4Addr) -> bool {
        self.fresh.contains(&address)
            || self.entries.get(&address).is_some_and(|entry| self.over.contains(&(entry.until, address)))
    }

    /// What time it is: leases of links that are gone end soon, and what has ended counts no more.
    fn pass(&mut self, now: Instant) {
        let soon = now + self.keep;
        for link in std::mem::take(&mut self.gone) {
            let of_link: Vec<Ipv4Addr> = self
                .entries
                .iter()
                .filter(|(_, entry)| entry.link == link && entry.until > soon)
                .map(|(a, _)| *a)
                .collect();
            for address in of_link {
                let entry = Entry { until: soon, ..self.entries[&address] };
                self.put(now, address, entry);
            }
        }
        while let Some((until, address)) = self.running.first().copied().filter(|(until, _)| *until <= now) {
            self.running.pop_first();
            self.over.insert((until, address));
            let holder = self.entries[&address].holder;
            self.let_go(holder);
        }
    }

    fn put(&mut self, now: Instant, address: Ipv4Addr, entry: Entry) {
        self.forget(address);
        self.fresh.remove(&address);
        if let Some(mac) = entry.mac {
            self.by_mac.insert(mac, address);
        }
        if entry.until > now {
            self.running.insert((entry.until, address));
            *self.held.entry(entry.holder).or_default() += 1;
        } else {
            self.over.insert((entry.until, address));
        }
        self.entries.insert(address, entry);
    }

    fn forget(&mut self, address: Ipv4Addr) {
        if let Some(old) = self.entries.remove(&address) {
            if self.running.remove(&(old.until, address)) {
                self.let_go(old.holder);
            }
            self.over.remove(&(old.until, address));
            if let Some(mac) = old.mac {
                self.by_mac.remove(&mac);
            }
            self.fresh.insert(address);
        }
    }

    fn let_go(&mut self, holder: Holder) {
        if let Some(count) = self.held.get_mut(&holder) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(&holder);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.running.len()
    }

    #[cfg(test)]
    pub(super) fn check(&self, addresses: usize) {
        assert_eq!(self.fresh.len() + self.entries.len(), addresses);
        assert_eq!(self.running.len() + self.over.len(), self.entries.len());
        assert_eq!(self.held.values().sum::<usize>(), self.running.len());
        assert_eq!(self.by_mac.len(), self.entries.values().filter(|entry| entry.mac.is_some()).count());
        for (address, entry) in &self.entries {
            let key = (entry.until, *address);
            assert!(!self.fresh.contains(address) && self.running.contains(&key) != self.over.contains(&key));
            assert!(entry.mac.is_none_or(|mac| self.by_mac[&mac] == *address));
            assert!(!self.running.contains(&key) || self.held.contains_key(&entry.holder));
        }
    }
}

impl Entry {
    fn offer(now: Instant, client: &Client<'_>, mac: Mac) -> Self {
        let until = now + OFFER_HOLD;
        Self { mac: Some(mac), bound: false, until, holder: client.holder(), link: client.link, promised: until }
    }
}
