//! As the first process of a machine: its end would be the kernel's panic.
//!
//! So the first process stays small: it starts nitrotap as a second one, passes signals on to it, reaps what the kernel hands
//! it, and when nitrotap has ended, in whatever way, it says with which code and powers the machine off. The first process of a
//! container is nothing of the kind: there, nitrotap ends as everywhere else.

use crate::sys::fork::{Forked, fork_with_signals_blocked, wait_for_signal};
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, wait},
    system::{RebootCommand, reboot},
};
use std::{ffi::OsString, fmt, io::Write as _, path::Path, process::ExitCode, sync::mpsc, thread, time::Duration};

/// What the first process of a machine does when nitrotap has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ExitAction {
    /// Power the machine off; one that cannot do that by itself, such as a microVM without ACPI, is reset.
    #[default]
    Poweroff,
    /// Reset the machine. A Nitro Enclave ends with it too.
    Reboot,
    /// End, which is a panic of the kernel.
    Exit,
}

/// The flag, which the first process reads before anybody has checked the command line.
const FLAG: &str = "--exit-action";

/// How long the console may take for the last words.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs `nitrotap` in this process, or, if this is the first one of a machine, under its care.
pub(crate) fn run(nitrotap: impl FnOnce() -> ExitCode) -> ExitCode {
    if !is_first_of_machine() {
        return nitrotap();
    }
    let action = action(std::env::args_os());
    match fork_with_signals_blocked() {
        Ok(Forked::Child) => nitrotap(),
        Ok(Forked::Parent(child)) => {
            let end = supervise(child);
            finish(action, end)
        }
        Err(errno) => {
            say(&format_args!("cannot start a second process: {errno}"));
            finish(action, End::Exited(1))
        }
    }
}

/// Whether our end is the machine's: PID 1, and not that of a PID namespace below the first one. There, the kernel knows no
/// Ctrl-Alt-Del (`pid_namespaces(7)`, `reboot(2)`); here, it becomes SIGINT, which ends us in good order.
fn is_first_of_machine() -> bool {
    getpid().is_init() && reboot(RebootCommand::CadOff).is_ok()
}

/// What the command line asks for, up to the command of an app.
fn action(args: impl Iterator<Item = OsString>) -> ExitAction {
    let mut action = ExitAction::default();
    let mut args = args.skip(1).take_while(|arg| arg != "--").map(|arg| arg.to_string_lossy().into_owned());
    while let Some(arg) = args.next() {
        let value = match arg.strip_prefix(FLAG) {
            Some("") => args.next(),
            Some(rest) => rest.strip_prefix('=').map(ToOwned::to_owned),
            None => None,
        };
        // What cannot be read is an error of usage, which the other process tells.
        if let Some(read) = value.and_then(|value| <ExitAction as clap::ValueEnum>::from_str(&value, false).ok()) {
            action = read;
        }
    }
    action
}

/// How nitrotap ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Exited(i32),
    Killed(i32),
}

impl End {
    fn of(status: WaitStatus) -> Option<Self> {
        status.exit_status().map(Self::Exited).or_else(|| status.terminating_signal().map(Self::Killed))
    }

    /// As a shell has it.
    const fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => 128 + signal,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Killed(signal) => write!(f, "exit code {} (killed by signal {signal})", self.code()),
        }
    }
}

/// Waits for the end of `child`.
fn supervise(child: Pid) -> End {
    loop {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == child => {
                    if let Some(end) = End::of(status) {
                        return end;
                    }
                }
                // An orphan.
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                // There is no child any more: its end was lost.
                Err(_) => return End::Exited(1),
            }
        }
        if let Some(signal) =
            wait_for_signal().filter(|signal| *signal != libc::SIGCHLD).and_then(Signal::from_named_raw)
        {
            // It may have ended a moment ago.
            let _ = kill_process(child, signal);
        }
    }
}

/// How a machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    PowerOff,
    Reset,
    Exit,
}

/// A machine that cannot power itself off would stand still for ever instead (`kernel_can_power_off` in Linux's
/// kernel/reboot.c), and nobody would start it anew; the reset of a microVM ends it.
const fn how(action: ExitAction, can_power_off: bool) -> How {
    match action {
        ExitAction::Poweroff if can_power_off => How::PowerOff,
        ExitAction::Poweroff | ExitAction::Reboot => How::Reset,
        ExitAction::Exit => How::Exit,
    }
}

