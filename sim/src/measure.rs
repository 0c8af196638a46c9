//! One point of the figure: a scenario under load, measured.

use crate::{
    app::hello,
    check::Break,
    load::{Bulk, ClosedLoop, Direction, OpenLoop, Recorder, Window, bulk_server},
    params::Params,
    report::Point,
    scenario::Scenario,
    trace::Record,
    world::{PUBLISHED_APP, World, WorldConfig},
};
use nitrotap_core::time::Instant;
use std::time::Duration;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// The way requests take.
    pub scenario: Scenario,
    /// Clients, a connection each.
    pub connections: u32,
    /// What things cost.
    pub params: Params,
    /// Of every random draw.
    pub seed: u64,
    /// When answers count; [`Experiment::window`] fits it to the number of connections.
    pub window: Window,
    /// Pause of a client of the closed loop between an answer and its next request.
    pub think: Duration,
    /// What the clients do.
    pub load: Load,
}

/// What the clients of an experiment do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Load {
    /// The next request follows the answer.
    #[default]
    Closed,
    /// So many requests per second come, all connections together.
    Open {
        /// How many.
        rate_per_s: u32,
    },
    /// Connections move so many bytes each, to or from the app itself.
    Bulk {
        /// Which way.
        direction: Direction,
        /// How many.
        bytes: u64,
    },
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The point.
    pub point: Point,
    /// Hash of the trace, and its length in records.
    pub hash: (u64, u64),
    /// Processor time of each process per answer, or per megabyte of bulk transfers, in microseconds.
    pub demand_us: Vec<(&'static str, f64)>,
    /// Frames out of and into the enclave, per the same.
    pub frames: [f64; 2],
    /// Dials of the reverse proxy, per the same.
    pub dials: f64,
    /// Mean response time in microseconds of virtual time, for Little's law.
    pub mean_us: f64,
    /// What bulk transfers moved, in Gbit/s of payload.
    pub gbit_per_s: f64,
    /// Broken invariants.
    pub breaks: Vec<Break>,
    /// The end of the trace.
    pub tail: Vec<Record>,
}

impl Experiment {
    /// A measurement of `scenario` with `connections` clients.
    #[must_use]
    pub fn new(scenario: Scenario, connections: u32, params: Params, seed: u64) -> Self {
        let window = Self::window(scenario, connections, &params);
        Self { scenario, connections, params, seed, window, think: Duration::ZERO, load: Load::Closed }
    }

    /// A window of several answers per client, and of a thousand in all, at the rate that these costs allow.
    #[must_use]
    pub fn window(scenario: Scenario, connections: u32, params: &Params) -> Window {
        let request = request_time(scenario, params);
        let round = request * connections;
        Window {
            // Clients dial for two rounds; what they asked for meanwhile queues up and is answered in two more. None of these
            // waits belongs into the window.
            warm_up: Duration::from_millis(20) + request * 200 + round * 6,
            measured: (Duration::from_millis(40) + round * 8).max(request * 1000),
        }
    }

    /// Runs it.
    #[must_use]
    pub fn run(&self) -> Outcome {
        self.run_with(|_| {})
    }

    /// Runs it after `prepare` has had the new world.
    #[must_use]
    pub fn run_with(&self, prepare: impl FnOnce(&World)) -> Outcome {
        let recorder = Recorder::new(self.window);
        let mut world = self.boot(&recorder);
        prepare(&world);
        let begin = Instant::ZERO + SETTLE;
        let from = begin + self.window.warm_up;
        world.run_until(from);
        let (work, frames) = (world.work(), world.frames());
        let before = recorder.total();
        let dials = dials(&world);
        world.run_until(from + self.window.measured);
        let answered = match self.load {
            Load::Closed | Load::Open { .. } => (recorder.total() - before).max(1) as f64,
            Load::Bulk { .. } => recorder.bytes().max(1) as f64 / 1e6,
        };
        let demand_us = world
            .work()
            .into_iter()
            .map(|(name, ns)| {
                let earlier = work.iter().find(|(known, _)| *known == name).map_or(0, |(_, ns)| *ns);
                (name, (ns - earlier) as f64 / 1000.0 / answered)
            })
            .collect();
        let after = world.frames();
        let (answers, errors) = recorder.counts();
        Outcome {
            point: Point {
                scenario: self.scenario.name().to_owned(),
                connections: self.connections,
                requests_per_s: answers as f64 / self.window.measured.as_secs_f64(),
                p50_us: recorder.quantile_us(0.5),
                p99_us: recorder.quantile_us(0.99),
                errors,
            },
            hash: world.trace().hash(),
            demand_us,
            frames: [0, 1].map(|i| (after[i] - frames[i]) as f64 / answered),
            dials: (self::dials(&world) - dials) as f64 / answered,
            mean_us: recorder.mean_us(),
            gbit_per_s: recorder.bytes() as f64 * 8.0 / self.window.measured.as_secs_f64() / 1e9,
            breaks: world.breaks(),
            tail: world.trace().tail(usize::MAX),
        }
    }

