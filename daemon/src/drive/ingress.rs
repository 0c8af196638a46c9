//! The inbound thread: stream to TAP, every frame of a read before the next read.

use super::{Event, mailbox::Mailbox, readable, wait};
use crate::clock::Clock;
use nitrotap_core::{
    counters::Shared,
    link::Down,
    offload::MAX_PIECES,
    tap::{Ingress, IngressCounters},
};
use rustix::{
    io::{self, Errno},
    thread::set_current_timer_slack,
};
use std::{io::IoSlice, num::NonZeroU64, os::fd::OwnedFd, sync::Arc};
use tokio::sync::mpsc;

/// What the link's task asks of this thread.
#[derive(Debug)]
pub(super) enum Order {
    /// Receive frames on this stream, which has this number and already gave these bytes.
    Attach(Arc<OwnedFd>, u64, Vec<u8>),
    /// Let go of the stream.
    Detach,
    /// End the thread.
    Stop,
}

/// Everything the thread owns.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) tap: Arc<OwnedFd>,
    pub(super) machine: Ingress,
    /// The TAP has `IFF_VNET_HDR`.
    pub(super) offload: bool,
    /// Ask the stream for one frame's bytes at a time instead of all there are.
    pub(super) single: bool,
    pub(super) clock: Clock,
    pub(super) orders: Mailbox<Order>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) shared: Arc<Shared<IngressCounters>>,
    pub(super) stream: Option<(Arc<OwnedFd>, u64)>,
}

/// Why the loop was left.
struct Stopped;

impl Worker {
    /// Runs until told to stop.
    pub(super) fn run(mut self) {
        // The default of 50 us would make a pause half as long again; an old kernel's refusal costs no more than that.
        let _ = set_current_timer_slack(NonZeroU64::new(1));
        while self.turn().is_ok() {}
    }

    fn turn(&mut self) -> Result<(), Stopped> {
        let drained = match self.stream.clone() {
            Some((stream, number)) => self.receive(&stream, number),
            None => true,
        };
        if drained {
            self.shared.publish(&self.machine.counters());
            if self.stream.is_some() {
                self.moderate();
            }
            let wake = readable(self.orders.wake());
            let waited = match &self.stream {
                Some((stream, _)) => wait(&mut [readable(&**stream), wake]),
                None => wait(&mut [wake]),
            };
            if let Err(errno) = waited {
                let _ = self.events.blocking_send(Event::TapGone(errno));
                return Err(Stopped);
            }
        }
        self.obey()
    }

    /// One read and all its frames; true when the stream has no more for now.
    fn receive(&mut self, stream: &OwnedFd, number: u64) -> bool {
        let missing = self.machine.missing();
        let space = self.machine.space();
        let want = if self.single { missing.min(space.len()) } else { space.len() };
        match io::read(stream, &mut space[..want]) {
            Ok(0) => self.lost(number, Down::Closed),
            Ok(n) => {
                self.machine.handle_read(n);
                self.deliver();
                // A short read emptied the stream: polling is cheaper than a second read that finds nothing.
                n < want
            }
            Err(Errno::AGAIN) => true,
            Err(Errno::INTR) => false,
            Err(errno) => self.lost(number, Down::Io(errno.raw_os_error())),
        }
    }

    fn moderate(&mut self) {
        if let Some(pause) = self.machine.moderate(self.clock.now()) {
            std::thread::sleep(pause);
        }
    }

    fn deliver(&mut self) {
        if self.offload {
            return self.deliver_offloaded();
        }
        let mut refused = 0;
        while let Some(frame) = self.machine.next_frame() {
            // A TAP takes a frame whole or not at all; it refuses while it is down and when the kernel is out of memory.
            while let Err(errno) = io::write(&*self.tap, frame) {
                if errno != Errno::INTR {
                    refused += 1;
                    break;
                }
            }
        }
        self.machine.handle_tap_refused(refused);
    }

    fn deliver_offloaded(&mut self) {
        let mut refused = 0;
        while let Some(packet) = self.machine.next_packet() {
            let mut slices = [IoSlice::new(&[]); 1 + MAX_PIECES];
            slices[0] = IoSlice::new(&packet.header);
            let mut count = 1;
            for (slot, piece) in slices[1..].iter_mut().zip(packet.pieces()) {
                *slot = IoSlice::new(piece);
                count += 1;
            }
            while let Err(errno) = io::writev(&*self.tap, &slices[..count]) {
                if errno != Errno::INTR {
                    refused += packet.frames() as u64;
                    break;
                }
            }
        }
        self.machine.handle_tap_refused(refused);
    }

    fn lost(&mut self, number: u64, why: Down) -> bool {
        let why = if self.detach() { Down::Truncated } else { why };
        let _ = self.events.blocking_send(Event::StreamLost(number, why));
        true
    }

    fn obey(&mut self) -> Result<(), Stopped> {
        while let Some(order) = self.orders.take() {
            match order {
                Order::Attach(stream, number, received) => {
                    self.detach();
                    for chunk in received.chunks(READ_SIZE) {
                        self.machine.space()[..chunk.len()].copy_from_slice(chunk);
                        self.machine.handle_read(chunk.len());
                        self.deliver();
                    }
                    self.shared.publish(&self.machine.counters());
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
        self.shared.publish(&self.machine.counters());
        truncated
    }
}

/// Bytes asked of the stream at a time: a second-level cache holds them until they are in the TAP.
pub(super) const READ_SIZE: usize = 64 << 10;
