//! The inbound loop: stream to TAP, every frame of a read before the next read.
//!
//! Bounds: one read of [`READ_SIZE`] bytes between two looks at the orders.

use super::{Errno, Event};
use crate::{
    link::Down,
    tap::{Ingress, IngressCounters, Packet},
    time::Instant,
};
use core::{future::Future, time::Duration};

/// What the link's loop asks of this one.
#[derive(Clone, Debug)]
pub enum Order<S> {
    /// Receive frames on a stream.
    Attach {
        /// The stream, beyond its handshake.
        stream: S,
        /// Its number, which words about it bear.
        number: u64,
        /// What it gave already.
        received: Vec<u8>,
    },
    /// Let go of the stream.
    Detach,
    /// End the loop.
    Stop,
}

/// The world of this loop. See [`drive`](super) for what is asked of every world.
pub trait World {
    /// A stream that carries frames.
    type Stream;

    /// Reads from the stream: how many bytes it gave, none at its end.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] if it has none now.
    fn read(&mut self, stream: &Self::Stream, space: &mut [u8]) -> Result<usize, Errno>;

    /// Gives a frame to the TAP, whole.
    ///
    /// # Errors
    /// Whatever keeps the TAP from taking it.
    fn write_tap(&mut self, frame: &[u8]) -> Result<(), Errno>;

    /// Gives a packet to a TAP with `IFF_VNET_HDR`, whole, with its header.
    ///
    /// # Errors
    /// Whatever keeps the TAP from taking it.
    fn write_tap_offloaded(&mut self, packet: &Packet<'_>) -> Result<(), Errno>;

    /// The time now.
    fn now(&self) -> Instant;

    /// The next order.
    fn take_order(&mut self) -> Option<Order<Self::Stream>>;

    /// Tells the link's loop.
    fn tell(&mut self, event: Event);

    /// Shows the counters to whoever wants to see them.
    fn publish(&mut self, counters: &IngressCounters);

    /// Waits until the stream has bytes or has ended, or until there is an order.
    ///
    /// # Errors
    /// What cannot be waited for.
    fn wait(&mut self, stream: Option<&Self::Stream>) -> impl Future<Output = Result<(), Errno>>;

    /// Leaves the stream alone for so long; not even an order ends it.
    fn pause(&mut self, duration: Duration) -> impl Future<Output = ()>;

    /// Lets the time pass that the last operations took.
    fn elapse(&mut self) -> impl Future<Output = ()>;
}

/// Everything the loop owns.
#[derive(Debug)]
pub struct Loop<W: World> {
    world: W,
    machine: Ingress,
    /// The TAP has `IFF_VNET_HDR`.
    offload: bool,
    /// Ask the stream for one frame's bytes at a time instead of all there are.
    single: bool,
    stream: Option<(W::Stream, u64)>,
}

/// Why the loop was left.
struct Stopped;

/// Bytes asked of the stream at a time: a second-level cache holds them until they are in the TAP.
pub const READ_SIZE: usize = 64 << 10;

/// How long a busy stream is left alone by default.
pub const RX_PAUSE: Duration = Duration::from_micros(100);

impl<W: World> Loop<W> {
    /// A loop without a stream. `offload` says that the TAP has `IFF_VNET_HDR`, `single` that one frame is read at a time.
    pub const fn new(world: W, machine: Ingress, offload: bool, single: bool) -> Self {
        Self { world, machine, offload, single, stream: None }
    }

    /// Runs until told to stop.
    pub async fn run(mut self) {
        while self.turn().await.is_ok() {}
    }

    async fn turn(&mut self) -> Result<(), Stopped> {
        if self.receive().await {
            self.world.publish(&self.machine.counters());
            if self.stream.is_some()
                && let Some(pause) = self.machine.moderate(self.world.now())
            {
                self.world.pause(pause).await;
            }
            let stream = self.stream.as_ref().map(|(stream, _)| stream);
            if let Err(errno) = self.world.wait(stream).await {
                self.world.tell(Event::TapGone(errno));
                return Err(Stopped);
            }
        }
        self.obey().await
    }

    /// One read and all its frames; true when the stream has no more for now.
    async fn receive(&mut self) -> bool {
        let Some((stream, number)) = &self.stream else { return true };
        let number = *number;
        let missing = self.machine.missing();
        let space = self.machine.space();
        let want = if self.single { missing.min(space.len()) } else { space.len() };
        match self.world.read(stream, &mut space[..want]) {
            Ok(0) => self.lost(number, Down::Closed),
            Ok(n) => {
                self.machine.handle_read(n);
                self.world.elapse().await;
                self.deliver().await;
                // A short read emptied the stream: polling is cheaper than a second read that finds nothing.
                n < want
            }
            Err(Errno::AGAIN) => true,
            Err(Errno::INTR) => false,
            Err(errno) => self.lost(number, Down::Io(errno.raw())),
        }
    }

    async fn deliver(&mut self) {
        if self.offload {
            return self.deliver_offloaded().await;
        }
        let mut refused = 0;
        while let Some(frame) = self.machine.next_frame() {
            // A TAP takes a frame whole or not at all; it refuses while it is down and when the kernel is out of memory.
            while let Err(errno) = self.world.write_tap(frame) {
                if errno != Errno::INTR {
                    refused += 1;
                    break;
                }
            }
            self.world.elapse().await;
        }
        self.machine.handle_tap_refused(refused);
    }

    async fn deliver_offloaded(&mut self) {
        let mut refused = 0;
        while let Some(packet) = self.machine.next_packet() {
            while let Err(errno) = self.world.write_tap_offloaded(&packet) {
                if errno != Errno::INTR {
                    refused += packet.frames() as u64;
                    break;
                }
            }
            self.world.elapse().await;
        }
        self.machine.handle_tap_refused(refused);
    }

    fn lost(&mut self, number: u64, why: Down) -> bool {
        let why = if self.detach() { Down::Truncated } else { why };
        self.world.tell(Event::StreamLost(number, why));
        true
    }

    async fn obey(&mut self) -> Result<(), Stopped> {
        while let Some(order) = self.world.take_order() {
            match order {
                Order::Attach { stream, number, received } => {
                    self.detach();
                    for chunk in received.chunks(READ_SIZE) {
                        self.machine.space()[..chunk.len()].copy_from_slice(chunk);
                        self.machine.handle_read(chunk.len());
                        self.deliver().await;
                    }
                    self.world.publish(&self.machine.counters());
                    self.stream = Some((stream, number));
                }
                Order::Detach => {
                    self.detach();
                }
                Order::Stop => return Err(Stopped),
            }
        }
        Ok(())
    }

    /// True if the stream ended inside a frame.
    fn detach(&mut self) -> bool {
        self.stream = None;
        let truncated = self.machine.handle_stream_end().is_err();
        self.world.publish(&self.machine.counters());
        truncated
    }
}
