//! The simulator's cost file with other figures.
//!
//! A function of text. The shipped file is the form: every key comes back once, times and bytes scaled where a factor is
//! known, and a comment on each group says which.

use crate::bench::machine::{Facts, STEAL_MAX};
use std::fmt::Write;

/// The form, and the costs of the machine that it was fitted on.
const SHIPPED: &str = include_str!("../../../../sim/params/lab.toml");
/// The measurements that it was fitted to, by `tests/bench/closed_loop.sh`.
const MEASURED: &str = include_str!("../../../../sim/params/lab.tsv");

/// Processor time per request of the shipped measurements, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Reference {
    pub(super) client: f64,
    pub(super) app: f64,
    pub(super) gvproxy: f64,
    pub(super) nitrotap: f64,
    pub(super) proxy: f64,
}

impl Reference {
    /// At so many connections; `None` if they were not measured.
    pub(super) fn shipped(connections: u32) -> Option<Self> {
        // Behind path and connections: requests/s, p50, p99, then microseconds of client, gateway, nitrotap and app.
        let row = |path: &str| -> Option<Vec<f64>> {
            let line = MEASURED.lines().find(|line| line.starts_with(&format!("{path}\t{connections}\t")))?;
            line.split('\t').skip(5).map(|field| field.parse().ok()).collect()
        };
        let (direct, no_proxy, proxied) = (row("direct")?, row("nitrotap-nrp")?, row("nitrotap")?);
        Some(Self {
            client: *direct.first()?,
            app: *direct.get(3)?,
            gvproxy: *no_proxy.get(1)?,
            nitrotap: *no_proxy.get(2)?,
            proxy: proxied.get(2)? - no_proxy.get(2)?,
        })
    }
}

/// What becomes of a group's costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Factor {
    /// Times this: microseconds per request here, and there.
    Measured { here: f64, there: f64 },
    /// As they are, for this reason.
    Kept(&'static str),
}

impl Factor {
    pub(super) const fn measured(here: f64, there: f64) -> Self {
        Self::Measured { here, there }
    }

    fn value(self) -> f64 {
        match self {
            Self::Measured { here, there } if there > 0.0 => here / there,
            Self::Measured { .. } | Self::Kept(_) => 1.0,
        }
    }

    fn comment(self) -> String {
        match self {
            Self::Measured { here, there } => format!(
                "Measured: {here:.2} us of processor time per request, where the shipped costs come from {there:.2} us; all \
                 scaled by {:.3}.",
                self.value()
            ),
            Self::Kept(why) => format!("Kept as shipped, not measured here: {why}."),
        }
    }
}

/// Of every program that can be measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Factors {
    pub(super) client: Factor,
    pub(super) app: Factor,
    pub(super) gvproxy: Factor,
    pub(super) nitrotap: Factor,
    pub(super) proxy: Factor,
}

/// The whole file.
pub(super) fn text(factors: &Factors, facts: &Facts) -> String {
    let origin = format!(
        "nitrotap {} bench calibrate; {}, {} cores, {} {}{}",
        facts.nitrotap,
        facts.processor,
        facts.cores,
        facts.kernel,
        facts.architecture,
        facts.peers.iter().map(|peer| format!(", {peer}")).collect::<String>()
    );
    // A basic string of TOML.
    let origin: String = origin.chars().filter(|c| !c.is_control() && *c != '"' && *c != '\\').collect();
    let mut out = format!(
        "# What things cost on one machine, for nitrotap-sim --calibrate. Written by:\nprovenance = \"{origin}\"\n"
    );
    if facts.steal_share > STEAL_MAX {
        let _ =
            writeln!(out, "# WARNING: the hypervisor gave {:.0} % of the time to others.", facts.steal_share * 100.0);
    }
    let mut group = "";
    for line in SHIPPED.lines() {
        if line.starts_with('#') || line.starts_with("provenance") || line.is_empty() {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            group = name;
            let _ = write!(out, "\n# {}\n{line}\n", comment(group, factors));
            continue;
        }
        out.push_str(&changed(group, line, factors, facts.cores));
        out.push('\n');
    }
    out
}

