//! Cases, measured in turns.
//!
//! Each case is a load generator to start and processes to watch. Bound: one runs at a time.

use super::{
    agent::outcome::Outcome,
    children::PATIENCE,
    lab::Lab,
    machine::{Facts, STEAL_MAX},
    options::Settings,
    progress::Progress,
    report::{Percentiles, Report, RoleTime, Row, SCHEMA, Unit},
    sides::Side,
    stats::{Spread, median, plan},
    usage::{self, Machine},
    verdict::verdicts,
};
use crate::errors::Error;
use std::{process::Command, time::Duration};

/// What is measured in one row.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) subject: String,
    pub(crate) work: String,
    pub(crate) mtu: Option<u16>,
    pub(crate) connections: u32,
    pub(crate) unit: Unit,
    /// The load generator, but for how long it runs.
    pub(crate) load: Load,
    /// Whose processor time counts, by role; the load generator's own comes by itself.
    pub(crate) watch: Vec<(&'static str, u32)>,
    /// A process in the network namespace whose TAP counts frames, and the TAP's name.
    pub(crate) frames: Option<(u32, &'static str)>,
}

/// How the load generator is started.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Of the hidden subcommand.
    pub(crate) args: Vec<String>,
    /// In whose namespaces, if not ours.
    pub(crate) inside: Option<u32>,
    pub(crate) side: Side,
}

impl Load {
    /// Of the host, in our namespaces.
    pub(crate) fn new<A: Into<String>>(args: impl IntoIterator<Item = A>) -> Self {
        Self { args: args.into_iter().map(Into::into).collect(), inside: None, side: Side::Host }
    }

    /// In the enclave whose namespaces those of `pid` are.
    pub(crate) fn inside(self, pid: u32) -> Self {
        Self { inside: Some(pid), side: Side::Enclave, ..self }
    }
}

