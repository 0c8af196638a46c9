//! Which station has which addresses, and which it may have.

use super::{Lan, Place, PortId, leases::client};
use crate::{
    gateway::{
        counters::Counters,
        duplicates::{Duplicate, Station},
        neighbour::{Claimed, Neighbour, Neighbours, Spoofed, Waiter},
        pins::Pins,
        port::Ports,
        switch::Learning,
    },
    time::Instant,
};
use core::net::IpAddr;

impl Lan {
    /// A frame comes from this station. Whether it has its hardware address to itself; `None` if nothing of it is heard.
    #[inline]
    pub(in super::super) fn learn(
        &mut self,
        now: Instant,
        counters: &mut Counters,
        (port, source): Place,
    ) -> Option<bool> {
        match self.switch.learn(now, &mut self.ports, port, source) {
            Learning::Known | Learning::New => Some(true),
            // Its own connections go on: they are told apart by their link. Two enclaves with one address, such as two
            // stock nitridings, both reach the world.
            Learning::Spoofed if source != self.mac && source[0] & 1 == 0 => {
                counters.spoofed += 1;
                self.duplicate_mac(now, counters, port, source);
                Some(false)
            }
            Learning::Spoofed => {
                counters.spoofed += 1;
                None
            }
            Learning::Full => {
                counters.addresses_full += 1;
                Some(true)
            }
        }
    }

    /// A guest is where it says, or has just got its address (`leased`). Gives who waited for it; `None` if it may not have it.
    pub(in super::super) fn claim(
        &mut self,
        now: Instant,
        counters: &mut Counters,
        (port, mac): Place,
        address: IpAddr,
        leased: bool,
    ) -> Option<Vec<Waiter>> {
        let learned = if self.may_use((port, mac), address) {
            self.neighbours.learn(now, &self.ports, address, Neighbour { port, mac }, leased)
        } else {
            Err(Spoofed)
        };
        let Ok(Claimed { waiters, moved, full }) = learned else {
            counters.spoofed += 1;
            self.duplicate(now, counters, port, Station::Ip(address));
            return None;
        };
        counters.addresses_full += u64::from(full);
        if let (true, IpAddr::V4(address)) = (moved, address) {
            let client = client(&self.ports, port, None, &|_| true);
            self.dhcp.moved(now, &client, mac, address);
        }
        Some(waiters)
    }

    /// Something is to wait until it is known where a guest is, which is asked for if need be. False if it cannot wait.
    pub(in super::super) fn wait(
        &mut self,
        now: Instant,
        counters: &mut Counters,
        address: IpAddr,
        waiter: Waiter,
    ) -> bool {
        let Ok(first) = self.neighbours.wait(now, address, waiter) else { return false };
        if first {
            self.ask(counters, address);
        }
        true
    }

    /// Whether a guest's address may be that of a station: nobody else has it, and it is not fixed whose it is.
    pub(super) fn may_have(&self, now: Instant, from: Place, address: IpAddr) -> bool {
        may_have(&self.pins, &self.neighbours, &self.ports, now, from, address)
    }

    /// Whether another tenant has an address, but gives way to that of `port`.
    pub(super) fn is_former(&self, now: Instant, port: PortId, address: IpAddr) -> bool {
        self.neighbours.is_former(now, &self.ports, address, port)
    }

    /// Whether a station may send as `address`. Of two with one address each may, and is answered by its link; but not where
    /// the operator says whose it is.
    #[inline]
    fn may_use(&self, from: Place, address: IpAddr) -> bool {
        may_use(&self.pins, &self.ports, from, address)
    }

    /// The same, where it has sent. What it may not is counted, and told.
    #[inline]
    pub(in super::super) fn may_send_as(
        &mut self,
        now: Instant,
        counters: &mut Counters,
        from: Place,
        address: IpAddr,
    ) -> bool {
        let may = self.may_use(from, address);
        if !may {
            counters.spoofed += 1;
            self.duplicate(now, counters, from.0, Station::Ip(address));
        }
        may
    }

    /// A station would like to have what another one has.
    pub(super) fn duplicate(&mut self, now: Instant, counters: &mut Counters, port: PortId, address: Station) {
        let owner = match address {
            Station::Ip(address) => self.neighbours.owner(address),
            Station::Mac(mac) => self.switch.find(mac),
        };
        let Some(holder) = self.ports.holder(port) else { return };
        let duplicate = Duplicate { address, owner, claimant: port };
        counters.duplicates += u64::from(self.duplicates.note(now, holder, duplicate));
    }

    /// The same of a hardware address, with which frames may come in any number.
    #[cold]
    fn duplicate_mac(&mut self, now: Instant, counters: &mut Counters, port: PortId, mac: [u8; 6]) {
        let Some(known) = self.ports.get_mut(port).map(|port| port.twin.replace(mac)) else { return };
        if known != Some(mac) {
            self.duplicate(now, counters, port, Station::Mac(mac));
        }
    }
}

/// See [`Lan::may_use`].
#[inline]
fn may_use(pins: &Pins, ports: &Ports, (port, mac): Place, address: IpAddr) -> bool {
    pins.is_empty() || ports.get(port).is_some_and(|port| pins.may_use(address, port.tenant, mac))
}

/// See [`Lan::may_have`].
pub(super) fn may_have(
    pins: &Pins,
    neighbours: &Neighbours,
    ports: &Ports,
    now: Instant,
    from: Place,
    address: IpAddr,
) -> bool {
    may_use(pins, ports, from, address) && !neighbours.is_elsewhere(now, ports, address, from.0)
}
