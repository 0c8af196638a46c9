//! The program that plays app and client, inside the namespace, on the machine, and in a microVM.
//!
//! Clients print one line of `key=value` words on standard output and exit with 0, or one line on standard error and
//! exit with 1. Servers print `listening on ADDR` once they do, so a port of 0 is as good as a fixed one.

pub mod churn;
pub mod dns;
pub mod dns_server;
pub mod half_close;
pub mod http_client;
pub mod http_server;
pub mod payload;
pub mod ping;
pub mod process;
pub mod tcp;
pub mod udp;

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpListener},
    time::Duration,
};

/// How long a client waits for anything before it gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Prints a line on standard output.
pub fn say(line: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

/// With std's backlog of 128, unless another is given.
fn listen(address: SocketAddr, backlog: Option<i32>) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    if let Some(backlog) = backlog {
        rustix::net::listen(&listener, backlog)?;
    }
    say(format_args!("listening on {}", listener.local_addr()?))?;
    Ok(listener)
}

/// Serves each connection on its own thread; a connection that fails is told on standard error, and the rest go on.
fn serve_each(
    address: SocketAddr,
    backlog: Option<i32>,
    serve: impl Fn(std::net::TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<()> {
    let serve = std::sync::Arc::new(serve);
    for stream in listen(address, backlog)?.incoming() {
        let (stream, serve) = (stream?, serve.clone());
        std::thread::spawn(move || {
            if let Err(error) = serve(stream) {
                let _ = writeln!(io::stderr(), "connection: {error}");
            }
        });
    }
    Ok(())
}
