//! Namespaces that a bench makes and enters: a user namespace, so that no root is needed, and a network of its own.

use crate::{errors::Error, sys::process::unshare};
use rustix::{
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change},
    process::{Pid, PidfdFlags, Signal, chroot, pidfd_open, set_parent_process_death_signal},
    thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces},
};
use std::{
    ffi::OsString,
    fs,
    io::{self, Read},
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// A process inside
    #[arg(long)]
    target: i32,
    /// A socket that is to be found as /connect: gvforwarder takes one path for socket and request
    #[arg(long, requires = "root")]
    connect: Option<PathBuf>,
    /// An empty folder to put the whole tree into, with that socket beside it
    #[arg(long, requires = "connect")]
    root: Option<PathBuf>,
    #[arg(last = true)]
    command: Vec<OsString>,
}

/// Makes the namespaces, says so, and keeps them until standard input ends.
pub(super) fn hold() -> Result<ExitCode, Error> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if let Err(errno) = unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET) {
        // Root needs no user namespace, and a container may forbid them.
        unshare(UnshareFlags::NEWNET).map_err(|_| no_namespaces(errno))?;
        return keep();
    }
    let maps = || -> io::Result<()> {
        // Without this an ordinary user may not map a group (user_namespaces(7)).
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
    };
    maps().map_err(|e| Error::runtime(format!("cannot set up the user namespace: {e}; is /proc mounted?")))?;
    // A change of credentials clears it.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    keep()
}

fn keep() -> Result<ExitCode, Error> {
    super::window::say(&format!("ready {}", std::process::id()))?;
    let _ = io::stdin().read(&mut [0]);
    Ok(ExitCode::SUCCESS)
}

/// Becomes a command inside.
pub(super) fn run(args: Args) -> Result<ExitCode, Error> {
    let gone = |e: Errno| Error::runtime(format!("cannot enter the namespaces of process {}: {e}", args.target));
    let pid = Pid::from_raw(args.target).ok_or_else(|| Error::usage("the target is a process number"))?;
    let target = pidfd_open(pid, PidfdFlags::empty()).map_err(gone)?;
    // One's own user namespace cannot be entered again.
    let user = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).ok();
    let kinds = if user("self") == user(&args.target.to_string()) {
        ThreadNameSpaceType::NETWORK
    } else {
        ThreadNameSpaceType::USER | ThreadNameSpaceType::NETWORK
    };
    move_into_thread_name_spaces(target.as_fd(), kinds).map_err(gone)?;
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    if let (Some(connect), Some(root)) = (&args.connect, &args.root) {
        put_beside_root(connect, root)
            .map_err(|e| Error::runtime(format!("cannot show {} as /connect: {e}", connect.display())))?;
    }
    let (program, rest) = args.command.split_first().ok_or_else(|| Error::usage("the command after -- is empty"))?;
    let error = Command::new(program).args(rest).exec();
    Err(Error::runtime(format!("cannot start {}: {error}", program.to_string_lossy())))
}

/// Makes `root` the root folder, in a mount namespace of our own: all that was there before, and `connect`.
fn put_beside_root(connect: &Path, root: &Path) -> io::Result<()> {
    unshare(UnshareFlags::NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("tmpfs", root, "tmpfs", MountFlags::NOSUID, None::<&std::ffi::CStr>)?;
    for entry in fs::read_dir("/")? {
        let entry = entry?;
        let (from, to) = (entry.path(), root.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from)?, &to)?;
        } else if kind.is_dir() {
            fs::create_dir(&to)?;
            mount_bind_recursive(&from, &to)?;
        }
    }
    let socket = root.join("connect");
    fs::write(&socket, "")?;
    mount_bind(connect, &socket)?;
    chroot(root)?;
    std::env::set_current_dir("/")
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
        Errno::INVAL => "this kernel lacks user or network namespaces",
        _ => "run as root, or outside the sandbox that forbids it",
    };
    Error::runtime(format!("cannot make the namespaces of the bench: {errno}; {hint}"))
}
