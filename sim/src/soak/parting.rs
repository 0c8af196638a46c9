//! Connections of which it is known how they end: one side resets them, or ends them in order, and the other side is to see
//! that and nothing else.
//!
//! Only nitrotap's gateway tells its sides apart like this: stock gvproxy makes an end of a reset.

use super::{
    clients::OUTSIDE,
    pattern,
    plan::Load,
    run::{Book, Rules},
};
use crate::{
    check::Invariant,
    rng::{self, mix},
    stream::{Listener, SimStream},
    time::Clock,
    world::{ClientSide, PUBLISHED_PARTING, ServerSide, ServerStream},
};
use nitrotap_core::time::Instant;
use std::{io, time::Duration};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The service's port, in the enclave and outside alike.
pub(super) const PORT: u16 = crate::world::PARTING;

/// Longest wait for a connection, and then for its end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes that one side says before it leaves, at most.
const MOST_BYTES: usize = 60_000;

/// A connection that can be reset.
pub(super) trait Peer: AsyncRead + AsyncWrite + Unpin {
    /// Resets it at once.
    fn abort(&self);
}

impl Peer for SimStream {
    fn abort(&self) {
        Self::abort(self);
    }
}

impl Peer for crate::stack::StackStream {
    fn abort(&self) {
        Self::abort(self);
    }
}

impl Peer for ServerStream {
    fn abort(&self) {
        Self::abort(self);
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// One side says something and resets it at once.
    AtOnce,
    /// It resets it once the other side has heard everything.
    Heard,
    /// The other side says something and ends; then it resets it.
    Ended,
    /// It says something and ends, and so does the other side then.
    InOrder,
}

/// What both sides know of a connection.
#[derive(Clone, Copy, Debug)]
struct Parting {
    id: u64,
    len: usize,
}

/// What a side has got.
#[derive(Debug)]
struct Got {
    bytes: usize,
    end: io::Result<()>,
}

impl Parting {
    const fn how(self) -> How {
        match self.id % 4 {
            0 => How::AtOnce,
            1 => How::Heard,
            2 => How::Ended,
            _ => How::InOrder,
        }
    }

    /// Whether it is the client that leaves.
    const fn by_client(self) -> bool {
        (self.id / 4).is_multiple_of(2)
    }

    fn head(self) -> [u8; 12] {
        let mut head = [0; 12];
        head[..8].copy_from_slice(&self.id.to_le_bytes());
        head[8..].copy_from_slice(&(self.len as u32).to_le_bytes());
        head
    }

    /// What the other side says in the client's first bytes.
    async fn of(stream: &mut impl Peer) -> io::Result<Self> {
        let (id, len) = (stream.read_u64_le().await?, stream.read_u32_le().await?);
        Ok(Self { id, len: len as usize })
    }

    /// Plays one side; `Err` says what was not as it should have been.
    async fn play<S: Peer>(self, stream: &mut S, leaves: bool, clock: Clock) -> Result<(), (Invariant, String)> {
        let played = async { if leaves { self.leave(stream).await } else { self.stay(stream).await } };
        let played = tokio::select! {
            biased;
            played = played => played.map_err(|detail| (Invariant::Ends, detail)),
            () = clock.sleep(PATIENCE) => Err((Invariant::Progress, format!("nothing for {PATIENCE:?}"))),
        };
        if leaves && self.how() != How::InOrder {
            stream.abort();
        }
        played.map_err(|(invariant, detail)| {
            let who = if leaves { "the side that leaves" } else { "the side that stays" };
            (invariant, format!("connection {:x} ({:?}, {} bytes), {who}: {detail}", self.id, self.how(), self.len))
        })
    }

    async fn leave(self, stream: &mut impl Peer) -> Result<(), String> {
        // Why a write failed is what a reading shows.
        let _ = match self.how() {
            How::AtOnce => return stream.write_all(&self.bytes()).await.map_err(|error| error.to_string()),
            How::Heard | How::InOrder => stream.write_all(&self.bytes()).await,
            How::Ended => Ok(()),
        };
        match self.how() {
            How::AtOnce => Ok(()),
            How::Heard => stream.read_u8().await.map(drop).map_err(|error| format!("{error} before it left")),
            How::Ended => self.ended(&self.hear(stream).await, self.len),
            How::InOrder => {
                let _ = stream.shutdown().await;
                self.ended(&self.hear(stream).await, 0)
            }
        }
    }

