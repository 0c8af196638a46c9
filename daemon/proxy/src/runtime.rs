//! What a shard borrows from the world: time, tasks and upstream connections.

use nitrotap_core::{pool::DialError, time::Instant};
use std::{future::Future, io};
use tokio::io::{AsyncRead, AsyncWrite};

/// The clock and the single-threaded executor a shard runs on.
pub trait Runtime: Clone + 'static {
    /// The current time.
    fn now(&self) -> Instant;

    /// Completes at `at` or soon after it.
    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + 'static;

    /// Runs `task` on the current thread, later: not inside this call.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
}

/// An upstream connection's byte stream; closing is dropping.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> ByteStream for S {}

/// Opens connections to the upstream.
pub trait Dialer: 'static {
    /// What a dial yields.
    type Stream: ByteStream;

    /// Opens one connection. Dropping the future gives up; the pool bounds how long a dial may take.
    fn dial(&self) -> impl Future<Output = Result<Self::Stream, DialFailure>> + 'static;
}

/// Why a dial failed: the class that decides, the cause for the log.
#[derive(Debug, thiserror::Error)]
#[error("{kind}: {cause}")]
pub struct DialFailure {
    /// What the pool counts and the client is told.
    pub kind: DialError,
    /// What the system said.
    pub cause: io::Error,
}

impl From<io::Error> for DialFailure {
    fn from(cause: io::Error) -> Self {
        use io::ErrorKind as Kind;
        #[expect(clippy::wildcard_enum_match_arm, reason = "std's enum is open-ended, and `Other` is for the rest")]
        let kind = match cause.kind() {
            Kind::ConnectionRefused | Kind::NotFound => DialError::Refused,
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => DialError::Unreachable,
            Kind::TimedOut => DialError::TimedOut,
            _ => DialError::Other,
        };
        Self { kind, cause }
    }
}
