//! The world: machines, what runs on them, and the step that moves all of them on.
//!
//! ```text
//!   client ──lan──▶ EC2 host ──vsock──▶ enclave            (turmoil hosts; all in one for `one_box`)
//!   your client     gvproxy model,      nitrotap or nitriding's loop, TAP, kernel, reverse proxy, your server
//! ```
//! A client and a server are functions that get a [`ClientSide`] or a [`ServerSide`] and run until the end; a crate that
//! depends on this one brings its own (see `sim/examples`).

mod boot;
mod side;

pub(crate) use boot::PUBLISHED_APP;
pub(crate) use boot::{ECHO, ENCLAVE_CID, HOST_CID, PARTING, PUBLISHED_ECHO, PUBLISHED_PARTING};
pub use side::{ClientSide, ServerListener, ServerSide, ServerStream};

use crate::{
    check::{Audit, Break, Invariant},
    cpu::Cpu,
    forward::Port,
    group::Group,
    gvproxy::{Foul, Gvproxy, Quirks},
    ledger::FrameLedger,
    mailbox::Orders,
    native::Native,
    params::Params,
    proxy::Proxy,
    scenario::Scenario,
    stack::Stack,
    stream::{Held, Net},
    tap::Tap,
    time::{Clock, Scale, SkewedClock},
    trace::{Actor, Event, Trace},
    trap,
};
use nitrotap_core::{pool::Limits, time::Instant};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    pin::Pin,
    rc::Rc,
    time::{Duration, UNIX_EPOCH},
};
use tokio::sync::Notify;

/// What nitrotap's gateway ships with.
pub(crate) const HOST_BUFFER: usize = 512 << 10;

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    /// Which way requests take.
    pub scenario: Scenario,
    /// What things cost.
    pub params: Params,
    /// How much model time a simulated millisecond is.
    pub scale: Scale,
    /// Model time of a turmoil tick. Never longer than the latency of a wire: the carrier has to be faster.
    pub tick: Duration,
    /// Every random draw comes from this.
    pub seed: u64,
    /// Which gvproxy.
    pub quirks: Quirks,
    /// Bytes of the largest TCP buffer of nitrotap's gateway.
    pub host_buffer: usize,
    /// Bytes per second and direction that a connection through nitrotap's gateway may move.
    pub flow_rate: Option<u64>,
    /// IP MTU of the virtual network.
    pub mtu: u16,
    /// Whether nitrotap's TAP comes with virtio-net headers: the enclave's kernel then leaves checksums and segmentation
    /// of TCP to nitrotap, and takes packets that it joined. nitriding's TAP never does.
    pub offload: bool,
    /// The reverse proxy's pool.
    pub pool: Limits,
    /// Let every stream move fewer bytes than it could.
    pub fragment: bool,
    /// Let turmoil run its hosts in random order.
    pub shuffle: bool,
}

impl WorldConfig {
    /// A world in which `scenario` is measured.
    #[must_use]
    pub fn new(scenario: Scenario, params: Params, seed: u64) -> Self {
        let machines = &params.machines;
        let wires = [machines.vsock_in, machines.vsock_out, machines.lan];
        let latency = wires.iter().map(|wire| wire.latency_ns).min().unwrap_or(10_000);
        Self {
            scenario,
            scale: Scale::FINE,
            tick: Duration::from_nanos(latency.clamp(1_000, 20_000)),
            seed,
            quirks: Quirks::V0_8_1,
            host_buffer: HOST_BUFFER,
            flow_rate: None,
            mtu: 1500,
            offload: true,
            pool: Limits::default(),
            fragment: false,
            shuffle: false,
            params,
        }
    }
}

impl WorldConfig {
    /// Whether the client runs on the EC2 host: nobody else can dial an enclave's vsock.
    pub(crate) fn client_on_host(&self) -> bool {
        self.params.machines.client_on_host || self.scenario == Scenario::Enclave
    }
}

pub(crate) type Program<S> = Rc<dyn Fn(S) -> Pin<Box<dyn Future<Output = ()>>>>;

/// What all machines share: nothing that a real one could not know, and the harness's own books.
pub(crate) struct Shared {
    pub(crate) config: WorldConfig,
    pub(crate) trace: Trace,
    pub(crate) audit: Audit,
    pub(crate) ledger: FrameLedger,
    pub(crate) held: Held,
    pub(crate) client: Program<ClientSide>,
    pub(crate) server: Program<ServerSide>,
    /// What the client's machine offers to the enclave: the rest of the world.
    pub(crate) outside: Program<ClientSide>,
    pub(crate) sites: RefCell<Sites>,
    pub(crate) host_orders: Orders<HostOrder>,
    /// Power switches by machine; and what has to be ended when one is turned.
    pub(crate) power: RefCell<BTreeMap<u32, Power>>,
}

