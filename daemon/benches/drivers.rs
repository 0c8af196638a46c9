//! What should drive the frame loop: a thread that polls, tokio, or io_uring. `cargo bench -p nitrotap --bench drivers`.
//!
//! The loop of each is the outbound one: read frames until there are none, write them to the stream in one piece, wait. Its
//! other end feeds it frames, or sends one and waits for it. A socket that keeps messages apart stands in for the TAP, and
//! takes as many system calls. Rounds are interleaved; what is printed are medians.

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

mod drivers {
    pub(crate) mod threads;
    pub(crate) mod tokio;
    pub(crate) mod uring;
}

use hdrhistogram::Histogram;
use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt},
    time::{ClockId, clock_gettime},
};
use std::{
    io::{self, Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    thread,
    time::{Duration, Instant},
};

/// Bytes of a batch, as the daemon's.
const BATCH: usize = 64 << 10;
/// Longest frame fed here, with its prefix.
const LONGEST: usize = 2048;
const FRAME: usize = 1514;
const ROUNDS: usize = 5;
const FRAMES: u64 = 400_000;
const PINGS: u64 = 20_000;

type Drive = fn(OwnedFd, OwnedFd) -> io::Result<()>;

const DRIVERS: [(&str, Drive); 3] =
    [("thread", drivers::threads::drive), ("tokio", drivers::tokio::drive), ("io_uring", drivers::uring::drive)];

fn main() -> io::Result<()> {
    // `cargo test --benches` runs this too: briefly.
    let brief = !std::env::args().any(|arg| arg == "--bench");
    let (rounds, frames, pings) = if brief { (1, 2000, 100) } else { (ROUNDS, FRAMES, PINGS) };
    let mut results = vec![Vec::new(); DRIVERS.len()];
    for round in 0..rounds {
        for turn in 0..DRIVERS.len() {
            let which = (turn + round) % DRIVERS.len();
            let drive = DRIVERS[which].1;
            let (rate, processor) = flood(drive, frames)?;
            let (median, tail) = ping(drive, pings)?;
            results[which].push([rate, processor, median, tail]);
        }
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:10} {:>16} {:>16} {:>12} {:>12}",
        "driver", "k frames/s", "us CPU/k frames", "ping p50 us", "p99 us"
    )?;
    for ((name, _), rounds) in DRIVERS.iter().zip(&results) {
        let median = |column: usize| {
            let mut values: Vec<f64> = rounds.iter().map(|round| round[column]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let [rate, processor, half, tail] = [0, 1, 2, 3].map(median);
        writeln!(out, "{name:10} {:16.0} {:16.0} {half:12.1} {tail:12.1}", rate / 1e3, processor * 1e9)?;
    }
    Ok(())
}

/// A driver under way: where its frames come from, where they go to, and its processor time once it has ended.
struct Running {
    feed: OwnedFd,
    stream: UnixStream,
    driver: thread::JoinHandle<io::Result<Duration>>,
}

impl Running {
    fn start(drive: Drive) -> io::Result<Self> {
        let (feed, tap) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let (near, far) = UnixStream::pair()?;
        sockopt::set_socket_send_buffer_size(&feed, 1 << 20)?;
        sockopt::set_socket_send_buffer_size(&near, 1 << 20)?;
        rustix::io::ioctl_fionbio(&tap, true)?;
        let driver = thread::spawn(move || {
            drive(tap, near.into())?;
            let time = clock_gettime(ClockId::ThreadCPUTime);
            Ok(Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32))
        });
        Ok(Self { feed, stream: far, driver })
    }

    fn end(self) -> io::Result<Duration> {
        let Self { feed, stream, driver } = self;
        drop(feed);
        let time = driver.join().map_err(|_| io::Error::other("the driver panicked"))?;
        drop(stream);
        time
    }
}

/// Frames per second, and seconds of processor time per frame.
fn flood(drive: Drive, frames: u64) -> io::Result<(f64, f64)> {
    let running = Running::start(drive)?;
    let (feed, mut stream) = (running.feed.try_clone()?, running.stream.try_clone()?);
    let start = Instant::now();
    let feeder = thread::spawn(move || -> io::Result<()> {
        for _ in 0..frames {
            rustix::net::send(&feed, &[7; FRAME], rustix::net::SendFlags::empty())?;
        }
        Ok(())
    });
    let mut left = frames * (FRAME as u64 + 2);
    let mut buffer = vec![0; 256 << 10];
    while left > 0 {
        left -= stream.read(&mut buffer)? as u64;
    }
    let seconds = start.elapsed().as_secs_f64();
    feeder.join().map_err(|_| io::Error::other("the feeder panicked"))??;
    let processor = running.end()?.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let frames = frames as f64;
    Ok((frames / seconds, processor / frames))
}

/// Median and 99th percentile of a single frame's way, in microseconds.
fn ping(drive: Drive, pings: u64) -> io::Result<(f64, f64)> {
    let mut running = Running::start(drive)?;
    let mut times = Histogram::<u64>::new_with_max(10_000_000_000, 3).map_err(io::Error::other)?;
    let mut buffer = [0; 66];
    for _ in 0..pings {
        let start = Instant::now();
        rustix::net::send(&running.feed, &[7; 64], rustix::net::SendFlags::empty())?;
        running.stream.read_exact(&mut buffer)?;
        times.saturating_record(start.elapsed().as_nanos() as u64);
    }
    running.end()?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let micros = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    Ok((micros(0.5), micros(0.99)))
}

/// Writes the length of a frame in front of it, as gvproxy reads it.
fn prefix(frame: &mut [u8], len: usize) {
    frame[..2].copy_from_slice(&(len as u16).to_le_bytes());
}

/// Blocks until `fd` is ready.
fn wait(fd: &OwnedFd, flags: PollFlags) -> io::Result<()> {
    poll(&mut [PollFd::new(fd, flags)], None)?;
    Ok(())
}
