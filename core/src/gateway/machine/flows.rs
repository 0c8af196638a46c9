//! Connections: what the driver says about them, and does with them.

use super::{FlowId, Gateway, Instant, IpAddr, NOBODY, Unreachable, Waiter};
use crate::gateway::{
    handled::{DialError, OpenError},
    publishing::{Asker, Holder},
    tcp::{FlowStatus, Refused},
};
use core::net::SocketAddr;

impl Gateway {
    /// The world has answered a connection, or has not.
    pub fn handle_dialed(&mut self, now: Instant, flow: FlowId, result: Result<(), DialError>) {
        let (tcp, mut ctx) = self.flows();
        let why = match result {
            Ok(()) => return tcp.admit(now, &mut ctx, flow),
            Err(DialError::Refused) => Refused::Reset,
            Err(DialError::HostUnreachable) => Refused::Unreachable(Unreachable::Host),
            Err(DialError::NetworkUnreachable) => Refused::Unreachable(Unreachable::Network),
            Err(DialError::Prohibited) => Refused::Unreachable(Unreachable::Prohibited),
        };
        tcp.refuse(&mut ctx, flow, why);
    }

    /// Opens a connection to a guest's port. It is there when its status says so; until then it can be closed at any time.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot even be tried.
    pub fn connect(&mut self, now: Instant, guest: SocketAddr) -> Result<FlowId, OpenError> {
        let address = guest.ip();
        if !self.network.is_guest(address) {
            return Err(OpenError::NotAGuest(address));
        }
        let place = self.lan.guest(address);
        let tenant = self.lan.tenant_of_guest(address).unwrap_or(NOBODY);
        let gateway = self.network.gateway_for(address);
        let (tcp, mut ctx) = self.flows();
        let flow =
            tcp.connect(now, &mut ctx, tenant, gateway, (address, guest.port()), place).ok_or(OpenError::Limit)?;
        if place.is_none() && !self.lan.wait(now, &mut self.counters, address, Waiter::Flow(flow)) {
            self.abort(now, flow);
            return Err(OpenError::Limit);
        }
        Ok(flow)
    }

    /// What is known of a connection; `None` once it is over.
    #[must_use]
    pub fn status(&self, flow: FlowId) -> Option<FlowStatus> {
        self.tcp.status(flow)
    }

    /// Lets `take` have bytes from the guest; it gives how many it took. At most what lies in one piece is offered.
    pub fn read(&mut self, flow: FlowId, take: impl FnOnce(&[u8]) -> usize) -> usize {
        self.tcp.read(flow, take)
    }

    /// Lets `give` write bytes for the guest; it gives how many it wrote.
    pub fn write(&mut self, flow: FlowId, give: impl FnOnce(&mut [u8]) -> usize) -> usize {
        self.tcp.write(flow, give)
    }

    /// The world has closed its half of a connection.
    pub fn finish(&mut self, now: Instant, flow: FlowId) {
        self.tcp.finish(now, flow);
    }

    /// The world has reset a connection, or nobody wants it any more.
    pub fn abort(&mut self, now: Instant, flow: FlowId) {
        let (tcp, mut ctx) = self.flows();
        tcp.abort(now, &mut ctx, flow);
    }

    /// Who asks over a connection that a guest has opened.
    #[must_use]
    pub fn asker(&self, flow: FlowId) -> Option<Asker> {
        let (key, _) = self.tcp.place(flow)?;
        Some(Asker { flow, tenant: key.tenant, address: key.guest.0 })
    }

    /// Whether an address is where a guest asks from: on the same link, whoever else may claim it.
    #[must_use]
    pub fn owns(&self, asker: Asker, address: IpAddr) -> bool {
        let link = self.tcp.place(asker.flow).and_then(|(_, place)| place);
        let holder = self.lan.guest(address).map(|(port, _)| port);
        link.is_some() && link == holder
    }

    /// Whether `tenant` has an address.
    #[must_use]
    pub fn holder(&self, tenant: u32, address: IpAddr) -> Holder {
        match self.lan.tenant_of_guest(address) {
            Some(owner) if owner == tenant => Holder::Same,
            Some(_) => Holder::Other,
            None => Holder::Nobody,
        }
    }
}
