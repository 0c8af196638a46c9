//! The file with our process number.

use crate::errors::Error;
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
    /// Writes it; what was there is replaced, as gvproxy does.
    pub(super) fn write(path: &Path) -> Result<Self, Error> {
        let text = format!("{}\n", std::process::id());
        fs::write(path, &text).map_err(|e| {
            Error::runtime(format!(
                "cannot write the pid file {}: {e}; choose a file in a folder that this user may write to",
                path.display()
            ))
        })?;
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
        let error = PidFile::write(&dir.path().join("none/pid")).unwrap_err().to_string();
        assert!(error.contains("none/pid"), "{error}");
    }
}
