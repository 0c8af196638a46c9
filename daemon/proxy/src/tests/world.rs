//! A shard, its clients and its upstream in one thread; time jumps to the next timer when nothing else happens.

use crate::{Config, DialFailure, Dialer, Peer, ProxyCounters, Runtime, Shard};
use nitrotap_core::{
    pool::{Limits, PoolCounters},
    time::Instant,
};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::Future,
    io,
    net::IpAddr,
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::Notify,
};

/// Runs `test` with a fresh world on a runtime with virtual time.
pub(super) fn run(config: Config, test: impl AsyncFnOnce(World)) {
    run_with("http://127.0.0.1:3000", config, test);
}

pub(super) fn run_with(upstream: &str, config: Config, test: impl AsyncFnOnce(World)) {
    let log = Arc::<Mutex<Vec<u8>>>::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .without_time()
        .with_ansi(false)
        .with_writer(move || Writer(writer.clone()))
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let net = Rc::<Net>::default();
        let rt = TestRuntime { start: tokio::time::Instant::now() };
        let shard = Shard::new(rt.clone(), TestDialer(net.clone()), upstream.parse().unwrap(), config);
        test(World { shard, net, rt, log }).await;
    });
}

/// Small limits where a test needs to reach them.
pub(super) fn with_limits(limits: Limits) -> Config {
    Config { limits, ..Config::default() }
}

pub(super) struct World {
    pub(super) shard: Shard<TestRuntime, TestDialer>,
    net: Rc<Net>,
    rt: TestRuntime,
    log: Arc<Mutex<Vec<u8>>>,
}

impl World {
    /// A new client connection from 192.0.2.7.
    pub(super) fn client(&self) -> End {
        self.client_as(Peer::Ip(IpAddr::from([192, 0, 2, 7])))
    }

    pub(super) fn client_as(&self, peer: Peer) -> End {
        let (ours, theirs) = duplex(64 * 1024);
        self.shard.serve(theirs, peer);
        End::new(ours)
    }

    /// The upstream's end of the next connection the proxy has opened.
    pub(super) async fn accept(&self) -> End {
        loop {
            let next = self.net.opened.borrow_mut().pop_front();
            if let Some(stream) = next {
                return End::new(stream);
            }
            self.net.news.notified().await;
        }
    }

    pub(super) fn dials(&self, mode: Dials) {
        self.net.dials.set(mode);
    }

    pub(super) fn proxy(&self) -> ProxyCounters {
        self.shard.counters().0
    }

    pub(super) fn pool(&self) -> PoolCounters {
        self.shard.counters().1
    }

    pub(super) fn seconds(&self) -> f64 {
        self.rt.now().as_nanos() as f64 / 1e9
    }

    pub(super) fn log(&self) -> String {
        String::from_utf8(self.log.lock().unwrap().clone()).unwrap()
    }
}

/// How dials end.
#[derive(Clone, Copy, Default)]
pub(super) enum Dials {
    #[default]
    Succeed,
    Refuse,
    Hang,
}

#[derive(Default)]
pub(super) struct Net {
    dials: Cell<Dials>,
    opened: RefCell<VecDeque<DuplexStream>>,
    news: Notify,
}

pub(super) struct TestDialer(Rc<Net>);

impl Dialer for TestDialer {
    type Stream = DuplexStream;

    fn dial(&self) -> impl Future<Output = Result<DuplexStream, DialFailure>> + 'static {
        let net = self.0.clone();
        async move {
            match net.dials.get() {
                Dials::Succeed => {
                    let (ours, theirs) = duplex(64 * 1024);
                    net.opened.borrow_mut().push_back(theirs);
                    net.news.notify_one();
                    Ok(ours)
                }
                Dials::Refuse => Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()),
                Dials::Hang => std::future::pending().await,
            }
        }
    }
}

#[derive(Clone)]
pub(super) struct TestRuntime {
    start: tokio::time::Instant,
}

impl Runtime for TestRuntime {
    fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap())
    }

    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + 'static {
        tokio::time::sleep_until(self.start + at.since(Instant::ZERO))
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        drop(tokio::task::spawn_local(task));
    }
}

/// One end of a byte stream, played by the test.
pub(super) struct End {
    stream: DuplexStream,
    unread: Vec<u8>,
}

impl End {
    fn new(stream: DuplexStream) -> Self {
        Self { stream, unread: Vec::new() }
    }

    pub(super) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Sends as much as the other side takes before it closes.
    pub(super) async fn try_send(&mut self, text: &str) {
        drop(self.stream.write_all(text.as_bytes()).await);
    }

    /// Ends our direction only.
    pub(super) async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// The next message head, up to and including its empty line.
    pub(super) async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.unread.windows(4).position(|w| w == b"\r\n\r\n") {
                return String::from_utf8(self.unread.drain(..end + 4).collect()).unwrap();
            }
            assert!(self.more().await, "the stream ended before a head: {:?}", String::from_utf8_lossy(&self.unread));
        }
    }

    /// The next bytes, which must be `text`.
    pub(super) async fn expect(&mut self, text: &str) {
        while self.unread.len() < text.len() {
            assert!(self.more().await, "ended after {:?}", String::from_utf8_lossy(&self.unread));
        }
        let got: Vec<u8> = self.unread.drain(..text.len()).collect();
        assert_eq!(String::from_utf8_lossy(&got), text);
    }

    /// A head and a body of the length it states.
    pub(super) async fn message(&mut self) -> (String, String) {
        let head = self.head().await;
        let length = field(&head, "content-length").map_or(0, |v| v.parse().unwrap());
        while self.unread.len() < length {
            assert!(self.more().await, "the stream ended inside a body");
        }
        (head, String::from_utf8(self.unread.drain(..length).collect()).unwrap())
    }

    /// Everything up to the end of the stream.
    pub(super) async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8(std::mem::take(&mut self.unread)).unwrap()
    }

    /// The same, whatever bytes they are.
    pub(super) async fn rest_lossy(&mut self) -> String {
        while self.more().await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.unread)).into_owned()
    }

    /// Reads one byte.
    pub(super) async fn some(&mut self) {
        drop(self.stream.read_u8().await);
    }

    /// Whether nothing arrives for a (virtual) while.
    pub(super) async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(10), self.more()).await.is_err() && self.unread.is_empty()
    }

    async fn more(&mut self) -> bool {
        self.stream.read_buf(&mut self.unread).await.unwrap_or(0) > 0
    }
}

/// The value of a header line.
pub(super) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name))).map(|(_, v)| v)
}

#[derive(Clone)]
struct Writer(Arc<Mutex<Vec<u8>>>);

#[expect(clippy::unwrap_in_result, reason = "a poisoned lock is a failed test already")]
impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("one thread").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
