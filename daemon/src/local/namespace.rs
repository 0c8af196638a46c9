//! The namespaces of a pseudo-enclave: user, network, mount and PID, so that nothing outlives the app and nothing it
//! does to its network touches ours.
//!
//! Two processes meet here. The outer one (`nitrotap local`) starts the inner stage and writes its user map, which only
//! a process outside may do. The stage makes the namespaces, waits for the map, and starts `nitrotap enclave` as PID 1.

use crate::{
    app::{App, Asked, Signals},
    errors::Error,
    sys::process::unshare,
};
use rustix::{
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change},
    process::{Signal, set_parent_process_death_signal},
    thread::UnshareFlags,
};
use std::{
    ffi::OsString,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// What the inner stage is told; a hidden subcommand.
#[derive(clap::Args, Debug)]
pub(crate) struct StageArgs {
    /// Unix socket on which the outer process waits
    #[arg(long)]
    sync: PathBuf,

    /// File to put over /etc/resolv.conf
    #[arg(long)]
    resolv_conf: PathBuf,

    /// The app gets Ctrl-C from the terminal itself
    #[arg(long)]
    shared_terminal: bool,

    /// Arguments of `nitrotap` for PID 1 of the new namespaces
    #[arg(last = true)]
    init: Vec<OsString>,
}

/// The command that starts the stage.
pub(crate) fn stage(
    sync: &Path,
    resolv_conf: &Path,
    shared_terminal: bool,
    init: &[OsString],
) -> Result<Command, Error> {
    let mut command = Command::new(ourselves()?);
    command.arg(STAGE).arg("--sync").arg(sync).arg("--resolv-conf").arg(resolv_conf);
    if shared_terminal {
        command.arg("--shared-terminal");
    }
    command.arg("--").args(init);
    Ok(command)
}

/// Name of the hidden subcommand.
pub(crate) const STAGE: &str = "local-stage";

/// What the stage says once it is in its namespaces, and what it is answered when its map is written.
const READY: &[u8; 1] = b"u";

/// The outer half: waits for the stage on `sync` and writes its user map.
pub(crate) async fn admit(sync: tokio::net::UnixListener) -> Result<(), Error> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let failed = |e: io::Error| Error::runtime(format!("cannot set up the user namespace: {e}"));
    let (mut stream, _) = sync.accept().await.map_err(failed)?;
    let peer = stream.peer_cred().map_err(failed)?.pid().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    stream.read_exact(&mut [0]).await.map_err(failed)?;
    write_maps(peer).map_err(failed)?;
    stream.write_all(READY).await.map_err(failed)
}

/// Root maps what it has itself, so that files keep their owners; an ordinary user becomes root inside, of one user.
fn write_maps(pid: i32) -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let proc = PathBuf::from(format!("/proc/{pid}"));
    if uid.is_root() {
        for map in ["uid_map", "gid_map"] {
            fs::write(proc.join(map), identity(&fs::read_to_string(Path::new("/proc/self").join(map))?))?;
        }
        return Ok(());
    }
    // Without this an ordinary user may not map a group (user_namespaces(7)).
    fs::write(proc.join("setgroups"), "deny")?;
    fs::write(proc.join("uid_map"), format!("0 {} 1", uid.as_raw()))?;
    fs::write(proc.join("gid_map"), format!("0 {} 1", gid.as_raw()))
}

/// The map that leaves every number of our own map as it is.
fn identity(own: &str) -> String {
    own.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (inside, count) = (fields.next()?, fields.nth(1)?);
            Some(format!("{inside} {inside} {count}\n"))
        })
        .collect()
}

/// The inner half, in a process of its own with a single thread.
pub(crate) fn run_stage(args: StageArgs) -> Result<ExitCode, Error> {
    die_with_parent();
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::NEWPID)
        .map_err(no_namespaces)?;
    wait_for_maps(&args.sync)
        .map_err(|e| Error::runtime(format!("cannot set up the user namespace: {e}; the outer process is gone")))?;
    // A change of credentials clears it.
    die_with_parent();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|e| Error::runtime(format!("cannot make the mounts private: {e}")))?;

    let (role, rest) = args.init.split_first().ok_or_else(|| Error::usage("the stage is not for direct use"))?;
    let mut init = Command::new(ourselves()?);
    init.arg(role);
    if !cover_resolv_conf(&args.resolv_conf) {
        init.args(["--resolv-conf", "none"]);
    }
    init.args(rest);

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::runtime(format!("cannot start the async runtime: {e}")))?;
    runtime.block_on(async {
        let mut signals = Signals::catch(args.shared_terminal)?;
        let mut app = App::start_part(init)?;
        Ok(supervise(&mut app, &mut signals).await)
    })
}

/// Waits for `app`, which knows itself how to end; signals that it has not had already are passed on.
pub(crate) async fn supervise(app: &mut App, signals: &mut Signals) -> ExitCode {
    loop {
        tokio::select! {
            ended = app.ended() => return ended.code(),
            asked = signals.next() => match asked {
                Asked::End { told: true } => {}
                Asked::End { told: false } => app.signal(Signal::TERM),
                Asked::Pass(signal) => app.signal(signal),
            },
        }
    }
}

/// What PID 1 of the namespaces does before anything else.
pub(crate) fn prepare_init() {
    die_with_parent();
    // Only a process inside can show these namespaces' processes and interfaces; a container may forbid it, and then the
    // outer ones stay in view.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys")] {
        if let Err(error) = mount(kind, target, kind, flags, None::<&std::ffi::CStr>) {
            tracing::debug!(target, %error, "not mounted");
        }
    }
}

fn die_with_parent() {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        tracing::debug!(%error, "cannot ask to end with the parent");
    }
}

fn wait_for_maps(sync: &Path) -> io::Result<()> {
    let mut stream = std::os::unix::net::UnixStream::connect(sync)?;
    stream.write_all(READY)?;
    stream.read_exact(&mut [0])
}

/// Puts our file over the one the libc reads; false where there is none to cover.
fn cover_resolv_conf(ours: &Path) -> bool {
    let theirs = Path::new("/etc/resolv.conf");
    let covered = fs::canonicalize(theirs).and_then(|theirs| Ok(mount_bind(ours, theirs)?));
    if let Err(error) = &covered {
        tracing::warn!(%error, "cannot cover /etc/resolv.conf: names will not resolve inside");
    }
    covered.is_ok()
}

fn ourselves() -> Result<PathBuf, Error> {
    std::env::current_exe().map_err(|e| Error::runtime(format!("cannot find the nitrotap binary: {e}")))
}

fn no_namespaces(errno: Errno) -> Error {
    let hint = match errno {
        Errno::PERM | Errno::ACCESS => {
            "ordinary users may not make namespaces here: allow it (sysctl kernel.unprivileged_userns_clone=1, or \
             kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu) or run as root"
        }
        Errno::NOSPC | Errno::USERS => {
            "the limit is reached: raise the sysctls user.max_user_namespaces and user.max_net_namespaces"
        }
        Errno::INVAL => "this kernel lacks user, network or PID namespaces",
        _ => "run as root, or outside the sandbox that forbids it",
    };
    Error::runtime(format!("cannot make the namespaces of the pseudo-enclave: {errno}; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_map_keeps_every_number_it_has() {
        assert_eq!(identity("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(identity("0 1000 1\n1 100000 65536\n"), "0 0 1\n1 1 65536\n");
    }
}
