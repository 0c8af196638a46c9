//! One worker's proxy: takes client connections, serves them, drains.
//!
//! Owns: the list of client connections, the counters, the upstreams. Driven by its own tasks on the [`Runtime`] and
//! by the owner's calls. Bounds: [`Config::max_clients`], tunnels included; the pool's own.

use crate::{
    budget::Budget,
    client::{Client, Overdue},
    config::Config,
    counters::ProxyCounters,
    crowd::{self, Crowd},
    housekeeper,
    runtime::{Dialer, Runtime},
    shed,
    upstreams::Upstreams,
    url::UpstreamUrl,
};
use http::HeaderValue;
use nitrotap_core::{
    pace::{self, Holder},
    pool::PoolCounters,
    time::Instant,
};
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    net::IpAddr,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Most bytes read at once before a request is known.
const SCRATCH: usize = 16 * 1024;

/// A single-threaded reverse proxy for one upstream. Clones are handles to the same shard.
pub struct Shard<R: Runtime, D: Dialer>(Rc<Inner<R, D>>);

impl<R: Runtime, D: Dialer> Clone for Shard<R, D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Who is at the other end of a client connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Somebody with an IP address.
    Ip(IpAddr),
    /// A vsock peer by its CID: `unknown` in `X-Forwarded-For` (RFC 7239 section 6.2).
    Vsock(u32),
    /// Somebody of whom nothing is known; `unknown`, too.
    Unknown,
}

impl<R: Runtime, D: Dialer> Shard<R, D> {
    /// A shard without clients. Its housekeeping runs on `runtime` until the last handle and client are gone.
    pub fn new(runtime: R, dialer: D, upstream: UpstreamUrl, config: Config) -> Self {
        let budget = Budget::new(config.buffer_memory, config.has_memory);
        let upstreams = Rc::new(Upstreams::new(runtime.clone(), dialer, upstream, config));
        let inner = Rc::new(Inner {
            upstreams,
            counters: RefCell::default(),
            clients: RefCell::default(),
            kept: Cell::new(0),
            crowd: Rc::default(),
            budget,
            turned_away: Cell::new(0),
            next_check: Cell::new(Instant::ZERO),
            draining: Cell::new(false),
            drained: RefCell::new(None),
            scratch: RefCell::new(vec![0; SCRATCH].into()),
        });
        runtime.spawn(housekeeper::run(runtime.clone(), Rc::downgrade(&inner)));
        Self(inner)
    }

    /// Serves one client connection in a task of its own, or turns it away at the limit.
    pub fn serve<S>(&self, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let inner = self.0.clone();
        let runtime = &self.0.upstreams.runtime;
        if !inner.has_room() {
            inner.counters.borrow_mut().shed += 1;
            return shed::turn_away(&inner, stream, shed::FULL);
        }
        let config = &inner.upstreams.config;
        let seat = match peer {
            Peer::Ip(ip) => {
                let public = if crowd::is_private(ip) { usize::MAX } else { config.max_per_public_address };
                Some(inner.crowd.enter(crowd::Key::of_ip(ip), config.max_per_address.min(public)))
            }
            // The parent instance stands for all of its clients, as gateways of private networks do.
            Peer::Vsock(cid) => Some(inner.crowd.enter(crowd::Key::Cid(cid), config.max_per_address)),
            Peer::Unknown => None,
        };
        let seat = match seat {
            Some(None) => {
                inner.counters.borrow_mut().crowded += 1;
                return shed::turn_away(&inner, stream, shed::CROWDED);
            }
            Some(seat) => seat,
            None => None,
        };
        let client = Client::new(address(peer), runtime.now(), seat);
        inner.admit(&client);
        runtime.spawn(async move {
            let _admission = Admission { inner: inner.clone(), client: client.clone() };
            client.serve(inner, stream).await;
        });
    }

    /// How many clients have buffers while they are idle.
    #[cfg(test)]
    pub(crate) fn buffered_clients(&self) -> usize {
        self.0.clients.borrow().iter().filter(|client| client.is_buffered()).count()
    }

    /// Stops keep-alive, lets requests in flight finish, closes idle connections, and turns new clients away.
    pub fn drain(&self) {
        self.0.draining.set(true);
        self.0.upstreams.drain();
        for client in self.0.clients.borrow().iter() {
            client.finish();
        }
    }