/// What a machine loses with its power.
pub(crate) struct Power {
    pub(crate) off: Rc<Notify>,
    pub(crate) net: Net,
    pub(crate) groups: Vec<Group>,
    /// Filled when the switch is turned.
    pub(crate) dying: Rc<RefCell<Vec<Group>>>,
}

/// What runs where, for the harness; a slot is empty while its machine or process is down.
#[derive(Default)]
pub(crate) struct Sites {
    pub(crate) client: Option<Site>,
    pub(crate) host: Option<Site>,
    pub(crate) enclave: Option<Site>,
    pub(crate) gvproxy: Option<Gvproxy>,
    /// nitrotap's gateway, where it has gvproxy's place.
    pub(crate) native: Option<Native>,
    pub(crate) inside: Option<Inside>,
    /// Processor time of processes, in the order in which they were started.
    pub(crate) processes: Vec<(&'static str, crate::cpu::Process)>,
}

impl Sites {
    /// Whether the host's gateway runs, whichever it is.
    pub(crate) const fn has_gateway(&self) -> bool {
        self.gvproxy.is_some() || self.native.is_some()
    }

    /// Whether it has a frame stream.
    pub(crate) fn has_frame_stream(&self) -> bool {
        self.gvproxy.as_ref().is_some_and(Gvproxy::has_streams) || self.native.as_ref().is_some_and(Native::has_streams)
    }
}

/// A machine.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) net: Net,
    pub(crate) cpu: Cpu,
    pub(crate) clock: Clock,
    pub(crate) skewed: SkewedClock,
    pub(crate) group: Group,
}

/// What is inside the enclave.
#[derive(Clone)]
pub(crate) struct Inside {
    pub(crate) tap: Tap,
    pub(crate) kernel: Stack,
    /// `None` for nitriding's loop.
    pub(crate) port: Option<Port>,
    pub(crate) proxy: Option<Rc<Proxy>>,
}

/// What the harness asks of the EC2 host.
#[derive(Clone, Debug)]
pub(crate) enum HostOrder {
    /// End the gateway as SIGKILL does.
    Kill,
    /// Start it.
    Start,
    /// Write these bytes to every frame stream.
    Inject(Vec<u8>, Foul),
    /// End every frame stream inside a frame.
    Cut,
    /// Reset one of the streams to the enclave.
    Reset(usize),
}

/// A world that can be moved on.
pub struct World {
    sim: turmoil::Sim<'static>,
    shared: Rc<Shared>,
    failed: Option<String>,
}

/// Names of the turmoil hosts.
pub(crate) const CLIENT: &str = "client";
pub(crate) const HOST: &str = "host";
pub(crate) const ENCLAVE: &str = "enclave";

impl World {
    /// Boots every machine. `server` runs where the app runs, `client` where the load comes from, and both for ever.
    pub fn new<C, S>(
        config: WorldConfig,
        client: impl Fn(ClientSide) -> C + 'static,
        server: impl Fn(ServerSide) -> S + 'static,
    ) -> Self
    where
        C: Future<Output = ()> + 'static,
        S: Future<Output = ()> + 'static,
    {
        Self::with_outside(config, client, server, |_| std::future::pending())
    }

    /// The same, with a program on the client's machine that is what the enclave finds outside.
    pub fn with_outside<C, S, O>(
        config: WorldConfig,
        client: impl Fn(ClientSide) -> C + 'static,
        server: impl Fn(ServerSide) -> S + 'static,
        outside: impl Fn(ClientSide) -> O + 'static,
    ) -> Self
    where
        C: Future<Output = ()> + 'static,
        S: Future<Output = ()> + 'static,
        O: Future<Output = ()> + 'static,
    {
        let audit = Audit::default();
        let tick = config.scale.simulated(config.tick);
        #[expect(clippy::disallowed_methods, reason = "the one place that sets seed and epoch")]
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(config.seed)
            .epoch(UNIX_EPOCH)
            .simulation_duration(Duration::MAX / 4)
            .tick_duration(tick)
            .min_message_latency(tick)
            .max_message_latency(tick)
            .tcp_capacity(1 << 20);
        if config.shuffle {
            builder.enable_random_order();
        }
        let mut sim = builder.build();
        let one_box = config.params.machines.one_box;
        let shared = Rc::new(Shared {
            trace: Trace::new(),
            ledger: FrameLedger::new(audit.clone()),
            audit,
            held: Held::default(),
            client: Rc::new(move |side| Box::pin(client(side))),
            server: Rc::new(move |side| Box::pin(server(side))),
            outside: Rc::new(move |side| Box::pin(outside(side))),
            sites: RefCell::default(),
            host_orders: Orders::default(),
            power: RefCell::default(),
            config,
        });
        if one_box {
            let shared = shared.clone();
            sim.host(HOST, move || boot::one_box(shared.clone()));
        } else {
            let (on_host, in_enclave) = (shared.clone(), shared.clone());
            sim.host(HOST, move || boot::host(on_host.clone()));
            sim.host(ENCLAVE, move || boot::enclave(in_enclave.clone()));
            if !shared.config.client_on_host() {
                let shared = shared.clone();
                sim.host(CLIENT, move || boot::client(shared.clone()));
            }
        }
        Self { sim, shared, failed: None }
    }

