//! What the machine must provide, how it is found, and what happens when it is not there.

use std::{
    env,
    ffi::OsString,
    fmt::Display,
    io::Write as _,
    path::{Path, PathBuf},
};

/// Something a test needs and this machine does not have.
#[derive(Debug)]
pub struct Missing {
    what: String,
    remedy: String,
}

impl Missing {
    pub fn new(what: impl Display, remedy: impl Display) -> Self {
        Self { what: what.to_string(), remedy: remedy.to_string() }
    }

    /// Says loudly that a test is skipped; panics instead where `CI` or `NITROTAP_REQUIRE_PEERS` is set.
    pub fn skip(&self) {
        let Self { what, remedy } = self;
        let required = ["CI", "NITROTAP_REQUIRE_PEERS"].into_iter().find(|name| env::var_os(name).is_some());
        assert!(required.is_none(), "{what} ({} is set, so it must be there); {remedy}", required.unwrap_or_default());
        self.tell();
    }

    /// Says loudly that a test is skipped, also in CI: for a peer that no distribution has.
    pub fn tell(&self) {
        let Self { what, remedy } = self;
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        // Past the test runner's capture, which would hide it as the output of a passing test.
        writeln!(std::io::stderr(), "SKIPPED {test}: {what}; {remedy}").expect("standard error is open");
    }
}

/// Takes the value of a `Result<_, Missing>`, or says what is missing and returns from the test.
#[macro_export]
macro_rules! require {
    ($needed:expr) => {
        match $needed {
            Ok(value) => value,
            Err(missing) => {
                $crate::peers::Missing::skip(&missing);
                return;
            }
        }
    };
}

/// The path of a peer program: `$NITROTAP_PEERS`, then `target/peers` of this workspace, then `PATH`.
pub fn find(name: &str) -> Result<PathBuf, Missing> {
    search_path()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| Missing::new(format_args!("no {name} found"), remedy(name)))
}

/// `PATH` with the peers in front, for programs that look peers up themselves.
pub fn path_variable() -> OsString {
    env::join_paths(search_path()).expect("folders of PATH and of cargo hold no colon")
}

/// Whether the tests run as root, so that they may become somebody else.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn remedy(name: &str) -> String {
    match name {
        "gvproxy" => {
            "get it with `tests/peers.sh gvproxy`, or set NITROTAP_PEERS to the folder that holds it".to_owned()
        }
        "gvforwarder" => {
            "build cmd/vm of the Go project containers/gvisor-tap-vsock under this name, and put it on PATH".to_owned()
        }
        "vmlinuz" | "modules/order" | "busybox" | "vhost-device-vsock" | "qemu-system-x86_64" => {
            "get it with `tests/peers.sh vm`, or set NITROTAP_PEERS to the folder that holds it".to_owned()
        }
        "unshare" | "nsenter" | "setpriv" => "install util-linux".to_owned(),
        "wrk" | "iperf3" => "install it with `tests/peers.sh tools`".to_owned(),
        _ => "install it".to_owned(),
    }
}

fn search_path() -> impl Iterator<Item = PathBuf> {
    let own = env::var_os("NITROTAP_PEERS").map(PathBuf::from);
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target").join("peers");
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = env::split_paths(&path).collect();
    own.into_iter().chain([installed]).chain(folders)
}
