//! Processors and threads in virtual time.
//!
//! Owns: cores, the threads that want one, and the work that waits for a thread. Work is served first come, first served
//! within a process. The cores are shared out fairly, as Linux does it: a thread keeps its core until it sleeps or its slice
//! is over; then whoever has used the least goes first, and whoever slept is ahead of those who did not. Each core has its
//! own queue: a thread that wakes goes to the core it ran on, or to another if only that one is idle, and a core that runs
//! dry takes over who waits elsewhere. Throughput, waiting, bursts and the saving of wake-ups under load come out of
//! contention for these two resources, not out of a formula.
//!
//! Processors of Go's runtime look for work for a while before they sleep. That takes processor time, and spares whoever
//! comes meanwhile the wake-up.
//!
//! Times of service vary at random around what is charged: with none of it, clients march in step and nothing queues.
//!
//! Driven by: [`Cpu::drive`], one task per machine. Bounds: a task waits for its work, so what queues is at most one piece
//! per task, and one that nobody waits for.

use crate::{
    params::Machines,
    rng,
    time::{Clock, ns},
};
use nitrotap_core::time::Instant;
use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};
use tokio::sync::Notify;

/// The cores of one machine.
#[derive(Clone, Debug)]
pub struct Cpu(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<Cores>,
    /// Work ends earlier than the driver has been told.
    news: Notify,
}

#[derive(Debug)]
struct Cores {
    /// Share of each core that interrupts and the hypervisor take, in 1/1000 of the work done.
    overhead_permille: u64,
    /// Delay of work that begins on an idle core: the interrupt that tells it.
    idle_exit_ns: u64,
    /// Share of a service time that is exponentially distributed, in 1/1000.
    variability_permille: u64,
    /// How long a thread may keep its core while others want it.
    slice_ns: u64,
    rng: fastrand::Rng,
    /// How long a processor of Go's looks for work.
    spin_ns: u64,
    busy_ns: u64,
    cores: Vec<Core>,
    running: BTreeMap<(Instant, u64), Running>,
    /// Threads that want a core, in the order in which they came.
    runnable: VecDeque<Ready>,
    processes: Vec<Threads>,
    waiting: BTreeMap<u64, Wait>,
    next: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Core {
    Idle,
    Busy,
    /// Its work ended then, and it is not known yet what its thread does next.
    Freed(Instant),
}

/// A thread of this process wants a core.
#[derive(Clone, Copy, Debug)]
struct Ready {
    process: usize,
    /// The core in whose queue it is.
    core: usize,
    /// It slept until now.
    woken: bool,
    /// It had a core until now, for this long: nothing for one that had none.
    slice_used_ns: u64,
}

/// A thread at work.
#[derive(Clone, Copy, Debug)]
struct Running {
    process: usize,
    core: usize,
    work: Option<u64>,
    slice_used_ns: u64,
    /// It looks for work, since then.
    spins: Option<Instant>,
}

#[derive(Debug)]
struct Threads {
    count: u32,
    /// Processor time used per thread, in nanoseconds; brought forward after a sleep (`vruntime`).
    used_ns: u64,
    /// Whether one that has run out of work looks for more before it sleeps.
    spins: bool,
    /// Threads that work or want to.
    active: u32,
    /// Threads that look for work.
    spinning: u32,
    /// Threads whose work has just ended, and may go on: how long each has had its core, and which.
    lingering: Vec<(u64, usize)>,
    /// The cores on which those that sleep ran last.
    asleep: Vec<usize>,
    queue: VecDeque<(u64, Option<u64>)>,
    busy_ns: u64,
    wakes: u64,
    /// When one of them last ran out of work.
    looked_at: Instant,
    curious: Vec<Waker>,
}

#[derive(Debug)]
enum Wait {
    Open(Option<Waker>),
    Done,
}

impl Cpu {
    /// `cores` cores with the properties that `machines` gives them; service times are drawn under `seed`.
    #[must_use]
    pub fn new(cores: u32, machines: &Machines, seed: u64) -> Self {
        let state = Cores {
            overhead_permille: machines.overhead_permille,
            idle_exit_ns: machines.idle_exit_ns,
            variability_permille: machines.variability_permille,
            slice_ns: machines.slice_ns,
            spin_ns: machines.go_spin_ns,
            rng: rng::stream(seed, "service times"),
            busy_ns: 0,
            cores: vec![Core::Idle; cores.max(1) as usize],
            running: BTreeMap::new(),
            runnable: VecDeque::new(),
            processes: Vec::new(),
            waiting: BTreeMap::new(),
            next: 0,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), news: Notify::new() }))
    }

    /// Nanoseconds of work done so far, all cores together.
    #[must_use]
    pub fn busy_ns(&self) -> u64 {
        lock(&self.0.state).busy_ns
    }

    /// A process on these cores with `threads` threads.
    #[must_use]
    pub fn process(&self, threads: u32) -> Process {
        self.add(threads, false)
    }

    /// A program in Go with `GOMAXPROCS` processors, any of which may run any goroutine.
    #[must_use]
    pub fn go_process(&self, processors: u32) -> Process {
        self.add(processors, true)
    }

    fn add(&self, threads: u32, spins: bool) -> Process {
        let mut state = lock(&self.0.state);
        let (first, cores, spins) = (state.processes.len(), state.cores.len(), spins && state.spin_ns > 0);
        state.processes.push(Threads {
            count: threads.max(1),
            used_ns: 0,
            spins,
            active: 0,
            spinning: 0,
            lingering: Vec::new(),
            asleep: (0..threads.max(1) as usize).map(|thread| (first + thread) % cores).collect(),
            queue: VecDeque::new(),
            busy_ns: 0,
            wakes: 0,
            looked_at: Instant::ZERO,
            curious: Vec::new(),
        });
        Process { cpu: self.clone(), index: state.processes.len() - 1 }
    }

    /// Ends work when it is done and begins what waits, for ever.
    pub async fn drive(self, clock: Clock) {
        loop {
            let next = lock(&self.0.state).running.first_key_value().map(|(&(end, _), _)| end);
            match next {
                None => self.0.news.notified().await,
                Some(end) => tokio::select! {
                    biased;
                    () = clock.sleep_until(end) => {
                        let until = clock.now() + clock.grain() / 2;
                        lock(&self.0.state).finish(until);
                        // Whoever waited for that work now says whether its thread goes on.
                        tokio::task::yield_now().await;
                        lock(&self.0.state).settle(until);
                    }
                    () = self.0.news.notified() => {}
                },
            }
        }
    }
}

