//! `nitrotap bench figure`: requests per second over connections, for every way that a request can take.

use super::{
    cases::{Case, Load, measure, report},
    e2e::{OURS, Rig, STAND_IN, pairs},
    lab::{APP_PORT, Handler, Lab, PROXY_PORT},
    report::{Report, Row, Unit},
    sides::{Side, Split},
    usage::Machine,
    verdict::{GATEWAY, TAP},
};
use crate::{cli::bench::FigureArgs, errors::Error};

/// One line of the figure.
struct Way {
    name: String,
    to: String,
    watch: Vec<(&'static str, u32)>,
}

/// Behind the name of a pair that is asked through its reverse proxy.
const PROXIED: &str = ", reverse proxy";

/// From so many connections on, the programs do not wait for each other.
const BUSY: u32 = 64;

pub(crate) fn run(args: &FigureArgs) -> Result<Report, Error> {
    let (settings, since) = (args.common.settings(), Machine::now());
    let split = args.cores.split()?;
    let lab = Lab::split(split.clone())?;
    let unix = format!("unix://{}", lab.path("app").display());
    let server = lab.server(Side::Enclave, &["tcp://127.0.0.1:0", &unix])?;
    let mut ways = Vec::new();
    for (name, to) in ["direct (loopback)", "direct on the stream (unix)"].into_iter().zip(&server.addresses) {
        ways.push(Way { name: name.to_owned(), to: to.clone(), watch: vec![("app", server.child.pid())] });
    }
    let mut notes = vec![
        format!(
            "client, gateway, TAP handler, proxy and app share {}; a unix socket stands in for the vsock",
            if split.is_some() { "the cores of their sides" } else { "this machine's cores" }
        ),
        "the reverse proxy is nitrotap's in every pair; its time is in that of the TAP handler: they are one process"
            .to_owned(),
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
            let (name, to) = (format!("{}{PROXIED}", rig.name), rig.gateway.expose(PROXY_PORT)?);
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
    notes.extend(rows.iter().filter_map(|row| proxy_share(row, &rows)));
    notes.extend(rows.iter().filter_map(|row| times_the_stand_in(row, &rows)));
    notes.extend(split.as_ref().map(Split::note));
    Ok(Report { split_cores: split, ..report("figure", settings, rows, since, versions, notes) })
}

/// What is left of the requests with the reverse proxy in the way: here, and if everyone had a core.
fn proxy_share(proxied: &Row, rows: &[Row]) -> Option<String> {
    let name = proxied.subject.strip_suffix(PROXIED).filter(|_| proxied.connections >= BUSY)?;
    let plain = rows.iter().find(|row| row.subject == name && row.connections == proxied.connections)?;
    let cost = |row: &Row, role: &str| row.role(role).map(|time| time.cost.median);
    let tap = cost(plain, TAP)?;
    // One process; what it spends more is the proxy's.
    let proxy = cost(proxied, TAP)? - tap;
    let dearest = |row: &Row| -> Option<f64> {
        let others = ["client", GATEWAY, "app"].into_iter().map(|role| cost(row, role));
        others.collect::<Option<Vec<f64>>>().map(|costs| costs.into_iter().fold(tap, f64::max))
    };
    let (without, with) = (dearest(plain)?, dearest(proxied)?.max(proxy));
    if plain.rate.median <= 0.0 || with <= 0.0 {
        return None;
    }
    Some(format!(
        "{name} at {} connections: the reverse proxy keeps {:.0} % of the requests/s; with one core for each of client, \
         gateway, TAP handler, proxy and app it would keep {:.0} %",
        proxied.connections,
        proxied.rate.median / plain.rate.median * 100.0,
        (without / with).min(1.0) * 100.0
    ))
}

/// How many times the requests of the stand-in for the Go pair `ours` answers, both with the reverse proxy or both without.
fn times_the_stand_in(ours: &Row, rows: &[Row]) -> Option<String> {
    let way = ours.subject.strip_prefix(OURS).filter(|way| ours.connections >= BUSY && ["", PROXIED].contains(way))?;
    let stand_in = format!("{STAND_IN}{way}");
    let theirs = rows.iter().find(|row| row.subject == stand_in && row.connections == ours.connections)?;
    if theirs.rate.median <= 0.0 {
        return None;
    }
    let with = if way.is_empty() { "without" } else { "with" };
    Some(format!(
        "{OURS} at {} connections, {with} reverse proxy: {:.2} times the requests/s of {STAND_IN}",
        ours.connections,
        ours.rate.median / theirs.rate.median
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::verdict::tests::row;

    #[test]
    fn the_proxys_share_is_told_for_here_and_for_cores_of_their_own() {
        let costs = |tap| [("client", 4.0, 0.5), (TAP, tap, 0.5), (GATEWAY, 10.0, 0.5), ("app", 2.0, 0.1)];
        let name = format!("ours{PROXIED}");
        let mut rows = [
            row("ours", "requests", Unit::Requests, 100_000.0, &costs(5.0)),
            row(&name, "requests", Unit::Requests, 60_000.0, &costs(17.5)),
        ];
        assert_eq!(proxy_share(&rows[1], &rows), None);
        for row in &mut rows {
            row.connections = 64;
        }
        let text = proxy_share(&rows[1], &rows).unwrap();
        assert!(text.starts_with("ours at 64 connections: the reverse proxy keeps 60 % of the requests/s; "), "{text}");
        assert!(text.ends_with("it would keep 80 %"), "{text}");
        assert_eq!(proxy_share(&rows[0], &rows), None);
    }

    #[test]
    fn what_ours_answers_is_told_in_times_the_stand_in_from_many_connections_on() {
        let mut rows = Vec::new();
        for (connections, subject, rate, proxied) in [
            (1, OURS, 90.0, 80.0),
            (1, STAND_IN, 30.0, 20.0),
            (64, OURS, 90.0, 80.0),
            (64, STAND_IN, 30.0, 32.0),
            (64, "nitrotap + gvproxy", 45.0, 40.0),
            (256, OURS, 99.0, 88.0),
            (256, STAND_IN, 40.0, 40.0),
        ] {
            for (subject, rate) in [(subject.to_owned(), rate), (format!("{subject}{PROXIED}"), proxied)] {
                rows.push(Row { connections, ..row(&subject, "requests", Unit::Requests, rate, &[]) });
            }
        }
        let told: Vec<_> = rows.iter().filter_map(|row| times_the_stand_in(row, &rows)).collect();
        insta::assert_snapshot!("ours_in_times_the_stand_in", told.join("\n"));
        let alone = &rows[4..6];
        assert!(alone.iter().all(|row| times_the_stand_in(row, alone).is_none()));
    }
}