/// One repetition.
struct Sample {
    outcome: Outcome,
    /// By role, in seconds.
    processors: Vec<(&'static str, f64)>,
    frames: Option<u64>,
}

/// Measures every case `settings.repeat` times.
pub(crate) fn measure(lab: &Lab, cases: &[Case], settings: Settings) -> Result<Vec<Row>, Error> {
    // Subjects that do the same work take turns.
    let mut works: Vec<(Option<u16>, &str, u32)> = Vec::new();
    let groups: Vec<usize> = cases
        .iter()
        .map(|case| {
            let work = (case.mtu, case.work.as_str(), case.connections);
            works.iter().position(|known| *known == work).unwrap_or_else(|| {
                works.push(work);
                works.len() - 1
            })
        })
        .collect();
    let plan = plan(&groups, settings.repeat);
    let mut progress = Progress::start(plan.len());
    let mut samples: Vec<Vec<Sample>> = cases.iter().map(|_| Vec::new()).collect();
    for index in plan {
        let case = &cases[index];
        let mtu = case.mtu.map_or(String::new(), |mtu| format!(", MTU {mtu}"));
        progress.about(&format!("{}: {} x {}{mtu}", case.subject, case.connections, case.work));
        samples[index].push(once(lab, case, settings).map_err(|error| {
            Error::runtime(format!("{} x {} of {}{mtu} failed: {error}", case.connections, case.work, case.subject))
        })?);
        progress.step();
    }
    Ok(cases.iter().zip(&samples).filter_map(|(case, samples)| row(case, samples)).collect())
}

/// The whole report around the rows.
pub(crate) fn report(
    bench: &'static str,
    settings: Settings,
    rows: Vec<Row>,
    since: Machine,
    peers: Vec<String>,
    mut notes: Vec<String>,
) -> Report {
    let machine = Facts::gather(Machine::now().steal_since(since), peers);
    if machine.steal_share > STEAL_MAX {
        let percent = machine.steal_share * 100.0;
        notes.push(format!("WARNING: the hypervisor gave {percent:.0} % of the time to others; repeat this run"));
    }
    let errors: u64 = rows.iter().map(|row| row.errors).sum();
    if errors > 0 {
        notes.push(format!("WARNING: {errors} operations failed; see the field errors"));
    }
    for row in rows.iter().filter(|row| row.rate.median <= 0.0) {
        notes.push(format!("WARNING: {} x {} of {} moved nothing", row.connections, row.work, row.subject));
    }
    Report {
        schema: SCHEMA,
        bench,
        machine,
        repetitions: settings.repeat,
        warm_up_seconds: settings.warm_up_ms as f64 / 1000.0,
        measured_seconds: settings.measure_ms as f64 / 1000.0,
        verdicts: verdicts(&rows),
        rows,
        notes,
        split_cores: None,
    }
}

fn once(lab: &Lab, case: &Case, settings: Settings) -> Result<Sample, Error> {
    let mut command: Command = lab.agent(&case.load.args);
    command.args(["--warm-up-ms", &settings.warm_up_ms.to_string()]);
    command.args(["--measure-ms", &settings.measure_ms.to_string()]);
    if let Some(pid) = case.load.inside {
        command = lab.inside(pid, &command);
    }
    let mut load = lab.start(case.load.side, "load generator", command)?;
    let mut watch = vec![("client", load.pid())];
    watch.extend(&case.watch);
    let look = || -> Result<Vec<f64>, Error> {
        watch
            .iter()
            .map(|(role, pid)| {
                usage::seconds(*pid).ok_or_else(|| Error::runtime(format!("the {role} (process {pid}) has ended")))
            })
            .collect()
    };
    let frames = || case.frames.and_then(|(pid, tap)| usage::packets(pid, tap));
    let window = Duration::from_millis(settings.warm_up_ms + settings.measure_ms) + PATIENCE;
    load.expect("begin", window)?;
    let (before, frames_before) = (look()?, frames());
    load.expect("stop", window)?;
    let (after, frames_after) = (look()?, frames());
    let end = load.expect("end", PATIENCE)?;
    let outcome: Outcome =
        serde_json::from_str(&end).map_err(|e| Error::runtime(format!("the load generator is not understood: {e}")))?;
    let spent = after.iter().zip(&before).map(|(after, before)| (after - before).max(0.0));
    Ok(Sample {
        frames: frames_after.zip(frames_before).map(|(after, before)| after.saturating_sub(before)),
        outcome,
        processors: watch.iter().map(|(role, _)| *role).zip(spent).collect(),
    })
}

/// Units done, and seconds per unit as a factor of what is told: gigabytes, or single operations in microseconds.
fn units(unit: Unit, outcome: &Outcome) -> (f64, f64) {
    match unit {
        Unit::Gigabits => (outcome.bytes as f64 / 1e9, 1.0),
        Unit::Requests | Unit::Connections => (outcome.operations as f64, 1e6),
    }
}

fn row(case: &Case, samples: &[Sample]) -> Option<Row> {
    let rate = |sample: &Sample| {
        let (units, _) = units(case.unit, &sample.outcome);
        let per_second = units / sample.outcome.seconds.max(f64::MIN_POSITIVE);
        if case.unit == Unit::Gigabits { per_second * 8.0 } else { per_second }
    };
    let spread = |of: &dyn Fn(&Sample) -> Option<f64>| -> Option<Spread> {
        Spread::of(&samples.iter().filter_map(of).collect::<Vec<_>>())
    };
    let per_second =
        |count: u64, sample: &Sample| (count > 0).then(|| count as f64 / sample.outcome.seconds.max(f64::MIN_POSITIVE));
    let first = samples.first()?;
    let processors = first
        .processors
        .iter()
        .enumerate()
        .filter_map(|(index, (role, _))| {
            let cost = spread(&|sample| {
                let (units, factor) = units(case.unit, &sample.outcome);
                (units > 0.0).then(|| sample.processors[index].1 / units * factor)
            })?;
            let busy: Vec<f64> =
                samples.iter().map(|sample| sample.processors[index].1 / sample.outcome.seconds).collect();
            Some(RoleTime { role: (*role).to_owned(), cost, busy_cores: median(&busy)? })
        })
        .collect();
    Some(Row {
        subject: case.subject.clone(),
        work: case.work.clone(),
        mtu_bytes: case.mtu,
        connections: case.connections,
        unit: case.unit,
        rate: spread(&|sample| Some(rate(sample)))?,
        frames_per_second: spread(&|sample| per_second(sample.frames.unwrap_or(sample.outcome.frames), sample)),
        calls_per_second: spread(&|sample| per_second(sample.outcome.calls, sample)),
        latency_us: percentiles(samples),
        errors: samples.iter().map(|sample| sample.outcome.errors).sum(),
        processors,
    })
}

fn percentiles(samples: &[Sample]) -> Option<Percentiles> {
    use super::agent::outcome::Latency;
    let of = |which: fn(&Latency) -> f64| {
        median(&samples.iter().filter_map(|sample| sample.outcome.latency_us.as_ref().map(which)).collect::<Vec<_>>())
    };
    Some(Percentiles {
        p50: of(|latency| latency.p50)?,
        p90: of(|latency| latency.p90)?,
        p99: of(|latency| latency.p99)?,
        p999: of(|latency| latency.p999)?,
        max: of(|latency| latency.max)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_costs_come_from_the_window_alone() {
        let case = Case {
            subject: "ours".to_owned(),
            work: "send".to_owned(),
            mtu: Some(1500),
            connections: 1,
            unit: Unit::Gigabits,
            load: Load::new(["bulk"]),
            watch: vec![("gateway", 1)],
            frames: None,
        };
        let sample = |bytes: u64, cpu: f64| Sample {
            outcome: Outcome { seconds: 2.0, bytes, calls: 10, ..Outcome::default() },
            processors: vec![("gateway", cpu)],
            frames: Some(1000),
        };
        let row =
            row(&case, &[sample(1_000_000_000, 1.0), sample(2_000_000_000, 1.0), sample(3_000_000_000, 1.5)]).unwrap();
        assert!((row.rate.median - 8.0).abs() < 1e-9 && (row.rate.min - 4.0).abs() < 1e-9);
        let gateway = row.role("gateway").unwrap();
        assert!((gateway.cost.median - 0.5).abs() < 1e-9, "{gateway:?}");
        assert!((gateway.busy_cores - 0.5).abs() < 1e-9, "{gateway:?}");
        assert!((row.frames_per_second.unwrap().median - 500.0).abs() < 1e-9);
        assert!((row.calls_per_second.unwrap().median - 5.0).abs() < 1e-9);
        assert_eq!((row.latency_us, row.errors), (None, 0));
    }
}
