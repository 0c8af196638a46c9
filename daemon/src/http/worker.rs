//! One worker: a thread, a single-threaded runtime, a shard.
//!
//! The first worker also accepts, and deals new connections out to the worker with the fewest: with keep-alive a
//! connection stays where it is put, and chance would leave cores idle.

use super::{
    dial::TcpDialer,
    listen::{Acceptor, BACKLOG, Listener},
    proxy_protocol::{self, HeaderCounters, Headers},
    server::ProxyOptions,
    stream::{ClientStream, Seat, Socket},
};
use crate::clock::Clock;
use nitrotap_core::{counters::Shared, pool::PoolCounters, time::Instant};
use nitrotap_proxy::{Peer, ProxyCounters, Runtime, Shard};
use std::{
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::SyncSender,
    },
    time::Duration,
};
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
};

/// What other threads see of a worker.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) proxy: Shared<ProxyCounters>,
    pub(super) pool: Shared<PoolCounters>,
    pub(super) headers: Shared<HeaderCounters>,
}

/// How another thread hands connections to a worker.
#[derive(Clone, Debug)]
pub(super) struct Entrance {
    pub(super) clients: mpsc::Sender<(Socket, Peer, Seat)>,
    pub(super) open: Arc<AtomicUsize>,
}

/// Connections that may wait for a worker to look. It looks once a turn, and a turn takes a few milliseconds at most.
const WAITING_MAX: usize = 256;

impl Entrance {
    /// An entrance, and where its worker finds who came in.
    pub(super) fn new() -> (Self, mpsc::Receiver<(Socket, Peer, Seat)>) {
        Self::with_room_for(WAITING_MAX)
    }

    fn with_room_for(waiting: usize) -> (Self, mpsc::Receiver<(Socket, Peer, Seat)>) {
        let (clients, entered) = mpsc::channel(waiting);
        (Self { clients, open: Arc::default() }, entered)
    }
}

/// What the server wants of its workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Run,
    /// Accept no more, finish what is in flight.
    Drain,
    /// Drop everything.
    Stop,
}

/// Everything a worker's thread takes with it.
pub(super) struct Worker {
    pub(super) options: ProxyOptions,
    pub(super) clock: Clock,
    pub(super) listeners: Vec<Listener>,
    pub(super) entrances: Vec<Entrance>,
    pub(super) clients: mpsc::Receiver<(Socket, Peer, Seat)>,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) published: Arc<Published>,
}

/// What a worker does with a connection.
#[derive(Clone)]
struct Service {
    shard: Shard<WorkerRuntime, TcpDialer>,
    headers: Rc<Headers>,
    /// Whether a connection must begin with a header.
    demand_header: bool,
}

impl Worker {
    /// The worker's life, until the server says stop or all has drained. `ready` learns whether it could begin.
    pub(super) fn run(self, ready: &SyncSender<io::Result<()>>) {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let (result, runtime) = match runtime {
            Ok(runtime) => (Ok(()), Some(runtime)),
            Err(error) => (Err(error), None),
        };
        // The server waits for this one message.
        drop(ready.send(result));
        if let Some(runtime) = runtime {
            runtime.block_on(self.serve());
        }
    }

    async fn serve(mut self) {
        let dialer = TcpDialer::new(&self.options.upstream);
        let config = self.options.config.clone();
        let service = Service {
            headers: Rc::new(Headers::new(config.max_clients, proxy_protocol::TIMEOUT)),
            shard: Shard::new(WorkerRuntime(self.clock), dialer, self.options.upstream.clone(), config),
            demand_header: self.options.accept_proxy_protocol,
        };
        drop(tokio::task::spawn_local(publish(service.clone(), self.published.clone())));
        let entrances: Rc<[Entrance]> = self.entrances.into();
        let mut accepting = Vec::new();
        for listener in self.listeners {
            match listener.register() {
                Ok(acceptor) => accepting.push(tokio::task::spawn_local(accept(
                    acceptor,
                    service.clone(),
                    entrances.clone(),
                    self.phase.clone(),
                ))),
                Err(error) => tracing::error!(%error, "cannot watch a listening socket"),
            }
        }
        drop(entrances);
        let mut stop = self.phase.clone();
        let work = async {
            loop {
                tokio::select! {
                    biased;
                    _ = self.phase.wait_for(|phase| *phase >= Phase::Drain) => break,
                    Some((socket, peer, seat)) = self.clients.recv() => service.serve(socket, peer, seat),
                }
            }
            service.shard.drain();
            // Those still on their way, in the kernel or from another worker, are told that they came too late.
            for accepting in accepting {
                drop(accepting.await);
            }
            self.clients.close();
            while let Some((socket, peer, seat)) = self.clients.recv().await {
                service.serve(socket, peer, seat);
            }
            service.shard.drained().await;
        };
        tokio::select! {
            () = work => {}
            // Closed when the server itself is gone.
            _ = stop.wait_for(|phase| *phase == Phase::Stop) => {}
        }
        service.publish(&self.published);
    }
}

impl Service {
    fn serve(&self, socket: Socket, peer: Peer, seat: Seat) {
        let mut stream = match ClientStream::new(socket, seat) {
            Ok(stream) => stream,
            Err(error) => {
                seldom!(WARN, 0_u32, "cannot watch a client's socket; it is closed", %error);
                return;
            }
        };
        if !self.demand_header {
            self.shard.serve(stream, peer);
            return;
        }
        let (shard, headers) = (self.shard.clone(), self.headers.clone());
        drop(tokio::task::spawn_local(async move {
            if let Some(client) = headers.receive(&mut stream, peer).await {
                shard.serve(stream, client);
            }
        }));
    }

