//! Flags, file and defaults together: flags win over the file, the file over defaults.

use super::{Args, SshPort, publish::Publish, yaml};
use crate::{
    errors::Error,
    host::{
        config::{Config, DEVICE_MAC, Limits, Listeners, MAX_MTU, MIN_MTU, Network, Pcap, SUBNET},
        pin::Pinned,
    },
};
use nitrotap_core::{gateway::policy::PolicyConfig, link::MacAddr};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read as _,
    net::Ipv4Addr,
    path::Path,
    time::Duration,
};
use yaml::Settings;

/// Reads gvproxy's configuration file.
pub(super) fn read_file(path: &Path) -> Result<Settings, Error> {
    let cannot =
        |why: &dyn std::fmt::Display| Error::usage(format!("cannot use the configuration {}: {why}", path.display()));
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(yaml::MAX_FILE + 1).read_to_string(&mut text));
    let length = read.map_err(|e| cannot(&e))?;
    if u64::try_from(length).is_ok_and(|n| n > yaml::MAX_FILE) {
        return Err(cannot(&format_args!("it has more than {} bytes", yaml::MAX_FILE)));
    }
    yaml::read(&text).map_err(|error| cannot(&error))
}

/// The whole configuration. `activated`: systemd passes a socket for links.
pub(super) fn config(args: Args, settings: Option<Settings>, activated: bool) -> Result<Config, Error> {
    let from_file = settings.is_some();
    let file = settings.unwrap_or_default();
    let (mut network, host_loopback) = network(&args, &file, from_file)?;

    let mut forwards = file.forwards;
    let ssh = match args.ports.ssh_port {
        Some(SshPort::Port(port)) => Some(Publish::on_loopback(port, 22)),
        Some(SshPort::None) | None => None,
    };
    let published = args.ports.publish.into_iter().chain(ssh);
    forwards.extend(published.map(|publish| publish.forward(network.device_ip, args.ports.proxy_protocol)));
    let mut names = BTreeSet::new();
    if let Some(twice) = forwards.iter().find(|forward| !names.insert((forward.local.protocol(), forward.name.clone())))
    {
        return Err(Error::usage(format!("{} {} is published twice", twice.local.protocol(), twice.name)));
    }

    let links = if args.listen.is_empty() { file.links } else { args.listen };
    let qemu = if args.listen_qemu.is_empty() { file.qemu.into_iter().collect() } else { args.listen_qemu };
    let bess = if args.listen_bess.is_empty() { file.bess.into_iter().collect() } else { args.listen_bess };
    if links.is_empty() && qemu.is_empty() && bess.is_empty() && !activated {
        return Err(Error::usage(
            "no enclave could connect: give --listen URL, such as --listen vsock://:1024 or --listen unix:///run/nitrotap.sock",
        ));
    }
    let services = args.services.or(file.services);
    let mut seen = BTreeSet::new();
    if let Some(twice) = links.iter().chain(&qemu).chain(&bess).chain(&services).find(|url| !seen.insert(*url)) {
        return Err(Error::usage(format!("{twice} is given for two listeners; give each its own address")));
    }
    let listeners = Listeners {
        links,
        qemu,
        bess,
        services,
        services_on_links: args.services_on_listeners,
        guest_services: args.guest_services,
        socket_mode: args.socket_mode,
    };
    pin(&mut network, &listeners, args.network.pin, &args.network.static_lease)?;
    let limits = Limits {
        max_flows: args.limits.max_flows,
        max_flows_per_enclave: args.limits.max_flows_per_enclave,
        max_half_open: args.limits.max_half_open,
        max_udp_sessions: args.limits.max_udp_sessions,
        max_udp_sessions_per_enclave: args.limits.max_udp_sessions_per_enclave,
        connection_rate: args.limits.connection_rate,
        flow_rate: args.limits.rate,
        memory: args.limits.memory,
        max_forwards: args.limits.max_forwards,
    };
    Ok(Config {
        listeners,
        network,
        policy: PolicyConfig {
            allow: args.policy.allow,
            deny: args.policy.deny,
            default: None,
            imds: args.policy.allow_imds || file.allow_imds,
            host_loopback,
        },
        limits,
        forwards,
        resolv_conf: args.network.resolv_conf,
        pcap: args.pcap.or(file.pcap).map(|file| Pcap { file, snaplen: args.pcap_snaplen }),
        metrics: args.metrics,
        pid_file: args.pid_file.or(file.pid_file),
    })
}

