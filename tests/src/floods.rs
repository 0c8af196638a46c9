//! What a neighbour notices while another enclave, or a stranger, does its worst: latency, throughput, and the longest turn of
//! the data thread.
//!
//! Everything runs in a [`World`]: the gateway, what it reaches, and strangers at its published ports. Correctness is for
//! tests; here are figures, and whether they keep the bounds that an idle machine is held to.

mod attack;

pub use attack::Flood;

use crate::{
    Process, World,
    frameclient::{FrameClient, GATEWAY, HOST, Station},
    gateway::Kind,
    peers::Missing,
    wait,
};
use attack::{Attack, Targets};
use hickory_proto::rr::RecordType;
use std::{
    net::SocketAddrV4,
    path::Path,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long pings are sent, and how long bytes are taken, each without a flood and with one.
    pub time: Duration,
    /// Enclaves that flood at the same time; with strangers it is one.
    pub attackers: u8,
}

impl Default for Plan {
    fn default() -> Self {
        Self { time: Duration::from_secs(3), attackers: 1 }
    }
}

/// What the neighbour gets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Service {
    /// Half of the pings were faster.
    pub p50: Duration,
    /// One of a hundred pings was slower. A lost one counts as the longest wait.
    pub p99: Duration,
    pub lost: usize,
    /// Bytes per second of a download.
    pub throughput: f64,
    /// How long a question about a name took; `None` if it was not answered.
    pub name: Option<Duration>,
}

/// What came of one flood.
#[derive(Clone, Debug)]
pub struct Figures {
    pub flood: Flood,
    pub attackers: u8,
    pub idle: Service,
    pub flooded: Service,
    /// Frames, or connections of strangers, that were sent.
    pub sent: u64,
    /// The longest turn of the data thread, and the most work in one, in units of a frame.
    pub turn: Duration,
    pub work: u64,
    /// Memory that the gateway grew by, in bytes.
    pub grown: u64,
}

/// The neighbour's p99 may be so many times that of an idle gateway, or [`SLOW`], whichever is larger.
const TIMES: u32 = 5;
const SLOW: Duration = Duration::from_millis(5);
/// The part of its fair share that the neighbour has to get.
const FAIR: f64 = 0.8;

/// How long a ping is waited for.
const LOST: Duration = Duration::from_secs(1);

impl Figures {
    /// The neighbour's p99 at most.
    pub fn latency_bound(&self) -> Duration {
        (self.idle.p99 * TIMES).max(SLOW)
    }

    /// The neighbour's throughput at least.
    pub fn throughput_bound(&self) -> f64 {
        self.idle.throughput / (1.0 + f64::from(self.attackers)) * FAIR
    }

    /// The bounds that were missed, in words.
    pub fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let (p99, bound) = (self.flooded.p99, self.latency_bound());
        if p99 > bound {
            missed.push(format!("p99 {p99:.1?} > {bound:.1?}"));
        }
        let (throughput, bound) = (self.flooded.throughput / 1e6, self.throughput_bound() / 1e6);
        if throughput < bound {
            missed.push(format!("{throughput:.1} MB/s < {bound:.1} MB/s"));
        }
        if self.flooded.name.is_none() {
            missed.push("a name was not found".to_owned());
        }
        missed
    }
}

