//! What a gateway made of the kernel's own TCP would do: that TCP at both ends of a stream, with next to nothing between.
//!
//! Two namespaces, each with a TAP with offload and a process that moves frames between it and the stream, one for each
//! call on the TAP ([`super::agent`]'s `pipe`). No gateway ends TCP, nothing is looked into: what is left is what any
//! gateway made of the kernel's TCP has to pay, unless it writes several small frames to the stream at once, as ours do.

use super::{
    children::{Child, PATIENCE},
    e2e::Ends,
    lab::{APP_PORT, GUEST, Lab, Server, TAP},
    report::{Row, Unit},
    sides::Side,
    verdict,
};
use crate::errors::Error;

/// The subject, as rows name it.
pub(super) const KERNEL: &str = "kernel TCP at both ends";

/// The address of the far end.
const FAR: &str = "192.168.127.1";

/// Two kernels at one MTU. Processes end before their namespaces.
#[derive(Debug)]
pub(super) struct Kernels {
    mtu: u16,
    app: Server,
    server: Server,
    near: Child,
    far: Child,
    enclave: Child,
    outside: Child,
}

impl Kernels {
    /// The error says that it is about this subject: it may be left out.
    pub(super) fn start(lab: &Lab, mtu: u16) -> Result<Self, Error> {
        let started = || -> Result<Self, Error> {
            let (outside, enclave) = (lab.namespace()?, lab.namespace()?);
            let url = format!("unix://{}", lab.path("pipe").display());
            let pipe = |side: Side, name: &str, namespace: &Child, how: &str| -> Result<Child, Error> {
                let role = lab.agent(["pipe", how, &url, "--tap", TAP, "--mtu", &mtu.to_string()]);
                let mut child = lab.start(side, name, lab.inside(namespace.pid(), &role))?;
                child.expect("ready", PATIENCE)?;
                Ok(child)
            };
            let far = pipe(Side::Host, verdict::FAR_END, &outside, "--listen")?;
            let near = pipe(Side::Enclave, verdict::TAP, &enclave, "--connect")?;
            let any = format!("tcp://0.0.0.0:{APP_PORT}");
            let server = lab.server_inside(Side::Host, outside.pid(), &[&any])?;
            let app = lab.server_inside(Side::Enclave, enclave.pid(), &[&any])?;
            Ok(Self { mtu, app, server, near, far, enclave, outside })
        };
        started().map_err(|e| Error::runtime(format!("{KERNEL} at MTU {mtu} was not measured: {e}")))
    }

    pub(super) fn ends(&self) -> Ends {
        Ends {
            name: KERNEL.to_owned(),
            mtu: self.mtu,
            watch: vec![(verdict::TAP, self.near.pid()), (verdict::FAR_END, self.far.pid())],
            enclave: self.enclave.pid(),
            tap: TAP,
            server: (self.server.child.pid(), format!("tcp://{FAR}:{APP_PORT}")),
            app: (self.app.child.pid(), format!("tcp://{GUEST}:{APP_PORT}")),
            outside: Some(self.outside.pid()),
        }
    }
}

/// What a reader has to know of the subject.
pub(super) fn note() -> String {
    format!(
        "{KERNEL}: no gateway, but a namespace for the host too, with its side's client or app in it, and a stream between \
         two TAPs with offload; one frame per call on a TAP: what a gateway made of the kernel's own TCP would do"
    )
}

/// What share of it `subject` reaches, one line for each MTU.
pub(super) fn shares(rows: &[Row], subject: &str) -> Vec<String> {
    let mut mtus: Vec<_> = rows.iter().filter(|row| row.subject == KERNEL).map(|row| row.mtu_bytes).collect();
    mtus.sort_unstable();
    mtus.dedup();
    mtus.into_iter().filter_map(|mtu| share(rows, subject, mtu)).collect()
}

fn share(rows: &[Row], subject: &str, mtu: Option<u16>) -> Option<String> {
    let mut works: Vec<(&str, Vec<(u32, f64)>)> = Vec::new();
    let bulk = |row: &&Row| row.unit == Unit::Gigabits && row.mtu_bytes == mtu;
    for kernel in rows.iter().filter(bulk).filter(|row| row.subject == KERNEL && row.rate.median > 0.0) {
        let same = |row: &&Row| (row.work.as_str(), row.connections) == (kernel.work.as_str(), kernel.connections);
        let Some(ours) = rows.iter().filter(bulk).filter(same).find(|row| row.subject == subject) else { continue };
        let share = (kernel.connections, ours.rate.median / kernel.rate.median * 100.0);
        match works.iter_mut().find(|(work, _)| *work == kernel.work) {
            Some((_, shares)) => shares.push(share),
            None => works.push((&kernel.work, vec![share])),
        }
    }
    let list = |all: Vec<String>| all.join(" / ");
    let streams = list(works.first()?.1.iter().map(|(n, _)| n.to_string()).collect());
    let works = works.iter().map(|(work, shares)| {
        format!("{work} {} %", list(shares.iter().map(|(_, share)| format!("{share:.0}")).collect()))
    });
    let works = works.collect::<Vec<_>>().join(", ");
    let mtu = mtu.map_or(String::new(), |mtu| format!(" at MTU {mtu}"));
    Some(format!("{subject}{mtu}, of what {KERNEL} does: {works} (streams: {streams})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::verdict::tests::row;

    #[test]
    fn the_share_of_the_ceiling_is_told_by_direction_and_streams() {
        let mut rows = Vec::new();
        for (mtu, streams, subject, out, back) in [
            (1500, 1, KERNEL, 10.0, 20.0),
            (1500, 1, "ours", 4.0, 10.0),
            (1500, 8, KERNEL, 10.0, 16.0),
            (1500, 8, "ours", 5.0, 12.0),
            (9000, 1, KERNEL, 10.0, 10.0),
            (9000, 1, "ours", 9.0, 11.0),
            (9000, 8, "ours", 9.0, 9.0),
        ] {
            for (work, rate) in [("enclave to host", out), ("host to enclave", back)] {
                let row = row(subject, work, Unit::Gigabits, rate, &[]);
                rows.push(Row { mtu_bytes: Some(mtu), connections: streams, ..row });
            }
        }
        rows.push(row(KERNEL, "requests", Unit::Requests, 10.0, &[]));
        insta::assert_snapshot!("the_share_of_the_ceiling", shares(&rows, "ours").join("\n"));
        assert!(shares(&rows[2..4], "ours").is_empty());
    }
}
