//! The parts whose costs are fitted, and a set of parameters as a file that says what its figures mean.

use super::{Measured, MeasuredError};
use crate::{
    measure::Outcome,
    params::{ForwarderCosts, Op, Params, ProxyCosts},
    scenario::Scenario,
};
use std::fmt::Write as _;

/// A part with its own processor time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Client,
    Gvproxy,
    Host,
    Forwarder,
    Proxy,
    App,
}

impl Part {
    pub(super) const ALL: [Self; 6] =
        [Self::Client, Self::Gvproxy, Self::Host, Self::Forwarder, Self::Proxy, Self::App];

    /// Measured processor time per request in microseconds; `None` where it takes no part.
    ///
    /// nitrotap's threads and its reverse proxy are one process: the proxy's share is what it has more with one than
    /// without, at the same number of connections.
    pub(super) fn measured(
        self,
        measured: &Measured,
        scenario: &str,
        connections: u32,
    ) -> Result<Option<f64>, MeasuredError> {
        let row = measured.row(scenario, connections)?;
        let is_one_of = |scenarios: [Scenario; 2]| scenarios.iter().any(|known| known.name() == scenario);
        let is_ours = is_one_of([Scenario::NitrotapNrpHost, Scenario::NitrotapHost]);
        let bare = if is_ours { Scenario::NitrotapNrpHost } else { Scenario::NitrotapNrp };
        let bare = measured.row(bare.name(), connections)?.nitrotap_us;
        let has_proxy = is_one_of([Scenario::Nitrotap, Scenario::NitrotapHost]);
        Ok(match self {
            Self::Client => Some(row.client_us),
            Self::Gvproxy => (!is_ours).then_some(row.gateway_us),
            Self::Host => is_ours.then_some(row.gateway_us),
            Self::Forwarder => Some(bare),
            Self::Proxy => has_proxy.then_some(row.nitrotap_us - bare),
            Self::App => Some(row.app_us),
        })
    }

    /// The same of a simulated run.
    pub(super) fn simulated(self, outcome: &Outcome) -> f64 {
        let name = match self {
            Self::Client => "client",
            Self::Gvproxy => "gvproxy",
            Self::Host => "gateway",
            Self::Forwarder => "forwarder",
            Self::Proxy => "proxy",
            Self::App => "app",
        };
        outcome.demand_us.iter().find(|(known, _)| *known == name).map_or(0.0, |(_, us)| *us)
    }

    /// Multiplies what work and wakes cost.
    pub(super) fn scale(self, params: &mut Params, work: f64, wakes: f64) {
        let (ops, woken): (Vec<&mut Op>, Vec<&mut u64>) = match self {
            Self::Client => {
                let costs = &mut params.client;
                (vec![&mut costs.read, &mut costs.write], vec![&mut costs.wake_ns])
            }
            Self::App => {
                let costs = &mut params.app;
                (vec![&mut costs.read, &mut costs.write], vec![&mut costs.wake_ns])
            }
            Self::Gvproxy => {
                let costs = &mut params.gvproxy;
                let ops = vec![
                    &mut costs.relay_read,
                    &mut costs.relay_write,
                    &mut costs.stack_read,
                    &mut costs.stack_write,
                    &mut costs.stream_read,
                    &mut costs.frame_in,
                    &mut costs.frame_out,
                ];
                (ops, vec![&mut costs.wake_ns])
            }
            Self::Host => {
                let costs = &mut params.host;
                let ops = vec![
                    &mut costs.link_read,
                    &mut costs.link_write,
                    &mut costs.frame_in,
                    &mut costs.frame_out,
                    &mut costs.world_read,
                    &mut costs.world_write,
                ];
                (ops, vec![&mut costs.wake_ns])
            }
            Self::Forwarder => {
                let ((mut ops, wake), (more, other)) =
                    (forwarder(&mut params.nitrotap), forwarder(&mut params.nitriding));
                ops.extend(more);
                (ops, vec![wake, other])
            }
            Self::Proxy => {
                let ((mut ops, wake), (more, other)) = (proxy(&mut params.proxy), proxy(&mut params.go_proxy));
                ops.extend(more);
                (ops, vec![wake, other])
            }
        };
        for op in ops {
            op.ns = times(op.ns, work);
            op.ps_per_byte = times(op.ps_per_byte, work);
        }
        for wake in woken {
            *wake = times(*wake, wakes);
        }
    }
}

