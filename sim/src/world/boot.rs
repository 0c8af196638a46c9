//! What each machine starts when it boots.

use super::{ClientSide, HOST, HostOrder, Inside, Power, ServerSide, Shared, Site, WorldConfig};
use crate::{
    cpu::Cpu,
    forward::{self, Enclave, Nitrotap},
    group::Group,
    gvproxy::{Exposed, Gvproxy, Resolve},
    native::{self, Native},
    proxy::{Proxy, ProxyConfig},
    rng::mix,
    stack::{HostConfig, Mac, Stack},
    stream::{Addr, Net, NetLimits, Role, Wire, WireParams},
    tap::Tap,
    time::{Clock, SkewedClock},
    trace::{Actor, Event},
};
use nitrotap_core::{
    link::{Config as LinkConfig, MacAddr},
    pool::Limits,
};
use std::{cell::RefCell, net::Ipv4Addr, rc::Rc, sync::Arc, time::Duration};
use tokio::sync::Notify;

const CLIENT_CID: u32 = 1;
pub(crate) const HOST_CID: u32 = 3;
pub(crate) const ENCLAVE_CID: u32 = 4;

/// The reverse proxy's port in the enclave, on the TAP and on vsock alike.
pub(crate) const PROXY_PORT: u16 = 8081;
/// The host's port that leads to the scenario's entrance in the enclave.
const PUBLISHED: u32 = 80;
/// The host's port that leads to the app itself, whatever the scenario.
pub(crate) const PUBLISHED_APP: u32 = 81;
/// The host's port that leads to the app's echo service.
pub(crate) const PUBLISHED_ECHO: u32 = 82;
/// The host's port that leads to the app's service of partings; only nitrotap's gateway publishes it.
pub(crate) const PUBLISHED_PARTING: u32 = 83;
/// The port of the service of partings, in the enclave and outside alike.
pub(crate) const PARTING: u16 = 8;
/// The echo service's port, in the enclave and outside alike (RFC 862).
pub(crate) const ECHO: u16 = 7;

const ENCLAVE_MAC: [u8; 6] = [0xba, 0xaa, 0xad, 0xc0, 0xff, 0xee];

/// Where clients connect.
pub(super) fn entrance(config: &WorldConfig) -> Addr {
    let one_box = config.params.machines.one_box;
    match config.scenario {
        crate::scenario::Scenario::Docker => Addr { cid: HOST_CID, port: ServerSide::APP_PORT.into() },
        crate::scenario::Scenario::Enclave => {
            Addr { cid: if one_box { HOST_CID } else { ENCLAVE_CID }, port: ServerSide::APP_PORT.into() }
        }
        crate::scenario::Scenario::NitridingNrp
        | crate::scenario::Scenario::NitridingIdle2
        | crate::scenario::Scenario::Nitriding
        | crate::scenario::Scenario::NitrotapNrp
        | crate::scenario::Scenario::Nitrotap
        | crate::scenario::Scenario::NitridingNrpHost
        | crate::scenario::Scenario::NitridingIdle2Host
        | crate::scenario::Scenario::NitridingHost
        | crate::scenario::Scenario::NitrotapNrpHost
        | crate::scenario::Scenario::NitrotapHost => Addr { cid: HOST_CID, port: PUBLISHED },
    }
}

/// What each call of the app and its client costs more than on TCP.
pub(super) fn vsock_call_ns(config: &WorldConfig) -> u64 {
    let machines = &config.params.machines;
    let direct = config.scenario == crate::scenario::Scenario::Enclave && !machines.one_box;
    if direct { machines.vsock_call_ns } else { 0 }
}

type Booted = turmoil::Result;

/// Everything on one machine with one set of cores.
pub(super) async fn one_box(shared: Rc<Shared>) -> Booted {
    let site = site(&shared, HOST_CID, Actor::HostNet, shared.config.params.machines.client_cores, "box");
    {
        let mut sites = shared.sites.borrow_mut();
        sites.client = Some(site.clone());
        sites.host = Some(site.clone());
        sites.enclave = Some(site.clone());
    }
    let server = if shared.config.scenario.has_tap() {
        start_gateway(&shared, &site, &site.group)?;
        start_enclave(&shared, &site)?
    } else {
        ServerSide { shared: shared.clone(), site: site.clone(), kernel: None }
    };
    site.group.spawn((shared.server)(server));
    run_client(&shared, &site).await
}

