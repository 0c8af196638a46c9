//! The clients of the soak: what they ask for, and what they make of the answers.

use super::{
    parting::Caller,
    pattern,
    plan::{Load, LoadKind, Transfer},
    run::{Book, ECHO, Rules},
};
use crate::{
    check::Invariant,
    http::Reader,
    rng::{self, mix},
    stream::SimStream,
    time::Clock,
    trace::{Actor, Event, hash_bytes},
    world::{ClientSide, PUBLISHED_ECHO, ServerSide},
};
use nitrotap_core::time::Instant;
use std::{io, net::Ipv4Addr, time::Duration};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Longest wait of a client for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Longest wait for a transfer to move at all.
const STALL: Duration = Duration::from_secs(30);

/// Where the enclave finds somebody (TEST-NET-3, RFC 5737).
pub(super) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Where nobody answers; see the world's resolver.
pub(super) const NOWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// Starts the clients on the client's machine.
pub(super) async fn run(side: ClientSide, rules: Rules, book: Book) {
    for load in rules.loads.iter().copied() {
        for client in 0..load.clients {
            let who = Client::new(&rules, &book, load, client, side.clock(), side.seed());
            let of = side.clone();
            match load.kind {
                LoadKind::Http { max_body, unruly_permille } => {
                    side.spawn(async move { who.http(&of, max_body, unruly_permille).await });
                }
                LoadKind::Tunnel(transfer) => side.spawn(async move { who.tunnels(&of, transfer).await }),
                LoadKind::EchoIn(transfer) => side.spawn(async move { who.echoes_in(&of, transfer).await }),
                LoadKind::Rogue => {
                    let (rules, book) = (rules.clone(), book.clone());
                    side.spawn(async move { super::rogue::run(&of, load, client, &rules, &book).await });
                }
                LoadKind::PartingIn => {
                    let caller = Caller::new(&rules, &book, load, client, side.clock(), side.seed());
                    side.spawn(caller.inwards(of));
                }
                LoadKind::EchoOut(_)
                | LoadKind::DialRefused
                | LoadKind::DialUnanswered
                | LoadKind::Datagrams { .. }
                | LoadKind::Names
                | LoadKind::PartingOut => {}
            }
        }
    }
    std::future::pending().await
}

/// Starts the clients inside the enclave.
pub(super) fn start_inside(side: &ServerSide, rules: &Rules, book: &Book) {
    for load in rules.loads.iter().copied() {
        for client in 0..load.clients {
            let who = Client::new(rules, book, load, client, side.clock(), side.seed());
            let of = side.clone();
            match load.kind {
                LoadKind::EchoOut(transfer) => side.spawn(async move { who.echoes_out(&of, transfer).await }),
                LoadKind::DialRefused => side.spawn(async move { who.refused(&of).await }),
                LoadKind::DialUnanswered => side.spawn(async move { who.unanswered(&of).await }),
                LoadKind::Datagrams { max_bytes } => side.spawn(async move { who.datagrams(&of, max_bytes).await }),
                LoadKind::Names => side.spawn(async move { who.names(&of).await }),
                LoadKind::PartingOut => {
                    let caller = Caller::new(rules, book, load, client, side.clock(), side.seed());
                    side.spawn(caller.outwards(of));
                }
                LoadKind::Http { .. }
                | LoadKind::Tunnel(_)
                | LoadKind::EchoIn(_)
                | LoadKind::Rogue
                | LoadKind::PartingIn => {}
            }
        }
    }
}

pub(super) struct Client {
    rules: Rules,
    pub(super) book: Book,
    load: Load,
    number: u32,
    pub(super) clock: Clock,
    pub(super) rng: fastrand::Rng,
    /// Ids of this run and life; see [`Self::next_id`].
    space: u64,
    next: u32,
}

/// What came of a request.
enum Reply {
    /// An answer: status, whose it says it is, its body.
    Answer(u16, Option<u64>, Vec<u8>, bool),
    /// The connection failed, which tells the client so.
    Broken(io::Error),
    /// Nothing came.
    Nothing,
}

