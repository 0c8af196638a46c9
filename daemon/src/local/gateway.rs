//! The gateway outside the pseudo-enclave: the one of `nitrotap host`, in this very process, or a command.

use super::{gvproxy::Gvproxy, publish::Publish};
use crate::{
    errors::Error,
    host::{
        Embedded,
        address::ListenUrl,
        config::{Config, DEVICE_MAC, Limits, Listeners, MAX_MTU, Network, SUBNET},
        control::{Forward, Local, Who},
    },
};
use ipnet::Ipv6Net;
use nitrotap_core::gateway::policy::{Action, Dest, PolicyConfig, Ports, Rule};
use std::{net::Ipv4Addr, path::Path};

/// A running gateway; ended on drop.
#[derive(Debug)]
pub(crate) enum Gateway {
    BuiltIn(Box<Embedded>),
    Command(Box<Gvproxy>),
}

impl Gateway {
    /// Starts `command`, or the built-in one, listening on `socket`; that one with IPv6 if there is a prefix for it.
    pub(crate) async fn start(command: Option<&str>, socket: &Path, subnet6: Option<Ipv6Net>) -> Result<Self, Error> {
        Ok(match command {
            Some(command) => Self::Command(Box::new(Gvproxy::start(command, socket).await?)),
            None => Self::BuiltIn(Box::new(Embedded::start(built_in(socket, subnet6)?).await?)),
        })
    }

    /// The MTU of its network; `None` for the enclave's own default.
    pub(crate) const fn mtu(&self) -> Option<u16> {
        match self {
            Self::BuiltIn(_) => Some(MAX_MTU),
            Self::Command(_) => None,
        }
    }

    /// Makes a port outside lead to `guest`.
    pub(crate) async fn publish(&self, publish: Publish, guest: Ipv4Addr) -> Result<(), Error> {
        match self {
            Self::BuiltIn(gateway) => {
                let forward = Forward {
                    name: publish.outside.to_string(),
                    local: Local::Tcp(publish.outside),
                    to: (guest, publish.inside).into(),
                    proxy_protocol: false,
                };
                let cannot =
                    |e: &dyn std::fmt::Display| Error::runtime(format!("cannot publish {}: {e}", publish.outside));
                gateway
                    .handle()
                    .expose(Who::Operator, forward)
                    .await
                    .map_err(|e| cannot(&e))?
                    .map_err(|e| cannot(&e))?;
                Ok(())
            }
            Self::Command(gvproxy) => gvproxy.publish(publish, guest).await,
        }
    }

    /// Resolves when the gateway has ended by itself.
    pub(crate) async fn failed(&mut self) -> Error {
        match self {
            Self::BuiltIn(gateway) => gateway.failed().await,
            Self::Command(gvproxy) => gvproxy.failed().await,
        }
    }
}

/// gvproxy's network at the largest MTU, from which this machine is reached at all its addresses, as an app under development
/// wants.
fn built_in(socket: &Path, subnet6: Option<Ipv6Net>) -> Result<Config, Error> {
    let mut network = Network::in_subnet(SUBNET).map_err(Error::runtime)?;
    network.mtu = MAX_MTU;
    network.subnet6 = subnet6;
    network.static_leases.insert(network.device_ip, DEVICE_MAC);
    network.zones = network.default_zones();
    Ok(Config {
        listeners: Listeners {
            links: vec![ListenUrl::Unix(socket.to_owned())],
            qemu: Vec::new(),
            bess: Vec::new(),
            services: None,
            services_on_links: false,
            guest_services: false,
            socket_mode: 0o600,
        },
        network,
        policy: PolicyConfig {
            allow: vec![Rule { proto: None, dest: Dest::Host, ports: Ports::default() }],
            default: Some(Action::Allow),
            host_loopback: true,
            ..PolicyConfig::default()
        },
        limits: Limits::default(),
        forwards: Vec::new(),
        resolv_conf: "/etc/resolv.conf".into(),
        pcap: None,
        metrics: None,
        pid_file: None,
    })
}
