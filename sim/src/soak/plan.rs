//! What a run is given: everything that a seed decides, as text that can be read, kept and shrunk.

use super::faults::{Fault, FaultKind};
use crate::{gvproxy::Quirks, rng, scenario::Scenario};
use serde::{Deserialize, Serialize};

/// A run of the soak.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Format of this text: 1.
    pub version: u32,
    /// Seed of every draw inside the run, each purpose with a stream of its own.
    pub seed: u64,
    /// Which way requests take.
    pub scenario: Scenario,
    /// Which gvproxy.
    pub quirks: Quirks,
    /// IP MTU of the virtual network.
    pub mtu: u16,
    /// Reads and writes move fewer bytes than they could.
    pub fragment: bool,
    /// Machines run in random order within a tick.
    pub shuffle: bool,
    /// Receive buffer of a stream, in bytes.
    pub buf_alloc: u32,
    /// Frames that wait in the TAP's queue.
    pub txqueuelen: usize,
    /// Receive and send buffer of a modelled TCP connection, in bytes.
    pub tcp_buffer: usize,
    /// Bytes of the largest TCP buffer of nitrotap's gateway.
    #[serde(default = "shipped_buffer", skip_serializing_if = "is_shipped_buffer")]
    pub host_buffer: usize,
    /// Bytes per second and direction that a connection through nitrotap's gateway may move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_rate: Option<u64>,
    /// Longest time that an upstream connection of the reverse proxy stays idle, in milliseconds.
    pub idle_timeout_ms: u64,
    /// Longest time that the app keeps an idle connection, in milliseconds.
    pub app_idle_ms: u64,
    /// What clients do.
    pub loads: Vec<Load>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// When all faults are over, in milliseconds.
    pub faults_over_ms: u64,
    /// From when on nothing may fail.
    pub calm_ms: u64,
    /// When the clients stop.
    pub stop_ms: u64,
    /// When every connection has to be over.
    pub end_ms: u64,
}

/// Some clients that do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Its number; draws of its clients depend on it.
    pub id: u32,
    /// Clients.
    pub clients: u32,
    /// When they start, in milliseconds.
    pub start_ms: u64,
    /// Longest pause between two things that a client does, in milliseconds.
    pub think_ms: u64,
    /// What they do.
    pub kind: LoadKind,
}

/// What a client does, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum LoadKind {
    /// HTTP requests over kept-open connections, in through gvproxy's published port.
    Http {
        /// Longest body, in bytes, either way.
        max_body: usize,
        /// Share of requests that make the app misbehave, in 1/1000.
        unruly_permille: u32,
    },
    /// An upgraded connection through the reverse proxy that echoes.
    Tunnel(Transfer),
    /// A TCP connection in through gvproxy that echoes.
    EchoIn(Transfer),
    /// A TCP connection out of the enclave that echoes.
    EchoOut(Transfer),
    /// Connections out of the enclave to where nobody listens.
    DialRefused,
    /// Connections out of the enclave to where nobody answers.
    DialUnanswered,
    /// Datagrams and pings out of the enclave, to who sends them back, to who refuses them, to nobody, and with few links to
    /// pass; only nitrotap's gateway is asked.
    Datagrams {
        /// Longest payload, in bytes.
        max_bytes: usize,
    },
    /// Questions for names from the enclave, over UDP and TCP; only nitrotap's gateway is asked.
    Names,
    /// TCP connections in through nitrotap's gateway of which one side resets most, and the other is to see that.
    PartingIn,
    /// The same, out of the enclave.
    PartingOut,
    /// Links of other enclaves, which send garbage, claim to be others, do not read, and speak TCP as nobody should; only
    /// nitrotap's gateway bears it.
    Rogue,
}

/// Bytes sent to somebody who sends them back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// Longest transfer, in bytes.
    pub max_bytes: u64,
    /// Finish sending first and expect the rest all the same; otherwise read everything before finishing.
    pub half_close: bool,
    /// In a tunnel, the app sends and finishes first, and only then the client sends: not an echo, but both directions
    /// are looked at.
    pub server_first: bool,
    /// Read with pauses.
    pub slow_reader: bool,
}

