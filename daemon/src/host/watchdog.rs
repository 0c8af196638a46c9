//! Tells the service manager that the data thread does its work, for as long as it does (`WatchdogSec=` of systemd.service(5)).
//!
//! Driven by: the control side. The decisions are [`nitrotap_core::watchdog`]'s.

use super::control::Handle;
use crate::clock::Clock;
use nitrotap_core::watchdog::{Output, Watchdog};
use std::{future::pending, pin::Pin, time::Duration};

/// Feeds until the data thread ends; `limit` is the time after which the service manager restarts us.
pub(super) async fn run(handle: Handle, clock: Clock, limit: Duration, feed: impl Fn()) {
    let mut watchdog = Watchdog::new(clock.now(), limit);
    let mut question: Option<Pin<Box<dyn Future<Output = bool> + Send>>> = None;
    loop {
        while let Some(output) = watchdog.poll_output() {
            match output {
                Output::Ask => {
                    let handle = handle.clone();
                    question = Some(Box::pin(async move { handle.alive().await.is_ok() }));
                }
                Output::Feed => feed(),
                Output::Late(silence) => tracing::warn!(
                    ?silence,
                    ?limit,
                    "the data thread has not finished a turn for this long; the service manager ends us at the limit"
                ),
            }
        }
        let due = watchdog.poll_timeout().map(|at| clock.deadline(at));
        tokio::select! {
            biased;
            there = async { match &mut question { Some(question) => question.await, None => pending().await } } => {
                question = None;
                if !there {
                    // Its end is seen to elsewhere.
                    return;
                }
                watchdog.handle_answer(clock.now());
            }
            () = async { match due { Some(at) => tokio::time::sleep_until(at).await, None => pending().await } } => {
                watchdog.handle_timeout(clock.now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::data_thread;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn a_data_thread_that_answers_is_fed_again_and_again() {
        let (handle, _given) = data_thread();
        let (fed, mut meals) = mpsc::unbounded_channel();
        let feed = move || fed.send(()).unwrap();
        let three_meals = async {
            for _ in 0..3 {
                meals.recv().await.unwrap();
            }
        };
        tokio::select! {
            () = run(handle.clone(), Clock::start(), Duration::from_millis(30), feed) => panic!("the thread has not ended"),
            () = three_meals => {}
        }
        handle.stop();
    }
}
