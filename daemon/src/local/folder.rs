//! The folder a pseudo-enclave needs while it lives: sockets and a `resolv.conf`.
//!
//! It goes with its owner. One that was killed cannot clean up; its folder is no longer locked, and the next one takes it
//! away.

use crate::errors::Error;
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

const PREFIX: &str = "nitrotap-local-";
const LOCK: &str = "lock";

/// A private folder, removed on drop.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: TempDir,
    /// Held as long as the owner lives, however it ends.
    _lock: File,
}

impl Folder {
    pub(crate) fn create() -> Result<Self, Error> {
        let base = std::env::temp_dir();
        sweep(&base);
        let cannot = |e: io::Error| Error::runtime(format!("cannot make a folder in {}: {e}", base.display()));
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&base).map_err(cannot)?;
        let lock = File::create(dir.path().join(LOCK)).map_err(cannot)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| cannot(e.into()))?;
        Ok(Self { dir, _lock: lock })
    }

    /// For whatever else its owner needs.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where the gateway listens.
    pub(crate) fn gateway_socket(&self) -> PathBuf {
        self.dir.path().join("net.sock")
    }

    /// Where the namespace reports for its user map.
    pub(crate) fn sync_socket(&self) -> PathBuf {
        self.dir.path().join("sync.sock")
    }

    /// What stands in for `/etc/resolv.conf` inside.
    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.dir.path().join("resolv.conf")
    }
}

/// Removes folders of ours whose owner is gone.
fn sweep(base: &Path) {
    let us = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && fs::symlink_metadata(entry.path()).is_ok_and(|m| m.is_dir() && m.uid() == us);
        // Between making a folder and locking it there is a moment; a folder without a lock file is left alone.
        if ours
            && let Ok(lock) = File::open(entry.path().join(LOCK))
            && flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_whose_owner_is_gone_are_swept() {
        let base = tempfile::tempdir().unwrap();
        let dead = base.path().join(format!("{PREFIX}dead"));
        let young = base.path().join(format!("{PREFIX}young"));
        let alive = base.path().join(format!("{PREFIX}alive"));
        for dir in [&dead, &young, &alive] {
            fs::create_dir(dir).unwrap();
        }
        File::create(dead.join(LOCK)).unwrap();
        let lock = File::create(alive.join(LOCK)).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        sweep(base.path());
        assert!(!dead.exists());
        assert!(young.exists() && alive.exists());
    }
}
