//! The cost model: what each step costs, in one readable file with units and where each figure came from.
//!
//! Two files ship in `sim/params`: `lab.toml`, fitted to real runs on one machine, and `c5.toml`, which scales it to the
//! EC2 instance of the issue whose figure the simulator reproduces. Times are in nanoseconds, per-byte times in
//! picoseconds, sizes in bytes.

use crate::{rng::mix, stream::WireParams, trace::hash_bytes};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What one call costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Op {
    /// Whatever its size, in nanoseconds.
    pub ns: u64,
    /// Per byte, in picoseconds.
    #[serde(default)]
    pub ps_per_byte: u64,
}

impl Op {
    /// What nothing costs.
    pub const FREE: Self = Self { ns: 0, ps_per_byte: 0 };

    /// The cost of one call that moves `bytes`.
    #[must_use]
    pub const fn cost(&self, bytes: usize) -> u64 {
        self.ns + self.bytes(bytes)
    }

    /// The part that depends on the size.
    #[must_use]
    pub const fn bytes(&self, bytes: usize) -> u64 {
        bytes as u64 * self.ps_per_byte / 1000
    }
}

/// Every parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// What this set describes and how it was obtained; shown with every figure.
    pub provenance: String,
    /// Cores and wires.
    pub machines: Machines,
    /// The load generator.
    pub client: ProgramCosts,
    /// The app.
    pub app: ProgramCosts,
    /// gvproxy.
    pub gvproxy: GvproxyCosts,
    /// nitrotap's gateway on the host.
    pub host: HostCosts,
    /// nitrotap's frame threads.
    pub nitrotap: ForwarderCosts,
    /// nitriding's frame loop.
    pub nitriding: ForwarderCosts,
    /// nitrotap's reverse proxy.
    pub proxy: ProxyCosts,
    /// nitriding's reverse proxy.
    pub go_proxy: ProxyCosts,
}

/// Cores and wires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machines {
    /// All processes share one machine's cores, and a unix socket stands for the vsock.
    pub one_box: bool,
    /// The load generator runs on the EC2 host, as in the experiment.
    pub client_on_host: bool,
    /// Cores of the client's machine, or of the one box.
    pub client_cores: u32,
    /// Cores of the EC2 host.
    pub host_cores: u32,
    /// Cores of the enclave.
    pub enclave_cores: u32,
    /// Time a core loses to interrupts, timers and the hypervisor, in 1/1000 of its work.
    pub overhead_permille: u64,
    /// Delay of work for a sleeping thread that begins on an idle core, in nanoseconds; it costs no processor time.
    pub idle_exit_ns: u64,
    /// Share of each service time that is exponentially distributed around its mean, in 1/1000.
    pub variability_permille: u64,
    /// How long a thread keeps its core while others want it, in nanoseconds: 1,400,000 on two cores
    /// (`base_slice_ns` of Linux's scheduler).
    pub slice_ns: u64,
    /// How long a processor of Go's runtime looks for work before it sleeps, in nanoseconds.
    #[serde(default)]
    pub go_spin_ns: u64,
    /// What a call of the app's or its client's on a vsock costs more than one on TCP, in nanoseconds: the other side has
    /// to be notified across the hypervisor.
    #[serde(default)]
    pub vsock_call_ns: u64,
    /// Receive buffer of a stream.
    pub buf_alloc: u32,
    /// Frames that wait in the TAP's queue.
    pub txqueuelen: usize,
    /// Receive and send buffer of a modelled TCP connection.
    pub tcp_buffer: usize,
    /// Client to EC2 host and back.
    pub lan: WireParams,
    /// EC2 host to enclave.
    pub vsock_in: WireParams,
    /// Enclave to EC2 host.
    pub vsock_out: WireParams,
}

/// A program that reads requests and writes answers, or the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramCosts {
    /// Threads that share its connections.
    pub threads: u32,
    /// Waking a thread that slept.
    pub wake_ns: u64,
    /// Reading a message, and what the program does with it.
    pub read: Op,
    /// Writing a message, with the kernel's TCP below it.
    pub write: Op,
    /// Making or taking a connection.
    pub connect_ns: u64,
}

