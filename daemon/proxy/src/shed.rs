//! Turns a client away so that the answer arrives.
//!
//! The answer is written, and a lingering close ([`linger`]) follows. Owns: how many connections are being turned away. Bounds: [`Config::max_lingering`] at once,
//! one more is closed without an answer; [`LINGER`] and [`LINGER_BYTES`] for each.
//!
//! [`Config::max_lingering`]: crate::Config::max_lingering

use crate::{
    linger::{self, Bounds},
    race::{Either, race},
    runtime::{Dialer, Runtime},
    shard::Inner,
};
use std::{rc::Rc, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

/// Longest time for a client to take its answer and close.
const LINGER: Duration = Duration::from_secs(2);

/// Most bytes read from a client that is turned away: what it may have had on its way to us.
const LINGER_BYTES: usize = 1024 * 1024;

/// What a client beyond the limit gets, without its request being read.
pub(crate) const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: text/plain; charset=utf-8\r\n\
    content-length: 68\r\n\
    connection: close\r\n\
    retry-after: 1\r\n\r\n\
    503 Service Unavailable: too many connections; try again in a while\n";

/// What a client gets whose address has its share of connections already.
pub(crate) const CROWDED: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\n\
    content-type: text/plain; charset=utf-8\r\n\
    content-length: 75\r\n\
    connection: close\r\n\
    retry-after: 1\r\n\r\n\
    429 Too Many Requests: too many connections from one address at the moment\n";

/// Gives `stream` its `answer` and ends it, in a task of its own.
pub(crate) fn turn_away<R: Runtime, D: Dialer, S>(shard: &Rc<Inner<R, D>>, stream: S, answer: &'static [u8])
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let Some(seat) = Seat::take(shard) else { return };
    let shard = shard.clone();
    shard.upstreams.runtime.clone().spawn(async move {
        let mut stream = stream;
        let end = shard.upstreams.runtime.now() + LINGER;
        let written = race(stream.write_all(answer), shard.upstreams.runtime.sleep_until(end)).await;
        // Without an answer: it left, or it does not read.
        let answered = matches!(written, Either::First(Ok(())));
        if answered {
            linger::close(&shard, stream, Bounds { quiet: LINGER, end, bytes: LINGER_BYTES }, |_| false).await;
        }
        tracing::debug!(answered, "client turned away");
        drop(seat);
    });
}

/// One connection among those being turned away.
struct Seat<R: Runtime, D: Dialer>(Rc<Inner<R, D>>);

impl<R: Runtime, D: Dialer> Seat<R, D> {
    fn take(shard: &Rc<Inner<R, D>>) -> Option<Self> {
        let mut counters = shard.counters.borrow_mut();
        if counters.lingering >= shard.upstreams.config.max_lingering as u64 {
            counters.shed_unanswered += 1;
            return None;
        }
        counters.lingering += 1;
        Some(Self(shard.clone()))
    }
}

impl<R: Runtime, D: Dialer> Drop for Seat<R, D> {
    fn drop(&mut self) {
        self.0.counters.borrow_mut().lingering -= 1;
        self.0.wake_drained();
    }
}

#[cfg(test)]
mod tests {
    use super::{CROWDED, FULL};

    #[test]
    fn the_answers_state_their_true_length() {
        for answer in [FULL, CROWDED] {
            let text = std::str::from_utf8(answer).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        }
    }
}
