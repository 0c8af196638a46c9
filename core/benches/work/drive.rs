//! The outbound loop over a world whose calls cost nothing: what is left is the loop's own work and that of its machine.

use super::pattern;
use nitrotap_core::{
    drive::{
        Errno, Event, VSOCK_WRITE_MAX, block,
        egress::{Awaited, Loop, Order, World, batch},
    },
    tap::{Egress, EgressCounters},
};

/// Frames of one run.
const FRAMES: usize = 2000;

/// A TAP that has some frames each time, and a stream that takes everything.
struct Free {
    frame: Vec<u8>,
    /// Frames that come together.
    together: usize,
    ready: usize,
    left: usize,
    written: usize,
    orders: Vec<Order<()>>,
}

impl World for &mut Free {
    type Stream = ();

    fn read_tap(&mut self, frame: &mut [u8]) -> Result<usize, Errno> {
        if self.ready == 0 {
            return Err(Errno::AGAIN);
        }
        self.ready -= 1;
        frame[..self.frame.len()].copy_from_slice(&self.frame);
        Ok(self.frame.len())
    }

    fn read_tap_offloaded(&mut self, _: &mut [u8; 10], _: &mut [u8]) -> Result<usize, Errno> {
        unreachable!("the TAP has no IFF_VNET_HDR")
    }

    fn write(&mut self, (): &(), bytes: &[u8]) -> Result<usize, Errno> {
        self.written += bytes.len();
        Ok(bytes.len())
    }

    fn take_order(&mut self) -> Option<Order<()>> {
        self.orders.pop()
    }

    fn tell(&mut self, _: Event) {}

    fn publish(&mut self, _: &EgressCounters) {}

    async fn wait(&mut self, _: Awaited<'_, ()>) -> Result<(), Errno> {
        self.ready = self.together.min(self.left);
        self.left -= self.ready;
        if self.ready == 0 {
            self.orders.push(Order::Stop);
        }
        Ok(())
    }

    async fn elapse(&mut self) {}
}

/// Frames of one length from the TAP to the stream, some at a time.
pub(crate) struct Outbound(Free);

impl Outbound {
    pub(crate) fn new(len: usize, together: usize) -> Self {
        Self(Free { frame: pattern(len), together, ready: 0, left: 0, written: 0, orders: Vec::new() })
    }

    /// The loop from its first order to its last.
    pub(crate) fn run(&mut self) -> usize {
        let Self(world) = self;
        (world.left, world.written) = (FRAMES, 0);
        world.orders.push(Order::Attach { stream: (), number: 1, gateway: None });
        block(Loop::new(&mut *world, Egress::new(1500, batch(1500)), false, VSOCK_WRITE_MAX).run());
        world.written
    }
}