/// Whose addresses are fixed. The gateway looks at the addresses themselves.
fn pin(
    network: &mut Network,
    listeners: &Listeners,
    pins: Vec<Pinned>,
    leases: &[(Ipv4Addr, MacAddr)],
) -> Result<(), Error> {
    for pin in &pins {
        if pin.resolve(listeners).is_none() {
            return Err(Error::usage(format!(
                "--pin {}={}: no listener for links has this URL; write it as --listen has it",
                pin.owner, pin.address
            )));
        }
        let other = leases.iter().find(|(ip, mac)| *ip == pin.address && pin.mac != Some(mac.0));
        if let Some((ip, mac)) = other {
            return Err(Error::usage(format!(
                "--static-lease {ip}={mac} and --pin {}={ip} are about one address; write --pin {}={ip},{mac} alone",
                pin.owner, pin.owner
            )));
        }
    }
    network.pins = pins;
    Ok(())
}

/// The network, and whether guests may reach this host's loopback.
fn network(args: &Args, file: &Settings, from_file: bool) -> Result<(Network, bool), Error> {
    let flags = &args.network;
    let mut network = Network::in_subnet(flags.subnet.or(file.subnet).unwrap_or(SUBNET)).map_err(Error::usage)?;
    if let Some(mtu) = flags.mtu.or(file.mtu) {
        if !(MIN_MTU..=MAX_MTU).contains(&mtu) {
            return Err(Error::usage(format!("stack.mtu: {mtu} is not from {MIN_MTU} to {MAX_MTU}")));
        }
        network.mtu = mtu;
    }
    network.subnet6 = flags.subnet6;
    let or = |flag: Option<Ipv4Addr>, file: Option<Ipv4Addr>, default| flag.or(file).unwrap_or(default);
    network.gateway_ip = or(flags.gateway_ip, file.gateway_ip, network.gateway_ip);
    network.device_ip = or(flags.device_ip, file.device_ip, network.device_ip);
    network.host_ip = or(flags.host_ip, file.host_ip, network.host_ip);
    if let Some(mac) = flags.gateway_mac.or(file.gateway_mac) {
        network.gateway_mac = mac.0;
    }
    if let Some(ip) = file.virtual_ips.iter().find(|ip| **ip != network.host_ip) {
        return Err(Error::usage(format!("stack.gatewayVirtualIPs: {ip} is not hostIP, the only one there is")));
    }

    network.static_leases = file.static_leases.iter().map(|(ip, mac)| (*ip, mac.0)).collect();
    let mut given = BTreeMap::new();
    for (ip, mac) in &flags.static_lease {
        if given.insert(*ip, mac.0).is_some() {
            return Err(Error::usage(format!("--static-lease {ip} is given twice")));
        }
    }
    network.static_leases.extend(given);
    let device_lease = network.static_leases.contains_key(&network.device_ip)
        || network.static_leases.values().any(|mac| *mac == DEVICE_MAC);
    // As gvproxy does it: with a file there is what the file says.
    if !from_file && !device_lease {
        network.static_leases.insert(network.device_ip, DEVICE_MAC);
    }

    network.nat = file.nat.clone();
    network.nat.extend(flags.nat.iter().copied());
    // gvproxy's way to say it; who names it means it.
    let named = match network.nat.remove(&network.host_ip) {
        Some(Ipv4Addr::LOCALHOST) => true,
        Some(other) => {
            return Err(Error::usage(format!(
                "{} leads to this host's loopback and not to {other}; choose another --host-ip, or another address for {other}",
                network.host_ip
            )));
        }
        None => false,
    };
    (network.zones, network.search_domains) = if from_file {
        (file.zones.clone(), Some(file.search_domains.clone()))
    } else {
        (network.default_zones(), None)
    };
    network.keep_address = Duration::from_secs(flags.keep_address.into());
    network.check().map_err(Error::usage)?;
    Ok((network, named || args.policy.allow_host_loopback))
}
