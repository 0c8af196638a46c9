//! What the data thread has to say to an operator.

use crate::{
    drive::Errno,
    gateway::{FlowId, Kind, OpenError, PortId, Station, Target},
};
use core::net::SocketAddr;

/// A link, as it is called in a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named<'a> {
    /// Its number.
    pub link: PortId,
    /// Who is there; `None` if it is gone.
    pub peer: Option<&'a str>,
}

/// Something that has happened. Who may cause it often is named with it, so that nobody's notices hide another's.
#[derive(Clone, Copy, Debug)]
pub enum Notice<'a> {
    /// There are too many links, or too many of this tenant, or there is no memory for one more; this one is closed.
    LinkRefused {
        /// Whose it is.
        tenant: u32,
        /// Who is there.
        peer: &'a str,
    },
    /// A link cannot be watched; it is closed.
    LinkUnwatched {
        /// Whose it is.
        tenant: u32,
        /// Who is there.
        peer: &'a str,
        /// Why.
        error: Errno,
    },
    /// A link is up.
    LinkUp {
        /// Whose it is.
        tenant: u32,
        /// Who is there.
        peer: &'a str,
        /// Its number.
        link: PortId,
    },
    /// A link is down.
    LinkDown {
        /// Whose it was.
        tenant: u32,
        /// Who was there.
        peer: &'a str,
        /// Its number.
        link: PortId,
        /// Why.
        why: &'a str,
    },
    /// A guest's connection cannot be made.
    CannotConnect {
        /// Where to.
        target: Target,
        /// Who asks.
        guest: SocketAddr,
        /// Why.
        error: Errno,
    },
    /// The world's end of a connection failed.
    FlowFailed {
        /// Which one.
        flow: FlowId,
        /// Why.
        error: Errno,
    },
    /// The world takes no more of a connection.
    FlowRefused {
        /// Which one.
        flow: FlowId,
        /// Why.
        error: Errno,
    },
    /// A port is published.
    Published {
        /// The tenant that did it; `None` for the operator.
        publisher: Option<u32>,
        /// In the REST interface's words.
        protocol: &'static str,
        /// Its name.
        local: &'a str,
        /// The guest's port.
        to: SocketAddr,
    },
    /// A port is no longer published.
    Unpublished {
        /// The tenant that had published it; `None` for the operator.
        publisher: Option<u32>,
        /// In the REST interface's words.
        protocol: &'static str,
        /// Its name.
        local: &'a str,
    },
    /// Connections cannot be accepted for now.
    CannotAccept {
        /// Number of the published port.
        forward: u32,
        /// Its name.
        local: &'a str,
        /// Why.
        error: Errno,
    },
    /// A connection cannot be watched; it is closed.
    FlowUnwatched {
        /// Why.
        error: Errno,
    },
    /// A connection to a guest is closed again.
    NotOpened {
        /// Where to.
        to: SocketAddr,
        /// Why.
        error: OpenError,
    },
    /// A datagram for a guest is dropped.
    DatagramDropped {
        /// Who sent it.
        client: SocketAddr,
        /// Why.
        error: OpenError,
    },
    /// A socket for datagrams cannot be opened.
    NoDatagrams {
        /// Where to.
        to: SocketAddr,
        /// What kind.
        kind: Kind,
        /// Why.
        error: Errno,
    },
    /// The kernel lets nobody of our groups send pings; said once.
    PingsRefused,
    /// A tunnel's stream cannot be used.
    TunnelUnusable {
        /// Where to.
        to: SocketAddr,
        /// Why.
        error: Errno,
    },
    /// Two say that they have an address.
    Duplicate {
        /// Which one.
        address: Station,
        /// Who has it; `None` if the operator has fixed whose it is.
        owner: Option<Named<'a>>,
        /// Who would like to have it, and does not get it.
        claimant: Named<'a>,
    },
}
