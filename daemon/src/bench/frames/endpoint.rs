//! An address with flows: answers ARP, takes or makes connections.
//!
//! Driven by: frames and time. Bounds: [`FLOWS_MAX`] flows.

use super::{
    flow::{Flow, FlowId},
    wire::{Frame, Path, SYN, parse, push_arp},
};
use nitrotap_core::time::Instant;
use std::collections::BTreeMap;

/// More connections than a bench asks for.
const FLOWS_MAX: usize = 4096;

/// What happened to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Said {
    /// So many bytes of payload came; `wish` is the first byte of the stream.
    Bytes { wish: u8, bytes: u64 },
    /// They will send no more.
    Finished,
    /// Over, in order or not.
    Closed { broken: bool },
}

/// One end of the stream of frames.
#[derive(Debug)]
pub(in crate::bench) struct Endpoint {
    mac: [u8; 6],
    ip: [u8; 4],
    /// Takes every address it is asked for: a gateway.
    gateway: bool,
    mtu: u16,
    flows: BTreeMap<FlowId, Flow>,
    peer: Option<[u8; 6]>,
    next_port: u16,
    /// Frames in and out.
    frames: u64,
    /// Of all flows, in bytes.
    acked: u64,
    /// Length-prefixed, for the stream.
    out: Vec<u8>,
    said: Vec<(FlowId, Said)>,
}

const FIRST_PORT: u16 = 10_000;
const PORTS: u32 = 50_000;

impl Endpoint {
    pub(in crate::bench) const fn new(mac: [u8; 6], ip: [u8; 4], gateway: bool, mtu: u16, seed: u32) -> Self {
        Self {
            mac,
            ip,
            gateway,
            mtu,
            flows: BTreeMap::new(),
            peer: None,
            // A gateway may remember the connections of who was here before.
            next_port: FIRST_PORT + (seed.wrapping_mul(97) % PORTS) as u16,
            frames: 0,
            acked: 0,
            out: Vec::new(),
            said: Vec::new(),
        }
    }

    /// Asks who `ip` is; the answer makes [`Endpoint::dial`] possible.
    pub(in crate::bench) fn look_for(&mut self, ip: [u8; 4]) {
        push_arp(&mut self.out, 1, (self.mac, self.ip), ([0; 6], ip));
        self.frames += 1;
    }

    pub(in crate::bench) const fn has_peer(&self) -> bool {
        self.peer.is_some()
    }

    /// Opens a connection whose first byte will be `wish`; `None` without a peer or a free port.
    pub(in crate::bench) fn dial(&mut self, to: ([u8; 4], u16), wish: u8) -> Option<FlowId> {
        let their_mac = self.peer?;
        if self.flows.len() >= FLOWS_MAX {
            return None;
        }
        self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
        let path = Path {
            our_mac: self.mac,
            their_mac,
            our_ip: self.ip,
            their_ip: to.0,
            our_port: self.next_port,
            their_port: to.1,
        };
        let id = FlowId::of(&path);
        // Another number than the last connection of this port had.
        let first = u32::from(self.next_port).wrapping_mul(2_654_435_761).wrapping_add(self.frames as u32);
        self.flows.insert(id, Flow::dial(path, first, self.mtu, wish));
        Some(id)
    }

    /// A flow that is there.
    pub(in crate::bench) fn send(&mut self, id: FlowId, bytes: Option<u64>) {
        if let Some(flow) = self.flows.get_mut(&id) {
            match bytes {
                Some(bytes) => flow.send(bytes),
                None => flow.send_for_ever(),
            }
        }
    }