/// Why a text is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file could not be read or written.
    #[error("cannot use the plan {path}: {cause}")]
    File {
        /// Which file.
        path: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// It is not what this program understands.
    #[error("the plan {path} is not understood: {cause}")]
    Parse {
        /// Which file.
        path: String,
        /// Where and why.
        cause: serde_json::Error,
    },
    /// It comes from another version of this program.
    #[error("the plan {path} has format {found}; this program understands 1")]
    Version {
        /// Which file.
        path: String,
        /// What it says.
        found: u32,
    },
}

/// The bit of a seed that puts nitrotap's gateway in gvproxy's place; without it, the plan is nearly the same one.
const NATIVE: u64 = 1 << 63;

const fn shipped_buffer() -> usize {
    crate::world::HOST_BUFFER
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it like that")]
const fn is_shipped_buffer(bytes: &usize) -> bool {
    *bytes == shipped_buffer()
}

impl Plan {
    /// The seed of the plan with the other gateway on the host.
    #[must_use]
    pub const fn other_host(seed: u64) -> u64 {
        seed ^ NATIVE
    }

    /// What `seed` expands to. Its highest bit decides which gateway is on the host, the others everything else.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let native = seed & NATIVE != 0;
        let mut plan = Self::draw(seed & !NATIVE, native);
        plan.seed = seed;
        if native {
            plan.scenario = plan.scenario.on_native_host();
            plan.draw_for_native(&mut rng::stream(seed, "native host"));
            plan.draw_partings(&mut rng::stream(seed, "partings"));
        }
        plan
    }

    fn draw(seed: u64, native: bool) -> Self {
        let mut rng = rng::stream(seed, "plan");
        let scenario = if rng.u8(0..4) == 0 { Scenario::NitrotapNrp } else { Scenario::Nitrotap };
        let quirks = if rng.u8(0..4) == 0 && !native { Quirks::V0_8_1 } else { Quirks::V0_8_8 };
        let faults_over_ms = rng.u64(10_000..60_000);
        let calm_ms = faults_over_ms + RECOVERY_MS;
        let stop_ms = calm_ms + rng.u64(20_000..40_000);
        let full = rng.u8(0..4) == 0;
        let mut plan = Self {
            version: 1,
            seed,
            scenario,
            quirks,
            mtu: *pick(&mut rng, &[1500, 1500, 1500, 576, 9000, 65_520]),
            fragment: rng.bool(),
            shuffle: rng.bool(),
            buf_alloc: if full { *pick(&mut rng, &[512, 4096, 65_536]) } else { 262_144 },
            txqueuelen: if full { *pick(&mut rng, &[32, 64, 1000]) } else { 1000 },
            tcp_buffer: *pick(&mut rng, &[4096, 16_384, 65_536, 262_144]),
            host_buffer: shipped_buffer(),
            flow_rate: None,
            idle_timeout_ms: *pick(&mut rng, &[1_000, 5_000, 60_000]),
            app_idle_ms: *pick(&mut rng, &[500, 3_000, 20_000, 90_000]),
            loads: Vec::new(),
            faults: Vec::new(),
            faults_over_ms,
            calm_ms,
            stop_ms,
            end_ms: stop_ms + ENDING_MS,
        };
        // A buffer of less than a few segments makes smoltcp send into a closed window, and its timer backs off to half a
        // minute; no kernel has such buffers.
        plan.tcp_buffer = plan.tcp_buffer.max(4 * usize::from(plan.mtu));
        if plan.txqueuelen < 1000 {
            plan.mtu = plan.mtu.min(1500);
            // Without congestion control, which the modelled kernels lack, a window far above the queue never gets through.
            plan.tcp_buffer = 6000;
        }
        if plan.buf_alloc < 4096 {
            // A handful of bytes per round trip: what matters is that they move at all.
            plan.tcp_buffer = 4096;
            plan.mtu = 576;
        }
        plan.draw_loads(&mut rng);
        plan.draw_faults(&mut rng);
        if plan.faults.is_empty() {
            // Then nothing may fail from the moment on at which the link is up.
            plan.faults_over_ms = 0;
            plan.calm_ms = BOOT_MS;
            plan.stop_ms = plan.calm_ms + rng.u64(20_000..40_000);
            plan.end_ms = plan.stop_ms + ENDING_MS;
        }
        plan
    }

    /// What only nitrotap's gateway has to bear.
    fn draw_for_native(&mut self, rng: &mut fastrand::Rng) {
        self.host_buffer = *pick(rng, &[shipped_buffer(), shipped_buffer(), 8_192, 65_536]);
        if rng.u8(0..3) == 0 {
            let id = self.loads.len() as u32;
            let clients = rng.u32(1..=3);
            self.loads.push(Load { id, clients, start_ms: rng.u64(0..5_000), think_ms: 5_000, kind: LoadKind::Rogue });
            self.end_ms += ROGUE_ENDING_MS;
        }
        if rng.u8(0..3) == 0 {
            // More dials that nobody answers than gvproxy has places for.
            let id = self.loads.len() as u32;
            let kind = LoadKind::DialUnanswered;
            self.loads.push(Load { id, clients: 15, start_ms: rng.u64(0..5_000), think_ms: 2_000, kind });
        }
        if rng.u8(0..4) == 0 && self.txqueuelen >= 1000 && self.buf_alloc >= 4096 {
            // More than the queue of a link takes, into a link that is slower than the world.
            self.buf_alloc = self.buf_alloc.clamp(32_768, 65_536);
            self.tcp_buffer = 262_144;
            // Without loss: the modelled kernels have no congestion control, and windows of that size no end of it.
            self.mtu = self.mtu.max(1500);
            self.txqueuelen = 4000;
            self.host_buffer = shipped_buffer();
            let id = self.loads.len() as u32;
            let transfer = Transfer { max_bytes: 1_500_000, half_close: true, server_first: false, slow_reader: false };
            let kind = LoadKind::EchoIn(transfer);
            self.loads.push(Load { id, clients: 4, start_ms: rng.u64(0..5_000), think_ms: 2_000, kind });
        }
        if rng.u8(0..4) == 0 {
            self.flow_rate = Some(rng.u64(150_000..=600_000));
        }
        if rng.bool() {
            let max_bytes = (*pick(rng, &[64, 1_000, 1_472, 8_000])).min(usize::from(self.mtu) - 28);
            self.add_inside(rng, LoadKind::Datagrams { max_bytes });
        }
        if rng.bool() {
            self.add_inside(rng, LoadKind::Names);
        }
    }

    fn add_inside(&mut self, rng: &mut fastrand::Rng, kind: LoadKind) {
        let id = self.loads.len() as u32;
        let (clients, think_ms) = (rng.u32(1..=3), *pick(rng, &[1_000, 5_000]));
        self.loads.push(Load { id, clients, start_ms: rng.u64(0..5_000), think_ms, kind });
    }

    /// Connections whose ends are looked at. A reset for which there is no room is not sent again, so only where no queue is
    /// made to run over.
    fn draw_partings(&mut self, rng: &mut fastrand::Rng) {
        if self.txqueuelen != 1000 || self.buf_alloc < 4096 || rng.u8(0..3) > 0 {
            return;
        }
        for kind in [LoadKind::PartingIn, LoadKind::PartingOut] {
            let id = self.loads.len() as u32;
            let clients = rng.u32(1..=3);
            self.loads.push(Load { id, clients, start_ms: rng.u64(0..5_000), think_ms: 3_000, kind });
        }
    }

    fn draw_loads(&mut self, rng: &mut fastrand::Rng) {
        let tiny = self.buf_alloc < 4096;
        let scale = if tiny { 20 } else { 1 + 2 * usize::from(self.txqueuelen < 1000) };
        let http = rng.u32(1..=2);
        for id in 0..http {
            let max_body = *pick(rng, &[0, 100, 5_000, 60_000]);
            self.loads.push(Load {
                id,
                clients: rng.u32(1..=6),
                start_ms: rng.u64(0..2_000),
                think_ms: *pick(rng, &[500, 2_000, 5_000]),
                kind: LoadKind::Http {
                    max_body: max_body / (scale * scale),
                    unruly_permille: *pick(rng, &[0, 50, 200]),
                },
            });
        }
        for id in http..http + rng.u32(1..=3) {
            let transfer = Transfer {
                max_bytes: *pick(rng, &[100, 20_000, 150_000]) / (scale as u64 * scale as u64),
                half_close: !self.quirks.half_close_broken && rng.u8(0..4) > 0,
                server_first: !self.quirks.half_close_broken && rng.u8(0..3) == 0,
                slow_reader: rng.u8(0..5) == 0,
            };
            let kind = match rng.u8(0..10) {
                0..3 if self.scenario.proxy().is_some() => LoadKind::Tunnel(transfer),
                0..5 => LoadKind::EchoIn(transfer),
                5..8 => LoadKind::EchoOut(transfer),
                8 => LoadKind::DialRefused,
                _ => LoadKind::DialUnanswered,
            };
            let clients = if kind == LoadKind::DialUnanswered { 1 } else { rng.u32(1..=3) };
            self.loads.push(Load {
                id,
                clients,
                start_ms: rng.u64(0..5_000),
                think_ms: *pick(rng, &[2_000, 8_000]),
                kind,
            });
        }
    }

    fn draw_faults(&mut self, rng: &mut fastrand::Rng) {
        // Every kind is armed in some seeds only, so that the others are seen alone.
        let armed: Vec<FaultKind> = KINDS.iter().copied().filter(|_| rng.u8(0..4) == 0).collect();
        if armed.is_empty() {
            return;
        }
        for _ in 0..rng.u32(1..=6) {
            let kind = match *pick(rng, &armed) {
                FaultKind::Latency { .. } => FaultKind::Latency { extra_ms: *pick(rng, &[50, 500, 3_000]) },
                FaultKind::ClockJump { .. } => {
                    // A clock that goes backwards stands still for a machine; how long is how long it takes to recover.
                    FaultKind::ClockJump { by_ms: *pick(rng, &[-5_000, -100, 100, 5_000, 100_000]) }
                }
                plain @ (FaultKind::Partition
                | FaultKind::Hold
                | FaultKind::HoldLan
                | FaultKind::Reset
                | FaultKind::Truncate
                | FaultKind::GarbageFrames
                | FaultKind::GarbageBytes
                | FaultKind::GvproxyRestart
                | FaultKind::EnclaveRestart
                | FaultKind::HostRestart) => plain,
            };
            let at_ms = rng.u64(1_000..self.faults_over_ms - 5_000);
            let for_ms = *pick(rng, &[50, 500, 3_000, 30_000]);
            self.faults.push(Fault { at_ms, for_ms: for_ms.min(self.faults_over_ms - at_ms), kind });
        }
        self.faults.sort_by_key(|fault| fault.at_ms);
        self.untangle();
    }

    /// Faults that switch the same thing do not overlap: the end of one would be the end of the other.
    fn untangle(&mut self) {
        let mut kept: Vec<Fault> = Vec::new();
        for fault in std::mem::take(&mut self.faults) {
            let clash = kept.iter().any(|other| {
                let overlap = fault.at_ms <= other.at_ms + other.for_ms + 1_000;
                overlap && (switches(fault.kind) & switches(other.kind) != 0)
            });
            if !clash {
                kept.push(fault);
            }
        }
        self.faults = kept;
    }

    /// Whether it goes on for long enough after the last word of a client that every connection has to be over.
    pub(super) const fn has_ending(&self) -> bool {
        self.end_ms >= self.stop_ms + ENDING_MS
    }

    /// Faults and loads: what a shrinker can take away.
    #[must_use]
    pub fn events(&self) -> usize {
        self.faults.len() + self.loads.len()
    }

    /// The plan as text.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The plan in a file.
    ///
    /// # Errors
    /// [`PlanError`] names the file, and the place in it.
    pub fn load(path: &std::path::Path) -> Result<Self, PlanError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|cause| PlanError::File { path: name.clone(), cause })?;
        let plan: Self = serde_json::from_str(&text).map_err(|cause| PlanError::Parse { path: name.clone(), cause })?;
        if plan.version == 1 { Ok(plan) } else { Err(PlanError::Version { path: name, found: plan.version }) }
    }
}

