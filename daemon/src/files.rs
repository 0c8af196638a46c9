//! Files that an operator names for us: captures, logs, process numbers.
//!
//! Whoever may write to their folder could put a link there and have us overwrite something else, so no link is followed at
//! the last part of a path, and a file that belongs to another user is left alone.

use rustix::{
    fs::{FileType, Mode, OFlags, Stat, fchmod, fstat, lstat, open, rename, unlink},
    io::Errno,
    process::geteuid,
};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Only for us: frames and logs say who talks to whom.
pub(crate) const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);
/// For everybody to read, as is usual for process numbers.
pub(crate) const PUBLIC: Mode = PRIVATE.union(Mode::RGRP).union(Mode::ROTH);

/// What is in the way of a file of ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotOurs {
    #[error("it is a symbolic link, which is not followed; name the file itself, or remove the link")]
    Link,
    #[error("it is a folder")]
    Folder,
    #[error("it is no ordinary file")]
    Special,
    #[error("it belongs to user {0}; remove it, or choose another name")]
    Owner(u32),
    #[error("{0}; choose a file in a folder that this user may write to")]
    Io(#[from] io::Error),
}

impl From<NotOurs> for io::Error {
    fn from(error: NotOurs) -> Self {
        match error {
            NotOurs::Io(error) => error,
            error @ (NotOurs::Link | NotOurs::Folder | NotOurs::Special | NotOurs::Owner(_)) => Self::other(error),
        }
    }
}

impl From<Errno> for NotOurs {
    fn from(errno: Errno) -> Self {
        match errno {
            // `O_NOFOLLOW` says so of a link.
            Errno::LOOP => Self::Link,
            errno => Self::Io(errno.into()),
        }
    }
}

/// Opens a file to add to it. If it is not there it is made, for nobody else to read. Waits for the reader of a FIFO.
pub(crate) fn append(path: &Path) -> Result<File, NotOurs> {
    append_with(path, OFlags::empty())
}

/// The same, but a FIFO without a reader is an error, and what is opened never waits.
pub(crate) fn append_at_once(path: &Path) -> Result<File, NotOurs> {
    append_with(path, OFlags::NONBLOCK)
}

fn append_with(path: &Path, more: OFlags) -> Result<File, NotOurs> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = open(path, flags | more, PRIVATE)?;
    check(&fstat(&fd)?)?;
    Ok(fd.into())
}

/// Whether a path leads to something that is written to as it is, such as a FIFO or `/dev/null`.
pub(crate) fn is_special(path: &Path) -> bool {
    lstat(path).is_ok_and(|stat| {
        matches!(FileType::from_raw_mode(stat.st_mode), FileType::Fifo | FileType::CharacterDevice | FileType::Socket)
    })
}

/// Puts a new file with these contents in the place of what was there, in one step; gives it, open for writing behind them.
pub(crate) fn replace(path: &Path, mode: Mode, contents: &[u8]) -> Result<File, NotOurs> {
    match lstat(path) {
        Ok(stat) => {
            check(&stat)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(NotOurs::Special);
            }
        }
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let (fresh, mut file) = fresh(path)?;
    let mut write = || {
        file.write_all(contents)?;
        // What the umask took.
        fchmod(&file, mode)?;
        rename(&fresh, path)?;
        Ok(())
    };
    let written: io::Result<()> = write();
    if let Err(error) = written {
        let _ = unlink(&fresh);
        return Err(error.into());
    }
    Ok(file)
}

/// A file with a name of its own beside `path`.
fn fresh(path: &Path) -> Result<(PathBuf, File), NotOurs> {
    for n in 0..100 {
        let mut name = OsString::from(".");
        name.push(path.file_name().ok_or(NotOurs::Folder)?);
        name.push(format!(".{}.{n}", std::process::id()));
        let name = path.with_file_name(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match open(&name, flags, PRIVATE) {
            Ok(fd) => return Ok((name, fd.into())),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::EXIST.into())
}

/// Whether what is there may be written to: by us, and by nobody that we do not trust.
fn check(stat: &Stat) -> Result<(), NotOurs> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Symlink {
        return Err(NotOurs::Link);
    }
    if kind == FileType::Directory {
        return Err(NotOurs::Folder);
    }
    if kind == FileType::CharacterDevice {
        // Devices belong to root.
        return Ok(());
    }
    if stat.st_uid == geteuid().as_raw() || stat.st_uid == 0 { Ok(()) } else { Err(NotOurs::Owner(stat.st_uid)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    };

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn no_link_is_followed_and_its_target_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (precious, link, nowhere) = (dir.path().join("precious"), dir.path().join("link"), dir.path().join("none"));
        fs::write(&precious, "precious").unwrap();
        for target in [&precious, &nowhere] {
            symlink(target, &link).unwrap();
            assert!(matches!(append(&link), Err(NotOurs::Link)));
            assert!(matches!(replace(&link, PRIVATE, b"ours"), Err(NotOurs::Link)));
            fs::remove_file(&link).unwrap();
        }
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        assert!(!nowhere.exists());
        assert!(matches!(replace(dir.path(), PRIVATE, b""), Err(NotOurs::Folder)));
    }

    #[test]
    fn a_new_file_takes_the_place_of_the_old_one_and_is_as_open_as_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "what was there, and longer").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let (mut old, inode) = (File::open(&path).unwrap(), fs::metadata(&path).unwrap().ino());
        let mut file = replace(&path, PRIVATE, b"first").unwrap();
        file.write_all(b" second").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "first second");
        assert_eq!(mode(&path), 0o600);
        assert_ne!(fs::metadata(&path).unwrap().ino(), inode);
        let mut before = String::new();
        io::Read::read_to_string(&mut old, &mut before).unwrap();
        assert_eq!(before, "what was there, and longer", "who reads the old one still has it");
        replace(&path, PUBLIC, b"7\n").unwrap();
        assert_eq!(mode(&path), 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn a_log_is_added_to_and_made_for_us_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        append(&path).unwrap().write_all(b"one\n").unwrap();
        append(&path).unwrap().write_all(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn what_belongs_to_somebody_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("theirs");
        fs::write(&path, "theirs").unwrap();
        // Only root can give a file away.
        if chown(&path, Some(12_345), None).is_err() {
            return;
        }
        assert!(matches!(append(&path), Err(NotOurs::Owner(12_345))));
        assert!(matches!(replace(&path, PUBLIC, b"ours"), Err(NotOurs::Owner(12_345))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
    }

    #[test]
    fn what_cannot_be_written_is_an_error_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(replace(&dir.path().join("none/a"), PRIVATE, b""), Err(NotOurs::Io(_))));
        assert!(append(Path::new("/dev/null")).is_ok());
        assert!(matches!(replace(Path::new("/dev/null"), PRIVATE, b""), Err(NotOurs::Special)));
        assert!(is_special(Path::new("/dev/null")) && !is_special(dir.path()));
    }
}
