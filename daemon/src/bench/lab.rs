//! What a bench is built from: namespaces, gateways, TAP handlers, servers; each a child process.

use super::{
    children::{Child, PATIENCE},
    sides::{Side, Split},
};
use crate::{cli::bench::Peers, errors::Error, local::folder::Folder};
use nitrotap_core::frame::MIN_FRAME;
use std::{
    cell::Cell,
    ffi::{OsStr, OsString},
    io::{Read, Write},
    net::TcpListener,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// The address of this machine's loopback, as guests see it.
pub(crate) const HOST_ALIAS: &str = "192.168.127.254";
pub(crate) const GUEST: &str = "192.168.127.2";
/// In the namespace of an enclave: the app, and the reverse proxy in front of it.
pub(crate) const APP_PORT: u16 = 8080;
pub(crate) const PROXY_PORT: u16 = 8081;
pub(crate) const TAP: &str = "tap0";
/// What a stock gvproxy expects of its device.
const MAC: &str = "5a:94:ef:e4:0c:ee";

/// The place for sockets and logs, the program that everything is, and the processors that it runs on.
#[derive(Debug)]
pub(crate) struct Lab {
    folder: Folder,
    exe: PathBuf,
    serial: Cell<u32>,
    split: Option<Split>,
}

/// Which gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GatewayKind {
    Ours,
    /// A gvproxy: program and arguments.
    Command(Vec<String>),
}

#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) child: Child,
    /// Where links are taken.
    pub(crate) link: PathBuf,
    services: PathBuf,
}

/// A namespace with a TAP handler and an app.
#[derive(Debug)]
pub(crate) struct Enclave {
    /// Ends before its namespace.
    pub(crate) handler: Child,
    pub(crate) app_pid: u32,
    _app: Option<Child>,
    pub(crate) namespace: Child,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) child: Child,
    /// As clients dial them, in the order of listening.
    pub(crate) addresses: Vec<String>,
}

/// Which TAP handler, and how it is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Handler {
    /// `nitrotap enclave`: frame loop, and whether with the reverse proxy.
    Ours { frame_loop: &'static str, proxy: bool },
    /// This gvforwarder.
    Forwarder(PathBuf),
}

impl Lab {
    /// Everything on all processors.
    pub(crate) fn new() -> Result<Self, Error> {
        Self::split(None)
    }

    /// Each side on its own processors, if they are split.
    pub(crate) fn split(split: Option<Split>) -> Result<Self, Error> {
        let exe = std::env::current_exe()
            .map_err(|e| Error::runtime(format!("cannot find the nitrotap binary: {e}; is /proc mounted?")))?;
        Ok(Self { folder: Folder::create()?, exe, serial: Cell::new(0), split })
    }

    /// A new path in the folder.
    pub(crate) fn path(&self, what: &str) -> PathBuf {
        self.serial.set(self.serial.get() + 1);
        self.folder.path().join(format!("{what}{}", self.serial.get()))
    }

    pub(crate) fn start(&self, side: Side, name: &str, mut command: Command) -> Result<Child, Error> {
        if let Some(split) = &self.split {
            crate::sys::process::keep_on(&mut command, split.processors(side));
        }
        Child::start(name, command, &self.path("log"))
    }

