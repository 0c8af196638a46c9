//! What the host's data thread does to the world: operations that never block, and the two that take time.
//!
//! Driven by: [`super::Host`]. Implemented by: the daemon with system calls, the simulator with modelled sockets in virtual
//! time. An implementation decides nothing: it does what it is told, or says why it cannot.
//!
//! Readiness is edge-triggered, as epoll's (`EPOLLET`). What is watched is told of at once for what it is ready for already.
//! Later it is told of whenever more came to be read, also if the loop has not read what was there before; and when it takes
//! bytes again after it did not. Whoever is told reads or writes until [`Errno::AGAIN`], until a reading was shorter than its
//! room, or remembers that it did not.

use super::{Local, Notice, Request, View};
use crate::{
    drive::Errno,
    frame::Framing,
    gateway::{FlowId, Kind, PortId, SessionId, Target, publishing::Asker},
    time::Instant,
};
use core::{
    future::Future,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use std::io;

/// What something that becomes ready belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The control side: [`Control::take_request`] may give something. Every turn asks for it in any case.
    Mailbox,
    /// A stream of frames.
    Link(PortId),
    /// The world's end of a connection.
    Flow(FlowId),
    /// The world's end of a session of datagrams.
    Session(SessionId),
    /// A published port, by its number.
    Forward(u32),
}

/// What has happened to one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Which one.
    pub source: Source,
    /// There is something to read, its end included.
    pub readable: bool,
    /// It takes bytes, or a connection that was being made is answered.
    pub writable: bool,
    /// The other side has closed its half or all, or there is an error or urgent data: a short reading does not mean that
    /// there is no more.
    pub hangup: bool,
}

/// What one wait has brought.
pub trait News: Default {
    /// Everything, in the order in which it is seen to; each source once.
    fn iter(&self) -> impl Iterator<Item = Ready> + '_;
}

impl News for Vec<Ready> {
    fn iter(&self) -> impl Iterator<Item = Ready> + '_ {
        self.as_slice().iter().copied()
    }
}

/// Streams: those of links, and the world's ends of connections. One that is dropped is closed.
pub trait Streams {
    /// A stream, or a socket whose messages are frames.
    type Stream;

    /// A socket that can be connected to an address of this family.
    ///
    /// # Errors
    /// Descriptors or memory are used up.
    fn open(&mut self, to: SocketAddr) -> Result<Self::Stream, Errno>;

    /// Begins a connection.
    ///
    /// # Errors
    /// [`Errno::INPROGRESS`] if it has yet to be answered: then it becomes writable, and [`Self::answer`] says how it went.
    fn connect(&mut self, stream: &mut Self::Stream, to: SocketAddr) -> Result<(), Errno>;

    /// How the connection went that was begun.
    ///
    /// # Errors
    /// It failed.
    fn answer(&mut self, stream: &mut Self::Stream) -> Result<(), Errno>;

    /// Sees to it that no operation on a stream from the control side ever blocks.
    ///
    /// # Errors
    /// It is no stream any more.
    fn unblock(&mut self, stream: &mut Self::Stream) -> Result<(), Errno>;

    /// Tells of it from now on, as `source`.
    ///
    /// # Errors
    /// Memory is used up.
    fn watch(&mut self, stream: &mut Self::Stream, source: Source) -> Result<(), Errno>;

    /// Sends bytes as they come, and asks now and then whether the peer is still there. As far as that can be had.
    fn tune(&mut self, stream: &mut Self::Stream);

    /// Wants room for so many bytes in each direction, as far as that can be had.
    fn set_buffers(&mut self, stream: &mut Self::Stream, bytes: usize);

    /// Reads what is there, or one message; 0 at the end.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] if there is nothing now.
    fn read(&mut self, stream: &mut Self::Stream, space: &mut [u8]) -> Result<usize, Errno>;

    /// Writes as much as it takes, or one message.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] if it takes nothing now.
    fn write(&mut self, stream: &mut Self::Stream, bytes: &[u8]) -> Result<usize, Errno>;

    /// Nothing more will be written: the other side gets an end. It may be gone already.
    fn finish(&mut self, stream: &mut Self::Stream);

    /// When it is closed, the other side gets a reset.
    fn reset(&mut self, stream: &mut Self::Stream);

    /// Where an accepted one was connected to; `None` if it has no such address.
    fn local_address(&mut self, stream: &mut Self::Stream) -> Option<SocketAddr>;
}

/// What a router or host on the way said about a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Type of its ICMP or ICMPv6 message.
    pub kind: u8,
    /// Who said it.
    pub from: IpAddr,
    /// What it quoted of the datagram's payload; of a ping, of the ICMP message.
    pub quoted: Vec<u8>,
}

/// Sockets of datagram sessions, each of which talks to one peer. One that is dropped is closed.
pub trait Datagrams {
    /// Such a socket.
    type Datagrams;

    /// A socket for this peer.
    ///
    /// # Errors
    /// There is no way to it, or descriptors or memory are used up.
    fn talk(&mut self, kind: Kind, to: SocketAddr) -> Result<Self::Datagrams, Errno>;

    /// Tells of it from now on, as `source`.
    ///
    /// # Errors
    /// Memory is used up.
    fn watch_datagrams(&mut self, socket: &mut Self::Datagrams, source: Source) -> Result<(), Errno>;

    /// The next datagram's bytes: UDP payload, or an ICMP echo reply from its type on.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] if there is none now; what the world said about one that was sent, once.
    fn receive(&mut self, socket: &mut Self::Datagrams, space: &mut [u8]) -> Result<usize, Errno>;

