//! The data thread's world: modelled sockets, what calls on them cost, and books of what passes.

use super::{
    Host, Order, Seen,
    datagrams::Outlook,
    epoll::Epoll,
    names,
    socket::{End, Frames, Socket},
};
use crate::{
    check::Invariant,
    gvproxy::frames,
    ledger::Way,
    mailbox::Orders,
    params::Op,
    stream::{Addr, Listener},
    trace::{Actor, Event, hash_bytes},
};
use nitrotap_core::{
    drive::{
        Errno,
        host::{Control, Local, Notice, Ports, Ready, Received, Request, Source, Streams, View, Watch, World},
    },
    frame::Framing,
    gateway::{PortId, Target, publishing::Asker, turns},
    time::Instant,
};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::{Rc, Weak},
    task::{Context, Poll},
    time::Duration,
};

/// Turns in a row, at one time, that only a timer began; a gateway that leaves work for the next turn has it done after a few.
const MOST_TURNS: u32 = 100;

/// Work of one turn: its bound, and what the last step of each of a few tenants may be beyond.
const MOST_WORK: u64 = turns::TURN + 4 * FLIGHT;

/// Work that one step may be at most: a turn's share of reading a link.
const FLIGHT: u64 = 2048;

pub(super) struct Outside {
    pub(super) host: Rc<Host>,
    seen: Rc<Seen>,
    orders: Orders<Order>,
    pub(super) epoll: Epoll,
    pub(super) outlook: Outlook,
    links: BTreeMap<PortId, (Addr, Weak<Frames>)>,
    /// What is watched, and what was and may wait for its turn still.
    watched: BTreeMap<Source, Weak<()>>,
    /// Processor time of what was done since it was last paid for.
    owed_ns: u64,
    /// Something was done in this turn.
    busy: bool,
    /// This turn was begun by the timer alone.
    by_timer: bool,
    /// Turns in a row at one time that only a timer began.
    at_once: (Instant, u32),
    frames_out: u64,
}

impl Outside {
    pub(super) fn new(host: Rc<Host>, seen: Rc<Seen>, orders: Orders<Order>, outlook: Outlook) -> Self {
        Self {
            host,
            seen,
            orders,
            epoll: Epoll::default(),
            outlook,
            links: BTreeMap::new(),
            watched: BTreeMap::new(),
            owed_ns: 0,
            busy: false,
            by_timer: false,
            at_once: (Instant::ZERO, 0),
            frames_out: 0,
        }
    }

    pub(super) fn owe(&mut self, ns: u64) {
        self.owed_ns += ns;
        self.busy = true;
    }

    /// A call on a stream that moved so many bytes.
    pub(super) fn call(&mut self, op: Op, moved: &Result<usize, Errno>) {
        self.owe(op.ns);
        if let Ok(n) = moved {
            self.owe(op.bytes(*n));
        }
    }

    /// Has something watched as long as what this gives is kept.
    fn watched(&mut self, source: Source) -> Rc<()> {
        let alive = Rc::new(());
        self.watched.insert(source, Rc::downgrade(&alive));
        alive
    }

    /// Each thing waits once for its turn, and nothing that was never there; what has ended meanwhile is passed over then.
    fn check_waiting(&mut self, now: Instant, waiting: usize, sources: usize) {
        self.host.audit.check(now, Invariant::Bounds, waiting == sources, || {
            format!("{waiting} places in the list of what waits for its turn, for {sources}")
        });
        if waiting == 0 {
            self.watched.retain(|_, alive| alive.strong_count() > 0);
        }
        let known = self.watched.len();
        self.host
            .audit
            .check(now, Invariant::Bounds, waiting <= known, || format!("{waiting} wait for their turn, of {known}"));
    }

    /// The machine and port that an address of the world is.
    fn resolve(&self, to: SocketAddr) -> Option<Addr> {
        match to.ip() {
            IpAddr::V4(Ipv4Addr::LOCALHOST) => (self.host.resolve)(crate::gvproxy::HOST, to.port()),
            IpAddr::V4(ip) => (self.host.resolve)(ip, to.port()),
            IpAddr::V6(_) => None,
        }
    }
}

impl Streams for Outside {
    type Stream = Socket;

    fn open(&mut self, _to: SocketAddr) -> Result<Socket, Errno> {
        Ok(Socket::new(End::New))
    }

    fn connect(&mut self, stream: &mut Socket, to: SocketAddr) -> Result<(), Errno> {
        self.owe(self.host.costs.connect_ns);
        let addr = self.resolve(to);
        stream.end = End::Connecting(addr.map(|addr| self.host.net.connect(addr)));
        Err(Errno::INPROGRESS)
    }

    fn answer(&mut self, stream: &mut Socket) -> Result<(), Errno> {
        self.busy = true;
        stream.answer()
    }

