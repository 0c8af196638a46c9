//! Connections between the host and the virtual network: published ports inwards, everything outwards.

use super::switch::{ENCLAVE, Gvproxy};
use crate::{
    group::Group,
    params::Op,
    stack::{StackStream, Syn},
    stream::{Addr, Listener, SimStream},
    trace::{Actor, Event},
};
use std::{io, net::Ipv4Addr, sync::Arc, time::Duration};

/// A published port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exposed {
    /// The host's port.
    pub(crate) port: u32,
    /// The enclave's port.
    pub(crate) to: u16,
}

/// Where a destination of the virtual network is in the model; `None` does not answer at all.
pub(crate) type Resolve = Arc<dyn Fn(Ipv4Addr, u16) -> Option<Addr> + Send + Sync>;

/// Longest wait for the guest's answer.
const GUEST_DIAL: Duration = Duration::from_secs(10);

/// Longest wait for the world's answer: the host kernel's SYN retries.
const WORLD_DIAL: Duration = Duration::from_secs(127);

/// Bytes of a relay's buffer (`io.Copy`).
const BUFFER: usize = 32 << 10;

/// Takes connections from the host and dials the guest for each.
pub(super) async fn inbound(gvproxy: Gvproxy, listener: Listener, exposed: Exposed, group: Group) {
    loop {
        let client = listener.accept().await;
        let gvproxy = gvproxy.clone();
        group.spawn(async move {
            let inner = &*gvproxy.0;
            inner.process.run(&inner.clock, inner.costs.connect_ns, inner.costs.wake_ns).await;
            let guest = tokio::select! {
                biased;
                guest = inner.stack.connect((ENCLAVE, exposed.to)) => guest,
                () = inner.clock.sleep(GUEST_DIAL) => Err(io::ErrorKind::TimedOut.into()),
            };
            if let Ok(guest) = guest {
                relay(&gvproxy, client, guest).await;
            }
        });
    }
}

/// Dials the world for each connection that the guest asks for; only then the guest's SYN is answered.
pub(super) async fn outbound(gvproxy: Gvproxy, resolve: Resolve, group: Group) {
    loop {
        let syn = gvproxy.0.stack.next_syn().await;
        let (gvproxy, resolve) = (gvproxy.clone(), resolve.clone());
        group.spawn(async move { forward(&gvproxy, syn, &resolve).await });
    }
}

async fn forward(gvproxy: &Gvproxy, syn: Syn, resolve: &Resolve) {
    let inner = &*gvproxy.0;
    let (ip, port) = syn.key.local;
    let dial = async {
        inner.process.run(&inner.clock, inner.costs.connect_ns, inner.costs.wake_ns).await;
        match resolve(ip, port) {
            Some(addr) => inner.net.connect(addr).await,
            None => std::future::pending().await,
        }
    };
    let world = tokio::select! {
        biased;
        world = dial => world,
        () = inner.clock.sleep(WORLD_DIAL) => Err(io::ErrorKind::TimedOut.into()),
    };
    match world {
        Ok(world) => {
            if let Some(guest) = inner.stack.admit(syn).await {
                relay(gvproxy, world, guest).await;
            }
        }
        Err(_) => {
            inner.trace.note(inner.clock.now(), Actor::Gvproxy, Event::Quirk, 2, u64::from(port), 0);
            inner.stack.refuse(syn);
        }
    }
}

async fn relay(gvproxy: &Gvproxy, host: SimStream, guest: StackStream) {
    let inwards = copy_in(gvproxy, &host, &guest);
    let outwards = copy_out(gvproxy, &guest, &host);
    if gvproxy.0.quirks.half_close_broken {
        tokio::select! {
            biased;
            () = inwards => {}
            () = outwards => {}
        }
    } else {
        tokio::join!(biased; inwards, outwards);
    }
}

async fn copy_in(gvproxy: &Gvproxy, host: &SimStream, guest: &StackStream) {
    let costs = &gvproxy.0.costs;
    let mut buf = vec![0; BUFFER];
    loop {
        let slept = wait(gvproxy, std::future::poll_fn(|cx| host.poll_readable(cx))).await;
        charge(gvproxy, costs.relay_read, 0, slept).await;
        match host.try_recv(&mut buf) {
            Ok(0) => break,
            Ok(n) => {
                charge(gvproxy, costs.stack_write, n, 0).await;
                if guest.send_all(&buf[..n]).await.is_err() {
                    return host.abort();
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // A reset of the host's side becomes an end towards the guest.
            Err(_) => break,
        }
    }
    guest.finish();
}

async fn copy_out(gvproxy: &Gvproxy, guest: &StackStream, host: &SimStream) {
    let costs = &gvproxy.0.costs;
    let mut buf = vec![0; BUFFER];
    loop {
        let slept = wait(gvproxy, std::future::poll_fn(|cx| guest.poll_readable(cx))).await;
        charge(gvproxy, costs.stack_read, 0, slept).await;
        match guest.recv(&mut buf).await {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                charge(gvproxy, costs.relay_write, n, 0).await;
                if host.send_all(&buf[..n]).await.is_err() {
                    return guest.abort();
                }
            }
        }
    }
    host.finish();
}

/// Waits, and says what the wake-up costs: nothing if there was no wait.
async fn wait(gvproxy: &Gvproxy, ready: impl Future<Output = ()>) -> u64 {
    let mut ready = std::pin::pin!(ready);
    if std::future::poll_fn(|cx| std::task::Poll::Ready(ready.as_mut().poll(cx).is_ready())).await {
        return 0;
    }
    ready.await;
    gvproxy.0.costs.wake_ns
}

async fn charge(gvproxy: &Gvproxy, op: Op, bytes: usize, wake_ns: u64) {
    gvproxy.0.process.run(&gvproxy.0.clock, op.cost(bytes), wake_ns).await;
}
