//! The inbound thread's world: a modelled stream, a modelled kernel behind the TAP, and what calls on them cost.
//!
//! Whatever the stream gave must have been given to the TAP, in whatever packets, before the thread waits.

use super::{
    Enclave,
    events::Events,
    patience::Patience,
    stream::{FrameStream, identity},
    thread,
    thread::Thread,
};
use crate::gvproxy::frames;
use crate::stack::split;
use crate::{check::Invariant, cpu::Process, mailbox::Orders, time::Instant};
use nitrotap_core::{
    drive::{
        Errno, Event,
        ingress::{Order, World},
    },
    tap::{IngressCounters, Packet},
};
use std::{cell::Cell, collections::BTreeMap, future::poll_fn, rc::Rc, time::Duration};

pub(super) struct Outside {
    enclave: Enclave,
    thread: Thread,
    orders: Orders<Order<FrameStream>>,
    events: Rc<Events>,
    counters: Rc<Cell<IngressCounters>>,
    /// Frames that the TAP has yet to get, and how often.
    due: BTreeMap<u64, u32>,
    patience: Patience,
    /// The thread does not run before.
    stalled: Instant,
}

/// Reads of the stream between two looks at the orders; see [`nitrotap_core::drive::ingress`].
const READS: u32 = 1;

impl Outside {
    pub(super) fn new(
        enclave: Enclave,
        process: Process,
        orders: Orders<Order<FrameStream>>,
        events: Rc<Events>,
        counters: Rc<Cell<IngressCounters>>,
    ) -> Self {
        let thread = Thread::new(process, enclave.clock, enclave.costs.wake_ns);
        let patience = Patience::new(READS, enclave.audit.clone(), enclave.clock);
        Self { enclave, thread, orders, events, counters, due: BTreeMap::new(), patience, stalled: Instant::ZERO }
    }

    /// Frames that are for the TAP.
    fn owe(&mut self, frames: impl IntoIterator<Item = u64>) {
        for frame in frames {
            *self.due.entry(frame).or_default() += 1;
        }
    }

    /// A frame that the TAP gets.
    fn delivered(&mut self, frame: &[u8]) {
        let hash = identity(frame);
        let was_due = match self.due.get_mut(&hash) {
            Some(count) => {
                *count -= 1;
                if *count == 0 {
                    self.due.remove(&hash);
                }
                true
            }
            None => false,
        };
        self.enclave.audit.check(self.enclave.clock.now(), Invariant::Frames, was_due, || {
            format!("the TAP got a frame of {} bytes that the stream did not give", frame.len())
        });
    }

    fn check_rest(&mut self) {
        let due = std::mem::take(&mut self.due);
        self.enclave.audit.check(self.enclave.clock.now(), Invariant::Frames, due.is_empty(), || {
            format!("the inbound thread waits, and {} frames have not been given to the TAP", due.len())
        });
    }
}

impl World for Outside {
    type Stream = FrameStream;

    fn read(&mut self, stream: &FrameStream, space: &mut [u8]) -> Result<usize, Errno> {
        self.patience.read(!self.orders.is_empty());
        let costs = self.enclave.costs.stream_read;
        self.thread.owe(costs.ns);
        let n = stream.read(space)?;
        self.thread.owe(costs.bytes(n));
        let frames = stream.claim();
        if self.enclave.tap.has_headers() {
            // Looking at what may be joined: the bytes of all, and each one's headers.
            let join = self.enclave.costs.join;
            self.thread.owe(join.ns * frames.len() as u64 + join.bytes(n));
        }
        self.owe(frames);
        Ok(n)
    }

    fn write_tap(&mut self, frame: &[u8]) -> Result<(), Errno> {
        self.thread.owe(self.enclave.costs.tap_write.cost(frame.len()));
        self.delivered(frame);
        self.enclave.kernel.handle_frame(frame);
        Ok(())
    }

    fn write_tap_offloaded(&mut self, packet: &Packet<'_>) -> Result<(), Errno> {
        let bytes = packet.pieces().collect::<Vec<_>>().concat();
        self.thread.owe(self.enclave.costs.tap_write.cost(bytes.len()));
        match split(&packet.header, &bytes) {
            Ok(frames) => frames.iter().for_each(|frame| self.delivered(frame)),
            Err(refused) => self.enclave.audit.fail(
                self.enclave.clock.now(),
                Invariant::Frames,
                format!("the TAP got a packet that Linux refuses: {refused:?}"),
            ),
        }
        self.enclave.kernel.handle_packet(&packet.header, &bytes).map_err(|_| Errno::INVAL)
    }

    fn now(&self) -> Instant {
        self.enclave.clock.now()
    }

    fn take_order(&mut self) -> Option<Order<FrameStream>> {
        self.patience.look();
        let order = self.orders.take()?;
        if let Order::Attach { stream, received, .. } = &order {
            // What the stream did not give was made to wake the kernel's connections.
            let made = received.len().saturating_sub(stream.given());
            self.owe(frames(&received[..made]).map(identity));
            self.owe(stream.claim());
        }
        Some(order)
    }

    fn tell(&mut self, event: Event) {
        self.stalled = self.events.push(event);
    }

    fn publish(&mut self, counters: &IngressCounters) {
        self.counters.set(*counters);
    }

    async fn wait(&mut self, stream: Option<&FrameStream>) -> Result<(), Errno> {
        self.check_rest();
        self.enclave.clock.sleep_until(self.stalled).await;
        self.patience.sleep(self.orders.overlooked()).await;
        let order = self.orders.arrived();
        match stream {
            Some(stream) => self.thread.sleep(thread::either(order, poll_fn(|cx| stream.poll_readable(cx)))).await,
            None => self.thread.sleep(order).await,
        }
        self.orders.tell();
        Ok(())
    }

    async fn pause(&mut self, duration: Duration) {
        self.thread.sleep(self.enclave.clock.sleep(duration)).await;
    }

    async fn elapse(&mut self) {
        self.thread.spend().await;
    }
}
