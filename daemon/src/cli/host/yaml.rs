//! gvproxy's configuration file.
//!
//! Keys that gvproxy does not have are errors with their line, and so are values that make no sense. Keys that gvproxy
//! has and this gateway does not say what to use instead, unless their value asks for nothing.

use super::publish_local;
use crate::host::{
    address::{ListenUrl, Purpose},
    control::Forward,
};
use ipnet::Ipv4Net;
use nitrotap_core::{
    gateway::dns::{Record, Zone},
    link::MacAddr,
};
use serde::Deserialize;
use std::{collections::BTreeMap, fmt, net::Ipv4Addr, path::PathBuf, str::FromStr};

/// Longest file, in bytes.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// The file as it is written (gvproxy `cmd/gvproxy/config.go` and `pkg/types/configuration.go`).
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct File {
    listen: Option<Vec<String>>,
    log_level: Option<String>,
    services: Option<String>,
    pid_file: Option<PathBuf>,
    log_file: Option<PathBuf>,
    notification: Option<String>,
    ec2_metadata_access: Option<bool>,
    interfaces: Option<Interfaces>,
    forwards: Option<Vec<SshForward>>,
    stack: Option<Stack>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Interfaces {
    vpnkit: Option<String>,
    qemu: Option<String>,
    bess: Option<String>,
    stdio: Option<String>,
    vfkit: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SshForward {
    socket: Option<String>,
    dest: Option<String>,
    user: Option<String>,
    identity: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Stack {
    debug: Option<bool>,
    #[serde(rename = "capture-file")]
    capture_file: Option<PathBuf>,
    mtu: Option<u16>,
    subnet: Option<String>,
    #[serde(rename = "gatewayIP")]
    gateway_ip: Option<String>,
    #[serde(rename = "deviceIP")]
    device_ip: Option<String>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
    gateway_mac_address: Option<String>,
    dns: Option<Vec<ZoneFile>>,
    dns_search_domains: Option<Vec<String>>,
    forwards: Option<BTreeMap<String, String>>,
    nat: Option<BTreeMap<String, String>>,
    #[serde(rename = "gatewayVirtualIPs")]
    gateway_virtual_ips: Option<Vec<String>>,
    #[serde(rename = "dhcpStaticLeases")]
    dhcp_static_leases: Option<BTreeMap<String, String>>,
    #[serde(rename = "vpnKitUUIDMacAddresses")]
    vpnkit_macs: Option<BTreeMap<String, String>>,
    ec2_metadata_access: Option<bool>,
    block_all_outbound: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ZoneFile {
    name: Option<String>,
    records: Option<Vec<RecordFile>>,
    #[serde(rename = "defaultIP")]
    default_ip: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RecordFile {
    name: Option<String>,
    ip: Option<String>,
    regexp: Option<String>,
}

/// What a file says, checked value by value; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) links: Vec<ListenUrl>,
    pub(super) qemu: Option<ListenUrl>,
    pub(super) bess: Option<ListenUrl>,
    pub(super) services: Option<ListenUrl>,
    /// A filter for logs.
    pub(super) log_level: Option<&'static str>,
    pub(super) log_file: Option<PathBuf>,
    pub(super) pid_file: Option<PathBuf>,
    pub(super) pcap: Option<PathBuf>,
    pub(super) mtu: Option<u16>,
    pub(super) subnet: Option<Ipv4Net>,
    pub(super) gateway_ip: Option<Ipv4Addr>,
    pub(super) device_ip: Option<Ipv4Addr>,
    pub(super) host_ip: Option<Ipv4Addr>,
    pub(super) gateway_mac: Option<MacAddr>,
    pub(super) zones: Vec<Zone>,
    pub(super) search_domains: Vec<String>,
    pub(super) forwards: Vec<Forward>,
    pub(super) nat: BTreeMap<Ipv4Addr, Ipv4Addr>,
    pub(super) virtual_ips: Vec<Ipv4Addr>,
    pub(super) static_leases: BTreeMap<Ipv4Addr, MacAddr>,
    pub(super) allow_imds: bool,
}

/// Reads a file's text. The error names the key, and the line where the reader knows it.
pub(super) fn read(text: &str) -> Result<Settings, String> {
    // A file of comments is nothing at all.
    let file: Option<File> = serde_norway::from_str(text).map_err(|error| error.to_string())?;
    let file = file.unwrap_or_default();
    file.refuse_what_is_not_there()?;
    let stack = file.stack.unwrap_or_default();
    let interfaces = file.interfaces.unwrap_or_default();
    let debug = stack.debug == Some(true);
    Ok(Settings {
        links: file
            .listen
            .unwrap_or_default()
            .iter()
            .map(|text| url("listen", text, Purpose::Link))
            .collect::<Result<_, _>>()?,
        qemu: interfaces.qemu.map(|text| url("interfaces.qemu", &text, Purpose::Local)).transpose()?,
        bess: interfaces.bess.map(|text| url("interfaces.bess", &text, Purpose::Messages)).transpose()?,
        services: file.services.map(|text| url("services", &text, Purpose::Local)).transpose()?,
        log_level: if debug { Some("debug") } else { file.log_level.map(|text| level(&text)).transpose()? },
        log_file: file.log_file,
        pid_file: file.pid_file,
        pcap: stack.capture_file,
        mtu: stack.mtu.filter(|mtu| *mtu > 0),
        subnet: value("stack.subnet", stack.subnet)?,
        gateway_ip: value("stack.gatewayIP", stack.gateway_ip)?,
        device_ip: value("stack.deviceIP", stack.device_ip)?,
        host_ip: value("stack.hostIP", stack.host_ip)?,
        gateway_mac: value("stack.gatewayMacAddress", stack.gateway_mac_address)?,
        zones: stack.dns.unwrap_or_default().into_iter().map(zone).collect::<Result<_, _>>()?,
        search_domains: stack.dns_search_domains.unwrap_or_default(),
        forwards: stack
            .forwards
            .unwrap_or_default()
            .iter()
            .map(|(local, remote)| forward(local, remote))
            .collect::<Result<_, _>>()?,
        nat: pairs("stack.nat", stack.nat)?,
        virtual_ips: stack
            .gateway_virtual_ips
            .unwrap_or_default()
            .iter()
            .map(|ip| parse("stack.gatewayVirtualIPs", ip))
            .collect::<Result<_, _>>()?,
        static_leases: pairs("stack.dhcpStaticLeases", stack.dhcp_static_leases)?,
        allow_imds: stack.ec2_metadata_access == Some(true),
    })
}

impl File {
    fn refuse_what_is_not_there(&self) -> Result<(), String> {
        let some = |value: Option<&String>| value.is_some_and(|text| !text.is_empty());
        let interfaces = self.interfaces.as_ref();
        let stack = self.stack.as_ref();
        for (there, why) in [
            (
                self.ec2_metadata_access == Some(true),
                "ec2-metadata-access: gvproxy reads this key nowhere; write ec2MetadataAccess: true below stack",
            ),
            (
                some(self.notification.as_ref()),
                "notification: not there; systemd is told of readiness, and --metrics knows of links and connections",
            ),
            (
                self.forwards.as_ref().is_some_and(|forwards| !forwards.is_empty()),
                "forwards: unix sockets are not forwarded over SSH; use ssh -L with a published port 22",
            ),
            (
                interfaces.is_some_and(|i| some(i.vpnkit.as_ref())),
                "interfaces.vpnkit: hyperkit is a thing of macOS; use interfaces.qemu or listen",
            ),
            (
                interfaces.is_some_and(|i| some(i.vfkit.as_ref())),
                "interfaces.vfkit: vfkit is a thing of macOS; use interfaces.qemu or listen",
            ),
            (
                interfaces.is_some_and(|i| some(i.stdio.as_ref())),
                "interfaces.stdio: frames come over sockets only; use listen with unix:///PATH and its /connect",
            ),
            (
                stack.is_some_and(|s| s.block_all_outbound == Some(true)),
                "stack.blockAllOutbound: not there; say what is forbidden with --deny",
            ),
        ] {
            if there {
                return Err(why.to_owned());
            }
        }
        if stack.is_some_and(|s| s.vpnkit_macs.as_ref().is_some_and(|macs| !macs.is_empty())) {
            // gvproxy's own example has it, and it harms nobody.
            tracing::debug!("stack.vpnKitUUIDMacAddresses: ignored, there is no vpnkit");
        }
        Ok(())
    }
}

fn parse<T: FromStr<Err: fmt::Display>>(key: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{key}: {text:?}: {error}"))
}

/// gvproxy takes an empty text for none.
fn value<T: FromStr<Err: fmt::Display>>(key: &str, text: Option<String>) -> Result<Option<T>, String> {
    text.filter(|text| !text.is_empty()).map(|text| parse(key, &text)).transpose()
}

fn url(key: &str, text: &str, purpose: Purpose) -> Result<ListenUrl, String> {
    ListenUrl::for_purpose(text, purpose).map_err(|error| format!("{key}: {text:?}: {error}"))
}

fn pairs<V: FromStr<Err: fmt::Display>>(
    key: &str,
    map: Option<BTreeMap<String, String>>,
) -> Result<BTreeMap<Ipv4Addr, V>, String> {
    map.unwrap_or_default().iter().map(|(ip, value)| Ok((parse(key, ip)?, parse(key, value)?))).collect()
}

fn zone(zone: ZoneFile) -> Result<Zone, String> {
    let record = |record: RecordFile| {
        Ok(Record {
            name: record.name.unwrap_or_default(),
            ip: parse("stack.dns.records.ip", &record.ip.unwrap_or_default())?,
            regexp: record.regexp.filter(|text| !text.is_empty()),
        })
    };
    Ok(Zone {
        name: zone.name.unwrap_or_default(),
        records: zone.records.unwrap_or_default().into_iter().map(record).collect::<Result<_, String>>()?,
        default_ip: value("stack.dns.defaultIP", zone.default_ip)?,
    })
}

fn forward(local: &str, remote: &str) -> Result<Forward, String> {
    publish_local(local, remote).map_err(|error| format!("stack.forwards: {local:?}: {remote:?}: {error}"))
}

/// A level of gvproxy's logger as one of ours.
fn level(text: &str) -> Result<&'static str, String> {
    match text.to_lowercase().as_str() {
        "trace" => Ok("trace"),
        "debug" => Ok("debug"),
        "" | "info" => Ok("info"),
        "warn" | "warning" => Ok("warn"),
        "error" | "fatal" | "panic" => Ok("error"),
        _ => Err(format!("log-level: {text:?}: expected trace, debug, info, warning or error")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::control::Local;

    #[test]
    fn gvproxys_own_example_is_read() {
        let settings = read(
            "log-level: info\n\
             listen:\n  - vsock://:1024\n  - unix:///run/gvproxy.sock\n\
             services: unix:///run/services.sock\n\
             stack:\n    mtu: 1500\n    subnet: 192.168.127.0/24\n    gatewayIP: 192.168.127.1\n    \
             deviceIP: 192.168.127.2\n    hostIP: 192.168.127.254\n    gatewayMacAddress: 5a:94:ef:e4:0c:dd\n    \
             dns:\n        - name: containers.internal.\n          records:\n            - name: gateway\n              \
             ip: 192.168.127.1\n            - regexp: ^x\n              ip: 192.168.127.254\n          \
             defaultIP: 10.0.0.1\n    \
             forwards:\n        127.0.0.1:2222: 192.168.127.2:22\n        \"udp::53\": 192.168.127.2:53\n    \
             nat:\n        192.168.127.254: 127.0.0.1\n    gatewayVirtualIPs:\n        - 192.168.127.254\n    \
             dhcpStaticLeases:\n        192.168.127.2: 5a:94:ef:e4:0c:ee\n    ec2MetadataAccess: true\n    \
             vpnKitUUIDMacAddresses:\n        c3d68012-0208-11ea-9fd7-f2189899ab08: 5a:94:ef:e4:0c:ee\n",
        )
        .unwrap();
        let ip = |last| Ipv4Addr::new(192, 168, 127, last);
        assert_eq!(settings.links.len(), 2);
        assert_eq!((settings.mtu, settings.gateway_ip, settings.host_ip), (Some(1500), Some(ip(1)), Some(ip(254))));
        assert_eq!(settings.nat, BTreeMap::from([(ip(254), Ipv4Addr::LOCALHOST)]));
        assert_eq!(settings.static_leases.len(), 1);
        assert_eq!(settings.zones[0].records[1].regexp.as_deref(), Some("^x"));
        assert!(settings.allow_imds);
        let [tcp, udp] = &settings.forwards[..] else { panic!("{:?}", settings.forwards) };
        assert_eq!((tcp.name.as_str(), &tcp.local), ("127.0.0.1:2222", &Local::Tcp(([127, 0, 0, 1], 2222).into())));
        assert_eq!((udp.name.as_str(), udp.local.protocol(), udp.to.port()), (":53", "udp", 53));
    }

    #[test]
    fn nothing_is_fine() {
        for text in ["", "# nothing\n", "stack:\n", "listen:\nstack:\n  mtu:\n", "notification: \"\"\n"] {
            assert_eq!(read(text), Ok(Settings::default()), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, words) in [
            ("listen: []\nlisten-on: x\n", ["listen-on", "line 2"]),
            ("stack:\n  mtu: 1500\n  gatewayIp: 10.0.0.1\n", ["gatewayIp", "line 3"]),
            ("stack:\n  dns:\n    - nam: a\n", ["nam", "line 3"]),
            ("stack:\n  mtu: big\n", ["mtu", "line 2"]),
            ("listen: vsock://:1024\n", ["listen", "expected a sequence"]),
            ("listen:\n  - http://x\n", ["listen: \"http://x\"", "vsock://"]),
            ("services: vsock://:1\n", ["services", "unix:///PATH"]),
            ("stack:\n  subnet: 10.0.0.0\n", ["stack.subnet", "10.0.0.0"]),
            ("stack:\n  gatewayIP: x\n", ["stack.gatewayIP", "\"x\""]),
            ("stack:\n  nat:\n    a: 127.0.0.1\n", ["stack.nat", "\"a\""]),
            ("stack:\n  dhcpStaticLeases:\n    10.0.0.1: xx\n", ["stack.dhcpStaticLeases", "\"xx\""]),
            ("stack:\n  forwards:\n    \":80\": nowhere\n", ["stack.forwards", "nowhere"]),
            ("stack:\n  dns:\n    - defaultIP: x\n", ["stack.dns.defaultIP", "\"x\""]),
            ("log-level: loud\n", ["log-level", "expected trace"]),
            ("ec2-metadata-access: true\n", ["ec2-metadata-access", "ec2MetadataAccess"]),
            ("notification: unix:///x\n", ["notification", "systemd"]),
            ("interfaces:\n  vpnkit: unix:///x\n", ["interfaces.vpnkit", "interfaces.qemu"]),
            ("forwards:\n  - socket: /x\n", ["forwards", "ssh -L"]),
            ("stack:\n  blockAllOutbound: true\n", ["stack.blockAllOutbound", "--deny"]),
            ("listen: [", ["line 2", "node content"]),
        ] {
            let error = read(text).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{text}: {error}");
        }
    }
}
