//! DNS over a stream: messages behind their length (RFC 1035 section 4.2.2), several at a time and answered in any order
//! (RFC 7766 section 6.2.1.1).

use super::{
    PIPELINE, QUERY_MAX,
    intake::{Place, Seat},
    service::{Query, ReplyTo},
};
use nitrotap_core::gateway::dns::Transport;
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    time::timeout,
};

/// How long a client may take between two queries, and to take an answer (RFC 7766 section 6.2.3).
const IDLE: Duration = Duration::from_secs(10);

/// An answer, and the place in the pipeline that is free once it is written.
pub(super) type StreamAnswer = (Vec<u8>, Place);

/// A message behind its length; the length of one that is too long (which no client can have sent) is cut.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&len.to_be_bytes()[..], &message[..usize::from(len)]].concat()
}

/// Answers the queries of a stream until it ends, breaks, or idles; what was asked before that is still answered. Ends at
/// once when its seat is for another one.
pub(super) async fn serve(
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
    seat: &Seat,
) -> io::Result<()> {
    // As many answers as the pipeline has places: sending one never waits.
    let (answers, waiting) = mpsc::channel(PIPELINE);
    let writing = write(writer, waiting);
    tokio::pin!(writing);
    let reading = read(reader, seat, answers);
    let ended = seat.end.notified();
    tokio::pin!(ended);
    tokio::select! {
        () = &mut ended => return Ok(()),
        // A client that does not take its answers gets no more of them.
        written = &mut writing => return written,
        read = reading => read?,
    }
    tokio::select! {
        () = ended => Ok(()),
        written = writing => written,
    }
}

async fn read(mut reader: impl AsyncRead + Unpin, seat: &Seat, answers: mpsc::Sender<StreamAnswer>) -> io::Result<()> {
    loop {
        let Some(place) = seat.place().await else { return Ok(()) };
        let bytes = match timeout(IDLE, message(&mut reader)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        let reply = ReplyTo::Stream(answers.clone(), place);
        if !seat.push(Query { reply, transport: Transport::Tcp, bytes }) {
            return Ok(());
        }
    }
}

async fn message(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let len = reader.read_u16().await?;
    if usize::from(len) > QUERY_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a query is too long"));
    }
    let mut bytes = vec![0; usize::from(len)];
    reader.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut answers: mpsc::Receiver<StreamAnswer>) -> io::Result<()> {
    while let Some((answer, place)) = answers.recv().await {
        match timeout(IDLE, writer.write_all(&framed(&answer))).await {
            Ok(written) => written?,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        drop(place);
    }
    writer.shutdown().await
}
