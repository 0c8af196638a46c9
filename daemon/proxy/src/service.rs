//! One request: from the client's head to the response's head, with at most one retry.

use crate::{
    body::Body,
    client::{Stage, Turn},
    conn::UpstreamBody,
    head::{self, Origin},
    lease::{Cause, Failure, Lease},
    lines::What,
    repeat::Repeat,
    reply::{self, BadRequest, Trouble},
    runtime::{Dialer, Runtime},
    trust, tunnel, upgrades, upload,
};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header::CONNECTION};
use hyper::{
    body::{Body as _, Incoming},
    upgrade::OnUpgrade,
};
use nitrotap_core::pool::{
    DialError, RejectWhy, Want,
    retry::{self, Attempt, Decision},
};
use std::{convert::Infallible, error::Error, future::poll_fn, pin::pin, task::Poll};

/// Answers one request. Dropped when the client leaves, which closes the upstream connection.
///
/// hyper moves the future, so it holds little: the request goes into a box before it is made.
pub(crate) fn handle<R: Runtime, D: Dialer>(
    turn: Turn<R, D>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body<R, D>>, Infallible>> {
    let job = prepare(&turn, request);
    async move {
        let reply = match job {
            Ok(job) => forward(&turn, job).await,
            Err(trouble) => Err(trouble),
        };
        Ok(match reply {
            Ok(Reply::Upstream(response, mut lease)) => {
                let (mut parts, body) = response.into_parts();
                let early = lease.is_early(|| head::says_close(&parts));
                head::to_client(&mut parts.headers, parts.status);
                if early {
                    // What the client still sends of its body is of no use to anybody.
                    turn.shard.counters.borrow_mut().early_answers += 1;
                    parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
                }
                // The version is each hop's own; hyper answers an HTTP/1.0 client in its version.
                parts.version = Version::HTTP_11;
                Response::from_parts(parts, Body::upstream(body, lease, turn))
            }
            Ok(Reply::Upgraded(response)) => response.map(|()| Body::text(bytes::Bytes::new(), turn)),
            Err(trouble) => reply::answer(trouble).map(|text| Body::text(text, turn)),
        })
    }
}

enum Reply<R: Runtime, D: Dialer> {
    Upstream(Response<Incoming>, Lease<R, D>),
    Upgraded(Response<()>),
}

/// A request ready for the upstream.
struct Job {
    /// Taken when it is sent.
    request: Option<Request<UpstreamBody>>,
    idempotent: bool,
    /// The method is HEAD: the response has no body, whatever it says.
    head_only: bool,
    /// Where to get the client's connection, and the protocol it asked for.
    upgrade: Option<(OnUpgrade, HeaderValue)>,
}

fn prepare<R: Runtime, D: Dialer>(turn: &Turn<R, D>, mut request: Request<Incoming>) -> Result<Box<Job>, Trouble> {
    let upstreams = &turn.shard.upstreams;
    let config = &upstreams.config;
    if turn.stray {
        return Err(report(turn, Trouble::Refused(BadRequest::Stray), &BadRequest::Stray.to_string()));
    }
    let on_upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let (mut parts, body) = request.into_parts();
    let origin =
        Origin { client: &turn.client.address, trust_forwarded: config.trust_forwarded, upgrades: &config.upgrades };
    turn.shard.counters.borrow_mut().dropped_fields += trust::clean(&mut parts.headers, config.trust_forwarded);
    let protocol = head::to_upstream(&mut parts, &upstreams.url, &origin, !body.is_end_stream())
        .map_err(|why| report(turn, Trouble::Refused(why), &why.to_string()))?;
    Ok(Box::new(Job {
        idempotent: parts.method.is_idempotent(),
        head_only: parts.method == Method::HEAD,
        upgrade: on_upgrade.zip(protocol),
        request: Some(Request::from_parts(parts, UpstreamBody::new(body))),
    }))
}

async fn forward<R: Runtime, D: Dialer>(turn: &Turn<R, D>, mut job: Box<Job>) -> Result<Reply<R, D>, Trouble> {
    let shard = &turn.shard;
    let upstreams = &shard.upstreams;
    if job.upgrade.is_some() && !shard.has_room_for_a_tunnel() {
        return Err(too_many_tunnels(turn));
    }
    if let Some(request) = job.request.as_mut().filter(|request| !request.body().is_empty()) {
        upload::collect(turn, request).await.map_err(|(trouble, why)| report(turn, trouble, why))?;
    }
    let mut retried = false;
    loop {
        let want = if retried { Want::Fresh } else { Want::Any };
        let mut lease = upstreams.lease(want).await.map_err(|why| rejected(turn, why))?;
        let Some(request) = job.request.take() else {
            unreachable!("there is one at first, and a retry is decided only with one at hand");
        };
        let may_retry = lease.reused && job.idempotent && !retried;
        let again = if may_retry { Repeat::of(&request) } else { None };
        turn.sends(lease.signals());
        let Some(sent) = in_time(turn, lease.send(request, &turn.client.side)).await else {
            drop(lease);
            return Err(report(turn, Trouble::BodyTimeout, upload::SLOW));
        };
        turn.stage(Stage::Streaming);
        match sent {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                return switch(turn, response, lease, job.upgrade);
            }
            Ok(mut response) => {
                let has_body = may_have_body(job.head_only, response.status());
                if let Err(fault) = head::check_response(response.headers_mut(), has_body) {
                    return Err(report(turn, Trouble::Misframed, &fault.to_string()));
                }
                {
                    let mut counters = shard.counters.borrow_mut();
                    counters.count_response(response.status());
                    counters.dropped_trailers += lease.take_dropped_trailers();
                }
                return Ok(Reply::Upstream(response, lease));
            }
            Err(failure) => {
                let attempt = Attempt {
                    reused: lease.reused,
                    idempotent: job.idempotent,
                    body_replayable: failure.unsent.is_some() || again.is_some(),
                    request_sent: failure.sent,
                    head_seen: failure.received,
                    retried,
                };
                drop(lease);
                turn.stage(Stage::Queued);
                turn.let_go();
                let (trouble, cause) = failed(&failure);
                if trouble != Trouble::Broken || retry::decide(attempt) == Decision::GiveUp {
                    return Err(report(turn, trouble, &cause));
                }
                tracing::debug!(upstream = %upstreams.url, cause, "retrying on a fresh connection");
                shard.counters.borrow_mut().retries += 1;
                job.request = failure.unsent.map(|unsent| *unsent).or_else(|| again.map(Repeat::into_request));
                retried = true;
            }
        }
    }
}

