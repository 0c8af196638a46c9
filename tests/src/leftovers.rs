//! What a command leaves behind: processes, files in the temporary directory, mounts.

use crate::{Scratch, wait};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};

/// Marks a command, through its environment, and finds again what has come of it.
#[derive(Debug)]
pub struct Leftovers {
    mark: String,
    temporary: PathBuf,
    mounts: String,
}

impl Leftovers {
    /// Gives `command` a mark that its children inherit, and a temporary directory of its own.
    pub fn watch(command: &mut Command, scratch: &Scratch) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}-{serial}", std::process::id());
        let temporary = scratch.join(&format!("tmp-{serial}"));
        fs::create_dir(&temporary).expect("the name is fresh");
        fs::set_permissions(&temporary, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("own folder");
        command.env(NAME, &mark).env("TMPDIR", &temporary);
        Self { mark, temporary, mounts: mounts() }
    }

    /// The temporary directory of the command.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Processes with the mark, each with its name and pid.
    pub fn processes(&self) -> Vec<(String, u32)> {
        let wanted = format!("{NAME}={}", self.mark);
        let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
        let marked = |pid: &str| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
        };
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && marked(name))
            .filter_map(|pid| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
                Some((name.trim().to_owned(), pid.parse().ok()?))
            })
            .collect()
    }

    /// Names in the temporary directory.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.temporary).expect("own folder").flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Waits until no process is left; namespaces go with the last of theirs, unless mounted somewhere.
    pub fn expect_no_process(&self) {
        let gone = wait::try_until(wait::SOON, || self.processes().is_empty().then_some(()));
        assert!(gone.is_some(), "left behind: {:?}", self.processes());
        assert_eq!(mounts(), self.mounts, "mounts were left behind");
    }

    /// Waits until nothing at all is left.
    pub fn expect_nothing(&self) {
        self.expect_no_process();
        assert_eq!(self.files(), Vec::<String>::new(), "files were left behind");
    }
}

const NAME: &str = "NITROTAP_TEST_MARK";

/// The mounts everybody sees, without those of other programs that come and go in the temporary directory.
fn mounts() -> String {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    table.lines().filter(|line| line.contains("nitrotap") || line.contains("/resolv.conf")).collect()
}
