//! `nitrotap-sim run`: one experiment, looked at closely.

use super::{Failure, ParamsFlags, print, replay::replay, seed, write};
use nitrotap_sim::{
    load::Direction,
    measure::{Experiment, Load, Outcome},
    scenario::Scenario,
    soak::Plan,
};
use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf, str::FromStr};

/// Run one experiment and show what it took
///
/// Prints requests per second, latency, the processor time of each process per request, frames and dials per request, and
/// the hash of the trace. The same build, parameters, scenario, connections and seed give the same hash on any 64-bit machine.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
    nitrotap-sim run --scenario nitrotap --connections 64\n  \
    nitrotap-sim run --scenario nitriding --load open:2000 --connections 32\n  \
    nitrotap-sim run --scenario nitrotap-nrp --connections 1 --trace - | less\n  \
    nitrotap-sim run --scenario nitrotap --seed 0x2a --faults --trace trace.txt\n  \
    nitrotap-sim run --scenario nitrotap --connections 8 --hash")]
pub(crate) struct Run {
    /// Which way requests take
    #[arg(long, value_name = "NAME")]
    scenario: Scenario,

    /// Clients, a connection each
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,

    #[command(flatten)]
    params: ParamsFlags,

    /// Seed of every random draw
    #[arg(long, default_value = "1", value_parser = seed)]
    seed: u64,

    /// What clients do: ask again at once, ask at a rate (requests per second), or move megabytes into or out of the
    /// enclave over each connection, to the app itself
    #[arg(long, value_name = "closed|open:RATE|bulk-in:MB|bulk-out:MB", default_value = "closed")]
    load: LoadFlag,

    /// Write every record of the trace as text, for - to standard output in place of the summary
    #[arg(long, value_name = "FILE|-")]
    trace: Option<PathBuf>,

    /// Take the loads and faults of the soak's plan for this seed instead of an experiment
    #[arg(long, conflicts_with_all = ["connections", "load", "json", "params", "calibrate"])]
    faults: bool,

    /// Print only the trace's hash and its number of records
    #[arg(long)]
    hash: bool,

    /// Fail unless the trace has this hash
    #[arg(long, value_name = "HEX", value_parser = hexadecimal)]
    expect_hash: Option<u64>,

    /// Write the outcome as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Run {
    pub(crate) fn run(self) -> Result<(), Failure> {
        if self.faults {
            return self.run_plan();
        }
        let params = self.params.load()?;
        let mut experiment = Experiment::new(self.scenario, self.connections, params, self.seed);
        experiment.load = self.load.0;
        let keep = self.trace.is_some();
        let outcome = experiment.run_with(|world| {
            if keep {
                world.trace().keep_all();
            }
        });
        let on_stdout = self.trace.as_ref().is_some_and(|path| path.as_os_str() == "-");
        if let Some(path) = &self.trace {
            let mut text = String::new();
            for record in &outcome.tail {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{record}");
            }
            if on_stdout { print(&text)? } else { write(path, &text)? }
        }
        let (hash, count) = outcome.hash;
        if self.hash {
            print(&format!("{hash:016x} {count}\n"))?;
        } else if !on_stdout {
            print(&self.summary(&experiment, &outcome))?;
        }
        if let Some(path) = &self.json {
            write(path, &self.json(&experiment, &outcome))?;
        }
        let name = format!("{} at {} connections, seed {}", self.scenario, self.connections, self.seed);
        if let Some(first) = outcome.breaks.first() {
            return Err(Failure::Runtime(format!("{name}: {first}")));
        }
        match self.expect_hash {
            Some(expected) if expected != hash => Err(Failure::Runtime(format!(
                "{name}: the trace has hash {hash:016x} and {count} records, expected was hash {expected:016x}"
            ))),
            Some(_) | None => Ok(()),
        }
    }

    fn run_plan(&self) -> Result<(), Failure> {
        if !self.scenario.has_tap() {
            return Err(Failure::Usage(format!(
                "{} has neither TAP nor gateway: there is no plan of faults for it",
                self.scenario
            )));
        }
        // Not every load of a plan for one gateway is one for the other.
        let same_host = Plan::from_seed(self.seed).scenario.is_native_host() == self.scenario.is_native_host();
        let seed = if same_host { self.seed } else { Plan::other_host(self.seed) };
        let plan = Plan { scenario: self.scenario, ..Plan::from_seed(seed) };
        replay(&plan, self.trace.as_deref(), self.hash, self.expect_hash)
    }