fn forwarder(costs: &mut ForwarderCosts) -> (Vec<&mut Op>, &mut u64) {
    let ops = vec![
        &mut costs.tap_read,
        &mut costs.stream_write,
        &mut costs.stream_read,
        &mut costs.tap_write,
        &mut costs.segment,
        &mut costs.join,
    ];
    (ops, &mut costs.wake_ns)
}

fn proxy(costs: &mut ProxyCosts) -> (Vec<&mut Op>, &mut u64) {
    let ops =
        vec![&mut costs.client_read, &mut costs.client_write, &mut costs.upstream_read, &mut costs.upstream_write];
    (ops, &mut costs.wake_ns)
}

/// What is there does not vanish, or it could never grow again.
fn times(figure: u64, factor: f64) -> u64 {
    ((figure as f64 * factor).round() as u64).max(figure.min(1))
}

/// What the sections of a parameter file are about.
const SECTIONS: [(&str, &str); 9] = [
    (
        "machines",
        "Cores and wires. Times in ns, shares in 1/1000, sizes in bytes. No wire takes part where one_box = true.",
    ),
    ("client", "The load generator: ns per call and per wake of a thread that slept."),
    ("app", "The app, with the kernel's TCP below it."),
    ("gvproxy", "gvproxy: goroutines on `procs` processors; ps_per_byte in picoseconds."),
    (
        "host",
        "nitrotap's gateway on the host: one thread. The ratios between calls are derived from those of others; all of it is \
         where nothing was measured with it.",
    ),
    (
        "nitrotap",
        "nitrotap's two frame threads: a read of the TAP per frame, a write of the stream per batch, and back. Cutting and \
         joining are derived from counted instructions, and scaled with the rest.",
    ),
    ("nitriding", "nitriding's frame loop: one read and one write per frame. Derived, not measured here."),
    ("proxy", "nitrotap's reverse proxy: workers with connections of their own."),
    ("go_proxy", "nitriding's reverse proxy (Go's httputil). Derived, not measured here."),
];

/// The text of a parameter file with these figures, comments, and `head` as comment on top.
#[must_use]
pub fn render(params: &Params, head: &str) -> String {
    let mut out = String::new();
    for line in head.lines() {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(out, "# {line}");
    }
    let Ok(toml::Value::Table(sections)) = toml::Value::try_from(params) else {
        return out;
    };
    if let Some(provenance) = sections.get("provenance") {
        let _ = writeln!(out, "provenance = {provenance}");
    }
    for (name, about) in SECTIONS {
        let Some(toml::Value::Table(section)) = sections.get(name) else { continue };
        let _ = writeln!(out, "\n# {about}\n[{name}]");
        // Plain figures before calls and wires.
        for table in [false, true] {
            for (key, value) in section.iter().filter(|(_, value)| value.is_table() == table) {
                let _ = match value.as_table() {
                    Some(call) if call.get("ps_per_byte").is_some_and(|ps| ps.as_integer() == Some(0)) => {
                        writeln!(out, "{key} = {{ ns = {} }}", call["ns"])
                    }
                    Some(_) | None => writeln!(out, "{key} = {value}"),
                };
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rendered_file_gives_the_same_parameters() {
        for name in ["lab", "c5"] {
            let params = Params::load(name).unwrap();
            let text = render(&params, "head\nof two lines");
            assert!(text.starts_with("# head\n# of two lines\nprovenance = "), "{text}");
            assert_eq!(toml::from_str::<Params>(&text).unwrap(), params);
        }
    }

    #[test]
    fn what_is_derived_keeps_its_ratio() {
        let mut params = Params::load("lab").unwrap();
        let before = params.clone();
        Part::Forwarder.scale(&mut params, 2.0, 3.0);
        Part::Proxy.scale(&mut params, 0.5, 1.0);
        assert_eq!(params.nitrotap.tap_read.ns, before.nitrotap.tap_read.ns * 2);
        assert_eq!(params.nitriding.tap_read.ns, before.nitriding.tap_read.ns * 2);
        assert_eq!(params.nitriding.wake_ns, before.nitriding.wake_ns * 3);
        assert_eq!(params.go_proxy.wake_ns, before.go_proxy.wake_ns);
        assert_eq!((times(0, 3.0), times(1, 0.1)), (0, 1));
    }
}