    fn unblock(&mut self, _stream: &mut Socket) -> Result<(), Errno> {
        Ok(())
    }

    fn watch(&mut self, socket: &mut Socket, source: Source) -> Result<(), Errno> {
        socket.source = Some((source, self.watched(source)));
        if let Some(stream) = socket.stream() {
            stream.watch(self.epoll.watcher(source));
        }
        if let (Source::Link(port), Some(frames), Some(stream)) = (source, &socket.frames, socket.stream()) {
            self.links.insert(port, (stream.peer(), Rc::downgrade(frames)));
        }
        Ok(())
    }

    fn tune(&mut self, _stream: &mut Socket) {}

    fn set_buffers(&mut self, _stream: &mut Socket, _bytes: usize) {}

    fn read(&mut self, socket: &mut Socket, space: &mut [u8]) -> Result<usize, Errno> {
        let read = socket.read(space);
        self.call(if socket.frames.is_some() { self.host.costs.link_read } else { self.host.costs.world_read }, &read);
        // Linux gives all there is. Bytes that a fault of the modelled stream holds back come a moment later, and are told of;
        // an end that is there already is not told of again.
        if let (Ok(n), Some((source, _)), Some(stream)) = (read, &socket.source, socket.stream())
            && n < space.len()
            && stream.held() > 0
        {
            self.epoll.readable(*source);
        }
        read
    }

    fn write(&mut self, socket: &mut Socket, bytes: &[u8]) -> Result<usize, Errno> {
        let written = socket.write(bytes);
        self.call(
            if socket.frames.is_some() { self.host.costs.link_write } else { self.host.costs.world_write },
            &written,
        );
        written
    }

    fn finish(&mut self, socket: &mut Socket) {
        self.busy = true;
        if let End::Stream(stream) = &socket.end {
            stream.finish();
        }
    }

    fn reset(&mut self, socket: &mut Socket) {
        socket.reset();
    }

    fn local_address(&mut self, _stream: &mut Socket) -> Option<SocketAddr> {
        None
    }
}

/// A published port.
pub(super) struct Port {
    listener: Listener,
    source: Source,
    _alive: Rc<()>,
}

impl Ports for Outside {
    type Listener = Port;

    fn listen(&mut self, local: &Local, source: Source) -> Result<(Port, SocketAddr), io::Error> {
        let Local::Tcp(address) = local else { return Err(io::ErrorKind::Unsupported.into()) };
        let listener = self.host.net.listen(address.port().into())?;
        self.epoll.readable(source);
        Ok((Port { listener, source, _alive: self.watched(source) }, *address))
    }

    fn accept(&mut self, port: &mut Port) -> Result<(Socket, Option<SocketAddr>), Errno> {
        let waker = self.epoll.waker(port.source);
        match port.listener.poll_accept(&Context::from_waker(&waker)) {
            Poll::Ready(stream) => {
                self.owe(self.host.costs.connect_ns);
                Ok((Socket::new(End::Stream(stream)), None))
            }
            Poll::Pending => Err(Errno::AGAIN),
        }
    }

    fn receive_from(&mut self, _port: &mut Port, _space: &mut [u8]) -> Result<Received, Errno> {
        Err(Errno::AGAIN)
    }

    fn send_to(
        &mut self,
        _port: &mut Port,
        _payload: &[u8],
        _client: SocketAddr,
        _asked: Option<IpAddr>,
    ) -> Result<(), Errno> {
        Ok(())
    }

    fn may_send_packets(&self, _ipv6: bool) -> bool {
        false
    }

    fn send_packet(&mut self, _packet: &[u8], _to: SocketAddr) -> bool {
        false
    }
}

impl Control for Outside {
    type Reply<T> = Box<dyn FnOnce(T)>;

    fn take_request(&mut self) -> Option<Request<Self>> {
        loop {
            match self.orders.take()? {
                Order::Request(request) => {
                    self.busy = true;
                    return Some(request);
                }
                Order::Fault(bytes, foul) => {
                    for frames in self.links.values().filter_map(|(_, frames)| frames.upgrade()) {
                        frames.spoil(bytes.clone(), foul);
                    }
                }
            }
        }
    }

    fn reply<T>(&mut self, reply: Box<dyn FnOnce(T)>, value: T) {
        reply(value);
    }

    fn ask(&mut self, _tenant: u32, client: u64, query: Vec<u8>) -> bool {
        let Some(answer) = names::answer(&query) else { return false };
        let (orders, clock, delay) = (self.orders.clone(), self.host.clock, self.outlook.delay());
        self.outlook.spawn(async move {
            clock.sleep(delay).await;
            orders.send(Order::Request(Request::DnsAnswer { client, answer }));
        });
        true
    }

