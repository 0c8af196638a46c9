//! The link's task: dials, shakes hands, hands the stream to the frame threads and takes it back.
//!
//! During the handshake it reads the stream itself and keeps every byte, so that the inbound thread can start from the
//! first one: what came early belongs to the TAP like everything else.

use super::{Event, egress, ingress, mailbox::Mailbox};
use crate::{
    clock::Clock,
    endpoint::{Endpoint, dial_failure},
    errors::Error,
    logging::may_log,
    procfs,
    sys::readiness,
};
use nitrotap_core::{
    counters::Shared,
    frame::{Decoder, PREFIX_LEN},
    link::{DialFailure, Down, Failure, Link, LinkCounters, MacAddr, Output, State, Status},
    tap::{IngressCounters, MAX_WOKEN, wake},
    time::Instant,
};
use rustix::io::Errno;
use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    pin::Pin,
    sync::Arc,
};
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, watch},
};

/// Everything the task owns.
pub(super) struct Driver {
    pub(super) link: Link,
    pub(super) endpoint: Endpoint,
    pub(super) clock: Clock,
    pub(super) egress: Mailbox<egress::Order>,
    pub(super) ingress: Mailbox<ingress::Order>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) received: Arc<Shared<IngressCounters>>,
    pub(super) shared: Arc<Shared<LinkCounters>>,
    pub(super) status: watch::Sender<Status>,
    pub(super) conn: Conn,
    /// Streams get numbers, so that a late word about an old one is recognised.
    pub(super) number: u64,
    /// The TAP's addresses, whose connections are woken when the link is up.
    pub(super) tap: (MacAddr, IpAddr),
}

/// The connection as far as it has come.
pub(super) enum Conn {
    None,
    Dialing(Pin<Box<dyn Future<Output = io::Result<OwnedFd>> + Send>>),
    Handshake(Handshake),
    Attached,
}

/// A stream before it is proven.
pub(super) struct Handshake {
    stream: AsyncFd<OwnedFd>,
    decoder: Decoder,
    /// Everything read so far.
    received: Vec<u8>,
}

/// What the task waits for.
enum Turn {
    Stop,
    Timer,
    Event(Event),
    Dialed(io::Result<OwnedFd>),
    Readable,
}

/// A host that sends this much without answering the probe is no gvproxy. More than the frames of a busy switch that
/// floods us with broadcasts for a second.
const HANDSHAKE_MAX: usize = 256 << 10;