    /// Moves the world on to `until`, or to the first broken invariant.
    pub fn run_until(&mut self, until: Instant) {
        while self.now() < until && self.is_sound() {
            self.step();
        }
    }

    /// Moves the world on by one tick.
    pub fn step(&mut self) {
        let armed = trap::arm();
        let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.sim.step()));
        drop(armed);
        match stepped {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => self.broken(Invariant::NoPanic, format!("a machine's program ended: {error}")),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                self.broken(Invariant::NoPanic, text.unwrap_or_else(|| "no message".to_owned()));
            }
        }
        if let Err(leaks) = trap::check() {
            self.broken(Invariant::Isolation, leaks.to_string());
        }
    }

    fn broken(&mut self, invariant: Invariant, detail: String) {
        self.failed = Some(detail.clone());
        self.shared.audit.fail(self.now(), invariant, detail);
    }

    /// Whether no invariant broke so far.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.failed.is_none() && self.shared.audit.is_clean()
    }

    /// Model time.
    #[must_use]
    pub fn now(&self) -> Instant {
        let millis = u64::try_from(self.sim.elapsed().as_millis()).unwrap_or(u64::MAX);
        let grain = u64::try_from(self.shared.config.scale.grain().as_nanos()).unwrap_or(u64::MAX);
        Instant::from_nanos(millis.saturating_mul(grain))
    }

    /// What happened so far.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.shared.trace
    }

    /// What broke so far.
    #[must_use]
    pub fn breaks(&self) -> Vec<Break> {
        self.shared.audit.breaks().0
    }

    /// Processor time of each process so far, in nanoseconds.
    #[must_use]
    pub fn work(&self) -> Vec<(&'static str, u64)> {
        let sites = self.shared.sites.borrow();
        let mut work: Vec<(&'static str, u64)> = Vec::new();
        let proxy =
            sites.inside.as_ref().and_then(|inside| inside.proxy.as_ref()).map(|proxy| ("proxy", proxy.busy_ns()));
        for (name, ns) in sites.processes.iter().map(|(name, process)| (*name, process.busy_ns())).chain(proxy) {
            match work.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += ns,
                None => work.push((name, ns)),
            }
        }
        work
    }

    /// Frames that went out of and into the enclave so far.
    #[must_use]
    pub fn frames(&self) -> [u64; 2] {
        self.shared.ledger.totals().0
    }

    pub(crate) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    pub(crate) fn sim(&mut self) -> &mut turmoil::Sim<'static> {
        &mut self.sim
    }

    /// The world's seed.
    pub(crate) fn seed(&self) -> u64 {
        self.shared.config.seed
    }

    /// The streams of the EC2 host while it has power.
    pub(crate) fn host_net(&self) -> Option<Net> {
        self.shared.sites.borrow().host.as_ref().map(|site| site.net.clone())
    }

    /// The streams of the enclave while it has power.
    pub(crate) fn enclave_net(&self) -> Option<Net> {
        self.shared.sites.borrow().enclave.as_ref().map(|site| site.net.clone())
    }

    /// Makes the clock of the enclave's programs jump; false without an enclave.
    pub(crate) fn jump_enclave_clock(&self, by_ns: i64) -> bool {
        let sites = self.shared.sites.borrow();
        let Some(site) = &sites.enclave else { return false };
        site.skewed.jump(by_ns);
        true
    }

    /// A machine loses its power: its programs end without a word. False if it had none.
    pub(crate) fn power_off(&mut self, machine: &'static str) -> bool {
        let cid = if machine == HOST { HOST_CID } else { ENCLAVE_CID };
        let Some(power) = self.shared.power.borrow_mut().remove(&cid) else { return false };
        {
            let mut sites = self.shared.sites.borrow_mut();
            if machine == HOST {
                sites.host = None;
                sites.gvproxy = None;
                sites.native = None;
            } else {
                sites.enclave = None;
                sites.inside = None;
            }
        }
        power.net.unplug();
        *power.dying.borrow_mut() = power.groups;
        power.off.notify_one();
        // The machine's own runtime ends its tasks: outside of it, they would see the real clock while they go.
        self.step();
        self.sim.crash(machine);
        true
    }

    /// A machine boots.
    pub(crate) fn power_on(&mut self, machine: &'static str) {
        if !self.sim.is_host_running(machine) {
            self.sim.bounce(machine);
        }
    }

    /// Notes an event of the harness itself.
    pub(crate) fn note(&self, event: Event, id: u32, a: u64, b: u64) {
        self.shared.trace.note(self.now(), Actor::World, event, id, a, b);
    }
}
