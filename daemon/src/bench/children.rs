//! Child processes: started by us, ended by us by their number, and by the kernel if we end without a word.

use crate::errors::Error;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, kill_process},
};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

/// A running program; ended on drop.
#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    child: std::process::Child,
    /// Closed on drop, which ends those who wait for it.
    _stdin: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
    log: PathBuf,
}

/// Longest wait for a line, beyond what was asked for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// How long a program may take to end when told to.
const END: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(5);
/// Of its last words, in bytes.
const WORDS: usize = 600;

impl Child {
    /// Starts `command`; its standard error goes to `log`.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Result<Self, Error> {
        let cannot = |e: &dyn std::fmt::Display| Error::runtime(format!("cannot start the {name}: {e}"));
        let errors = File::create(log).map_err(|e| cannot(&e))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        crate::sys::process::die_with_parent(&mut command, Signal::KILL);
        let mut child =
            command.spawn().map_err(|e| cannot(&format!("{}: {e}", command.get_program().to_string_lossy())))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let stdout = stdout.ok_or_else(|| cannot(&"it has no standard output"))?;
        Ok(Self { name: name.to_owned(), child, _stdin: stdin, lines: BufReader::new(stdout), log: log.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of standard output, within `patience`.
    pub(crate) fn line(&mut self, patience: Duration) -> Result<String, Error> {
        if self.lines.buffer().is_empty() {
            let wait = Timespec { tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
            let ready = poll(&mut [PollFd::new(self.lines.get_ref(), PollFlags::IN)], Some(&wait));
            if !ready.is_ok_and(|n| n > 0) {
                return Err(self.failed("says nothing"));
            }
        }
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(n) if n > 0 => Ok(line.trim_end().to_owned()),
            Ok(_) | Err(_) => Err(self.failed("ended")),
        }
    }

    /// A line that begins with `word`; what stands behind it.
    pub(crate) fn expect(&mut self, word: &str, patience: Duration) -> Result<String, Error> {
        loop {
            let line = self.line(patience)?;
            if let Some(rest) = line.strip_prefix(word) {
                return Ok(rest.trim_start().to_owned());
            }
        }
    }

    /// An error that quotes what the program said last.
    pub(crate) fn failed(&self, what: &str) -> Error {
        let said = fs::read(&self.log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said[said.len().saturating_sub(WORDS)..]).into_owned();
        let said = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ");
        let said = if said.is_empty() { "nothing" } else { &said };
        Error::runtime(format!("the {} {what}; it said: {said}", self.name))
    }

    /// Whether it still runs.
    pub(crate) fn check(&mut self) -> Result<(), Error> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(_)) | Err(_) => Err(self.failed("ended")),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Nobody else waits for it, so its number is still its own.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        for _ in 0..END.as_millis() / STEP.as_millis() {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(STEP),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (tempfile::TempDir, Child) {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let child = Child::start("shell", command, &dir.path().join("log")).unwrap();
        (dir, child)
    }

    #[test]
    fn lines_are_read_and_the_last_words_of_the_dead_are_told() {
        let (_dir, mut child) = shell("echo one; echo two 2; echo sorry >&2; exit 3");
        assert_eq!(child.expect("two", PATIENCE).unwrap(), "2");
        let error = child.line(PATIENCE).unwrap_err().to_string();
        assert_eq!(error, "the shell ended; it said: sorry");
    }

    #[test]
    fn a_child_ends_with_its_owner() {
        let (_dir, child) = shell("exec cat");
        let pid = Pid::from_child(&child.child);
        drop(child);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }
}
