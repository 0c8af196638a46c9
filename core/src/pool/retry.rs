//! Whether a failed request may be sent once more.
//!
//! A server may close a connection at any time, so a request sent on a kept-open connection can meet a dead one
//! without anybody's fault. Such a request may be sent again on a new connection if the server cannot have acted on
//! it, or if acting twice does no harm (RFC 9110 section 9.2.2, RFC 9112 section 9.3.1). Never more than once.

/// What is known about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The connection was open before this request needed it.
    pub reused: bool,
    /// The method is idempotent (RFC 9110 section 9.2.2: GET, HEAD, OPTIONS, TRACE, PUT, DELETE).
    pub idempotent: bool,
    /// The request's body is empty, or none of it has been consumed yet.
    pub body_replayable: bool,
    /// Some byte of the request was handed to the connection's socket.
    pub request_sent: bool,
    /// Some byte of a response arrived.
    pub head_seen: bool,
    /// This was the second attempt already.
    pub retried: bool,
}

/// What to do after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send it once more, on a fresh connection.
    Retry,
    /// Tell the client.
    GiveUp,
}

/// Whether to try again after `attempt` failed.
#[must_use]
pub const fn decide(attempt: Attempt) -> Decision {
    let stale = attempt.reused && !attempt.head_seen;
    let harmless = !attempt.request_sent || attempt.idempotent;
    if stale && harmless && attempt.body_replayable && !attempt.retried { Decision::Retry } else { Decision::GiveUp }
}

#[cfg(test)]
mod tests {
    use super::{Attempt, Decision::*, decide};

    #[test]
    fn only_a_stale_reused_connection_allows_one_retry_and_only_when_sending_twice_is_harmless() {
        let mut retries = Vec::new();
        for case in 0..64_u8 {
            let bit = |n: u8| case >> n & 1 == 1;
            let attempt = Attempt {
                reused: bit(0),
                idempotent: bit(1),
                body_replayable: bit(2),
                request_sent: bit(3),
                head_seen: bit(4),
                retried: bit(5),
            };
            if decide(attempt) == Retry {
                retries.push((attempt.reused, attempt.idempotent, attempt.body_replayable, attempt.request_sent));
                assert!(!attempt.head_seen && !attempt.retried, "{attempt:?}");
            }
        }
        // reused, idempotent, replayable, sent
        assert_eq!(
            retries,
            [
                (true, false, true, false), // POST that never left us
                (true, true, true, false),  // GET that never left us
                (true, true, true, true),   // GET that met a dead connection
            ]
        );
    }
}
