//! `nitrotap bench e2e`: TAP handler and gateway together, and which of the two costs more.

use super::{
    cases::{Case, Load, measure, report},
    ceiling::{self, Kernels},
    lab::{APP_PORT, Enclave, Gateway, GatewayKind, HOST_ALIAS, Handler, Lab, gvforwarder, gvproxy, version},
    report::{Report, Row, Unit},
    sides::{Side, Split},
    usage::Machine,
    verdict::{GATEWAY, TAP},
};
use crate::{
    cli::bench::{E2eArgs, Peers},
    errors::Error,
};

/// A TAP handler with a gateway.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) handler: Handler,
    pub(crate) gateway: GatewayKind,
}

/// The pair that is ours alone.
pub(super) const OURS: &str = "nitrotap + nitrotap host";

/// The pair that stands in for the Go pair.
pub(super) const STAND_IN: &str = "single-frame loop + gvproxy";

/// The pairs that can be made here, and the versions of what is not ours.
pub(crate) fn pairs(peers: &Peers, proxy: bool) -> Result<(Vec<Pair>, Vec<String>), Error> {
    let pair = |name: &str, frame_loop, gateway: &GatewayKind| Pair {
        name: name.to_owned(),
        handler: Handler::Ours { frame_loop, proxy },
        gateway: gateway.clone(),
    };
    let mut pairs = vec![pair(OURS, "batched", &GatewayKind::Ours)];
    let mut versions = Vec::new();
    let (stock, forwarder) = (gvproxy(peers)?, gvforwarder(peers)?);
    if let Some(program) = stock {
        versions.push(version(&program));
        let stock = GatewayKind::Command(vec![program.to_string_lossy().into_owned()]);
        pairs.push(pair("nitrotap + gvproxy", "batched", &stock));
        pairs.push(pair(STAND_IN, "single", &stock));
        if let Some(program) = forwarder.filter(|_| !proxy) {
            versions.push(version(&program));
            let name = "gvforwarder + gvproxy".to_owned();
            pairs.push(Pair { name, handler: Handler::Forwarder(program), gateway: stock });
        }
    }
    Ok((pairs, versions))
}

/// A pair that runs.
pub(crate) struct Rig {
    pub(crate) name: String,
    pub(crate) mtu: u16,
    /// Ends before its gateway.
    pub(crate) enclave: Enclave,
    pub(crate) gateway: Gateway,
}

impl Rig {
    pub(crate) fn start(lab: &Lab, pair: &Pair, mtu: u16) -> Result<Self, Error> {
        let started = || -> Result<Self, Error> {
            let gateway = lab.gateway(&pair.gateway, mtu)?;
            let enclave = lab.enclave(&pair.handler, &gateway.link, mtu)?;
            Ok(Self { name: pair.name.clone(), mtu, enclave, gateway })
        };
        started().map_err(|e| Error::runtime(format!("cannot start {} at MTU {mtu}: {e}", pair.name)))
    }

    /// The components and the app.
    pub(crate) fn watch(&self) -> Vec<(&'static str, u32)> {
        self.components().into_iter().chain([("app", self.enclave.app_pid)]).collect()
    }