/// The client's machine.
pub(super) async fn client(shared: Rc<Shared>) -> Booted {
    let machines = &shared.config.params.machines;
    let site = site(&shared, CLIENT_CID, Actor::ClientNet, machines.client_cores, "client");
    wire(&shared, &site, HOST_CID, machines.lan, "client to host");
    let ip = turmoil::lookup(HOST);
    site.group.spawn(crate::stream::dial(ip, site.net.clone(), HOST_CID, shared.audit.clone(), shared.held.clone()));
    shared.sites.borrow_mut().client = Some(site.clone());
    run_client(&shared, &site).await
}

async fn run_client(shared: &Rc<Shared>, site: &Site) -> Booted {
    let side = ClientSide { shared: shared.clone(), site: site.clone() };
    site.group.spawn((shared.outside)(side.clone()));
    (shared.client)(side).await;
    std::future::pending().await
}

/// The EC2 host.
pub(super) async fn host(shared: Rc<Shared>) -> Booted {
    let machines = &shared.config.params.machines;
    let site = site(&shared, HOST_CID, Actor::HostNet, machines.host_cores, "host");
    wire(&shared, &site, ENCLAVE_CID, machines.vsock_in, "host to enclave");
    let accept = |peer| {
        let (net, audit, held) = (site.net.clone(), shared.audit.clone(), shared.held.clone());
        async move {
            if let Err(error) = crate::stream::accept(net, peer, audit, held).await {
                panic!("a fresh machine can bind its ports: {error}");
            }
        }
    };
    site.group.spawn(accept(ENCLAVE_CID));
    if shared.config.client_on_host() {
        shared.sites.borrow_mut().client = Some(site.clone());
        let (shared, site) = (shared.clone(), site.clone());
        let group = site.group.clone();
        group.spawn(async move {
            let _: Booted = run_client(&shared, &site).await;
        });
    } else {
        wire(&shared, &site, CLIENT_CID, machines.lan, "host to client");
        site.group.spawn(accept(CLIENT_CID));
    }
    shared.sites.borrow_mut().host = Some(site.clone());
    if !shared.config.scenario.has_tap() {
        if shared.config.scenario == crate::scenario::Scenario::Docker {
            let side = ServerSide { shared: shared.clone(), site: site.clone(), kernel: None };
            site.group.spawn((shared.server)(side));
        }
        return std::future::pending().await;
    }
    let native = shared.config.scenario.is_native_host();
    let name = if native { "gateway" } else { "gvproxy" };
    let group = Group::new(name, shared.audit.clone(), site.clock);
    notice_panics(&group, site.clock);
    if let Some(power) = shared.power.borrow_mut().get_mut(&HOST_CID) {
        power.groups.push(group.clone());
    }
    start_gateway(&shared, &site, &group)?;
    loop {
        match shared.host_orders.next().await {
            HostOrder::Kill => {
                group.kill().await;
                let mut sites = shared.sites.borrow_mut();
                (sites.gvproxy, sites.native) = (None, None);
                let actor = if native { Actor::Gateway } else { Actor::Gvproxy };
                shared.trace.note(site.clock.now(), actor, Event::Killed, 0, 0, 0);
            }
            HostOrder::Start => {
                let running = shared.sites.borrow().has_gateway();
                if !running {
                    start_gateway(&shared, &site, &group)?;
                }
            }
            HostOrder::Inject(bytes, foul) => {
                let sites = shared.sites.borrow();
                if let Some(gvproxy) = &sites.gvproxy {
                    gvproxy.inject(bytes.clone(), foul);
                }
                if let Some(native) = &sites.native {
                    native.inject(bytes, foul);
                }
            }
            HostOrder::Reset(n) => {
                site.net.reset_one(ENCLAVE_CID, n);
            }
            HostOrder::Cut => {
                let sites = shared.sites.borrow();
                if let Some(gvproxy) = &sites.gvproxy {
                    gvproxy.cut_inside_frame();
                }
                if let Some(native) = &sites.native {
                    native.cut_inside_frame();
                }
            }
        }
    }
}