impl ProgramCosts {
    /// The same with calls that cost this much more.
    pub(crate) const fn with_dearer_calls(mut self, more_ns: u64) -> Self {
        self.read.ns += more_ns;
        self.write.ns += more_ns;
        self
    }
}

/// gvproxy: goroutines on a few processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GvproxyCosts {
    /// Processors that run goroutines (`GOMAXPROCS`).
    pub procs: u32,
    /// Waking an idle processor for a goroutine that became ready.
    pub wake_ns: u64,
    /// Reading from the host's socket into a relay's buffer.
    pub relay_read: Op,
    /// Writing to the host's socket from a relay's buffer.
    pub relay_write: Op,
    /// Reading from a connection of its own TCP stack.
    pub stack_read: Op,
    /// Writing to a connection of its own TCP stack.
    pub stack_write: Op,
    /// One `read` of the frame stream into its 4 KiB buffer.
    pub stream_read: Op,
    /// A frame's way in: switch, IP, TCP.
    pub frame_in: Op,
    /// A frame's way out under the write lock: copy and `write`.
    pub frame_out: Op,
    /// Making or taking a connection, on the host's side.
    pub connect_ns: u64,
}

/// nitrotap's gateway on the host: one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostCosts {
    /// Waking the thread when it slept.
    pub wake_ns: u64,
    /// One `read` of a frame stream, of as many frames as there are.
    pub link_read: Op,
    /// One `write` of a frame stream, of as many frames as wait.
    pub link_write: Op,
    /// A frame's way in: switch, IP, TCP.
    pub frame_in: Op,
    /// A frame's way out: TCP, copy, checksum.
    pub frame_out: Op,
    /// Reading from a socket of the host.
    pub world_read: Op,
    /// Writing to a socket of the host.
    pub world_write: Op,
    /// Making or taking a connection, on the host's side.
    pub connect_ns: u64,
}

/// A frame forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForwarderCosts {
    /// Waking a thread that slept.
    pub wake_ns: u64,
    /// Reading a frame from the TAP.
    pub tap_read: Op,
    /// Writing to the stream.
    pub stream_write: Op,
    /// Reading from the stream.
    pub stream_read: Op,
    /// Writing a frame to the TAP, with the kernel's receive path behind it.
    pub tap_write: Op,
    /// Cutting a frame out of a super-frame that was read from the TAP: headers, copy and checksum. Nothing for a
    /// super-frame that goes on as it is.
    #[serde(default)]
    pub segment: Op,
    /// Looking at a frame that may be joined with others for the TAP: headers and checksum.
    #[serde(default)]
    pub join: Op,
}

/// A reverse proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyCosts {
    /// Workers, a thread each (nitrotap) or processors of one runtime (Go).
    pub workers: u32,
    /// Whether any worker may run any connection (Go) or each connection stays where it is.
    pub shared: bool,
    /// Waking a thread that slept.
    pub wake_ns: u64,
    /// Reading from a client, and what the proxy does with a request.
    pub client_read: Op,
    /// Writing to a client.
    pub client_write: Op,
    /// Reading from the upstream.
    pub upstream_read: Op,
    /// Writing to the upstream.
    pub upstream_write: Op,
    /// Dialling the upstream.
    pub dial_ns: u64,
}

/// Why parameters could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ParamsError {
    /// The file could not be read.
    #[error("cannot read the parameters {path}: {cause}")]
    Read {
        /// Which file.
        path: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// It is not what this program understands.
    #[error("the parameters {path} are not understood: {cause}")]
    Parse {
        /// Which file.
        path: String,
        /// Where and why.
        cause: Box<toml::de::Error>,
    },
}

/// The text of `sim/params/lab.toml`.
const LAB: &str = include_str!("../params/lab.toml");
/// The text of `sim/params/c5.toml`.
const C5: &str = include_str!("../params/c5.toml");

