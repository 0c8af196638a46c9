//! Whether a thread still does its work: it is asked from time to time, and only its answers count.
//!
//! Owns: when it was asked, and when it is asked next. Driven by: the control side, which passes questions to the thread and
//! tells the service manager (`WATCHDOG=1` of sd_notify(3)). A timer alone would prove that the control side lives.
//! Drain: after each call [`Watchdog::poll_output`] until `None`, then one timer from [`Watchdog::poll_timeout`].
//! Bounds: one question is under way at a time.

use crate::time::Instant;
use core::time::Duration;

/// Questions within the time after which the service manager gives up. A thread may be late by two thirds of that time.
const QUESTIONS: u32 = 3;

/// Shortest time between two questions, whatever the service manager wants.
const SHORTEST: Duration = Duration::from_millis(1);

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask the thread; its answer is [`Watchdog::handle_answer`].
    Ask,
    /// Tell the service manager that all is well.
    Feed,
    /// The thread has not answered for this long. This is said once for each question.
    Late(Duration),
}

/// See the module.
#[derive(Debug)]
pub struct Watchdog {
    interval: Duration,
    /// When the question was asked that waits for its answer.
    asked: Option<Instant>,
    /// When the next one is asked, or the lack of an answer noted.
    next: Option<Instant>,
    outputs: [Option<Output>; 2],
}

impl Watchdog {
    /// `limit` is the time after which the service manager gives up. The first question is asked at once.
    #[must_use]
    pub fn new(now: Instant, limit: Duration) -> Self {
        let mut watchdog = Self {
            interval: (limit / QUESTIONS).max(SHORTEST),
            asked: None,
            next: Some(now),
            outputs: [const { None }; 2],
        };
        watchdog.handle_timeout(now);
        watchdog
    }

    /// The thread has answered.
    pub fn handle_answer(&mut self, now: Instant) {
        let Some(asked) = self.asked.take() else { return };
        self.outputs[0] = Some(Output::Feed);
        self.next = Some((asked + self.interval).max(now));
        self.handle_timeout(now);
    }

    /// Deadlines up to `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next.is_none_or(|at| at > now) {
            return;
        }
        if let Some(asked) = self.asked {
            self.outputs[1] = Some(Output::Late(now.since(asked)));
            self.next = None;
        } else {
            self.outputs[1] = Some(Output::Ask);
            self.asked = Some(now);
            self.next = Some(now + self.interval);
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.iter_mut().find_map(Option::take)
    }

    /// When to call [`Watchdog::handle_timeout`]; `None` while only an answer leads on.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    const LIMIT: Duration = Duration::from_millis(3000);

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    fn drain(watchdog: &mut Watchdog) -> Vec<Output> {
        std::iter::from_fn(|| watchdog.poll_output()).collect()
    }

    #[test]
    fn each_answer_feeds_and_the_next_question_comes_in_time() {
        let mut watchdog = Watchdog::new(at(0), LIMIT);
        assert_eq!(drain(&mut watchdog), [Output::Ask]);
        watchdog.handle_answer(at(1));
        assert_eq!(drain(&mut watchdog), [Output::Feed]);
        assert_eq!(watchdog.poll_timeout(), Some(at(1000)));
        watchdog.handle_timeout(at(999));
        assert_eq!(drain(&mut watchdog), []);
        watchdog.handle_timeout(at(1000));
        assert_eq!(drain(&mut watchdog), [Output::Ask]);
    }

    #[test]
    fn a_thread_that_is_stuck_is_not_fed_and_named_once() {
        let mut watchdog = Watchdog::new(at(0), LIMIT);
        drain(&mut watchdog);
        watchdog.handle_timeout(at(1000));
        assert_eq!(drain(&mut watchdog), [Output::Late(Duration::from_millis(1000))]);
        assert_eq!(watchdog.poll_timeout(), None);
        watchdog.handle_timeout(at(1_000_000));
        assert_eq!(drain(&mut watchdog), []);
        // It was not stuck after all.
        watchdog.handle_answer(at(1_000_000));
        assert_eq!(drain(&mut watchdog), [Output::Feed, Output::Ask]);
        assert_eq!(watchdog.poll_timeout(), Some(at(1_001_000)));
    }

    #[test]
    fn an_answer_to_nothing_feeds_nobody() {
        let mut watchdog = Watchdog::new(at(0), LIMIT);
        drain(&mut watchdog);
        watchdog.handle_answer(at(1));
        drain(&mut watchdog);
        watchdog.handle_answer(at(2));
        assert_eq!(drain(&mut watchdog), []);
    }

    quickcheck! {
        // Steps of time, and whether the thread answers then.
        fn there_is_one_meal_for_each_answer_and_none_without(script: Vec<(u16, bool)>) -> bool {
            let mut watchdog = Watchdog::new(at(0), LIMIT);
            let (mut now, mut waiting, mut meals, mut answers) = (at(0), false, 0, 0);
            for (ms, answered) in script {
                for output in drain(&mut watchdog) {
                    match output {
                        Output::Ask => {
                            assert!(!waiting, "one question at a time");
                            waiting = true;
                        }
                        Output::Feed => meals += 1,
                        Output::Late(_) => assert!(waiting),
                    }
                }
                now = now + Duration::from_millis(ms.into());
                if answered && waiting {
                    waiting = false;
                    answers += 1;
                    watchdog.handle_answer(now);
                } else {
                    watchdog.handle_timeout(now);
                }
                assert!(waiting || watchdog.poll_timeout().is_some(), "nothing would ever happen again");
            }
            meals += drain(&mut watchdog).iter().filter(|output| **output == Output::Feed).count();
            meals == answers
        }
    }
}
