//! What is known of the set-ups must come out of the model: ratios between scenarios, and the laws of queueing.
//!
//! Figures are of the shipped `c5` parameters, one seed, all points of [`CONNECTIONS`] computed once for the whole file.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use nitrotap_sim::{
    figure::run_all,
    measure::{Experiment, Outcome},
    model::{Station, bounds},
    params::Params,
    scenario::Scenario::{
        self, Docker, Enclave, Nitriding, NitridingIdle2, NitridingIdle2Host, NitridingNrp, Nitrotap, NitrotapNrp,
        NitrotapNrpHost,
    },
    stream::WireParams,
};
use std::sync::OnceLock;

const CONNECTIONS: [u32; 7] = [1, 4, 8, 16, 64, 256, 512];

fn c5() -> Params {
    Params::load("c5").unwrap()
}

/// The outcome of one point.
fn at(scenario: Scenario, connections: u32) -> &'static Outcome {
    static ALL: OnceLock<Vec<Outcome>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let mut points = Vec::new();
        for scenario in Scenario::ALL {
            for n in CONNECTIONS {
                points.push(Experiment::new(scenario, n, c5(), 1));
            }
        }
        run_all(&points, |_| ()).unwrap_or_else(|error| panic!("{error}"))
    });
    let found = all.iter().find(|out| out.point.scenario == scenario.name() && out.point.connections == connections);
    found.unwrap_or_else(|| panic!("{connections} connections are not among {CONNECTIONS:?}"))
}

/// Requests per second of one point.
fn rate(scenario: Scenario, connections: u32) -> f64 {
    at(scenario, connections).point.requests_per_s
}

/// Asserts that `left` is less than `factor` times `right`, and says what they were.
#[track_caller]
fn assert_below(left: (Scenario, u32), factor: f64, right: (Scenario, u32)) {
    let (a, b) = (rate(left.0, left.1), rate(right.0, right.1));
    assert!(
        a < factor * b,
        "{} at {}: {a:.0}/s is not below {factor} times {} at {}: {b:.0}/s",
        left.0,
        left.1,
        right.0,
        right.1
    );
}

#[test]
fn no_request_fails() {
    for scenario in Scenario::ALL {
        for n in CONNECTIONS {
            assert_eq!(at(scenario, n).point.errors, 0, "{scenario} at {n}");
        }
    }
}

#[test]
fn with_two_idle_connections_more_clients_get_less_done() {
    for n in [64, 256, 512] {
        assert_below((NitridingIdle2, n), 0.7, (NitridingIdle2, 4));
        assert_below((NitridingIdle2, n), 0.6, (Nitriding, n));
    }
    assert_below((NitridingIdle2, 512), 0.9, (NitridingIdle2, 64));
}

/// The issue: 2,300 requests/s with the proxy, 2,600 without, at 25 threads. c5 is fitted to that point; that it holds
/// everywhere comes out of the model.
#[test]
fn with_500_idle_connections_the_proxy_costs_little() {
    for n in [8, 16, 64, 256, 512] {
        assert_below((NitridingNrp, n), 1.0 / 0.85, (Nitriding, n));
    }
    for n in [64, 256, 512] {
        assert_below((Nitriding, 16), 1.05, (Nitriding, n));
    }
}

#[test]
fn two_idle_connections_are_dialled_anew_all_the_time_and_enough_of_them_never() {
    // With fewer clients most of them wait for frames, and not many are at the proxy at the same time.
    for n in [64, 256, 512] {
        let dials = at(NitridingIdle2, n).dials;
        assert!(dials > 0.3, "{n} connections, 2 idle ones: {dials} dials per request");
    }
    for scenario in [Nitriding, Nitrotap] {
        for n in CONNECTIONS.into_iter().filter(|n| *n <= 500) {
            let dials = at(scenario, n).dials;
            assert!(dials < 0.01, "{scenario} at {n}: {dials} dials per request");
        }
    }
}

/// A process's time per request, in microseconds.
fn demand_us(out: &Outcome, name: &str) -> f64 {
    out.demand_us.iter().find(|(known, _)| *known == name).map_or(0.0, |(_, us)| *us)
}

#[test]
fn each_hop_costs_something() {
    for n in [1, 8, 64] {
        assert_below((NitridingNrp, n), 1.0, (Enclave, n));
        assert_below((Nitriding, n), 1.0, (NitridingNrp, n));
        // One client needs one upstream connection: with two idle ones it is the same, but for the draws.
        assert_below((NitridingIdle2, n), 1.05, (Nitriding, n));
        assert_below((Nitrotap, n), 1.02, (NitrotapNrp, n));
    }
    for n in [1, 8, 64] {
        assert_below((Enclave, n), 1.0, (Docker, n));
    }
}

#[test]
fn nitrotap_is_ahead_of_nitriding() {
    for n in CONNECTIONS {
        assert_below((Nitriding, n), 1.0, (Nitrotap, n));
    }
    for n in CONNECTIONS.into_iter().filter(|n| *n >= 8) {
        // As many frames per call as are ready, against one.
        assert_below((NitridingNrp, n), 0.7, (NitrotapNrp, n));
    }
}

