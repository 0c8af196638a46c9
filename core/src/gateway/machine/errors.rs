//! ICMP errors of guests: what they say about packets that the gateway has sent them.
//!
//! A guest's firewall rejects a connection by one (`REJECT` of iptables, `reject` of nftables), its kernel a datagram to a
//! port where nobody is. Only the guest that was sent a packet is heard about it, on the link that it was sent to; for TCP
//! the number must be one that is under way (RFC 5927 section 4). What is connected stays so, whatever they say.

use super::*;
use crate::gateway::wire::{Quoted, Verdict};

impl Gateway {
    /// An error whose checksum is right. False if it is none.
    pub(super) fn handle_error(&mut self, now: Instant, (port, mac): (PortId, [u8; 6]), ip: &Ip<'_>) -> bool {
        let Some((verdict, quoted)) = wire::read_error(ip) else { return false };
        self.counters.icmp_errors_in += 1;
        let Some(tenant) = self.ports.get(port).map(|port| port.tenant) else { return true };
        let Quoted { source: remote, destination: guest, protocol, .. } = quoted;
        match protocol {
            wire::PROTO_TCP => {
                let key = FlowKey { tenant, guest, remote };
                let Self { tcp, ports, tenants, out, counters, .. } = self;
                tcp.handle_error(&mut Context { ports, tenants, out, counters }, port, &key, verdict, &quoted);
            }
            wire::PROTO_UDP if verdict == Verdict::Refused => {
                // Whoever had the port is gone, and with the session goes the world's way to it: the next datagram of the peer
                // is refused by the host's kernel. A published port's client can be told, and begins another session.
                let key = SessionKey { tenant, kind: Kind::Udp, guest, remote };
                let owners = Owners { switch: &self.switch, neighbours: &self.neighbours };
                if let Ok(Some(session)) = self.sessions.find(now, &self.ports, owners, &key, (port, mac)) {
                    if self.sessions.is_of_the_world(session) {
                        self.out.push_back(Output::SessionRefused(session));
                    }
                    self.close_session(session);
                }
            }
            _ => {}
        }
        true
    }
}
