//! Connections after a 101: bytes both ways until both sides have ended, each side's end passed on by itself.
//!
//! The lease lives on, so that the pool's limit of connections covers tunnels.

use crate::{
    lease::Lease,
    runtime::{Dialer, Runtime},
    shard::Inner,
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::rc::Rc;
use tokio::io::{AsyncWriteExt as _, copy_bidirectional_with_sizes};

/// Buffer of one direction, in bytes.
const BUFFER: usize = 32 * 1024;

/// Runs the tunnel in its own task; the client's connection becomes available once its 101 has been written.
pub(crate) fn start<R: Runtime, D: Dialer>(shard: &Rc<Inner<R, D>>, on_upgrade: OnUpgrade, lease: Lease<R, D>) {
    {
        let mut counters = shard.counters.borrow_mut();
        counters.upgrades += 1;
        counters.tunnels += 1;
    }
    let counted = Counted(shard.clone());
    shard.upstreams.runtime.spawn(async move {
        if let Err(error) = run(on_upgrade, lease).await {
            tracing::debug!(cause = %error, "tunnel ended early");
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

struct Counted<R: Runtime, D: Dialer>(Rc<Inner<R, D>>);

impl<R: Runtime, D: Dialer> Drop for Counted<R, D> {
    fn drop(&mut self) {
        self.0.counters.borrow_mut().tunnels -= 1;
        self.0.wake_drained();
    }
}
