//! How far a bench is: a bar on a terminal, a line per round elsewhere; always on standard error.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};

#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    plain: bool,
    done: u64,
    total: u64,
}

impl Progress {
    pub(crate) fn start(total: usize) -> Self {
        let total = total as u64;
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed}, {eta} left: {wide_msg}");
        let bar = ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, plain: !std::io::stderr().is_terminal(), done: 0, total }
    }

    /// What comes next.
    pub(crate) fn about(&self, what: &str) {
        if !self.plain {
            self.bar.set_message(what.to_owned());
            return;
        }
        // A line for every tenth, and the first.
        if self.done == 0 || self.done * 10 / self.total.max(1) != (self.done - 1) * 10 / self.total.max(1) {
            // If nobody reads it, nothing is lost.
            let _ = writeln!(std::io::stderr(), "{} of {}: {what}", self.done + 1, self.total);
        }
    }

    pub(crate) fn step(&mut self) {
        self.done += 1;
        self.bar.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
