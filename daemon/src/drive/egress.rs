//! The outbound thread: the system calls of [`core::drive::egress`](nitrotap_core::drive::egress).

use super::{mailbox::Mailbox, readable, wait, writable};
use crate::sys::errno;
use nitrotap_core::{
    counters::Shared,
    drive::{
        Errno, Event,
        egress::{Awaited, Order, World},
    },
    offload::VNET_LEN,
    tap::EgressCounters,
};
use rustix::io;
use std::{io::IoSliceMut, os::fd::OwnedFd, sync::Arc};
use tokio::sync::mpsc;

/// What the thread reaches.
#[derive(Debug)]
pub(super) struct Outside {
    pub(super) tap: Arc<OwnedFd>,
    pub(super) orders: Mailbox<Order<Arc<OwnedFd>>>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) shared: Arc<Shared<EgressCounters>>,
}

impl World for Outside {
    type Stream = Arc<OwnedFd>;

    fn read_tap(&mut self, frame: &mut [u8]) -> Result<usize, Errno> {
        io::read(&*self.tap, frame).map_err(errno)
    }

    fn read_tap_offloaded(&mut self, header: &mut [u8; VNET_LEN], frame: &mut [u8]) -> Result<usize, Errno> {
        let read = io::readv(&*self.tap, &mut [IoSliceMut::new(header), IoSliceMut::new(frame)]);
        // The header is not cut short: a read is a whole frame behind a whole header.
        read.map(|len| len.saturating_sub(VNET_LEN)).map_err(errno)
    }

    fn write(&mut self, stream: &Arc<OwnedFd>, bytes: &[u8]) -> Result<usize, Errno> {
        io::write(&**stream, bytes).map_err(errno)
    }

    fn take_order(&mut self) -> Option<Order<Arc<OwnedFd>>> {
        self.orders.take()
    }

    fn tell(&mut self, event: Event) {
        // The link's task has gone when the tunnel is being stopped.
        let _ = self.events.blocking_send(event);
    }

    fn publish(&mut self, counters: &EgressCounters) {
        self.shared.publish(counters);
    }

    async fn wait(&mut self, awaited: Awaited<'_, Arc<OwnedFd>>) -> Result<(), Errno> {
        let awaited = match awaited {
            Awaited::Frame => readable(&*self.tap),
            Awaited::Room(stream) => writable(&**stream),
        };
        wait(&mut [awaited, readable(self.orders.wake())]).map_err(errno)
    }

    async fn elapse(&mut self) {}
}
