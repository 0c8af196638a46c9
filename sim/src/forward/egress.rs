//! The outbound thread, as the daemon's: TAP to stream, as many frames per write as were ready.

use super::Enclave;
use crate::{cpu::Process, ledger::Way, mailbox::Orders, stream::SimStream};
use nitrotap_core::{
    link::{ARP_FRAME, Down},
    tap::{Egress, EgressCounters},
};
use std::{cell::Cell, rc::Rc};

/// What the link's task asks of this thread.
#[derive(Debug)]
pub(super) enum Order {
    Attach(SimStream, u64),
    Detach,
    Inject([u8; ARP_FRAME]),
}

/// Frames read between two looks at the orders.
const TURN_FRAMES: usize = 1024;

/// Longest write on a vsock; see the daemon's endpoint.
const MAX_WRITE: usize = 32 << 10;

pub(super) struct Worker {
    pub(super) enclave: Enclave,
    pub(super) machine: Egress,
    pub(super) process: Process,
    pub(super) orders: Orders<Order>,
    pub(super) lost: Rc<dyn Fn(u64, Down)>,
    pub(super) counters: Rc<Cell<EgressCounters>>,
    pub(super) stream: Option<(SimStream, u64)>,
}

impl Worker {
    pub(super) async fn run(mut self) {
        loop {
            let drained = self.fill().await;
            self.flush().await;
            self.counters.set(*self.machine.counters());
            let mut slept = 0;
            if drained && self.orders.is_empty() {
                slept = self.enclave.costs.wake_ns;
                tokio::select! {
                    biased;
                    () = self.orders.arrived() => {}
                    () = self.enclave.tap.readable() => {}
                }
            }
            self.process.run(&self.enclave.clock, 0, slept).await;
            self.obey();
        }
    }

    /// Reads frames until the TAP is empty (true) or the batch full (false).
    async fn fill(&mut self) -> bool {
        for _ in 0..TURN_FRAMES {
            let Some(slot) = self.machine.slot() else { return false };
            let Some(frame) = self.enclave.tap.read() else { return true };
            slot[..frame.len()].copy_from_slice(&frame);
            self.take(&frame);
            self.process.run(&self.enclave.clock, self.enclave.costs.tap_read.cost(frame.len()), 0).await;
        }
        false
    }

    fn take(&mut self, frame: &[u8]) {
        let before = self.machine.counters().frames;
        self.machine.handle_frame(frame.len());
        if self.machine.counters().frames > before
            && let Some((stream, _)) = &self.stream
        {
            self.enclave.ledger.sent(stream.local(), Way::Out, frame);
        }
    }

    /// Writes the batch; orders are obeyed while the stream is full.
    async fn flush(&mut self) {
        while let Some((stream, number)) = self.stream.clone() {
            let pending = self.machine.pending();
            if pending.is_empty() {
                break;
            }
            let part = &pending[..pending.len().min(MAX_WRITE)];
            self.process.run(&self.enclave.clock, self.enclave.costs.stream_write.cost(part.len()), 0).await;
            let sent = tokio::select! {
                biased;
                sent = stream.send(part) => Some(sent),
                () = self.orders.arrived() => None,
            };
            match sent {
                Some(Ok(n)) => self.machine.consume(n),
                Some(Err(error)) => {
                    self.detach();
                    (self.lost)(number, Down::Io(error.raw_os_error().unwrap_or(EPIPE)));
                }
                None => self.obey(),
            }
        }
    }

    fn obey(&mut self) {
        while let Some(order) = self.orders.take() {
            match order {
                Order::Attach(stream, number) => {
                    self.detach();
                    self.machine.handle_link_up();
                    self.stream = Some((stream, number));
                }
                Order::Detach => self.detach(),
                Order::Inject(frame) => {
                    if let (Some(_), Some(slot)) = (&self.stream, self.machine.slot()) {
                        slot[..frame.len()].copy_from_slice(&frame);
                        self.take(&frame);
                    }
                }
            }
        }
    }

    fn detach(&mut self) {
        self.stream = None;
        self.machine.handle_link_down();
        self.counters.set(*self.machine.counters());
    }
}

/// `EPIPE`, what a write on a closed stream says.
const EPIPE: i32 = 32;