    /// A command of `nitrotap` itself.
    pub(crate) fn ours<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(&self.exe);
        command.args(args);
        command
    }

    /// A hidden role of it.
    pub(crate) fn agent<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.ours([super::agent::AGENT]);
        command.args(args);
        command
    }

    /// The same command in the namespaces of `pid`; the process that starts becomes the program itself.
    pub(crate) fn inside(&self, pid: u32, command: &Command) -> Command {
        let mut inside = self.agent(["enter", "--target", &pid.to_string(), "--"]);
        inside.arg(command.get_program()).args(command.get_args());
        inside
    }

    pub(crate) fn namespace(&self) -> Result<Child, Error> {
        let mut holder = self.start(Side::Enclave, "namespace", self.agent(["hold"]))?;
        holder.expect("ready", PATIENCE)?;
        Ok(holder)
    }

    /// A server in our namespaces.
    pub(crate) fn server(&self, side: Side, listen: &[&str]) -> Result<Server, Error> {
        self.serve(side, self.serving(listen))
    }

    /// A server in the namespaces of `pid`.
    pub(crate) fn server_inside(&self, side: Side, pid: u32, listen: &[&str]) -> Result<Server, Error> {
        self.serve(side, self.inside(pid, &self.serving(listen)))
    }

    fn serving(&self, listen: &[&str]) -> Command {
        let mut command = self.agent(["serve"]);
        for url in listen {
            command.args(["--listen", url]);
        }
        command
    }

    fn serve(&self, side: Side, command: Command) -> Result<Server, Error> {
        let mut child = self.start(side, "server", command)?;
        let ready = child.expect("ready", PATIENCE)?;
        let addresses = ready.split(' ').skip(1).map(str::to_owned).collect();
        Ok(Server { child, addresses })
    }

    /// A gateway that listens.
    pub(crate) fn gateway(&self, kind: &GatewayKind, mtu: u16) -> Result<Gateway, Error> {
        let link = self.path("net");
        let url = format!("unix://{}", link.display());
        let mtu = mtu.to_string();
        let (command, services) = match kind {
            GatewayKind::Ours => {
                let services = self.path("services");
                let services_url = format!("unix://{}", services.display());
                let args =
                    ["host", "--listen", &url, "--services", &services_url, "--mtu", &mtu, "--allow-host-loopback"];
                (self.ours(args), services)
            }
            GatewayKind::Command(words) => {
                let (program, rest) =
                    words.split_first().ok_or_else(|| Error::usage("the gateway command is empty; give a gvproxy"))?;
                let mut command = Command::new(program);
                command.args(rest).args(["-listen", &url, "-ssh-port", "-1", "-mtu", &mtu]);
                (command, link.clone())
            }
        };
        let mut child = self.start(Side::Host, "gateway", command)?;
        for socket in [&link, &services] {
            until(&mut child, || UnixStream::connect(socket).is_ok())?;
        }
        Ok(Gateway { child, link, services })
    }

    /// A TAP handler with an app behind it, whose link to `gateway` is up.
    pub(crate) fn enclave(&self, handler: &Handler, link: &Path, mtu: u16) -> Result<Enclave, Error> {
        let namespace = self.namespace()?;
        let host = format!("unix://{}", link.display());
        let app = ["serve", "--listen", &format!("tcp://0.0.0.0:{APP_PORT}")].map(OsString::from);
        match handler {
            Handler::Ours { frame_loop, proxy } => {
                let mtu = mtu.to_string();
                let mut command = self.ours([
                    "enclave",
                    "--host",
                    &host,
                    "--resolv-conf",
                    "none",
                    "--mtu",
                    &mtu,
                    "--frame-loop",
                    frame_loop,
                    "--tap",
                    TAP,
                ]);
                if *proxy {
                    command.args(["--listen", &format!("0.0.0.0:{PROXY_PORT}")]);
                    command.args(["--upstream", &format!("http://127.0.0.1:{APP_PORT}")]);
                }
                let app = self.agent(app);
                command.arg("--").arg(app.get_program()).args(app.get_args());
                let mut handler = self.start(Side::Enclave, "TAP handler", self.inside(namespace.pid(), &command))?;
                let ready = handler.expect("ready", PATIENCE)?;
                let app_pid = ready.split(' ').next().and_then(|pid| pid.parse().ok());
                let app_pid = app_pid.ok_or_else(|| handler.failed("does not tell the app's process number"))?;
                Ok(Enclave { handler, app_pid, _app: None, namespace })
            }
            Handler::Forwarder(program) => {
                let pid = namespace.pid();
                // It reads the TAP into a buffer of its MTU without the Ethernet header, which cuts full frames short.
                let buffer = (usize::from(mtu) + MIN_FRAME).to_string();
                let mtu = mtu.to_string();
                let mut command = Command::new(program);
                // It would call a DHCP client, which may not be there. The URL's path is the socket's and the request's at once.
                command.args([
                    "-preexisting",
                    "-url",
                    "unix:///connect",
                    "-iface",
                    TAP,
                    "-stop-if-exist",
                    "",
                    "-mtu",
                    &buffer,
                ]);
                let root = self.path("root");
                std::fs::create_dir(&root)
                    .map_err(|e| Error::runtime(format!("cannot make {}: {e}", root.display())))?;
                let mut inside = self.agent(["enter", "--target", &pid.to_string(), "--root"]);
                inside.arg(&root).arg("--connect").arg(link).arg("--").arg(program).args(command.get_args());
                let mut handler = self.start(Side::Enclave, "gvforwarder", inside)?;
                until(&mut handler, || super::usage::packets(pid, TAP).is_some())?;
                let configure = self.agent(["configure", "--tap", TAP, "--mac", MAC, "--mtu", &mtu]);
                self.start(Side::Enclave, "configuration", self.inside(pid, &configure))?.expect("ready", PATIENCE)?;
                let mut app = self.start(Side::Enclave, "app", self.inside(namespace.pid(), &self.agent(app)))?;
                app.expect("ready", PATIENCE)?;
                Ok(Enclave { handler, app_pid: app.pid(), _app: Some(app), namespace })
            }
        }
    }
}

