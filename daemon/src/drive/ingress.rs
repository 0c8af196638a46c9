//! The inbound thread: the system calls of [`core::drive::ingress`](nitrotap_core::drive::ingress).

use super::{mailbox::Mailbox, readable, wait};
use crate::{clock::Clock, sys::errno};
use nitrotap_core::{
    counters::Shared,
    drive::{
        Errno, Event,
        ingress::{Order, World},
    },
    offload::MAX_PIECES,
    tap::{IngressCounters, Packet},
    time::Instant,
};
use rustix::{io, thread::set_current_timer_slack};
use std::{io::IoSlice, num::NonZeroU64, os::fd::OwnedFd, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// What the thread reaches.
#[derive(Debug)]
pub(super) struct Outside {
    pub(super) tap: Arc<OwnedFd>,
    pub(super) clock: Clock,
    pub(super) orders: Mailbox<Order<Arc<OwnedFd>>>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) shared: Arc<Shared<IngressCounters>>,
}

/// Makes the thread's pauses end when they should.
pub(super) fn sharpen_timers() {
    // The default of 50 us would make a pause half as long again; an old kernel's refusal costs no more than that.
    let _ = set_current_timer_slack(NonZeroU64::new(1));
}

impl World for Outside {
    type Stream = Arc<OwnedFd>;

    fn read(&mut self, stream: &Arc<OwnedFd>, space: &mut [u8]) -> Result<usize, Errno> {
        io::read(&**stream, space).map_err(errno)
    }

    fn write_tap(&mut self, frame: &[u8]) -> Result<(), Errno> {
        io::write(&*self.tap, frame).map(drop).map_err(errno)
    }

    fn write_tap_offloaded(&mut self, packet: &Packet<'_>) -> Result<(), Errno> {
        let mut slices = [IoSlice::new(&[]); 1 + MAX_PIECES];
        slices[0] = IoSlice::new(&packet.header);
        let mut count = 1;
        for (slot, piece) in slices[1..].iter_mut().zip(packet.pieces()) {
            *slot = IoSlice::new(piece);
            count += 1;
        }
        io::writev(&*self.tap, &slices[..count]).map(drop).map_err(errno)
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn take_order(&mut self) -> Option<Order<Arc<OwnedFd>>> {
        self.orders.take()
    }

    fn tell(&mut self, event: Event) {
        // The link's task has gone when the tunnel is being stopped.
        let _ = self.events.blocking_send(event);
    }

    fn publish(&mut self, counters: &IngressCounters) {
        self.shared.publish(counters);
    }

    async fn wait(&mut self, stream: Option<&Arc<OwnedFd>>) -> Result<(), Errno> {
        let wake = readable(self.orders.wake());
        match stream {
            Some(stream) => wait(&mut [readable(&**stream), wake]),
            None => wait(&mut [wake]),
        }
        .map_err(errno)
    }

    async fn pause(&mut self, duration: Duration) {
        std::thread::sleep(duration);
    }

    async fn elapse(&mut self) {}
}
