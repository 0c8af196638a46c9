//! `nitrotap bench figure`: requests per second over connections, for every way that a request can take.

use super::{
    cases::{Case, Load, measure, report},
    e2e::{Rig, pairs},
    lab::{APP_PORT, Handler, Lab, PROXY_PORT},
    report::{Report, Unit},
    usage::Machine,
};
use crate::{cli::bench::FigureArgs, errors::Error};

/// One line of the figure.
struct Way {
    name: String,
    to: String,
    watch: Vec<(&'static str, u32)>,
}

pub(crate) fn run(args: &FigureArgs) -> Result<Report, Error> {
    let (settings, since) = (args.common.settings(), Machine::now());
    let lab = Lab::new()?;
    let unix = format!("unix://{}", lab.path("app").display());
    let server = lab.server(&["tcp://127.0.0.1:0", &unix])?;
    let mut ways = Vec::new();
    for (name, to) in ["direct (loopback)", "direct on the stream (unix)"].into_iter().zip(&server.addresses) {
        ways.push(Way { name: name.to_owned(), to: to.clone(), watch: vec![("app", server.child.pid())] });
    }
    let mut notes = vec![
        "client, gateway, TAP handler, proxy and app share this machine's cores; a unix socket stands in for the vsock"
            .to_owned(),
        "with the reverse proxy, its time is in that of the TAP handler: they are one process".to_owned(),
    ];
    // One enclave serves both, with and without the proxy.
    let (pairs, versions) = pairs(&args.peers, true)?;
    let (plain, _) = self::pairs(&args.peers, false)?;
    let forwarders = plain.into_iter().filter(|pair| matches!(pair.handler, Handler::Forwarder(_)));
    let mut rigs = Vec::new();
    for pair in pairs.into_iter().chain(forwarders) {
        let proxied = matches!(pair.handler, Handler::Ours { .. });
        match Rig::start(&lab, &pair, args.mtu) {
            Ok(rig) => rigs.push((rig, proxied)),
            Err(error) if !proxied => notes.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    for (rig, proxied) in &rigs {
        ways.push(Way { name: rig.name.clone(), to: rig.gateway.expose(APP_PORT)?, watch: rig.watch() });
        if *proxied {
            let (name, to) = (format!("{}, reverse proxy", rig.name), rig.gateway.expose(PROXY_PORT)?);
            ways.push(Way { name, to, watch: rig.watch() });
        }
    }
    let connections = args.connections();
    let mut cases = Vec::new();
    for way in &ways {
        for n in &connections {
            cases.push(Case {
                subject: way.name.clone(),
                work: "hello-world requests".to_owned(),
                mtu: None,
                connections: *n,
                unit: Unit::Requests,
                load: Load::new(["requests", "--connections", &n.to_string(), "--to", &way.to]),
                watch: way.watch.clone(),
                frames: None,
            });
        }
    }
    let rows = measure(&lab, &cases, settings)?;
    Ok(report("figure", settings, rows, since, versions, notes))
}
