//! Connections: what the driver says about them, and does with them.

use super::*;

impl Gateway {
    /// The world has answered a connection, or has not.
    pub fn dialed(&mut self, now: Instant, flow: FlowId, result: Result<(), DialError>) {
        let Self { tcp, ports, tenants, out, counters, .. } = self;
        let ctx = &mut Context { ports, tenants, out, counters };
        match result {
            Ok(()) => tcp.admit(now, ctx, flow),
            Err(error) => tcp.refuse(
                ctx,
                flow,
                match error {
                    DialError::Refused => Refused::Reset,
                    DialError::HostUnreachable => Refused::Unreachable(Unreachable::Host),
                    DialError::NetworkUnreachable => Refused::Unreachable(Unreachable::Network),
                    DialError::Prohibited => Refused::Unreachable(Unreachable::Prohibited),
                },
            ),
        }
    }

    /// Opens a connection to a guest's port. It is there when its status says so; until then it can be closed at any time.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot even be tried.
    pub fn connect(&mut self, now: Instant, guest: SocketAddr) -> Result<FlowId, OpenError> {
        let address = guest.ip();
        if !self.is_guest(address) {
            return Err(OpenError::NotAGuest(address));
        }
        let place = self.neighbours.find(address);
        let tenant = place.and_then(|place| self.ports.get(place.port)).map_or(NOBODY, |port| port.tenant);
        let gateway = self.gateway_for(address);
        let Self { tcp, ports, tenants, out, counters, .. } = self;
        let ctx = &mut Context { ports, tenants, out, counters };
        let flow = tcp
            .connect(now, ctx, tenant, gateway, (address, guest.port()), place.map(|place| (place.port, place.mac)))
            .ok_or(OpenError::Limit)?;
        if place.is_none() {
            match self.neighbours.wait(now, address, Waiter::Flow(flow)) {
                Ok(true) => self.ask(address),
                Ok(false) => {}
                Err(_) => {
                    self.abort(now, flow);
                    return Err(OpenError::Limit);
                }
            }
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
        let Self { tcp, ports, tenants, out, counters, .. } = self;
        tcp.abort(now, &mut Context { ports, tenants, out, counters }, flow);
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
        let holder = self.neighbours.find(address).map(|neighbour| neighbour.port);
        link.is_some() && link == holder
    }

    /// Whether `tenant` has an address.
    #[must_use]
    pub fn holder(&self, tenant: u32, address: IpAddr) -> Holder {
        match self.neighbours.find(address).and_then(|neighbour| self.ports.get(neighbour.port)) {
            Some(port) if port.tenant == tenant => Holder::Same,
            Some(_) => Holder::Other,
            None => Holder::Nobody,
        }
    }
}
