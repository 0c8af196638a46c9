//! The link's loop: dials, shakes hands, hands the stream to the frame loops and takes it back.
//!
//! During the handshake it reads the stream itself and keeps every byte, so that the inbound loop can start from the
//! first one: what came early belongs to the TAP like everything else.
//!
//! Bounds: one stream; [`HANDSHAKE_MAX`] bytes of it are kept.

use super::{Errno, Event, egress, ingress};
use crate::{
    frame::{Decoder, PREFIX_LEN},
    link::{ARP_FRAME, DialFailure, Down, Failure, Link, LinkCounters, MacAddr, Output, State, Status},
    tap::{MAX_WOKEN, wake},
    time::Instant,
};
use core::{
    future::Future,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// What the loop hears when it waits.
#[derive(Debug)]
pub enum News<S> {
    /// It is to end.
    Stop,
    /// The deadline is over.
    Timer,
    /// A frame loop has something to say.
    Event(Event),
    /// What came of [`World::dial`].
    Dialed(Result<S, DialFailure>),
    /// The stream has bytes, or has ended.
    Readable,
}

/// What an operator may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Frames flow.
    Up {
        /// Dials so far.
        dials: u64,
        /// Connections of the kernel that were woken.
        woken: usize,
    },
    /// There is no link.
    Failed {
        /// Why.
        failure: Failure,
        /// How often in a row.
        attempt: u32,
        /// When it is tried again.
        retry_in: Duration,
        /// It is worth a line: the first of a row, and one about each minute.
        loud: bool,
    },
}

/// The world of this loop. See [`drive`](super) for what is asked of every world.
pub trait World {
    /// A stream in its handshake. It is closed when it is dropped.
    type Stream;
    /// The same for the frame loops, which share it.
    type Shared: Clone;

    /// The time now.
    fn now(&self) -> Instant;

    /// Begins to connect to the host. [`World::wait`] tells what comes of it.
    fn dial(&mut self);

    /// Nobody wants the connection any more that [`World::dial`] has begun.
    fn forget_dial(&mut self);

    /// Reads from the stream: how many bytes it gave, none at its end.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] if it has none now.
    fn read(&mut self, stream: &Self::Stream, space: &mut [u8]) -> Result<usize, Errno>;

    /// Writes to the stream: how many bytes it took.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] if it takes none now.
    fn write(&mut self, stream: &Self::Stream, bytes: &[u8]) -> Result<usize, Errno>;

    /// Makes a stream that the frame loops can use.
    fn share(&mut self, stream: Self::Stream) -> Self::Shared;

    /// Leaves an order for the outbound loop.
    fn order_egress(&mut self, order: egress::Order<Self::Shared>);

    /// Leaves an order for the inbound loop.
    fn order_ingress(&mut self, order: ingress::Order<Self::Shared>);

    /// Frames for us that the inbound loop has counted so far: what a host that is there and in step sends.
    fn received_for_us(&self) -> u64;

    /// The kernel's open TCP connections: our address, and the peer's.
    fn open_connections(&mut self) -> Vec<(SocketAddr, SocketAddr)>;

    /// Shows counters and status to whoever wants to see them.
    fn publish(&mut self, counters: &LinkCounters, status: Status);

    /// Tells the operator.
    fn tell(&mut self, notice: Notice);

    /// Waits for news, at the latest until `deadline`. A stream in its handshake is waited for too.
    fn wait(
        &mut self,
        stream: Option<&mut Self::Stream>,
        deadline: Option<Instant>,
    ) -> impl Future<Output = News<Self::Stream>>;
}

/// Everything the loop owns.
#[derive(Debug)]
pub struct Loop<W: World> {
    world: W,
    link: Link,
    conn: Conn<W::Stream>,
    /// Streams get numbers, so that a late word about an old one is recognised.
    number: u64,
    /// The TAP's addresses, whose connections are woken when the link is up.
    tap: (MacAddr, IpAddr),
}

/// The connection as far as it has come.
#[derive(Debug)]
enum Conn<S> {
    None,
    Dialing,
    Handshake(Handshake<S>),
    Attached,
}

/// A stream before it is proven.
#[derive(Debug)]
struct Handshake<S> {
    stream: S,
    decoder: Decoder,
    /// Everything read so far.
    received: Vec<u8>,
}

