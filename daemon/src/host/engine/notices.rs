//! What the data thread tells, as lines of the log; and addresses that two enclaves say they have, for `/status` too.

use nitrotap_core::{
    drive::host::{Named, Notice},
    gateway::Station,
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

/// No tenant's number: under it the operator's ports are logged.
const OPERATOR: u32 = u32::MAX;

/// Lines kept for `/status`.
const KEPT: usize = 16;

/// What is wrong, and what to do, for the log and for `/status`.
pub(super) const PINGS_REFUSED: &str = "this host's kernel lets us send no pings for guests, of IPv4 and of IPv6: run `sysctl -w \
     net.ipv4.ping_group_range=\"0 2147483647\"`, or a range with a group of this process, in our network namespace";

/// The last duplicates, one line each; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Told(Arc<Mutex<VecDeque<String>>>);

impl Told {
    /// The lines, the oldest first.
    pub(super) fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|line| format!("{line}\n")).collect()
    }

    fn add(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// Writes the line, if this is not too often said.
pub(super) fn log(notice: Notice<'_>, told: &Told) {
    match notice {
        Notice::LinkRefused { tenant, peer } => {
            seldom!(WARN, tenant, "there are too many links, or too many of this enclave, or no memory for one more; this one is closed", %peer);
        }
        Notice::LinkUnwatched { tenant, peer, error } => {
            seldom!(WARN, tenant, "cannot watch a link; it is closed", %peer, %error);
        }
        Notice::LinkUp { tenant, peer, link } => {
            seldom!(INFO, tenant, "a link is up", %peer, link = link.to_u64());
        }
        Notice::LinkDown { tenant, peer, link, why } => {
            seldom!(INFO, tenant, "a link is down", %peer, link = link.to_u64(), why);
        }
        Notice::CannotConnect { target, guest, error } => tracing::debug!(?target, %guest, %error, "cannot connect"),
        Notice::FlowFailed { flow, error } => {
            tracing::debug!(flow = flow.to_u64(), %error, "the world's end of a connection failed");
        }
        Notice::FlowRefused { flow, error } => {
            tracing::debug!(flow = flow.to_u64(), %error, "the world takes no more of a connection");
        }
        Notice::Published { publisher, protocol, local, to } => {
            seldom!(INFO, publisher.unwrap_or(OPERATOR), "a port is published", %protocol, %local, %to);
        }
        Notice::Unpublished { publisher, protocol, local } => {
            seldom!(INFO, publisher.unwrap_or(OPERATOR), "a port is no longer published", %protocol, %local);
        }
        Notice::CannotAccept { forward, local, error } => {
            seldom!(WARN, forward, "cannot accept connections for now", %local, %error);
        }
        Notice::FlowUnwatched { error } => seldom!(WARN, 0_u32, "cannot watch a connection", %error),
        Notice::NotOpened { to, error } => tracing::debug!(%to, %error, "a connection is closed again"),
        Notice::DatagramDropped { client, error } => tracing::debug!(%client, %error, "a datagram is dropped"),
        Notice::NoDatagrams { to, kind, error } => {
            tracing::debug!(%to, ?kind, %error, "cannot open a socket for datagrams");
        }
        Notice::PingsRefused => tracing::warn!("{PINGS_REFUSED}"),
        Notice::TunnelUnusable { to, error } => tracing::debug!(%to, %error, "a tunnel cannot be used"),
        Notice::Duplicate { address, owner, claimant } => duplicate(address, owner, claimant, told),
    }
}

fn duplicate(address: Station, owner: Option<Named<'_>>, claimant: Named<'_>, told: &Told) {
    let name = |Named { link, peer }: Named<'_>| match peer {
        Some(peer) => format!("link {} ({peer})", link.to_u64()),
        None => format!("link {}, which is gone,", link.to_u64()),
    };
    let (kind, remedy) = match address {
        Station::Ip(_) => ("address", "give each enclave its own, or fix whose it is with --pin"),
        Station::Mac(_) => ("hardware address", "give each enclave its own"),
    };
    let owner = owner.map_or_else(|| "somebody else, by --pin,".to_owned(), name);
    let claimant = name(claimant);
    tracing::warn!(%address, "duplicate {kind}: {owner} has it, and {claimant} wants it and does not get it; {remedy}");
    told.add(format!("duplicate {kind} {address}: {owner} has it, {claimant} wants it"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let told = Told::default();
        for n in 0..20 {
            told.add(n.to_string());
        }
        assert_eq!(told.text().lines().count(), KEPT);
        assert_eq!(told.text().lines().next(), Some("4"));
    }
}
