//! What the control side asks for.

use super::{Host, HostCounters, Notice, Request, Stats, Tunnel, World, world::Control};
use crate::{
    counters::{CounterSet, Desc},
    gateway::{Counters, turns},
    time::Instant,
};

/// Work for the control side before others get their turn: whoever asks may go on asking meanwhile.
const SHARE: u64 = turns::TURN;

/// Addresses that are opened by the work of one unit.
const LEARNED: u64 = 2;

/// How much work a request is.
fn work_of<W: Control>(request: &Request<W>) -> u64 {
    match request {
        Request::Attach(_) => turns::LINK,
        Request::Tunnel(_) | Request::Expose(..) | Request::Unexpose(..) => turns::OPENING + turns::ACCEPT,
        Request::Learn(_, lesson) => turns::FRAME + lesson.weight() as u64 / LEARNED,
        Request::DnsAnswer { answer, .. } => turns::QUESTION + answer.len() as u64 / turns::STREAM,
        // What only an operator asks for.
        Request::Forwards(..)
        | Request::Cam(_)
        | Request::Leases(_)
        | Request::Stats(_)
        | Request::Alive(_)
        | Request::ReopenCapture
        | Request::HostAddresses(_)
        | Request::Control(_)
        | Request::Stop => turns::OPENING,
    }
}

impl<W: World> Host<W> {
    /// Sees to what waits, up to a turn's share; true if there may be more.
    pub(super) fn requests(&mut self, now: Instant) -> bool {
        let mut work = 0;
        while work < SHARE {
            let Some(request) = self.world.take_request() else { return false };
            work += work_of(&request);
            self.request(now, request);
        }
        true
    }

    fn request(&mut self, now: Instant, request: Request<W>) {
        match request {
            Request::Attach(attach) => self.attach(now, *attach),
            Request::Tunnel(Tunnel { mut stream, to, received }) => match self.world.unblock(&mut stream) {
                Ok(()) => {
                    self.join(now, stream, to, received);
                }
                Err(error) => self.world.tell(Notice::TunnelUnusable { to, error }),
            },
            Request::Expose(who, forward, reply) => {
                let exposed = self.expose(now, who, forward);
                self.world.reply(reply, exposed);
            }
            Request::Unexpose(who, protocol, name, reply) => {
                let closed = self.unexpose(who, protocol, &name);
                self.world.reply(reply, closed);
            }
            Request::Forwards(who, reply) => self.world.reply(reply, self.forwards.all(who)),
            Request::Cam(reply) => {
                let cam = self.gateway.addresses();
                self.world.reply(reply, cam.into_iter().map(|(mac, port)| (mac, port.to_u64())).collect());
            }
            Request::Leases(reply) => self.world.reply(reply, self.gateway.leases(now)),
            Request::Alive(reply) => self.world.reply(reply, ()),
            Request::Stats(reply) => {
                let stats = self.stats();
                self.world.reply(reply, stats);
            }
            Request::Learn(tenant, lesson) => self.gateway.policy().take(now, tenant, &lesson),
            Request::DnsAnswer { client, answer } => {
                self.gateway.handle_dns_answer(client, &answer);
            }
            Request::ReopenCapture => self.world.reopen(),
            Request::HostAddresses(own) => {
                self.gateway.policy().set_host(own);
                self.uplink += 1;
            }
            Request::Control(sockets) => {
                self.control.clone_from(&sockets);
                self.gateway.policy().set_control(sockets);
            }
            Request::Stop => self.stopped = true,
        }
    }

    fn stats(&self) -> Stats {
        fn add(stats: &mut Stats, set: &impl CounterSet, descs: &'static [Desc]) {
            set.visit(|at, value| {
                let desc = descs[at];
                let labels: String = desc.labels.iter().map(|(name, value)| format!(",{name}={value}")).collect();
                stats.push((format!("{}{labels}", desc.name), value));
            });
        }
        let counters = self.gateway.counters();
        let mut stats = Stats::new();
        // gvproxy's two: sent to guests, and received from them.
        stats.push(("BytesSent".to_owned(), counters.bytes_out));
        stats.push(("BytesReceived".to_owned(), counters.bytes_in));
        add(&mut stats, &counters, Counters::DESCS);
        add(&mut stats, &self.counters, HostCounters::DESCS);
        stats
    }
}
