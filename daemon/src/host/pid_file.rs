//! The file with our process number.

use crate::{errors::Error, files};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A process-number file; removed on drop if it is still ours.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    text: String,
}

impl PidFile {
    /// Writes it, for everybody to read; what was there is replaced, as gvproxy does, unless it is a link or another's.
    pub(super) fn write(path: &Path) -> Result<Self, Error> {
        let text = format!("{}\n", std::process::id());
        files::replace(path, files::PUBLIC, text.as_bytes())
            .map_err(|e| Error::runtime(format!("cannot write the pid file {}: {e}", path.display())))?;
        Ok(Self { path: path.to_owned(), text })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if fs::read_to_string(&self.path).is_ok_and(|text| text == self.text) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_our_number_and_goes_with_us_unless_it_is_anothers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
        let file = PidFile::write(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(dir.path().join("precious"), &path).unwrap();
        let error = PidFile::write(&path).unwrap_err().to_string();
        assert!(error.contains("symbolic link"), "{error}");
        assert!(!dir.path().join("precious").exists());
        let error = PidFile::write(&dir.path().join("none/pid")).unwrap_err().to_string();
        assert!(error.contains("none/pid"), "{error}");
    }
}
