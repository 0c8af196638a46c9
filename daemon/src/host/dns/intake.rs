//! Where queries wait and streams are admitted: shared by the data thread, the streams and the task that answers.
//!
//! Decides nothing: [`Intake`] and [`Streams`] do. Whoever holds a lock here works on a few numbers and never waits.

use super::{INTAKE, PIPELINE, PIPELINE_TENANT, STREAM_LIMITS, service::Query};
use crate::clock::Clock;
use nitrotap_core::gateway::dns::{Intake, Shed, StreamId, Streams};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// See the module.
pub(super) struct Front {
    clock: Clock,
    queries: Mutex<Intake<Query>>,
    /// There is a query.
    wake: Notify,
    streams: Mutex<Open>,
    /// The task has ended: nobody answers any more.
    gone: AtomicBool,
    shed: AtomicU64,
    shed_streams: AtomicU64,
}

/// The streams that are being served.
struct Open {
    streams: Streams,
    /// What ends each of them.
    ends: BTreeMap<StreamId, Arc<Notify>>,
    /// The places of each tenant's queries, and how many streams share them.
    places: BTreeMap<u32, (Arc<Semaphore>, usize)>,
}

/// One stream's place among all, as long as it lives.
pub(crate) struct Seat {
    front: Arc<Front>,
    id: StreamId,
    pub(super) tenant: u32,
    /// Told when another stream needs the place.
    pub(super) end: Arc<Notify>,
    stream_places: Arc<Semaphore>,
    tenant_places: Arc<Semaphore>,
}

/// The place of a query in its stream's pipeline and in its tenant's, free once its answer is written.
pub(super) type Place = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Front {
    pub(super) fn new(clock: Clock) -> Arc<Self> {
        let streams = Open { streams: Streams::new(STREAM_LIMITS), ends: BTreeMap::new(), places: BTreeMap::new() };
        Arc::new(Self {
            clock,
            queries: Mutex::new(Intake::new(INTAKE)),
            wake: Notify::new(),
            streams: Mutex::new(streams),
            gone: AtomicBool::new(false),
            shed: AtomicU64::new(0),
            shed_streams: AtomicU64::new(0),
        })
    }

    /// Leaves a query; false if it, or nobody to answer it, is there afterwards.
    pub(super) fn push(&self, tenant: u32, query: Query) -> bool {
        if self.gone.load(Relaxed) {
            return false;
        }
        let pushed = lock(&self.queries).push(tenant, query);
        self.wake.notify_one();
        match pushed {
            Ok(()) => true,
            // One that was on a stream takes its place with it; its client asks again.
            Err(Shed { tenant: whose, .. }) => {
                self.shed.fetch_add(1, Relaxed);
                whose != tenant
            }
        }
    }

    /// The queries, for the task that answers them.
    pub(super) fn queries(&self) -> MutexGuard<'_, Intake<Query>> {
        lock(&self.queries)
    }

    /// Resolves when there is a query.
    pub(super) async fn asked(&self) {
        self.wake.notified().await;
    }

    /// The task has ended.
    pub(super) fn close(&self) {
        self.gone.store(true, Relaxed);
    }

    /// Queries dropped, streams closed or refused, and streams there are.
    pub(super) fn figures(&self) -> (u64, u64, usize) {
        (self.shed.load(Relaxed), self.shed_streams.load(Relaxed), lock(&self.streams).streams.len())
    }

    /// A stream of a tenant; `None` if there is no room for it.
    pub(super) fn admit(self: &Arc<Self>, tenant: u32) -> Option<Seat> {
        let mut open = lock(&self.streams);
        let opened = open.streams.open(self.clock.now(), tenant);
        let Ok((id, closed)) = opened else {
            self.shed_streams.fetch_add(1, Relaxed);
            return None;
        };
        if let Some(end) = closed.and_then(|closed| open.ends.get(&closed)) {
            self.shed_streams.fetch_add(1, Relaxed);
            end.notify_one();
        }
        let end = Arc::new(Notify::new());
        open.ends.insert(id, Arc::clone(&end));
        let (places, streams) =
            open.places.entry(tenant).or_insert_with(|| (Arc::new(Semaphore::new(PIPELINE_TENANT)), 0));
        *streams += 1;
        let tenant_places = Arc::clone(places);
        drop(open);
        let stream_places = Arc::new(Semaphore::new(PIPELINE));
        Some(Seat { front: Arc::clone(self), id, tenant, end, stream_places, tenant_places })
    }
}

impl Seat {
    /// A place for one more query of this stream; waits for it. `None` is never.
    pub(super) async fn place(&self) -> Option<Place> {
        let own = Arc::clone(&self.stream_places).acquire_owned().await.ok()?;
        let tenant = Arc::clone(&self.tenant_places).acquire_owned().await.ok()?;
        Some((own, tenant))
    }

    /// A query has come; false if nobody takes it.
    pub(super) fn push(&self, query: Query) -> bool {
        lock(&self.front.streams).streams.heard(self.front.clock.now(), self.id);
        self.front.push(self.tenant, query)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = lock(&self.front.streams);
        open.streams.close(self.id);
        open.ends.remove(&self.id);
        if let Some((_, streams)) = open.places.get_mut(&self.tenant) {
            *streams -= 1;
            if *streams == 0 {
                open.places.remove(&self.tenant);
            }
        }
    }
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
