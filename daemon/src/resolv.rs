//! The resolver configuration: one `nameserver` line, put where the libc looks, and what was there put back at the end.

use std::{
    fs,
    io::{self, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

/// A `resolv.conf` under our care; dropping it restores what it replaced.
#[derive(Debug)]
pub(crate) struct ResolvConf {
    path: PathBuf,
    /// What was there; `None` if there was no file.
    before: Option<Vec<u8>>,
}

impl ResolvConf {
    /// Makes `path` name `server`, and nothing else.
    ///
    /// In a Nitro enclave `/etc/resolv.conf` is a link into an empty `/run`: the folders it points through are made. The
    /// file is written in place, because it may be a bind mount.
    pub(crate) fn write(path: &Path, server: Ipv4Addr) -> io::Result<Self> {
        let path = target(path)?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let before = match fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let mut file = fs::File::create(&path)?;
        file.write_all(format!("# Written by nitrotap; restored when it ends.\nnameserver {server}\n").as_bytes())?;
        Ok(Self { path, before })
    }
}

impl Drop for ResolvConf {
    fn drop(&mut self) {
        let restored = match &self.before {
            Some(bytes) => fs::write(&self.path, bytes),
            None => fs::remove_file(&self.path),
        };
        if let Err(error) = restored {
            tracing::warn!(path = %self.path.display(), %error, "cannot put resolv.conf back");
        }
    }
}

/// Follows links even to where nothing is yet.
fn target(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    // The kernel follows 40 links at most (path_resolution(7)).
    for _ in 0..40 {
        match fs::read_link(&path) {
            Ok(link) => path = path.parent().unwrap_or_else(|| Path::new("/")).join(link),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "too many levels of symbolic links"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);

    #[test]
    fn a_dangling_link_gets_its_folders_and_loses_only_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("resolv.conf");
        symlink("run/resolvconf/resolv.conf", &link).unwrap();
        let conf = ResolvConf::write(&link, SERVER).unwrap();
        assert!(fs::read_to_string(&link).unwrap().contains("\nnameserver 192.168.127.1\n"));
        drop(conf);
        assert!(!link.exists());
        assert!(fs::symlink_metadata(&link).is_ok(), "the link itself stays");
    }

    #[test]
    fn what_was_there_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        let conf = ResolvConf::write(&path, SERVER).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("192.168.127.1"));
        drop(conf);
        assert_eq!(fs::read_to_string(&path).unwrap(), "nameserver 10.0.0.1\n");
    }

    #[test]
    fn a_link_to_itself_is_an_error_and_not_a_hang() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("resolv.conf");
        symlink(&link, &link).unwrap();
        assert!(ResolvConf::write(&link, SERVER).is_err());
    }
}
