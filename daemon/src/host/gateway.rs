//! Data thread and name server, started and bound to each other.
//!
//! They need each other: the thread hands queries to the name server and gets answers back through its mailbox.

use super::{
    config::Config,
    control::Handle,
    dns::{self, DnsHandle, DnsService},
    engine::{self, CaptureConfig, EngineConfig},
};
use crate::{clock::Clock, drive::mailbox::Mailbox, errors::Error, metrics::Sources};
use nitrotap_core::{
    drive::host,
    gateway::{
        self, SourcePortsConfig, Target, TenantLimits,
        dns::{DnsConfig, Transport},
        policy,
        publishing::Asker,
    },
};
use std::{
    hash::{BuildHasher, RandomState},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    sync::Arc,
};
use tokio::sync::{mpsc, oneshot};

/// Connections of guests that wait to be served by the REST interface; one more is refused.
const MAX_WAITING: usize = 64;

/// Bytes of a capture; after that no more frames are written.
const MAX_CAPTURE: u64 = 4 << 30;

/// A running data thread and its name server.
pub(super) struct Running {
    pub(super) handle: Handle,
    pub(super) names: DnsHandle,
    /// Who comes to port 80 of the gateway; nobody ever unless `guest_services`.
    pub(super) guests: mpsc::Receiver<Guest>,
    /// Told when the data thread has ended: without an error only after [`Handle::stop`].
    pub(super) ended: oneshot::Receiver<Result<(), Error>>,
}

/// A guest at the gateway's REST interface.
#[derive(Debug)]
pub(super) struct Guest {
    /// Non-blocking.
    pub(super) stream: OwnedFd,
    pub(super) asker: Asker,
}

/// Starts both; the name server on the runtime around this call.
pub(super) fn start(config: &Config, sources: &Sources) -> Result<Running, Error> {
    let clock = Clock::start();
    let mailbox = Mailbox::new().map_err(|e| Error::runtime(format!("cannot make an event descriptor: {e}")))?;
    let handle = Handle::new(mailbox.clone());
    let names = name_server(config, &handle, clock)?;
    sources.add_counters(Arc::clone(names.counters()));

    let (to_services, guests) = mpsc::channel(MAX_WAITING);
    let (asked, streams, runtime) = (names.clone(), names.clone(), tokio::runtime::Handle::current());
    let hooks = engine::Hooks {
        ask: Box::new(move |tenant, client, query| asked.try_query(tenant, client, Transport::Udp, query)),
        serve: Box::new(move |target, asker, stream| match target {
            Target::Dns => serve_names(&runtime, &streams, asker.tenant, stream),
            Target::Services => to_services.try_send(Guest { stream, asker }).is_ok(),
            Target::Address(_) => false,
        }),
    };
    let capture = config.pcap.as_ref().map(|pcap| CaptureConfig {
        path: pcap.file.clone(),
        snaplen: pcap.snaplen,
        budget: MAX_CAPTURE,
    });
    if let Some(prefix) = config.network.subnet6 {
        tracing::info!(%prefix, "guests get IPv6");
    }
    let host = host::Config {
        flow_rate: config.limits.flow_rate.map(Into::into),
        max_forwards: config.limits.max_forwards.get(),
    };
    let engine = EngineConfig { gateway: gateway_config(config), hooks, capture, host };
    let ended = engine::start(engine, clock, mailbox, sources)?;
    Ok(Running { handle, names, guests, ended })
}

fn name_server(config: &Config, handle: &Handle, clock: Clock) -> Result<DnsHandle, Error> {
    // A policy of the name server's own, which learns nothing: it says which names may be asked for, and what the answers open.
    let policy = policy::Policy::new(config.policy.clone()).map_err(|e| Error::usage(e.to_string()))?;
    let policy = Arc::new(policy);
    let (answers, learning, rules) = (handle.clone(), handle.clone(), Arc::clone(&policy));
    let hooks = dns::Hooks {
        answer: Box::new(move |client, answer| answers.dns_answer(client, answer)),
        seen: Some(Box::new(move |tenant, answer| {
            if let Some(lesson) = rules.lesson(answer) {
                learning.learn(tenant, lesson);
            }
        })),
        filter: Some(Box::new(move |name: &str| policy.name_allowed(name))),
    };
    let settings =
        dns::Settings { resolv_conf: config.resolv_conf.clone(), hosts: Some(PathBuf::from("/etc/hosts")), port: None };
    let zones = DnsConfig::new(config.network.zones.clone(), seed());
    let (names, service) = DnsService::new(zones, settings, hooks, clock)
        .map_err(|e| Error::usage(format!("the zones of the name server cannot be: {e}")))?;
    tokio::spawn(service.run());
    Ok(names)
}