impl Client {
    fn new(rules: &Rules, book: &Book, load: Load, client: u32, clock: Clock, seed: u64) -> Self {
        // The life of an enclave counts: after its restart its clients draw anew.
        let life = clock.now().as_nanos();
        let rng = rng::stream(seed ^ life, &format!("client {} {client}", load.id));
        let number = load.id * 1000 + client;
        let space = mix(seed ^ mix(life));
        Self { rules: rules.clone(), book: book.clone(), load, number, clock, rng, space, next: 0 }
    }

    /// An id for the next request or transfer, which no other has: the mixing is one to one.
    pub(super) fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.id(self.next)
    }

    fn id(&self, number: u32) -> u64 {
        mix(self.space ^ (u64::from(self.number) << 32 | u64::from(number)))
    }

    /// Every id so far.
    pub(super) fn ids(&self) -> impl Iterator<Item = u64> {
        (1..=self.next).map(|number| self.id(number))
    }

    /// Waits until the load starts.
    pub(super) async fn start(&self) {
        self.clock.sleep_until(Instant::from_millis(self.load.start_ms)).await;
    }

    /// Pauses; false when it is time to stop.
    pub(super) async fn think(&mut self) -> bool {
        let pause = Duration::from_millis(self.rng.u64(1..=self.load.think_ms.max(1)));
        let now = self.clock.now();
        if now + pause >= self.rules.stop {
            return false;
        }
        self.clock.sleep(pause).await;
        true
    }

    /// Whether something that began at `begun` may have failed by now.
    fn excused(&self, begun: Instant) -> bool {
        self.rules.excuse(begun, self.clock.now())
    }

    pub(super) fn fail(&self, invariant: Invariant, detail: String) {
        let detail = format!("client {}: {detail}", self.number);
        self.book.audit.fail(self.clock.now(), invariant, detail);
    }

    /// What went wrong counts against recovery if it must not go wrong any more.
    pub(super) fn judge(&self, begun: Instant, what: impl FnOnce() -> String) {
        self.book.failure();
        if !self.excused(begun) {
            self.fail(Invariant::Recovery, what());
        }
    }

    async fn http(mut self, side: &ClientSide, max_body: usize, unruly_permille: u32) {
        self.start().await;
        let mut conn: Option<(Instant, Reader<SimStream>)> = None;
        while self.think().await {
            let begun = self.clock.now();
            // A connection from before the calm may be half dead, and nobody can know.
            if conn
                .as_ref()
                .is_some_and(|(since, _)| self.rules.is_before_calm(*since) && !self.rules.is_before_calm(begun))
            {
                conn = None;
            }
            let reader = match conn.take() {
                Some((since, reader)) => (since, reader),
                None => match self.connect(side.connect()).await {
                    Some(stream) => (begun, Reader::new(stream)),
                    None => {
                        self.judge(begun, || "could not connect".to_owned());
                        continue;
                    }
                },
            };
            let (since, mut reader) = reader;
            let id = self.next_id();
            let unruly = self.rng.u32(0..1000) < unruly_permille;
            let has_proxy = self.rules.has_proxy;
            let verb = match (unruly, self.rng.u8(0..10)) {
                (true, 0..3) => "reset",
                (true, 3..6) => "half",
                (true, 6) => "silent",
                (true, 7) => "once",
                (true, _) if has_proxy => "stall",
                (true, _) => "half",
                (false, 0..5) => "ok",
                (false, 5..7) => "post",
                (false, 7..9) => "slow",
                (false, _) => "close",
            };
            let len = if max_body == 0 { 0 } else { self.rng.usize(0..=max_body) };
            self.book.request();
            side.trace().note(begun, Actor::Client, Event::Request, self.number, id, len as u64);
            let reply = self.ask(&mut reader, verb, id, len).await;
            let now = self.clock.now();
            let status = match &reply {
                Reply::Answer(status, ..) => u64::from(*status),
                Reply::Broken(_) => 1,
                Reply::Nothing => 2,
            };
            let event = if matches!(reply, Reply::Answer(..)) { Event::Answer } else { Event::Failure };
            side.trace().note(now, Actor::Client, event, self.number, id, status);
            if self.weigh(begun, verb, id, len, reply) {
                conn = Some((since, reader));
            }
        }
    }

    async fn connect(&self, connect: impl Future<Output = io::Result<SimStream>>) -> Option<SimStream> {
        tokio::select! {
            biased;
            stream = connect => stream.ok(),
            () = self.clock.sleep(PATIENCE) => None,
        }
    }

    async fn ask(&self, reader: &mut Reader<SimStream>, verb: &str, id: u64, len: usize) -> Reply {
        let exchange = async {
            let body = if verb == "post" { pattern::bytes(id, len) } else { Vec::new() };
            let method = if verb == "post" || verb == "once" { "POST" } else { "GET" };
            let mut message = format!("{method} /{verb}/{id:x}/{len:x} HTTP/1.1\r\nHost: app\r\n");
            if method == "POST" {
                message += &format!("Content-Length: {}\r\n", body.len());
            }
            message += "\r\n";
            reader.stream.write_all(&[message.as_bytes(), &body].concat()).await?;
            let head = reader.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let body = reader.body(&head, true).await?;
            let whose = head.field("x-id").and_then(|id| u64::from_str_radix(id, 16).ok());
            Ok((head.status().unwrap_or(0), whose, body, head.closes()))
        };
        tokio::select! {
            biased;
            result = exchange => match result {
                Ok((status, whose, body, closes)) => Reply::Answer(status, whose, body, closes),
                Err(error) => Reply::Broken(error),
            },
            () = self.clock.sleep(PATIENCE) => Reply::Nothing,
        }
    }

    /// Looks at what came; true if the connection can be used again.
    fn weigh(&self, begun: Instant, verb: &str, id: u64, len: usize, reply: Reply) -> bool {
        match reply {
            Reply::Answer(200, whose, body, closes) => {
                if whose != Some(id) {
                    self.fail(Invariant::OneAnswer, format!("request {id:x} got the answer to {whose:x?}"));
                }
                match verb {
                    "post" => {
                        let expected = format!("{:x}", hash_bytes(id, &pattern::bytes(id, len)));
                        if body != expected.as_bytes() {
                            self.fail(Invariant::Integrity, format!("the body of request {id:x} arrived changed"));
                        }
                    }
                    "reset" | "half" | "silent" | "once" | "stall" => {
                        self.fail(
                            Invariant::OneAnswer,
                            format!("request {id:x} ({verb}) got an answer that was never given"),
                        );
                    }
                    _ => {
                        if body.len() != len || pattern::mismatch(id, 0, &body).is_some() {
                            let at = pattern::mismatch(id, 0, &body);
                            let got = body.len();
                            self.fail(
                                Invariant::Integrity,
                                format!("answer {id:x}: {got} of {len} bytes, first wrong: {at:?}"),
                            );
                        }
                    }
                }
                self.book.answer();
                !closes
            }
            Reply::Answer(status, _, _, closes) => {
                let expected = match verb {
                    "stall" => status == 504,
                    "silent" | "once" => status == 502,
                    // The proxy can still say so where the head had not arrived before the app was gone.
                    "reset" | "half" => status == 502,
                    _ => false,
                };
                if !expected {
                    self.judge(begun, || format!("request {id:x} ({verb}) was answered {status}"));
                }
                !closes
            }
            Reply::Broken(error) => {
                let expected = match verb {
                    "reset" | "half" => true,
                    "silent" | "once" => !self.rules.has_proxy,
                    _ => false,
                };
                if !expected {
                    self.judge(begun, || format!("request {id:x} ({verb}, {len} bytes) broke: {error}"));
                }
                false
            }
            Reply::Nothing => {
                self.judge(begun, || format!("request {id:x} ({verb}, {len} bytes) got no answer in {PATIENCE:?}"));
                false
            }
        }
    }

    async fn tunnels(mut self, side: &ClientSide, transfer: Transfer) {
        self.start().await;
        while self.think().await {
            let begun = self.clock.now();
            let Some(stream) = self.connect(side.connect()).await else {
                self.judge(begun, || "could not connect for a tunnel".to_owned());
                continue;
            };
            let id = self.next_id();
            let mut reader = Reader::new(stream);
            let len = if transfer.server_first { self.rng.u64(1..=transfer.max_bytes.max(1)) as usize } else { 0 };
            let verb = if transfer.server_first { "down" } else { "up" };
            let upgrade = async {
                let line = format!("GET /{verb}/{id:x}/{len:x} HTTP/1.1");
                let head = format!("{line}\r\nHost: app\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
                reader.stream.write_all(head.as_bytes()).await?;
                reader.head().await
            };
            let head = tokio::select! {
                biased;
                head = upgrade => head.ok().flatten(),
                () = self.clock.sleep(PATIENCE) => None,
            };
            if head.as_ref().and_then(crate::http::Head::status) != Some(101) {
                self.judge(begun, || format!("no tunnel: {:?}", head.map(|head| head.line)));
                continue;
            }
            if transfer.server_first {
                self.second(begun, id, len, reader).await;
                continue;
            }
            let (early, stream) = reader.into_parts();
            if !early.is_empty() {
                self.fail(Invariant::Integrity, "bytes came out of a tunnel before any went in".to_owned());
            }
            self.transfer(begun, id, stream, transfer, "tunnel").await;
        }
    }

    /// Reads what the app sends up to its end, and only then sends.
    async fn second(&self, begun: Instant, id: u64, len: usize, mut reader: Reader<SimStream>) {
        let exchange = async {
            let read = reader.to_end().await?;
            if let Some(at) = pattern::mismatch(id, 0, &read) {
                self.fail(Invariant::Integrity, format!("tunnel {id:x}: byte {at} of {len} is wrong"));
            }
            if read.len() != len {
                return Ok(Some(read.len()));
            }
            reader.stream.write_all(&pattern::bytes(id ^ 1, len)).await?;
            reader.stream.shutdown().await?;
            // The app closes as soon as it has everything.
            reader.to_end().await.map(|_| None)
        };
        let outcome: Option<io::Result<Option<usize>>> = tokio::select! {
            biased;
            outcome = exchange => Some(outcome),
            () = self.clock.sleep(STALL) => None,
        };
        let detail = match outcome {
            Some(Ok(None)) => return self.book.answer(),
            Some(Ok(Some(got))) => format!("the app's half ended after {got} of {len} bytes"),
            Some(Err(error)) => format!("broke: {error}"),
            None => format!("the end of the app's half did not arrive in {STALL:?}"),
        };
        self.book.failure();
        if !self.excused(begun) {
            self.fail(Invariant::HalfClose, format!("tunnel {id:x}, the app first: {detail}"));
        }
    }

    async fn echoes_in(mut self, side: &ClientSide, transfer: Transfer) {
        self.start().await;
        while self.think().await {
            let begun = self.clock.now();
            match self.connect(side.connect_host(PUBLISHED_ECHO)).await {
                Some(stream) => {
                    let id = self.next_id();
                    self.transfer(begun, id, stream, transfer, "echo in").await;
                }
                None => self.judge(begun, || "could not connect for an echo".to_owned()),
            }
        }
    }

    async fn echoes_out(mut self, side: &ServerSide, transfer: Transfer) {
        self.start().await;
        while self.think().await {
            let begun = self.clock.now();
            let stream = tokio::select! {
                biased;
                stream = side.connect(OUTSIDE, ECHO) => stream,
                () = self.clock.sleep(PATIENCE) => Err(io::ErrorKind::TimedOut.into()),
            };
            match stream {
                Ok(stream) => {
                    let id = self.next_id();
                    self.transfer(begun, id, stream, transfer, "echo out").await;
                }
                Err(error) => self.judge(begun, || format!("could not connect out of the enclave: {error}")),
            }
        }
    }

    async fn refused(mut self, side: &ServerSide) {
        self.start().await;
        while self.think().await {
            let begun = self.clock.now();
            let result = tokio::select! {
                biased;
                result = side.connect(OUTSIDE, 9) => result.map(drop),
                () = self.clock.sleep(PATIENCE) => Err(io::ErrorKind::TimedOut.into()),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => self.book.fired("dial-refused"),
                Err(error) => self.judge(begun, || format!("a port where nobody listens: {error} instead of refused")),
                Ok(()) => self.fail(Invariant::Integrity, "connected to a port where nobody listens".to_owned()),
            }
        }
    }

    /// A few at a time only: gvproxy has ten places for dials that nobody answers, and then stalls everything else.
    async fn unanswered(mut self, side: &ServerSide) {
        self.start().await;
        while self.think().await {
            let answer = tokio::select! {
                biased;
                result = side.connect(NOWHERE, 80) => Some(result.is_ok()),
                () = self.clock.sleep(PATIENCE) => None,
            };
            match answer {
                Some(true) => self.fail(Invariant::Integrity, "connected to where nobody is".to_owned()),
                // No link, say.
                Some(false) => {}
                None => self.book.fired("dial-unanswered"),
            }
            self.clock.sleep(Duration::from_secs(60)).await;
        }
    }

    /// Sends bytes to somebody who sends them back, and looks at each of them.
    async fn transfer<S>(&mut self, begun: Instant, id: u64, stream: S, transfer: Transfer, what: &str)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let total = self.rng.u64(1..=transfer.max_bytes.max(1));
        let chunk = self.rng.usize(1..=16_384);
        let (mut reader, mut writer) = tokio::io::split(stream);
        let moved = std::cell::Cell::new(0_u64);
        let clock = self.clock;
        let (may_finish, all_read) = tokio::sync::oneshot::channel::<()>();
        let sending = async {
            let mut sent = 0;
            let mut buf = vec![0; chunk];
            while sent < total {
                let n = (total - sent).min(chunk as u64) as usize;
                pattern::fill(id, sent, &mut buf[..n]);
                writer.write_all(&buf[..n]).await?;
                sent += n as u64;
            }
            if !transfer.half_close {
                // The reader says when; if it gives up, so do we.
                let _ = all_read.await;
            }
            writer.shutdown().await
        };
        let reading = async {
            let mut got = 0;
            let mut buf = vec![0; if transfer.slow_reader { 1500 } else { 16_384 }];
            let mut may_finish = Some(may_finish);
            loop {
                if got >= total
                    && let Some(may_finish) = may_finish.take()
                {
                    let _ = may_finish.send(());
                }
                let n = reader.read(&mut buf).await?;
                if n == 0 {
                    return Ok(got);
                }
                if let Some(at) = pattern::mismatch(id, got, &buf[..n]) {
                    self.fail(Invariant::Integrity, format!("{what} {id:x}: byte {at} of {total} is wrong"));
                }
                got += n as u64;
                moved.set(got);
                if got > total {
                    self.fail(Invariant::Integrity, format!("{what} {id:x}: {got} bytes came back of {total}"));
                }
                if transfer.slow_reader {
                    self.book.fired("slow-reader");
                    clock.sleep(Duration::from_millis(20)).await;
                }
            }
        };
        let both = async {
            let (sent, got) = tokio::join!(biased; sending, reading);
            let got: io::Result<u64> = got;
            (sent, got)
        };
        // As long as something moves, it may go on.
        let stalled = async {
            let mut last = 0;
            loop {
                clock.sleep(STALL).await;
                if moved.replace(moved.get()) == last {
                    return last;
                }
                last = moved.get();
            }
        };
        let outcome = tokio::select! {
            biased;
            (sent, got) = both => match (sent, got) {
                (_, Ok(got)) if got == total => Ok(()),
                (_, Ok(got)) => Err((Invariant::HalfClose, format!("ended after {got} of {total} bytes"))),
                (Err(error), Err(_)) | (Ok(()), Err(error)) => {
                    Err((Invariant::Recovery, format!("broke after {} of {total} bytes: {error}", moved.get())))
                }
            },
            at = stalled => Err((Invariant::Progress, format!("stood still for {STALL:?} at {at} of {total} bytes"))),
        };
        self.book.transfer(moved.get());
        match outcome {
            Ok(()) => self.book.answer(),
            Err((invariant, detail)) => {
                self.book.failure();
                if !self.excused(begun) {
                    let half = if transfer.half_close { ", half-closed" } else { "" };
                    self.fail(invariant, format!("{what} {id:x}{half}: {detail}"));
                }
            }
        }
    }
}
