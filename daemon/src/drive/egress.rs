//! The outbound thread: TAP to stream, as many frames per write as were ready.
//!
//! A frame that comes alone leaves at once: the batch is written as soon as the TAP would block. While there is no
//! stream, frames are read and dropped, so that none is stale when one comes.

use super::{Event, mailbox::Mailbox, readable, wait, writable};
use nitrotap_core::{
    counters::Shared,
    link::{ARP_FRAME, Down, MacAddr},
    offload::VNET_LEN,
    tap::{Egress, EgressCounters},
};
use rustix::io::{self, Errno};
use std::{io::IoSliceMut, os::fd::OwnedFd, sync::Arc};
use tokio::sync::mpsc;

/// What the link's task asks of this thread.
#[derive(Debug)]
pub(super) enum Order {
    /// Send frames on this stream, which has this number and this gateway at its end.
    Attach(Arc<OwnedFd>, u64, Option<MacAddr>),
    /// Let go of the stream.
    Detach,
    /// Send this frame of ours between those of the TAP.
    Inject([u8; ARP_FRAME]),
    /// End the thread.
    Stop,
}

/// Everything the thread owns.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) tap: Arc<OwnedFd>,
    pub(super) machine: Egress,
    /// The TAP has `IFF_VNET_HDR`.
    pub(super) offload: bool,
    pub(super) max_write: usize,
    pub(super) orders: Mailbox<Order>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) shared: Arc<Shared<EgressCounters>>,
    pub(super) stream: Option<(Arc<OwnedFd>, u64)>,
}

/// Why the loop was left.
struct Stopped;

impl Worker {
    /// Runs until told to stop or the TAP is gone.
    pub(super) fn run(mut self) {
        while self.turn().is_ok() {}
    }

    fn turn(&mut self) -> Result<(), Stopped> {
        let drained = self.fill()?;
        self.flush()?;
        self.shared.publish(self.machine.counters());
        if drained {
            let mut fds = [readable(&*self.tap), readable(self.orders.wake())];
            wait(&mut fds).map_err(|errno| self.tap_gone(errno))?;
        }
        self.obey()
    }

    /// Reads frames until the TAP is empty (true) or the batch full (false).
    fn fill(&mut self) -> Result<bool, Stopped> {
        // Frames that are dropped do not fill the batch; orders must be seen all the same.
        for _ in 0..TURN_FRAMES {
            let Some(slot) = self.machine.slot() else { break };
            let mut header = [0; VNET_LEN];
            let read = if self.offload {
                io::readv(&*self.tap, &mut [IoSliceMut::new(&mut header), IoSliceMut::new(slot)])
            } else {
                io::read(&*self.tap, slot)
            };
            match read {
                // The header is not cut short: a read is a whole frame behind a whole header.
                Ok(len) if self.offload => self.machine.handle_offloaded(header, len.saturating_sub(VNET_LEN)),
                Ok(len) => self.machine.handle_frame(len),
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.tap_gone(errno)),
            }
        }
        Ok(false)
    }

    /// Writes the batch; a stream that is full is waited for, and orders are obeyed meanwhile.
    fn flush(&mut self) -> Result<(), Stopped> {
        while let Some((stream, number)) = &self.stream {
            let pending = self.machine.pending();
            if pending.is_empty() {
                break;
            }
            match io::write(&**stream, &pending[..pending.len().min(self.max_write)]) {
                Ok(n) => self.machine.consume(n),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut fds = [writable(&**stream), readable(self.orders.wake())];
                    wait(&mut fds).map_err(|errno| self.tap_gone(errno))?;
                    self.obey()?;
                }
                Err(errno) => {
                    let event = Event::StreamLost(*number, Down::Io(errno.raw_os_error()));
                    self.detach();
                    let _ = self.events.blocking_send(event);
                }
            }
        }
        Ok(())
    }

    fn obey(&mut self) -> Result<(), Stopped> {
        while let Some(order) = self.orders.take() {
            match order {
                Order::Attach(stream, number, gateway) => {
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
        self.shared.publish(self.machine.counters());
    }

    fn tap_gone(&self, errno: Errno) -> Stopped {
        let _ = self.events.blocking_send(Event::TapGone(errno));
        Stopped
    }
}

/// Frames read between two looks at the orders; a batch of the shortest frames has more.
const TURN_FRAMES: usize = 1024;
