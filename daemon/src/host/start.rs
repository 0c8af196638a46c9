//! The data thread and the name server, started and introduced to each other.

use super::{
    Engine,
    config::Config,
    control::Handle,
    dns::{DnsHandle, DnsService, Hooks as DnsHooks, Settings, search_domains},
    engine::{self, CaptureConfig, EngineConfig, Hooks},
    services::{Record, Zone, Zones},
};
use crate::{clock::Clock, drive::mailbox::Mailbox, errors::Error, metrics::Sources};
use nitrotap_core::gateway::{
    self, Target, TenantLimits,
    dns::{self, DnsConfig, Transport},
    policy::{Policy, PolicyConfig, Rule},
};
use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv4Addr},
    os::unix::net::UnixStream,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
};
use tokio::sync::mpsc;

/// Where the host's own names are, which guests may ask for too.
const HOSTS: &str = "/etc/hosts";

/// Guests' connections to the REST interface that wait to be served.
const GUESTS: usize = 64;

/// Bytes of a capture at most: what a disk can spare while somebody sleeps.
const CAPTURE_MAX: u64 = 16 << 30;

/// Starts both; call it in the runtime.
pub(crate) fn start(config: &Config, sources: &Sources) -> Result<Engine, Error> {
    let clock = Clock::start();
    let mailbox = Mailbox::new().map_err(|e| Error::runtime(format!("cannot make an event descriptor: {e}")))?;
    let handle = Handle::new(mailbox.clone());
    let gateway = gateway_config(config)?;
    let names = name_server(config, &gateway, &handle, clock)?;
    sources.add_counters(Arc::clone(names.counters()));

    let (to_services, guests) = mpsc::channel(GUESTS);
    let runtime = tokio::runtime::Handle::current();
    let (asked, served) = (names.clone(), names.clone());
    let hooks = Hooks {
        ask: Box::new(move |client, query| asked.try_query(client, Transport::Udp, query)),
        serve: Box::new(move |target, stream, guest| match target {
            Target::Dns => {
                let names = served.clone();
                runtime.spawn(async move {
                    // A descriptor that cannot be registered closes, and the guest sees the end.
                    if let Ok(stream) = tokio::net::UnixStream::from_std(UnixStream::from(stream)) {
                        names.serve_tcp(stream).await;
                    }
                });
                true
            }
            Target::Services => to_services.try_send((stream, guest)).is_ok(),
            Target::Address(_) => false,
        }),
    };
    let capture = config.pcap.as_ref().map(|pcap| CaptureConfig {
        path: pcap.file.clone(),
        snaplen: pcap.snaplen,
        budget: CAPTURE_MAX,
    });
    let engine = EngineConfig { gateway, hooks, capture, flow_rate: config.limits.flow_rate.map(Into::into) };
    let ended = engine::start(engine, clock, mailbox, sources)?;
    Ok(Engine { handle, zones: Arc::new(Names(names)), guests, ended })
}

fn name_server(config: &Config, gateway: &gateway::Config, handle: &Handle, clock: Clock) -> Result<DnsHandle, Error> {
    let zones: Vec<dns::Zone> = config
        .network
        .zones
        .iter()
        .map(|zone| core_zone(zone.clone()))
        .collect::<Result<_, _>>()
        .map_err(Error::usage)?;
    let policy = Policy::new(gateway.policy.clone()).map_err(|e| Error::usage(e.to_string()))?;
    let (answering, seeing) = (handle.clone(), handle.clone());
    let hooks = DnsHooks {
        answer: Box::new(move |client, answer| answering.dns_answer(client, answer)),
        seen: Some(Box::new(move |answer| seeing.learn(answer.to_vec()))),
        filter: Some(Box::new(move |name: &str| policy.name_allowed(name))),
    };
    let settings = Settings { resolv_conf: config.resolv_conf.clone(), hosts: Some(PathBuf::from(HOSTS)), port: None };
    let (names, service) = DnsService::new(DnsConfig::new(zones, seed()), settings, hooks, clock)
        .map_err(|e| Error::usage(format!("a zone of the name server cannot be: {e}")))?;
    tokio::spawn(service.run());
    Ok(names)
}

