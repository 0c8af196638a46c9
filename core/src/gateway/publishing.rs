//! Which ports of the host guests may publish by themselves.
//!
//! Owns: who has published what. Driven by: the driver, which opens the ports and knows those of the operator.
//! Drain: at [`Publishing::poll_timeout`] call [`Publishing::handle_timeout`], and close what it names.
//! Bounds: [`MAX_PER_TENANT`] forwards of one tenant; one whose guest is gone for [`GONE`] ends.
//!
//! A guest publishes its own addresses and removes what it has published. It takes no port below 1024, and no port number
//! that the operator uses, at whatever address: who connects to those expects the operator's service.

use super::output::FlowId;
use crate::time::Instant;
use core::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use std::collections::BTreeMap;

/// Forwards that one tenant may have published.
pub const MAX_PER_TENANT: usize = 64;

/// How long a forward waits for its guest: as long as connections wait for theirs.
pub const GONE: Duration = Duration::from_secs(300);

/// How often is looked.
const EVERY: Duration = Duration::from_secs(10);

/// The first port that needs no privilege.
const FIRST: u16 = 1024;

/// A guest that asks for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Its connection to the REST interface.
    pub flow: FlowId,
    /// Whose it is.
    pub tenant: u32,
    /// The address it has asked from.
    pub address: IpAddr,
}

/// Who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The tenant that was asked about.
    Same,
    /// Another one.
    Other,
    /// Nobody that is known.
    Nobody,
}

/// Why a guest may not have what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotForGuests {
    /// It is another's, or nobody's.
    #[error("{0} is not your address: a guest publishes its own ports only")]
    NotYours(IpAddr),
    /// A privileged one.
    #[error("port {0} is not for guests: they publish ports from {FIRST} on")]
    Privileged(u16),
    /// The operator's, or the gateway's own.
    #[error("port {0} is taken by this host's operator")]
    Taken(u16),
    /// Over [`MAX_PER_TENANT`].
    #[error("you have {MAX_PER_TENANT} forwards already; unexpose one first")]
    TooMany,
    /// Neither TCP nor UDP.
    #[error("guests publish ports of TCP and UDP only")]
    Protocol,
}

#[derive(Debug)]
struct Published {
    tenant: u32,
    address: IpAddr,
    /// When the guest was last known to be there.
    seen: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Publishing {
    /// By the driver's number.
    published: BTreeMap<u32, Published>,
    next: Option<Instant>,
}

impl Publishing {
    /// Whether `asker` may publish `to` at a port of the host. `owns`: that address is where it has asked from. `taken`: the
    /// operator uses that port number, or the gateway itself does.
    ///
    /// # Errors
    /// [`NotForGuests`] says why not.
    pub fn check(&self, asker: Asker, port: u16, to: SocketAddr, owns: bool, taken: bool) -> Result<(), NotForGuests> {
        if !owns {
            return Err(NotForGuests::NotYours(to.ip()));
        }
        // Port 0 is any free one.
        if port != 0 && port < FIRST {
            return Err(NotForGuests::Privileged(port));
        }
        if taken {
            return Err(NotForGuests::Taken(port));
        }
        let own = self.published.values().filter(|published| published.tenant == asker.tenant).count();
        if own >= MAX_PER_TENANT { Err(NotForGuests::TooMany) } else { Ok(()) }
    }

    /// It was published, under this number.
    pub fn add(&mut self, now: Instant, number: u32, asker: Asker, to: SocketAddr) {
        self.published.insert(number, Published { tenant: asker.tenant, address: to.ip(), seen: now });
        self.next.get_or_insert(now + EVERY);
    }

    /// It is not published any more.
    pub fn remove(&mut self, number: u32) {
        self.published.remove(&number);
    }

    /// Whether a guest has published it; `None` if the operator has.
    #[must_use]
    pub fn tenant(&self, number: u32) -> Option<u32> {
        self.published.get(&number).map(|published| published.tenant)
    }

    /// Looks who is still there; gives the forwards that are over, which the driver closes and then removes.
    pub fn handle_timeout(&mut self, now: Instant, holder: impl Fn(u32, IpAddr) -> Holder) -> Vec<u32> {
        if self.next.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let mut over = Vec::new();
        for (number, published) in &mut self.published {
            match holder(published.tenant, published.address) {
                Holder::Same => published.seen = now,
                Holder::Other => over.push(*number),
                Holder::Nobody if now.since(published.seen) >= GONE => over.push(*number),
                Holder::Nobody => {}
            }
        }
        self.next = (self.published.len() > over.len()).then(|| now + EVERY);
        over
    }

    /// When to look again.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(tenant: u32) -> Asker {
        Asker { flow: FlowId::from_u64(1), tenant, address: IpAddr::from([192, 168, 127, 2]) }
    }

    fn to(port: u16) -> SocketAddr {
        ([192, 168, 127, 2], port).into()
    }

    fn at(secs: u64) -> Instant {
        Instant::from_millis(secs * 1000)
    }

    #[test]
    fn a_guest_gets_free_ports_for_its_own_addresses_and_nothing_else() {
        let publishing = Publishing::default();
        let check = |port, owns, taken| publishing.check(asker(1), port, to(80), owns, taken);
        assert_eq!(check(8080, true, false), Ok(()));
        assert_eq!(check(0, true, false), Ok(()));
        assert_eq!(check(1024, true, false), Ok(()));
        assert_eq!(check(1023, true, false), Err(NotForGuests::Privileged(1023)));
        assert_eq!(check(8080, true, true), Err(NotForGuests::Taken(8080)));
        assert_eq!(check(8080, false, false), Err(NotForGuests::NotYours(to(80).ip())));
    }

    #[test]
    fn one_tenant_takes_no_room_of_another() {
        let mut publishing = Publishing::default();
        for number in 0..MAX_PER_TENANT as u32 {
            assert_eq!(publishing.check(asker(1), 8080, to(80), true, false), Ok(()));
            publishing.add(at(0), number, asker(1), to(80));
        }
        assert_eq!(publishing.check(asker(1), 8080, to(80), true, false), Err(NotForGuests::TooMany));
        assert_eq!(publishing.check(asker(2), 8080, to(80), true, false), Ok(()));
        publishing.remove(3);
        assert_eq!(publishing.check(asker(1), 8080, to(80), true, false), Ok(()));
    }

    #[test]
    fn a_forward_ends_when_its_guest_is_gone_for_good_or_its_address_is_another_s() {
        let mut publishing = Publishing::default();
        publishing.add(at(0), 7, asker(1), to(80));
        publishing.add(at(1), 8, asker(2), ([192, 168, 127, 3], 80).into());
        assert_eq!((publishing.tenant(7), publishing.tenant(9)), (Some(1), None));
        assert_eq!(publishing.handle_timeout(at(9), |_, _| Holder::Other), [], "it is not time yet");
        let holder = |tenant, _| if tenant == 1 { Holder::Nobody } else { Holder::Same };
        assert_eq!(publishing.handle_timeout(at(10), |_, _| Holder::Same), []);
        assert_eq!(publishing.handle_timeout(at(309), holder), [], "a link that comes back finds it");
        assert_eq!(publishing.poll_timeout(), Some(at(319)));
        assert_eq!(publishing.handle_timeout(at(319), holder), [7]);
        publishing.remove(7);
        assert_eq!(publishing.tenant(7), None);
        assert_eq!(publishing.handle_timeout(at(329), |_, _| Holder::Other), [8]);
        assert_eq!(publishing.poll_timeout(), None, "nothing is left to look at");
    }
}