impl Cores {
    /// Ends all work that is due.
    fn finish(&mut self, until: Instant) {
        while let Some(entry) = self.running.first_entry() {
            let (end, _) = *entry.key();
            if end > until {
                break;
            }
            let Running { process, core, work, slice_used_ns, spins } = entry.remove();
            self.cores[core] = Core::Freed(end);
            if let Some(since) = spins {
                self.end_spin(process, since, end);
                self.processes[process].asleep.push(core);
                continue;
            }
            self.processes[process].lingering.push((slice_used_ns, core));
            if let Some(wait) = work.and_then(|work| self.waiting.get_mut(&work))
                && let Wait::Open(Some(waker)) = std::mem::replace(wait, Wait::Done)
            {
                waker.wake();
            }
        }
    }

    /// Lets threads without work look for news and sleep, and gives free cores away.
    fn settle(&mut self, now: Instant) {
        for index in 0..self.processes.len() {
            let process = &mut self.processes[index];
            while let Some((slice_used_ns, core)) = process.lingering.pop() {
                let others = process.active as usize - process.lingering.len() - 1;
                let at_work =
                    self.running.values().filter(|running| running.process == index && running.spins.is_none()).count();
                if process.queue.len() + at_work > others {
                    self.runnable.push_back(Ready { process: index, core, woken: false, slice_used_ns });
                } else {
                    process.active -= 1;
                    process.looked_at = now;
                    if process.spins {
                        process.spinning += 1;
                        self.running.insert(
                            (now + ns(self.spin_ns), self.next),
                            Running { process: index, core, work: None, slice_used_ns, spins: Some(now) },
                        );
                        self.next += 1;
                        self.cores[core] = Core::Busy;
                    } else {
                        process.asleep.push(core);
                    }
                    for waker in process.curious.drain(..) {
                        waker.wake();
                    }
                }
            }
        }
        self.dispatch(now);
    }