    /// Completes when the last client connection and tunnel are gone.
    pub async fn drained(&self) {
        poll_fn(|cx| {
            if self.0.is_empty() {
                return Poll::Ready(());
            }
            *self.0.drained.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// What this shard has counted so far.
    #[must_use]
    pub fn counters(&self) -> (ProxyCounters, PoolCounters) {
        let (buffered, buffer_full) = self.0.budget.usage();
        let proxy = ProxyCounters { buffered, buffer_full, ..*self.0.counters.borrow() };
        (proxy, self.0.upstreams.counters())
    }
}

/// What the shard's tasks share.
pub(crate) struct Inner<R: Runtime, D: Dialer> {
    pub(crate) upstreams: Rc<Upstreams<R, D>>,
    pub(crate) counters: RefCell<ProxyCounters>,
    clients: RefCell<Vec<Rc<Client>>>,
    crowd: Rc<Crowd>,
    pub(crate) budget: Rc<Budget>,
    /// Requests that had got no connection when clients were last checked.
    turned_away: Cell<u64>,
    next_check: Cell<Instant>,
    draining: Cell<bool>,
    drained: RefCell<Option<Waker>>,
    /// Clients that keep hyper's buffers for a next request.
    pub(crate) kept: Cell<usize>,
    /// Where clients' bytes are read to before anybody has a buffer for them.
    pub(crate) scratch: RefCell<Box<[u8]>>,
}

impl<R: Runtime, D: Dialer> Inner<R, D> {
    /// Does what is due, and gives the time of the next look.
    pub(crate) fn housekeep(&self, cx: &Context<'_>) -> Option<Instant> {
        let pool = self.upstreams.housekeep(cx);
        let next = pool.into_iter().chain(self.check_clients()).min();
        self.upstreams.arm(next, cx);
        next
    }

    pub(crate) fn wake_drained(&self) {
        if self.is_empty()
            && let Some(waker) = self.drained.borrow_mut().take()
        {
            waker.wake();
        }
    }

    fn is_empty(&self) -> bool {
        let counters = self.counters.borrow();
        self.clients.borrow().is_empty() && counters.tunnels == 0 && counters.lingering == 0
    }

    pub(crate) fn has_room_for_a_tunnel(&self) -> bool {
        (self.counters.borrow().tunnels as usize) < self.upstreams.config.tunnels()
    }

    fn has_room(&self) -> bool {
        let open = self.clients.borrow().len() + self.counters.borrow().tunnels as usize;
        !self.draining.get() && open < self.upstreams.config.max_clients && self.budget.has_memory()
    }

    fn admit(&self, client: &Rc<Client>) {
        let mut clients = self.clients.borrow_mut();
        client.index.set(clients.len());
        clients.push(client.clone());
        let mut counters = self.counters.borrow_mut();
        counters.accepted += 1;
        counters.clients = clients.len() as u64;
        if clients.len() == 1 {
            let at = self.upstreams.runtime.now() + self.check_period();
            self.next_check.set(at);
            self.upstreams.wake_by(at);
        }
    }

    fn dismiss(&self, client: &Rc<Client>) {
        let mut clients = self.clients.borrow_mut();
        let index = client.index.get();
        clients.swap_remove(index);
        if let Some(moved) = clients.get(index) {
            moved.index.set(index);
        }
        self.counters.borrow_mut().clients = clients.len() as u64;
        drop(clients);
        self.wake_drained();
    }

    fn check_period(&self) -> Duration {
        let config = &self.upstreams.config;
        let shortest =
            config.header_timeout.min(config.body_timeout).min(config.send_timeout).min(config.upstream_timeout);
        (shortest / 4).min(CHECK_EVERY)
    }

    fn check_clients(&self) -> Option<Instant> {
        let clients = self.clients.borrow();
        if clients.is_empty() {
            return None;
        }
        let now = self.upstreams.runtime.now();
        if now >= self.next_check.get() {
            let mut counters = self.counters.borrow_mut();
            for overdue in clients.iter().filter_map(|c| c.check(now, &self.upstreams.config)) {
                match overdue {
                    Overdue::Head => counters.header_timeouts += 1,
                    Overdue::Request => counters.keep_alive_timeouts += 1,
                    Overdue::Upload => counters.slow_uploads += 1,
                    Overdue::Download => counters.slow_downloads += 1,
                    Overdue::Upstream => counters.stalled_upstreams += 1,
                }
            }
            counters.evicted += self.make_room(&clients);
            self.next_check.set(now + self.check_period());
        }
        Some(self.next_check.get())
    }
}

impl<R: Runtime, D: Dialer> Inner<R, D> {
    /// Ends slow transfers for requests that wait, or waited in vain since the last time. Gives their number.
    fn make_room(&self, clients: &[Rc<Client>]) -> u64 {
        let pool = self.upstreams.counters();
        let rejected = pool.reject_queue_full + pool.reject_wait_timeout;
        let in_vain = rejected - self.turned_away.replace(rejected);
        let needed = self.upstreams.starving().max(usize::try_from(in_vain).unwrap_or(usize::MAX));
        if needed == 0 {
            return 0;
        }
        let no_memory = self.budget.is_full();
        let holders = clients.iter().filter_map(|who| {
            let (client, debt) = who.holds(no_memory)?;
            Some(Holder { who, client, debt })
        });
        let victims = pace::victims(holders, needed, EVICT_FROM);
        for victim in &victims {
            tracing::debug!(client = ?victim.address, "slow transfer ended: other requests wait for its place");
            victim.evict();
        }
        victims.len() as u64
    }
}

/// How often clients are looked at, at least.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Debt (see [`pace`]) from which a transfer may be ended for requests that wait.
const EVICT_FROM: Duration = Duration::from_secs(3);

impl<R: Runtime, D: Dialer> Drop for Inner<R, D> {
    fn drop(&mut self) {
        // So that it sees that there is nothing left to keep.
        self.upstreams.wake_housekeeper();
    }
}

/// A client's place in the list, left when its task ends, however it ends.
struct Admission<R: Runtime, D: Dialer> {
    inner: Rc<Inner<R, D>>,
    client: Rc<Client>,
}

impl<R: Runtime, D: Dialer> Drop for Admission<R, D> {
    fn drop(&mut self) {
        self.inner.dismiss(&self.client);
    }
}

fn address(peer: Peer) -> HeaderValue {
    match peer {
        Peer::Ip(ip) => HeaderValue::try_from(ip.to_canonical().to_string()).expect("an address is visible ASCII"),
        Peer::Vsock(_) | Peer::Unknown => HeaderValue::from_static("unknown"),
    }
}