/// A host that sends this much without answering the probe is no gvproxy. More than the frames of a busy switch that
/// floods us with broadcasts for a second.
pub const HANDSHAKE_MAX: usize = 256 << 10;

/// Failures in a row between two that are told: a minute's, at the longest backoff.
const TOLD: u32 = 60;

impl<W: World> Loop<W> {
    /// A loop that has not dialled yet. `tap` are the TAP's addresses.
    pub const fn new(world: W, link: Link, tap: (MacAddr, IpAddr)) -> Self {
        Self { world, link, conn: Conn::None, number: 0, tap }
    }

    /// Runs until told to stop, or the TAP is gone.
    ///
    /// # Errors
    /// What the TAP said when it was gone.
    pub async fn run(mut self) -> Result<(), Errno> {
        self.link.start(self.world.now());
        let gone = loop {
            self.drain();
            let deadline = self.link.poll_timeout();
            let stream = match &mut self.conn {
                Conn::Handshake(handshake) => Some(&mut handshake.stream),
                Conn::None | Conn::Dialing | Conn::Attached => None,
            };
            let news = self.world.wait(stream, deadline).await;
            let now = self.world.now();
            match news {
                News::Stop => break None,
                News::Timer => {
                    self.link.handle_received(now, self.world.received_for_us());
                    self.link.handle_timeout(now);
                }
                News::Event(Event::TapGone(errno)) => break Some(errno),
                News::Event(Event::StreamLost(number, why)) => {
                    if number == self.number && matches!(self.conn, Conn::Attached) {
                        self.link.handle_closed(now, why);
                    }
                }
                News::Dialed(result) => self.dialed(now, result),
                News::Readable => self.readable(now),
            }
        };
        self.link.stop(self.world.now());
        self.drain();
        gone.map_or(Ok(()), Err)
    }

    fn dialed(&mut self, now: Instant, result: Result<W::Stream, DialFailure>) {
        match result {
            Ok(stream) => {
                self.conn = Conn::Handshake(Handshake { stream, decoder: Decoder::new(4096), received: Vec::new() });
                self.link.handle_dialed(now);
            }
            Err(failure) => {
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
            let n = match self.world.read(stream, space) {
                Ok(0) => return self.link.handle_closed(now, Down::Closed),
                Ok(n) => n,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return,
                Err(errno) => return self.link.handle_closed(now, Down::Io(errno.raw())),
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
        self.link.handle_received(now, self.world.received_for_us());
    }

    fn drain(&mut self) {
        while let Some(output) = self.link.poll_output() {
            match output {
                Output::Dial => {
                    self.conn = Conn::Dialing;
                    self.world.dial();
                }
                Output::Write(bytes) => self.write(bytes),
                Output::Probe(frame) => {
                    if let Conn::Attached = self.conn {
                        self.world.order_egress(egress::Order::Inject(frame));
                    } else {
                        let mut bytes = [0; PREFIX_LEN + ARP_FRAME];
                        bytes[..PREFIX_LEN].copy_from_slice(&(ARP_FRAME as u16).to_le_bytes());
                        bytes[PREFIX_LEN..].copy_from_slice(&frame);
                        self.write(&bytes);
                    }
                }
                Output::Up => self.attach(),
                Output::Close => self.close(),
                Output::Failed { failure, attempt, retry_in } => {
                    let loud = attempt == 1 || attempt.is_multiple_of(TOLD);
                    self.world.tell(Notice::Failed { failure, attempt, retry_in, loud });
                }
            }
        }
        self.world.publish(self.link.counters(), self.link.status());
    }

    /// Writes handshake bytes: far fewer than a fresh socket's buffer, so one that is full is broken.
    fn write(&mut self, mut bytes: &[u8]) {
        let Conn::Handshake(handshake) = &self.conn else { return };
        while !bytes.is_empty() {
            let errno = match self.world.write(&handshake.stream, bytes) {
                Ok(n @ 1..) => {
                    bytes = &bytes[n..];
                    continue;
                }
                Err(Errno::INTR) => continue,
                Ok(0) => Errno::AGAIN,
                Err(errno) => errno,
            };
            return self.link.handle_closed(self.world.now(), Down::Io(errno.raw()));
        }
    }

    fn attach(&mut self) {
        let Conn::Handshake(handshake) = core::mem::replace(&mut self.conn, Conn::Attached) else { return };
        self.number += 1;
        let (number, gateway) = (self.number, self.link.gateway());
        let stream = self.world.share(handshake.stream);
        // First, as the kernel answers at once what it is asked.
        self.world.order_egress(egress::Order::Attach { stream: stream.clone(), number, gateway });
        let (mut received, woken) = self.wake();
        received.extend(handshake.received);
        self.world.order_ingress(ingress::Order::Attach { stream, number, received });
        self.world.tell(Notice::Up { dials: self.link.counters().dials, woken });
    }

    /// Frames that make the kernel ask the host about its connections, and their number.
    fn wake(&mut self) -> (Vec<u8>, usize) {
        let (mac, address) = self.tap;
        let passes = |(ours, peers): &(SocketAddr, SocketAddr)| match ours.ip() {
            IpAddr::V4(_) => ours.ip() == address && ours.ip() != peers.ip(),
            // The kernel makes addresses of its own. What is not the TAP's is dropped there, or answered beside the link.
            IpAddr::V6(ip) => !ip.is_loopback() && ours.ip() != peers.ip(),
        };
        let open: Vec<_> = self.world.open_connections().into_iter().filter(passes).take(MAX_WOKEN).collect();
        let seed = self.number ^ self.world.now().as_nanos();
        let Some(gateway) = self.link.gateway() else { return (Vec::new(), 0) };
        (wake(open.iter().copied(), mac, gateway, seed), open.len())
    }

    fn close(&mut self) {
        match self.conn {
            Conn::Attached => {
                self.world.order_egress(egress::Order::Detach);
                self.world.order_ingress(ingress::Order::Detach);
            }
            Conn::Dialing => self.world.forget_dial(),
            Conn::None | Conn::Handshake(_) => {}
        }
        self.conn = Conn::None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        drive::block,
        link::{CONNECT_REQUEST, Config},
    };
    use core::net::Ipv4Addr;
    use std::{cell::RefCell, collections::VecDeque, rc::Rc};

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const GATEWAY_MAC: [u8; 6] = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd];
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 2);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);

