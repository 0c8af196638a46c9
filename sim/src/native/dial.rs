//! Connections to the world that it has yet to answer.
//!
//! Bounds: those of the gateway, which has a connection of its own for each.

use super::{
    Host,
    ready::{Event, Ready},
};
use crate::stream::{Connect, SimStream};
use nitrotap_core::{
    gateway::{FlowId, Target},
    time::Instant,
};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

/// Longest wait for the world's answer; the gateway itself gives up a little later.
const PATIENCE: Duration = Duration::from_secs(25);

/// See the module.
#[derive(Default)]
pub(super) struct Dials {
    /// `None` where nobody answers.
    waiting: BTreeMap<u64, Option<Connect>>,
    /// In the order in which they were begun, those that are over included.
    give_up: VecDeque<(Instant, FlowId)>,
}

impl Dials {
    /// Begins one; false if it leads to a service of the gateway's, which is not modelled.
    pub(super) fn start(&mut self, now: Instant, host: &Host, flow: FlowId, target: Target) -> bool {
        let to = match target {
            Target::Address(to) => to,
            Target::Dns | Target::Services => return false,
        };
        let addr = match to.ip() {
            IpAddr::V4(Ipv4Addr::LOCALHOST) => (host.resolve)(crate::gvproxy::HOST, to.port()),
            IpAddr::V4(ip) => (host.resolve)(ip, to.port()),
            IpAddr::V6(_) => None,
        };
        self.waiting.insert(flow.to_u64(), addr.map(|addr| host.net.connect(addr)));
        self.give_up.push_back((now + PATIENCE, flow));
        true
    }

    /// What came of one; if nothing has, that is told when it does.
    pub(super) fn poll(&mut self, flow: FlowId, ready: &Ready) -> Option<io::Result<SimStream>> {
        let id = flow.to_u64();
        let connect = self.waiting.get_mut(&id)?.as_mut()?;
        let waker = ready.waker(Event::Dialed(id));
        let Poll::Ready(result) = Pin::new(connect).poll(&mut Context::from_waker(&waker)) else { return None };
        self.waiting.remove(&id);
        Some(result)
    }

    /// Nobody wants it any more.
    pub(super) fn forget(&mut self, flow: FlowId) {
        self.waiting.remove(&flow.to_u64());
    }

    /// One that has not been answered for too long.
    pub(super) fn expired(&mut self, now: Instant) -> Option<FlowId> {
        while let Some((_, flow)) = self.give_up.front().copied().filter(|(at, _)| *at <= now) {
            self.give_up.pop_front();
            if self.waiting.remove(&flow.to_u64()).is_some() {
                return Some(flow);
            }
        }
        None
    }

    /// When the next one is given up.
    pub(super) fn next(&self) -> Option<Instant> {
        self.give_up.front().map(|(at, _)| *at)
    }

    /// Streams that are on their way.
    pub(super) fn streams(&self) -> usize {
        self.waiting.values().flatten().count()
    }
}
