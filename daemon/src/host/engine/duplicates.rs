//! Addresses that two enclaves say they have, for the log and for `/status`.

use super::Worker;
use nitrotap_core::gateway::{Duplicate, PortId, Station};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

/// Lines kept for `/status`.
const KEPT: usize = 16;

/// The last ones, one line each; clones share them.
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

impl Worker {
    /// Says what the gateway has found out; it says it seldom.
    pub(super) fn tell_duplicates(&mut self) {
        while let Some(Duplicate { address, owner, claimant }) = self.gateway.poll_duplicate() {
            let name = |port: PortId| match self.links.get(&port) {
                Some(link) => format!("link {} ({})", port.to_u64(), link.peer()),
                None => format!("link {}, which is gone,", port.to_u64()),
            };
            let (kind, remedy) = match address {
                Station::Ip(_) => ("address", "give each enclave its own, or fix whose it is with --pin"),
                Station::Mac(_) => ("hardware address", "give each enclave its own"),
            };
            let owner = owner.map_or_else(|| "somebody else, by --pin,".to_owned(), name);
            let claimant = name(claimant);
            tracing::warn!(
                %address,
                "duplicate {kind}: {owner} has it, and {claimant} wants it and does not get it; {remedy}"
            );
            self.told.add(format!("duplicate {kind} {address}: {owner} has it, {claimant} wants it"));
        }
    }
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
