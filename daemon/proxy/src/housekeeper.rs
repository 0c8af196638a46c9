//! The one task of a shard that sleeps: pool deadlines, client timeouts, idle upstream connections.
//!
//! It sleeps until the earliest deadline it knows. A deadline that comes up earlier, and the end of an idle upstream
//! connection it has looked at, wake it.

use crate::{
    runtime::{Dialer, Runtime},
    shard::Inner,
};
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    rc::Weak,
    task::Poll,
};

/// Runs until the shard is gone.
pub(crate) async fn run<R: Runtime, D: Dialer>(runtime: R, shard: Weak<Inner<R, D>>) {
    let mut sleep: Option<Pin<Box<dyn Future<Output = ()>>>> = None;
    poll_fn(|cx| {
        loop {
            let Some(shard) = shard.upgrade() else { return Poll::Ready(()) };
            let Some(at) = shard.housekeep(cx) else {
                sleep = None;
                return Poll::Pending;
            };
            let mut alarm: Pin<Box<dyn Future<Output = ()>>> = Box::pin(runtime.sleep_until(at));
            let rung = alarm.as_mut().poll(cx).is_ready();
            sleep = Some(alarm);
            if !rung {
                return Poll::Pending;
            }
        }
    })
    .await;
    drop(sleep);
}