/// From power to a link that is up.
pub(super) const BOOT_MS: u64 = 3_000;

/// From the last fault to calm: a silent host is given up after 25 s, a redial takes a second, and a request of the
/// client's that hangs is given up after [`super::clients::PATIENCE`].
const RECOVERY_MS: u64 = 60_000;

/// From the last word of a client to the end of every connection: the kernels' patience with a peer that does not answer,
/// 120 s, and 60 s for a connection whose program has gone.
const ENDING_MS: u64 = 200_000;

/// And the gateway's with a guest that has gone without a word: 300 s in all.
const ROGUE_ENDING_MS: u64 = 120_000;

/// One of each kind.
const KINDS: [FaultKind; 12] = [
    FaultKind::Partition,
    FaultKind::Hold,
    FaultKind::HoldLan,
    FaultKind::Latency { extra_ms: 0 },
    FaultKind::Reset,
    FaultKind::Truncate,
    FaultKind::GarbageFrames,
    FaultKind::GarbageBytes,
    FaultKind::GvproxyRestart,
    FaultKind::EnclaveRestart,
    FaultKind::HostRestart,
    FaultKind::ClockJump { by_ms: 0 },
];

/// What a fault switches, as bits: the link of host and enclave, that of client and host, gvproxy, latency, enclave, host.
const fn switches(kind: FaultKind) -> u32 {
    match kind {
        FaultKind::Partition | FaultKind::Hold => 0b11_0001,
        FaultKind::HoldLan => 0b10_0010,
        FaultKind::GvproxyRestart => 0b10_0100,
        FaultKind::Latency { .. } => 0b00_1000,
        FaultKind::EnclaveRestart => 0b11_0001,
        FaultKind::HostRestart => 0b11_0111,
        FaultKind::Reset
        | FaultKind::Truncate
        | FaultKind::GarbageFrames
        | FaultKind::GarbageBytes
        | FaultKind::ClockJump { .. } => 0,
    }
}