/// Measures one flood on a gateway of its own; `program` is the one to measure, if not the one that is built.
pub fn measure(flood: Flood, plan: Plan, program: Option<&Path>) -> Result<Figures, Missing> {
    let world = World::new()?;
    let mut options = Kind::Ours.options().with_second_listener().args(&[
        "--publish",
        "127.0.0.1:7001=192.168.127.20:7",
        "--publish",
        "udp:127.0.0.1:7001=192.168.127.20:7",
    ]);
    if let Some(mtu) = flood.mtu() {
        options = options.mtu(mtu);
    }
    if let Some(program) = program {
        options = options.program(program);
    }
    let gateway = world.start(options)?;
    let (_source, source) = world.serve(&["tcp-source", "127.0.0.1:0", "100000000000", "1"]);
    let (_echo, echo) = world.serve(&["tcp-echo", "127.0.0.1:0", "4096"]);
    let mut neighbour = FrameClient::connect_to(&gateway.second_socket(), Station::number(9));
    neighbour.discard(attack::DISCARD);
    let from = SocketAddrV4::new(HOST, source);
    let before = crate::usage::resident(gateway.pid());
    let idle = service(&mut neighbour, from, plan.time);

    let attackers = if flood.needs_strangers() { 1 } else { plan.attackers };
    let targets =
        Targets { socket: gateway.socket(), echo: SocketAddrV4::new(HOST, echo), victim: neighbour.station() };
    let (stop, sent, begun) = (AtomicBool::new(false), AtomicU64::new(0), Barrier::new(usize::from(attackers) + 1));
    let flooded = thread::scope(|scope| {
        for n in 0..attackers {
            let (targets, stop, sent, begun) = (&targets, &stop, &sent, &begun);
            scope.spawn(move || {
                let mut attack = Attack::new(flood, n, targets);
                begun.wait();
                while !stop.load(Ordering::Relaxed) {
                    sent.fetch_add(attack.step(), Ordering::Relaxed);
                }
            });
        }
        begun.wait();
        let _strangers: Option<Process> =
            flood.strangers().map(|kind| world.start_guest(&[kind, "127.0.0.1:7001"], "flooding"));
        // What is only slow at first counts too, but a flood that has not begun does not.
        thread::sleep(Duration::from_millis(300));
        let flooded = service(&mut neighbour, from, plan.time);
        stop.store(true, Ordering::Relaxed);
        flooded
    });
    Ok(Figures {
        flood,
        attackers,
        idle,
        flooded,
        sent: sent.into_inner(),
        turn: Duration::from_nanos(gateway.stat("nitrotap_host_turn_nanoseconds_max")),
        work: gateway.stat("nitrotap_host_turn_work_max"),
        grown: crate::usage::resident(gateway.pid()).saturating_sub(before),
    })
}

/// Pings for some time, and takes a download for as long.
fn service(client: &mut FrameClient, from: SocketAddrV4, time: Duration) -> Service {
    client.clear();
    let (mut trips, mut lost) = (Vec::new(), 0);
    let start = wait::now();
    while start.elapsed() < time {
        let sent = wait::now();
        if client.ping(GATEWAY, 32, LOST) {
            trips.push(sent.elapsed());
        } else {
            lost += 1;
            trips.push(LOST);
        }
        client.clear_inbox();
        thread::sleep(Duration::from_millis(1));
    }
    trips.sort_unstable();
    let at = |hundredths: usize| trips.get((trips.len() * hundredths / 100).min(trips.len() - 1)).copied();
    let asked = wait::now();
    let name = client.dns_query("ok.test.", RecordType::A, Duration::from_secs(3)).map(|_| asked.elapsed());
    let mut service =
        Service { p50: at(50).unwrap_or_default(), p99: at(99).unwrap_or_default(), lost, throughput: 0.0, name };
    let crate::frameclient::Answer::Open(mut download) = client.tcp_connect(from, Duration::from_secs(5)) else {
        return service;
    };
    let start = wait::now();
    let mut taken = 0;
    while start.elapsed() < time {
        // Pieces, so that what came can be let go.
        download.run(client, Duration::from_millis(50), |download| download.received.len() > 1 << 20);
        taken += download.received.len();
        download.received.clear();
    }
    #[expect(clippy::cast_precision_loss, reason = "a download of seconds is far below 2^52 bytes")]
    let bytes = taken as f64;
    service.throughput = bytes / start.elapsed().as_secs_f64();
    download.abort(client);
    client.clear();
    service
}
