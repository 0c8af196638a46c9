//! A child process whose output goes to files, with deadlines on everything.
//!
//! Files and not pipes: nothing blocks when nobody reads, and the text is still there when the test fails.

use crate::{Scratch, wait};
use rustix::process::{Pid, Signal};
use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A running (or ended) child. Dropping it kills it by pid; a test that is failing prints what it had said.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// What a process left: its exit status and all it said.
#[derive(Clone, Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Process {
    /// Starts `command` with its output in files of `scratch`; `name` is for messages. Standard input is empty.
    pub fn start(name: &str, command: Command, scratch: &Scratch) -> Self {
        Self::start_with_stdin(name, command, scratch, Stdio::null())
    }

    pub fn start_with_stdin(name: &str, mut command: Command, scratch: &Scratch, stdin: Stdio) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let file = |suffix| {
            let path = scratch.join(&format!("{name}-{serial}.{suffix}"));
            (File::create(&path).expect("scratch directory is writable"), path)
        };
        let ((out, stdout), (err, stderr)) = (file("out"), file("err"));
        let child = command
            .stdin(stdin)
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({}): {error}", command.get_program().display()));
        Self { name: name.to_owned(), child, ended: None, stdout, stderr }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    pub fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            let pid = Pid::from_child(&self.child);
            rustix::process::kill_process(pid, signal).expect("the child is not reaped: its pid is still its own");
        }
    }

    /// The exit status, if the process has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("own child");
        }
        self.ended
    }

    pub fn is_running(&mut self) -> bool {
        self.try_wait().is_none()
    }

    /// Waits for the end.
    pub fn finish(&mut self, limit: Duration) -> Finished {
        let what = format!("{} to end", self.name);
        let status = wait::until(&what, limit, || self.try_wait());
        Finished { status, stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Kills at once, with SIGKILL, and reaps.
    pub fn kill(&mut self) {
        if self.try_wait().is_none() {
            self.child.kill().expect("own child");
            self.ended = Some(self.child.wait().expect("own child"));
        }
    }

    /// Waits until a whole line of standard output starts with `start`, and gives the rest of that line.
    pub fn expect_line(&mut self, start: &str, limit: Duration) -> String {
        let what = format!("{} to print a line that starts with {start:?}", self.name);
        wait::until(&what, limit, || {
            let ended = !self.is_running();
            let found = whole_lines(&self.stdout()).find_map(|line| line.strip_prefix(start).map(str::to_owned));
            assert!(found.is_some() || !ended, "{} ended early:\n{}", self.name, self.stderr());
            found
        })
    }

    /// Waits until standard error contains `needle`.
    pub fn expect_stderr(&self, needle: &str, limit: Duration) {
        let what = format!("{} to say {needle:?}; it said:", self.name);
        wait::try_until(limit, || self.stderr().contains(needle).then_some(()))
            .unwrap_or_else(|| panic!("{what}\n{}", self.stderr()));
    }
}

impl Finished {
    /// The exit code; a process that a signal ended has none.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Panics with all the process said unless it succeeded.
    pub fn expect_success(self) -> Self {
        assert!(self.status.success(), "{}\nstdout:\n{}\nstderr:\n{}", self.status, self.stdout, self.stderr);
        self
    }

    /// The value of `key=value` in standard output.
    pub fn value(&self, key: &str) -> &str {
        self.stdout
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
            .unwrap_or_else(|| panic!("no {key}= in {:?} {:?}", self.stdout, self.stderr))
    }

    pub fn number(&self, key: &str) -> u64 {
        self.value(key).parse().unwrap_or_else(|_| panic!("{key} is not a number in {:?}", self.stdout))
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "what a child said explains why the test fails")]
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let status = self.ended.map(|status| status.to_string()).unwrap_or_default();
            eprintln!("--- {} (pid {}, {status}) said:\n{}{}", self.name, self.pid(), self.stdout(), self.stderr());
        }
    }
}

/// The lines of `text` that are complete: the last one may still be in the writing.
fn whole_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'))
}
