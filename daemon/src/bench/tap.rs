//! `nitrotap bench tap`: the TAP handler alone, between the kernel's TCP and a null host.

use super::{
    cases::{Case, Load, measure, report},
    children::{Child, PATIENCE},
    lab::{Enclave, Handler, Lab},
    report::{Report, Unit},
    sides::Side,
    usage::Machine,
    verdict::TAP,
};
use crate::{cli::bench::TapArgs, errors::Error};
use std::path::PathBuf;

/// Role of what stands behind the TAP handler.
const NULL_HOST: &str = "null host";
/// Any address and port will do: the null host takes them all.
const TARGET: &str = "tcp://192.168.127.1:9";

/// A TAP handler at one MTU.
struct Rig {
    frame_loop: &'static str,
    mtu: u16,
    enclave: Enclave,
    host: Child,
}

pub(crate) fn run(args: &TapArgs) -> Result<Report, Error> {
    let (settings, since) = (args.common.settings(), Machine::now());
    let lab = Lab::new()?;
    let mut rigs = Vec::new();
    for mtu in &args.mtu {
        for frame_loop in ["batched", "single"] {
            let (host, link) = null_host(&lab, *mtu)?;
            let enclave = lab.enclave(&Handler::Ours { frame_loop, proxy: false }, &link, *mtu)?;
            rigs.push(Rig { frame_loop, mtu: *mtu, enclave, host });
        }
    }
    let cases: Vec<Case> = rigs.iter().flat_map(|rig| cases(rig, &args.streams)).collect();
    let rows = measure(&lab, &cases, settings)?;
    let notes = vec![
        "`client` is the kernel's TCP in the enclave; frames are those of the TAP, both ways".to_owned(),
        "the TAP handler has a thread for each direction, so that it can use two cores".to_owned(),
        "`single` moves one frame per system call: the stand-in for the loops of gvforwarder and nitriding".to_owned(),
    ];
    Ok(report("tap", settings, rows, since, Vec::new(), notes))
}

/// A null host and its socket.
pub(crate) fn null_host(lab: &Lab, mtu: u16) -> Result<(Child, PathBuf), Error> {
    let link = lab.path("net");
    let url = format!("unix://{}", link.display());
    let mut host =
        lab.start(Side::Host, NULL_HOST, lab.agent(["null-host", "--listen", &url, "--mtu", &mtu.to_string()]))?;
    host.expect("ready", PATIENCE)?;
    Ok((host, link))
}

fn cases(rig: &Rig, streams: &[u32]) -> Vec<Case> {
    let case = |work: &str, connections: u32, unit: Unit, args: &[&str]| Case {
        subject: rig.frame_loop.to_owned(),
        work: work.to_owned(),
        mtu: Some(rig.mtu),
        connections,
        unit,
        load: Load::new(args.iter().copied().chain(["--to", TARGET])).inside(rig.enclave.namespace.pid()),
        watch: vec![(TAP, rig.enclave.handler.pid()), (NULL_HOST, rig.host.pid())],
        frames: Some((rig.enclave.namespace.pid(), rig.enclave.tap())),
    };
    let mut cases = Vec::new();
    for n in streams {
        let count = n.to_string();
        cases.push(case("enclave to host", *n, Unit::Gigabits, &["bulk", "--streams", &count]));
        cases.push(case("host to enclave", *n, Unit::Gigabits, &["bulk", "--streams", &count, "--pull"]));
    }
    for n in [1, 64] {
        cases.push(case("ping-pong of 100 B", n, Unit::Requests, &["ping", "--connections", &n.to_string()]));
    }
    cases
}
