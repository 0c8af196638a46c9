//! `nitrotap bench proxy`: the reverse proxy alone.

use super::{
    cases::{Case, Load, measure, report},
    children::Child,
    lab::{Lab, until},
    report::{Report, Unit},
    sides::Side,
    usage::Machine,
    verdict::PROXY,
};
use crate::{cli::bench::ProxyArgs, errors::Error};
use std::net::{SocketAddr, TcpListener, TcpStream};

pub(crate) fn run(args: &ProxyArgs) -> Result<Report, Error> {
    let (settings, since) = (args.common.settings(), Machine::now());
    let lab = Lab::new()?;
    let server = lab.server(Side::Enclave, &["tcp://127.0.0.1:0"])?;
    let upstream = server.addresses.first().cloned().unwrap_or_default();
    let (proxy, address) = start(&lab, &upstream)?;
    let connections = args.connections();
    let mut cases = Vec::new();
    for n in connections {
        let case = |subject: &str, to: &str, proxy: Option<u32>| Case {
            subject: subject.to_owned(),
            work: "hello-world requests".to_owned(),
            mtu: None,
            connections: n,
            unit: Unit::Requests,
            load: Load::new(["requests", "--connections", &n.to_string(), "--to", to]),
            watch: proxy.map(|pid| (PROXY, pid)).into_iter().chain([("app", server.child.pid())]).collect(),
            frames: None,
        };
        cases.push(case("direct", &upstream, None));
        cases.push(case("nitrotap proxy", &address, Some(proxy.pid())));
    }
    let rows = measure(&lab, &cases, settings)?;
    let mut notes = vec!["client, proxy and app share this machine's cores".to_owned()];
    notes.extend(share_with_own_cores(&rows));
    Ok(report("proxy", settings, rows, since, Vec::new(), notes))
}

/// A reverse proxy in front of `upstream` (`tcp://ADDR:PORT`), and its address in the same form.
pub(crate) fn start(lab: &Lab, upstream: &str) -> Result<(Child, String), Error> {
    let address: SocketAddr = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(|e| Error::runtime(format!("cannot find a free port: {e}")))?;
    let upstream = upstream.replacen("tcp://", "http://", 1);
    let args = ["proxy", "--listen", &address.to_string(), "--upstream", &upstream];
    let mut proxy = lab.start(Side::Enclave, "reverse proxy", lab.ours(args))?;
    until(&mut proxy, || TcpStream::connect(address).is_ok())?;
    Ok((proxy, format!("tcp://{address}")))
}

/// What the proxy would do on a core of its own beside an app on one, at the largest number of connections.
fn share_with_own_cores(rows: &[super::report::Row]) -> Option<String> {
    let row = rows.iter().rev().find(|row| row.role(PROXY).is_some())?;
    let (proxy, app) = (row.role(PROXY)?.cost.median, row.role("app")?.cost.median);
    if proxy <= 0.0 || app <= 0.0 {
        return None;
    }
    Some(format!(
        "at {} connections the proxy spends {proxy:.1} us per request and the app {app:.1} us: on cores of their own the \
         proxy reaches {:.0} % of what the app alone does",
        row.connections,
        (app / proxy).min(1.0) * 100.0
    ))
}
