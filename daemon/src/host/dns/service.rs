//! The task that owns the DNS front, and the handle by which others reach it.

use super::{
    QUEUE, STREAMS,
    files::Watched,
    hosts,
    resolvers::Resolvers,
    stream::{self, StreamAnswer},
    upstream::{self, Event},
};
use crate::clock::Clock;
use nitrotap_core::{
    counters::Shared,
    gateway::dns::{
        Action, ClientId, Dns, DnsConfig, DnsCounters, NameFilter, Transport, UpstreamFailure, Zone, ZoneError,
    },
};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::{AbortHandle, JoinSet},
    time::sleep_until,
};

/// Answers of resolvers that wait to be looked at; more of them wait in their sockets.
const EVENTS: usize = 64;
/// When to look at the clock while no query waits; any time would do.
const TICK: Duration = Duration::from_secs(3600);

type Answer = Box<dyn FnMut(u64, Vec<u8>) + Send>;
type Seen = Box<dyn FnMut(&[u8]) + Send>;

/// Which files to look into.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `/etc/resolv.conf`, unless in a test.
    pub(crate) resolv_conf: PathBuf,
    /// `/etc/hosts`, unless in a test; `None` not to consult it.
    pub(crate) hosts: Option<PathBuf>,
    /// The port of the resolvers instead of 53, for tests.
    pub(crate) port: Option<u16>,
}

/// What others do with names. All of it is called from the task and must not block.
pub(crate) struct Hooks {
    /// Takes an answer to a query of [`DnsHandle::try_query`], with the client it named.
    pub(crate) answer: Answer,
    /// Sees each answer, also those on streams, before its client does.
    pub(crate) seen: Option<Seen>,
    /// Says which names may be asked for.
    pub(crate) filter: Option<Box<dyn NameFilter>>,
}

/// The task has ended, with the runtime or by a panic.
#[derive(Debug, thiserror::Error)]
#[error("the DNS service has ended")]
pub(crate) struct DnsGone;

/// Reaches the task; clones reach the same.
#[derive(Clone, Debug)]
pub(crate) struct DnsHandle {
    queries: mpsc::Sender<Query>,
    commands: mpsc::Sender<Command>,
    streams: Arc<Semaphore>,
    counters: Arc<Shared<DnsCounters>>,
}

/// A message of a client.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) reply: ReplyTo,
    pub(super) transport: Transport,
    pub(super) bytes: Vec<u8>,
}

/// Where an answer goes.
#[derive(Debug)]
pub(super) enum ReplyTo {
    /// To [`Hooks::answer`].
    Client(u64),
    /// To a stream's writer.
    Stream(mpsc::Sender<StreamAnswer>, OwnedSemaphorePermit),
}

#[derive(Debug)]
enum Command {
    Zones(oneshot::Sender<Vec<Zone>>),
    AddZone(Zone, oneshot::Sender<Result<(), ZoneError>>),
}

impl DnsHandle {
    /// Leaves a query, from any thread and without waiting; false if too many wait already.
    pub(crate) fn try_query(&self, client: u64, transport: Transport, bytes: Vec<u8>) -> bool {
        self.queries.try_send(Query { reply: ReplyTo::Client(client), transport, bytes }).is_ok()
    }

    /// Serves a stream of queries until it ends; closes it at once if there are too many streams.
    pub(crate) async fn serve_tcp(&self, mut stream: UnixStream) {
        let Ok(_place) = self.streams.try_acquire() else {
            tracing::debug!(max = STREAMS, "too many DNS streams, one is closed");
            return;
        };
        let (reader, writer) = stream.split();
        if let Err(error) = stream::serve(reader, writer, self.queries.clone()).await {
            tracing::debug!(%error, "DNS stream ends");
        }
    }

    /// The zones, in the order in which they are tried.
    pub(crate) async fn zones(&self) -> Result<Vec<Zone>, DnsGone> {
        let (tell, told) = oneshot::channel();
        self.commands.send(Command::Zones(tell)).await.map_err(|_| DnsGone)?;
        told.await.map_err(|_| DnsGone)
    }

    /// Adds a zone, or its records to the one of its name; the inner error is about the zone.
    pub(crate) async fn add_zone(&self, zone: Zone) -> Result<Result<(), ZoneError>, DnsGone> {
        let (tell, told) = oneshot::channel();
        self.commands.send(Command::AddZone(zone, tell)).await.map_err(|_| DnsGone)?;
        told.await.map_err(|_| DnsGone)
    }

    /// What happened so far.
    pub(crate) fn counters(&self) -> &Arc<Shared<DnsCounters>> {
        &self.counters
    }
}

