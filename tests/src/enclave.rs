//! `nitrotap enclave` in a namespace of its own, and what runs beside it there.

use crate::{Finished, Metrics, Namespace, Process, Scratch, binaries, peers::Missing, wait};
use std::{fs, path::PathBuf, process::Command};

/// Where the metrics are served, inside the namespace.
pub const METRICS: &str = "127.0.0.1:9100";

/// How to start one; [`Enclave::options`] has the defaults.
#[derive(Clone, Debug, Default)]
pub struct Options {
    args: Vec<String>,
    app: Vec<String>,
    as_pid_1: bool,
}

/// A running `nitrotap enclave`. Dropping it kills everything in its namespace.
#[derive(Debug)]
pub struct Enclave {
    pub process: Process,
    pub namespace: Namespace,
    pub scratch: Scratch,
}

impl Options {
    /// More arguments for `nitrotap enclave`.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// The supervised app, after `--`.
    pub fn app(mut self, command: &[&str]) -> Self {
        self.app = command.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// The guest program as the supervised app.
    pub fn guest_app(self, args: &[&str]) -> Self {
        let guest = binaries::guest().to_str().expect("cargo's paths are text");
        self.app(&[&[guest], args].concat())
    }

    /// Runs as PID 1 of a PID namespace, as in an enclave image without an init of its own.
    pub fn as_pid_1(mut self) -> Self {
        self.as_pid_1 = true;
        self
    }

    /// Starts it with its link to `host`; does not wait for anything.
    pub fn start(self, host: &str) -> Result<Enclave, Missing> {
        let namespace = Namespace::new()?;
        let scratch = Scratch::new();
        let process = self.start_in(&namespace, host, &scratch);
        Ok(Enclave { process, namespace, scratch })
    }

    /// Starts it in a namespace that is already there.
    pub fn start_in(&self, namespace: &Namespace, host: &str, scratch: &Scratch) -> Process {
        let mut command = if self.as_pid_1 {
            let mut command = namespace.command("unshare");
            command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]).arg(binaries::nitrotap());
            command
        } else {
            namespace.command(binaries::nitrotap())
        };
        command.args(["enclave", "--host", host, "--metrics", METRICS]);
        if !self.args.iter().any(|arg| arg == "--resolv-conf") {
            command.arg("--resolv-conf").arg(scratch.join("resolv.conf"));
        }
        command.args(&self.args);
        if !self.app.is_empty() {
            command.arg("--").args(&self.app);
        }
        Process::start("nitrotap", command, scratch)
    }
}

impl Enclave {
    pub fn options() -> Options {
        Options::default()
    }

    /// Starts one and waits until its link is up.
    pub fn linked(options: Options, host: &str) -> Result<Self, Missing> {
        let mut enclave = options.start(host)?;
        enclave.wait_until_up();
        Ok(enclave)
    }

    /// A command that runs the guest program inside.
    pub fn guest_command(&self, args: &[&str]) -> Command {
        let mut command = self.namespace.command(binaries::guest());
        command.args(args);
        command
    }

    /// Starts the guest program inside, in the background.
    pub fn start_guest(&self, args: &[&str]) -> Process {
        Process::start(&format!("inside-{}", args[0]), self.guest_command(args), &self.scratch)
    }

    /// Starts a guest server inside and waits until it listens.
    pub fn serve(&self, args: &[&str]) -> Process {
        let mut process = self.start_guest(args);
        process.expect_line("listening on ", wait::SOON);
        process
    }

    /// Runs the guest program inside, to its end.
    pub fn guest(&self, args: &[&str]) -> Finished {
        self.start_guest(args).finish(wait::LATER)
    }

    /// Runs any program inside, to its end.
    pub fn run(&self, program: &str, args: &[&str]) -> Finished {
        let mut command = self.namespace.command(program);
        command.args(args);
        Process::start("inside", command, &self.scratch).finish(wait::LATER)
    }

    /// A reading of the metrics; `None` while nobody serves them.
    pub fn try_metrics(&self) -> Option<Metrics> {
        let page = self.guest(&["http-get", &format!("http://{METRICS}/metrics")]);
        page.status.success().then(|| Metrics::parse(&page.stdout))
    }

    pub fn metrics(&self) -> Metrics {
        self.try_metrics().expect("the metrics are served as long as the process runs")
    }

    /// Waits until a reading of the metrics satisfies `condition`, and gives it.
    pub fn wait_for_metrics(&mut self, what: &str, mut condition: impl FnMut(&Metrics) -> bool) -> Metrics {
        let mut last = None;
        let reached = wait::try_until(wait::SOON, || {
            assert!(self.process.is_running(), "nitrotap ended:\n{}", self.process.stderr());
            last = self.try_metrics().or_else(|| last.take());
            last.clone().filter(|metrics| condition(metrics))
        });
        reached.unwrap_or_else(|| panic!("still waiting for metrics to show {what}: {last:#?}"))
    }

    pub fn wait_until_up(&mut self) -> Metrics {
        self.wait_for_metrics("the link up", Metrics::link_is_up)
    }

    /// The interface index of the TAP: a device that was taken down and made again has another one.
    pub fn tap_index(&self) -> String {
        let table = self.run("cat", &["/proc/self/net/igmp"]).expect_success().stdout;
        let tap = table.lines().find(|line| line.split_ascii_whitespace().nth(1) == Some("tap0"));
        tap.and_then(|line| line.split_ascii_whitespace().next()).expect("tap0 is up").to_owned()
    }

    /// What the enclave wrote for its resolver.
    pub fn resolv_conf(&self) -> String {
        fs::read_to_string(self.resolv_conf_path()).unwrap_or_default()
    }

    fn resolv_conf_path(&self) -> PathBuf {
        self.scratch.join("resolv.conf")
    }

    /// Asks it to end, and waits for that.
    pub fn stop(&mut self) -> Finished {
        self.process.signal(rustix::process::Signal::TERM);
        self.process.finish(wait::SOON)
    }
}

/// Starts the guest program on the machine, outside every namespace.
pub fn start_outside(args: &[&str], scratch: &Scratch) -> Process {
    let mut command = Command::new(binaries::guest());
    command.args(args);
    Process::start(&format!("outside-{}", args[0]), command, scratch)
}

/// Starts a guest server on the machine's loopback and gives its port.
pub fn serve_outside(args: &[&str], scratch: &Scratch) -> (Process, u16) {
    let mut process = start_outside(args, scratch);
    let address = process.expect_line("listening on ", wait::SOON);
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    (process, port.unwrap_or_else(|| panic!("not an address: {address:?}")))
}

/// Runs the guest program on the machine, to its end.
pub fn run_outside(args: &[&str], scratch: &Scratch) -> Finished {
    start_outside(args, scratch).finish(wait::LATER)
}