fn comment(group: &str, factors: &Factors) -> String {
    match group {
        "machines" => {
            "Cores and the stream's buffer as they are here; the rest is kept as shipped: no run of programs shows \
                       wires, scheduling and spread by themselves."
                .to_owned()
        }
        "host" => format!(
            "Derived as the shipped costs are: calls on a stream as [nitrotap], on sockets as [app]. {}",
            factors.nitrotap.comment()
        ),
        "nitriding" => format!("Derived: as much dearer than [nitrotap] as shipped. {}", factors.nitrotap.comment()),
        "go_proxy" => Factor::Kept("no Go reverse proxy is part of a bench").comment(),
        "client" => factors.client.comment(),
        "app" => factors.app.comment(),
        "gvproxy" => factors.gvproxy.comment(),
        "nitrotap" => factors.nitrotap.comment(),
        "proxy" => factors.proxy.comment(),
        _ => Factor::Kept("unknown to this version").comment(),
    }
}

fn changed(group: &str, line: &str, factors: &Factors, cores: usize) -> String {
    let key = line.split(' ').next().unwrap_or_default();
    let factor = match (group, key) {
        ("machines", "client_cores" | "host_cores" | "enclave_cores") => return format!("{key} = {cores}"),
        ("machines", "buf_alloc") => {
            let here = std::fs::read_to_string("/proc/sys/net/core/rmem_default").unwrap_or_default();
            let here = here.trim().parse::<u32>().map_or_else(|_| line.to_owned(), |bytes| format!("{key} = {bytes}"));
            return here;
        }
        ("machines", _) => return line.to_owned(),
        ("client", _) => factors.client,
        ("host", "world_read" | "world_write") | ("app", _) => factors.app,
        ("gvproxy", _) => factors.gvproxy,
        ("host" | "nitriding" | "nitrotap", _) => factors.nitrotap,
        ("proxy", _) => factors.proxy,
        (_, _) => Factor::Kept(""),
    };
    scaled(line, factor.value())
}

/// `line` with every time and every time per byte multiplied.
fn scaled(line: &str, factor: f64) -> String {
    let mut out = String::new();
    let mut key = "";
    for word in line.split_inclusive(' ') {
        let bare = word.trim_end_matches([' ', ',']);
        match bare.parse::<u64>() {
            Ok(number) if key.ends_with("ns") || key == "ps_per_byte" => {
                let _ = write!(out, "{:.0}{}", number as f64 * factor, &word[bare.len()..]);
            }
            Ok(_) | Err(_) => {
                if bare != "=" {
                    key = bare;
                }
                out.push_str(word);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            nitrotap: "0.1.0".to_owned(),
            kernel: "Linux 6.1".to_owned(),
            architecture: "x86_64".to_owned(),
            processor: "A \"quoted\" \\ name".to_owned(),
            cores: 4,
            steal_share: 0.0,
            peers: vec![],
        }
    }

    fn factors(by: f64) -> Factors {
        let twice = Factor::measured(by, 1.0);
        Factors { client: twice, app: twice, gvproxy: Factor::Kept("none"), nitrotap: twice, proxy: twice }
    }

    #[test]
    fn times_are_scaled_and_nothing_else() {
        assert_eq!(scaled("read = { ns = 100, ps_per_byte = 7 }", 2.5), "read = { ns = 250, ps_per_byte = 18 }");
        assert_eq!(scaled("wake_ns = 100 # why 3", 2.0), "wake_ns = 200 # why 3");
        assert_eq!(scaled("threads = 2", 2.0), "threads = 2");
        assert_eq!(scaled("shared = false", 2.0), "shared = false");
    }

    #[test]
    fn every_key_of_the_shipped_file_comes_back_in_its_group() {
        let keys = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
            lines.map(|line| line.split(" = ").next().unwrap().to_owned()).collect()
        };
        let text = text(&factors(2.0), &facts());
        assert_eq!(keys(&text), keys(SHIPPED));
        assert!(
            text.contains("provenance = \"nitrotap 0.1.0 bench calibrate; A quoted  name, 4 cores, Linux 6.1 x86_64\"")
        );
        assert!(text.contains("client_cores = 4\n"));
    }

    #[test]
    fn a_factor_of_one_changes_no_cost() {
        let text = text(&factors(1.0), &facts());
        let costs = |text: &str| -> Vec<String> {
            let (_, programs) = text.split_once("[client]").unwrap();
            programs.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(str::to_owned).collect()
        };
        assert_eq!(costs(&text), costs(SHIPPED));
    }

    #[test]
    fn the_shipped_measurements_are_found() {
        let reference = Reference::shipped(super::super::CONNECTIONS).unwrap();
        assert!(reference.proxy > 0.0 && reference.client > 0.0 && reference.gvproxy > reference.nitrotap);
        assert_eq!(Reference::shipped(3), None);
    }
}
