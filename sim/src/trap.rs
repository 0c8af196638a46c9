//! The trap: makes any reading of the real clock or of real randomness inside a simulated step a failure with a backtrace.
//!
//! A simulated run is a function of its seed. One `SystemTime::now()` three crates down makes it a function of the day as
//! well, and the failure it finds cannot be replayed. Lints see our own code only, so this file stands where all code
//! passes: it defines libc's `clock_gettime`, `gettimeofday`, `time`, `getrandom` and `getentropy`, and the linker prefers
//! an executable's own definition to that of the C library. It owns those five symbols, and per thread a switch and a list
//! of what was seen. It does not mask: a call gets its true answer, so that nothing breaks in odd places on the way out.
//!
//! The driver holds [`arm()`] around each step of a simulation and calls [`check()`] after it. [`allow()`] exempts a spot that
//! is known to do no harm, with the reason beside it.
//!
//! Exempt without asking: reading `CLOCK_MONOTONIC` while no tokio task is being polled. tokio's scheduler does that twice
//! per turn for its "busy" metric (`MetricsBatch`), which nothing in a simulation reads; all code of a simulated host runs
//! inside a task. Those readings are most of what an idle step would cost, so up to [`REUSES`] in a row get the last one.
//!
//! Exempt on demand: inside [`with_wall_clock_at_zero()`] the wall clock shows 1970 to whoever asks. hyper's server reads it
//! at every turn for the cache of its `Date` header, also where that header is off.
//!
//! Not seen: system calls made without libc (rustix's own backend, code that calls the vDSO), `rdtsc`, what the C library
//! calls inside itself, `/dev/urandom`, and other threads. `RandomState` asks the system once per thread and counts up from
//! there, so only the first one of a thread is caught (building a tokio runtime creates one): the order of hash maps is
//! left to clippy.toml and to comparing the traces of two processes.
//!
//! Bound: [`KEPT`] leaks per thread keep their backtrace, the rest are counted. A call that is passed on costs a real
//! system call instead of one through the vDSO.
#![expect(unsafe_code, reason = "C functions with pointers, forwarded to the kernel, are unsafe by nature")]

use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_long, c_uint, c_void};
use std::fmt;
use std::marker::PhantomData;

/// Leaks of one thread that are kept with their backtrace until [`check()`]. The first one is the one to fix.
pub const KEPT: usize = 4;

/// How often one reading of the monotonic clock serves tokio's metric. Bounded, so that a loop that does wait for the real
/// clock outside of a task gets to its end.
pub const REUSES: u32 = 64;

// Constants without destructors: these can be read at any time, also while a thread starts or ends, without allocating
// and without reading the clock.
thread_local! {
    /// Living [`Armed`] guards.
    static ARMED: Cell<u32> = const { Cell::new(0) };
    /// Calls of [`allow()`] in progress.
    static ALLOWED: Cell<u32> = const { Cell::new(0) };
    /// Calls of [`with_wall_clock_at_zero()`] in progress.
    static AT_ZERO: Cell<u32> = const { Cell::new(0) };
    /// Leaks beyond [`KEPT`].
    static UNSHOWN: Cell<u64> = const { Cell::new(0) };
    static SHOWN: RefCell<Vec<Leak>> = const { RefCell::new(Vec::new()) };
    /// The last reading of the monotonic clock on this thread, and how often it may still be used again.
    static READING: Cell<(libc::timespec, u32)> = const { Cell::new((libc::timespec { tv_sec: 0, tv_nsec: 0 }, 0)) };
}

/// Arms the trap on this thread until the guard is dropped. Guards nest; the last one to go disarms.
pub fn arm() -> Armed {
    ARMED.set(ARMED.get() + 1);
    Armed { this_thread: PhantomData }
}

/// Keeps the trap of this thread armed; see [`arm()`].
#[derive(Debug)]
#[must_use = "the trap is armed for as long as the guard lives"]
pub struct Armed {
    /// Not `Send`: the guard undoes what it did to its own thread.
    this_thread: PhantomData<*const ()>,
}

