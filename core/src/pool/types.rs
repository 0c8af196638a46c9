//! The pool's vocabulary: ids, inputs and outputs.

use core::fmt;

/// One upstream connection, from the start of its dial to its end; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    pub(super) serial: u64,
    pub(super) slot: u32,
}

impl ConnId {
    /// Place in a table of [`Limits::max_conns`](super::Limits::max_conns) entries, free again once this connection
    /// is gone: lets a driver find its connection without hashing.
    #[must_use]
    pub const fn slot(self) -> usize {
        self.slot as usize
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "conn{}", self.serial)
    }
}

/// One request's turn at the pool; a retry is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReqId {
    pub(super) serial: u64,
    pub(super) slot: u32,
}

impl ReqId {
    /// Place in a table of [`Limits::max_waiters`](super::Limits::max_waiters) entries while the request waits.
    ///
    /// Without meaning for a request that was answered at once.
    #[must_use]
    pub const fn slot(self) -> usize {
        self.slot as usize
    }
}

impl fmt::Display for ReqId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "req{}", self.serial)
    }
}

/// What kind of connection a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Any: an idle one is best.
    Any,
    /// One dialled from now on: for a retry, whose first connection turned out to be dead; its neighbours may be too,
    /// and a server that is about to end closes its connections as they become free.
    Fresh,
}

/// What to do with a connection after its response has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It can carry another request.
    Reusable,
    /// The driver closes it: an error, a `Connection: close`, an aborted request or an upgrade.
    MustClose,
}

/// What the pool asks its driver to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send request `req` on `conn`.
    Assign {
        /// The request that waited.
        req: ReqId,
        /// Its connection, until [`Pool::handle_done`](super::Pool::handle_done).
        conn: ConnId,
        /// Whether `conn` was open before this request needed it, and may have died unnoticed since.
        reused: bool,
    },
    /// Open a connection and answer with `handle_connected` or `handle_dial_failed`.
    Dial {
        /// The id the new connection gets.
        conn: ConnId,
    },
    /// Answer request `req` without an upstream.
    Reject {
        /// The request that waited.
        req: ReqId,
        /// Why it got no connection.
        why: RejectWhy,
    },
    /// Close `conn`, or give up its dial. The pool has forgotten it already.
    Close {
        /// The connection to close.
        conn: ConnId,
        /// Why it is no longer wanted.
        why: CloseWhy,
    },
}

/// Why a request got no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectWhy {
    /// [`Limits::max_waiters`](super::Limits::max_waiters) were waiting already. HTTP 503.
    QueueFull,
    /// No connection became free within [`Limits::wait_timeout`](super::Limits::wait_timeout), and none was being
    /// dialled: the limit of connections is ours, so HTTP 503.
    WaitTimeout,
    /// The dial for it failed. HTTP 504 for [`DialError::TimedOut`], else 502.
    ///
    /// Also, as timed out, a wait that ran out while a dial was in flight: it is the upstream that is late.
    DialFailed(DialError),
}

/// How a dial failed, for counters and status codes; the driver logs the full cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// No route, or the network is down.
    #[error("host or network unreachable")]
    Unreachable,
    /// No answer within the dial timeout.
    #[error("no answer in time")]
    TimedOut,
    /// The host name has no address.
    #[error("host name not resolved")]
    Unresolved,
    /// Anything else, such as no file descriptor left.
    #[error("connection failed")]
    Other,
}

/// Why the pool closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseWhy {
    /// Unused for [`Limits::idle_timeout`](super::Limits::idle_timeout).
    IdleTimeout,
    /// The demand window shows that fewer are needed.
    Surplus,
    /// More than [`Limits::max_idle`](super::Limits::max_idle) idle.
    MaxIdle,
    /// An idle connection made room for a fresh one.
    Replaced,
    /// The pool drains.
    Drained,
    /// The dial took longer than [`Limits::dial_timeout`](super::Limits::dial_timeout).
    DialTimeout,
    /// No response head within [`Limits::head_timeout`](super::Limits::head_timeout): answer 504.
    HeadTimeout,
}