    fn boot(&self, recorder: &Recorder) -> World {
        let config = WorldConfig::new(self.scenario, self.params.clone(), self.seed);
        let (connections, clients) = (self.connections, recorder.clone());
        match self.load {
            Load::Closed => {
                let load = ClosedLoop {
                    connections,
                    // Dialled one after another, the first requests do not march in step.
                    spread: Duration::from_millis(10) + request_time(self.scenario, &self.params) * connections * 2,
                    think: self.think,
                };
                World::new(config, move |side| load.run(side, clients.clone()), hello)
            }
            Load::Open { rate_per_s } => {
                let load = OpenLoop { rate_per_s, connections };
                World::new(config, move |side| load.run(side, clients.clone()), hello)
            }
            Load::Bulk { direction, bytes } => {
                // Through the reverse proxy, it would be a test of hyper.
                let port = self.scenario.proxy().map(|_| PUBLISHED_APP);
                let load = Bulk { connections, bytes_per_connection: bytes, direction, port };
                let app = recorder.clone();
                let serve = move |side| bulk_server(side, app.clone());
                World::new(config, move |side| load.run(side, clients.clone()), serve)
            }
        }
    }
}

/// Time for links and listeners to come up before the load's own warm-up begins.
pub const SETTLE: Duration = Duration::from_millis(80);

fn dials(world: &World) -> u64 {
    let sites = world.shared().sites.borrow();
    let proxy = sites.inside.as_ref().and_then(|inside| inside.proxy.as_ref());
    proxy.map_or(0, |proxy| proxy.counters().iter().map(|(_, pool)| pool.dials).sum())
}

/// Roughly the processor time between two requests where most of it is spent: what a window has to be fitted to.
fn request_time(scenario: Scenario, params: &Params) -> Duration {
    let Params { machines, client, app, gvproxy, host: gateway, .. } = params;
    let client_ns = client.read.ns + client.write.ns;
    let app_ns = app.read.ns + app.write.ns;
    let (mut host, mut enclave, mut longest) = (client_ns, 0, app_ns / u64::from(app.threads.max(1)));
    if scenario == Scenario::Docker {
        host += app_ns;
    } else {
        enclave += app_ns;
    }
    if scenario.is_native_host() {
        // As with gvproxy below, had every call only one frame to move.
        let calls = gateway.world_read.ns + gateway.world_write.ns + gateway.link_read.ns + 2 * gateway.link_write.ns;
        let thread = calls + gateway.frame_in.ns + 2 * gateway.frame_out.ns;
        host += thread;
        longest = longest.max(thread);
    } else if scenario.has_tap() {
        let relay = gvproxy.relay_read.ns + gvproxy.relay_write.ns + gvproxy.stack_read.ns + gvproxy.stack_write.ns;
        // A request and an answer, and an acknowledgement by gvproxy.
        host += relay + gvproxy.stream_read.ns + gvproxy.frame_in.ns + 2 * gvproxy.frame_out.ns;
    }
    if scenario.has_tap() {
        let forwarder = if scenario.is_nitrotap() { params.nitrotap } else { params.nitriding };
        let inwards = 2 * (forwarder.stream_read.ns + forwarder.tap_write.ns);
        enclave += forwarder.tap_read.ns + forwarder.stream_write.ns + inwards;
    }
    if let Some(max_idle) = scenario.proxy() {
        let proxy = if scenario.is_nitrotap() { params.proxy } else { params.go_proxy };
        let calls = proxy.client_read.ns + proxy.client_write.ns + proxy.upstream_read.ns + proxy.upstream_write.ns;
        enclave += calls + if max_idle < 8 { proxy.dial_ns } else { 0 };
    }
    let per_core = |work: u64, cores: u32| work / u64::from(cores.max(1));
    let all = if machines.one_box {
        per_core(host + enclave, machines.client_cores)
    } else {
        per_core(host, machines.host_cores).max(per_core(enclave, machines.enclave_cores))
    };
    longest = longest.max(all).max(1_000);
    Duration::from_nanos(longest)
}
