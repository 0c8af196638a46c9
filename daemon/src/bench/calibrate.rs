//! `nitrotap bench calibrate`: this machine's costs, as the simulator reads them.
//!
//! The shipped file was fitted to runs on one machine, which are shipped too. The same runs here tell by what factor each
//! program is dearer or cheaper on this machine, in processor time per request at [`CONNECTIONS`] connections; its costs
//! are the shipped ones times that factor. What no run tells (wires, scheduling, the ratio of a program's calls) stays.

mod costs;

use super::{
    cases::{Case, Load, measure},
    e2e::{Rig, pairs},
    lab::{APP_PORT, Lab, PROXY_PORT},
    machine::Facts,
    report::{Row, Unit},
    sides::Side,
    usage::Machine,
    verdict::{GATEWAY, TAP},
};
use crate::{cli::bench::CalibrateArgs, errors::Error};
use costs::{Factor, Factors, Reference};
use std::{path::Path, process::ExitCode};

/// Enough that no program sleeps much, so that its time is that of its work.
pub(super) const CONNECTIONS: u32 = 64;
const MTU: u16 = 1500;

/// What is measured, as the shipped measurements call it.
const DIRECT: &str = "direct";
const NO_PROXY: &str = "nitrotap-nrp";
const PROXIED: &str = "nitrotap";
/// With a gateway of ours; only where there is no stock one.
const OURS: &str = "nitrotap-nrp through nitrotap host";

pub(crate) fn run(args: &CalibrateArgs) -> Result<ExitCode, Error> {
    let (settings, since) = (args.timing.settings(), Machine::now());
    let lab = Lab::new()?;
    let server = lab.server(Side::Enclave, &["tcp://127.0.0.1:0"])?;
    let (pairs, versions) = pairs(&args.peers, true)?;
    // The shipped runs went through a stock gateway.
    let stock = pairs.iter().find(|pair| pair.name == "nitrotap + gvproxy");
    let rig = pairs.first().map(|ours| Rig::start(&lab, stock.unwrap_or(ours), MTU)).transpose()?;
    let rig = rig.ok_or_else(|| Error::runtime("there is nothing to measure"))?;
    let case = |name: &str, to: &str, watch: Vec<(&'static str, u32)>| Case {
        subject: name.to_owned(),
        work: "hello-world requests".to_owned(),
        mtu: None,
        connections: CONNECTIONS,
        unit: Unit::Requests,
        load: Load::new(["requests", "--connections", &CONNECTIONS.to_string(), "--to", to]),
        watch,
        frames: None,
    };
    let direct = server.addresses.first().cloned().unwrap_or_default();
    let cases = [
        case(DIRECT, &direct, vec![("app", server.child.pid())]),
        case(if stock.is_some() { NO_PROXY } else { OURS }, &rig.gateway.expose(APP_PORT)?, rig.watch()),
        case(PROXIED, &rig.gateway.expose(PROXY_PORT)?, rig.watch()),
    ];
    let rows = measure(&lab, &cases, settings)?;
    let facts = Facts::gather(Machine::now().steal_since(since), versions);
    let text = costs::text(&factors(&rows, stock.is_some())?, &facts);
    if args.out == Path::new("-") {
        super::print(&text)?
    } else {
        super::write(&args.out, &text)?
    }
    Ok(ExitCode::SUCCESS)
}

/// How much dearer each program is here than where the shipped costs come from.
fn factors(rows: &[Row], stock: bool) -> Result<Factors, Error> {
    let spent = |subject: &str, role: &str| {
        let row = rows.iter().find(|row| row.subject == subject)?;
        row.role(role).map(|time| time.cost.median).filter(|cost| *cost > 0.0)
    };
    let nothing = || Error::runtime("a program used no processor time that shows; measure longer, with --seconds");
    let no_proxy = if stock { NO_PROXY } else { OURS };
    let reference = Reference::shipped(CONNECTIONS)
        .ok_or_else(|| Error::runtime("the shipped measurements have no row to compare with"))?;
    let tap = spent(no_proxy, TAP).ok_or_else(nothing)?;
    let with_proxy = spent(PROXIED, TAP).ok_or_else(nothing)?;
    let gateway = spent(no_proxy, GATEWAY).filter(|_| stock);
    // A noisy run may find the proxy free.
    let proxy = (with_proxy - tap).max(tap * 0.1);
    Ok(Factors {
        client: Factor::measured(spent(DIRECT, "client").ok_or_else(nothing)?, reference.client),
        app: Factor::measured(spent(DIRECT, "app").ok_or_else(nothing)?, reference.app),
        nitrotap: Factor::measured(tap, reference.nitrotap),
        proxy: Factor::measured(proxy, reference.proxy),
        gvproxy: gateway.map_or(Factor::Kept("no gvproxy was found"), |us| Factor::measured(us, reference.gvproxy)),
    })
}