    fn summary(&self, experiment: &Experiment, outcome: &Outcome) -> String {
        let point = &outcome.point;
        let mut rows = vec![
            ("scenario", format!("{} at {} connections, seed {}", self.scenario, self.connections, self.seed)),
            (
                "parameters",
                format!("{}, hash {}: all figures are simulated", self.params.name(), experiment.params.hash()),
            ),
        ];
        let latency = format!("p50 {:.0} us, p99 {:.0} us, mean {:.0} us", point.p50_us, point.p99_us, outcome.mean_us);
        let bulk = matches!(experiment.load, Load::Bulk { .. });
        if bulk {
            rows.push(("Gbit/s", format!("{:.3}", outcome.gbit_per_s)));
            let ended = outcome.mean_us > 0.0;
            rows.push(("transfers", if ended { latency } else { "none ended in the measured time".to_owned() }));
        } else {
            rows.push(("requests/s", format!("{:.0}", point.requests_per_s)));
            rows.push(("latency", latency));
            rows.push(("dials per request", format!("{:.4}", outcome.dials)));
        }
        rows.push(("failed", point.errors.to_string()));
        let [out, into] = outcome.frames;
        let work: Vec<String> = outcome.demand_us.iter().map(|(name, us)| format!("{name} {us:.2} us")).collect();
        rows.push((if bulk { "CPU per MB" } else { "CPU per request" }, work.join(", ")));
        let frames = format!("{into:.2} into the enclave, {out:.2} out");
        rows.push((if bulk { "frames per MB" } else { "frames per request" }, frames));
        rows.push(("trace", format!("hash {:016x}, {} records", outcome.hash.0, outcome.hash.1)));
        rows.iter().map(|(name, value)| format!("{name:<18}  {value}\n")).collect()
    }

    fn json(&self, experiment: &Experiment, outcome: &Outcome) -> String {
        let (hash, count) = outcome.hash;
        let cpu: BTreeMap<_, _> = outcome.demand_us.iter().copied().collect();
        let value = serde_json::json!({
            "source": "simulated",
            "point": outcome.point,
            "parameters": self.params.name(),
            "parameters_hash": experiment.params.hash(),
            "seed": self.seed,
            "mean_us": outcome.mean_us,
            "gbit_per_s": outcome.gbit_per_s,
            // What the counts below are per.
            "per": if matches!(experiment.load, Load::Bulk { .. }) { "megabyte" } else { "request" },
            "cpu_us": cpu,
            "frames_out": outcome.frames[0],
            "frames_in": outcome.frames[1],
            "dials": outcome.dials,
            "trace_hash": format!("{hash:016x}"),
            "trace_records": count,
            "breaks": outcome.breaks,
        });
        format!("{value:#}\n")
    }
}

/// [`Load`] as it is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LoadFlag(Load);

impl FromStr for LoadFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, amount) = text.split_once(':').unwrap_or((text, ""));
        let number = || match amount.parse::<u32>() {
            Ok(number) if number > 0 => Ok(number),
            Ok(_) | Err(_) => Err(format!("{kind} needs a number above 0 behind the colon, such as {kind}:100")),
        };
        let bulk = |direction| Ok(Load::Bulk { direction, bytes: u64::from(number()?) * 1_000_000 });
        let load = match kind {
            "closed" if amount.is_empty() => Ok(Load::Closed),
            "open" => Ok(Load::Open { rate_per_s: number()? }),
            "bulk-in" => bulk(Direction::In),
            "bulk-out" => bulk(Direction::Out),
            _ => Err("there are closed, open:RATE, bulk-in:MB and bulk-out:MB".to_owned()),
        };
        load.map(Self)
    }
}

fn hexadecimal(text: &str) -> Result<u64, std::num::ParseIntError> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_read_and_mistakes_explained() {
        let load = |text: &str| text.parse::<LoadFlag>().map(|flag| flag.0);
        assert_eq!(load("closed"), Ok(Load::Closed));
        assert_eq!(load("open:250"), Ok(Load::Open { rate_per_s: 250 }));
        assert_eq!(load("bulk-out:3"), Ok(Load::Bulk { direction: Direction::Out, bytes: 3_000_000 }));
        assert!(load("open").unwrap_err().contains("open:100"));
        assert!(load("bulk-in:0").unwrap_err().contains("above 0"));
        assert!(load("burst").unwrap_err().contains("there are"));
    }
}
