//! The server's answers to each kind of message (RFC 2131 section 4.3).

use super::{
    Client, DhcpConfig, DhcpConfigError, DhcpCounters, DhcpDrop, LEASES_MAX,
    message::{Kind, Request},
    pool::Pool,
};
use crate::time::Instant;
use core::net::Ipv4Addr;
use dhcproto::v4::{DhcpOption, MessageType};
use hickory_proto::rr::Name;
use std::collections::BTreeMap;

/// See the [module](crate::gateway::dhcp).
#[derive(Debug)]
pub struct Dhcp {
    config: DhcpConfig,
    search: Vec<Name>,
    pool: Pool,
    counters: DhcpCounters,
}

/// What to send, from the gateway's port 67 to port 68.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpReply {
    /// The UDP payload, 300 bytes at least.
    pub payload: Vec<u8>,
    /// The address it is about; 0.0.0.0 in a refusal and in the answer to an INFORM.
    pub yiaddr: Ipv4Addr,
    /// The IP destination; 255.255.255.255 if `broadcast`.
    pub to: Ipv4Addr,
    /// The client's hardware address: the Ethernet destination unless `broadcast`.
    pub mac: [u8; 6],
    /// Whether it gives `yiaddr` to the client, from now on.
    pub lease: bool,
    /// Whether it tells the client that it cannot have what it asked for.
    pub refused: bool,
    /// Everybody on the link must get it: the client said that it cannot receive otherwise, or it is a refusal, whose client
    /// may have no address to receive at.
    pub broadcast: bool,
}

impl Dhcp {
    /// A server with no leases but the static ones.
    ///
    /// Search domains that are no domain names are left out.
    ///
    /// # Errors
    /// [`DhcpConfigError`] if addresses clash or do not fit.
    pub fn new(config: DhcpConfig) -> Result<Self, DhcpConfigError> {
        check(&config)?;
        let search = config.search.iter().filter_map(|domain| Name::from_ascii(domain).ok());
        let search = search.filter(|name| !name.is_root()).collect();
        Ok(Self { pool: Pool::new(&config), search, config, counters: DhcpCounters::default() })
    }

    /// What was answered and dropped so far.
    #[must_use]
    pub const fn counters(&self) -> &DhcpCounters {
        &self.counters
    }

    /// Who has which address now: running leases, static ones, and the gateway.
    #[must_use]
    pub fn leases(&self, now: Instant) -> BTreeMap<Ipv4Addr, [u8; 6]> {
        let mut leases = self.pool.leases(now);
        leases.insert(self.config.gateway, self.config.gateway_mac);
        leases
    }

    /// Whether a message of `mac` leaves all leases as they are: it asks for what the address has, or for no address.
    #[must_use]
    pub fn changes_nothing(&self, now: Instant, mac: [u8; 6], payload: &[u8]) -> bool {
        let Ok(request) = Request::parse(payload) else { return true };
        let has = |address: Option<Ipv4Addr>| {
            self.leases(now)
                .iter()
                .any(|(leased, owner)| *owner == mac && address.is_none_or(|wanted| wanted == *leased))
        };
        match request.kind {
            Kind::Discover => has(None),
            Kind::Request => self.is_ours(&request) && has(request.requested.or(request.ciaddr)),
            Kind::Inform => true,
            Kind::Release | Kind::Decline => false,
        }
    }

    /// A link is gone: its leases end after a while, unless their clients are heard of again.
    pub fn detach(&mut self, link: u64) {
        self.pool.detach(link);
    }

    /// `client` uses `address` on a link of its own from now on, without having asked.
    pub fn moved(&mut self, now: Instant, client: &Client<'_>, mac: [u8; 6], address: Ipv4Addr) {
        self.pool.moved(now, client, mac, address);
    }

    /// `address` is leased to whoever gives way to its former owner, who asks for it.
    pub fn give_way(&mut self, address: Ipv4Addr) {
        self.pool.give_way(address);
    }

    /// The address that a message asks for.
    #[must_use]
    pub fn asked_for(payload: &[u8]) -> Option<Ipv4Addr> {
        let request = Request::parse(payload).ok()?;
        request.requested.or(request.ciaddr)
    }

    /// Takes the payload of a datagram that `client` has sent to the gateway's, or to everybody's, port 67.
    ///
    /// # Errors
    /// [`DhcpDrop`] if nothing could be done with it; it is counted. `Ok(None)` is a message that needs no answer.
    pub fn handle(&mut self, now: Instant, client: &Client<'_>, payload: &[u8]) -> Result<Option<DhcpReply>, DhcpDrop> {
        let reply = Request::parse(payload).and_then(|request| self.answer(now, client, &request));
        if let Err(drop) = reply {
            self.counters.count(drop);
        }
        reply
    }

