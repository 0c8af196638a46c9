//! The inbound thread, as the daemon's: stream to TAP, every frame of a read before the next read.

use super::Enclave;
use crate::{cpu::Process, ledger::Way, mailbox::Orders, stream::SimStream};
use nitrotap_core::{
    link::Down,
    tap::{Ingress, IngressCounters},
};
use std::{cell::Cell, rc::Rc};

/// What the link's task asks of this thread.
#[derive(Debug)]
pub(super) enum Order {
    Attach(SimStream, u64, Vec<u8>),
    Detach,
}

/// Bytes asked of the stream at a time, as the daemon does.
pub(super) const READ_SIZE: usize = 64 << 10;

pub(super) struct Worker {
    pub(super) enclave: Enclave,
    pub(super) machine: Ingress,
    pub(super) process: Process,
    pub(super) orders: Orders<Order>,
    pub(super) lost: Rc<dyn Fn(u64, Down)>,
    pub(super) counters: Rc<Cell<IngressCounters>>,
    pub(super) stream: Option<(SimStream, u64)>,
}

impl Worker {
    pub(super) async fn run(mut self) {
        loop {
            let Some((stream, number)) = self.stream.clone() else {
                self.orders.arrived().await;
                self.obey().await;
                continue;
            };
            let ready = std::future::poll_fn(|cx| stream.poll_readable(cx));
            let mut slept = 0;
            let readable = {
                let mut ready = std::pin::pin!(ready);
                let at_once = std::future::poll_fn(|cx| std::task::Poll::Ready(ready.as_mut().poll(cx).is_ready()));
                if at_once.await {
                    true
                } else {
                    slept = self.enclave.costs.wake_ns;
                    tokio::select! {
                        biased;
                        () = self.orders.arrived() => false,
                        () = ready => true,
                    }
                }
            };
            self.process.run(&self.enclave.clock, 0, slept).await;
            if readable {
                self.receive(&stream, number).await;
            }
            self.obey().await;
        }
    }

    async fn receive(&mut self, stream: &SimStream, number: u64) {
        self.process.run(&self.enclave.clock, self.enclave.costs.stream_read.ns, 0).await;
        let space = self.machine.space();
        match stream.try_recv(space) {
            Ok(0) => self.end(number, Down::Closed),
            Ok(n) => {
                self.machine.handle_read(n);
                let bytes = self.enclave.costs.stream_read.bytes(n);
                self.process.run(&self.enclave.clock, bytes, 0).await;
                self.deliver().await;
                self.counters.set(self.machine.counters());
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => self.end(number, Down::Io(error.raw_os_error().unwrap_or(ECONNRESET))),
        }
    }

    async fn deliver(&mut self) {
        let local = self.stream.as_ref().map(|(stream, _)| stream.local());
        while let Some(frame) = self.machine.next_frame() {
            let cost = self.enclave.costs.tap_write.cost(frame.len());
            if let Some(local) = local {
                self.enclave.ledger.received(self.enclave.clock.now(), local, Way::In, frame);
            }
            self.process.run(&self.enclave.clock, cost, 0).await;
            self.enclave.kernel.handle_frame(frame);
        }
    }

    fn end(&mut self, number: u64, why: Down) {
        let why = if self.detach() { Down::Truncated } else { why };
        (self.lost)(number, why);
    }

    async fn obey(&mut self) {
        while let Some(order) = self.orders.take() {
            match order {
                Order::Attach(stream, number, received) => {
                    self.detach();
                    self.stream = Some((stream, number));
                    for chunk in received.chunks(READ_SIZE) {
                        self.machine.space()[..chunk.len()].copy_from_slice(chunk);
                        self.machine.handle_read(chunk.len());
                        self.deliver().await;
                    }
                    self.counters.set(self.machine.counters());
                }
                Order::Detach => {
                    self.detach();
                }
            }
        }
    }

    /// True if the stream ended inside a frame.
    fn detach(&mut self) -> bool {
        self.stream = None;
        let truncated = self.machine.handle_stream_end().is_err();
        self.counters.set(self.machine.counters());
        truncated
    }
}

/// `ECONNRESET`.
const ECONNRESET: i32 = 104;