    pub(in crate::bench) fn finish(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.finish();
        }
    }

    /// Ends all flows at once, so that the other side keeps nothing of them.
    pub(in crate::bench) fn reset(&mut self) {
        for flow in self.flows.values_mut() {
            flow.reset(&mut self.out);
        }
        self.flows.clear();
    }

    pub(in crate::bench) const fn frames(&self) -> u64 {
        self.frames
    }

    /// Bytes that the other side has acknowledged, of all flows.
    pub(in crate::bench) const fn acked(&self) -> u64 {
        self.acked
    }

    /// Takes a frame.
    pub(in crate::bench) fn input(&mut self, frame: &[u8]) {
        self.frames += 1;
        match parse(frame) {
            Frame::ArpRequest { their_mac, their_ip, wanted } => {
                if wanted != their_ip && (self.gateway || wanted == self.ip) {
                    self.frames += 1;
                    push_arp(&mut self.out, 2, (self.mac, wanted), (their_mac, their_ip));
                }
            }
            Frame::ArpReply { their_mac, .. } => self.peer = Some(their_mac),
            Frame::Tcp(segment) => {
                let id = FlowId::of(&segment.path);
                if !self.flows.contains_key(&id) {
                    if !self.gateway || segment.header.flags != SYN || self.flows.len() >= FLOWS_MAX {
                        return;
                    }
                    self.flows.insert(id, Flow::accept(&segment, self.frames as u32, self.mtu));
                }
                let Some(flow) = self.flows.get_mut(&id) else { return };
                let (finished, unacked) = (flow.has_their_fin(), flow.unacked());
                if !flow.input(&segment) {
                    self.flows.remove(&id);
                    self.said.push((id, Said::Closed { broken: true }));
                    return;
                }
                self.acked += u64::from(flow.unacked().wrapping_sub(unacked));
                let bytes = flow.take_fresh();
                if bytes > 0 {
                    self.said.push((id, Said::Bytes { wish: flow.first_byte().unwrap_or(0), bytes }));
                }
                if !finished && flow.has_their_fin() {
                    self.said.push((id, Said::Finished));
                }
            }
            Frame::Other => {}
        }
    }

    /// What happened since the last call.
    pub(in crate::bench) fn said(&mut self) -> Vec<(FlowId, Said)> {
        std::mem::take(&mut self.said)
    }

    /// What is to be written; whoever writes it takes it away.
    pub(in crate::bench) const fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Fills [`Endpoint::out`] up to about `limit` bytes, and with every acknowledgement that is due. Flows take turns
    /// of `turn` bytes.
    pub(in crate::bench) fn poll(&mut self, now: Instant, limit: usize, turn: usize) {
        let mut closed = Vec::new();
        for (id, flow) in &mut self.flows {
            let end = limit.min(self.out.len() + turn);
            self.frames += flow.output(now, &mut self.out, end);
            if flow.is_closed() {
                closed.push(*id);
            }
        }
        for id in closed {
            self.flows.remove(&id);
            self.said.push((id, Said::Closed { broken: false }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carry(from: &mut Endpoint, to: &mut Endpoint) {
        let bytes = std::mem::take(from.out());
        let mut rest = &bytes[..];
        while let [low, high, more @ ..] = rest {
            let (frame, more) = more.split_at(usize::from(u16::from_le_bytes([*low, *high])));
            to.input(frame);
            rest = more;
        }
    }

    #[test]
    fn a_guest_finds_the_gateway_and_its_bytes_are_told_by_flow() {
        let mut guest = Endpoint::new([2, 0, 0, 0, 0, 2], [10, 0, 0, 2], false, 1500, 7);
        let mut host = Endpoint::new([2, 0, 0, 0, 0, 1], [10, 0, 0, 1], true, 1500, 7);
        assert_eq!(guest.dial(([10, 0, 0, 9], 80), b'S'), None);
        guest.look_for([10, 0, 0, 1]);
        carry(&mut guest, &mut host);
        carry(&mut host, &mut guest);
        let id = guest.dial(([10, 0, 0, 9], 80), b'S').unwrap();
        guest.send(id, Some(3000));
        let mut bytes = 0;
        for _ in 0..5 {
            guest.poll(Instant::ZERO, 64 << 10, 64 << 10);
            carry(&mut guest, &mut host);
            for (_, said) in host.said() {
                let Said::Bytes { wish: b'S', bytes: more } = said else { panic!("{said:?}") };
                bytes += more;
            }
            host.poll(Instant::ZERO, 64 << 10, 64 << 10);
            carry(&mut host, &mut guest);
        }
        assert_eq!(bytes, 3000);
        // ARP both ways, SYN, its answer, and an acknowledgement; three segments and theirs.
        assert!(guest.frames() >= 8);
    }
}