/// The costs of nitrotap's gateway are derived, not measured; what is asked here is the order, and that it is no narrower
/// a way where all of its work is one thread's.
#[test]
fn nitrotap_s_gateway_is_not_behind_gvproxy() {
    // With two idle upstream connections, whatever brings more requests to the proxy at a time makes it dial more.
    for scenario in [NitridingNrp, Nitriding, NitrotapNrp, Nitrotap] {
        for n in CONNECTIONS {
            assert_below((scenario, n), 1.03, (scenario.on_native_host(), n));
        }
    }
    for n in CONNECTIONS.into_iter().filter(|n| *n >= 8) {
        assert_below((NitrotapNrp, n), 0.8, (NitrotapNrpHost, n));
        let cpu = |scenario, name| demand_us(at(scenario, n), name);
        let (ours, gvproxy) = (cpu(NitrotapNrpHost, "gateway"), cpu(NitrotapNrp, "gvproxy"));
        assert!(ours < 0.6 * gvproxy, "{n} connections: {ours:.1} us per request against {gvproxy:.1}");
    }
}

#[test]
fn without_shared_queues_more_clients_never_get_less_done() {
    // Where client and app share cores, docker loses a few percent from some 200 clients on. Slices that make waves of long
    // queues are the likely cause; it was not pinned down.
    for (scenario, slack) in [(Docker, 1.06), (Enclave, 1.02)] {
        for pair in CONNECTIONS.windows(2) {
            assert_below((scenario, pair[0]), slack, (scenario, pair[1]));
        }
    }
}

#[test]
fn clients_are_either_waiting_or_counted_by_littles_law() {
    for scenario in Scenario::ALL {
        for n in CONNECTIONS {
            let out = at(scenario, n);
            let waiting = out.point.requests_per_s * out.mean_us / 1e6;
            let off = (waiting / f64::from(n) - 1.0).abs();
            // The more clients, the fewer rounds a window has, and the more of them are under way at its ends.
            // Where connections are dialled all the time, times spread widely, and the ends weigh more.
            let most = if n <= 64 && scenario != NitridingIdle2Host { 0.03 } else { 0.1 };
            assert!(off <= most, "{scenario}: {waiting:.2} of {n} clients are accounted for");
        }
    }
}

#[test]
fn no_machine_works_more_than_its_cores_can() {
    let machines = c5().machines;
    for scenario in Scenario::ALL {
        let on_host = |name: &str| {
            name == "client" || name == "gvproxy" || name == "gateway" || (name == "app" && scenario == Docker)
        };
        for n in CONNECTIONS {
            let out = at(scenario, n);
            let busy = |host: bool| {
                let here = out.demand_us.iter().filter(|(name, _)| on_host(name) == host);
                here.map(|(_, us)| us * out.point.requests_per_s / 1e6).sum::<f64>()
            };
            for (name, cores, busy) in
                [("host", machines.host_cores, busy(true)), ("enclave", machines.enclave_cores, busy(false))]
            {
                // What is under way at the ends of the window is counted at its begin.
                assert!(busy <= f64::from(cores) * 1.005, "{scenario} at {n}: {busy:.3} of {cores} {name} cores busy");
            }
        }
    }
}

/// The shipped costs, with nothing that depends on load: what queueing theory can predict.
fn load_independent(scenario: Scenario) -> Params {
    let mut params = c5();
    let machines = &mut params.machines;
    machines.variability_permille = 1000;
    machines.overhead_permille = 0;
    machines.idle_exit_ns = 0;
    machines.slice_ns = 0;
    // To queue for a thread and for a core at once is beyond the theory: each thread has its core.
    machines.client_on_host = scenario == Enclave;
    machines.client_cores = params.client.threads;
    machines.host_cores = if scenario == Enclave { params.client.threads } else { params.app.threads };
    machines.enclave_cores = params.app.threads;
    (params.client.wake_ns, params.app.wake_ns) = (0, 0);
    params
}

/// Time of a request and its answer on the wires, in microseconds.
fn wires_us(scenario: Scenario, params: &Params) -> f64 {
    let machines = &params.machines;
    let wires = if scenario == Enclave { [machines.vsock_in, machines.vsock_out] } else { [machines.lan; 2] };
    // With their headers, a request and an answer have 85 and 170 bytes.
    let took = |(wire, bytes): (WireParams, u64)| {
        wire.latency_ns + wire.jitter_ns / 2 + wire.packet_ns + bytes * wire.ns_per_kib / 1024
    };
    wires.into_iter().zip([85, 170]).map(took).sum::<u64>() as f64 / 1000.0
}

#[test]
fn throughput_lies_between_what_queueing_theory_says_and_what_no_queue_can() {
    for scenario in [Docker, Enclave] {
        let params = load_independent(scenario);
        let points = [1, 2, 4, 8, 16, 64, 256].map(|n| Experiment::new(scenario, n, params.clone(), 1));
        for out in run_all(&points, |_| ()).unwrap_or_else(|error| panic!("{error}")) {
            let station =
                |name: &str, servers| Station { name: name.to_owned(), demand_us: demand_us(&out, name), servers };
            let stations = [station("client", params.client.threads), station("app", params.app.threads)];
            let (n, got) = (out.point.connections, out.point.requests_per_s);
            let envelope = bounds::envelope(&stations, wires_us(scenario, &params), n).widened(0.03, 0.01);
            assert!(envelope.contains(got), "{scenario} at {n}: {got:.0}/s is not in {envelope:?}");
        }
    }
}