/// A guest's stream of questions: admitted here, on the data thread, so that nobody's streams wait behind another's.
fn serve_names(runtime: &tokio::runtime::Handle, names: &DnsHandle, tenant: u32, stream: OwnedFd) -> bool {
    let Some(seat) = names.admit(tenant) else { return false };
    runtime.spawn(async move {
        match tokio::net::UnixStream::from_std(UnixStream::from(stream)) {
            Ok(stream) => DnsHandle::serve_tcp(stream, seat).await,
            Err(error) => seldom!(WARN, tenant, "cannot serve a DNS stream", %error),
        }
    });
    true
}

fn gateway_config(config: &Config) -> gateway::Config {
    let (network, limits) = (&config.network, &config.limits);
    gateway::Config {
        subnet: network.subnet,
        subnet6: network.subnet6,
        gateway: network.gateway_ip,
        gateway_mac: network.gateway_mac,
        host: network.host_ip,
        mtu: network.mtu,
        nat: network.nat.iter().map(|(from, to)| (*from, (*to).into())).collect(),
        policy: config.policy.clone(),
        search: network.search_domains.clone().unwrap_or_else(|| dns::search_domains(&config.resolv_conf)),
        static_leases: network.static_leases.clone(),
        guest_services: config.listeners.guest_services,
        tenant: TenantLimits {
            flows: limits.max_flows_per_enclave.get(),
            half_open: limits.max_half_open.get(),
            sessions: limits.max_udp_sessions_per_enclave.get(),
            rate: limits.connection_rate.map(Into::into),
        },
        max_flows: limits.max_flows.get(),
        max_sessions: limits.max_udp_sessions.get(),
        memory: usize::try_from(limits.memory).unwrap_or(usize::MAX),
        pins: network.pins.iter().filter_map(|pin| pin.resolve(&config.listeners)).collect(),
        keep_address: network.keep_address,
        seed: seed(),
        allocate: crate::sys::alloc::zeroed,
        source_ports: source_ports(),
        ..gateway::Config::default()
    }
}

/// What this kernel says of its ports; nothing is counted where it says nothing.
fn source_ports() -> SourcePortsConfig {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    source_ports_of(&read("ip_local_port_range"), &read("tcp_tw_reuse"))
}

fn source_ports_of(range: &str, reuse: &str) -> SourcePortsConfig {
    let mut range = range.split_ascii_whitespace().map(|port| port.parse::<usize>().ok());
    let count = match (range.next().flatten(), range.next().flatten()) {
        (Some(first), Some(last)) => (last + 1).saturating_sub(first),
        (Some(_) | None, _) => 0,
    };
    let reuse = reuse.trim();
    SourcePortsConfig { count, reused: reuse == "1", reused_on_loopback: matches!(reuse, "1" | "2") }
}

/// From the kernel's random numbers, by the keys of a hash.
fn seed() -> u64 {
    RandomState::new().hash_one(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_ports_are_counted_and_nonsense_is_not() {
        let of = |range, reuse| {
            let SourcePortsConfig { count, reused, reused_on_loopback } = source_ports_of(range, reuse);
            (count, reused, reused_on_loopback)
        };
        assert_eq!(of("32768\t60999\n", "2\n"), (28_232, false, true));
        assert_eq!(of("1024 65535\n", "0\n"), (64_512, false, false));
        assert_eq!(of("1024 1024", "1"), (1, true, true));
        for nonsense in ["", "x y", "5", "60999 32768"] {
            assert_eq!(of(nonsense, "").0, 0, "{nonsense:?}");
        }
    }
}
