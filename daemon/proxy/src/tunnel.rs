//! Connections after a 101: bytes both ways until both sides have ended, each side's end passed on by itself.
//!
//! The lease lives on, so that the pool's limit of connections covers tunnels. A tunnel without a byte in either direction
//! for [`Config::tunnel_idle`] ends; tunnels never take the last connections that requests need
//! ([`Config::max_tunnels`]).
//!
//! [`Config::tunnel_idle`]: crate::Config::tunnel_idle
//! [`Config::max_tunnels`]: crate::Config::max_tunnels

use crate::{
    client::Client,
    lease::Lease,
    race::{Either, race},
    runtime::{Dialer, Runtime},
    shard::Inner,
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::{rc::Rc, time::Duration};
use tokio::io::{AsyncWriteExt as _, copy_bidirectional_with_sizes};

/// Buffer of one direction, in bytes.
const BUFFER: usize = 32 * 1024;

/// Runs the tunnel in its own task; the client's connection becomes available once its 101 has been written.
pub(crate) fn start<R: Runtime, D: Dialer>(
    shard: &Rc<Inner<R, D>>,
    client: &Rc<Client>,
    on_upgrade: OnUpgrade,
    lease: Lease<R, D>,
) {
    {
        let mut counters = shard.counters.borrow_mut();
        counters.upgrades += 1;
        counters.tunnels += 1;
    }
    // It keeps the client's place among the connections of its address.
    let (counted, client) = (Counted(shard.clone()), client.clone());
    shard.upstreams.runtime.spawn(async move {
        let shard = &counted.0;
        let silence = silence(&shard.upstreams.runtime, &client, shard.upstreams.config.tunnel_idle);
        match race(run(on_upgrade, lease), silence).await {
            Either::First(Ok(())) => {}
            Either::First(Err(error)) => tracing::debug!(cause = %error, "tunnel ended early"),
            Either::Second(()) => {
                shard.counters.borrow_mut().tunnel_timeouts += 1;
                tracing::debug!(client = ?client.address, "tunnel without a byte for too long: ended");
            }
        }
        drop(counted);
    });
}

async fn run<R: Runtime, D: Dialer>(on_upgrade: OnUpgrade, mut lease: Lease<R, D>) -> std::io::Result<()> {
    let client = on_upgrade.await.map_err(std::io::Error::other)?;
    let mut client = TokioIo::new(client);
    let Some((mut upstream, early)) = lease.upgraded().await else { return Ok(()) };
    client.write_all(&early).await?;
    copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER).await.map(drop)
}

/// Completes when no byte has moved for `limit`, or up to a quarter longer. Every byte of a tunnel passes the client's
/// side.
async fn silence<R: Runtime>(runtime: &R, client: &Client, limit: Duration) {
    let mut moved = client.bytes_moved();
    let mut since = runtime.now();
    loop {
        runtime.sleep_until(runtime.now() + limit / 4).await;
        let now = runtime.now();
        if std::mem::replace(&mut moved, client.bytes_moved()) != moved {
            since = now;
        } else if now.since(since) >= limit {
            return;
        }
    }
}

struct Counted<R: Runtime, D: Dialer>(Rc<Inner<R, D>>);

impl<R: Runtime, D: Dialer> Drop for Counted<R, D> {
    fn drop(&mut self) {
        self.0.counters.borrow_mut().tunnels -= 1;
        self.0.wake_drained();
    }
}
