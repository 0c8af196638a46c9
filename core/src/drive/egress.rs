//! The outbound loop: TAP to stream, as many frames per write as were ready.
//!
//! A frame that comes alone leaves at once: the batch is written as soon as the TAP would block. While there is no
//! stream, frames are read and dropped, so that none is stale when one comes.
//!
//! Bounds: one batch of frames; 1,024 reads between two looks at the orders.

use super::{Errno, Event};
use crate::{
    frame::{PREFIX_LEN, frame_limit},
    link::{ARP_FRAME, Down, MacAddr},
    offload::VNET_LEN,
    tap::{Egress, EgressCounters},
};
use core::future::Future;

/// What the link's loop asks of this one.
#[derive(Clone, Debug)]
pub enum Order<S> {
    /// Send frames on a stream.
    Attach {
        /// The stream, beyond its handshake.
        stream: S,
        /// Its number, which words about it bear.
        number: u64,
        /// Who is at its end.
        gateway: Option<MacAddr>,
    },
    /// Let go of the stream.
    Detach,
    /// Send this frame of ours between those of the TAP.
    Inject([u8; ARP_FRAME]),
    /// End the loop.
    Stop,
}

/// What the loop can wait for; an order ends every wait.
#[derive(Clone, Copy, Debug)]
pub enum Awaited<'a, S> {
    /// The TAP has a frame.
    Frame,
    /// The stream takes bytes.
    Room(&'a S),
}

/// The world of this loop. See [`drive`](super) for what is asked of every world.
pub trait World {
    /// A stream that carries frames.
    type Stream;

    /// Reads a frame of the TAP: its length.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] if there is none.
    fn read_tap(&mut self, frame: &mut [u8]) -> Result<usize, Errno>;

    /// Reads a frame of a TAP with `IFF_VNET_HDR`, and the header before it: the length of the frame.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] if there is none.
    fn read_tap_offloaded(&mut self, header: &mut [u8; VNET_LEN], frame: &mut [u8]) -> Result<usize, Errno>;

    /// Writes to the stream: how many bytes it took.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] if it takes none now.
    fn write(&mut self, stream: &Self::Stream, bytes: &[u8]) -> Result<usize, Errno>;

    /// The next order.
    fn take_order(&mut self) -> Option<Order<Self::Stream>>;

    /// Tells the link's loop.
    fn tell(&mut self, event: Event);

    /// Shows the counters to whoever wants to see them.
    fn publish(&mut self, counters: &EgressCounters);

    /// Waits until what is awaited is there, or an order.
    ///
    /// # Errors
    /// What the TAP or the stream says that cannot be waited for.
    fn wait(&mut self, awaited: Awaited<'_, Self::Stream>) -> impl Future<Output = Result<(), Errno>>;

    /// Lets the time pass that the last operations took.
    fn elapse(&mut self) -> impl Future<Output = ()>;
}

/// Everything the loop owns.
#[derive(Debug)]
pub struct Loop<W: World> {
    world: W,
    machine: Egress,
    /// The TAP has `IFF_VNET_HDR`.
    offload: bool,
    max_write: usize,
    stream: Option<(W::Stream, u64)>,
}

/// Why the loop was left.
struct Stopped;

/// Bytes of a batch, which is closed when another full frame might exceed them. Large enough that a system call's cost is
/// spread over 20 full frames, small enough that the first of them does not wait long for the last.
const BATCH: usize = 32 << 10;

/// Frames read between two looks at the orders; a batch of the shortest frames has more.
const TURN_FRAMES: usize = 1024;

/// How large a batch is for frames of this MTU.
#[must_use]
pub fn batch(mtu: u16) -> usize {
    BATCH - PREFIX_LEN - frame_limit(mtu).min(BATCH / 2)
}

impl<W: World> Loop<W> {
    /// A loop without a stream. `offload` says that the TAP has `IFF_VNET_HDR`, `max_write` is the longest write that the
    /// stream's transport stands, in bytes.
    pub const fn new(world: W, machine: Egress, offload: bool, max_write: usize) -> Self {
        Self { world, machine, offload, max_write, stream: None }
    }

    /// Runs until told to stop or the TAP is gone.
    pub async fn run(mut self) {
        while self.turn().await.is_ok() {}
    }

    async fn turn(&mut self) -> Result<(), Stopped> {
        let drained = self.fill().await?;
        self.flush().await?;
        self.world.publish(self.machine.counters());
        if drained && let Err(errno) = self.world.wait(Awaited::Frame).await {
            return Err(self.tap_gone(errno));
        }
        self.obey()
    }

    /// Reads frames until the TAP is empty (true) or the batch full (false).
    async fn fill(&mut self) -> Result<bool, Stopped> {
        // Frames that are dropped do not fill the batch; orders must be seen all the same.
        for _ in 0..TURN_FRAMES {
            let Some(slot) = self.machine.slot() else { break };
            let mut header = [0; VNET_LEN];
            let read =
                if self.offload { self.world.read_tap_offloaded(&mut header, slot) } else { self.world.read_tap(slot) };
            match read {
                Ok(len) if self.offload => self.machine.handle_offloaded(header, len),
                Ok(len) => self.machine.handle_frame(len),
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.tap_gone(errno)),
            }
            self.world.elapse().await;
        }
        Ok(false)
    }

    /// Writes the batch; a stream that is full is waited for, and orders are obeyed meanwhile.
    async fn flush(&mut self) -> Result<(), Stopped> {
        while let Some((stream, number)) = &self.stream {
            let pending = self.machine.pending();
            if pending.is_empty() {
                break;
            }
            match self.world.write(stream, &pending[..pending.len().min(self.max_write)]) {
                Ok(n) => {
                    self.machine.consume(n);
                    self.world.elapse().await;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if let Err(errno) = self.world.wait(Awaited::Room(stream)).await {
                        return Err(self.tap_gone(errno));
                    }
                    self.obey()?;
                }
                Err(errno) => {
                    let event = Event::StreamLost(*number, Down::Io(errno.raw()));
                    self.detach();
                    self.world.tell(event);
                }
            }
        }
        Ok(())
    }

    fn obey(&mut self) -> Result<(), Stopped> {
        while let Some(order) = self.world.take_order() {
            match order {
                Order::Attach { stream, number, gateway } => {
                    self.detach();
                    self.machine.handle_link_up();
                    if let Some(gateway) = gateway {
                        self.machine.handle_gateway(gateway);
                    }
                    self.stream = Some((stream, number));
                }
                Order::Detach => self.detach(),
                Order::Inject(frame) => self.inject(&frame),
                Order::Stop => return Err(Stopped),
            }
        }
        Ok(())
    }

    /// A full batch has no room; the link asks again soon enough, and a full batch is traffic that is answered itself.
    fn inject(&mut self, frame: &[u8]) {
        if let (Some(_), Some(slot)) = (&self.stream, self.machine.slot()) {
            slot[..frame.len()].copy_from_slice(frame);
            self.machine.handle_frame(frame.len());
        }
    }

    fn detach(&mut self) {
        self.stream = None;
        self.machine.handle_link_down();
        self.world.publish(self.machine.counters());
    }

    fn tap_gone(&mut self, errno: Errno) -> Stopped {
        self.world.tell(Event::TapGone(errno));
        Stopped
    }
}
