//! What the control side asks for.

use super::Worker;
use crate::host::control::{Request, Stats, Tunnel};
use nitrotap_core::{counters::CounterSet, time::Instant};

/// Addresses opened in one turn; usual answers have a few.
const LEARN_TURN: usize = 2048;

/// Requests seen to before others get their turn: whoever asks may go on asking meanwhile.
const REQUESTS: usize = 256;

impl Worker {
    /// Sees to what waits, up to a turn's share; true if there may be more.
    pub(super) fn requests(&mut self, now: Instant) -> bool {
        let mut share = LEARN_TURN;
        for _ in 0..REQUESTS {
            let Some(waiting) = self.mailbox.take() else { return false };
            if let Request::Learn(_, lesson) = &waiting.request {
                share = share.saturating_sub(lesson.weight());
            }
            self.request(now, waiting.request);
            if share == 0 {
                return true;
            }
        }
        true
    }

    fn request(&mut self, now: Instant, request: Request) {
        // Whoever has asked may have gone; then the answer is for nobody.
        match request {
            Request::Attach(attach) => self.attach(now, *attach),
            Request::Tunnel(Tunnel { stream, to, received }) => match rustix::io::ioctl_fionbio(&stream, true) {
                Ok(()) => self.join(now, stream, to, received),
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
