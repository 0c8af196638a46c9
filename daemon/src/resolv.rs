//! The resolver configuration: one `nameserver` line, put where the libc looks, and what was there put back at the end.
//!
//! What was there is kept in the file itself, as comments: so it outlives a process that is killed, needs no room on another
//! file system, and the next process puts back the original and not what the first one wrote.

use std::{
    fs,
    io::{self, Seek as _, Write as _},
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

/// First line of what we write, where there was a file before.
const REPLACED: &str = "# Written by nitrotap; restored when it ends. What was here:\n";
/// The same where there was none.
const MADE: &str = "# Written by nitrotap; removed when it ends. There was no file here.\n";
/// Begins a line of what was there.
const LINE: &[u8] = b"#| ";
/// Begins its last line, if that does not end.
const UNENDED: &[u8] = b"#\\ ";

/// A `resolv.conf` under our care; dropping it restores what it replaced.
#[derive(Debug)]
pub(crate) struct ResolvConf {
    path: PathBuf,
    /// What was there; `None` if there was no file.
    before: Option<Vec<u8>>,
    written: Vec<u8>,
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
        let found = match fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let before = match found.as_deref().and_then(original) {
            Some(original) => original,
            None => found.clone(),
        };
        let written = ours(before.as_deref(), server);
        if let Err(error) = overwrite(&path, &written) {
            // A disk that is full takes what it had.
            let _ = match &found {
                Some(found) => overwrite(&path, found),
                None => fs::remove_file(&path),
            };
            return Err(error);
        }
        Ok(Self { path, before, written })
    }
}

impl Drop for ResolvConf {
    fn drop(&mut self) {
        if !fs::read(&self.path).is_ok_and(|bytes| bytes == self.written) {
            tracing::info!(path = %self.path.display(), "resolv.conf is somebody else's by now, and stays as it is");
            return;
        }
        let restored = match &self.before {
            Some(bytes) => overwrite(&self.path, bytes),
            None => fs::remove_file(&self.path),
        };
        if let Err(error) = restored {
            tracing::warn!(path = %self.path.display(), %error, "cannot put resolv.conf back");
        }
    }
}

/// What the file says while it is ours.
fn ours(before: Option<&[u8]>, server: Ipv4Addr) -> Vec<u8> {
    let mut text = Vec::new();
    text.extend_from_slice(before.map_or(MADE, |_| REPLACED).as_bytes());
    for line in before.unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
        if line.ends_with(b"\n") {
            text.extend_from_slice(LINE);
            text.extend_from_slice(line);
        } else {
            text.extend_from_slice(UNENDED);
            text.extend_from_slice(line);
            text.push(b'\n');
        }
    }
    text.extend_from_slice(format!("nameserver {server}\n").as_bytes());
    text
}

/// What was there before the process that wrote this file, which did not live to put it back; `None` if it is no such file.
fn original(found: &[u8]) -> Option<Option<Vec<u8>>> {
    if found.starts_with(MADE.as_bytes()) {
        return Some(None);
    }
    let mut before = Vec::new();
    for line in found.strip_prefix(REPLACED.as_bytes())?.split_inclusive(|byte| *byte == b'\n') {
        if let Some(line) = line.strip_prefix(LINE) {
            before.extend_from_slice(line);
        } else if let Some(line) = line.strip_prefix(UNENDED) {
            before.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        }
    }
    Some(Some(before))
}

/// Writes first and shortens then: if it is interrupted, what was there is not all gone.
fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all(bytes)?;
    let end = file.stream_position()?;
    file.set_len(end)
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
    fn what_a_killed_process_replaced_comes_back_after_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        for before in [&b"nameserver 10.0.0.1\nsearch a.b\n"[..], b"", b"\n\n# a\n#| b\n", b"no end", b"\xff\0\n\xfe"] {
            fs::write(&path, before).unwrap();
            for server in [SERVER, Ipv4Addr::new(10, 1, 1, 1), SERVER] {
                std::mem::forget(ResolvConf::write(&path, server).unwrap());
                let text = fs::read(&path).unwrap();
                let servers = text.split(|byte| *byte == b'\n').filter(|line| line.first().is_some_and(|c| *c != b'#'));
                assert_eq!(servers.collect::<Vec<_>>(), [format!("nameserver {server}").as_bytes()]);
            }
            drop(ResolvConf::write(&path, SERVER).unwrap());
            assert_eq!(fs::read(&path).unwrap(), before);
        }
        fs::remove_file(&path).unwrap();
        std::mem::forget(ResolvConf::write(&path, SERVER).unwrap());
        drop(ResolvConf::write(&path, SERVER).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn what_somebody_else_has_written_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let conf = ResolvConf::write(&path, SERVER).unwrap();
        fs::write(&path, "nameserver 9.9.9.9\n").unwrap();
        drop(conf);
        assert_eq!(fs::read_to_string(&path).unwrap(), "nameserver 9.9.9.9\n");
    }

    #[test]
    fn a_link_to_itself_is_an_error_and_not_a_hang() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("resolv.conf");
        symlink(&link, &link).unwrap();
        assert!(ResolvConf::write(&link, SERVER).is_err());
    }
}
