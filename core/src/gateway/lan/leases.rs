//! Questions for a lease, and who may ask them.

use super::{Lan, NOBODY, Place, PortId};
use crate::{
    gateway::{
        counters::Counters,
        dhcp::{self, Dhcp, DhcpReply},
        duplicates::Station,
        port::{ANONYMOUS, Ports},
    },
    time::Instant,
};
use core::net::Ipv4Addr;

impl Lan {
    /// A DHCP message. Gives the answer to its link, if there is any.
    pub(in super::super) fn handle_dhcp(
        &mut self,
        now: Instant,
        counters: &mut Counters,
        (port, mac): Place,
        data: &[u8],
    ) -> Option<DhcpReply> {
        if !self.may_ask_for_lease(now, (port, mac), data) {
            counters.spoofed += 1;
            return None;
        }
        // A twin asks for what its double has, and changes nothing.
        let home = self.switch.find(mac).unwrap_or(port);
        if let Some(address) = Dhcp::asked_for(data).filter(|address| self.is_former(now, home, (*address).into())) {
            self.dhcp.give_way(address);
        }
        let Self { pins, neighbours, ports, dhcp, .. } = self;
        let may_have =
            |address: Ipv4Addr| super::stations::may_have(pins, neighbours, ports, now, (home, mac), address.into());
        let pinned = ports.get(home).and_then(|home| {
            // One that another station of the tenant has is that one's.
            let free = |address: &Ipv4Addr| neighbours.find((*address).into()).is_none_or(|there| there.mac == mac);
            pins.of(home.tenant, mac).find(free)
        });
        // What is dropped is counted there.
        let reply = dhcp.handle(now, &client(ports, home, pinned, &may_have), data).ok().flatten()?;
        if let Some(address) = Dhcp::asked_for(data).filter(|_| reply.refused)
            && self.network.is_guest(address.into())
            && !self.may_have(now, (port, mac), address.into())
        {
            self.duplicate(now, counters, port, Station::Ip(address.into()));
        }
        Some(reply)
    }

    /// Whether a DHCP message is its sender's own affair: about the hardware address it comes from, which is known to be on
    /// this link. Of an address that is on another link, such as that of a twin, only what changes nothing is heard.
    fn may_ask_for_lease(&self, now: Instant, (port, mac): Place, data: &[u8]) -> bool {
        if data.get(28..34) != Some(&mac[..]) {
            return false;
        }
        match self.switch.find(mac) {
            Some(home) if home == port => true,
            Some(_) => self.dhcp.changes_nothing(now, mac, data),
            None => false,
        }
    }

    /// Whether a station is at home on its link: no twin of one elsewhere.
    pub(in super::super) fn is_at_home(&self, (port, mac): Place) -> bool {
        self.switch.find(mac) == Some(port)
    }
}

/// The station on a link, as a client of the DHCP server.
pub(super) fn client<'a>(
    ports: &Ports,
    port: PortId,
    pinned: Option<Ipv4Addr>,
    may_have: &'a dyn Fn(Ipv4Addr) -> bool,
) -> dhcp::Client<'a> {
    let tenant = ports.get(port).map_or(NOBODY, |port| port.tenant);
    let holder = if tenant < ANONYMOUS { 0 } else { port.to_u64() };
    dhcp::Client { tenant, holder, link: port.to_u64(), pinned, may_have }
}