impl Drop for Armed {
    fn drop(&mut self) {
        ARMED.set(ARMED.get() - 1);
    }
}

/// Runs `f` with the trap of this thread off, also where `f` arms it again.
pub fn allow<T>(f: impl FnOnce() -> T) -> T {
    struct Allowed;
    impl Drop for Allowed {
        fn drop(&mut self) {
            ALLOWED.set(ALLOWED.get() - 1);
        }
    }
    ALLOWED.set(ALLOWED.get() + 1);
    let _allowed = Allowed;
    f()
}

/// Runs `f` with a wall clock that stands still: while the trap is armed, `CLOCK_REALTIME` reads zero and that is no leak.
pub fn with_wall_clock_at_zero<T>(f: impl FnOnce() -> T) -> T {
    struct Scope;
    impl Drop for Scope {
        fn drop(&mut self) {
            AT_ZERO.set(AT_ZERO.get() - 1);
        }
    }
    AT_ZERO.set(AT_ZERO.get() + 1);
    let _scope = Scope;
    f()
}

/// Takes what the trap of this thread has seen since the last call. Cheap where that is nothing.
///
/// # Errors
///
/// [`Leaks`] where the real world leaked in.
pub fn check() -> Result<(), Leaks> {
    let leaks = Leaks { shown: SHOWN.take(), unshown: UNSHOWN.take() };
    if leaks.shown.is_empty() { Ok(()) } else { Err(leaks) }
}

/// What one thread let through between two calls of [`check()`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaks {
    /// The first [`KEPT`], oldest first; never empty.
    pub shown: Vec<Leak>,
    /// How many more there were.
    pub unshown: u64,
}

impl std::error::Error for Leaks {}

impl fmt::Display for Leaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for leak in &self.shown {
            writeln!(f, "{leak}")?;
        }
        if self.unshown > 0 {
            writeln!(f, "and {} more like these", self.unshown)?;
        }
        write!(f, "take time from the virtual clock and randomness from the seed, or exempt the call with trap::allow")
    }
}

/// One reading of the real world by simulated code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    /// The C function, and for a clock which one.
    pub what: &'static str,
    /// Who called it, innermost frame first, from the caller of the C function to the start of the thread.
    pub backtrace: String,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the real world leaked into the simulation: {} called by", self.what)?;
        f.write_str(&self.backtrace)
    }
}

/// Whether a call on this thread is a leak now.
fn is_armed() -> bool {
    ARMED.get() > 0 && ALLOWED.get() == 0
}

/// Whether this is tokio's scheduler timing itself, which happens between the polls of tasks and on this clock only.
fn is_scheduler_metric(clock: libc::clockid_t) -> bool {
    clock == libc::CLOCK_MONOTONIC && tokio::task::try_id().is_none()
}

/// Notes a leak. Never inlined, so that it is a frame by which [`from_caller`] knows the trap's own frames.
#[cold]
#[inline(never)]
fn record(what: &'static str) {
    // Resolving symbols allocates, locks and reads files; whatever it calls must not come back here.
    allow(|| {
        // Where the thread is already being torn down, a leak can no longer reach a driver either.
        let _ = SHOWN.try_with(|shown| {
            if shown.borrow().len() < KEPT {
                let backtrace = from_caller(&Backtrace::force_capture().to_string());
                shown.borrow_mut().push(Leak { what, backtrace });
            } else {
                UNSHOWN.set(UNSHOWN.get() + 1);
            }
        });
    });
}