    fn serve(&mut self, target: Target, _asker: Asker) -> Result<Option<Socket>, Errno> {
        match target {
            Target::Dns => {
                self.owe(self.host.costs.connect_ns);
                let server = Addr { cid: self.host.net.cid(), port: names::STREAMS };
                Ok(Some(Socket::new(End::Connecting(Some(self.host.net.connect(server))))))
            }
            Target::Services | Target::Address(_) => Ok(None),
        }
    }

    fn tell(&mut self, notice: Notice<'_>) {
        if let Notice::LinkDown { link, .. } = notice
            && let Some((peer, frames)) = self.links.remove(&link)
        {
            if let Some(frames) = frames.upgrade() {
                frames.ended();
            }
            self.host.trace.note(self.host.clock.now(), Actor::Gateway, Event::StreamReset, peer.port, 0, 0);
        }
    }

    fn publish(&mut self, view: View<'_, Self>) {
        let (now, counters) = (self.host.clock.now(), view.gateway().counters());
        let idle = self.by_timer && !self.busy && counters.frames_out == self.frames_out;
        self.frames_out = counters.frames_out;
        let Seen { counters: seen, fullest, idle_turns, streams, links, .. } = &*self.seen;
        idle_turns.set(idle_turns.get() + u64::from(idle));
        fullest.set(fullest.get().max(view.fullest()));
        streams.set(view.streams());
        links.set(view.links());
        seen.set(counters);
        self.host.check_sockets(self.outlook.open(), counters.sessions);
        let work = view.work();
        self.host.audit.check(now, Invariant::Bounds, work <= MOST_WORK, || format!("{work} units of work in a turn"));
        self.check_waiting(now, view.waiting(), view.sources());
        self.at_once = match self.at_once {
            (at, turns) if self.by_timer && at == now => (at, turns + 1),
            _ => (now, 0),
        };
        if self.at_once.1 == MOST_TURNS {
            self.host.audit.fail(now, Invariant::Progress, format!("the gateway is always due: {counters:?}"));
        }
    }
}

impl Watch for Outside {
    fn frame_in(&mut self, now: Instant, port: PortId, frame: &[u8]) {
        self.owe(self.host.costs.frame_in.cost(frame.len()));
        let Some((peer, frames)) = self.links.get(&port) else { return };
        if let Some(frames) = frames.upgrade() {
            frames.handed(now);
        }
        let hash = hash_bytes(0, frame);
        self.host.trace.note(now, Actor::Gateway, Event::FrameIn, peer.port, frame.len() as u64, hash);
        self.host.ledger.received(now, *peer, Way::Out, frame);
    }

    fn frames_out(&mut self, _now: Instant, _port: PortId, pending: &[u8], seen: usize, _framing: Framing) -> usize {
        // Making them has cost what it costs before they are written.
        let mut looked_at = seen;
        for frame in frames(&pending[seen..]) {
            self.owe(self.host.costs.frame_out.cost(frame.len()));
            looked_at += 2 + frame.len();
        }
        looked_at
    }
}

impl World for Outside {
    type News = Vec<Ready>;

    fn now(&self) -> Instant {
        self.host.clock.now()
    }

    async fn wait(&mut self, news: &mut Vec<Ready>, timeout: Option<Duration>) -> Result<(), Errno> {
        if self.at_once.1 == MOST_TURNS {
            return std::future::pending().await;
        }
        let clock = self.host.clock;
        let overlooked = self.orders.overlooked();
        if overlooked > 0 && timeout != Some(Duration::ZERO) {
            // Nobody tells it of them again.
            let detail = format!("the gateway's thread waits, and so do {overlooked} requests that it was told of");
            self.host.audit.fail(clock.now(), Invariant::Progress, detail);
            return std::future::pending().await;
        }
        let mut slept = 0;
        self.by_timer = self.orders.is_empty() && self.epoll.is_empty();
        if self.by_timer && timeout != Some(Duration::ZERO) {
            slept = self.host.costs.wake_ns;
            let until = timeout.map(|timeout| clock.now() + timeout);
            let timer = async {
                match until {
                    Some(at) => clock.sleep_past(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.orders.arrived() => self.by_timer = false,
                () = self.epoll.arrived() => self.by_timer = false,
                () = timer => {}
            }
        } else {
            // Others get on between two turns.
            tokio::task::yield_now().await;
        }
        self.host.process.run(&clock, 0, slept).await;
        self.busy = false;
        self.orders.tell();
        for frames in self.links.values().filter_map(|(_, frames)| frames.upgrade()).filter(|frames| frames.is_foul()) {
            frames.foul();
        }
        self.epoll.take(news);
        Ok(())
    }

    async fn elapse(&mut self, now: Instant) -> Instant {
        let owed = std::mem::take(&mut self.owed_ns);
        if owed == 0 {
            return now;
        }
        self.host.process.run(&self.host.clock, owed, 0).await;
        self.host.clock.now()
    }
}
