//! What the gateway asks of its driver.

use super::{arena::Id, port::PortId};
use core::net::SocketAddr;
use std::collections::VecDeque;

/// A TCP connection with a guest, from its SYN to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub(super) Id);

/// An exchange of datagrams, or of pings, between a guest and one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub(super) Id);

macro_rules! numbered {
    ($name:ident) => {
        impl $name {
            /// A number that no other one of this gateway ever has.
            #[must_use]
            pub const fn to_u64(self) -> u64 {
                self.0.to_u64()
            }

            /// The inverse of `to_u64`.
            #[must_use]
            pub const fn from_u64(id: u64) -> Self {
                Self(Id::from_u64(id))
            }

            /// A small number, unique among those that are there: an index for the driver's own table.
            #[must_use]
            pub const fn index(self) -> usize {
                self.0.index()
            }
        }
    };
}

numbered!(FlowId);
numbered!(SessionId);

/// Where a connection leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// To this address of the world.
    Address(SocketAddr),
    /// To the gateway's name server.
    Dns,
    /// To the gateway's REST interface.
    Services,
}

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Both sides have closed, and everything was delivered.
    Finished,
    /// A side reset it, or was silent for too long.
    Reset,
    /// There is no such guest.
    Unreachable,
}

/// Why the gateway has ended a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// No frame has come since it began.
    Mute,
    /// Its tenant has most links, and there was room for no more.
    Crowded,
}

/// One thing to do, or to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect to `target`, then call [`super::Gateway::handle_dialed`].
    Dial {
        /// The connection that waits for it.
        flow: FlowId,
        /// Where to.
        target: Target,
        /// The guest that asks.
        guest: SocketAddr,
    },
    /// Something of a connection has changed: look at its [`super::FlowStatus`].
    Flow(FlowId),
    /// A connection is over; its number is void.
    Closed {
        /// Which one.
        flow: FlowId,
        /// How.
        how: Closed,
    },
    /// The guest has nobody where the world's session leads, and says so: whoever asked may be told. The session ends next.
    SessionRefused(SessionId),
    /// A session is over: it was idle, or another one needed its place.
    SessionClosed(SessionId),
    /// Frames wait for a link: [`super::Gateway::pending`].
    Frames(PortId),
}

pub(super) type Outputs = VecDeque<Output>;