    fn components(&self) -> [(&'static str, u32); 2] {
        [(TAP, self.enclave.handler.pid()), (GATEWAY, self.gateway.child.pid())]
    }

    /// With the app published, and a server of the host at `target`.
    fn ends(&self, server: u32, target: &str) -> Result<Ends, Error> {
        Ok(Ends {
            name: self.name.clone(),
            mtu: self.mtu,
            watch: self.components().to_vec(),
            enclave: self.enclave.namespace.pid(),
            tap: self.enclave.tap(),
            server: (server, target.to_owned()),
            app: (self.enclave.app_pid, self.gateway.expose(APP_PORT)?),
            outside: None,
        })
    }
}

/// Who is measured, as loads see it.
pub(super) struct Ends {
    pub(super) name: String,
    pub(super) mtu: u16,
    /// The components: role and process.
    pub(super) watch: Vec<(&'static str, u32)>,
    /// A process in the enclave's namespace, and the TAP there.
    pub(super) enclave: u32,
    pub(super) tap: &'static str,
    /// On the host, for bulk transfers: its process, and its address as the enclave dials it.
    pub(super) server: (u32, String),
    /// In the enclave, for requests: its process, and its address as clients dial it.
    pub(super) app: (u32, String),
    /// Where the clients of requests are, if not with us.
    pub(super) outside: Option<u32>,
}

pub(crate) fn run(args: &E2eArgs) -> Result<Report, Error> {
    let (settings, since) = (args.common.settings(), Machine::now());
    let split = args.cores.split()?;
    let lab = Lab::split(split.clone())?;
    let server = lab.server(Side::Host, &["tcp://127.0.0.1:0"])?;
    let port = server.addresses.first().and_then(|address| address.rsplit(':').next());
    let port = port.ok_or_else(|| server.child.failed("tells no address"))?;
    let target = format!("tcp://{HOST_ALIAS}:{port}");
    let (pairs, versions) = pairs(&args.peers, false)?;
    let mut notes = vec![
        "bulk: `client` runs in the enclave and `app` on the host; requests: the other way round".to_owned(),
        "the single-frame loop with gvproxy stands in for the Go pair (gvforwarder or nitriding with gvproxy)"
            .to_owned(),
    ];
    if pairs.len() == 1 {
        notes.push("gvproxy was not measured: none was found on PATH, or --no-peers was given".to_owned());
    }
    let (mut rigs, mut kernels) = (Vec::new(), Vec::new());
    for mtu in &args.mtu {
        for pair in &pairs {
            match Rig::start(&lab, pair, *mtu) {
                Ok(rig) => rigs.push(rig),
                // A program that is not ours must not cost the figures of the others.
                Err(error) if matches!(pair.handler, Handler::Forwarder(_)) => notes.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        match Kernels::start(&lab, *mtu) {
            Ok(pair) => kernels.push(pair),
            // Old kernels lack what it needs.
            Err(error) => notes.push(error.to_string()),
        }
    }
    if !kernels.is_empty() {
        notes.push(ceiling::note());
    }
    let (sink, app) = (unix(&lab, "sink"), unix(&lab, "app"));
    let stream = (lab.server(Side::Host, &[&sink])?, lab.server(Side::Enclave, &[&app])?);
    let mut cases = raw(args, (stream.0.child.pid(), &sink), (stream.1.child.pid(), &app));
    for rig in &rigs {
        cases.extend(self::cases(&rig.ends(server.child.pid(), &target)?, args));
    }
    for pair in &kernels {
        cases.extend(self::cases(&pair.ends(), args));
    }
    let rows = measure(&lab, &cases, settings)?;
    notes.extend(ceiling::shares(&rows, OURS));
    notes.extend(shares(&rows));
    notes.extend(waits(&rows));
    notes.extend(split.as_ref().map(Split::note));
    Ok(Report { split_cores: split, ..report("e2e", settings, rows, since, versions, notes) })
}

fn unix(lab: &Lab, what: &str) -> String {
    format!("unix://{}", lab.path(what).display())
}

/// What the stream between the two moves without frames, given a server of the host's side and one of the enclave's.
fn raw(args: &E2eArgs, sink: (u32, &str), app: (u32, &str)) -> Vec<Case> {
    let case = |work: &str, connections, unit, load, app| Case {
        subject: RAW.to_owned(),
        work: work.to_owned(),
        mtu: None,
        connections,
        unit,
        load,
        watch: vec![("app", app)],
        frames: None,
    };
    let load = Load { side: Side::Enclave, ..Load::new(["bulk", "--size", "65536", "--to", sink.1]) };
    let mut cases = vec![case("bytes in writes of 64 KiB", 1, Unit::Gigabits, load, sink.0)];
    for n in &args.connections {
        let load = Load::new(["requests", "--connections", &n.to_string(), "--to", app.1]);
        cases.push(case(REQUESTS, *n, Unit::Requests, load, app.0));
    }
    cases
}

/// The subject that is no pair.
pub(super) const RAW: &str = "the stream alone";
const REQUESTS: &str = "hello-world requests";

/// How much of the raw stream each pair uses at most.
fn shares(rows: &[Row]) -> Vec<String> {
    let raw = rows.iter().find(|row| row.subject == RAW && row.unit == Unit::Gigabits);
    let Some(raw) = raw.map(|row| row.rate.median) else { return Vec::new() };
    let mut shares: Vec<(&str, Option<u16>, f64)> = Vec::new();
    for row in rows.iter().filter(|row| row.unit == Unit::Gigabits && row.subject != RAW && raw > 0.0) {
        let share = row.rate.median / raw;
        match shares.iter_mut().find(|(subject, mtu, _)| (*subject, *mtu) == (&row.subject, row.mtu_bytes)) {
            Some((_, _, most)) => *most = most.max(share),
            None => shares.push((&row.subject, row.mtu_bytes, share)),
        }
    }
    let text = |(subject, mtu, share): &(&str, Option<u16>, f64)| {
        let mtu = mtu.map_or(String::new(), |mtu| format!(" at MTU {mtu}"));
        format!("{subject}{mtu} moves at most {:.0} % of what the stream alone does", share * 100.0)
    };
    shares.iter().map(text).collect()
}

/// How much longer a request takes than on the raw stream where nobody waits for others, by MTU.
fn waits(rows: &[Row]) -> Vec<String> {
    let alone = |subject: &'static str| {
        rows.iter().filter(move |row| row.subject == subject && row.unit == Unit::Requests && row.connections == 1)
    };
    let p50 = |row: &Row| row.latency_us.map(|latency| latency.p50).filter(|p50| *p50 > 0.0);
    let Some(raw) = alone(RAW).find_map(p50) else { return Vec::new() };
    let text = |row: &Row| {
        let mtu = row.mtu_bytes.map_or(String::new(), |mtu| format!(" and MTU {mtu}"));
        let times = p50(row)? / raw;
        Some(format!("p50 of {OURS} at 1 connection{mtu} is {times:.1} times that of the stream alone"))
    };
    alone(OURS).filter_map(text).collect()
}

fn cases(ends: &Ends, args: &E2eArgs) -> Vec<Case> {
    let case = |work: &str, connections: u32, unit: Unit, load: Load, app: u32| Case {
        subject: ends.name.clone(),
        work: work.to_owned(),
        mtu: Some(ends.mtu),
        connections,
        unit,
        load,
        watch: ends.watch.iter().copied().chain([("app", app)]).collect(),
        frames: Some((ends.enclave, ends.tap)),
    };
    let mut cases = Vec::new();
    let (server, target) = &ends.server;
    for n in &args.streams {
        let count = n.to_string();
        for (work, pull) in [("enclave to host", false), ("host to enclave", true)] {
            let args = ["bulk", "--streams", &count, "--to", target];
            let load = Load::new(args.into_iter().chain(pull.then_some("--pull"))).inside(ends.enclave);
            cases.push(case(work, *n, Unit::Gigabits, load, *server));
        }
    }
    let (app, published) = &ends.app;
    for n in &args.connections {
        let load = Load::new(["requests", "--connections", &n.to_string(), "--to", published]);
        let load = Load { inside: ends.outside, ..load };
        cases.push(case(REQUESTS, *n, Unit::Requests, load, *app));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{report::Percentiles, verdict::tests::row};

    #[test]
    fn the_share_of_the_stream_is_that_of_the_best_row() {
        let rows = [
            row(RAW, "bytes", Unit::Gigabits, 50.0, &[]),
            row("ours", "enclave to host", Unit::Gigabits, 10.0, &[]),
            row("ours", "host to enclave", Unit::Gigabits, 20.0, &[]),
            row("ours", "requests", Unit::Requests, 20_000.0, &[]),
        ];
        assert_eq!(shares(&rows), ["ours at MTU 1500 moves at most 40 % of what the stream alone does"]);
        assert!(shares(&rows[1..]).is_empty());
    }

    #[test]
    fn the_wait_is_told_beside_that_of_the_stream_at_one_connection() {
        let row = |subject, connections, p50: f64| Row {
            connections,
            latency_us: Some(Percentiles { p50, p90: p50, p99: p50, p999: p50, max: p50 }),
            ..row(subject, REQUESTS, Unit::Requests, 1.0, &[])
        };
        let rows = [
            row(RAW, 1, 10.0),
            row(RAW, 64, 500.0),
            Row { mtu_bytes: Some(65520), ..row(OURS, 1, 42.0) },
            row(OURS, 1, 35.0),
            row(OURS, 64, 900.0),
            row("stock", 1, 99.0),
        ];
        let said = [
            "p50 of nitrotap + nitrotap host at 1 connection and MTU 65520 is 4.2 times that of the stream alone",
            "p50 of nitrotap + nitrotap host at 1 connection and MTU 1500 is 3.5 times that of the stream alone",
        ];
        assert_eq!(waits(&rows), said);
        assert!(waits(&rows[1..]).is_empty());
    }
}
