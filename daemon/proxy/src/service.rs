//! One request: from the client's head to the response's head, with at most one retry.

use crate::{
    body::Body,
    client::Turn,
    conn::UpstreamBody,
    head::{self, Origin},
    lease::{Cause, Failure, Lease},
    reply::{self, BadRequest, Trouble},
    runtime::{Dialer, Runtime},
    tunnel,
};
use http::{Request, Response, StatusCode, Version};
use hyper::{
    body::{Body as _, Incoming},
    upgrade::OnUpgrade,
};
use nitrotap_core::pool::{
    DialError, RejectWhy, Want,
    retry::{self, Attempt, Decision},
};
use std::{
    convert::Infallible,
    error::Error,
    future::poll_fn,
    task::{Context, Poll},
};

/// Answers one request. Dropped when the client leaves, which closes the upstream connection.
pub(crate) async fn handle<R: Runtime, D: Dialer>(
    turn: Turn<R, D>,
    request: Request<Incoming>,
) -> Result<Response<Body<R, D>>, Infallible> {
    let response = match forward(&turn, request).await {
        Ok(Reply::Upstream(response, lease)) => {
            let (mut parts, body) = response.into_parts();
            head::to_client(&mut parts.headers, parts.status);
            // The version is each hop's own; hyper answers an HTTP/1.0 client in its version.
            parts.version = Version::HTTP_11;
            Response::from_parts(parts, in_task(|cx| Body::upstream(body, lease, turn, cx)).await)
        }
        Ok(Reply::Upgraded(response)) => response.map(|()| Body::text(bytes::Bytes::new(), turn)),
        Err(trouble) => reply::answer(trouble).map(|text| Body::text(text, turn)),
    };
    Ok(response)
}

enum Reply<R: Runtime, D: Dialer> {
    Upstream(Response<Incoming>, Lease<R, D>),
    Upgraded(Response<()>),
}

async fn forward<R: Runtime, D: Dialer>(
    turn: &Turn<R, D>,
    mut request: Request<Incoming>,
) -> Result<Reply<R, D>, Trouble> {
    let shard = &turn.shard;
    let upstreams = &shard.upstreams;
    let on_upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let (mut parts, body) = request.into_parts();
    let origin = Origin { client: &turn.client.address, trust_forwarded: upstreams.config.trust_forwarded };
    let wants_upgrade = head::to_upstream(&mut parts, &upstreams.url, &origin, !body.is_end_stream())
        .map_err(|why| report(turn, Trouble::Refused(why), &why.to_string()))?
        .is_some();
    let idempotent = parts.method.is_idempotent();
    let mut request = Request::from_parts(parts, UpstreamBody::new(body));
    let mut retried = false;
    loop {
        let want = if retried { Want::Fresh } else { Want::Any };
        let mut lease = upstreams.lease(want).await.map_err(|why| rejected(turn, why))?;
        // The copy costs as much as the rest of the pool's work, hence only where a retry could follow.
        let copy = if lease.reused && idempotent && !retried { UpstreamBody::repeat(&request) } else { None };
        match lease.send(request).await {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                let Some(on_upgrade) = on_upgrade.filter(|_| wants_upgrade) else {
                    return Err(report(turn, Trouble::Broken, "a 101 nobody asked for"));
                };
                let (mut parts, _) = response.into_parts();
                parts.extensions.remove::<OnUpgrade>();
                head::to_client_upgraded(&mut parts.headers);
                shard.counters.borrow_mut().count_response(parts.status);
                tunnel::start(shard, on_upgrade, lease);
                return Ok(Reply::Upgraded(Response::from_parts(parts, ())));
            }
            Ok(response) => {
                shard.counters.borrow_mut().count_response(response.status());
                return Ok(Reply::Upstream(response, lease));
            }
            Err(failure) => {
                let reused = lease.reused;
                drop(lease);
                let attempt = Attempt {
                    reused,
                    idempotent,
                    body_replayable: failure.unsent.is_some() || copy.is_some(),
                    request_sent: failure.sent,
                    head_seen: failure.received,
                    retried,
                };
                let trouble = failed(&failure);
                let again = failure.unsent.map(|unsent| *unsent).or(copy);
                match (retry::decide(attempt), again, trouble) {
                    (Decision::Retry, Some(again), (Trouble::Broken, cause)) => {
                        tracing::debug!(upstream = %upstreams.url, cause, "retrying on a fresh connection");
                        shard.counters.borrow_mut().retries += 1;
                        request = again;
                        retried = true;
                    }
                    (Decision::Retry | Decision::GiveUp, _, (trouble, cause)) => {
                        return Err(report(turn, trouble, &cause));
                    }
                }
            }
        }
    }
}

fn failed(failure: &Failure) -> (Trouble, String) {
    match &failure.cause {
        Cause::HeadTimeout => (Trouble::Late, "no response head in time".into()),
        Cause::BodyTimeout => (Trouble::BodyTimeout, "the client stopped sending its request body".into()),
        Cause::BodyFailed => (Trouble::Refused(BadRequest::Body), BadRequest::Body.to_string()),
        Cause::Broken(error) => (Trouble::Broken, chain(error)),
    }
}

fn rejected<R: Runtime, D: Dialer>(turn: &Turn<R, D>, why: RejectWhy) -> Trouble {
    match why {
        RejectWhy::QueueFull => report(turn, Trouble::Overloaded, "every connection is busy and the queue is full"),
        RejectWhy::WaitTimeout => report(turn, Trouble::Overloaded, "every connection stayed busy for too long"),
        RejectWhy::DialFailed(DialError::TimedOut) => report(turn, Trouble::Late, &DialError::TimedOut.to_string()),
        RejectWhy::DialFailed(
            why @ (DialError::Refused | DialError::Unreachable | DialError::Unresolved | DialError::Other),
        ) => report(turn, Trouble::Unreachable, &why.to_string()),
    }
}

/// Counts and logs an answer of our own. A client's mistake is no reason to wake an operator.
fn report<R: Runtime, D: Dialer>(turn: &Turn<R, D>, trouble: Trouble, cause: &str) -> Trouble {
    let upstream = &turn.shard.upstreams.url;
    let status = trouble.status();
    let mut counters = turn.shard.counters.borrow_mut();
    counters.count_response(status);
    let (counter, ours) = match trouble {
        Trouble::Refused(_) => (&mut counters.refused_request, false),
        Trouble::BodyTimeout => (&mut counters.body_timeout, false),
        Trouble::Overloaded => (&mut counters.overloaded, true),
        Trouble::Unreachable => (&mut counters.unreachable, true),
        Trouble::Broken => (&mut counters.broken, true),
        Trouble::Late => (&mut counters.late, true),
    };
    *counter += 1;
    if ours {
        tracing::warn!(%upstream, status = status.as_u16(), cause, "no answer from the upstream");
    } else {
        tracing::debug!(%upstream, status = status.as_u16(), cause, "request refused");
    }
    trouble
}

/// Runs `f` with the current task's context.
pub(crate) async fn in_task<T>(f: impl FnOnce(&mut Context<'_>) -> T) -> T {
    let mut f = Some(f);
    poll_fn(|cx| Poll::Ready(f.take().expect("ready at its first poll")(cx))).await
}

/// An error with its sources: hyper names the symptom, the source the cause.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
