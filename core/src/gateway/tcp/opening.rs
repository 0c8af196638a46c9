//! How connections begin: held until the world has answered, or sent to a guest once it is found.

use super::*;

impl Tcp {
    /// A SYN of a connection that is not there: it is held until the world has answered.
    pub(in super::super) fn hold(
        &mut self,
        now: Instant,
        ctx: &mut Context<'_>,
        (port, mac): (PortId, [u8; 6]),
        key: FlowKey,
        target: Target,
        packet: &[u8],
    ) {
        if self.flows.len() >= self.config.max_flows {
            return ctx.counters.refuse(Refusal::Flows);
        }
        if let Err(refusal) = ctx.tenants.open(now, key.tenant, Origin::Guest) {
            return ctx.counters.refuse(refusal);
        }
        let id = self.insert(Entry {
            port: Some(port),
            mac,
            half_open: true,
            heard: now,
            deadline: Some(now + OPENING),
            ..Entry::new(key, Phase::Held(wire::without_payload(packet)))
        });
        if let Target::Address(to) = target {
            if !self.source_ports.take(now, to, key.tenant) {
                ctx.counters.refuse(Refusal::SourcePorts);
                return self.refuse(ctx, FlowId(id), Refused::Unreachable(Unreachable::Host));
            }
            if let Some(entry) = self.flows.get_mut(id) {
                entry.destination = Some(to);
            }
        }
        self.reschedule(now, id);
        ctx.out.push_back(Output::Dial { flow: FlowId(id), target, guest: SocketAddr::new(key.guest.0, key.guest.1) });
    }

    /// Opens a connection to a guest; it waits for [`Tcp::resolved`] if `place` is not known.
    pub(in super::super) fn connect(
        &mut self,
        now: Instant,
        ctx: &mut Context<'_>,
        tenant: u32,
        from: IpAddr,
        guest: (IpAddr, u16),
        place: Option<(PortId, [u8; 6])>,
    ) -> Option<FlowId> {
        if self.flows.len() >= self.config.max_flows {
            ctx.counters.refuse(Refusal::Flows);
            return None;
        }
        let key = self.free_key(now, tenant, from, guest)?;
        let Some(buffer) = self.budget.take() else {
            ctx.counters.refuse(Refusal::Memory);
            return None;
        };
        // Mapping buffers is dear: who is refused gets none.
        if let Err(refusal) = ctx.tenants.open(now, tenant, Origin::World) {
            self.budget.give_back(buffer);
            ctx.counters.refuse(refusal);
            return None;
        }
        let Some(buffers) = Buffers::new(self.config.allocate, buffer) else {
            self.budget.give_back(buffer);
            ctx.tenants.closed(tenant, Origin::World, true);
            ctx.counters.refuse(Refusal::Memory);
            return None;
        };
        let start = self.begin(now, &key);
        let flow = Box::new(Flow::connect(now, key.remote, guest, buffers, self.config.mtu, start));
        let (port, mac) = place.map_or((None, [0; 6]), |(port, mac)| (Some(port), mac));
        let phase = if place.is_some() { Phase::Open(flow) } else { Phase::Resolving(flow) };
        let entry = Entry {
            port,
            mac,
            half_open: true,
            heard: now,
            origin: Origin::World,
            deadline: Some(now + HANDSHAKE),
            ..Entry::new(key, phase)
        };
        let id = self.insert(entry);
        self.reschedule(now, id);
        self.mark(id);
        Some(FlowId(id))
    }

    /// The guest of a connection is found, or not.
    pub(in super::super) fn resolved(
        &mut self,
        ctx: &mut Context<'_>,
        FlowId(id): FlowId,
        place: Option<(PortId, [u8; 6], u32)>,
    ) {
        let Some(entry) = self.flows.get_mut(id) else { return };
        let Some((port, mac, tenant)) = place else { return self.remove(ctx, id, Closed::Unreachable) };
        if entry.key.tenant != tenant {
            let old = entry.key;
            let new = FlowKey { tenant, ..old };
            if self.by_key.contains_key(&new) {
                // Ports were looked for among those of nobody; this one is taken.
                return self.remove(ctx, id, Closed::Unreachable);
            }
            entry.key = new;
            self.by_key.remove(&old);
            self.by_key.insert(new, id);
            ctx.tenants.move_flow(old.tenant, tenant);
        }
        entry.port = Some(port);
        entry.mac = mac;
        let phase = std::mem::replace(&mut entry.phase, Phase::Held(Box::default()));
        entry.phase = match phase {
            Phase::Resolving(flow) => Phase::Open(flow),
            other @ (Phase::Held(_) | Phase::Open(_)) => other,
        };
        self.mark(id);
    }

