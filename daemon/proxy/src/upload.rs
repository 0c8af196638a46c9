//! The beginning of a request's body, read before an upstream connection is taken, so that a slow client holds none.
//!
//! A body whose length is stated and fits into [`Config::request_buffer`] is read whole. Of any other, reading stops at
//! that many bytes, or at a pause of [`PAUSE`] if at least half of the upstream's connections are free: whoever streams a
//! request and waits for what comes of it is not held up, and whoever drips never takes the second half. When the shard's
//! budget for waiting messages is used up, bodies are passed on as they come.
//!
//! A client that waits for `100 Continue` wants to hear the app's word, and as long as half of the connections are free it
//! does. With fewer, its upload would hold what others need: then the proxy asks for the body itself, as RFC 9110
//! section 10.1.1 lets it, and the app gets the request without the question.
//!
//! [`Config::request_buffer`]: crate::Config::request_buffer

use crate::{
    client::{Stage, Turn},
    conn::UpstreamBody,
    race::{Either, race},
    reply::{BadRequest, Trouble},
    runtime::{Dialer, Runtime},
};
use http::{
    Request,
    header::{CONTENT_LENGTH, EXPECT},
};
use std::{future::poll_fn, task::Poll, time::Duration};

/// A pause after which a streamed body may be passed on: longer than a round trip, not longer than people notice.
const PAUSE: Duration = Duration::from_millis(100);

/// Reads the beginning of the body of `request`. The answer for the client, and why, if it stops before that.
pub(crate) async fn collect<R: Runtime, D: Dialer>(
    turn: &Turn<R, D>,
    request: &mut Request<UpstreamBody>,
) -> Result<(), (Trouble, &'static str)> {
    let upstreams = &turn.shard.upstreams;
    let limit = upstreams.config.request_buffer;
    if request.body().is_empty() || limit == 0 {
        return Ok(());
    }
    if request.headers().contains_key(EXPECT) {
        if upstreams.has_spare() {
            return Ok(());
        }
        // To read the body makes hyper ask the client for it.
        request.headers_mut().remove(EXPECT);
    }
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let whole = length.is_some_and(|length| length <= limit);
    let body = request.body_mut();
    turn.stage(Stage::Collecting);
    body.begin_holding(&turn.shard.budget);
    while body.has_room(limit) {
        let next = poll_fn(|cx| {
            if turn.client.upload_is_overdue() {
                return Poll::Ready(Err((Trouble::BodyTimeout, SLOW)));
            }
            body.poll_hold(cx).map_err(|_| (Trouble::Refused(BadRequest::Body), "the request body broke off"))
        });
        let more = if whole {
            next.await?
        } else {
            let runtime = &upstreams.runtime;
            match race(next, runtime.sleep_until(runtime.now() + PAUSE)).await {
                Either::First(more) => more?,
                Either::Second(()) => !upstreams.has_spare(),
            }
        };
        if !more {
            break;
        }
    }
    turn.stage(Stage::Queued);
    Ok(())
}

/// Why a request is answered 408.
pub(crate) const SLOW: &str = "the client sent its request body too slowly";