    fn dispatch(&mut self, now: Instant) {
        for core in 0..self.cores.len() {
            let (begin, idle) = match self.cores[core] {
                Core::Busy => continue,
                Core::Freed(at) => (at, false),
                Core::Idle => (now, true),
            };
            self.cores[core] = Core::Idle;
            while let Some(Ready { process: index, woken, slice_used_ns, .. }) = self.most_entitled(core) {
                let Some((cost, work)) = self.processes[index].queue.pop_front() else {
                    self.processes[index].active -= 1;
                    self.processes[index].asleep.push(core);
                    continue;
                };
                let cost = self.vary(cost);
                let held = cost + cost * self.overhead_permille / 1000;
                let exit = if idle && woken { self.idle_exit_ns } else { 0 };
                self.charge(index, cost);
                self.running.insert(
                    (begin + ns(exit + held), self.next),
                    Running { process: index, core, work, slice_used_ns: slice_used_ns + cost, spins: None },
                );
                self.next += 1;
                self.cores[core] = Core::Busy;
                break;
            }
        }
    }

    fn charge(&mut self, index: usize, ns: u64) {
        self.busy_ns += ns;
        let process = &mut self.processes[index];
        process.busy_ns += ns;
        process.used_ns += ns / u64::from(process.count);
    }

    /// The least that any process which wants or has a core has used.
    fn least_used(&self) -> u64 {
        self.processes.iter().filter(|process| process.active > 0).map(|process| process.used_ns).min().unwrap_or(0)
    }

    /// Takes the thread that `core` runs next, of those in its own queue before those in others: one in the middle of its
    /// slice, else the one that has used least.
    fn most_entitled(&mut self, core: usize) -> Option<Ready> {
        let rank = |ready: &Ready| {
            let keeps = ready.slice_used_ns > 0 && ready.slice_used_ns < self.slice_ns;
            (ready.core != core, !keeps, self.processes[ready.process].used_ns)
        };
        let best = self.runnable.iter().enumerate().min_by_key(|(_, ready)| rank(ready))?.0;
        let best = self.runnable.remove(best);
        // A thread that is passed over has lost its core, and starts a new slice when it gets one.
        let over = best.is_some_and(|best| best.slice_used_ns >= self.slice_ns);
        best.map(|best| if over { Ready { slice_used_ns: 0, ..best } } else { best })
    }

    /// The core to which a thread goes that wakes and ran on `last`.
    fn place(&self, last: usize) -> usize {
        let idle =
            |core: usize| self.cores[core] == Core::Idle && !self.runnable.iter().any(|ready| ready.core == core);
        if idle(last) { last } else { (0..self.cores.len()).find(|core| idle(*core)).unwrap_or(last) }
    }

    /// Gives new work to a thread that looks for some.
    fn take_spinning(&mut self, now: Instant, index: usize) {
        let spins = |running: &Running| running.process == index && running.spins.is_some();
        let found = self.running.iter().find(|(_, running)| spins(running)).map(|(key, _)| *key);
        let Some(Running { core, slice_used_ns, spins: Some(since), .. }) =
            found.and_then(|key| self.running.remove(&key))
        else {
            return;
        };
        self.end_spin(index, since, now);
        self.processes[index].active += 1;
        self.cores[core] = Core::Freed(now);
        self.runnable.push_back(Ready { process: index, core, woken: false, slice_used_ns });
    }

    fn end_spin(&mut self, index: usize, since: Instant, end: Instant) {
        self.processes[index].spinning -= 1;
        self.charge(index, u64::try_from(end.since(since).as_nanos()).unwrap_or(u64::MAX));
    }

