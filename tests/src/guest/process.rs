//! Ways for an app to behave as a process: crash, leave orphans, tell its environment.

use super::say;
use std::{env, io, process::Command};

/// Prints the environment, sorted, one variable per line.
pub fn print_env() -> io::Result<()> {
    let mut variables: Vec<_> = env::vars_os().collect();
    variables.sort();
    variables.iter().try_for_each(|(name, value)| say(format_args!("{}={}", name.display(), value.display())))
}

/// Starts `count` processes whose parent ends at once, so that they fall to PID 1 and end there. Prints their pids.
pub fn spawn_orphans(count: usize) -> io::Result<()> {
    for _ in 0..count {
        let output = Command::new("sh").args(["-c", "sleep 0.05 >/dev/null 2>&1 & echo $!"]).output()?;
        say(format_args!("orphan {}", String::from_utf8_lossy(&output.stdout).trim()))?;
    }
    Ok(())
}

/// Ends with SIGABRT.
pub fn crash() -> ! {
    std::process::abort()
}