/// Cuts a printed backtrace down to the frames between the trap and the start of the thread.
fn from_caller(backtrace: &str) -> String {
    // A frame is a line with its symbol, and where debug information tells it, a line "at file:line:column".
    let mut symbols = backtrace.lines().enumerate().filter_map(|(at, line)| {
        let line = line.trim_start();
        let symbol = line.split_once(": ").map_or(line, |(_number, symbol)| symbol);
        (!line.starts_with("at ")).then_some((at, symbol))
    });
    let is_entry = |symbol: &str| {
        let name = symbol.rsplit_once("trap::").map_or(symbol, |(_module, name)| name);
        ["clock_gettime", "gettimeofday", "time", "getrandom", "getentropy"].contains(&name)
    };
    // The C function may have been inlined into its caller; `record` never is.
    let mut start = 0;
    let mut is_past_record = false;
    for (at, symbol) in symbols.by_ref() {
        start = at;
        if is_past_record && !is_entry(symbol) {
            break;
        }
        is_past_record |= symbol.ends_with("trap::record") || is_entry(symbol);
    }
    let start = if is_past_record { start } else { 0 };
    let end = symbols.find(|(_at, symbol)| symbol.contains("__rust_begin_short_backtrace"));
    let end = end.map_or(usize::MAX, |(at, _symbol)| at);
    backtrace.lines().take(end).skip(start).collect::<Vec<_>>().join("\n")
}

fn clock_name(clock: libc::clockid_t) -> &'static str {
    match clock {
        libc::CLOCK_REALTIME => "clock_gettime(CLOCK_REALTIME)",
        libc::CLOCK_REALTIME_COARSE => "clock_gettime(CLOCK_REALTIME_COARSE)",
        libc::CLOCK_MONOTONIC => "clock_gettime(CLOCK_MONOTONIC)",
        libc::CLOCK_MONOTONIC_COARSE => "clock_gettime(CLOCK_MONOTONIC_COARSE)",
        libc::CLOCK_MONOTONIC_RAW => "clock_gettime(CLOCK_MONOTONIC_RAW)",
        libc::CLOCK_BOOTTIME => "clock_gettime(CLOCK_BOOTTIME)",
        libc::CLOCK_PROCESS_CPUTIME_ID => "clock_gettime(CLOCK_PROCESS_CPUTIME_ID)",
        libc::CLOCK_THREAD_CPUTIME_ID => "clock_gettime(CLOCK_THREAD_CPUTIME_ID)",
        _ => "clock_gettime",
    }
}

// The five symbols. Each records first and asks the kernel last, so that `errno` is that of the call. `libc::syscall` is
// the one function of libc that cannot lead back here.

/// `clock_gettime(2)`.
///
/// # Safety
///
/// That of the C function: `time` points to a writable `timespec`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    if is_armed() {
        if clock == libc::CLOCK_REALTIME && AT_ZERO.get() > 0 {
            // SAFETY: the caller answers for the pointer.
            unsafe { time.write(libc::timespec { tv_sec: 0, tv_nsec: 0 }) };
            return 0;
        }
        if !is_scheduler_metric(clock) {
            record(clock_name(clock));
        } else if let (reading, reuses @ 1..) = READING.get() {
            READING.set((reading, reuses - 1));
            // SAFETY: the caller answers for the pointer.
            unsafe { time.write(reading) };
            return 0;
        }
    }
    // SAFETY: the arguments are those of the system call, and the caller answers for the pointer.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, c_long::from(clock), time) as c_int };
    if clock == libc::CLOCK_MONOTONIC && result == 0 {
        // Also of calls that are not armed: no reading may be earlier than one that this thread has seen.
        // SAFETY: the kernel has just written there.
        READING.set((unsafe { time.read() }, REUSES));
    }
    result
}

/// `gettimeofday(2)`.
///
/// # Safety
///
/// That of the C function: each pointer is null or points to a writable value of its type.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(time: *mut libc::timeval, zone: *mut c_void) -> c_int {
    if is_armed() {
        record("gettimeofday");
    }
    // SAFETY: the arguments are those of the system call, and the caller answers for the pointers.
    unsafe { libc::syscall(libc::SYS_gettimeofday, time, zone) as c_int }
}

/// `time(2)`.
///
/// # Safety
///
/// That of the C function: `copy` is null or points to a writable `time_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(copy: *mut libc::time_t) -> libc::time_t {
    if is_armed() {
        record("time");
    }
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a writable timespec. Not SYS_time, which aarch64 lacks; the coarse clock is the one it reads.
    unsafe { libc::syscall(libc::SYS_clock_gettime, c_long::from(libc::CLOCK_REALTIME_COARSE), &raw mut now) };
    if !copy.is_null() {
        // SAFETY: the caller says that a pointer that is not null is writable.
        unsafe { copy.write(now.tv_sec) };
    }
    now.tv_sec
}