    fn submit(&mut self, now: Instant, index: usize, cost_ns: u64, wake_ns: u64, wanted: bool) -> Option<u64> {
        let id = self.next;
        self.next += 1;
        let (least, slice) = (self.least_used(), self.slice_ns + self.slice_ns / 2);
        let process = &mut self.processes[index];
        let mut cost = cost_ns;
        // A core whose work has just ended is given away when it is known what its thread does next.
        let undecided = self.cores.iter().any(|core| matches!(core, Core::Freed(_)));
        if let Some((slice_used_ns, core)) = process.lingering.pop() {
            self.runnable.push_back(Ready { process: index, core, woken: false, slice_used_ns });
        } else if process.spinning > 0 {
            self.take_spinning(now, index);
        } else if process.active < process.count {
            if process.active == 0 {
                // Whoever slept is ahead of the others, but not for ever.
                process.used_ns = process.used_ns.max(least.saturating_sub(slice));
            }
            process.active += 1;
            process.wakes += 1;
            cost += wake_ns;
            let last = process.asleep.pop().unwrap_or(0);
            let core = self.place(last);
            self.runnable.push_back(Ready { process: index, core, woken: true, slice_used_ns: 0 });
        }
        self.processes[index].queue.push_back((cost, wanted.then_some(id)));
        if wanted {
            self.waiting.insert(id, Wait::Open(None));
        }
        if !undecided {
            self.dispatch(now);
        }
        wanted.then_some(id)
    }

    /// A service time around `mean_ns`.
    fn vary(&mut self, mean_ns: u64) -> u64 {
        if self.variability_permille == 0 || mean_ns == 0 {
            return mean_ns;
        }
        let fixed = mean_ns * (1000 - self.variability_permille) / 1000;
        fixed + ((mean_ns - fixed) * exponential(self.rng.u64(..))) / ONE
    }
}

/// A process: threads that share work. One thread is a classic event loop; several are a worker pool or Go's processors,
/// on which any goroutine may run.
#[derive(Clone, Debug)]
pub struct Process {
    cpu: Cpu,
    index: usize,
}

impl Process {
    /// Queues `cost_ns` of work; the future completes when it is done. A thread that has nothing else to do sleeps, and is
    /// woken for `wake_ns` more. Work of no cost is done at once.
    pub fn work(&self, now: Instant, cost_ns: u64, wake_ns: u64) -> Work {
        let id = self.submit(now, cost_ns, wake_ns, true);
        Work { cpu: self.cpu.clone(), id }
    }

    /// Queues work that nobody waits for: it delays what comes after it.
    pub fn charge(&self, now: Instant, cost_ns: u64) {
        let _ = self.submit(now, cost_ns, 0, false);
    }

    fn submit(&self, now: Instant, cost_ns: u64, wake_ns: u64, wanted: bool) -> Option<u64> {
        if cost_ns == 0 && wake_ns == 0 {
            return None;
        }
        let mut state = lock(&self.cpu.0.state);
        let first = state.running.first_key_value().map(|(key, _)| *key);
        let id = state.submit(now, self.index, cost_ns, wake_ns, wanted);
        if state.running.first_key_value().map(|(key, _)| *key) != first {
            self.cpu.0.news.notify_one();
        }
        id
    }

    /// Does `cost_ns` of work; see [`Self::work`].
    pub async fn run(&self, clock: &Clock, cost_ns: u64, wake_ns: u64) {
        if cost_ns > 0 || wake_ns > 0 {
            self.work(clock.now(), cost_ns, wake_ns).await;
        }
    }

    /// Completes when a thread looks for news, for something that became ready at `since`.
    ///
    /// An event loop asks the kernel only when it has run out of work, and then gets all that has become ready meanwhile.
    /// That is what makes bursts of what came evenly.
    pub fn poll_looks(&self, now: Instant, since: Instant, cx: &Context<'_>) -> Poll<()> {
        let mut state = lock(&self.cpu.0.state);
        let process = &mut state.processes[self.index];
        if process.active < process.count {
            process.looked_at = now;
        }
        if process.looked_at >= since {
            return Poll::Ready(());
        }
        process.curious.push(cx.waker().clone());
        Poll::Pending
    }