    /// The world has answered: so may we.
    pub(in super::super) fn admit(&mut self, now: Instant, ctx: &mut Context<'_>, FlowId(id): FlowId) {
        let Some(entry) = self.flows.get_mut(id) else { return };
        let Phase::Held(packet) = &mut entry.phase else { return };
        let Some(buffer) = self.budget.take() else {
            ctx.counters.refuse(Refusal::Memory);
            return self.refuse(ctx, FlowId(id), Refused::Reset);
        };
        let Some(buffers) = Buffers::new(self.config.allocate, buffer) else {
            self.budget.give_back(buffer);
            ctx.counters.refuse(Refusal::Memory);
            return self.refuse(ctx, FlowId(id), Refused::Reset);
        };
        let packet = std::mem::take(packet);
        let key = entry.key;
        let start = self.begin(now, &key);
        let Some(entry) = self.flows.get_mut(id) else { return };
        let mut flow = Box::new(Flow::listen(now, key.remote, buffers, self.config.mtu, start));
        let place = Place { port: entry.port, mac: entry.mac };
        with_emit(&self.config, &mut self.scratch, ctx, place, (entry.key.guest.0, flow.mtu), |emit| {
            flow.receive(now, (&packet, wire::window(&packet)), emit)
        });
        entry.phase = Phase::Open(flow);
        entry.state = State::Listen;
        entry.deadline = Some(now + HANDSHAKE);
        self.reschedule(now, id);
        self.mark(id);
    }

    /// The world does not want the connection, or cannot be reached.
    pub(in super::super) fn refuse(&mut self, ctx: &mut Context<'_>, FlowId(id): FlowId, how: Refused) {
        let Some(Entry { key, port: Some(port), mac, phase: Phase::Held(packet), .. }) =
            self.flows.get(id).map(|e| &**e)
        else {
            return self.remove(ctx, id, Closed::Reset);
        };
        let (key, port, mac) = (*key, *port, *mac);
        match how {
            Refused::Reset => {
                if let Some(segment) = wire::segment_of(packet) {
                    self.reset_stray(ctx, (port, mac), &key, &segment);
                }
            }
            Refused::Unreachable(why) => {
                let (from, to) = (key.remote.0, key.guest.0);
                let mut message = wire::unreachable(packet, why);
                let protocol = wire::finish_error(&mut message, from, to);
                ctx.counters.icmp_errors_out += 1;
                let head = wire::head(to);
                if let Some(slot) = ctx.ports.slot(port, ETHERNET + head + message.len()) {
                    wire::ethernet(slot, mac, self.config.mac, wire::ethertype(to));
                    let packet = &mut slot[ETHERNET..];
                    packet[head..].copy_from_slice(&message);
                    wire::ip(packet, from, to, protocol);
                }
            }
        }
        self.remove(ctx, id, Closed::Reset);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tenant::TenantLimits;
    use super::*;

    /// A SYN with options, and as much payload as a frame has.
    fn syn(guest: (IpAddr, u16), remote: (IpAddr, u16), options: usize) -> Vec<u8> {
        let head = wire::head(guest.0);
        let mut packet = vec![1; 65_000];
        wire::ip(&mut packet, guest.0, remote.0, wire::PROTO_TCP);
        packet[head..head + 2].copy_from_slice(&guest.1.to_be_bytes());
        packet[head + 2..head + 4].copy_from_slice(&remote.1.to_be_bytes());
        packet[head + 12..head + 14].copy_from_slice(&[((TCP + options) as u8 / 4) << 4, SYN]);
        packet
    }

    #[test]
    fn a_syn_that_is_held_keeps_its_head_alone() {
        let limits = TenantLimits { flows: 10, half_open: 10, sessions: 1, rate: None };
        let config = TcpConfig {
            mac: [2; 6],
            mtu: 65_520,
            max_flows: 10,
            memory: 1 << 20,
            largest_buffer: 1 << 16,
            seed: 1,
            allocate: |len| Some(vec![0; len]),
            source_ports: SourcePortsConfig::default(),
        };
        let (mut tcp, mut ports, mut tenants) = (Tcp::new(config), Ports::default(), Tenants::new(limits, 10, 10));
        let (mut out, mut counters) = (Outputs::new(), Counters::default());
        let port = ports.attach(1, None).unwrap();
        for (n, address) in ["192.168.127.2", "fd00::2"].into_iter().enumerate() {
            let (guest, remote) = ((address.parse().unwrap(), 1000), (address.parse().unwrap(), 80));
            let packet = syn(guest, remote, 40);
            let key = FlowKey { tenant: 1, guest, remote };
            let ctx = &mut Context { ports: &mut ports, tenants: &mut tenants, out: &mut out, counters: &mut counters };
            tcp.hold(Instant::ZERO, ctx, (port, [2; 6]), key, Target::Dns, &packet);
            let FlowId(id) = tcp.find(&key).unwrap();
            let Phase::Held(held) = &tcp.flows.get(id).unwrap().phase else { panic!("{n}: not held") };
            let head = wire::head(guest.0) + TCP + 40;
            assert_eq!(held.len(), head);
            // A packet of its own, with the same ports, flags and options.
            assert_eq!(held[wire::head(guest.0)..], packet[wire::head(guest.0)..head]);
            if guest.0.is_ipv4() {
                let whole = wire::Ip::parse_v4(held).unwrap();
                assert_eq!(whole.packet.len(), head);
                assert!(crate::offload::checksum::is_valid(crate::offload::checksum::add(0, &held[..wire::IPV4])));
            } else {
                assert_eq!(usize::from(wire::be16(held, 4)), head - wire::IPV6);
            }
        }
    }
}
