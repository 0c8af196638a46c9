//! Sockets of datagram sessions, and who is at the other end of them: peers that echo, that refuse, and that are not there.

use super::{Host, epoll::Epoll, world::Outside};
use crate::{group::Group, rng, stream::Edge};
use nitrotap_core::{
    drive::{
        Errno,
        host::{Complaint, Datagrams, Source},
    },
    gateway::Kind,
};
use smoltcp::wire::{Icmpv4Message, Icmpv4Packet};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

/// Messages that wait for a reader; one more is lost, as in a receive buffer that is full.
const INBOX: usize = 64;

/// Longest way there and back, in milliseconds.
const FAR_MS: u64 = 40;

/// Links to a peer: whoever may pass fewer ends at a router on the way, whose address says how many.
const LINKS: u8 = 4;

/// The router that is so many links away.
pub(crate) const fn router(links: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 0, links)
}

/// What all sockets share.
pub(super) struct Outlook {
    rng: fastrand::Rng,
    /// Calls fail now and then as they do in a kernel that is short of something.
    is_short: bool,
    group: Group,
    /// Sockets that are open.
    open: Rc<Cell<usize>>,
}

impl Outlook {
    pub(super) fn new(seed: u64, is_short: bool, group: Group) -> Self {
        Self { rng: rng::stream(seed, "datagrams"), is_short, group, open: Rc::default() }
    }

    pub(super) fn open(&self) -> usize {
        self.open.get()
    }

    pub(super) fn delay(&mut self) -> Duration {
        Duration::from_millis(self.rng.u64(1..=FAR_MS))
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.group.spawn(task);
    }

    fn fails(&mut self) -> bool {
        self.is_short && self.rng.u8(0..32) == 0
    }
}

/// A socket that talks to one peer.
pub(super) struct Talk {
    kind: Kind,
    to: (Ipv4Addr, u16),
    hop_limit: u8,
    inbox: Rc<RefCell<Inbox>>,
    open: Rc<Cell<usize>>,
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
    }
}

#[derive(Default)]
struct Inbox {
    told: Option<(Source, Epoll)>,
    messages: VecDeque<Vec<u8>>,
    /// What an ICMP message has said about a datagram: the next call tells it, once (`sk_err`).
    error: Option<Errno>,
    hears_complaints: bool,
    complaints: VecDeque<Complaint>,
}

/// What comes of a datagram.
enum Answer {
    Message(Vec<u8>),
    Error(Errno),
    Complaint(Complaint),
}

impl Inbox {
    fn put(&mut self, answer: Answer) {
        let is_error = !matches!(answer, Answer::Message(_));
        match answer {
            Answer::Message(_) if self.messages.len() >= INBOX => return,
            Answer::Message(message) => self.messages.push_back(message),
            Answer::Error(errno) => self.error = Some(errno),
            Answer::Complaint(complaint) => {
                self.error = Some(Errno::HOSTUNREACH);
                if self.hears_complaints && self.complaints.len() < INBOX {
                    self.complaints.push_back(complaint);
                }
            }
        }
        if let Some((source, epoll)) = &self.told {
            epoll.tell(*source, Edge { readable: true, writable: is_error, hangup: is_error });
        }
    }
}

impl Talk {
    /// What the world makes of a datagram.
    fn answer(&self, payload: &[u8]) -> Option<Answer> {
        let (ip, port) = self.to;
        // TEST-NET-2 (RFC 5737) is where nobody is.
        if ip.octets()[..3] == [198, 51, 100] {
            return None;
        }
        let is_far = !ip.is_loopback();
        if is_far && self.hop_limit != 0 && self.hop_limit < LINKS {
            let quoted = payload[..payload.len().min(64)].to_vec();
            return Some(Answer::Complaint(Complaint { kind: 11, from: router(self.hop_limit).into(), quoted }));
        }
        match self.kind {
            Kind::Udp if port == crate::world::ECHO => Some(Answer::Message(payload.to_vec())),
            Kind::Udp => Some(Answer::Error(Errno::CONNREFUSED)),
            Kind::Ping => {
                let mut message = payload.to_vec();
                let mut icmp = Icmpv4Packet::new_checked(&mut message[..]).ok()?;
                icmp.set_msg_type(Icmpv4Message::EchoReply);
                icmp.fill_checksum();
                Some(Answer::Message(message))
            }
        }
    }
}