/// What the gateway is told.
pub(crate) fn gateway_config(config: &Config) -> Result<gateway::Config, Error> {
    let Config { network, policy, limits, .. } = config;
    let rules = |flag: &str, rules: &[String]| {
        let parse = |text: &String| text.parse::<Rule>().map_err(|e| Error::usage(format!("{flag} {text}: {e}")));
        rules.iter().map(parse).collect::<Result<Vec<_>, _>>()
    };
    let memory = usize::try_from(limits.memory).unwrap_or(usize::MAX);
    let defaults = gateway::Config::default();
    Ok(gateway::Config {
        subnet: network.subnet,
        gateway: network.gateway_ip,
        gateway_mac: network.gateway_mac,
        host: network.host_ip,
        virtual_ips: network.virtual_ips.clone(),
        mtu: network.mtu,
        nat: network.nat.iter().map(|(from, to)| (*from, IpAddr::V4(*to))).collect(),
        policy: PolicyConfig {
            allow: rules("--allow", &policy.allow)?,
            deny: rules("--deny", &policy.deny)?,
            default: None,
            imds: policy.allow_imds,
            host_loopback: policy.allow_host_loopback,
        },
        search: network.search_domains.clone().unwrap_or_else(|| search_domains(&config.resolv_conf)),
        static_leases: network.static_leases.clone(),
        guest_services: config.listeners.guest_services,
        tenant: TenantLimits {
            flows: limits.max_flows_per_enclave.get(),
            half_open: limits.max_half_open.get(),
            sessions: limits.max_udp_sessions.get(),
            rate: limits.connection_rate.map(Into::into),
        },
        max_flows: limits.max_flows.get(),
        max_sessions: limits.max_udp_sessions.get(),
        memory,
        seed: seed(),
        ..defaults
    })
}

/// The name server as the REST interface sees it.
struct Names(DnsHandle);

impl Zones for Names {
    fn zones(&self) -> Pin<Box<dyn Future<Output = Vec<Zone>> + Send + '_>> {
        Box::pin(async { self.0.zones().await.unwrap_or_default().into_iter().map(rest_zone).collect() })
    }

    fn add_zone(&self, zone: Zone) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async {
            let added = self.0.add_zone(core_zone(zone)?).await.map_err(|e| e.to_string())?;
            added.map_err(|e| e.to_string())
        })
    }
}

fn core_zone(zone: Zone) -> Result<dns::Zone, String> {
    let v4 = |name: &str, ip: IpAddr| match ip {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(ip) => Err(format!("{name}: {ip} is no IPv4 address; zones have no others")),
    };
    let record = |record: Record| {
        let ip = record.ip.ok_or_else(|| format!("{}: a record has no address", zone.name))?;
        Ok(dns::Record { ip: v4(&record.name, ip)?, name: record.name, regexp: record.regexp })
    };
    Ok(dns::Zone {
        records: zone.records.into_iter().map(record).collect::<Result<_, String>>()?,
        default_ip: zone.default_ip.map(|ip| v4(&zone.name, ip)).transpose()?,
        name: zone.name.clone(),
    })
}

fn rest_zone(zone: dns::Zone) -> Zone {
    let record = |record: dns::Record| Record { name: record.name, ip: Some(record.ip.into()), regexp: record.regexp };
    Zone {
        name: zone.name,
        records: zone.records.into_iter().map(record).collect(),
        default_ip: zone.default_ip.map(Ipv4Addr::into),
    }
}

/// Sequence numbers, and numbers of questions to resolvers, must not be guessed: the standard library's hash keys come from
/// the kernel's generator.
fn seed() -> u64 {
    RandomState::new().hash_one(0)
}
