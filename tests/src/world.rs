//! A world for a gateway to run in: a network namespace with a loopback, a name server, and a net where nobody answers.
//!
//! What a gateway is asked to reach there is the same on every machine, and never the internet.

use crate::{
    Finished, Gateway, Namespace, Process, Scratch, binaries,
    gateway::Options,
    peers::{self, Missing},
    wait::SOON,
};
use std::{fs, net::Ipv4Addr, sync::Arc};

/// A place without a route to anywhere else.
#[derive(Debug)]
pub struct World {
    namespace: Arc<Namespace>,
    resolver: Process,
    scratch: Scratch,
}

/// A host that takes what is sent to it and never answers. There are 100 from here on.
pub const SILENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 100);

/// A host that no route leads to.
pub const UNREACHABLE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The silent net is a TAP that nobody reads. Neighbours that are known are not asked for.
const MAKE: &str = "\
set -e
ip link set lo up
ip tuntap add dev silent0 mode tap
ip address add 198.51.100.1/24 dev silent0
ip link set silent0 up
for n in $(seq 100 199); do echo neighbour replace 198.51.100.$n lladdr 02:00:00:00:00:$((n % 100)) dev silent0; done |
    ip -batch -
";

impl World {
    pub fn new() -> Result<Self, Missing> {
        for program in ["ip", "mount"] {
            peers::find(program)?;
        }
        let namespace = Arc::new(Namespace::new()?);
        let scratch = Scratch::new();
        let resolv_conf = scratch.join("resolv.conf");
        fs::write(&resolv_conf, "nameserver 127.0.0.1\nsearch one.test two.test\n").expect("own directory");
        let mut command = namespace.command("sh");
        command.arg("-c").arg(format!("{MAKE}\nmount --bind {} /etc/resolv.conf", resolv_conf.display()));
        Process::start("make-world", command, &scratch).finish(SOON).expect_success();

        let mut command = namespace.command(binaries::guest());
        command.args(["dns-server", "127.0.0.1:53"]);
        let mut resolver = Process::start("resolver", command, &scratch);
        resolver.expect_line("listening on ", SOON);
        Ok(Self { namespace, resolver, scratch })
    }

    /// Starts a gateway in this world. Its socket can be reached from outside.
    pub fn start(&self, options: Options) -> Result<Gateway, Missing> {
        options.inside(self.namespace.clone()).start()
    }

    /// Where its files are.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// What the name server was asked so far.
    pub fn queries(&self) -> String {
        self.resolver.stdout()
    }

    /// Starts the guest program as a server in this world, and gives its port.
    pub fn serve(&self, args: &[&str]) -> (Process, u16) {
        let mut command = self.namespace.command(binaries::guest());
        command.args(args);
        let mut process = Process::start(&format!("world-{}", args[0]), command, &self.scratch);
        let address = process.expect_line("listening on ", SOON);
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        (process, port.unwrap_or_else(|| panic!("not an address: {address:?}")))
    }

    /// Starts the guest program in this world; it goes on once it has said `line`.
    pub fn start_guest(&self, args: &[&str], line: &str) -> Process {
        let mut command = self.namespace.command(binaries::guest());
        command.args(args);
        let mut process = Process::start(&format!("world-{}", args[0]), command, &self.scratch);
        process.expect_line(line, SOON);
        process
    }

    /// Runs any program in this world, to its end.
    pub fn run(&self, program: &str, args: &[&str]) -> Finished {
        let mut command = self.namespace.command(program);
        command.args(args);
        Process::start("world", command, &self.scratch).finish(SOON)
    }
}