impl Params {
    /// The parameters called `lab` or `c5`, or those in a file.
    ///
    /// # Errors
    /// [`ParamsError`] names the file, and the line in it.
    pub fn load(name: &str) -> Result<Self, ParamsError> {
        let (path, text) = match name {
            "lab" => ("lab.toml".to_owned(), LAB.to_owned()),
            "c5" => ("c5.toml".to_owned(), C5.to_owned()),
            path => {
                let text = std::fs::read_to_string(Path::new(path))
                    .map_err(|cause| ParamsError::Read { path: path.to_owned(), cause })?;
                (path.to_owned(), text)
            }
        };
        toml::from_str(&text).map_err(|cause| ParamsError::Parse { path, cause: Box::new(cause) })
    }

    /// A hash of every figure, so that a result says what it was computed from.
    #[must_use]
    pub fn hash(&self) -> String {
        let text = toml::to_string(self).unwrap_or_default();
        format!("{:016x}", mix(hash_bytes(1, text.as_bytes())))
    }

    /// Parameters under which every step is free: for faults, where what is asked is whether, not how fast.
    #[must_use]
    pub fn free() -> Self {
        let program = ProgramCosts { threads: 4, wake_ns: 0, read: Op::FREE, write: Op::FREE, connect_ns: 0 };
        let forwarder = ForwarderCosts {
            wake_ns: 0,
            tap_read: Op::FREE,
            stream_write: Op::FREE,
            stream_read: Op::FREE,
            tap_write: Op::FREE,
            segment: Op::FREE,
            join: Op::FREE,
        };
        let proxy = ProxyCosts {
            workers: 1,
            shared: false,
            wake_ns: 0,
            client_read: Op::FREE,
            client_write: Op::FREE,
            upstream_read: Op::FREE,
            upstream_write: Op::FREE,
            dial_ns: 0,
        };
        let wire =
            WireParams { latency_ns: 10_000_000, jitter_ns: 0, ns_per_kib: 1024, packet_ns: 0, max_packet: 65_536 };
        Self {
            provenance: "nothing costs anything; a wire takes 10 ms".to_owned(),
            machines: Machines {
                one_box: false,
                client_on_host: false,
                client_cores: 2,
                host_cores: 2,
                enclave_cores: 2,
                overhead_permille: 0,
                idle_exit_ns: 0,
                variability_permille: 0,
                slice_ns: 0,
                go_spin_ns: 0,
                vsock_call_ns: 0,
                buf_alloc: 262_144,
                txqueuelen: 1000,
                tcp_buffer: 65_536,
                lan: wire,
                vsock_in: WireParams { max_packet: 4096, ..wire },
                vsock_out: wire,
            },
            client: program,
            app: program,
            gvproxy: GvproxyCosts {
                procs: 4,
                wake_ns: 0,
                relay_read: Op::FREE,
                relay_write: Op::FREE,
                stack_read: Op::FREE,
                stack_write: Op::FREE,
                stream_read: Op::FREE,
                frame_in: Op::FREE,
                frame_out: Op::FREE,
                connect_ns: 0,
            },
            host: HostCosts {
                wake_ns: 0,
                link_read: Op::FREE,
                link_write: Op::FREE,
                frame_in: Op::FREE,
                frame_out: Op::FREE,
                world_read: Op::FREE,
                world_write: Op::FREE,
                connect_ns: 0,
            },
            nitrotap: forwarder,
            nitriding: forwarder,
            proxy,
            go_proxy: proxy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_files_are_understood_and_differ() {
        let (lab, c5) = (Params::load("lab").unwrap(), Params::load("c5").unwrap());
        assert!(lab.machines.one_box && !c5.machines.one_box);
        assert_ne!(lab.hash(), c5.hash());
        let copied: Params = toml::from_str(&toml::to_string(&lab).unwrap()).unwrap();
        assert_eq!((copied.hash(), &copied), (lab.hash(), &lab));
    }

    #[test]
    fn a_missing_or_mistyped_file_is_named() {
        let missing = Params::load("/nonexistent/params.toml").unwrap_err().to_string();
        assert!(missing.contains("/nonexistent/params.toml"), "{missing}");
    }
}