/// RFC 9112 section 6.3, first rule.
fn may_have_body(head_only: bool, status: StatusCode) -> bool {
    !head_only && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
}

/// What `sending` comes to, unless the client takes too long over the request's body.
async fn in_time<R: Runtime, D: Dialer, T>(turn: &Turn<R, D>, sending: impl Future<Output = T>) -> Option<T> {
    let mut sending = pin!(sending);
    poll_fn(|cx| {
        if turn.client.upload_is_overdue() {
            return Poll::Ready(None);
        }
        sending.as_mut().poll(cx).map(Some)
    })
    .await
}

fn too_many_tunnels<R: Runtime, D: Dialer>(turn: &Turn<R, D>) -> Trouble {
    turn.shard.counters.borrow_mut().tunnels_refused += 1;
    report(turn, Trouble::Overloaded, "as many connections are upgraded as may be")
}

/// The upstream speaks another protocol from here on.
fn switch<R: Runtime, D: Dialer>(
    turn: &Turn<R, D>,
    response: Response<Incoming>,
    lease: Lease<R, D>,
    upgrade: Option<(OnUpgrade, HeaderValue)>,
) -> Result<Reply<R, D>, Trouble> {
    let Some((on_upgrade, asked)) = upgrade else {
        return Err(report(turn, Trouble::Broken, "a 101 nobody asked for"));
    };
    if !upgrades::agrees(&asked, response.headers()) {
        return Err(report(turn, Trouble::Broken, "a 101 to another protocol than the client asked for"));
    }
    // Others may have been upgraded while this one was on its way.
    if !turn.shard.has_room_for_a_tunnel() {
        return Err(too_many_tunnels(turn));
    }
    let (mut parts, _) = response.into_parts();
    parts.extensions.remove::<OnUpgrade>();
    head::to_client_upgraded(&mut parts.headers);
    turn.shard.counters.borrow_mut().count_response(parts.status);
    turn.client.side.become_raw();
    tunnel::start(&turn.shard, &turn.client, on_upgrade, lease);
    Ok(Reply::Upgraded(Response::from_parts(parts, ())))
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
    if let Trouble::Refused(why) = trouble {
        counters.count_refusal(why);
    }
    let (counter, ours) = match trouble {
        Trouble::Refused(_) => (&mut counters.refused_request, false),
        Trouble::BodyTimeout => (&mut counters.body_timeout, false),
        Trouble::Overloaded => (&mut counters.overloaded, true),
        Trouble::Unreachable => (&mut counters.unreachable, true),
        Trouble::Broken => (&mut counters.broken, true),
        Trouble::Late => (&mut counters.late, true),
        Trouble::Misframed => (&mut counters.misframed, true),
    };
    *counter += 1;
    if ours {
        drop(counters);
        turn.shard.upstreams.warn(What::Answer(status.as_u16()), cause);
    } else {
        tracing::debug!(%upstream, status = status.as_u16(), cause, "request refused");
    }
    trouble
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
