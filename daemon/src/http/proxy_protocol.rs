//! The header that a proxy in front of ours sends first: who the client really is.
//!
//! Owns: how many connections have not sent it yet, and counters. Driven by: a worker, which serves a connection only
//! after this. Bounds: [`TIMEOUT`] and the header's own length for each connection; as many connections as a worker may
//! have clients.

use nitrotap_core::{
    counters,
    proxy_protocol::{Error, FIXED_LEN, Header, MAX_HEADER, Parsed, parse},
};
use nitrotap_proxy::Peer;
use std::{cell::RefCell, io, time::Duration};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Longest time from accepting a connection to the end of its header. The proxy in front sends it before anything else.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

counters! {
    /// Connections to listeners that demand a PROXY protocol header.
    pub(super) struct HeaderCounters {
        /// Connections that have not sent their PROXY protocol header yet.
        waiting: Gauge "nitrotap_proxy_protocol_waiting" {},
        /// Connections with a PROXY protocol header.
        accepted: Counter "nitrotap_proxy_protocol_accepted" {},
        /// Connections closed for want of a PROXY protocol header, by what came instead.
        other: Counter "nitrotap_proxy_protocol_refused" { cause = "not_a_header" },
        /// Connections closed for want of a PROXY protocol header, by what came instead.
        closed: Counter "nitrotap_proxy_protocol_refused" { cause = "closed" },
        /// Connections closed for want of a PROXY protocol header, by what came instead.
        late: Counter "nitrotap_proxy_protocol_refused" { cause = "timeout" },
        /// Connections closed for want of a PROXY protocol header, by what came instead.
        crowded: Counter "nitrotap_proxy_protocol_refused" { cause = "too_many_waiting" },
    }
}

/// Receives headers, for one worker.
#[derive(Debug)]
pub(super) struct Headers {
    max_waiting: usize,
    timeout: Duration,
    counters: RefCell<HeaderCounters>,
}

/// Why a connection is closed.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Other(Error),
    #[error("the connection ended before its header did")]
    Closed,
    #[error("the connection failed: {0}")]
    Failed(io::Error),
    #[error("no header within {0:?}")]
    Late(Duration),
    #[error("{0} connections are waiting for their headers already")]
    Crowded(usize),
}

impl Headers {
    pub(super) fn new(max_waiting: usize, timeout: Duration) -> Self {
        Self { max_waiting, timeout, counters: RefCell::default() }
    }

    pub(super) fn counters(&self) -> HeaderCounters {
        *self.counters.borrow()
    }

    /// Reads the header of a connection from `from`, and no byte more. Gives the client that it names; `None` if the
    /// connection must be closed, which is counted and logged.
    pub(super) async fn receive(&self, stream: &mut (impl AsyncRead + Unpin), from: Peer) -> Option<Peer> {
        let mut came = [0; MAX_HEADER];
        let mut len = 0;
        let outcome = match Waiting::begin(self) {
            Some(_waiting) => tokio::time::timeout(self.timeout, read(stream, &mut came, &mut len))
                .await
                .unwrap_or(Err(Refusal::Late(self.timeout))),
            None => Err(Refusal::Crowded(self.max_waiting)),
        };
        let mut counters = self.counters.borrow_mut();
        let refusal = match outcome {
            Ok(header) => {
                counters.accepted += 1;
                let client = named(header, from);
                tracing::debug!(?client, proxy = ?from, "client behind a proxy");
                return Some(client);
            }
            Err(refusal) => refusal,
        };
        *match refusal {
            Refusal::Other(_) => &mut counters.other,
            Refusal::Closed | Refusal::Failed(_) => &mut counters.closed,
            Refusal::Late(_) => &mut counters.late,
            Refusal::Crowded(_) => &mut counters.crowded,
        } += 1;
        tracing::debug!(
            client = ?from,
            cause = %refusal,
            came = %came[..len.min(SHOWN)].escape_ascii(),
            "no PROXY protocol header: the connection is closed"
        );
        None
    }
}

/// How much of something else a log line shows: enough for a method and a path, or the beginning of a TLS hello.
const SHOWN: usize = 64;

