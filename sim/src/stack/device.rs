//! smoltcp's device of one connection: a packet to be taken, packets that were made.

use smoltcp::{
    phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};
use std::collections::VecDeque;

/// See the module.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) rx: Option<Vec<u8>>,
    pub(super) tx: VecDeque<Vec<u8>>,
    mtu: usize,
    /// Take TCP segments without a look at their checksum, as gvproxy's stack does (`RXChecksumOffload`).
    trusting: bool,
}

impl Slot {
    pub(super) const fn new(mtu: usize, trusting: bool) -> Self {
        Self { rx: None, tx: VecDeque::new(), mtu, trusting }
    }
}

pub(super) struct Received(Vec<u8>);

pub(super) struct Sent<'a>(&'a mut VecDeque<Vec<u8>>);

impl Device for Slot {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sent<'_>)> {
        self.rx.take().map(|packet| (Received(packet), Sent(&mut self.tx)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sent<'_>> {
        Some(Sent(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        if self.trusting {
            capabilities.checksum.ipv4 = Checksum::Tx;
            capabilities.checksum.tcp = Checksum::Tx;
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
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}