/// The enclave.
pub(super) async fn enclave(shared: Rc<Shared>) -> Booted {
    let machines = &shared.config.params.machines;
    let site = site(&shared, ENCLAVE_CID, Actor::EnclaveNet, machines.enclave_cores, "enclave");
    wire(&shared, &site, HOST_CID, machines.vsock_out, "enclave to host");
    let ip = turmoil::lookup(HOST);
    site.group.spawn(crate::stream::dial(ip, site.net.clone(), HOST_CID, shared.audit.clone(), shared.held.clone()));
    shared.sites.borrow_mut().enclave = Some(site.clone());
    let server = if shared.config.scenario.has_tap() {
        start_enclave(&shared, &site)?
    } else {
        ServerSide { shared: shared.clone(), site: site.clone(), kernel: None }
    };
    if shared.config.scenario != crate::scenario::Scenario::Docker {
        site.group.spawn((shared.server)(server));
    }
    std::future::pending().await
}

fn site(shared: &Rc<Shared>, cid: u32, actor: Actor, cores: u32, name: &'static str) -> Site {
    let config = &shared.config;
    let clock = Clock::here(config.scale);
    let limits = NetLimits {
        buf_alloc: config.params.machines.buf_alloc,
        backlog: 4096,
        fragment: config.fragment.then_some(config.seed ^ clock.now().as_nanos()),
    };
    let net = Net::new(Role { cid, actor }, clock, shared.trace.clone(), shared.audit.clone(), limits);
    let cpu = Cpu::new(cores, &config.params.machines, mix(config.seed ^ u64::from(cid)));
    let group = Group::new(name, shared.audit.clone(), clock);
    group.spawn(cpu.clone().drive(clock));
    notice_panics(&group, clock);
    power_switch(shared, cid, &net, &group);
    shared.trace.note(clock.now(), actor, Event::Started, cid, 0, 0);
    Site { net, cpu, clock, skewed: SkewedClock::new(clock), group }
}

/// Ends the machine's tasks, from outside of them, when its power goes.
fn power_switch(shared: &Rc<Shared>, cid: u32, net: &Net, group: &Group) {
    let (off, dying) = (Rc::new(Notify::new()), Rc::new(RefCell::new(Vec::<Group>::new())));
    let power = Power { off: off.clone(), net: net.clone(), groups: vec![group.clone()], dying: dying.clone() };
    shared.power.borrow_mut().insert(cid, power);
    drop(tokio::task::spawn_local(async move {
        off.notified().await;
        let groups = dying.take();
        for group in groups {
            group.kill().await;
        }
    }));
}

/// Looks at the tasks of `group` that have ended: a panic is noticed when its task is looked at.
fn notice_panics(group: &Group, clock: Clock) {
    let group = group.clone();
    drop(tokio::task::spawn_local(async move {
        loop {
            clock.sleep(Duration::from_millis(500)).await;
            group.reap();
        }
    }));
}

fn wire(shared: &Shared, site: &Site, cid: u32, params: WireParams, name: &str) {
    let tick = u64::try_from(shared.config.tick.as_nanos()).unwrap_or(u64::MAX);
    // The carrier needs up to a tick.
    let params = WireParams { latency_ns: params.latency_ns.max(tick), ..params };
    site.net.attach(cid, Wire::new(params, shared.config.seed, name));
}

fn start_gateway(shared: &Rc<Shared>, site: &Site, group: &Group) -> std::io::Result<()> {
    if shared.config.scenario.is_native_host() {
        start_native(shared, site, group)
    } else {
        start_gvproxy(shared, site, group)
    }
}

