//! smoltcp's device of one connection: a packet to be taken, packets that were made.

use super::vnet::{self, Packet};
use smoltcp::{
    phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken},
    time::Instant,
};
use std::{collections::VecDeque, num::NonZeroUsize};

/// See the module.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) rx: Option<Vec<u8>>,
    pub(super) tx: VecDeque<Packet>,
    mtu: usize,
    /// Take TCP segments without a look at their checksum, as gvproxy's stack does (`RXChecksumOffload`).
    pub(super) trusting: bool,
    /// Leave checksums and segmentation of TCP to whoever takes the packets.
    offload: bool,
}

impl Slot {
    pub(super) const fn new(mtu: usize, trusting: bool, offload: bool) -> Self {
        Self { rx: None, tx: VecDeque::new(), mtu, trusting, offload }
    }
}

pub(super) struct Received(Vec<u8>);

pub(super) struct Sent<'a> {
    tx: &'a mut VecDeque<Packet>,
    offload: bool,
    meta: PacketMeta,
}

impl<'a> Sent<'a> {
    fn new(tx: &'a mut VecDeque<Packet>, offload: bool) -> Self {
        Self { tx, offload, meta: PacketMeta::default() }
    }
}

impl Device for Slot {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sent<'_>)> {
        self.rx.take().map(|packet| (Received(packet), Sent::new(&mut self.tx, self.offload)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sent<'_>> {
        Some(Sent::new(&mut self.tx, self.offload))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        if self.trusting {
            capabilities.checksum.ipv4 = Checksum::Tx;
            capabilities.checksum.tcp = Checksum::Tx;
        }
        if self.offload {
            capabilities.checksum.tcp = Checksum::Rx;
            // smoltcp counts the headers of IP and TCP in.
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(40 + vnet::goal(self.mtu));
        }
        capabilities
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; len];
        let result = f(&mut bytes);
        self.tx.push_back(if self.offload {
            let header = vnet::leave(&mut bytes, self.meta.segmentation_offload_size.map(Into::into));
            Packet { header, bytes }
        } else {
            Packet::plain(bytes)
        });
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.meta = meta;
    }
}
