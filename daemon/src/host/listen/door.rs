//! Who comes in at a listener for links: as many as [`nitrotap_core::gateway::arrivals`] says.

use super::{Whose, accept};
use crate::{
    clock::Clock,
    host::socket::{Acceptor, Peer},
    metrics::Sources,
};
use nitrotap_core::{
    counters::{Desc, Kind},
    gateway::arrivals::{Arrival, Arrivals},
};
use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// How many connections the listeners of a process have turned away.
#[derive(Clone, Debug, Default)]
pub(crate) struct TurnedAway(Arc<AtomicU64>);

impl TurnedAway {
    /// With its number among the metrics.
    pub(crate) fn register(sources: &Sources) -> Self {
        let all = Self::default();
        let read = all.clone();
        sources.add(move |tell| {
            tell(
                Desc {
                    name: "nitrotap_host_connections_turned_away",
                    help: "Connections to listeners for links that were closed because their peer came too often.",
                    labels: &[],
                    kind: Kind::Counter,
                },
                read.0.load(Relaxed),
            );
        });
        all
    }
}

/// A listener that keeps to its rate.
#[derive(Debug)]
pub(super) struct Door {
    acceptor: Acceptor,
    arrivals: Arrivals<Whose>,
    clock: Clock,
    turned_away: TurnedAway,
}

impl Door {
    pub(super) fn new(acceptor: Acceptor, turned_away: TurnedAway) -> Self {
        Self { acceptor, arrivals: Arrivals::default(), clock: Clock::start(), turned_away }
    }

    /// The next connection that is served.
    pub(super) async fn next(&mut self) -> (OwnedFd, Peer) {
        loop {
            while let Some(at) = self.arrivals.ready_at(self.clock.now()) {
                tokio::time::sleep_until(self.clock.deadline(at)).await;
            }
            let (fd, peer) = accept(&self.acceptor).await;
            match self.arrivals.handle_arrival(self.clock.now(), Whose::of(peer)) {
                Arrival::Serve => return (fd, peer),
                Arrival::TurnAway => {
                    self.turned_away.0.fetch_add(1, Relaxed);
                    let number = match peer {
                        Peer::Vsock { cid, .. } => cid,
                        Peer::Ip(_) | Peer::Local => 0,
                    };
                    seldom!(WARN, number, "a peer connects too often: connection closed", %peer, listener = self.acceptor.name());
                }
            }
        }
    }

    pub(super) fn name(&self) -> &str {
        self.acceptor.name()
    }
}