async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    came: &mut [u8; MAX_HEADER],
    len: &mut usize,
) -> Result<Header, Refusal> {
    let mut need = FIXED_LEN;
    loop {
        match stream.read(&mut came[*len..*len + need]).await {
            Ok(0) => return Err(Refusal::Closed),
            Ok(n) => *len += n,
            Err(error) => return Err(Refusal::Failed(error)),
        }
        match parse(&came[..*len]).map_err(Refusal::Other)? {
            // Never beyond the longest header.
            Parsed::Incomplete(more) => need = more,
            Parsed::Complete { header, .. } => return Ok(header),
        }
    }
}

/// Who the client is, if `from` says this.
const fn named(header: Header, from: Peer) -> Peer {
    match header {
        Header::Local => from,
        Header::Unknown => Peer::Unknown,
        Header::Relayed { source, .. } => Peer::Ip(source.ip()),
    }
}

/// One connection among those waiting.
struct Waiting<'a>(&'a RefCell<HeaderCounters>);

impl<'a> Waiting<'a> {
    fn begin(headers: &'a Headers) -> Option<Self> {
        let mut counters = headers.counters.borrow_mut();
        if counters.waiting >= headers.max_waiting as u64 {
            return None;
        }
        counters.waiting += 1;
        Some(Self(&headers.counters))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.borrow_mut().waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nitrotap_core::proxy_protocol::{LOCAL, encode};
    use tokio::io::{AsyncWriteExt as _, duplex};

    const FROM: Peer = Peer::Ip(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    const LONG: Duration = Duration::from_secs(60);

    fn header() -> Vec<u8> {
        encode("192.0.2.7:49152".parse().unwrap(), "10.0.0.1:443".parse().unwrap())
    }

    /// What comes of a connection that sends this and then ends; and what is left of it behind its header.
    async fn receive(headers: &Headers, bytes: &[u8], pieces: usize) -> (Option<Peer>, Vec<u8>) {
        let (mut near, mut far) = duplex(pieces);
        let write = async {
            let written = far.write_all(bytes).await;
            drop(far);
            written.unwrap();
        };
        let read = async {
            let peer = headers.receive(&mut near, FROM).await;
            let mut rest = Vec::new();
            near.read_to_end(&mut rest).await.unwrap();
            (peer, rest)
        };
        tokio::join!(write, read).1
    }

    #[tokio::test]
    async fn the_client_is_whom_the_header_names_and_what_follows_is_left_alone() {
        let headers = Headers::new(1, LONG);
        for pieces in [1, 7, 4096] {
            let stream = [&header()[..], b"GET / HTTP/1.1\r\n"].concat();
            let (peer, rest) = receive(&headers, &stream, pieces).await;
            assert_eq!(peer, Some(Peer::Ip([192, 0, 2, 7].into())));
            assert_eq!(rest, b"GET / HTTP/1.1\r\n");
        }
        assert_eq!(receive(&headers, &LOCAL, 64).await.0, Some(FROM));
        let mut unix = LOCAL.to_vec();
        unix[12] = 0x21;
        assert_eq!(receive(&headers, &unix, 64).await.0, Some(Peer::Unknown));
        assert_eq!(headers.counters(), HeaderCounters { accepted: 5, ..HeaderCounters::default() });
    }

    #[tokio::test]
    async fn anything_else_is_refused_and_counted_by_what_it_was() {
        let headers = Headers::new(1, LONG);
        for bytes in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n", b"\x16\x03\x01", b"\r\nQ"]
        {
            assert_eq!(receive(&headers, bytes, 64).await.0, None);
        }
        assert_eq!((headers.counters().other, headers.counters().closed), (4, 0));
        for cut in [0, 1, 12, 16, 27] {
            assert_eq!(receive(&headers, &header()[..cut], 64).await.0, None);
        }
        let counters = HeaderCounters { other: 4, closed: 5, ..HeaderCounters::default() };
        assert_eq!(headers.counters(), counters);
    }

    #[tokio::test]
    async fn a_silent_connection_is_closed_in_time_and_others_beyond_the_limit_at_once() {
        let headers = Headers::new(1, Duration::from_millis(20));
        let ((mut one, _one), (mut two, _two)) = (duplex(64), duplex(64));
        let (first, second) = tokio::join!(headers.receive(&mut one, FROM), headers.receive(&mut two, FROM));
        assert_eq!((first, second), (None, None));
        assert_eq!(headers.counters(), HeaderCounters { late: 1, crowded: 1, ..HeaderCounters::default() });
    }
}
