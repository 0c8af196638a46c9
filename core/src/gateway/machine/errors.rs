//! ICMP errors of guests: what they say about packets that the gateway has sent them.
//!
//! A guest's firewall rejects a connection by one (`REJECT` of iptables, `reject` of nftables), its kernel a datagram to a
//! port where nobody is. Only the guest that was sent a packet is heard about it, on the link that it was sent to; for TCP
//! the number must be one that is under way (RFC 5927 section 4). What is connected stays so, whatever they say.

use super::{Gateway, Instant, Place, wire};
use crate::gateway::{
    session::{Kind, SessionKey},
    tcp::FlowKey,
    wire::{Ip, Quoted, Verdict},
};

impl Gateway {
    /// An error whose checksum is right. False if it is none.
    pub(super) fn handle_error(&mut self, now: Instant, from: Place, ip: &Ip<'_>) -> bool {
        let Some((verdict, quoted)) = wire::read_error(ip) else { return false };
        self.counters.icmp_errors_in += 1;
        let Some(tenant) = self.lan.tenant(from.0) else { return true };
        let Quoted { source: remote, destination: guest, protocol, .. } = quoted;
        match protocol {
            wire::PROTO_TCP => {
                let key = FlowKey { tenant, guest, remote };
                let (tcp, mut ctx) = self.flows();
                tcp.handle_error(&mut ctx, from.0, &key, verdict, &quoted);
            }
            wire::PROTO_UDP if verdict == Verdict::Refused => {
                let key = SessionKey { tenant, kind: Kind::Udp, guest, remote };
                let (datagrams, lent) = self.datagrams();
                datagrams.refuse(now, lent, &key, from);
            }
            _ => {}
        }
        true
    }
}
