//! Which connections and sessions keep a learned address open; see [`crate::gateway::policy`].
//!
//! Bounds: one entry for each connection and session that leads to such an address.

use super::*;

/// Who uses an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum User {
    Flow(FlowId),
    Session(SessionId),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Held {
    users: BTreeMap<User, IpAddr>,
    /// The time of the last turn: ends are told without one.
    now: Instant,
}

impl Held {
    pub(super) fn tick(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }
}

impl Gateway {
    /// Something begins that was allowed.
    pub(super) fn hold(&mut self, user: User, proto: Proto, to: SocketAddr) {
        if self.policy.hold(self.held.now, proto, to.ip(), to.port()) {
            self.held.users.insert(user, to.ip());
        }
    }

    /// It has ended.
    pub(super) fn release(&mut self, user: User) {
        if self.held.users.is_empty() {
            return;
        }
        if let Some(address) = self.held.users.remove(&user) {
            self.policy.release(self.held.now, address);
        }
    }
}