    /// What was seen of a link, after it has ended.
    #[derive(Debug, Default)]
    struct Seen {
        /// What each stream took.
        written: Vec<Vec<u8>>,
        failures: Vec<Failure>,
        /// What the inbound loop got with each stream.
        handed_on: Vec<Vec<u8>>,
        detached: usize,
    }

    /// A world that answers each write as told, and says what is in `news` one after the other; deadlines come in between.
    #[derive(Default)]
    struct Script {
        now: Instant,
        seen: Rc<RefCell<Seen>>,
        writes: VecDeque<Result<usize, Errno>>,
        reads: VecDeque<Result<Vec<u8>, Errno>>,
        news: VecDeque<News<usize>>,
        streams: usize,
        dialing: bool,
    }

    impl World for Script {
        type Stream = usize;
        type Shared = usize;

        fn now(&self) -> Instant {
            self.now
        }

        fn dial(&mut self) {
            self.dialing = true;
        }

        fn forget_dial(&mut self) {
            self.dialing = false;
        }

        fn read(&mut self, _: &usize, space: &mut [u8]) -> Result<usize, Errno> {
            let bytes = self.reads.pop_front().unwrap_or(Err(Errno::AGAIN))?;
            space[..bytes.len()].copy_from_slice(&bytes);
            Ok(bytes.len())
        }

        fn write(&mut self, stream: &usize, bytes: &[u8]) -> Result<usize, Errno> {
            let n = self.writes.pop_front().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
            self.seen.borrow_mut().written[*stream].extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn share(&mut self, stream: usize) -> usize {
            stream
        }

        fn order_egress(&mut self, order: egress::Order<usize>) {
            if let egress::Order::Detach = order {
                self.seen.borrow_mut().detached += 1;
            }
        }

        fn order_ingress(&mut self, order: ingress::Order<usize>) {
            if let ingress::Order::Attach { received, .. } = order {
                self.seen.borrow_mut().handed_on.push(received);
            }
        }

        fn received_for_us(&self) -> u64 {
            0
        }

        fn open_connections(&mut self) -> Vec<(SocketAddr, SocketAddr)> {
            Vec::new()
        }

        fn publish(&mut self, _: &LinkCounters, _: Status) {}

        fn tell(&mut self, notice: Notice) {
            if let Notice::Failed { failure, .. } = notice {
                self.seen.borrow_mut().failures.push(failure);
            }
        }

        async fn wait(&mut self, stream: Option<&mut usize>, deadline: Option<Instant>) -> News<usize> {
            if std::mem::take(&mut self.dialing) {
                self.seen.borrow_mut().written.push(Vec::new());
                self.streams += 1;
                return News::Dialed(Ok(self.streams - 1));
            }
            // The probe has left: what comes back is an answer to it.
            let asked = stream.is_none_or(|stream| self.seen.borrow().written[*stream].len() > CONNECT_REQUEST.len());
            let news = if asked { self.news.pop_front().unwrap_or(News::Stop) } else { News::Timer };
            if let (News::Timer, Some(at)) = (&news, deadline) {
                self.now = at;
            }
            news
        }
    }