/// The address of the world that a gateway means by `to`.
fn ipv4(to: SocketAddr) -> Option<(Ipv4Addr, u16)> {
    match to.ip() {
        IpAddr::V4(ip) => Some((ip, to.port())),
        IpAddr::V6(_) => None,
    }
}

impl Datagrams for Outside {
    type Datagrams = Talk;

    fn talk(&mut self, kind: Kind, to: SocketAddr) -> Result<Talk, Errno> {
        self.owe(self.host.costs.connect_ns);
        let to = ipv4(to).ok_or(Errno::NETUNREACH)?;
        if self.outlook.fails() {
            return Err(Errno::NOMEM);
        }
        self.outlook.open.set(self.outlook.open.get() + 1);
        Ok(Talk { kind, to, hop_limit: 0, inbox: Rc::default(), open: self.outlook.open.clone() })
    }

    fn watch_datagrams(&mut self, socket: &mut Talk, source: Source) -> Result<(), Errno> {
        socket.inbox.borrow_mut().told = Some((source, self.epoll.clone()));
        Ok(())
    }

    fn receive(&mut self, socket: &mut Talk, space: &mut [u8]) -> Result<usize, Errno> {
        let read = {
            let mut inbox = socket.inbox.borrow_mut();
            match (inbox.error.take(), inbox.messages.is_empty()) {
                (Some(errno), _) => Err(errno),
                (None, true) => Err(Errno::AGAIN),
                (None, false) => inbox.messages.pop_front().ok_or(Errno::AGAIN),
            }
        };
        let read = read.map(|message| {
            let n = message.len().min(space.len());
            space[..n].copy_from_slice(&message[..n]);
            n
        });
        self.call(self.host.costs.world_read, &read);
        read
    }

    fn send(&mut self, socket: &mut Talk, payload: &[u8]) -> Result<(), Errno> {
        self.call(self.host.costs.world_write, &Ok(payload.len()));
        if let Some(errno) = socket.inbox.borrow_mut().error.take() {
            return Err(errno);
        }
        if self.outlook.fails() {
            return Err(Errno::NOBUFS);
        }
        let Some(answer) = socket.answer(payload) else { return Ok(()) };
        let (inbox, clock, delay) = (Rc::downgrade(&socket.inbox), self.host.clock, self.outlook.delay());
        self.outlook.spawn(async move {
            clock.sleep(delay).await;
            if let Some(inbox) = inbox.upgrade() {
                inbox.borrow_mut().put(answer);
            }
        });
        Ok(())
    }

    fn source_address(&mut self, _socket: &mut Talk) -> Option<IpAddr> {
        Some(Ipv4Addr::new(192, 0, 2, 1).into())
    }

    fn path_mtu(&mut self, _socket: &mut Talk, _to: SocketAddr) -> Option<u32> {
        None
    }

    fn set_hop_limit(&mut self, socket: &mut Talk, _to: SocketAddr, hop_limit: u8) {
        socket.hop_limit = hop_limit;
    }

    fn hear_complaints(&mut self, socket: &mut Talk, _to: SocketAddr) -> bool {
        socket.inbox.borrow_mut().hears_complaints = true;
        true
    }

    fn complaint(&mut self, socket: &mut Talk) -> Result<Option<Complaint>, Errno> {
        socket.inbox.borrow_mut().complaints.pop_front().map(Some).ok_or(Errno::AGAIN)
    }
}

/// Used where the host's thread keeps its books.
impl Host {
    pub(super) fn check_sockets(&self, open: usize, sessions: u64) {
        self.audit.check(self.clock.now(), crate::check::Invariant::Conservation, open as u64 <= sessions, || {
            format!("{open} sockets of datagrams for {sessions} sessions")
        });
    }
}