    /// Sends one.
    ///
    /// # Errors
    /// It was not taken; or what the world said about an earlier one.
    fn send(&mut self, socket: &mut Self::Datagrams, payload: &[u8]) -> Result<(), Errno>;

    /// The address that it sends from.
    fn source_address(&mut self, socket: &mut Self::Datagrams) -> Option<IpAddr>;

    /// Bytes that a packet to its peer may have, with its IP header; `to` is that peer.
    fn path_mtu(&mut self, socket: &mut Self::Datagrams, to: SocketAddr) -> Option<u32>;

    /// Links that its datagrams may pass. If that cannot be had, they go as far as they go.
    fn set_hop_limit(&mut self, socket: &mut Self::Datagrams, to: SocketAddr, hop_limit: u8);

    /// Wants to be told which routers complain; true if that can be had.
    fn hear_complaints(&mut self, socket: &mut Self::Datagrams, to: SocketAddr) -> bool;

    /// The next thing that somebody on the way said; `None` if it is no complaint of a stranger.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] if there is nothing now.
    fn complaint(&mut self, socket: &mut Self::Datagrams) -> Result<Option<Complaint>, Errno>;
}

/// Who sent a datagram to a published port, and what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes.
    pub len: usize,
    /// Who; `None` if it has no address of IP.
    pub client: Option<SocketAddr>,
    /// To which of the host's addresses, if the port is one of several.
    pub asked: Option<IpAddr>,
}

/// Published ports. One that is dropped is closed, with its socket file.
pub trait Ports: Streams {
    /// The socket of one, of whatever protocol.
    type Listener;

    /// Listens, and tells of it from now on, as `source`. Gives the address with the port that was given for port 0;
    /// 0.0.0.0:0 for a path.
    ///
    /// # Errors
    /// The address is not to be had.
    fn listen(&mut self, local: &Local, source: Source) -> Result<(Self::Listener, SocketAddr), io::Error>;

    /// The next connection, and its client where that has an address of IP.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] if there is none now.
    fn accept(&mut self, listener: &mut Self::Listener) -> Result<(Self::Stream, Option<SocketAddr>), Errno>;

    /// The next datagram.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] if there is none now; what the world said about one that was sent, once.
    fn receive_from(&mut self, listener: &mut Self::Listener, space: &mut [u8]) -> Result<Received, Errno>;

    /// Sends a datagram to a client, from the address that was asked.
    ///
    /// # Errors
    /// It was not taken.
    fn send_to(
        &mut self,
        listener: &mut Self::Listener,
        payload: &[u8],
        client: SocketAddr,
        asked: Option<IpAddr>,
    ) -> Result<(), Errno>;

    /// Whether whole packets of this family may be sent.
    fn may_send_packets(&self, ipv6: bool) -> bool;

    /// Sends a whole packet, its IP header included; true if it was taken. The port of `to` is 0.
    fn send_packet(&mut self, packet: &[u8], to: SocketAddr) -> bool;
}

/// The control side: who asks the thread for something, and whom it asks.
pub trait Control: Streams {
    /// Somebody who waits for an answer. One that is dropped learns that there will be none.
    type Reply<T>;

    /// The next request, the oldest first.
    fn take_request(&mut self) -> Option<Request<Self>>
    where
        Self: Sized;

    /// Answers one. Whoever has asked may have gone.
    fn reply<T>(&mut self, reply: Self::Reply<T>, value: T);

    /// Hands over a tenant's question for the name server; `client` comes back with the answer. False if it cannot be taken.
    fn ask(&mut self, tenant: u32, client: u64, query: Vec<u8>) -> bool;

    /// A connection to one of the gateway's own services; `None` if nobody takes it.
    ///
    /// # Errors
    /// Descriptors are used up.
    fn serve(&mut self, target: Target, asker: Asker) -> Result<Option<Self::Stream>, Errno>;

    /// Something that an operator may want to read.
    fn tell(&mut self, notice: Notice<'_>);

    /// A turn is over, and this is how things stand.
    fn publish(&mut self, view: View<'_, Self>)
    where
        Self: World + Sized;
}

/// Frames as they pass. Whoever does not look at them implements nothing, and nothing is what it costs.
pub trait Watch {
    /// A frame has come by a link.
    fn frame_in(&mut self, _now: Instant, _port: PortId, _frame: &[u8]) {}

    /// These bytes are about to be offered to a link, frames with the prefixes of this framing; of them, the first `seen` were
    /// shown before. Gives how many have been looked at now: the next call tells that number again, less what has left.
    fn frames_out(&mut self, _now: Instant, _port: PortId, _pending: &[u8], seen: usize, _framing: Framing) -> usize {
        seen
    }

    /// Nobody waits for a turn: what was kept together may go where it goes.
    fn pause(&mut self) {}

    /// Begins its record anew.
    fn reopen(&mut self) {}

    /// Blocks of its record that were lost.
    fn lost(&self) -> u64 {
        0
    }
}

/// See the module.
pub trait World: Streams + Datagrams + Ports + Control + Watch {
    /// Room for the news of one wait, which is used again and again.
    type News: News;

    /// The time.
    fn now(&self) -> Instant;

    /// Waits until there are news, or for so long; `None` is without end. News of before are gone.
    ///
    /// # Errors
    /// It is not possible to wait any more.
    fn wait(&mut self, news: &mut Self::News, timeout: Option<Duration>) -> impl Future<Output = Result<(), Errno>>;

    /// Lets the time pass that the operations since the last call took; gives the time then. In a real world it has passed
    /// already, and `now` comes back as it is: the loop reads the clock once per turn.
    fn elapse(&mut self, now: Instant) -> impl Future<Output = Instant>;
}