    /// Whether a thread sleeps, so that news is seen at once.
    #[must_use]
    pub fn sleeps(&self) -> bool {
        let state = lock(&self.cpu.0.state);
        state.processes[self.index].active < state.processes[self.index].count
    }

    /// Nanoseconds of work done so far, wake-ups included.
    #[must_use]
    pub fn busy_ns(&self) -> u64 {
        lock(&self.cpu.0.state).processes[self.index].busy_ns
    }

    /// Times a sleeping thread was woken.
    #[must_use]
    pub fn wakes(&self) -> u64 {
        lock(&self.cpu.0.state).processes[self.index].wakes
    }
}

/// A piece of work under way; a future. Dropping it does not take the work back.
#[derive(Debug)]
#[must_use = "work that is not awaited is done all the same"]
pub struct Work {
    cpu: Cpu,
    id: Option<u64>,
}

impl Future for Work {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(id) = self.id else { return Poll::Ready(()) };
        {
            let mut state = lock(&self.cpu.0.state);
            if let Some(Wait::Open(waker)) = state.waiting.get_mut(&id) {
                *waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            state.waiting.remove(&id);
        }
        self.id = None;
        Poll::Ready(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            lock(&self.cpu.0.state).waiting.remove(&id);
        }
    }
}

/// The mean of [`exponential`].
const ONE: u64 = 1 << 16;

/// An exponentially distributed number with mean [`ONE`] from a uniform one: ln 2 times the binary logarithm, whose
/// fraction is interpolated. Integers only: a math library's last bits differ between machines.
const fn exponential(uniform: u64) -> u64 {
    let uniform = uniform | 1;
    let zeros = uniform.leading_zeros() as u64;
    // The bits behind the leading one, as a fraction of 2^16; -log2(u) = zeros + 1 - log2(1 + fraction).
    let fraction = ((uniform << zeros) << 1) >> 48;
    // log2(1 + x) is x + 0.34 x (1 - x), to 0.8 %.
    let log = fraction + (fraction * (ONE - fraction) / ONE) * 22_282 / ONE;
    // ln 2 is 45426 / 65536.
    ((zeros + 1) * ONE - log) * 45_426 / ONE
}

