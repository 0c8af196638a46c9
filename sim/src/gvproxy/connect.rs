//! `/connect`: an HTTP request that is never answered, and frames from then on.

use super::switch::Gvproxy;
use crate::{
    group::Group,
    ledger::Way,
    stream::{Listener, SimStream},
    trace::{Actor, Event},
};
use std::{io, time::Duration};

/// Go's `http.Server` has `ReadTimeout` 10 s here.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// From the end of the request to the connection being taken over: scheduling of two goroutines.
const HIJACK: Duration = Duration::from_micros(200);

/// The buffer of Go's HTTP reader, and of the frame reader.
const BUFIO: usize = 4096;

pub(super) async fn serve(gvproxy: Gvproxy, listener: Listener, group: Group) {
    loop {
        let stream = listener.accept().await;
        group.spawn(handle(gvproxy.clone(), stream));
    }
}

async fn handle(gvproxy: Gvproxy, stream: SimStream) {
    let inner = &*gvproxy.0;
    let request = tokio::select! {
        biased;
        request = read_request(&stream) => request,
        () = inner.clock.sleep(READ_TIMEOUT) => Err(io::ErrorKind::TimedOut.into()),
    };
    let Ok(Some(early)) = request else { return };
    let early = early.len();
    if inner.quirks.loses_early_bytes && early > 0 {
        inner.ledger.spoil(stream.peer(), Way::Out);
        inner.trace.note(inner.clock.now(), Actor::Gvproxy, Event::Quirk, 0, early as u64, 0);
    }
    inner.clock.sleep(HIJACK).await;
    if inner.quirks.loses_early_bytes {
        // net/http's background read takes one byte that comes before the take-over.
        let mut byte = [0; 1];
        if stream.try_recv(&mut byte).is_ok_and(|n| n == 1) {
            inner.ledger.spoil(stream.peer(), Way::Out);
            inner.trace.note(inner.clock.now(), Actor::Gvproxy, Event::Quirk, 0, 1, 0);
        }
    }
    let id = gvproxy.join(stream.clone());
    read_frames(&gvproxy, id, &stream).await;
    inner.ledger.close(stream.peer(), Way::Out);
    gvproxy.leave(id);
}

/// Reads up to the end of a request for `/connect`, and gives the bytes that came with it; `None` for another request.
pub(crate) async fn read_request(stream: &SimStream) -> io::Result<Option<Vec<u8>>> {
    let mut buf = [0; BUFIO];
    let mut have = 0;
    loop {
        let n = stream.recv(&mut buf[have..]).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        have += n;
        if let Some(end) = buf[..have].windows(4).position(|w| w == b"\r\n\r\n") {
            let head = &buf[..end];
            let path = head.split(|b| *b == b' ').nth(1);
            return Ok((path == Some(b"/connect")).then(|| buf[end + 4..have].to_vec()));
        }
        if have == buf.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// The receive goroutine of one connection.
async fn read_frames(gvproxy: &Gvproxy, id: u64, stream: &SimStream) {
    let inner = &*gvproxy.0;
    let mut pending: Vec<u8> = Vec::with_capacity(2 * BUFIO);
    let mut buf = [0; BUFIO];
    loop {
        let mut slept = 0;
        let n = match stream.try_recv(&mut buf) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                slept = inner.costs.wake_ns;
                match stream.recv(&mut buf).await {
                    Ok(n) => n,
                    Err(_) => return,
                }
            }
            Err(_) => return,
        };
        if n == 0 {
            return;
        }
        inner.process.run(&inner.clock, inner.costs.stream_read.cost(n), slept).await;
        pending.extend_from_slice(&buf[..n]);
        let mut at = 0;
        while let Some(prefix) = pending[at..].first_chunk::<2>() {
            let len = usize::from(u16::from_le_bytes(*prefix));
            if pending.len() < at + 2 + len {
                break;
            }
            let frame = &pending[at + 2..at + 2 + len];
            if !gvproxy.handle_frame(id, stream, frame).await {
                return;
            }
            at += 2 + len;
        }
        pending.drain(..at);
    }
}