/// The task, ready to [run](Self::run).
pub(crate) struct DnsService {
    dns: Dns,
    clock: Clock,
    resolvers: Resolvers,
    hosts: Option<Watched>,
    answer: Answer,
    seen: Option<Seen>,
    queries: mpsc::Receiver<Query>,
    commands: mpsc::Receiver<Command>,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    asking: JoinSet<()>,
    /// Those whose queries were passed on, by the number under which the front knows them.
    waiting: BTreeMap<u64, (ReplyTo, AbortHandle)>,
    next: u64,
    counters: Arc<Shared<DnsCounters>>,
}

impl DnsService {
    /// The task and its handle.
    ///
    /// # Errors
    /// [`ZoneError`] if a configured zone cannot be taken.
    pub(crate) fn new(
        config: DnsConfig,
        settings: Settings,
        hooks: Hooks,
        clock: Clock,
    ) -> Result<(DnsHandle, Self), ZoneError> {
        let mut dns = Dns::new(config)?;
        if let Some(filter) = hooks.filter {
            dns.set_filter(filter);
        }
        let (queries, queries_rx) = mpsc::channel(QUEUE);
        let (commands, commands_rx) = mpsc::channel(16);
        let counters = Arc::new(Shared::default());
        let streams = Arc::new(Semaphore::new(STREAMS));
        let service = Self {
            dns,
            clock,
            resolvers: Resolvers::new(&settings.resolv_conf, settings.port),
            hosts: settings.hosts.map(Watched::new),
            answer: hooks.answer,
            seen: hooks.seen,
            queries: queries_rx,
            commands: commands_rx,
            events: mpsc::channel(EVENTS),
            asking: JoinSet::new(),
            waiting: BTreeMap::new(),
            next: 0,
            counters: Arc::clone(&counters),
        };
        Ok((DnsHandle { queries, commands, streams, counters }, service))
    }

    /// Answers queries until all handles are gone.
    pub(crate) async fn run(mut self) {
        loop {
            self.counters.publish(&self.dns.counters());
            let now = self.clock.now();
            let due = self.clock.deadline(self.dns.poll_timeout().unwrap_or(now + TICK));
            tokio::select! {
                query = self.queries.recv() => match query {
                    Some(query) => self.handle_query(query),
                    None => return,
                },
                Some(command) = self.commands.recv() => self.handle_command(command),
                Some((token, answer)) = self.events.1.recv() => {
                    let answer = answer.as_deref().map_err(|failure: &UpstreamFailure| *failure);
                    if let Some((client, answer)) = self.dns.handle_upstream(token, answer) {
                        self.finish(client, answer);
                    }
                }
                Some(_) = self.asking.join_next() => {}
                () = sleep_until(due) => {
                    let now = self.clock.now();
                    while let Some((_, client, answer)) = self.dns.handle_timeout(now) {
                        self.finish(client, answer);
                    }
                }
            }
        }
    }

    fn handle_query(&mut self, query: Query) {
        let now = self.clock.now();
        if let Some(text) = self.hosts.as_mut().and_then(|file| file.poll(now)) {
            self.dns.set_hosts(hosts::parse(&text));
        }
        let client = ClientId(self.next);
        self.next += 1;
        match self.dns.handle_query(now, client, query.transport, &query.bytes) {
            Action::Answer(answer) => self.reply(query.reply, answer),
            Action::Forward { token, query: bytes, transport } => {
                let plan = self.resolvers.plan(now);
                let events = self.events.0.clone();
                let task = self.asking.spawn(upstream::ask(plan, token, transport, bytes, events));
                self.waiting.insert(client.0, (query.reply, task));
            }
            Action::Drop(why) => tracing::debug!(%why, "DNS message dropped"),
        }
    }

    fn handle_command(&mut self, command: Command) {
        // Who asked may have gone.
        match command {
            Command::Zones(tell) => drop(tell.send(self.dns.zones().cloned().collect())),
            Command::AddZone(zone, tell) => {
                let name = zone.name.clone();
                let added = self.dns.add_zone(zone);
                if added.is_ok() {
                    seldom!(INFO, 0_u32, "DNS zone added", zone = %name);
                }
                drop(tell.send(added));
            }
        }
    }

    /// The query of `client` is over: nobody needs to be asked any more.
    fn finish(&mut self, client: ClientId, answer: Vec<u8>) {
        if let Some((reply, task)) = self.waiting.remove(&client.0) {
            task.abort();
            self.reply(reply, answer);
        }
    }

    fn reply(&mut self, reply: ReplyTo, answer: Vec<u8>) {
        if let Some(seen) = &mut self.seen {
            seen(&answer);
        }
        match reply {
            ReplyTo::Client(client) => (self.answer)(client, answer),
            // There is room for it; a stream that has ended needs no answer.
            ReplyTo::Stream(stream, place) => drop(stream.try_send((answer, place))),
        }
    }
}

#[cfg(test)]
mod tests;
