//! A fresh user, network and mount namespace: the pseudo-enclave.
//!
//! Made with `unshare` and entered with `nsenter` of util-linux, which work the same for root and for an ordinary
//! user. A holder process keeps it alive while programs come and go; it ends when its standard input closes, so also
//! when the test process dies.

use crate::peers::{self, Missing};
use rustix::process::{Pid, Signal};
use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
};

/// Namespaces of their own, empty but for a loopback that is down. Gone when dropped, with everything in them.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
}

impl Namespace {
    /// Makes the namespaces and checks that a TAP could be opened in them.
    pub fn new() -> Result<Self, Missing> {
        let unshare = peers::find("unshare")?;
        peers::find("nsenter")?;
        let mut holder = Command::new(unshare)
            .args(["--user", "--map-root-user", "--net", "--mount", "sh", "-c"])
            .arg("exec 3<>/dev/net/tun && exec 3>&- && echo ready && exec cat >/dev/null")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("unshare was found");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut line).expect("a pipe reads");
        if line.trim() == "ready" {
            return Ok(Self { holder });
        }
        let mut said = String::new();
        holder.stderr.take().expect("piped").read_to_string(&mut said).expect("a pipe reads");
        holder.wait().expect("own child");
        Err(Missing::new(
            format_args!("no namespace with a TAP device can be made here ({})", said.trim()),
            "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces) and \
             read and write on /dev/net/tun, or run as root",
        ))
    }

    /// A command that runs `program` inside. The process that starts is the program itself, not a wrapper.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.holder.id().to_string()])
            .args(["--user", "--net", "--mount", "--preserve-credentials", "--"])
            .arg(program);
        command
    }

    /// Every process inside, the holder included.
    pub fn processes(&self) -> Vec<Pid> {
        let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let own = network(&self.holder.id().to_string());
        let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| own.is_some() && network(name) == own)
            .filter_map(|name| Pid::from_raw(name.parse().ok()?))
            .collect()
    }
}

impl Drop for Namespace {
    /// Ends the holder and whoever else is still inside, such as an app whose supervisor was killed.
    fn drop(&mut self) {
        for pid in self.processes() {
            // It may end by itself in the meantime, and its number is not reused that soon.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        drop(self.holder.stdin.take());
        // Already gone is as good; there is nobody left to tell.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
