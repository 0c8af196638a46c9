//! What a link is told once, with units, defaults and their reasons.

use super::MacAddr;
use core::{net::Ipv4Addr, time::Duration};

/// How a [`Link`](super::Link) behaves; immutable once it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Hardware address of the TAP; the switch learns it from the probe.
    pub mac: MacAddr,
    /// Address of the TAP, the sender of the probe. gvproxy answers only senders inside its subnet.
    pub address: Ipv4Addr,
    /// Whom the probe asks for: the gateway, which gvproxy answers itself.
    pub gateway: Ipv4Addr,
    /// Longest wait for a dial to succeed. 5 s: a vsock connect that nobody answers otherwise hangs for 2 s and a TCP
    /// one for minutes.
    pub dial_timeout: Duration,
    /// Silence between the request and the first frame. 50 ms: gvproxy hands the connection over within 1 ms on an idle
    /// host.
    pub gap: Duration,
    /// The gap doubles after each unanswered probe, up to this. 1 s covers a host that is swapping.
    pub gap_max: Duration,
    /// Time between two ARP requests of one probe. 250 ms.
    pub probe_interval: Duration,
    /// Longest wait for the answer before the stream is given up. 1 s, a reconnect being cheaper than a longer wait.
    pub probe_timeout: Duration,
    /// Silence from the host after which it is asked for a sign of life. 5 s.
    pub keepalive_idle: Duration,
    /// Unanswered signs of life, one each [`Config::keepalive_idle`], after which the link is lost. 3.
    pub keepalive_probes: u32,
    /// First wait before a redial. 50 ms, for a host that restarts at once.
    pub backoff_min: Duration,
    /// Longest wait before a redial. 1 s: a host that comes back is found within 1 s plus gap and probe.
    pub backoff_max: Duration,
    /// A link that was up this long starts its next backoff from the minimum. 1 s, so that a host which accepts and
    /// drops is not dialled in a tight loop.
    pub stable_after: Duration,
    /// Seed of the backoff's jitter; two enclaves with different seeds do not redial in step.
    pub seed: u64,
}

impl Config {
    /// The defaults, for a TAP with these addresses.
    #[must_use]
    pub const fn new(mac: MacAddr, address: Ipv4Addr, gateway: Ipv4Addr, seed: u64) -> Self {
        Self {
            mac,
            address,
            gateway,
            dial_timeout: Duration::from_secs(5),
            gap: Duration::from_millis(50),
            gap_max: Duration::from_secs(1),
            probe_interval: Duration::from_millis(250),
            probe_timeout: Duration::from_secs(1),
            keepalive_idle: Duration::from_secs(5),
            keepalive_probes: 3,
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            stable_after: Duration::from_secs(1),
            seed,
        }
    }
}
