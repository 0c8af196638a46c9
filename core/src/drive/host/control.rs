//! What the control side may ask of the data thread.

use super::world::Control;
use crate::{
    frame::Framing,
    gateway::{
        policy::{HostAddresses, Lesson},
        publishing::{Asker, NotForGuests},
    },
};
use core::net::{Ipv4Addr, SocketAddr};
use std::{collections::BTreeMap, io, path::PathBuf};

/// A hardware address.
pub type Mac = [u8; 6];

/// Numbers by name, for `/stats`.
pub type Stats = Vec<(String, u64)>;

/// How frames lie on a link's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A byte stream with a length before each frame.
    Stream(Framing),
    /// A socket of type `SOCK_SEQPACKET`: one message is one frame (BESS).
    Messages,
}

/// An enclave's stream, once it carries nothing but frames.
#[derive(Debug)]
pub struct Attach<S, R> {
    /// The stream.
    pub stream: S,
    /// How frames lie on it.
    pub kind: LinkKind,
    /// Whose it is: the CID of a vsock peer, or a number per listener. Flows and addresses of different tenants are kept
    /// apart, even if their addresses are the same; a tenant may have several streams.
    pub tenant: u32,
    /// For logs, such as `vsock://16:1024`.
    pub peer: String,
    /// Bytes that were read behind the handshake; they are the first ones of the first frame.
    pub received: Vec<u8>,
    /// Told when the stream has ended and is closed.
    pub ended: Option<R>,
}

/// A connection that joins a TCP connection to the guest (`/tunnel`, unix forwards).
#[derive(Debug)]
pub struct Tunnel<S> {
    /// The connection.
    pub stream: S,
    /// The guest's port.
    pub to: SocketAddr,
    /// Bytes that were already read from it.
    pub received: Vec<u8>,
}

/// Where a forward listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Local {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A UDP port.
    Udp(SocketAddr),
    /// A path, for a Unix stream.
    Unix(PathBuf),
}

impl Local {
    /// The protocol in the REST interface's words.
    #[must_use]
    pub const fn protocol(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Udp(_) => "udp",
            Self::Unix(_) => "unix",
        }
    }
}

/// A port of the host that leads to a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The text by which it is known: gvproxy lists and removes forwards by the very text that made them.
    pub name: String,
    /// Where it listens.
    pub local: Local,
    /// The guest's port.
    pub to: SocketAddr,
    /// Send a PROXY protocol header (version 2) ahead of each TCP connection's bytes.
    pub proxy_protocol: bool,
}

/// Who asks for a forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Whoever may do everything.
    Operator,
    /// A guest, about its own.
    Guest(Asker),
}

/// Why a port cannot be exposed.
#[derive(Debug, thiserror::Error)]
pub enum ExposeError {
    /// There is one of that name.
    #[error("proxy already running for {protocol} on {name}")]
    Exists {
        /// In the REST interface's words.
        protocol: &'static str,
        /// Of the forward.
        name: String,
    },
    /// The port is not to be had.
    #[error("cannot listen on {protocol} {name}: {error}")]
    Bind {
        /// In the REST interface's words.
        protocol: &'static str,
        /// Of the forward.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// The limit is reached.
    #[error("there are {0} forwards already; unexpose one first")]
    TooMany(usize),
    /// It does not lead to a guest.
    #[error("{0} is not in the virtual network")]
    NotAGuest(SocketAddr),
    /// A guest may not have it.
    #[error(transparent)]
    NotForGuests(#[from] NotForGuests),
}

/// One request to the data thread, of the world `W`.
pub enum Request<W: Control> {
    /// A link begins.
    Attach(Box<Attach<W::Stream, W::Reply<()>>>),
    /// A connection to a guest begins.
    Tunnel(Tunnel<W::Stream>),
    /// Opens a port.
    Expose(Who, Forward, W::Reply<Result<SocketAddr, ExposeError>>),
    /// Closes a port, by protocol and name; false if there is no such forward.
    Unexpose(Who, &'static str, String, W::Reply<bool>),
    /// The forwards that somebody may see.
    Forwards(Who, W::Reply<Vec<Forward>>),
    /// Hardware addresses, and the number of the link that each is on.
    Cam(W::Reply<Vec<(Mac, u64)>>),
    /// Addresses given out.
    Leases(W::Reply<BTreeMap<Ipv4Addr, Mac>>),
    /// All counters.
    Stats(W::Reply<Stats>),
    /// Whether it still goes round.
    Alive(W::Reply<()>),
    /// What a DNS answer opens that a guest of this tenant is about to see.
    Learn(u32, Lesson),
    /// A DNS answer for a query that the data thread handed out.
    DnsAnswer {
        /// Whose it is.
        client: u64,
        /// The message.
        answer: Vec<u8>,
    },
    /// Begin the capture's file anew.
    ReopenCapture,
    /// The host's own addresses, or the ways by which it reaches the world, have changed.
    HostAddresses(HostAddresses),
    /// Where the gateway itself listens over TCP.
    Control(Vec<SocketAddr>),
    /// The end.
    Stop,
}
