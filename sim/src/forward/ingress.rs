//! The inbound thread's world: a modelled stream, a modelled kernel behind the TAP, and what calls on them cost.
//!
//! Whatever the stream gave must have been given to the TAP, in whatever packets, before the thread waits.

use super::{Enclave, events::Events, stream::FrameStream, thread, thread::Thread};
use crate::stack::{comparable, split};
use crate::{carver::Carver, check::Invariant, cpu::Process, mailbox::Orders, time::Instant, trace::hash_bytes};
use nitrotap_core::{
    drive::{
        Errno, Event,
        ingress::{Order, World},
    },
    frame::MIN_FRAME,
    tap::{IngressCounters, Packet},
};
use std::{cell::Cell, collections::BTreeMap, future::poll_fn, rc::Rc, time::Duration};

pub(super) struct Outside {
    enclave: Enclave,
    thread: Thread,
    orders: Orders<Order<FrameStream>>,
    events: Rc<Events>,
    counters: Rc<Cell<IngressCounters>>,
    carver: Carver,
    /// Frames that the TAP has yet to get, and how often.
    due: BTreeMap<u64, u32>,
}

impl Outside {
    pub(super) fn new(
        enclave: Enclave,
        process: Process,
        orders: Orders<Order<FrameStream>>,
        events: Rc<Events>,
        counters: Rc<Cell<IngressCounters>>,
    ) -> Self {
        let thread = Thread::new(process, enclave.clock, enclave.costs.wake_ns);
        Self { enclave, thread, orders, events, counters, carver: Carver::default(), due: BTreeMap::new() }
    }

    /// Bytes that are for the TAP.
    fn note(&mut self, bytes: &[u8]) {
        let Self { carver, due, enclave, thread, .. } = self;
        let joins = enclave.tap.has_headers();
        carver.take(bytes, |frame| {
            if frame.len() >= MIN_FRAME {
                *due.entry(identity(frame)).or_default() += 1;
            }
            if joins {
                thread.owe(enclave.costs.join.cost(frame.len()));
            }
        });
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

/// What joining and cutting leave of a frame as it was.
fn identity(frame: &[u8]) -> u64 {
    hash_bytes(0, &comparable(frame))
}

impl World for Outside {
    type Stream = FrameStream;

    fn read(&mut self, stream: &FrameStream, space: &mut [u8]) -> Result<usize, Errno> {
        let costs = self.enclave.costs.stream_read;
        self.thread.owe(costs.ns);
        let n = stream.read(space)?;
        self.thread.owe(costs.bytes(n));
        self.note(&space[..n]);
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
        let order = self.orders.take()?;
        self.carver = Carver::default();
        if let Order::Attach { received, .. } = &order {
            self.note(received);
        }
        Some(order)
    }

    fn tell(&mut self, event: Event) {
        self.events.push(event);
    }

    fn publish(&mut self, counters: &IngressCounters) {
        self.counters.set(*counters);
    }

    async fn wait(&mut self, stream: Option<&FrameStream>) -> Result<(), Errno> {
        self.check_rest();
        let order = self.orders.arrived();
        match stream {
            Some(stream) => self.thread.sleep(thread::either(order, poll_fn(|cx| stream.poll_readable(cx)))).await,
            None => self.thread.sleep(order).await,
        }
        Ok(())
    }

    async fn pause(&mut self, duration: Duration) {
        self.thread.sleep(self.enclave.clock.sleep(duration)).await;
    }

    async fn elapse(&mut self) {
        self.thread.spend().await;
    }
}
