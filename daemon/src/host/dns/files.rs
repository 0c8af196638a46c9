//! A small file that others write, read again when it changed.

use nitrotap_core::time::Instant;
use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    time::Duration,
};

/// How often a file is looked at, at most.
const PERIOD: Duration = Duration::from_secs(1);
/// Bytes read of a file; what is behind them does not count.
const SIZE_MAX: u64 = 1 << 20;

/// The file, and what was seen of it.
#[derive(Debug)]
pub(super) struct Watched {
    path: PathBuf,
    /// When it was looked at, and what then told one version of it from another.
    seen: Option<(Instant, Stamp)>,
}

/// Device, inode, size, and time of the last change in seconds and nanoseconds; `None` if there is no such file.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl Watched {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, seen: None }
    }

    /// The text, if it is another than last time; empty if the file cannot be read.
    pub(super) fn poll(&mut self, now: Instant) -> Option<String> {
        if self.seen.is_some_and(|(at, _)| now.since(at) < PERIOD) {
            return None;
        }
        let stamp = fs::metadata(&self.path).ok().map(|m| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()));
        let before = self.seen.replace((now, stamp));
        if before.is_some_and(|(_, before)| before == stamp) {
            return None;
        }
        Some(self.read().unwrap_or_else(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                tracing::debug!(path = %self.path.display(), "no such file, taken as empty");
            } else {
                tracing::warn!(path = %self.path.display(), %error, "cannot read the file, taken as empty");
            }
            String::new()
        }))
    }

    fn read(&self) -> io::Result<String> {
        let mut bytes = Vec::new();
        File::open(&self.path)?.take(SIZE_MAX).read_to_end(&mut bytes)?;
        // Comments may be in any encoding.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_when_it_changed_and_not_more_often_than_each_second() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut file = Watched::new(path.clone());
        assert_eq!(file.poll(Instant::ZERO).as_deref(), Some(""), "there is none");
        fs::write(&path, "one").unwrap();
        assert_eq!(file.poll(Instant::from_millis(999)), None);
        assert_eq!(file.poll(Instant::from_millis(1000)).as_deref(), Some("one"));
        assert_eq!(file.poll(Instant::from_millis(2000)), None);
        // As resolvconf does it: another file of the same size in its place.
        fs::write(dir.path().join("new"), b"t\xffo").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(file.poll(Instant::from_millis(3000)).as_deref(), Some("t\u{fffd}o"));
        fs::remove_file(&path).unwrap();
        assert_eq!(file.poll(Instant::from_millis(4000)).as_deref(), Some(""));
    }
}
