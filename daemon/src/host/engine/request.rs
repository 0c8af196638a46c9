//! What the control side asks for.

use super::Worker;
use crate::host::control::{Request, Stats, Tunnel};
use nitrotap_core::{counters::CounterSet, gateway::turns, time::Instant};

/// Work for the control side before others get their turn: whoever asks may go on asking meanwhile.
const SHARE: u64 = turns::TURN;

/// Addresses that are opened by the work of one unit.
const LEARNED: u64 = 2;

/// How much work a request is.
fn work_of(request: &Request) -> u64 {
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

impl Worker {
    /// Sees to what waits, up to a turn's share; true if there may be more.
    pub(super) fn requests(&mut self, now: Instant) -> bool {
        let mut work = 0;
        while work < SHARE {
            let Some(waiting) = self.mailbox.take() else { return false };
            work += work_of(&waiting.request);
            self.request(now, waiting.request);
        }
        true
    }

    fn request(&mut self, now: Instant, request: Request) {
        // Whoever has asked may have gone; then the answer is for nobody.
        match request {
            Request::Attach(attach) => self.attach(now, *attach),
            Request::Tunnel(Tunnel { stream, to, received }) => match rustix::io::ioctl_fionbio(&stream, true) {
                Ok(()) => {
                    self.join(now, stream, to, received);
                }
                Err(error) => tracing::debug!(%to, %error, "a tunnel cannot be used"),
            },
            Request::Expose(who, forward, reply) => drop(reply.send(self.expose(now, who, forward))),
            Request::Unexpose(who, protocol, name, reply) => drop(reply.send(self.unexpose(who, protocol, &name))),
            Request::Forwards(who, reply) => drop(reply.send(self.forwards.all(who))),
            Request::Cam(reply) => {
                let cam = self.gateway.addresses();
                drop(reply.send(cam.into_iter().map(|(mac, port)| (mac, port.to_u64())).collect()));
            }
            Request::Leases(reply) => drop(reply.send(self.gateway.leases(now))),
            Request::Alive(reply) => drop(reply.send(())),
            Request::Stats(reply) => drop(reply.send(self.stats())),
            Request::Learn(tenant, lesson) => self.gateway.policy().take(now, tenant, &lesson),
            Request::DnsAnswer { client, answer } => {
                self.gateway.handle_dns_answer(client, &answer);
            }
            Request::ReopenCapture => {
                if let Some(capture) = &mut self.capture {
                    capture.reopen();
                }
            }
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
        fn add(stats: &mut Stats, set: &impl CounterSet, descs: &'static [nitrotap_core::counters::Desc]) {
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
        add(&mut stats, &counters, nitrotap_core::gateway::Counters::DESCS);
        add(&mut stats, &self.counters, super::EngineCounters::DESCS);
        stats
    }
}
