//! A directory per test, for sockets and logs.

use std::path::{Path, PathBuf};

/// A temporary directory that goes with its owner. Its path is short: socket addresses hold 107 bytes.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Self {
        Self(tempfile::Builder::new().prefix("nt-").tempdir().expect("the temporary directory is writable"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Lets other users in, for tests that run as one.
    pub fn open_to_all(&self) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(self.path(), PermissionsExt::from_mode(0o777)).expect("own directory");
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}