    fn publish(&self, published: &Published) {
        let (proxy, pool) = self.shard.counters();
        published.proxy.publish(&proxy);
        published.pool.publish(&pool);
        published.headers.publish(&self.headers.counters());
    }
}

/// Accepts until the drain, dealing out to all workers. Whoever had connected before it is heard here.
async fn accept(acceptor: Acceptor, service: Service, entrances: Rc<[Entrance]>, mut phase: watch::Receiver<Phase>) {
    let accepting = async {
        loop {
            let (socket, peer) = match acceptor.accept().await {
                Ok(client) => client,
                Err(error) => {
                    pause_after(&error, &acceptor).await;
                    continue;
                }
            };
            if let Some((socket, peer, seat)) = deal(&entrances, socket, peer) {
                service.serve(socket, peer, seat);
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = phase.wait_for(|phase| *phase >= Phase::Drain) => {}
    }
    for _ in 0..BACKLOG {
        let Some((socket, peer)) = acceptor.accept_now() else { break };
        if let Some(entrance) = entrances.first() {
            service.serve(socket, peer, Seat::take(&entrance.open));
        }
    }
}

/// Gives a connection to the worker with the fewest, or back to the first worker, which accepts. That one also serves
/// what a worker has no room for: a worker that is stuck is left alone, and its queue stays bounded.
fn deal(entrances: &[Entrance], socket: Socket, peer: Peer) -> Option<(Socket, Peer, Seat)> {
    let first = entrances.first()?;
    let (index, least) = entrances.iter().enumerate().min_by_key(|(_, entrance)| entrance.open.load(Relaxed))?;
    if index == 0 {
        return Some((socket, peer, Seat::take(&first.open)));
    }
    match least.clients.try_send((socket, peer, Seat::take(&least.open))) {
        // A worker that has drained already lets the connection drop.
        Ok(()) | Err(TrySendError::Closed(_)) => None,
        Err(TrySendError::Full((socket, peer, _))) => Some((socket, peer, Seat::take(&first.open))),
    }
}

/// A client that left before it was accepted is no news; anything else is a shortage that passes.
async fn pause_after(error: &io::Error, acceptor: &Acceptor) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) {
        return;
    }
    seldom!(WARN, 0_u32, "cannot accept a connection; trying again", %error, address = %acceptor.address);
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// How far published counters may lag behind.
const PUBLISH_EVERY: Duration = Duration::from_millis(250);

async fn publish(service: Service, published: Arc<Published>) {
    loop {
        crate::sys::alloc::look_for_room();
        service.publish(&published);
        tokio::time::sleep(PUBLISH_EVERY).await;
    }
}

/// The world, as a shard sees it.
#[derive(Clone, Debug)]
pub(super) struct WorkerRuntime(Clock);

impl Runtime for WorkerRuntime {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + 'static {
        tokio::time::sleep_until(self.0.deadline(at))
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        drop(tokio::task::spawn_local(task));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn client() -> (Socket, Peer) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Socket::Tcp(stream), Peer::Unknown)
    }

    fn open(entrances: &[Entrance]) -> Vec<usize> {
        entrances.iter().map(|entrance| entrance.open.load(Relaxed)).collect()
    }

    #[test]
    fn connections_go_to_the_worker_with_the_fewest() {
        let (entrances, mut entered): (Vec<_>, Vec<_>) = (0..3).map(|_| Entrance::new()).unzip();
        let mut mine = Vec::new();
        for _ in 0..7 {
            let (socket, peer) = client();
            mine.extend(deal(&entrances, socket, peer));
        }
        assert_eq!(open(&entrances), [3, 2, 2]);
        assert_eq!(mine.len(), 3);
        let waiting: Vec<_> = entered.iter_mut().map(|entered| entered.len()).collect();
        assert_eq!(waiting, [0, 2, 2]);
    }

    #[test]
    fn what_a_stuck_worker_has_no_room_for_is_served_by_the_one_that_accepts() {
        let (first, _first_entered) = Entrance::with_room_for(1);
        let (stuck, mut entered) = Entrance::with_room_for(2);
        let entrances = [first, stuck];
        // The first one is busy with many: the stuck one has the fewest, and yet takes only two.
        let _busy: Vec<_> = (0..100).map(|_| Seat::take(&entrances[0].open)).collect();
        let mut mine = Vec::new();
        for _ in 0..5 {
            let (socket, peer) = client();
            mine.extend(deal(&entrances, socket, peer));
        }
        assert_eq!(mine.len(), 3, "none is lost");
        assert_eq!(open(&entrances), [103, 2]);
        // Once it looks again, it is dealt to again.
        assert!(entered.try_recv().is_ok());
        let (socket, peer) = client();
        assert!(deal(&entrances, socket, peer).is_none());
    }

    #[test]
    fn a_worker_that_has_drained_lets_the_connection_drop() {
        let (first, _first_entered) = Entrance::new();
        let (drained, entered) = Entrance::new();
        drop(entered);
        let entrances = [first, drained];
        let _busy = Seat::take(&entrances[0].open);
        let (socket, peer) = client();
        assert!(deal(&entrances, socket, peer).is_none());
        assert_eq!(open(&entrances), [1, 0], "its seat is given back");
    }
}