/// The ports that the gateway publishes.
fn exposed(config: &WorldConfig) -> Vec<Exposed> {
    let inward = if config.scenario.proxy().is_some() { PROXY_PORT } else { ServerSide::APP_PORT };
    let mut exposed = vec![
        Exposed { port: PUBLISHED, to: inward },
        Exposed { port: PUBLISHED_APP, to: ServerSide::APP_PORT },
        Exposed { port: PUBLISHED_ECHO, to: ECHO },
    ];
    if config.scenario.is_native_host() {
        exposed.push(Exposed { port: PUBLISHED_PARTING, to: PARTING });
    }
    exposed
}

/// Where the enclave's destinations are.
fn resolve(config: &WorldConfig) -> Resolve {
    let one_box = config.params.machines.one_box;
    let outside = if one_box || config.client_on_host() { HOST_CID } else { CLIENT_CID };
    Arc::new(move |ip: Ipv4Addr, port: u16| {
        let cid = if ip == crate::gvproxy::HOST { HOST_CID } else { outside };
        // TEST-NET-2 (RFC 5737) is where nobody answers.
        (ip.octets()[..3] != [198, 51, 100]).then_some(Addr { cid, port: port.into() })
    })
}

fn start_native(shared: &Rc<Shared>, site: &Site, group: &Group) -> std::io::Result<()> {
    let config = &shared.config;
    let process = site.cpu.process(1);
    shared.sites.borrow_mut().processes.push(("gateway", process.clone()));
    let native = Native::start(
        native::Config {
            net: site.net.clone(),
            clock: site.clock,
            trace: shared.trace.clone(),
            audit: shared.audit.clone(),
            ledger: shared.ledger.clone(),
            costs: config.params.host,
            process,
            mtu: config.mtu,
            largest_buffer: config.host_buffer,
            flow_rate: config.flow_rate,
            is_short: config.fragment,
            // A new life has new secrets.
            seed: mix(config.seed ^ 1 ^ site.clock.now().as_nanos()),
            exposed: exposed(config),
            resolve: resolve(config),
            // An enclave that is away for longer than its address is kept may find it taken by a rogue, unless it is pinned.
            pins: vec![nitrotap_core::gateway::Pin {
                tenant: ENCLAVE_CID,
                address: crate::gvproxy::ENCLAVE.into(),
                mac: Some(ENCLAVE_MAC),
            }],
        },
        group,
    )?;
    shared.trace.note(site.clock.now(), Actor::Gateway, Event::Started, 0, 0, 0);
    shared.sites.borrow_mut().native = Some(native);
    Ok(())
}

fn start_gvproxy(shared: &Rc<Shared>, site: &Site, group: &Group) -> std::io::Result<()> {
    let config = &shared.config;
    let process = site.cpu.go_process(config.params.gvproxy.procs);
    shared.sites.borrow_mut().processes.push(("gvproxy", process.clone()));
    let gvproxy = Gvproxy::start(
        crate::gvproxy::Config {
            net: site.net.clone(),
            clock: site.clock,
            trace: shared.trace.clone(),
            audit: shared.audit.clone(),
            ledger: shared.ledger.clone(),
            costs: config.params.gvproxy,
            process,
            quirks: config.quirks,
            mtu: config.mtu.into(),
            tcp_buffer: config.params.machines.tcp_buffer,
            seed: mix(config.seed ^ 1),
            exposed: exposed(config),
            resolve: resolve(config),
        },
        group,
    )?;
    shared.trace.note(site.clock.now(), Actor::Gvproxy, Event::Started, 0, 0, 0);
    shared.sites.borrow_mut().gvproxy = Some(gvproxy);
    Ok(())
}