impl Driver {
    /// Runs until `stop` resolves or the TAP is gone.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), Error> {
        self.link.start(self.clock.now());
        loop {
            self.drain();
            let timer = self.link.poll_timeout().map(|(at, _)| self.clock.deadline(at));
            let turn = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => Turn::Stop,
                Some(event) = self.events.recv() => Turn::Event(event),
                turn = self.conn.turn() => turn,
                () = sleep_until(timer) => Turn::Timer,
            };
            let now = self.clock.now();
            match turn {
                Turn::Stop => break,
                Turn::Timer => {
                    self.link.handle_received(now, self.signs_of_life());
                    self.link.handle_timeout(now);
                }
                Turn::Event(Event::TapGone(errno)) => {
                    self.link.stop(now);
                    self.drain();
                    return Err(Error::runtime(format!(
                        "the TAP device is gone: {errno}; start again to make a new one"
                    )));
                }
                Turn::Event(Event::StreamLost(number, why)) => {
                    if number == self.number && matches!(self.conn, Conn::Attached) {
                        self.link.handle_closed(now, why);
                    }
                }
                Turn::Dialed(result) => self.dialed(now, result),
                Turn::Readable => self.readable(now),
            }
        }
        self.link.stop(self.clock.now());
        self.drain();
        Ok(())
    }

    fn dialed(&mut self, now: Instant, result: io::Result<OwnedFd>) {
        let stream = result.map_err(|e| (dial_failure(&e), e)).and_then(|fd| {
            readiness::register(fd).map_err(|e| (DialFailure::Other(e.raw_os_error().unwrap_or_default()), e))
        });
        match stream {
            Ok(stream) => {
                self.conn = Conn::Handshake(Handshake { stream, decoder: Decoder::new(4096), received: Vec::new() });
                self.link.handle_dialed(now);
            }
            Err((failure, error)) => {
                tracing::debug!(host = %self.endpoint, %error, "dial failed");
                self.conn = Conn::None;
                self.link.handle_dial_failed(now, failure);
            }
        }
    }

    fn readable(&mut self, now: Instant) {
        let Conn::Handshake(Handshake { stream, decoder, received }) = &mut self.conn else { return };
        // Up to EAGAIN, because readiness is reported once; but no further than the answer: the rest is not ours.
        while self.link.state() != State::Up {
            let space = decoder.space();
            let n = match rustix::io::read(&*stream, &mut *space) {
                Ok(0) => return self.link.handle_closed(now, Down::Closed),
                Ok(n) => n,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return,
                Err(errno) => return self.link.handle_closed(now, Down::Io(errno.raw_os_error())),
            };
            received.extend_from_slice(&space[..n]);
            decoder.commit(n);
            while let Some(frame) = decoder.next_frame() {
                self.link.handle_frame(now, frame);
            }
            if received.len() > HANDSHAKE_MAX {
                return self.link.handle_closed(now, Down::Flood);
            }
        }
        self.link.handle_received(now, self.signs_of_life());
    }

    fn drain(&mut self) {
        while let Some(output) = self.link.poll_output() {
            match output {
                Output::Dial => {
                    let endpoint = self.endpoint.clone();
                    self.conn = Conn::Dialing(Box::pin(async move { endpoint.dial().await }));
                }
                Output::Write(bytes) => self.write(bytes),
                Output::Probe(frame) => {
                    if let Conn::Attached = self.conn {
                        self.egress.send(egress::Order::Inject(frame));
                    } else {
                        let mut bytes = [0; PREFIX_LEN + 64];
                        let len = frame.len();
                        bytes[..PREFIX_LEN].copy_from_slice(&(len as u16).to_le_bytes());
                        bytes[PREFIX_LEN..PREFIX_LEN + len].copy_from_slice(&frame);
                        self.write(&bytes[..PREFIX_LEN + len]);
                    }
                }
                Output::Up => self.attach(),
                Output::Close => self.close(),
                Output::Failed { failure, attempt, retry_in } => self.tell(failure, attempt, retry_in),
            }
        }
        self.shared.publish(self.link.counters());
        self.status.send_replace(self.link.status());
    }

    /// Writes handshake bytes: far fewer than a fresh socket's buffer, so a short write means that it is broken.
    fn write(&mut self, bytes: &[u8]) {
        let Conn::Handshake(handshake) = &self.conn else { return };
        let result = rustix::io::write(&handshake.stream, bytes);
        if result != Ok(bytes.len()) {
            let errno = result.err().unwrap_or(Errno::AGAIN);
            self.link.handle_closed(self.clock.now(), Down::Io(errno.raw_os_error()));
        }
    }

    fn attach(&mut self) {
        let Conn::Handshake(handshake) = std::mem::replace(&mut self.conn, Conn::Attached) else { return };
        self.number += 1;
        let stream = Arc::new(handshake.stream.into_inner());
        // First, as the kernel answers at once what it is asked.
        self.egress.send(egress::Order::Attach(Arc::clone(&stream), self.number, self.link.gateway()));
        let (mut received, woken) = self.wake();
        received.extend(handshake.received);
        self.ingress.send(ingress::Order::Attach(stream, self.number, received));
        seldom!(INFO, 0_u32, "link up", host = %self.endpoint, dials = self.link.counters().dials, woken);
    }

    /// Frames that make the kernel ask the host about its connections, and their number.
    fn wake(&self) -> (Vec<u8>, usize) {
        let (mac, address) = self.tap;
        let passes = |(ours, peers): &(SocketAddr, SocketAddr)| match ours.ip() {
            IpAddr::V4(_) => ours.ip() == address && ours.ip() != peers.ip(),
            // The kernel makes addresses of its own. What is not the TAP's is dropped there, or answered beside the link.
            IpAddr::V6(ip) => !ip.is_loopback() && ours.ip() != peers.ip(),
        };
        let open: Vec<_> = procfs::open_tcp().into_iter().filter(passes).take(MAX_WOKEN).collect();
        let seed = self.number ^ self.clock.now().as_nanos();
        let Some(gateway) = self.link.gateway() else { return (Vec::new(), 0) };
        (wake(open.iter().copied(), mac, gateway, seed), open.len())
    }

    fn close(&mut self) {
        if let Conn::Attached = self.conn {
            self.egress.send(egress::Order::Detach);
            self.ingress.send(ingress::Order::Detach);
        }
        self.conn = Conn::None;
    }

    /// One clear line when it begins, and a reminder about once a minute.
    fn tell(&self, failure: Failure, attempt: u32, retry_in: std::time::Duration) {
        let host = &self.endpoint;
        if attempt == 1 || attempt.is_multiple_of(60) {
            // A host that takes us and lets us go again begins anew each time.
            if let Some(left_out) = may_log("no link", 0) {
                tracing::warn!(%host, attempt, left_out, "no link: {failure}; trying again until there is one");
            }
        } else {
            tracing::debug!(%host, attempt, ?retry_in, "no link: {failure}");
        }
    }

    /// Frames for us: what a host that is there and in step sends.
    fn signs_of_life(&self) -> u64 {
        self.received.read().find(|(desc, _)| desc.name == "nitrotap_rx_for_us").map_or(0, |(_, value)| value)
    }
}

impl Conn {
    /// What the connection has to say; never resolves when there is nothing to wait for. Cancelling loses nothing.
    async fn turn(&mut self) -> Turn {
        match self {
            Self::Dialing(dial) => Turn::Dialed(dial.await),
            Self::Handshake(handshake) => match handshake.stream.readable().await {
                Ok(mut guard) => {
                    guard.clear_ready();
                    Turn::Readable
                }
                Err(_) => std::future::pending().await,
            },
            Self::None | Self::Attached => std::future::pending().await,
        }
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
