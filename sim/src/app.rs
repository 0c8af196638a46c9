//! The hello-world app of the experiment.

use crate::{
    charged::{Charged, Price},
    cpu::Process,
    http::Reader,
    world::ServerSide,
};
use std::io;
use tokio::io::AsyncWriteExt as _;

/// Its answer.
pub(crate) const HELLO: &[u8] = b"hello\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\
    Connection: keep-alive\r\n\r\nhello\n";

/// Serves hello-world on the app's port, for ever.
pub async fn hello(side: ServerSide) {
    let Ok(listener) = side.listen(ServerSide::APP_PORT) else { return };
    let costs = side.costs();
    let threads: Vec<Process> = (0..costs.threads.max(1)).map(|_| side.process(1)).collect();
    let mut next = 0;
    loop {
        let stream = listener.accept().await;
        let process = threads[next % threads.len()].clone();
        next += 1;
        let clock = side.clock();
        side.spawn(async move {
            process.run(&clock, costs.connect_ns, costs.wake_ns).await;
            let price = Price { read: costs.read, write: costs.write, wake_ns: costs.wake_ns };
            // A client that leaves is no news.
            let _: io::Result<()> = serve(Reader::new(Charged::new(stream, process, clock, price))).await;
        });
    }
}

async fn serve<S: crate::charged::Readable>(mut reader: Reader<Charged<S>>) -> io::Result<()> {
    while let Some(head) = reader.head().await? {
        reader.body(&head, false).await?;
        reader.stream.write_all(RESPONSE).await?;
        if head.closes() {
            break;
        }
    }
    reader.stream.shutdown().await
}