/// `getrandom(2)`.
///
/// # Safety
///
/// That of the C function: `buffer` points to `length` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: libc::size_t, flags: c_uint) -> libc::ssize_t {
    if is_armed() {
        record("getrandom");
    }
    // SAFETY: the arguments are those of the system call, and the caller answers for the buffer.
    unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags as c_long) as libc::ssize_t }
}

/// `getentropy(3)`.
///
/// # Safety
///
/// That of the C function: `buffer` points to `length` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getentropy(buffer: *mut c_void, length: libc::size_t) -> c_int {
    if is_armed() {
        record("getentropy");
    }
    if length > 256 {
        // SAFETY: `__errno_location` always returns the address of this thread's errno.
        unsafe { *libc::__errno_location() = libc::EIO };
        return -1;
    }
    // SAFETY: the arguments are those of the system call, and the caller answers for the buffer.
    let got = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, 0 as c_long) };
    // Up to 256 bytes come at once or not at all, once the kernel's generator is seeded.
    if usize::try_from(got) == Ok(length) { 0 } else { -1 }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;
    use std::hint::black_box;
    use std::panic::{catch_unwind, resume_unwind};
    use std::thread;
    use std::time::{Duration, Instant, SystemTime};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the leak to catch")]
    #[inline(never)]
    fn leak_system_time() -> SystemTime {
        // Through black_box, so that this function stays on the stack: it is what the backtrace must name.
        black_box(SystemTime::now())
    }

    #[expect(clippy::disallowed_methods, reason = "the leak to catch")]
    #[inline(never)]
    fn leak_instant() -> Instant {
        black_box(Instant::now())
    }

    #[test]
    fn the_wall_clock_can_be_stopped_where_its_reader_is_known() {
        let armed = arm();
        let read = with_wall_clock_at_zero(leak_system_time);
        assert_eq!(read, SystemTime::UNIX_EPOCH);
        assert_eq!(check(), Ok(()));
        leak_system_time();
        drop(armed);
        assert!(check().is_err(), "outside the scope it is a leak as ever");
    }

    /// Runs `f` inside a tokio task, as the code of a simulated host runs.
    fn in_task<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { tokio::spawn(async { f() }).await.unwrap() })
    }

    /// Runs `f` armed and returns the one leak it must be.
    fn the_leak_of<T>(f: impl FnOnce() -> T) -> Leak {
        let armed = arm();
        f();
        drop(armed);
        let leaks = check().unwrap_err();
        assert_eq!((leaks.shown.len(), leaks.unshown), (1, 0), "{leaks}");
        assert_eq!(check(), Ok(()), "taken");
        leaks.shown.into_iter().next().unwrap()
    }

    #[test]
    fn unarmed_calls_get_the_real_world() {
        let (before, wall) = (leak_instant(), leak_system_time());
        thread::sleep(Duration::from_millis(2));
        assert!(before.elapsed() >= Duration::from_millis(2));
        assert!(wall.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() > 1_700_000_000);

        let mut bytes = [[0_u8; 32]; 2];
        // SAFETY: the buffer is as long as it says.
        assert_eq!(unsafe { libc::getrandom(bytes[0].as_mut_ptr().cast(), 32, 0) }, 32);
        // SAFETY: the buffer is as long as it says.
        assert_eq!(unsafe { libc::getentropy(bytes[1].as_mut_ptr().cast(), 32) }, 0);
        assert!(bytes[0] != [0; 32] && bytes[1] != [0; 32] && bytes[0] != bytes[1]);

        let mut copy = 0;
        // SAFETY: the pointer is to a local variable.
        let seconds = unsafe { libc::time(&raw mut copy) };
        // SAFETY: a timeval is two integers.
        let mut day: libc::timeval = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a local variable, and no zone is asked for.
        assert_eq!(unsafe { libc::gettimeofday(&raw mut day, std::ptr::null_mut()) }, 0);
        assert_eq!(seconds, copy);
        assert!((day.tv_sec - seconds).abs() <= 1, "{} {seconds}", day.tv_sec);
        assert_eq!(check(), Ok(()));
    }

    #[test]
    fn errors_are_those_of_the_c_library() {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a local variable; there is no clock of that number.
        assert_eq!(unsafe { libc::clock_gettime(999, &raw mut time) }, -1);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EINVAL));
        let mut bytes = [0_u8; 257];
        // SAFETY: the buffer is as long as it says.
        assert_eq!(unsafe { libc::getentropy(bytes.as_mut_ptr().cast(), bytes.len()) }, -1);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn std_clocks_are_caught_by_name_and_caller() {
        let leak = the_leak_of(leak_system_time);
        assert_eq!(leak.what, "clock_gettime(CLOCK_REALTIME)");
        assert!(leak.backtrace.contains("leak_system_time"), "{leak}");
        assert!(leak.to_string().contains("CLOCK_REALTIME"), "{leak}");
        assert!(!leak.backtrace.contains("trap::record"), "{leak}");

        let leak = in_task(|| the_leak_of(leak_instant));
        assert_eq!(leak.what, "clock_gettime(CLOCK_MONOTONIC)");
        assert!(leak.backtrace.contains("leak_instant"), "{leak}");
    }

    #[test]
    fn c_functions_are_caught() {
        let mut bytes = [0_u8; 8];
        // SAFETY: the buffer is as long as it says.
        assert_eq!(the_leak_of(|| unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), 8, 0) }).what, "getrandom");
        // SAFETY: the buffer is as long as it says.
        assert_eq!(the_leak_of(|| unsafe { libc::getentropy(bytes.as_mut_ptr().cast(), 8) }).what, "getentropy");
        // SAFETY: null asks for no copy.
        assert_eq!(the_leak_of(|| unsafe { libc::time(std::ptr::null_mut()) }).what, "time");
        // SAFETY: null asks for nothing.
        let day = the_leak_of(|| unsafe { libc::gettimeofday(std::ptr::null_mut(), std::ptr::null_mut()) });
        assert_eq!(day.what, "gettimeofday");
    }

    #[test]
    fn hash_keys_of_a_fresh_thread_are_caught() {
        let leak = thread::spawn(|| the_leak_of(RandomState::new)).join().unwrap();
        assert_eq!(leak.what, "getrandom");
        assert!(leak.backtrace.contains("RandomState") || leak.backtrace.contains("hashmap_random_keys"), "{leak}");
    }

    #[test]
    fn the_monotonic_clock_outside_of_tasks_is_the_schedulers() {
        let _armed = arm();
        let before = leak_instant();
        assert_eq!(before, leak_instant(), "used again");
        thread::sleep(Duration::from_millis(1));
        for _ in 0..REUSES {
            assert!(before <= leak_instant());
        }
        assert!(before + Duration::from_millis(1) <= leak_instant(), "not for ever");
        assert_eq!(check(), Ok(()));
    }

    #[test]
    fn allow_exempts_also_after_a_panic() {
        let _armed = arm();
        assert!(allow(leak_system_time) > SystemTime::UNIX_EPOCH);
        allow(|| {
            let _armed = arm();
            allow(|| ());
            leak_system_time();
        });
        catch_unwind(|| allow(|| resume_unwind(Box::new(())))).unwrap_err();
        assert_eq!(check(), Ok(()));
        leak_system_time();
        check().unwrap_err();
    }

    #[test]
    fn guards_nest_in_any_order_and_survive_a_panic() {
        let (first, second) = (arm(), arm());
        drop(first);
        leak_system_time();
        check().unwrap_err();
        drop(second);
        catch_unwind(|| {
            let _armed = arm();
            resume_unwind(Box::new(()))
        })
        .unwrap_err();
        leak_system_time();
        assert_eq!(check(), Ok(()));
    }

    #[test]
    fn other_threads_are_unaffected() {
        let _armed = arm();
        thread::spawn(|| {
            leak_system_time();
            assert_eq!(check(), Ok(()));
        })
        .join()
        .unwrap();
        assert_eq!(check(), Ok(()));
    }

    #[test]
    fn a_flood_is_counted() {
        let _armed = arm();
        for _ in 0..KEPT + 10 {
            leak_system_time();
        }
        let leaks = check().unwrap_err();
        assert_eq!((leaks.shown.len(), leaks.unshown), (KEPT, 10));
        assert!(leaks.to_string().contains("and 10 more"), "{leaks}");
    }

    #[test]
    fn backtraces_start_at_the_caller() {
        let head = "   0: std::backtrace::Backtrace::create\n             at /rustc/backtrace.rs:331:13\n";
        let trap = "   1: nitrotap_sim::trap::record\n";
        let entry = "   2: clock_gettime\n             at ./src/trap.rs:9:9\n";
        let caller = "   3: std::time::SystemTime::now\n             at /rustc/time.rs:1:1\n   4: app::main";
        let tail = "\n   5: std::sys::backtrace::__rust_begin_short_backtrace\n   6: main\n";
        assert_eq!(from_caller(&format!("{head}{trap}{entry}{caller}{tail}")), caller);
        assert_eq!(from_caller(&format!("{head}{trap}{caller}{tail}")), caller);
        assert_eq!(from_caller(&format!("{head}{trap}{entry}{caller}")), caller);
        assert_eq!(from_caller("   0: <unknown>"), "   0: <unknown>", "without symbols nothing is cut");
    }

    /// Steps two hosts that exchange bytes over TCP, crashing and restarting the server on the way, all armed.
    #[expect(clippy::disallowed_methods, reason = "no model, hence neither its clock nor its world")]
    fn simulate(in_client: fn()) -> Result<(), Leaks> {
        let mut sim = turmoil::Builder::new()
            .rng_seed(1)
            .epoch(SystemTime::UNIX_EPOCH)
            .tick_duration(Duration::from_millis(1))
            .build();
        sim.host("server", || async {
            let listener = turmoil::net::TcpListener::bind(("0.0.0.0", 80)).await?;
            loop {
                let (mut stream, _peer) = listener.accept().await?;
                tokio::spawn(async move {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(3)).await;
                        let _ = stream.write_all(&byte).await;
                    }
                });
            }
        });
        sim.client("client", async move {
            let mut answers = 0;
            while answers < 50 {
                let wait = Duration::from_millis(200);
                let Ok(Ok(mut stream)) =
                    tokio::time::timeout(wait, turmoil::net::TcpStream::connect(("server", 80))).await
                else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                in_client();
                let mut byte = [7];
                while answers < 50 && stream.write_all(&byte).await.is_ok() {
                    tokio::select! {
                        read = stream.read_exact(&mut byte) => if read.is_err() { break },
                        () = tokio::time::sleep(wait) => break,
                    }
                    answers += 1;
                }
            }
            Ok(())
        });
        let _armed = arm();
        for step in 0.. {
            match step {
                100 => sim.crash("server"),
                150 => sim.bounce("server"),
                _ => {}
            }
            let is_done = sim.step().unwrap_or_else(|error| panic!("step {step}: {error}"));
            check()?;
            if is_done {
                assert!(step > 150, "{step}");
                break;
            }
        }
        Ok(())
    }

    #[test]
    fn a_simulation_steps_without_a_leak() {
        simulate(|| ()).unwrap_or_else(|leaks| panic!("{leaks}"));
    }

    #[test]
    fn a_simulated_host_that_reads_the_clock_is_caught() {
        let leaks = simulate(|| _ = leak_instant()).unwrap_err();
        assert_eq!(leaks.shown[0].what, "clock_gettime(CLOCK_MONOTONIC)");
        assert!(leaks.shown[0].backtrace.contains("leak_instant"), "{leaks}");
    }
}
