//! What a frame asks of the driver, and what the world says to that.

use super::{output::SessionId, session::Kind};
use crate::time::Instant;
use core::net::{IpAddr, SocketAddr};
use std::borrow::Cow;

/// What a frame asks for beyond what the gateway does by itself.
#[derive(Debug, PartialEq, Eq)]
pub enum Handled<'f> {
    /// Nothing.
    Done,
    /// Send this to the world.
    Datagram {
        /// The session; the first datagram of one that the driver does not know opens it.
        session: SessionId,
        /// What kind it is.
        kind: Kind,
        /// Where to.
        to: SocketAddr,
        /// UDP payload, or an ICMP echo request from its type on.
        payload: Cow<'f, [u8]>,
        /// Links that it may pass from here on, 1 at least: the guest's, less the one to us.
        hop_limit: u8,
    },
    /// Answer this question with [`super::Gateway::handle_dns_answer`].
    Dns {
        /// Whose it is.
        client: u64,
        /// The message.
        query: Cow<'f, [u8]>,
    },
    /// Read nothing more of this link until then: it has sent as much to other enclaves as it may for now. What is read
    /// all the same, and is for others, is dropped.
    Rest {
        /// When the link may send again.
        until: Instant,
    },
}

impl Handled<'_> {
    /// The same, of a packet that is about to go.
    pub(super) fn into_owned<'f>(self) -> Handled<'f> {
        match self {
            Handled::Done => Handled::Done,
            Handled::Rest { until } => Handled::Rest { until },
            Handled::Datagram { session, kind, to, payload, hop_limit } => {
                Handled::Datagram { session, kind, to, payload: Cow::Owned(payload.into_owned()), hop_limit }
            }
            Handled::Dns { client, query } => Handled::Dns { client, query: Cow::Owned(query.into_owned()) },
        }
    }
}

/// What the world said about a session's datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// Nobody listens at that port.
    Refused,
    /// The host cannot be reached.
    HostUnreachable,
    /// The network cannot be reached.
    NetworkUnreachable,
    /// The host's kernel may not send there.
    Prohibited,
    /// The datagram is too long for the way, which takes this many bytes with its IP header.
    TooLong(u16),
}

/// What the world said to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialError {
    /// Nobody listens there, or the gateway cannot open one more: the guest gets a reset.
    Refused,
    /// The host cannot be reached, or did not answer.
    HostUnreachable,
    /// The network cannot be reached.
    NetworkUnreachable,
    /// The host's kernel may not connect there.
    Prohibited,
}

/// Why a connection to a guest cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No address of a guest.
    #[error("{0} is not the address of a guest in the virtual network")]
    NotAGuest(IpAddr),
    /// A limit is reached; the counters say which.
    #[error("a limit of the gateway is reached")]
    Limit,
}