impl Enclave {
    /// Frames that the TAP has moved so far.
    pub(crate) const fn tap(&self) -> &'static str {
        TAP
    }
}

impl Gateway {
    /// Makes a free port of the loopback lead to `port` of the guest; its address, as clients dial it.
    pub(crate) fn expose(&self, port: u16) -> Result<String, Error> {
        let cannot = |e: &dyn std::fmt::Display| Error::runtime(format!("cannot publish a port of the guest: {e}"));
        let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(|e| cannot(&e))?;
        let body = format!(r#"{{"local":"{free}","remote":"{GUEST}:{port}","protocol":"tcp"}}"#);
        let mut stream = UnixStream::connect(&self.services).map_err(|e| cannot(&e))?;
        let request = format!(
            "POST /services/forwarder/expose HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut answer = Vec::new();
        stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.write_all(request.as_bytes()))
            .and_then(|()| stream.take(64 << 10).read_to_end(&mut answer))
            .map_err(|e| cannot(&e))?;
        if answer.starts_with(b"HTTP/1.1 200") {
            return Ok(format!("tcp://{free}"));
        }
        let text = String::from_utf8_lossy(&answer).replace(['\r', '\n'], " ");
        Err(cannot(&format!("the gateway says: {text}")))
    }
}

/// Waits until something holds, while `child` runs.
pub(crate) fn until(child: &mut Child, holds: impl Fn() -> bool) -> Result<(), Error> {
    const STEP: Duration = Duration::from_millis(10);
    for _ in 0..PATIENCE.as_millis() / STEP.as_millis() {
        if holds() {
            return Ok(());
        }
        child.check()?;
        std::thread::sleep(STEP);
    }
    Err(child.failed("is not ready in time"))
}

/// The stock gateway, if it is there and wanted.
pub(crate) fn gvproxy(peers: &Peers) -> Result<Option<PathBuf>, Error> {
    peer(peers, peers.gvproxy.as_ref(), "gvproxy")
}

/// The stock TAP handler, if it is there and wanted.
pub(crate) fn gvforwarder(peers: &Peers) -> Result<Option<PathBuf>, Error> {
    peer(peers, peers.gvforwarder.as_ref(), "gvforwarder")
}

fn peer(peers: &Peers, given: Option<&PathBuf>, name: &str) -> Result<Option<PathBuf>, Error> {
    use crate::local::gvproxy::find;
    if peers.no_peers {
        return Ok(None);
    }
    let Some(given) = given else { return Ok(find(name)) };
    let found = given.to_str().and_then(find);
    found.map(Some).ok_or_else(|| {
        Error::usage(format!(
            "there is no program {}; give the path of a {name}, or leave --{name} out",
            given.display()
        ))
    })
}

/// What a peer says of itself, for the report.
pub(crate) fn version(program: &Path) -> String {
    let said = Command::new(program).arg("-version").output();
    let said = said.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let line = String::from_utf8_lossy(&said).lines().next().unwrap_or_default().trim().to_owned();
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if line.is_empty() { name } else { format!("{name}: {line}") }
}
