//! `nitrotap proxy`: the reverse proxy alone.

use crate::{
    errors::Error,
    http::{ProxyFlags, ProxyServer, Seconds},
    limits, logging,
    metrics::{self, Sources},
    procfs,
};
use std::{net::SocketAddr, process::ExitCode};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Run the HTTP/1.1 reverse proxy alone
///
/// Takes requests on every --listen and passes them to --upstream, over connections that it keeps open as long as
/// demand needs them. An upstream that is down is no reason to end: requests are answered 502 until it is back. SIGTERM
/// and SIGINT let requests in progress finish.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
    nitrotap proxy --listen 0.0.0.0:8080 --upstream http://127.0.0.1:3000\n  \
    nitrotap proxy --listen vsock://:443 --upstream http://127.0.0.1:3000/app --metrics 127.0.0.1:9090")]
pub(crate) struct Args {
    /// Serve metrics (/metrics) and a status for humans (/status) on this address
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,

    /// Time that requests in progress get to finish after SIGTERM or SIGINT
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    drain_timeout: Seconds,

    #[command(flatten)]
    proxy: ProxyFlags,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    let options = args.proxy.options()?.ok_or_else(|| {
        Error::usage("give --listen ADDR:PORT and --upstream URL, such as --listen 0.0.0.0:8080 --upstream http://127.0.0.1:3000")
    })?;
    limits::raise_nofile();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::runtime(format!("cannot start the async runtime: {e}")))?;
    runtime.block_on(async {
        let (mut term, mut int) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
        let mut hangup = catch(SignalKind::hangup())?;
        let server = ProxyServer::start(&options)?;
        if let Some(address) = args.metrics {
            let sources = Sources::default();
            procfs::add_process(&sources);
            server.register(&sources);
            metrics::serve(metrics::bind(address).await?, sources);
        }
        loop {
            tokio::select! {
                () = either(&mut term, &mut int) => break,
                // Nobody is to end because a log was moved away.
                _ = hangup.recv() => logging::reopen(),
            }
        }
        tracing::info!("stopping: requests in progress may finish; a second signal ends them");
        tokio::select! {
            cut = server.drain(args.drain_timeout.0) => if cut > 0 {
                tracing::warn!(connections = cut, "connections cut short at the end of the drain timeout");
            },
            () = either(&mut term, &mut int) => tracing::warn!("told twice: stopping at once"),
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn catch(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(|e| Error::runtime(format!("cannot catch signal {}: {e}", kind.as_raw_value())))
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}
