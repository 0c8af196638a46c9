//! `nitrotap bench host`: gateways alone, in front of a guest made of frames.

use super::{
    cases::{Case, Load, measure, report},
    lab::{Gateway, GatewayKind, HOST_ALIAS, Lab, Server, gvproxy, version},
    report::{Report, Unit},
    sides::Side,
    usage::Machine,
    verdict::GATEWAY,
};
use crate::{cli::bench::HostArgs, errors::Error};
use std::path::Path;

/// A gateway at one MTU.
struct Rig {
    name: String,
    mtu: u16,
    link: String,
    pid: Option<u32>,
    _gateway: Option<Gateway>,
}

pub(crate) fn run(args: &HostArgs) -> Result<Report, Error> {
    let (settings, since) = (args.common.settings(), Machine::now());
    let lab = Lab::new()?;
    let server = lab.server(Side::Host, &["tcp://127.0.0.1:0"])?;
    let mut peers = Vec::new();
    let mut rigs = Vec::new();
    for mtu in &args.mtu {
        if let Some(host) = &args.host {
            let (name, link) = (host.to_string(), host.to_string());
            rigs.push(Rig { name, mtu: *mtu, link, pid: args.gateway_pid, _gateway: None });
            continue;
        }
        for (name, kind) in kinds(args, &mut peers)? {
            let gateway = lab.gateway(&kind, *mtu)?;
            let link = format!("unix://{}", gateway.link.display());
            rigs.push(Rig { name, mtu: *mtu, link, pid: Some(gateway.child.pid()), _gateway: Some(gateway) });
        }
    }
    peers.dedup();
    let mut cases = Vec::new();
    for rig in &rigs {
        cases.extend(self::cases(rig, &server, &args.streams)?);
    }
    let rows = measure(&lab, &cases, settings)?;
    let notes = vec!["`client` is the guest that makes frames, `app` the server behind the gateway".to_owned()];
    Ok(report("host", settings, rows, since, peers, notes))
}

fn kinds(args: &HostArgs, peers: &mut Vec<String>) -> Result<Vec<(String, GatewayKind)>, Error> {
    let mut kinds = vec![("nitrotap host".to_owned(), GatewayKind::Ours)];
    if let Some(command) = &args.gateway_command {
        let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        let program = words.first().ok_or_else(|| Error::usage("--gateway-command is empty; give a gvproxy"))?;
        let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
        peers.push(version(Path::new(program)));
        kinds.push((name, GatewayKind::Command(words)));
    } else if let Some(program) = gvproxy(&args.peers)? {
        peers.push(version(&program));
        kinds.push(("gvproxy".to_owned(), GatewayKind::Command(vec![program.to_string_lossy().into_owned()])));
    }
    Ok(kinds)
}

fn cases(rig: &Rig, server: &Server, streams: &[u32]) -> Result<Vec<Case>, Error> {
    let port = server.addresses.first().and_then(|address| address.rsplit(':').next());
    let port = port.ok_or_else(|| server.child.failed("tells no address"))?;
    let (target, mtu) = (format!("{HOST_ALIAS}:{port}"), rig.mtu.to_string());
    let mut watch: Vec<(&'static str, u32)> = rig.pid.map(|pid| (GATEWAY, pid)).into_iter().collect();
    watch.push(("app", server.child.pid()));
    let case = |work: &str, connections: u32, unit: Unit, kind: &str| Case {
        subject: rig.name.clone(),
        work: work.to_owned(),
        mtu: Some(rig.mtu),
        connections,
        unit,
        load: Load::new([
            "generate",
            "--work",
            kind,
            "--flows",
            &connections.to_string(),
            "--to",
            &rig.link,
            "--target",
            &target,
            "--mtu",
            &mtu,
        ]),
        watch: watch.clone(),
        frames: None,
    };
    let mut cases = Vec::new();
    for n in streams {
        cases.push(case("enclave to host", *n, Unit::Gigabits, "push"));
        cases.push(case("host to enclave", *n, Unit::Gigabits, "pull"));
    }
    for n in [1, 64] {
        cases.push(case("requests of 100 B", n, Unit::Requests, "echo"));
    }
    cases.push(case("new connections", 8, Unit::Connections, "connect"));
    Ok(cases)
}
