//! Log output: human text on a terminal, one JSON object per line on request; on standard error or in a file, because
//! standard output belongs to the supervised app.
//!
//! Nobody who logs waits for who reads: see [`mod@lossy`]. What peers can cause over and over is logged as often as [`mod@seldom`]
//! allows.

pub(crate) mod escape;
mod lossy;
mod seldom;

use crate::{clock::Clock, errors::Error, files, metrics::Sources};
use lossy::{Lossy, Sink};
use nitrotap_core::counters::{Desc, Kind};
use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    os::fd::{AsFd, BorrowedFd},
    panic,
    path::PathBuf,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{MakeWriter, writer::BoxMakeWriter},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Where logs go and how much there is, if not as usual.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    /// Added to; made if it is not there.
    pub(crate) file: Option<PathBuf>,
    /// A filter for when `NITROTAP_LOG` is silent.
    pub(crate) level: Option<&'static str>,
}

/// How long the end of the process waits for whoever reads the log.
const PATIENCE: Duration = Duration::from_secs(2);

/// The log of this process, once it runs for long.
static LOG: OnceLock<Lossy> = OnceLock::new();

/// Installs the process-wide subscriber, which writes with a thread of its own. `NITROTAP_LOG` takes a `tracing` filter such
/// as `debug` or `nitrotap=trace`; `level` is one for when it is silent.
pub(crate) fn init(format: LogFormat, level: &str) -> Result<(), Error> {
    install(format, lossy(StandardError(io::stderr()))?, level, io::stderr().is_terminal());
    Ok(())
}

/// Installs one for a process that must have a single thread, or that ends soon: it writes straight to standard error.
pub(crate) fn init_direct(format: LogFormat, level: &str) {
    install(format, BoxMakeWriter::new(io::stderr), level, io::stderr().is_terminal());
}

/// Installs the process-wide subscriber with a target of its own.
pub(crate) fn init_with(format: LogFormat, target: Target) -> Result<(), Error> {
    let level = target.level.unwrap_or("info");
    let Some(path) = target.file else { return init(format, level) };
    let file =
        files::append_at_once(&path).map_err(|e| Error::runtime(format!("cannot log into {}: {e}", path.display())))?;
    install(format, lossy(LogFile { path, file })?, level, false);
    Ok(())
}

fn install(format: LogFormat, writer: BoxMakeWriter, level: &str, colours: bool) {
    let filter = EnvFilter::try_from_env("NITROTAP_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    // A reader of our log that went away must not take the network with it: lines it cannot have are lost.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
    match format {
        LogFormat::Text => builder.fmt_fields(escape::Escaped).with_target(false).with_ansi(colours).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

fn lossy(sink: impl Sink) -> Result<BoxMakeWriter, Error> {
    let tell =
        |lines| tracing::warn!(lines, "{lines} lines were lost: the log was not read, or not written, fast enough");
    let log = Lossy::start(sink, tell).map_err(|e| Error::runtime(format!("cannot start a thread: {e}")))?;
    let log = LOG.get_or_init(|| log);
    panic::set_hook(Box::new(report_panic));
    Ok(BoxMakeWriter::new(Lines(log.clone())))
}

/// Waits, for a while, until everything that was logged is written.
pub(crate) fn flush() {
    if let Some(log) = LOG.get() {
        log.flush(PATIENCE);
    }
}

/// Opens the file of the log anew, if it is one: `logrotate` has moved it away.
pub(crate) fn reopen() {
    if let Some(log) = LOG.get() {
        log.reopen();
    }
}

/// Writes the last words of the process to standard error, behind what was logged; to nobody if nobody reads.
pub(crate) fn last_words(text: &str) {
    flush();
    lossy::write_patiently(io::stderr(), text.as_bytes(), PATIENCE);
}

/// Lines that nobody had the time to write, as a metric.
pub(crate) fn add_counters(sources: &Sources) {
    const LOST: Desc = Desc {
        name: "nitrotap_log_lines_lost",
        help: "Lines of the log that were lost because it was not read, or not written, fast enough.",
        labels: &[],
        kind: Kind::Counter,
    };
    sources.add(|tell| tell(LOST, LOG.get().map_or(0, Lossy::lost)));
}

/// What the standard library prints, but to nobody if nobody reads: the process must end.
fn report_panic(info: &panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    let trace = std::backtrace::Backtrace::capture();
    let captured = trace.status() == std::backtrace::BacktraceStatus::Captured;
    let trace = if captured { format!("{trace}\n") } else { String::new() };
    last_words(&format!("nitrotap: thread {name:?}: {info}; this is a bug\n{trace}"));
}

/// Whether to log a message that strangers can cause: `what` says which one, `who` who it was. With how many were left out, if
/// any were.
pub(crate) fn may_log(what: &'static str, who: u64) -> Option<Option<u64>> {
    static SEEN: OnceLock<(Clock, Mutex<seldom::Seldom>)> = OnceLock::new();
    let (clock, seldom) = SEEN.get_or_init(|| (Clock::start(), Mutex::default()));
    seldom
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .admit(clock.now(), what, who)
        .map(|left_out| (left_out > 0).then_some(left_out))
}

/// Logs a message that strangers can cause over and over, at most once a second and kind but for a few at once:
/// `seldom!(WARN, who, "what", field = 1)`. `who` is a number, such as a tenant's; it says how many were left out.
macro_rules! seldom {
    ($level:ident, $who:expr, $what:literal $(, $($field:tt)*)?) => {
        if let Some(left_out) = $crate::logging::may_log($what, u64::from($who)) {
            tracing::event!(tracing::Level::$level, $($($field)*,)? left_out, $what);
        }
    };
}

struct StandardError(io::Stderr);

impl Sink for StandardError {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn reopen(&mut self) {}
}

struct LogFile {
    path: PathBuf,
    file: File,
}

impl Sink for LogFile {
    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn reopen(&mut self) {
        match files::append_at_once(&self.path) {
            Ok(file) => self.file = file,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot open the log anew; the old file is used")
            }
        }
    }
}

/// Makes one line of each message.
#[derive(Clone)]
struct Lines(Lossy);

impl<'w> MakeWriter<'w> for Lines {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

impl Write for Lines {
    /// The subscriber writes each message in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