/// A lock that cannot be contended: everything of one world runs on one thread. It is there because hyper wants streams
/// that could move to another one.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{params::Params, time::Scale};
    use std::{cell::RefCell, future::poll_fn, rc::Rc};

    /// Runs `script` on a machine of `cores` cores without variability.
    fn on<F: Future<Output = ()> + 'static>(
        cores: u32,
        machines: Machines,
        script: impl FnOnce(Cpu, Clock) -> F + 'static,
    ) {
        #[expect(clippy::disallowed_methods, reason = "nothing here is random")]
        let mut sim = turmoil::Builder::new().tick_duration(std::time::Duration::from_secs(1)).build();
        sim.client("machine", async move {
            let clock = Clock::here(Scale::FINE);
            let cpu = Cpu::new(cores, &machines, 1);
            tokio::task::spawn_local(cpu.clone().drive(clock));
            script(cpu, clock).await;
            Ok(())
        });
        sim.run().unwrap();
    }

    fn plain() -> Machines {
        Params::free().machines
    }

    #[test]
    fn work_waits_for_its_thread_and_threads_take_turns_on_the_cores() {
        on(1, plain(), |cpu, clock| async move {
            let (a, b) = (cpu.process(1), cpu.process(1));
            let ends: Rc<RefCell<Vec<(&str, u64)>>> = Rc::default();
            let begin = clock.now();
            let mut tasks = Vec::new();
            for (name, process, cost) in [("a1", &a, 10_000), ("a2", &a, 10_000), ("b1", &b, 10_000), ("b2", &b, 5_000)]
            {
                let work = process.work(begin, cost, 1_000);
                let ends = ends.clone();
                tasks.push(tokio::task::spawn_local(async move {
                    work.await;
                    ends.borrow_mut().push((name, clock.now().since(begin).as_nanos() as u64));
                }));
            }
            for task in tasks {
                task.await.unwrap();
            }
            // The first piece of each process wakes its thread; the second pieces do not.
            assert_eq!(*ends.borrow(), [("a1", 11_000), ("b1", 22_000), ("a2", 32_000), ("b2", 37_000)]);
            assert_eq!((cpu.busy_ns(), a.busy_ns(), a.wakes()), (37_000, 21_000, 1));
        });
    }

    #[test]
    fn a_task_that_goes_on_at_once_keeps_its_thread_awake() {
        on(2, plain(), |cpu, clock| async move {
            let process = cpu.process(1);
            for _ in 0..5 {
                process.run(&clock, 10_000, 3_000).await;
            }
            assert_eq!(process.wakes(), 1);
            clock.sleep(std::time::Duration::from_micros(50)).await;
            process.run(&clock, 10_000, 3_000).await;
            assert_eq!((process.wakes(), process.busy_ns()), (2, 66_000));
        });
    }

    #[test]
    fn overhead_and_idle_cores_take_time_and_are_not_work() {
        let machines = Machines { overhead_permille: 250, idle_exit_ns: 700, ..plain() };
        on(1, machines, |cpu, clock| async move {
            let begin = clock.now();
            cpu.process(1).run(&clock, 10_000, 2_000).await;
            assert_eq!(clock.now().since(begin).as_nanos(), 700 + 15_000);
            assert_eq!(cpu.busy_ns(), 12_000);
        });
    }

    #[test]
    fn a_core_that_runs_dry_takes_over_who_waits_elsewhere() {
        on(2, plain(), |cpu, clock| async move {
            let begin = clock.now();
            let (a, b, c) = (cpu.process(1), cpu.process(1), cpu.process(1));
            a.charge(begin, 10_000);
            b.charge(begin, 5_000);
            // It belongs to the core of the first, which is busy.
            c.run(&clock, 10_000, 0).await;
            assert_eq!(clock.now().since(begin).as_nanos(), 15_000);
        });
    }

    #[test]
    fn a_processor_of_go_that_looks_for_work_spares_the_wake_up_and_takes_time() {
        on(1, Machines { go_spin_ns: 4_000, ..plain() }, |cpu, clock| async move {
            let process = cpu.go_process(1);
            process.run(&clock, 10_000, 2_000).await;
            clock.sleep(std::time::Duration::from_micros(3)).await;
            process.run(&clock, 10_000, 2_000).await;
            // To half a grain of the clock.
            let took = |expected: u64| process.busy_ns().abs_diff(expected) <= 50;
            assert!(process.wakes() == 1 && took(12_000 + 3_000 + 10_000), "{process:?}");
            clock.sleep(std::time::Duration::from_micros(50)).await;
            assert!(took(25_000 + 4_000), "{process:?}");
            process.run(&clock, 10_000, 2_000).await;
            assert_eq!(process.wakes(), 2);
        });
    }

    #[test]
    fn news_is_seen_when_the_thread_has_run_out_of_work() {
        on(1, plain(), |cpu, clock| async move {
            let process = cpu.process(1);
            let begin = clock.now();
            process.charge(begin, 10_000);
            process.charge(begin, 10_000);
            poll_fn(|cx| process.poll_looks(clock.now(), begin + ns(1), cx)).await;
            assert_eq!(clock.now().since(begin).as_nanos(), 20_000);
            assert!(process.sleeps());
        });
    }

    #[test]
    fn service_times_vary_around_their_mean() {
        let n = 100_000_u64;
        let mut rng = rng::stream(1, "exponential");
        let draws: Vec<u64> = (0..n).map(|_| exponential(rng.u64(..))).collect();
        let mean = draws.iter().sum::<u64>() / n;
        assert!((ONE * 99 / 100..ONE * 101 / 100).contains(&mean), "mean {mean} of {ONE}");
        // 1/e of an exponential distribution lies above its mean.
        let above = draws.iter().filter(|draw| **draw > ONE).count();
        assert!((36_000..37_600).contains(&above), "above the mean {above}");
    }
}
