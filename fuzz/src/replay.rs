//! Running a target on files, without a fuzzer.

use std::{fs, io, path::Path};

/// Runs `target` on every file of `folder`, in the order of their names; gives how many there were.
///
/// # Errors
/// If the folder or a file cannot be read.
pub fn replay(folder: &Path, target: impl Fn(&[u8])) -> io::Result<usize> {
    let mut files: Vec<_> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.sort();
    for file in &files {
        target(&fs::read(file)?);
    }
    Ok(files.len())
}

/// The `main` of a target that was built without `--cfg fuzzing`: runs the files named on the command line.
#[macro_export]
macro_rules! replay_main {
    ($target:path) => {
        fn main() -> std::io::Result<()> {
            for file in std::env::args_os().skip(1) {
                $target(&std::fs::read(file)?);
            }
            Ok(())
        }
    };
}
