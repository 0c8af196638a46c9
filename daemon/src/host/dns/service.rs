//! The task that owns the DNS front, and the handle by which others reach it.

use super::{
    QUERY_MAX,
    files::Watched,
    hosts,
    intake::{Front, Place, Seat},
    resolvers::Resolvers,
    stream::{self, StreamAnswer},
    upstream::{self, Event},
};
use crate::clock::Clock;
use nitrotap_core::{
    counters::Shared,
    gateway::dns::{Action, ClientId, Dns, DnsConfig, DnsCounters, NameFilter, Transport, Zone, ZoneError},
};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet, yield_now},
    time::sleep_until,
};

/// Answers of resolvers that wait to be looked at; more of them wait in their sockets.
const EVENTS: usize = 64;
/// Queries taken before answers of resolvers get their turn.
const TURN: usize = 64;
/// When to look at the clock while no query waits; any time would do.
const TICK: Duration = Duration::from_secs(3600);

type Answer = Box<dyn FnMut(u64, Vec<u8>) + Send>;
type Seen = Box<dyn FnMut(u32, &[u8]) + Send>;

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
    /// Sees each answer to a tenant's query, also those on streams, before its client does.
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
    front: Arc<Front>,
    commands: mpsc::Sender<Command>,
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
    Stream(mpsc::Sender<StreamAnswer>, Place),
}

#[derive(Debug)]
enum Command {
    Zones(oneshot::Sender<Vec<Zone>>),
    AddZone(Zone, oneshot::Sender<Result<(), ZoneError>>),
}

impl DnsHandle {
    /// Leaves a query of a tenant's client, from any thread and without waiting; false if too many wait already.
    pub(crate) fn try_query(&self, tenant: u32, client: u64, transport: Transport, bytes: Vec<u8>) -> bool {
        bytes.len() <= QUERY_MAX && self.front.push(tenant, Query { reply: ReplyTo::Client(client), transport, bytes })
    }

    /// Admits a stream of a tenant, from any thread and without waiting, perhaps in the place of another one; `None` if there
    /// are too many.
    pub(crate) fn admit(&self, tenant: u32) -> Option<Seat> {
        self.front.admit(tenant)
    }

    /// Serves a stream of queries until it ends, or its seat is needed.
    pub(crate) async fn serve_tcp(mut stream: UnixStream, seat: Seat) {
        let (reader, writer) = stream.split();
        if let Err(error) = stream::serve(reader, writer, &seat).await {
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
    front: Arc<Front>,
    commands: mpsc::Receiver<Command>,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    asking: JoinSet<()>,
    /// Those whose queries were passed on, by the number under which the front knows them.
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
    counters: Arc<Shared<DnsCounters>>,
}

/// One whose query was passed on.
struct Waiting {
    tenant: u32,
    reply: ReplyTo,
    task: AbortHandle,
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
        let front = Front::new(clock);
        let (commands, commands_rx) = mpsc::channel(16);
        let counters = Arc::new(Shared::default());
        let service = Self {
            dns,
            clock,
            resolvers: Resolvers::new(&settings.resolv_conf, settings.port),
            hosts: settings.hosts.map(Watched::new),
            answer: hooks.answer,
            seen: hooks.seen,
            front: Arc::clone(&front),
            commands: commands_rx,
            events: mpsc::channel(EVENTS),
            asking: JoinSet::new(),
            waiting: BTreeMap::new(),
            next: 0,
            counters: Arc::clone(&counters),
        };
        Ok((DnsHandle { front, commands, counters }, service))
    }

    /// Answers queries until all handles are gone.
    pub(crate) async fn run(mut self) {
        loop {
            let more = self.take_queries();
            self.publish();
            let now = self.clock.now();
            let waiting = self.front.queries().poll_timeout();
            let due = self.dns.poll_timeout().into_iter().chain(waiting).min().unwrap_or(now + TICK);
            let due = self.clock.deadline(due);
            tokio::select! {
                () = yield_now(), if more => {}
                () = self.front.asked() => {}
                command = self.commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    // All handles are gone.
                    None => return,
                },
                Some(event) = self.events.1.recv() => self.handle_event(event),
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

    /// Looks at a turn's share of queries; true if there may be more.
    fn take_queries(&mut self) -> bool {
        let now = self.clock.now();
        for _ in 0..TURN {
            let Some((tenant, query)) = self.front.queries().pop(now) else { return false };
            self.handle_query(tenant, query);
        }
        true
    }

    fn publish(&self) {
        let mut counters = self.dns.counters();
        let (shed, shed_streams, streams) = self.front.figures();
        (counters.shed, counters.shed_streams, counters.streams) = (shed, shed_streams, streams as u64);
        counters.waiting = self.front.queries().len() as u64;
        self.counters.publish(&counters);
    }

    fn handle_query(&mut self, tenant: u32, query: Query) {
        let now = self.clock.now();
        if let Some(text) = self.hosts.as_mut().and_then(|file| file.poll(now)) {
            self.dns.set_hosts(hosts::parse(&text));
        }
        let client = ClientId(self.next);
        self.next += 1;
        let action = self.dns.handle_query(now, client, tenant, query.transport, &query.bytes);
        while let Some((_, client, answer)) = self.dns.poll_shed() {
            self.finish(client, answer);
        }
        match action {
            Action::Answer(answer) => self.reply(tenant, query.reply, answer),
            Action::Forward { token, query: bytes, transport } => {
                let plan = self.resolvers.plan(now);
                let events = self.events.0.clone();
                let task = self.asking.spawn(upstream::ask(plan, token, transport, bytes, events));
                self.waiting.insert(client.0, Waiting { tenant, reply: query.reply, task });
            }
            Action::Drop(why) => tracing::debug!(%why, "DNS message dropped"),
        }
    }

    fn handle_event(&mut self, event: Event) {
        let done = match event {
            Event::Silent { server } => {
                self.resolvers.note(self.clock.now(), server, false);
                None
            }
            Event::Failed { token, failure } => self.dns.handle_upstream(token, Err(failure)),
            Event::Answer { token, server, answer, next } => {
                self.resolvers.note(self.clock.now(), server, true);
                match next {
                    Some(next) if self.dns.defer(token, &answer) => {
                        next.notify_one();
                        None
                    }
                    Some(_) | None => self.dns.handle_upstream(token, Ok(&answer)),
                }
            }
        };
        if let Some((client, answer)) = done {
            self.finish(client, answer);
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
        if let Some(Waiting { tenant, reply, task }) = self.waiting.remove(&client.0) {
            task.abort();
            self.reply(tenant, reply, answer);
        }
    }

    fn reply(&mut self, tenant: u32, reply: ReplyTo, answer: Vec<u8>) {
        if let Some(seen) = &mut self.seen {
            seen(tenant, &answer);
        }
        match reply {
            ReplyTo::Client(client) => (self.answer)(client, answer),
            // There is room for it; a stream that has ended needs no answer.
            ReplyTo::Stream(stream, place) => drop(stream.try_send((answer, place))),
        }
    }
}

impl Drop for DnsService {
    fn drop(&mut self) {
        self.front.close();
    }
}

#[cfg(test)]
mod tests;