    fn answer(
        &mut self,
        now: Instant,
        client: &Client<'_>,
        request: &Request<'_>,
    ) -> Result<Option<DhcpReply>, DhcpDrop> {
        match request.kind {
            Kind::Discover => {
                let address = self.pool.offer(now, client, request.mac, request.requested)?;
                self.counters.offers += 1;
                self.reply(request, MessageType::Offer, address).map(Some)
            }
            Kind::Request => self.request(now, client, request),
            Kind::Inform => {
                // It is sent to an address, which therefore has to be one of ours.
                let address = request.ciaddr.ok_or(DhcpDrop::Malformed)?;
                if !self.config.subnet.contains(&address) {
                    return Err(DhcpDrop::Malformed);
                }
                self.counters.acks += 1;
                self.reply(request, MessageType::Ack, Ipv4Addr::UNSPECIFIED).map(Some)
            }
            Kind::Release => {
                let address = request.ciaddr.ok_or(DhcpDrop::Malformed)?;
                if self.is_ours(request) && self.pool.release(now, request.mac, address) {
                    self.counters.releases += 1;
                }
                Ok(None)
            }
            Kind::Decline => {
                let address = request.requested.ok_or(DhcpDrop::Malformed)?;
                if self.is_ours(request) && self.pool.decline(now, request.mac, address) {
                    self.counters.declines += 1;
                }
                Ok(None)
            }
        }
    }

    fn request(
        &mut self,
        now: Instant,
        client: &Client<'_>,
        request: &Request<'_>,
    ) -> Result<Option<DhcpReply>, DhcpDrop> {
        if !self.is_ours(request) {
            self.pool.withdraw(request.mac);
            return Ok(None);
        }
        // Option 50 in the states SELECTING and INIT-REBOOT, ciaddr in RENEWING and REBINDING (RFC 2131 table 4).
        let address = request.requested.or(request.ciaddr).ok_or(DhcpDrop::Malformed)?;
        if self.pool.bind(now, client, request.mac, address, now + self.config.lease_time)? {
            self.counters.acks += 1;
            self.reply(request, MessageType::Ack, address).map(Some)
        } else {
            self.counters.naks += 1;
            self.reply(request, MessageType::Nak, Ipv4Addr::UNSPECIFIED).map(Some)
        }
    }

    /// Whether no other server is meant.
    fn is_ours(&self, request: &Request<'_>) -> bool {
        request.server.is_none_or(|server| server == self.config.gateway)
    }

    fn reply(&self, request: &Request<'_>, kind: MessageType, yiaddr: Ipv4Addr) -> Result<DhcpReply, DhcpDrop> {
        let config = &self.config;
        let nak = kind == MessageType::Nak;
        let mut options = vec![DhcpOption::ServerIdentifier(config.gateway)];
        if !nak {
            options.push(DhcpOption::SubnetMask(config.subnet.netmask()));
            options.push(DhcpOption::Router(vec![config.gateway]));
            options.push(DhcpOption::InterfaceMtu(config.mtu));
            if !config.dns.is_empty() {
                options.push(DhcpOption::DomainNameServer(config.dns.clone()));
            }
            // None in the answer to an INFORM (RFC 2131 section 4.3.5).
            if !yiaddr.is_unspecified() {
                let seconds = u32::try_from(config.lease_time.as_secs()).unwrap_or(u32::MAX);
                options.push(DhcpOption::AddressLeaseTime(seconds));
            }
        }
        let search = if nak { &[][..] } else { &self.search };
        let payload = request.reply(kind, yiaddr, options, search, config.mtu)?;
        let ciaddr = request.ciaddr.filter(|_| kind == MessageType::Ack);
        let broadcast = nak || (ciaddr.is_none() && request.broadcast);
        let to = if broadcast { Ipv4Addr::BROADCAST } else { ciaddr.unwrap_or(yiaddr) };
        let lease = kind == MessageType::Ack && !yiaddr.is_unspecified();
        Ok(DhcpReply { payload, yiaddr, to, mac: request.mac, lease, refused: nak, broadcast })
    }
}

fn check(config: &DhcpConfig) -> Result<(), DhcpConfigError> {
    let subnet = config.subnet;
    if !(1..=29).contains(&subnet.prefix_len()) {
        return Err(DhcpConfigError::Subnet(subnet));
    }
    if config.mtu < 576 {
        return Err(DhcpConfigError::Mtu(config.mtu));
    }
    if config.dns.len() > 8 {
        return Err(DhcpConfigError::NameServers(config.dns.len()));
    }
    if config.static_leases.len() > LEASES_MAX {
        return Err(DhcpConfigError::StaticLeases(config.static_leases.len()));
    }
    for address in [config.gateway, config.host].iter().chain(config.static_leases.keys()) {
        let host = subnet.contains(address) && *address != subnet.network() && *address != subnet.broadcast();
        if !host {
            return Err(DhcpConfigError::Outside { address: *address, subnet });
        }
    }
    for address in [config.gateway, config.host] {
        if config.static_leases.contains_key(&address) || config.gateway == config.host {
            return Err(DhcpConfigError::Twice(address));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
