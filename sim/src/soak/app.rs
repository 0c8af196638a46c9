//! The app of the soak: answers what it is asked for, and misbehaves when it is asked to.

use super::{
    pattern,
    run::{Book, Rules},
};
use crate::{
    charged::Readable,
    check::Invariant,
    http::{Head, Reader},
    time::Clock,
    trace::hash_bytes,
    world::{ServerSide, ServerStream},
};
use std::{io, time::Duration};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Serves HTTP and echo inside the enclave, for ever.
pub(super) async fn serve(side: ServerSide, rules: Rules, book: Book) {
    let (Ok(http), Ok(echo)) = (side.listen(ServerSide::APP_PORT), side.listen(super::run::ECHO)) else { return };
    super::clients::start_inside(&side, &rules, &book);
    super::parting::start_inside(&side, &rules, &book);
    loop {
        tokio::select! {
            biased;
            stream = http.accept() => {
                let (side_, rules, book) = (side.clone(), rules.clone(), book.clone());
                side.spawn(async move { drop(converse(stream, &side_, &rules, &book).await) });
            }
            stream = echo.accept() => {
                let clock = side.clock();
                side.spawn(async move { drop(self::echo(stream, Vec::new(), clock).await) });
            }
        }
    }
}

/// Sends back what it gets, and ends when the other side has ended or has been silent for [`SILENCE`].
pub(super) async fn echo(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    early: Vec<u8>,
    clock: Clock,
) -> io::Result<()> {
    stream.write_all(&early).await?;
    let mut buf = vec![0; 8192];
    loop {
        let turn = async {
            let n = stream.read(&mut buf).await?;
            if n > 0 {
                stream.write_all(&buf[..n]).await?;
            }
            io::Result::Ok(n)
        };
        let n = tokio::select! {
            biased;
            n = turn => n?,
            () = clock.sleep(SILENCE) => return Err(io::ErrorKind::TimedOut.into()),
        };
        if n == 0 {
            return stream.shutdown().await;
        }
    }
}

/// Says something, ends, and listens until the other side has ended or has been silent for [`SILENCE`].
pub(super) async fn quote(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    what: &[u8],
    clock: Clock,
) -> io::Result<()> {
    stream.write_all(what).await?;
    stream.shutdown().await?;
    let mut buf = vec![0; 8192];
    loop {
        let n = tokio::select! {
            biased;
            n = stream.read(&mut buf) => n?,
            () = clock.sleep(SILENCE) => return Err(io::ErrorKind::TimedOut.into()),
        };
        if n == 0 {
            return Ok(());
        }
    }
}

/// A peer that vanished says nothing, and no kernel asks: servers that want to end ask themselves.
const SILENCE: Duration = Duration::from_secs(90);

async fn converse(stream: ServerStream, side: &ServerSide, rules: &Rules, book: &Book) -> io::Result<()> {
    let clock = side.clock();
    let handle = stream.clone();
    let mut reader = Reader::new(stream);
    loop {
        let next = tokio::select! {
            biased;
            () = std::future::poll_fn(|cx| handle.poll_readable(cx)) => true,
            () = clock.sleep(rules.app_idle) => false,
        };
        if !next {
            book.fired("app-closes-idle");
            return reader.stream.shutdown().await;
        }
        let Some(head) = reader.head().await? else { return Ok(()) };
        let body = reader.body(&head, false).await?;
        let Some(request) = Request::parse(&head) else {
            reader.stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await?;
            continue;
        };
        if head.line.starts_with("POST ") && !book.first_time(request.id) {
            let detail = format!("POST {:x} reached the app twice", request.id);
            book.audit.fail(clock.now(), Invariant::OneAnswer, detail);
        }
        match request.verb.as_str() {
            "ok" => answer(&mut reader.stream, &request, "").await?,
            "slow" => {
                clock.sleep(Duration::from_millis(request.id % 2000)).await;
                answer(&mut reader.stream, &request, "").await?;
            }
            "close" => {
                answer(&mut reader.stream, &request, "Connection: close\r\n").await?;
                return reader.stream.shutdown().await;
            }
            "post" => {
                let text = format!("{:x}", hash_bytes(request.id, &body));
                let head =
                    format!("HTTP/1.1 200 OK\r\nX-Id: {:x}\r\nContent-Length: {}\r\n\r\n", request.id, text.len());
                reader.stream.write_all(&[head.as_bytes(), text.as_bytes()].concat()).await?;
            }
            "stall" => {
                book.fired("app-stalls");
                // Until the other side has lost its patience.
                return drop_when_ended(&handle).await;
            }
            "reset" => {
                book.fired("app-resets");
                half_an_answer(&mut reader.stream, &request).await?;
                clock.sleep(Duration::from_millis(50)).await;
                handle.abort();
                return Ok(());
            }
            "half" => {
                book.fired("app-half-closes");
                half_an_answer(&mut reader.stream, &request).await?;
                return reader.stream.shutdown().await;
            }
            "silent" | "once" => {
                book.fired("app-half-closes");
                return reader.stream.shutdown().await;
            }
            "up" => {
                let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
                reader.stream.write_all(head).await?;
                let (early, stream) = reader.into_parts();
                return echo(stream, early, clock).await;
            }
            "down" => {
                let begun = clock.now();
                let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
                reader.stream.write_all(head).await?;
                reader.stream.write_all(&pattern::bytes(request.id, request.len)).await?;
                reader.stream.shutdown().await?;
                let read = tokio::select! {
                    biased;
                    read = reader.to_end() => read?,
                    () = clock.sleep(SILENCE) => return Err(io::ErrorKind::TimedOut.into()),
                };
                let id = request.id ^ 1;
                let wrong = pattern::mismatch(id, 0, &read);
                let whole = read.len() == request.len && wrong.is_none();
                // What was cut off by a fault is a matter of the client's, who knows of it; wrong bytes are not.
                if wrong.is_some() || (!whole && !rules.excuse(begun, clock.now())) {
                    let detail =
                        format!("tunnel {id:x}: {} of {} bytes came, first wrong: {wrong:?}", read.len(), request.len);
                    book.audit.fail(clock.now(), Invariant::HalfClose, detail);
                }
                return Ok(());
            }
            _ => return Ok(()),
        }
    }
}

async fn drop_when_ended(stream: &ServerStream) -> io::Result<()> {
    std::future::poll_fn(|cx| stream.poll_readable(cx)).await;
    Ok(())
}

async fn answer(stream: &mut ServerStream, request: &Request, field: &str) -> io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nX-Id: {:x}\r\n{field}Content-Length: {}\r\n\r\n", request.id, request.len);
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&pattern::bytes(request.id, request.len)).await
}

async fn half_an_answer(stream: &mut ServerStream, request: &Request) -> io::Result<()> {
    let len = request.len + 2;
    let head = format!("HTTP/1.1 200 OK\r\nX-Id: {:x}\r\nContent-Length: {len}\r\n\r\n", request.id);
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&pattern::bytes(request.id, len / 2)).await
}

/// `/VERB/ID/LEN`, the numbers hexadecimal.
struct Request {
    verb: String,
    id: u64,
    len: usize,
}

impl Request {
    fn parse(head: &Head) -> Option<Self> {
        let path = head.line.split(' ').nth(1)?;
        let mut parts = path.trim_start_matches('/').split('/');
        let verb = parts.next()?.to_owned();
        let id = u64::from_str_radix(parts.next()?, 16).ok()?;
        let len = usize::from_str_radix(parts.next()?, 16).ok()?;
        Some(Self { verb, id, len })
    }
}
