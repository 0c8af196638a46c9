//! What must be true of the loop, whatever happens in the world.

use super::{
    ends::{Dial, End},
    guest::{ResetBy, Talk},
    outside::{Outside, Seen, Stage},
};
use nitrotap_core::{
    drive::host::{Request, Source, View},
    gateway::turns,
    time::Instant,
};
use std::time::Duration;

/// Work of one turn: its bound, and what the last step of each of three guests may be beyond.
const MOST_WORK: u64 = turns::TURN + 4 * 2048;
/// Turns in which nothing happens to the world, within a second.
const MOST_TURNS: u32 = 500;
/// For how long the loop may leave what it was told of: it tries again after a shortage, and rates and floods rest for less.
const PATIENCE: Duration = Duration::from_millis(1200);
/// How long it takes until all that was begun is done, and until all is over: the gateway itself gives up after some time.
const DONE: Duration = Duration::from_secs(60);
const OVER: Duration = Duration::from_secs(1200);

impl Outside<'_> {
    /// A turn is over.
    pub(super) fn see(&mut self, view: &View<'_, Self>) {
        let gateway = view.gateway();
        let counters = gateway.counters();
        assert!(view.work() <= MOST_WORK, "{} units of work in a turn", view.work());
        let ports = self.ports.iter().filter(|port| port.handle.strong_count() > 0).count() as u64;
        let sources = view.links() as u64 + counters.tcp_flows + counters.sessions + ports;
        assert_eq!(view.waiting(), view.sources(), "places in the list of what waits, and what waits");
        assert!(view.waiting() as u64 <= sources, "{} wait for their turn, of {sources}", view.waiting());
        assert_eq!(view.counters().settles_cut, 0, "two parts keep each other busy");
        let mut seen = Seen::default();
        let (mut flows, mut links) = (0, 0);
        for end in self.ends.iter().filter(|end| end.is_held()) {
            match end.source {
                Some(source @ Source::Flow(flow)) => {
                    flows += 1;
                    seen.flows.insert(source, gateway.status(flow));
                }
                Some(source @ Source::Link(port)) => {
                    links += 1;
                    seen.links.insert(source, gateway.pending(port).len());
                }
                _ => {}
            }
        }
        assert_eq!((view.streams(), view.links()), (flows, links), "streams that the loop has, and that are open");
        for socket in &self.sockets {
            if let (Some(source @ Source::Session(session)), 1..) = (socket.source, socket.handle.strong_count()) {
                assert!(gateway.tenant_of_session(session).is_some(), "a socket of no session");
                seen.sessions.insert(source);
            }
        }
        self.seen = seen;
    }

    /// The loop waits.
    pub(super) fn check(&mut self, timeout: Option<Duration>) {
        let now = self.time();
        for n in 0..self.ends.len() {
            if !self.ends[n].seen_closed && !self.ends[n].is_held() {
                self.ends[n].seen_closed = true;
                if let Some(source) = self.ends[n].source {
                    self.edges.forget(source);
                }
                match self.ends[n].link {
                    Some(link) => self.shake(link.guest),
                    None => self.check_closed(n),
                }
            }
        }
        self.check_talks();
        if timeout == Some(Duration::ZERO) {
            self.check_progress(now);
            return;
        }
        for n in 0..self.ends.len() {
            let waits = self.ends[n].is_held() && self.waits(n);
            let heard = self.pair(n).map_or(0, |(_, talk)| talk.heard());
            let end = &mut self.ends[n];
            let moved = end.taken + end.passed + heard;
            let since = end.waits.filter(|(_, before)| waits && *before == moved).map_or(now, |(since, _)| since);
            end.waits = waits.then_some((since, moved));
            let end = &self.ends[n];
            let patience = if end.link.is_some() || self.limited { PATIENCE } else { Duration::ZERO };
            let lost = waits && (timeout.is_none() || patience == Duration::ZERO || now.since(since) > patience);
            assert!(!lost, "nobody will ever look at {n} again: {end:?}, {:?}, {:?}", self.seen, self.pair(n));
        }
        for socket in self.sockets.iter().filter(|socket| socket.handle.strong_count() > 0) {
            let told = socket.source.is_none_or(|source| self.edges.of(source).is_some());
            let lost = !socket.inbox.is_empty() && !told && !is_recent(now, socket.shortage);
            assert!(!lost, "nobody will ever look at {socket:?} again");
        }
        for port in self.ports.iter_mut().filter(|port| port.handle.strong_count() == 0) {
            port.clients.clear();
        }
        for port in self.ports.iter().filter(|port| port.handle.strong_count() > 0) {
            let told = self.edges.of(port.source).is_some() || is_recent(now, port.shortage);
            let lost = !(told || port.clients.is_empty() && port.inbox.is_empty());
            assert!(!lost, "nobody will ever look at {port:?} again");
        }
        self.check_progress(now);
        match self.stage {
            Stage::Calm if self.is_done() => (self.stage, self.began) = (Stage::End, now),
            Stage::Calm => {
                assert!(now.since(self.began) < DONE, "this never gets on: {}", self.describe());
            }
            Stage::End if self.is_all_over() => {
                self.stage = Stage::Over;
                self.requests.push_back(Request::Stop);
            }
            Stage::End => assert!(now.since(self.began) < OVER, "this never ends: {}", self.describe()),
            Stage::Script | Stage::Over => {}
        }
    }

    fn check_progress(&mut self, now: Instant) {
        let (since, turns) = self.idle;
        let counts = !self.moved && now.since(since) < Duration::from_secs(1);
        self.idle = if counts { (since, turns + 1) } else { (now, 0) };
        assert!(self.idle.1 < MOST_TURNS, "it goes round and round, and nothing happens");
    }

    /// Whether something can be done about a stream that the loop is not going to be told of.
    fn waits(&self, n: usize) -> bool {
        let (now, end) = (self.time(), &self.ends[n]);
        let Some(source) = end.source else { return false };
        let told = self.edges.of(source);
        let (reads, writes) = (told.is_some_and(|told| told.readable), told.is_some_and(|told| told.writable));
        if is_recent(now, end.shortage) {
            return false;
        }
        if let Some(pending) = self.seen.links.get(&source) {
            return end.is_readable() && !reads || *pending > 0 && end.room > 0 && !end.full && !writes;
        }
        match end.dial {
            Dial::Begun(_) | Dial::Failed => return false,
            Dial::Answered(_) => return !writes,
            Dial::Stands => {}
        }
        let Some(status) = self.seen.flows.get(&source) else { return false };
        let Some(status) = status else { panic!("a stream of no connection: {end:?}") };
        if !status.established {
            return false;
        }
        let takes = end.room > 0 && !end.full || end.refused;
        status.room > 0 && end.is_readable() && !reads
            || status.received > 0 && takes && !(end.refused && self.limited) && !end.finished && !writes
            || status.received_all && !end.finished
    }

    /// A connection's both ends, if they have heard of each other.
    fn pair(&self, n: usize) -> Option<(&End, &Talk)> {
        let end = &self.ends[n];
        Some((end, self.guests.talks.get(usize::from(end.incoming.name?))?))
    }

    /// The loop tells the world of the guest's end.
    pub(super) fn check_finish(&self, n: usize) {
        let Some((end, talk)) = self.pair(n) else { return };
        let whole = talk.ended && (end.incoming.got == talk.total || end.refused);
        assert!(whole, "an end at {} that the guest has not made, or not there: {talk:?}", end.incoming.got);
    }

    fn check_closed(&self, n: usize) {
        let Some((end, talk)) = self.pair(n) else { return };
        if end.source.is_none() || self.is_over.get() || talk.shaky || end.error.is_some() {
            return;
        }
        if end.reset {
            let fair = talk.reset == Some(ResetBy::Guest) || end.dial != Dial::Stands || talk.irs_is_unknown();
            assert!(fair || end.refused, "the world got a reset that nobody has made: {end:?}, {talk:?}");
        } else if end.dial == Dial::Stands {
            assert!(end.finished && end.read_end, "closed without its ends: {end:?}, {talk:?}");
        }
    }

    fn check_talks(&self) {
        for (number, talk) in self.guests.talks.iter().enumerate() {
            let Some(n) = talk.incoming.name.map(usize::from) else { continue };
            let end = &self.ends[n];
            let same = end.incoming.name.is_none_or(|name| usize::from(name) == number);
            assert!(same, "connection {number} of a guest is joined to {n}: {end:?}");
            if talk.peer_ended {
                let whole = end.is_gone() && talk.incoming.got == end.given;
                assert!(whole, "an end that the world has not made, or not there: {end:?}, {talk:?}");
                // A reset that a write was told of is not seen any more: see `End::eaten`.
                assert!(end.end || end.eaten, "a reset that became an end: {end:?}, {talk:?}");
            }
            if talk.reset == Some(ResetBy::Gateway) && end.dial == Dial::Stands && !talk.shaky {
                assert!(end.error.is_some() || end.refused, "a reset that nobody has made: {end:?}, {talk:?}");
            }
        }
    }

    /// Whether all that was said has arrived.
    fn is_done(&self) -> bool {
        self.guests.talks.iter().all(|talk| {
            let Some(end) = talk.incoming.name.map(|n| &self.ends[usize::from(n)]) else { return true };
            let broken = end.error.is_some() || end.refuses || talk.reset.is_some() || talk.shaky;
            let fresh = end.dial != Dial::Stands || !talk.is_open();
            broken || fresh || end.incoming.got == talk.total && talk.incoming.got == end.given
        })
    }

    fn is_all_over(&self) -> bool {
        let talks = self.guests.talks.iter().all(|talk| talk.is_over() || talk.shaky || !talk.is_open());
        talks && !self.ends.iter().any(|end| end.is_held() && end.link.is_none())
    }

    fn describe(&self) -> String {
        let flows: Vec<_> = (0..self.ends.len()).filter(|n| self.ends[*n].link.is_none()).collect();
        let ends: Vec<_> = flows.iter().map(|n| (n, &self.ends[*n])).collect();
        format!("{:?}, {ends:?}, {:?}", self.guests.talks, self.seen)
    }
}

fn is_recent(now: Instant, shortage: Option<Instant>) -> bool {
    shortage.is_some_and(|at| now.since(at) < Duration::from_millis(150))
}