    /// The gateway's answer to the probe (RFC 826), as it lies in a stream.
    fn answer() -> Vec<u8> {
        let head = [8, 6, 0, 1, 8, 0, 6, 4, 0, 2];
        let (us, it) = (ADDRESS.octets(), GATEWAY.octets());
        let frame = [&MAC.0[..], &GATEWAY_MAC, &head, &GATEWAY_MAC, &it, &MAC.0, &us].concat();
        [&(frame.len() as u16).to_le_bytes()[..], &frame].concat()
    }

    fn run(script: Script) -> Seen {
        let seen = script.seen.clone();
        let link = Link::new(Config::new(MAC, ADDRESS, GATEWAY, 1));
        assert_eq!(block(Loop::new(script, link, (MAC, ADDRESS.into())).run()), Ok(()));
        seen.take()
    }

    #[test]
    fn a_handshake_survives_writes_that_are_short_or_interrupted() {
        let writes = [Err(Errno::INTR), Ok(1), Ok(7), Err(Errno::INTR), Ok(usize::MAX), Ok(3), Err(Errno::INTR)];
        let seen = run(Script {
            writes: writes.into(),
            reads: [Ok(answer())].into(),
            news: [News::Readable].into(),
            ..Script::default()
        });
        assert_eq!(seen.failures, []);
        assert_eq!(seen.written.len(), 1);
        assert!(seen.written[0].starts_with(CONNECT_REQUEST));
        assert_eq!(seen.written[0].len(), CONNECT_REQUEST.len() + PREFIX_LEN + ARP_FRAME);
        assert_eq!(seen.handed_on, [answer()]);
    }

    #[test]
    fn a_stream_that_takes_no_handshake_is_given_up() {
        for full in [Err(Errno::AGAIN), Ok(0), Err(Errno::PIPE)] {
            let seen = run(Script { writes: [Ok(5), full].into(), ..Script::default() });
            let errno = full.err().unwrap_or(Errno::AGAIN);
            assert_eq!(seen.failures, [Failure::Handshake(Down::Io(errno.raw()))], "{full:?}");
        }
    }

    #[test]
    fn every_byte_of_the_handshake_is_handed_on_however_it_came() {
        let bytes = [&[3, 0, 1, 2, 3][..], &answer(), &[60, 0, 9]].concat();
        for size in [1, 5, 50, bytes.len()] {
            let reads = bytes.chunks(size).map(|part| Ok(part.to_vec()));
            let seen = run(Script {
                reads: reads.flat_map(|read| [Err(Errno::INTR), read]).collect(),
                news: [News::Readable].into(),
                ..Script::default()
            });
            let [handed_on] = &seen.handed_on[..] else { panic!("{seen:?}") };
            assert!(bytes.starts_with(handed_on) && handed_on.len() >= 5 + answer().len(), "{size}");
        }
    }

    #[test]
    fn a_word_about_an_earlier_stream_ends_no_later_one() {
        let lost = |number| News::Event(Event::StreamLost(number, Down::Closed));
        let seen = run(Script {
            reads: [Ok(answer()), Ok(answer())].into(),
            // The second word of the first stream comes when the second one is there.
            news: [News::Readable, lost(1), News::Timer, News::Readable, lost(1)].into(),
            ..Script::default()
        });
        assert_eq!((seen.handed_on.len(), seen.failures.len()), (2, 1), "{seen:?}");
        // One is let go because it was lost, the other at the end.
        assert_eq!(seen.detached, 2);
    }
}