fn start_enclave(shared: &Rc<Shared>, site: &Site) -> std::io::Result<ServerSide> {
    let config = &shared.config;
    let machines = &config.params.machines;
    let nitrotap = config.scenario.is_nitrotap();
    let offload = config.offload && nitrotap;
    let tap = Tap::new(machines.txqueuelen, offload);
    let kernel = Stack::new(
        HostConfig {
            mac: Mac::from_bytes(&ENCLAVE_MAC),
            address: crate::gvproxy::ENCLAVE,
            also: Vec::new(),
            gateway: Some(crate::gvproxy::GATEWAY),
            mtu: config.mtu.into(),
            buffer: machines.tcp_buffer,
            ack_delay: Some(Duration::from_millis(40)),
            user_timeout: Duration::from_secs(120),
            fin_timeout: Duration::from_secs(60),
            max_flows: 16_384,
            backlog: 4096,
            gateway_mode: false,
            max_held: 0,
            offload,
            seed: mix(config.seed ^ 2 ^ site.clock.now().as_nanos()),
        },
        site.clock,
        shared.trace.clone(),
        Actor::Kernel,
        Box::new(tap.clone()),
    );
    let keeper = kernel.clone();
    site.group.spawn(async move { keeper.keep_time().await });
    let enclave = Enclave {
        net: site.net.clone(),
        host: Addr { cid: HOST_CID, port: crate::gvproxy::CONNECT_PORT },
        tap: tap.clone(),
        kernel: kernel.clone(),
        clock: site.clock,
        trace: shared.trace.clone(),
        audit: shared.audit.clone(),
        ledger: shared.ledger.clone(),
        costs: if nitrotap { config.params.nitrotap } else { config.params.nitriding },
        mtu: config.mtu,
        stalls: config.fragment.then_some(config.seed ^ site.clock.now().as_nanos()),
    };
    let port = if nitrotap {
        let threads = [site.cpu.process(1), site.cpu.process(1)];
        for thread in &threads {
            shared.sites.borrow_mut().processes.push(("forwarder", thread.clone()));
        }
        let seed = mix(config.seed ^ 3 ^ site.clock.now().as_nanos());
        let link = LinkConfig::new(MacAddr(ENCLAVE_MAC), crate::gvproxy::ENCLAVE, crate::gvproxy::GATEWAY, seed);
        Some(Nitrotap { enclave, clock: site.skewed.clone(), config: link, threads }.start(&site.group))
    } else {
        // Go's runtime: a processor per core.
        let process = site.cpu.go_process(machines.enclave_cores.max(1));
        shared.sites.borrow_mut().processes.push(("forwarder", process.clone()));
        site.group.spawn(forward::run_go(enclave, process));
        None
    };
    let proxy = match config.scenario.proxy() {
        None => None,
        Some(max_idle) => Some(start_proxy(shared, site, &kernel, max_idle)?),
    };
    shared.sites.borrow_mut().inside = Some(Inside { tap, kernel: kernel.clone(), port, proxy });
    Ok(ServerSide { shared: shared.clone(), site: site.clone(), kernel: Some(kernel) })
}

fn start_proxy(shared: &Rc<Shared>, site: &Site, kernel: &Stack, max_idle: usize) -> std::io::Result<Rc<Proxy>> {
    let config = &shared.config;
    let nitrotap = config.scenario.is_nitrotap();
    // Go's transport knows no limit of connections and forgets demand at once: what is above the idle limit is closed.
    let go = Limits { max_conns: 8192, max_idle, max_waiters: 8192, ..config.pool };
    let ours = Limits { max_conns: 2048, max_idle: 2048, max_waiters: 2048, ..config.pool };
    let proxy = Proxy::start(
        ProxyConfig {
            net: site.net.clone(),
            upstream: Addr { cid: site.net.cid(), port: ServerSide::APP_PORT.into() },
            clock: site.clock,
            skewed: site.skewed.clone(),
            costs: if nitrotap { config.params.proxy } else { config.params.go_proxy },
            trace: shared.trace.clone(),
            audit: shared.audit.clone(),
            limits: if nitrotap { ours } else { go },
        },
        &site.cpu,
        &site.group,
    );
    let proxy = Rc::new(proxy);
    let (on_tap, on_vsock) = (kernel.listen(PROXY_PORT)?, site.net.listen(PROXY_PORT.into())?);
    let serving = proxy.clone();
    site.group.spawn(async move {
        loop {
            serving.serve(on_tap.accept().await);
        }
    });
    let serving = proxy.clone();
    site.group.spawn(async move {
        loop {
            serving.serve(on_vsock.accept().await);
        }
    });
    Ok(proxy)
}
