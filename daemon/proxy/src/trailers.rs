//! Trailer fields on their way through, announced or not.
//!
//! hyper writes only those trailer fields that a `Trailer` field announced before the body, and apps that compute a
//! checksum or a status often announce nothing. So hyper is told that the body ends without trailers, and the empty
//! trailer section that it then writes (`0 CRLF CRLF`, always its last bytes of the message) is replaced.
//!
//! Bounds: hyper's own on what it reads of trailers (16 KiB, and as many fields as a head may have).

use crate::{gather::poll_write_gathered, trust};
use http::{
    HeaderMap, HeaderName,
    header::{
        CACHE_CONTROL, CONTENT_ENCODING, CONTENT_RANGE, MAX_FORWARDS, PROXY_AUTHENTICATE, SET_COOKIE, TRAILER,
        WWW_AUTHENTICATE,
    },
};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};
use tokio::io::AsyncWrite;

/// The empty trailer section behind the last chunk.
const EMPTY: &[u8] = b"0\r\n\r\n";

/// The trailer section of the message in hand. Atomic only because hyper's upgrades need a `Send` stream.
#[derive(Debug, Default)]
pub(crate) struct Trailers {
    armed: AtomicBool,
    section: Mutex<Vec<u8>>,
}

impl Trailers {
    /// Puts `fields` at the end of the message, which must be chunked, and whose body ends now. Gives how many of them
    /// do not pass: a receiver may merge trailers into the head, so what frames, routes or authenticates may not come late.
    pub(crate) fn arm(&self, fields: &HeaderMap) -> u64 {
        let mut dropped = 0;
        let mut section = b"0\r\n".to_vec();
        for (name, value) in fields {
            if is_for_heads_only(name) {
                dropped += 1;
                continue;
            }
            section.extend_from_slice(name.as_str().as_bytes());
            section.extend_from_slice(b": ");
            section.extend_from_slice(value.as_bytes());
            section.extend_from_slice(b"\r\n");
        }
        section.extend_from_slice(b"\r\n");
        *self.section.lock().unwrap_or_else(PoisonError::into_inner) = section;
        self.armed.store(true, Relaxed);
        dropped
    }

    pub(crate) fn disarm(&self) {
        self.armed.store(false, Relaxed);
    }
}

/// RFC 9110 section 6.5.1, and what this proxy or an app behind it goes by.
fn is_for_heads_only(name: &HeaderName) -> bool {
    const HEAD: [HeaderName; 8] = [
        CACHE_CONTROL,
        CONTENT_ENCODING,
        CONTENT_RANGE,
        MAX_FORWARDS,
        PROXY_AUTHENTICATE,
        SET_COOKIE,
        TRAILER,
        WWW_AUTHENTICATE,
    ];
    let text = name.as_str();
    HEAD.contains(name) || trust::reads_as_guarded(text)
}

/// How much of a trailer section has been written.
#[derive(Debug)]
pub(crate) struct Section {
    written: usize,
}

impl Section {
    pub(crate) const fn new() -> Self {
        Self { written: 0 }
    }

    /// Writes what hyper has left to write, with the trailer section in the place of the empty one.
    pub(crate) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        trailers: &Trailers,
        stream: &mut S,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !trailers.armed.load(Relaxed) {
            return poll_write_gathered(stream, cx, bufs);
        }
        let mut before: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        let total = before.len();
        if !before.ends_with(EMPTY) {
            debug_assert!(false, "the body has ended, and hyper shows all that it has not written");
            return poll_write_gathered(stream, cx, bufs);
        }
        if total > EMPTY.len() {
            // First what comes before; it is little, since the body has ended.
            before.truncate(total - EMPTY.len());
            return Pin::new(stream).poll_write(cx, &before);
        }
        let section = trailers.section.lock().unwrap_or_else(PoisonError::into_inner);
        while self.written < section.len() {
            let n = ready!(Pin::new(&mut *stream).poll_write(cx, &section[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        self.written = 0;
        drop(section);
        trailers.disarm();
        Poll::Ready(Ok(total))
    }
}
