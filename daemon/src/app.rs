//! A program under our care: started with our standard streams, told our signals, its exit code passed on.
//!
//! As PID 1 the supervisor also reaps the orphans that the kernel hands it (`pid_namespaces(7)`).

use crate::errors::Error;
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, wait},
};
use std::{
    ffi::OsString,
    process::{Command, ExitCode},
    time::Duration,
};
use tokio::signal::unix::{self, SignalKind};

/// A running program.
#[derive(Debug)]
pub(crate) struct App {
    name: String,
    pid: Pid,
    /// Whether its beginning and end are news to the operator.
    news: bool,
    /// Whether it was sent a signal that ends programs, so that dying of one is no surprise.
    told: bool,
    children: unix::Signal,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, with this code.
    Exited(u8),
    /// By this signal.
    Killed(i32),
}

impl Ended {
    /// The code a shell would report: the program's own, or 128 and the signal's number.
    pub(crate) fn code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => 128_u8.saturating_add(u8::try_from(signal).unwrap_or(127)),
        })
    }
}

impl App {
    /// Starts `command`; one clear error if it cannot be.
    pub(crate) fn start(command: &[OsString]) -> Result<Self, Error> {
        let (program, args) = command.split_first().ok_or_else(|| Error::usage("the command after -- is empty"))?;
        let mut command = Command::new(program);
        command.args(args);
        Self::spawn(command, true)
    }

    /// Starts a part of ourselves, of which only we need to know.
    pub(crate) fn start_part(command: Command) -> Result<Self, Error> {
        Self::spawn(command, false)
    }

    fn spawn(mut command: Command, news: bool) -> Result<Self, Error> {
        let name = command.get_program().to_string_lossy().into_owned();
        let cannot = |e: &dyn std::fmt::Display, hint: &str| Error::runtime(format!("cannot start {name}: {e}{hint}"));
        // Listening comes first: a child that ends at once must not be missed.
        let children = unix::signal(SignalKind::child()).map_err(|e| cannot(&e, ""))?;
        let child = command.spawn().map_err(|e| {
            let hint = match Errno::from_io_error(&e) {
                Some(Errno::NOENT) => "; is it on PATH?",
                Some(Errno::ACCESS) => "; is it executable?",
                _ => "",
            };
            cannot(&e, hint)
        })?;
        let pid = Pid::from_child(&child);
        if news {
            tracing::info!(app = name, pid = pid.as_raw_nonzero().get(), "started");
        }
        Ok(Self { name, pid, news, told: false, children })
    }

    /// Waits for the end of the program; reaps whatever else ends meanwhile. Cancelling loses nothing.
    pub(crate) async fn ended(&mut self) -> Ended {
        loop {
            if let Some(ended) = self.reap() {
                return ended;
            }
            self.children.recv().await;
        }
    }

    /// Passes a signal on; a program that has just ended does not mind.
    pub(crate) fn signal(&mut self, signal: Signal) {
        self.told |= ![Signal::WINCH, Signal::CONT].contains(&signal);
        match kill_process(self.pid, signal) {
            Ok(()) => tracing::debug!(app = self.name, signal = signal.as_raw(), "signal passed on"),
            Err(errno) => tracing::debug!(app = self.name, %errno, "signal not passed on"),
        }
    }

    /// Asks the program to end, and ends it if it has not in `grace`.
    pub(crate) async fn stop(&mut self, grace: Duration) -> Ended {
        self.signal(Signal::TERM);
        if let Ok(ended) = tokio::time::timeout(grace, self.ended()).await {
            return ended;
        }
        tracing::warn!(app = self.name, ?grace, "the app did not end when told to: killing it");
        self.signal(Signal::KILL);
        self.ended().await
    }

    fn reap(&self) -> Option<Ended> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.pid => {
                    let ended = ended(status)?;
                    match ended {
                        _ if !self.news => tracing::debug!(app = self.name, ?ended, "ended"),
                        Ended::Exited(0) => tracing::info!(app = self.name, "exited"),
                        Ended::Exited(code) => tracing::warn!(app = self.name, code, "exited with an error"),
                        Ended::Killed(signal) if self.told => tracing::info!(app = self.name, signal, "ended as told"),
                        Ended::Killed(signal) => tracing::error!(app = self.name, signal, "killed by a signal"),
                    }
                    return Some(ended);
                }
                Ok(Some((pid, _))) => {
                    tracing::debug!(
                        pid = pid.as_raw_nonzero().get(),
                        as_pid = getpid().as_raw_nonzero().get(),
                        "reaped"
                    );
                }
                Ok(None) => return None,
                Err(Errno::INTR) => {}
                // ECHILD: someone else reaped it. Its code is lost; a failure is the safe thing to report.
                Err(errno) => {
                    tracing::error!(app = self.name, %errno, "cannot wait for the app");
                    return Some(Ended::Exited(1));
                }
            }
        }
    }
}

fn ended(status: WaitStatus) -> Option<Ended> {
    if let Some(code) = status.exit_status() {
        // The kernel keeps eight bits of it.
        return Some(Ended::Exited(u8::try_from(code & 0xff).unwrap_or(1)));
    }
    status.terminating_signal().map(Ended::Killed)
}

/// The signals that reach a supervisor, as one stream.
#[derive(Debug)]
pub(crate) struct Signals {
    ending: [unix::Signal; 3],
    passing: Vec<(Signal, unix::Signal)>,
    shared_terminal: bool,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To end; `told` if the app has had the signal from the terminal already.
    End { told: bool },
    /// To pass this on to the app.
    Pass(Signal),
}

impl Signals {
    /// Catches what ends us and what an app may want. `shared_terminal`: the app is in the terminal's foreground group
    /// with us and gets its Ctrl-C and Ctrl-\ from the terminal itself; passing them on would make it two.
    pub(crate) fn catch(shared_terminal: bool) -> Result<Self, Error> {
        let listen = |signal: Signal| {
            unix::signal(SignalKind::from_raw(signal.as_raw()))
                .map_err(|e| Error::runtime(format!("cannot catch signal {}: {e}", signal.as_raw())))
        };
        let mut passing = Vec::new();
        for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::WINCH, Signal::CONT, Signal::ALARM] {
            passing.push((signal, listen(signal)?));
        }
        let ending = [listen(Signal::TERM)?, listen(Signal::INT)?, listen(Signal::QUIT)?];
        Ok(Self { ending, passing, shared_terminal })
    }

    /// The next signal. Cancelling loses nothing.
    pub(crate) async fn next(&mut self) -> Asked {
        let [term, int, quit] = &mut self.ending;
        let told = self.shared_terminal;
        let passing = &mut self.passing;
        tokio::select! {
            _ = term.recv() => Asked::End { told: false },
            _ = int.recv() => Asked::End { told },
            _ = quit.recv() => Asked::End { told },
            signal = std::future::poll_fn(|cx| {
                for (signal, stream) in passing.iter_mut() {
                    if stream.poll_recv(cx).is_ready() {
                        return std::task::Poll::Ready(*signal);
                    }
                }
                std::task::Poll::Pending
            }) => Asked::Pass(signal),
        }
    }
}

/// Whether we are in the foreground group of our terminal, whose keys then signal all of the group.
pub(crate) fn in_terminal_foreground() -> bool {
    // In a PID namespace of its own the group's number is not visible, and getpgrp gives none.
    if getpid().is_init() {
        return false;
    }
    let Ok(tty) = std::fs::File::open("/dev/tty") else { return false };
    rustix::termios::tcgetpgrp(&tty).is_ok_and(|group| group == rustix::process::getpgrp())
}