fn pick<'a, T>(rng: &mut fastrand::Rng, choices: &'a [T]) -> &'a T {
    &choices[rng.usize(0..choices.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_depends_on_its_seed_alone_and_survives_being_written_down() {
        for seed in 0..200 {
            let plan = Plan::from_seed(seed);
            assert_eq!(plan, Plan::from_seed(seed));
            assert_eq!(plan, serde_json::from_str(&plan.to_json()).unwrap());
            for fault in &plan.faults {
                assert!(fault.at_ms + fault.for_ms <= plan.faults_over_ms, "{fault:?}");
            }
        }
        assert_ne!(Plan::from_seed(1), Plan::from_seed(2));
    }

    #[test]
    fn the_other_host_has_the_same_faults_and_the_same_clients_and_more() {
        for seed in 0..200 {
            let (gvproxy, native) = (Plan::from_seed(seed), Plan::from_seed(Plan::other_host(seed)));
            assert_eq!(Plan::other_host(native.seed), seed);
            assert!(!gvproxy.scenario.is_native_host() && native.scenario.is_native_host());
            assert_eq!(gvproxy.scenario, native.scenario.on_gvproxy());
            assert_eq!(native, serde_json::from_str(&native.to_json()).unwrap());
            if gvproxy.quirks == native.quirks {
                assert_eq!(gvproxy.faults, native.faults);
                assert_eq!(gvproxy.loads, native.loads[..gvproxy.loads.len()]);
            }
        }
        let natives: Vec<Plan> = (0..200).map(|seed| Plan::from_seed(Plan::other_host(seed))).collect();
        let rogues = natives.iter().filter(|plan| plan.loads.iter().any(|load| load.kind == LoadKind::Rogue)).count();
        assert!(rogues > 40, "{rogues}");
    }

    #[test]
    fn every_kind_of_fault_and_load_is_drawn() {
        let plans: Vec<Plan> = (0..400).map(Plan::from_seed).collect();
        for kind in KINDS {
            assert!(plans.iter().any(|p| p.faults.iter().any(|f| f.kind.name() == kind.name())), "{kind:?}");
        }
        let tunnels = plans.iter().filter(|p| p.loads.iter().any(|l| matches!(l.kind, LoadKind::Tunnel(_)))).count();
        assert!(tunnels > 40, "{tunnels}");
        assert!(plans.iter().any(|p| p.faults.is_empty()));
    }
}
