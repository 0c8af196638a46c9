//! The outbound thread's world: a modelled TAP, a modelled stream, and what calls on them cost.

use super::{Enclave, events::Events, patience::Patience, stream::FrameStream, thread, thread::Thread};
use crate::{cpu::Process, mailbox::Orders, time::Instant};
use nitrotap_core::{
    drive::{
        Errno, Event,
        egress::{Awaited, Order, World},
    },
    offload::VNET_LEN,
    tap::EgressCounters,
};
use std::{cell::Cell, future::poll_fn, rc::Rc};

pub(super) struct Outside {
    enclave: Enclave,
    thread: Thread,
    orders: Orders<Order<FrameStream>>,
    events: Rc<Events>,
    counters: Rc<Cell<EgressCounters>>,
    patience: Patience,
    /// The thread does not run before.
    stalled: Instant,
}

/// Reads of the TAP between two looks at the orders; see [`nitrotap_core::drive::egress`].
const READS: u32 = 1024;

impl Outside {
    pub(super) fn new(
        enclave: Enclave,
        process: Process,
        orders: Orders<Order<FrameStream>>,
        events: Rc<Events>,
        counters: Rc<Cell<EgressCounters>>,
    ) -> Self {
        let thread = Thread::new(process, enclave.clock, enclave.costs.wake_ns);
        let patience = Patience::new(READS, enclave.audit.clone(), enclave.clock);
        Self { enclave, thread, orders, events, counters, patience, stalled: Instant::ZERO }
    }
}

impl World for Outside {
    type Stream = FrameStream;

    fn read_tap(&mut self, frame: &mut [u8]) -> Result<usize, Errno> {
        self.read_tap_offloaded(&mut [0; VNET_LEN], frame)
    }

    fn read_tap_offloaded(&mut self, header: &mut [u8; VNET_LEN], frame: &mut [u8]) -> Result<usize, Errno> {
        self.patience.read(!self.orders.is_empty());
        let packet = self.enclave.tap.read_packet().ok_or(Errno::AGAIN)?;
        let len = packet.bytes.len();
        frame[..len].copy_from_slice(&packet.bytes);
        *header = packet.header;
        self.thread.owe(self.enclave.costs.tap_read.cost(len));
        Ok(len)
    }

    fn write(&mut self, stream: &FrameStream, bytes: &[u8]) -> Result<usize, Errno> {
        let n = stream.write(bytes)?;
        self.thread.owe(self.enclave.costs.stream_write.cost(n));
        Ok(n)
    }

    fn take_order(&mut self) -> Option<Order<FrameStream>> {
        self.patience.look();
        self.orders.take()
    }

    fn tell(&mut self, event: Event) {
        self.stalled = self.events.push(event);
    }

    fn publish(&mut self, counters: &EgressCounters) {
        // What was cut out of super-frames costs its share, each piece that of a full frame.
        let cut = counters.segments - self.counters.get().segments;
        self.thread.owe(cut * self.enclave.costs.segment.cost(self.enclave.mtu.into()));
        self.counters.set(*counters);
    }

    async fn wait(&mut self, awaited: Awaited<'_, FrameStream>) -> Result<(), Errno> {
        self.enclave.clock.sleep_until(self.stalled).await;
        self.patience.sleep(self.orders.overlooked()).await;
        let order = self.orders.arrived();
        match awaited {
            Awaited::Frame => self.thread.sleep(thread::either(order, self.enclave.tap.readable())).await,
            Awaited::Room(stream) => {
                self.thread.sleep(thread::either(order, poll_fn(|cx| stream.poll_writable(cx)))).await;
            }
        }
        self.orders.tell();
        Ok(())
    }

    async fn elapse(&mut self) {
        self.thread.spend().await;
    }
}