    async fn stay(self, stream: &mut impl Peer) -> Result<(), String> {
        if self.how() == How::Ended {
            let _ = stream.write_all(&self.bytes()).await;
            let _ = stream.shutdown().await;
        }
        let got = self.hear(stream).await;
        match self.how() {
            How::InOrder => {
                self.ended(&got, self.len)?;
                // The other side looks at what comes of it.
                let _ = stream.shutdown().await;
                Ok(())
            }
            How::Heard if got.bytes < self.len => Err(format!("{got:?} before the other side left")),
            How::Heard | How::AtOnce | How::Ended => match got.end {
                Err(ref error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
                Err(_) | Ok(()) => Err(format!("{got:?} where the other side has reset it")),
            },
        }
    }

    fn ended(self, got: &Got, len: usize) -> Result<(), String> {
        match got {
            Got { bytes, end: Ok(()) } if *bytes == len => Ok(()),
            Got { .. } => Err(format!("{got:?} where the other side has said {len} bytes and ended")),
        }
    }

    /// Reads to the end, and says so when all is there if the other side waits for that.
    async fn hear(self, stream: &mut impl Peer) -> Got {
        let mut buf = vec![0; 8192];
        let mut bytes = 0;
        let end = loop {
            match stream.read(&mut buf).await {
                Ok(0) => break Ok(()),
                Ok(n) if pattern::mismatch(self.id, bytes as u64, &buf[..n]).is_some() => {
                    break Err(io::Error::new(io::ErrorKind::InvalidData, "wrong bytes"));
                }
                Ok(n) => bytes += n,
                Err(error) => break Err(error),
            }
            if self.how() == How::Heard && bytes == self.len {
                let _ = stream.write_all(b".").await;
            }
        };
        Got { bytes, end }
    }

    fn bytes(self) -> Vec<u8> {
        pattern::bytes(self.id, self.len)
    }
}

/// Serves one connection.
async fn serve(mut stream: impl Peer, clock: Clock, rules: Rules, book: Book) {
    let begun = clock.now();
    let parting = tokio::select! {
        biased;
        parting = Parting::of(&mut stream) => parting,
        () = clock.sleep(PATIENCE) => return,
    };
    // Who gave up before has said nothing.
    let Ok(parting) = parting else { return };
    judge(begun, parting.play(&mut stream, !parting.by_client(), clock).await, clock, &rules, &book);
}

fn judge(begun: Instant, played: Result<(), (Invariant, String)>, clock: Clock, rules: &Rules, book: &Book) {
    match played {
        Ok(()) => book.answer(),
        Err((invariant, detail)) => {
            book.failure();
            if !rules.excuse(begun, clock.now()) {
                book.audit.fail(clock.now(), invariant, detail);
            }
        }
    }
}

/// The service inside the enclave.
pub(super) fn start_inside(side: &ServerSide, rules: &Rules, book: &Book) {
    let Ok(listener) = side.listen(PORT) else { return };
    let (of, rules, book) = (side.clone(), rules.clone(), book.clone());
    side.spawn(async move {
        loop {
            let stream = listener.accept().await;
            of.spawn(serve(stream, of.clock(), rules.clone(), book.clone()));
        }
    });
}

/// The service outside.
pub(super) async fn outside(side: ClientSide, listener: Listener, rules: Rules, book: Book) {
    loop {
        let stream = listener.accept().await;
        side.spawn(serve(stream, side.clock(), rules.clone(), book.clone()));
    }
}

/// Whoever begins connections, on either side.
pub(super) struct Caller {
    rules: Rules,
    book: Book,
    load: Load,
    clock: Clock,
    rng: fastrand::Rng,
}

impl Caller {
    pub(super) fn new(rules: &Rules, book: &Book, load: Load, client: u32, clock: Clock, seed: u64) -> Self {
        // The life of an enclave counts.
        let rng = rng::stream(seed ^ clock.now().as_nanos(), &format!("parting {} {client}", load.id));
        Self { rules: rules.clone(), book: book.clone(), load, clock, rng }
    }

    /// From the world to the enclave, until it is time to stop.
    pub(super) async fn inwards(self, side: ClientSide) {
        self.call(async || side.connect_host(PUBLISHED_PARTING).await).await;
    }

    /// From the enclave to the world.
    pub(super) async fn outwards(self, side: ServerSide) {
        self.call(async || side.connect(OUTSIDE, PORT).await).await;
    }

    async fn call<S: Peer>(mut self, connect: impl AsyncFn() -> io::Result<S>) {
        self.clock.sleep_until(Instant::from_millis(self.load.start_ms)).await;
        loop {
            let pause = Duration::from_millis(self.rng.u64(1..=self.load.think_ms.max(1)));
            if self.clock.now() + pause >= self.rules.stop {
                return;
            }
            self.clock.sleep(pause).await;
            let begun = self.clock.now();
            let len = if self.rng.bool() { self.rng.usize(1..100) } else { self.rng.usize(1..MOST_BYTES) };
            let parting = Parting { id: mix(self.rng.u64(..)), len };
            let connected = tokio::select! {
                biased;
                stream = connect() => stream.map_err(|error| error.to_string()),
                () = self.clock.sleep(PATIENCE) => Err(format!("nothing for {PATIENCE:?}")),
            };
            let played = match connected {
                Ok(mut stream) => {
                    if parting.how() != How::InOrder {
                        self.book.fired("peer-resets");
                    }
                    // If it is not taken, the end shows why.
                    let _ = stream.write_all(&parting.head()).await;
                    parting.play(&mut stream, parting.by_client(), self.clock).await
                }
                Err(detail) => Err((Invariant::Recovery, format!("could not connect to part: {detail}"))),
            };
            judge(begun, played, self.clock, &self.rules, &self.book);
        }
    }
}