/// Says the last words and ends the machine; returns only where the process is to end.
fn finish(action: ExitAction, end: End) -> ExitCode {
    let how = how(action, action == ExitAction::Poweroff && can_power_off());
    rustix::fs::sync();
    let what = match how {
        How::PowerOff => "powering the machine off",
        How::Reset => "resetting the machine",
        How::Exit => "ending as the first process",
    };
    say(&format_args!("{end}: {what}"));
    let commands = match how {
        How::PowerOff => [RebootCommand::PowerOff, RebootCommand::Restart],
        How::Reset => [RebootCommand::Restart, RebootCommand::PowerOff],
        How::Exit => return ExitCode::from(u8::try_from(end.code()).unwrap_or(1)),
    };
    for command in commands {
        if let Err(errno) = reboot(command) {
            say(&format_args!("the kernel does not end the machine: {errno}"));
        }
    }
    // Nothing is left to do but not to end.
    loop {
        thread::park();
    }
}

/// On x86 it takes ACPI; elsewhere firmware does it (PSCI).
fn can_power_off() -> bool {
    if cfg!(not(any(target_arch = "x86_64", target_arch = "x86"))) {
        return true;
    }
    let tables = || Path::new("/sys/firmware/acpi/tables").exists();
    if tables() {
        return true;
    }
    // It may not be there yet. All that is asked of it is this.
    let _ = std::fs::create_dir("/sys");
    let mounted = rustix::mount::mount("sysfs", "/sys", "sysfs", rustix::mount::MountFlags::empty(), None);
    mounted.is_ok() && tables()
}

/// A line on the console, and time for it to get there.
fn say(words: &dyn fmt::Display) {
    // If nobody reads it, nobody does.
    let _ = writeln!(std::io::stderr(), "nitrotap: {words}");
    let (done, waiting) = mpsc::channel();
    let drain = move || {
        let _ = rustix::termios::tcdrain(std::io::stderr());
        let _ = done.send(());
    };
    if thread::Builder::new().spawn(drain).is_ok() {
        let _ = waiting.recv_timeout(LAST_WORDS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_reads_its_flag_and_no_other_s() {
        let read = |line: &str| action(line.split(' ').map(OsString::from));
        for (line, action) in [
            ("nitrotap enclave --host vsock://3:1024", ExitAction::Poweroff),
            ("nitrotap --exit-action reboot enclave", ExitAction::Reboot),
            ("nitrotap enclave --exit-action=exit -- app", ExitAction::Exit),
            ("nitrotap enclave --exit-action reboot --exit-action poweroff", ExitAction::Poweroff),
            ("nitrotap enclave -- app --exit-action reboot", ExitAction::Poweroff),
            ("nitrotap enclave --exit-action nothing", ExitAction::Poweroff),
            ("nitrotap enclave --exit-actions=reboot", ExitAction::Poweroff),
            ("nitrotap enclave --exit-action", ExitAction::Poweroff),
        ] {
            assert_eq!(read(line), action, "{line}");
        }
    }

    #[test]
    fn a_machine_that_cannot_power_itself_off_is_reset() {
        for (action, can_power_off, expected) in [
            (ExitAction::Poweroff, true, How::PowerOff),
            (ExitAction::Poweroff, false, How::Reset),
            (ExitAction::Reboot, true, How::Reset),
            (ExitAction::Reboot, false, How::Reset),
            (ExitAction::Exit, true, How::Exit),
            (ExitAction::Exit, false, How::Exit),
        ] {
            assert_eq!(how(action, can_power_off), expected);
        }
    }

    #[test]
    fn an_end_is_told_with_its_code() {
        assert_eq!(End::Exited(7).to_string(), "exit code 7");
        assert_eq!(End::Killed(6).to_string(), "exit code 134 (killed by signal 6)");
        assert_eq!((End::Exited(7).code(), End::Killed(9).code()), (7, 137));
    }

    #[test]
    fn a_test_is_not_the_first_process_of_a_machine() {
        assert!(!is_first_of_machine());
    }
}
