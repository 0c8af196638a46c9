//! DNS over a stream: messages behind their length (RFC 1035 section 4.2.2), several at a time and answered in any order
//! (RFC 7766 section 6.2.1.1).

use super::{
    PIPELINE,
    service::{Query, ReplyTo},
};
use nitrotap_core::gateway::dns::Transport;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

/// How long a client may take between two queries, and to take an answer (RFC 7766 section 6.2.3).
const IDLE: Duration = Duration::from_secs(10);

/// An answer, and the place in the pipeline that is free once it is written.
pub(super) type StreamAnswer = (Vec<u8>, OwnedSemaphorePermit);

/// A message behind its length; the length of one that is too long (which no client can have sent) is cut.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&len.to_be_bytes()[..], &message[..usize::from(len)]].concat()
}

/// Answers the queries of `stream` until it ends, breaks, or idles; what was asked before that is still answered.
pub(super) async fn serve(
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
    queries: mpsc::Sender<Query>,
) -> io::Result<()> {
    // As many answers as the pipeline has places: sending one never waits.
    let (answers, waiting) = mpsc::channel(PIPELINE);
    let writing = write(writer, waiting);
    tokio::pin!(writing);
    let reading = read(reader, queries, answers);
    tokio::select! {
        // A client that does not take its answers gets no more of them.
        written = &mut writing => return written,
        read = reading => read?,
    }
    writing.await
}

async fn read(
    mut reader: impl AsyncRead + Unpin,
    queries: mpsc::Sender<Query>,
    answers: mpsc::Sender<StreamAnswer>,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(PIPELINE));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        let bytes = match timeout(IDLE, message(&mut reader)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        let reply = ReplyTo::Stream(answers.clone(), place);
        if queries.send(Query { reply, transport: Transport::Tcp, bytes }).await.is_err() {
            return Ok(());
        }
    }
}

async fn message(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let len = reader.read_u16().await?;
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
